"""How rows get into the catalogue, and how it is noted what it does without.

In: Arrow tables, and files of the cache that are damaged or cannot be read. Out: rows of the catalogue's tables, and of
`skipped`. Here no file is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tfser.manifests.cache import Cache
from tfser.manifests.connections import Connection
from tfser.manifests.errors import FileError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa


@contextlib.contextmanager
def registered(connection: Connection, table: pa.Table) -> Iterator[None]:
    """Let SQL read an Arrow table under the name `incoming`.

    DuckDB is never handed a path: it would read the file a second time, after its seal was looked at, and take a cache whose
    path has `[` or `*` for a pattern.
    """
    connection.register("incoming", table)
    try:
        yield
    finally:
        connection.unregister("incoming")


def insert(connection: Connection, table: str, rows: pa.Table) -> None:
    """Insert the rows of an Arrow table into a table, by column name; where there are none, DuckDB is not asked."""
    if not rows.num_rows:
        return
    with registered(connection, rows):
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")


class LeftOut:
    """Notes in `skipped` what of the cache's files the catalogue does without, so that every command can say so.

    `again` are those that could not be read just now: their stamps are not kept, so that the next refresh tries them again.
    """

    def __init__(self, cache: Cache, connection: Connection) -> None:
        self._cache, self._connection = cache, connection
        self.again: set[str] = set()

    def note(self, stage: str, corpus: str | None, path: Path, error: FileError) -> None:
        """Note one file."""
        place = self._cache.place(path)
        if isinstance(error, UnreadableError):
            self.again |= {place}
        self._connection.execute(
            "INSERT INTO skipped BY NAME SELECT ? AS corpus, NULL AS utterance_id, ? AS path, ? AS stage, ? AS reason",
            [corpus, place, stage, error.seen_from(path)],
        )
