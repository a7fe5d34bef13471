"""Runs that are there and cannot be read: a table without them says so, in one line.

In goes the catalogue, whose `skipped` lists them with the stage `run`. Out comes a sentence that names them and says how to look.
"""

from __future__ import annotations

from collections.abc import Callable

from tfser.manifests.catalogue import Connection, rows
from tfser.manifests.display import count

_NAMED = 3


def left_out(connection: Connection, concerns: Callable[[str], bool] = lambda run_id: True) -> str | None:
    """Return what to say of the runs that cannot be read, of those whose ids concern the reader; None if there are none."""
    found = rows(connection, "SELECT parse_filename(path) AS run_id FROM skipped WHERE stage = 'run' ORDER BY path")
    names = [row["run_id"] for row in found if concerns(row["run_id"])]
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{count(len(names), 'run')} cannot be read and {verb} left out: {', '.join(names[:_NAMED])}{more}; "
        f"`tfser sql \"SELECT path, reason FROM skipped WHERE stage = 'run'\"` says why"
    )
