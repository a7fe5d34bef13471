"""How long a catalogue stays open that a command has opened: until the command ends, or the file is another one.

To start a DuckDB takes longer than most of what is asked of it, and a training opens the same catalogue fifteen times. What comes
in: what opens a catalogue, and the stamp of its file. What goes out: a connection of its own for each who asks, to the one
database. Only the thread that runs the command is served so: a server's threads open and close for themselves. No file is
opened here, and no connection outlives the command.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the program's help comes by here, and needs no DuckDB
    from duckdb import DuckDBPyConnection

_KEPT: dict[Hashable, DuckDBPyConnection] = {}
"""The catalogue that was opened last, by the stamp of its file."""

_KEEPERS: list[tuple[int, int]] = []
"""Who keeps it open: a process and its thread, since a process that was forked off has none of a database's own threads."""


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Within, a catalogue that this thread opens again is not opened anew; in the end it is closed."""
    if _KEEPERS:  # a command within a command, or beside one: who came first keeps
        yield
        return
    _KEEPERS.append(_here())
    try:
        yield
    finally:
        _KEEPERS.clear()
        for connection in _KEPT.values():
            connection.close()
        _KEPT.clear()


def again(stamp: Hashable, begin: Callable[[], DuckDBPyConnection]) -> DuckDBPyConnection:
    """Return a connection to the catalogue of a stamp, which the caller closes; `begin` opens it where nobody has."""
    if _here() not in _KEEPERS:
        return begin()
    if stamp not in _KEPT:
        opened = begin()
        _KEPT.clear()  # of another file: who still reads it holds its database by a connection of his own
        _KEPT[stamp] = opened
    return _KEPT[stamp].cursor()


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()
