"""The DuckDB catalogue: an index over the cache's files, always up to date, never in anybody's way.

The file is never written in place. `refresh` compares the stamps of the cache's files with those that the catalogue was built
from; if they differ it builds a new file aside (runs are added to a copy, everything else that changed is read again) and
renames it over the old one. Readers hold the old file open meanwhile and lose nothing. A connection attaches the file to a
database of its own: DuckDB would otherwise hand out, within one process, the file that it opened first.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests import schema
from tfser.manifests.build import (
    asked_file,
    asked_for,
    build,
    create,
    make_utterances,
    read_corpus,
)
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.connections import Connection, duckdb_path, interruptibly, lock_down, open_memory, quote
from tfser.manifests.errors import TfserError, UsageError, first_line, unknown
from tfser.manifests.files import aside, sweep, write_json
from tfser.manifests.folds import install
from tfser.manifests.own_protocols import OwnProtocol, keep_own, own_protocols
from tfser.manifests.protocols import parse

__all__ = ["Connection", "ensure_protocol", "open_catalogue", "refresh", "rows"]

_TRIES = 5
"""How often a catalogue is begun anew when files go away while it is built."""


_READABLE: dict[str, str | bool | int | float | list[str]] = {"storage_compatibility_version": "v1.2.0"}
"""The file can be opened by any `duckdb` shell from this version on, not by the newest alone."""


class _CannotWriteError(TfserError):
    """The catalogue's file cannot be written; its content could still be built elsewhere."""


def refresh(cache: Cache, *, rebuild: bool = False) -> bool:
    """Bring the catalogue up to date with the cache's files; return whether anything had changed.

    Args:
        cache: the cache.
        rebuild: build it from nothing, whatever stands there.

    Raises:
        TfserError: if a file of the cache cannot be read, or the catalogue cannot be written.
    """
    if not rebuild and _built_from(cache.catalogue) == cache.sources():
        return False
    try:
        with cache.lock("catalogue"):
            before = None if rebuild else _built_from(cache.catalogue)
            if before == cache.sources():
                return False
            sweep(cache.root)
            for again in reversed(range(_TRIES)):
                sources = cache.sources()
                try:
                    _replace(cache, before, sources)
                    break
                except (TfserError, FileNotFoundError):
                    if not again or cache.sources() == sources:  # not somebody who removes files just now
                        raise
                    time.sleep(0.05)
    except (OSError, duckdb.Error) as error:
        raise _CannotWriteError(f"{cache.catalogue} cannot be written ({first_line(error)})") from error
    return True


def _replace(cache: Cache, before: dict[str, Stamp] | None, sources: dict[str, Stamp]) -> None:
    """Build the catalogue of `sources` aside, out of the present one where that can be read, and put it in its place."""
    with aside(cache.catalogue) as temporary, _writable(temporary) as file:
        if before is not None:
            shutil.copyfile(cache.catalogue, file)
        with contextlib.closing(duckdb.connect(duckdb_path(file), config=_READABLE)) as connection:
            interruptibly(connection, lambda: build(cache, connection, before or {}, sources, fresh=before is None))
        # A log left here belongs to the file that is replaced (somebody wrote to it); beside ours it would be in the way.
        cache.catalogue.with_name(cache.catalogue.name + ".wal").unlink(missing_ok=True)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[Path]:
    """Yield a path where DuckDB can write what `path` is to hold: another one if it has a `?`, before which DuckDB would put
    the `.wal` of its log's name."""
    if "?" not in str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tfser-") as folder:
        file = Path(folder) / "catalogue.duckdb"
        yield file
        shutil.copyfile(file, path)


def _built_from(path: Path) -> dict[str, Stamp] | None:
    """Return the stamps that a catalogue was built from; None if there is none that this version can read."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(_attach(path)) as connection:
            version = connection.execute("SELECT version FROM meta").fetchone()
            if version != (schema.VERSION,):
                return None
            return {p: (size, mtime) for p, size, mtime in connection.execute("FROM sources").fetchall()}
    except duckdb.Error:
        return None


def _attach(path: Path) -> Connection:
    """Return a connection to the file as it is now, read-only."""
    connection = open_memory()
    try:
        connection.execute(f"ATTACH {quote(duckdb_path(path))} AS catalogue (READ_ONLY)")
        connection.execute("USE catalogue")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_catalogue(cache: Cache) -> Iterator[Connection]:
    """Yield a connection to the up-to-date catalogue: read-only, and closed to files, the network and settings.

    If the file cannot be brought up to date (the cache is on a read-only or full disk) or another program holds it open for
    writing, the connection is to a private copy built from the cache's files instead, so that nobody waits.

    Raises:
        UsageError: if there is no such cache; nothing is made in a folder that is none.
    """
    cache.require()
    try:
        refresh(cache)
        connection = _attach(cache.catalogue)
    except (_CannotWriteError, duckdb.Error):
        connection = open_memory()
        interruptibly(connection, lambda: build(cache, connection, {}, cache.sources(), fresh=True))
    with contextlib.closing(connection):
        lock_down(connection)
        yield connection


def ensure_protocol(cache: Cache, corpus: str, spec: str, *, own: OwnProtocol | None = None) -> str:
    """Make sure that the catalogue holds a protocol's rows for a corpus; return the protocol's canonical name.

    Args:
        cache: the cache.
        corpus: the corpus; of a protocol that names its corpora, what it names (`protocols.corpora`).
        spec: the protocol.
        own: the user's own protocol that the specification names, if the cache may not hold it yet.

    Raises:
        UsageError: if the specification is off or meant for another corpus.
        TfserError: if a corpus is not in the cache, or its rows cannot fill the protocol.
    """
    protocol = parse(spec, own_protocols(cache) | ({own.protocol.name: own.protocol} if own else {}))
    if protocol.over and corpus != protocol.corpus:
        raise UsageError(f"protocol {protocol.name} is for {protocol.corpus}, not for {corpus}")
    corpora = list(protocol.over or (corpus,))
    with open_catalogue(cache) as connection:
        for name in corpora:
            if not connection.execute("SELECT 1 FROM corpora WHERE corpus = ?", [name]).fetchone():
                raise unknown("corpus", name, cache.corpora())
        known = "SELECT 1 FROM protocols WHERE protocol = ? AND corpora = ?"
        if connection.execute(known, [protocol.name, corpus]).fetchone():
            return protocol.name
    with contextlib.closing(open_memory()) as trial:  # say what is wrong before anything is written
        create(trial)
        make_utterances(trial, [cache.corpus(name) / "utterances.parquet" for name in corpora])
        for name in corpora:
            read_corpus(cache, trial, name)
        install(trial, corpus, protocol)
    if own is not None:
        keep_own(cache, own)
    with cache.lock(f"protocols/{corpus if len(corpora) == 1 else 'asked'}"):
        asked = asked_for(cache, corpus)
        if protocol.name not in asked:
            write_json(asked_file(cache, corpus), [*asked, protocol.name])
    refresh(cache)
    return protocol.name


def rows(connection: Connection, query: str, parameters: Iterable[Any] = ()) -> list[dict[str, Any]]:
    """Run a query of tfser's own and return its rows as dictionaries."""

    def ask() -> list[dict[str, Any]]:
        result = connection.execute(query, list(parameters))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    return interruptibly(connection, ask)
