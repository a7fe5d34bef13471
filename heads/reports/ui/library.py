"""What the pages of `tfser ui` read from: one cache, and which folders sound may come from.

In goes a cache; out come connections to its catalogue, each for one request: read-only, closed to files and settings
(`tfser.manifests.catalogue.reading`), and ended when a user's own question takes too long or the program stops. A cache that is
written at the same time is read as it was when the request came. Nothing is written but the catalogue, which every command keeps
up to date.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.errors import TfserError, UsageError

PATIENCE_S = 20.0
"""How long a statement that a user wrote may keep the catalogue busy; the pages' own questions end by themselves."""


class Library:
    """A cache as its pages read it; safe to be used from several threads.

    Attributes:
        cache: the cache.
        folders: beside the corpora's own, where sound may come from.
        drawing: to be held while a figure is drawn: Matplotlib's settings are the whole process's.
    """

    def __init__(self, cache: Cache, folders: tuple[Path, ...] = (), patience_s: float = PATIENCE_S) -> None:
        self.cache, self.folders, self.drawing = cache, folders, threading.Lock()
        self._patience_s = patience_s
        self._open: set[Connection] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reading(self, *, is_limited: bool = False) -> Iterator[Connection]:
        """Yield a connection to the catalogue as it is now.

        Args:
            is_limited: end what takes longer than this library's patience: for statements that a user wrote.

        Raises:
            UsageError: There is no such cache, or what was asked took too long and was ended.
        """
        late = threading.Event()
        with open_catalogue(self.cache) as connection:

            def end() -> None:
                late.set()
                connection.interrupt()

            timer = threading.Timer(self._patience_s, end)
            timer.daemon = True
            if is_limited:
                timer.start()
            with self._lock:
                self._open.add(connection)
            try:
                yield connection
            except (TfserError, duckdb.InterruptException) as error:
                if late.is_set():
                    raise UsageError(f"this took longer than {self._patience_s:g} s and was ended; ask for less") from error
                raise
            finally:
                timer.cancel()
                with self._lock:
                    self._open.discard(connection)

    def stop(self) -> None:
        """End whatever is being asked, so that the program can end."""
        with self._lock:
            for connection in self._open:
                connection.interrupt()
