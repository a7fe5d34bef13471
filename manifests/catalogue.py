"""The DuckDB catalogue: an index over the cache's files, always up to date, never in anybody's way.

The file is never written in place. `refresh` compares the stamps of the cache's files with those that the catalogue was built
from; if they differ it builds a new file aside (runs are added to a copy, everything else that changed is read again) and
renames it over the old one. Readers hold the old file open meanwhile and lose nothing. A connection attaches the file to a
database of its own: DuckDB would otherwise hand out, within one process, the file that it opened first.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests import schema
from tfser.manifests.build import (
    Connection,
    asked_file,
    asked_for,
    build,
    create,
    first_line,
    make_utterances,
    read_corpus,
)
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.files import aside, sweep, write_json
from tfser.manifests.folds import install
from tfser.manifests.own_protocols import OwnProtocol, keep_own, own_protocols
from tfser.manifests.protocols import parse

__all__ = ["Connection", "ensure_protocol", "open_catalogue", "refresh", "rows", "select", "select_arrow"]

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
        raise _CannotWriteError(f"{cache.catalogue} cannot be written ({str(error).splitlines()[0]})") from error
    return True


def _replace(cache: Cache, before: dict[str, Stamp] | None, sources: dict[str, Stamp]) -> None:
    """Build the catalogue of `sources` aside, out of the present one where that can be read, and put it in its place."""
    with aside(cache.catalogue) as temporary:
        if before is not None:
            shutil.copyfile(cache.catalogue, temporary)
        with contextlib.closing(duckdb.connect(str(temporary), config=_READABLE)) as connection:
            build(cache, connection, before or {}, sources, fresh=before is None)
        # A log left here belongs to the file that is replaced (somebody wrote to it); beside ours it would be in the way.
        cache.catalogue.with_name(cache.catalogue.name + ".wal").unlink(missing_ok=True)


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
    connection = duckdb.connect()
    try:
        connection.execute(f"ATTACH {_quote(str(path))} AS catalogue (READ_ONLY)")
        connection.execute("USE catalogue")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def open_catalogue(cache: Cache) -> Iterator[Connection]:
    """Yield a read-only connection to the up-to-date catalogue.

    If the file cannot be brought up to date (the cache is on a read-only or full disk) or another program holds it open for
    writing, the connection is to a private copy built from the cache's files instead, so that nobody waits.

    Raises:
        TfserError: if there is no such cache.
    """
    if not cache.root.is_dir():
        raise TfserError(
            f"no cache at {cache.root}; fill one with `tfser extract --corpus NAME`, or name another with --cache"
        )
    try:
        refresh(cache)
        connection = _attach(cache.catalogue)
    except (_CannotWriteError, duckdb.Error):
        connection = duckdb.connect()
        build(cache, connection, {}, cache.sources(), fresh=True)
    with contextlib.closing(connection):
        connection.execute("SET enable_progress_bar = false")
        yield connection


_COMMENT = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_EXPLAIN = re.compile(_COMMENT + r"EXPLAIN\b\s*(?:ANALY[ZS]E\b|\(\s*(?:ANALY[ZS]E|FORMAT)\b[^)]*\))?", re.I | re.S)
_PIVOT = re.compile(_COMMENT + r"(?:PIVOT|WITH|FROM|SELECT)\b", re.I | re.S)
_PRAGMA = re.compile(
    _COMMENT + r"PRAGMA\s+(?:table_info|show|show_tables|show_tables_expanded|database_size|database_list|storage_info"
    r"|version)\b",
    re.I | re.S,
)


def select(connection: Connection, query: str) -> Connection:
    """Run one reading statement.

    Raises:
        UsageError: if the text is empty, holds several statements, or one that writes, or if DuckDB refuses it; the message
            is then DuckDB's own.
    """
    with _only_reading(query):
        return connection.execute(query)


def select_arrow(connection: Connection, query: str) -> Any:
    """Run one reading statement and return its result as an Arrow table.

    Raises:
        UsageError: as `select`.
    """
    with _only_reading(query):
        return connection.sql(query).to_arrow_table()


@contextlib.contextmanager
def _only_reading(query: str) -> Iterator[None]:
    """Refuse a statement that writes before it is run, and turn DuckDB's errors into ours."""
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1:
            raise UsageError(f"SQL: give one statement, not {len(statements)}")
        kind = _writes(query, statements[0].type.name)
        if kind is not None:
            raise UsageError(f"SQL: only statements that read are run here, not {kind}; the cache is not edited by SQL")
        yield
    except duckdb.Error as error:
        raise UsageError(f"SQL: {first_line(error)}") from error


def _writes(query: str, kind: str) -> str | None:
    """Return what kind of writing statement this is, None for one that reads."""
    if kind == "SELECT" or (kind == "MULTI" and _PIVOT.match(query)) or (kind == "PRAGMA" and _PRAGMA.match(query)):
        return None
    if kind == "EXPLAIN" and (start := _EXPLAIN.match(query)):  # with ANALYZE, what it explains is run
        inner = duckdb.extract_statements(query[start.end() :])
        if len(inner) == 1:
            return _writes(query[start.end() :], inner[0].type.name)
    return kind


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
    with contextlib.closing(duckdb.connect()) as trial:  # say what is wrong before anything is written
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
    result = connection.execute(query, list(parameters))
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
