"""What commands that train show of their runs, as options: which scores, how the table is printed, or only the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tfser.manifests.commands.printing import PrintingTables
from tfser.manifests.options import Option

Selection = Annotated[str, Option("Whose scores: last, val, test-oracle or one of the recipe's.", panel="Output and cache")]
"""Of commands that show one score of each run."""


@dataclass(frozen=True, kw_only=True)
class Showing(PrintingTables):
    """What is shown of many runs."""

    selection: Selection = "last"
    dry_run: Annotated[bool, Option("Print what could run, what it may cost, and why something cannot; train nothing.")] = False
