"""What is asked of a training, before anything is settled: the dataclasses that the command line and TOML files fill.

`Training` is what all runs of a command share: `tfser train`, `ablate`, `sweep` and `reproduce` take it as it is and hand it
on to each `Request`. An option that every training knows is one field here, and acts where
`tfser.heads.runs.experiment.resolve` reads it. What only one head, or only a sweep, can be asked is a field of `OneHead` or
of `tfser.heads.runs.plan.SweepRequest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from tfser.manifests.options import Option
from tfser.manifests.splits.choose import Split


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training can be asked, whatever its head."""

    panel: ClassVar[str] = "Training"
    folds: Annotated[
        str, Option("A fold, a list (1,3), a range (2-4), or all.", flag="--fold", metavar="N", numbers=True)
    ] = "all"
    epochs: Annotated[int | None, Option("Instead of the recipe's number.", minimum=1)] = None
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ...")] = "auto"
    stack: Annotated[
        bool, Option("On a GPU: train folds and seeds of one experiment together; runs of their own.", negative=True)
    ] = False
    allow_leaks: Annotated[bool, Option("Train a fold in which the audit finds leaks; the run says so.")] = False
    allow_gaps: Annotated[bool, Option("Train a fold that lacks something (a class, features); the run says so.")] = False
    again: Annotated[bool, Option("Train again what is finished; the old run stays until then.")] = False


@dataclass(frozen=True, kw_only=True)
class OneHead(Training, Split):
    """What one head is asked, whatever its variant; None is left to be chosen."""

    panel: ClassVar[str] = "Head"
    head: Annotated[str, Option("What to train; see `tfser heads`.", metavar="NAME")]
    recipe: Annotated[str | None, Option("Way of training.", metavar="NAME")] = None
    settings: Annotated[
        Mapping[str, str], Option("Change a setting of the recipe or of the preset.", flag="--set", metavar="KEY=VALUE")
    ] = field(default_factory=dict)
    width: Annotated[
        int | None, Option("Width of the network, for heads that have one (tf_mamba).", metavar="D", minimum=1)
    ] = None
    seed: Annotated[int, Option("Random seed.", minimum=0, maximum=2**63 - 1)] = 0


@dataclass(frozen=True, kw_only=True)
class Request(OneHead):
    """What was asked of one experiment; None is left to be chosen."""

    panel: ClassVar[str] = "Head"
    preset: Annotated[str | None, Option("Variant of the architecture.", metavar="NAME")] = None
    features: str | None = None
    """One feature set; commands that take several make a request of each."""
