"""The DuckDB catalogue: an index over the cache's files, always up to date, never in anybody's way.

The file is never written in place. `refresh` compares the stamps of the cache's files with those that the catalogue was built
from; if they differ it builds a new file aside (runs are added to a copy, everything else that changed is read again) and
renames it over the old one. Readers hold the old file open meanwhile and lose nothing. Behind its end, where DuckDB does not
look, stands its seal: a catalogue that does not fit it is built anew, before anything is shown of it. A connection attaches the
file to a database of its own: DuckDB would otherwise hand out, within one process, the file that it opened first. While a
command runs it is opened once for each state that it has (`keeping`).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests import seals
from tfser.manifests.cache import Cache, Stamp
from tfser.manifests.catalogue import schema
from tfser.manifests.catalogue.build import asked_file, build, create, insert_corpora
from tfser.manifests.catalogue.keeping import again
from tfser.manifests.catalogue.stored import asked_protocols, read_corpus
from tfser.manifests.catalogue.views import AUDITED_VIEWS
from tfser.manifests.connections import (
    NOTHING_LOADED,
    Connection,
    Settings,
    duckdb_path,
    interruptibly,
    lock_down,
    open_memory,
    quote,
    quote_name,
    threads_asked,
)
from tfser.manifests.errors import (
    CannotWriteError,
    DamagedError,
    MissingFileError,
    TfserError,
    UnreadableError,
    UsageError,
    first_line,
    unknown,
)
from tfser.manifests.files import aside, opened
from tfser.manifests.notes import note
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import OwnProtocol, keep_own, own_protocols
from tfser.manifests.wording import listed

__all__ = ["Connection", "ensure_protocol", "open_catalogue", "refresh", "refresh_if_possible", "rows"]

_SMALL = 1 << 26
"""Bytes of a catalogue that a command keeps open."""

_TRIES = 5
"""How often a catalogue is begun anew when files go away while it is built."""


_READABLE: Settings = {"storage_compatibility_version": "v1.2.0"}
"""The file can be opened by any `duckdb` shell from this version on, not by the newest alone."""


_HEADERS, _BLOCK = 3 * 4096, 1 << 18
"""How DuckDB lays a file out, in bytes."""

_WHOLE: dict[tuple[str, int, int, int], bytes] = {}
"""The seals that this process has looked at, by the catalogue's path, inode, size and time."""

_BUILT: dict[bytes, dict[str, Stamp]] = {}
"""What catalogues of this version were built from, by their seal: every command asks several times."""

_LACKING: dict[tuple[str, int, int, int], list[tuple[str, str]]] = {}
"""What catalogues do without, by path and reason, of the files that this process has asked: every command opens several times."""

_EMPTY: dict[int, bytes] = {}
"""The file of a catalogue of nothing, by version: to bind its views is most of the work of a small one; done once a process."""

_COPYING = threading.Lock()
"""Held by the thread that makes what others copy."""


def refresh(cache: Cache, *, rebuild: bool = False) -> bool:
    """Bring the catalogue up to date with the cache's files; return whether anything had changed.

    Args:
        cache: the cache.
        rebuild: build it from nothing, whatever stands there.

    Raises:
        CannotWriteError: if the catalogue cannot be written.
    """
    # Asked before the lock, so that readers of a current catalogue never wait, and again within it: who waited
    # finds it built.
    if not rebuild and _built_from(cache) == cache.sources():
        return False
    try:
        with cache.lock("catalogue"):
            before = None if rebuild else _built_from(cache)
            if before == cache.sources():
                return False
            cache.sweep(cache.root, "catalogue")
            built: dict[str, Stamp] = {}
            seal = b""
            # Files may vanish while they are read (a run that is removed, a shard that is made anew): then the
            # list is taken again, and only a state that stands still is an error.
            for again in reversed(range(_TRIES)):
                sources = cache.sources()
                try:
                    built, seal = _replace(cache, before, sources)
                    break
                except (TfserError, FileNotFoundError):
                    if not again or cache.sources() == sources:  # not somebody who removes files just now
                        raise
                    time.sleep(0.05)
            # Nobody else writes it while the lock is held: this process need not ask the file what it has just put there.
            _WHOLE[_stamp(cache.catalogue, cache.catalogue.stat())] = seal
            _BUILT[seal] = built
    except (OSError, duckdb.Error) as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else first_line(error)
        way_out = "what it is an index of is safe; make room, or see who may write there, and run the same command again"
        raise CannotWriteError(f"{cache.catalogue} cannot be written ({reason}); {way_out}") from error
    return True


def refresh_if_possible(cache: Cache) -> None:
    """Bring the catalogue up to date at the end of a command, whatever became of it.

    That it cannot be written (a full or read-only disk) hides no error of the command: the next one tries again, or does without.
    """
    with contextlib.suppress(CannotWriteError):
        refresh(cache)


def _replace(cache: Cache, before: dict[str, Stamp] | None, sources: dict[str, Stamp]) -> tuple[dict[str, Stamp], bytes]:
    """Build the catalogue of `sources` aside, out of the present one where that can be read, and put it in its place.

    Returns what it was built from, which is those of `sources` that could be read, and its seal.
    """
    fresh = before is None
    with aside(cache.catalogue) as temporary, _writable(temporary) as file:
        if fresh:
            file.write_bytes(_empty(file))
        else:
            shutil.copyfile(cache.catalogue, file)
            os.truncate(file, file.stat().st_size - len(seals.EMPTY))
        with _in_workshop(duckdb_path(file)) as connection:
            built = interruptibly(
                connection, lambda: build(cache, connection, before or {}, sources, fresh=fresh, is_created=True)
            )
        seal = seals.seal_file(file, cache.place(cache.catalogue))
        # A log left here belongs to the file that is replaced (somebody wrote to it); beside ours it would be in the way.
        cache.catalogue.with_name(cache.catalogue.name + ".wal").unlink(missing_ok=True)
    return built, seal


def _empty(file: Path) -> bytes:
    """Return the content of a catalogue of nothing; made in a file that is free, unless this process has made one before."""
    if schema.VERSION not in _EMPTY:
        with _in_workshop(duckdb_path(file)) as connection:
            create(connection)
        _EMPTY[schema.VERSION] = file.read_bytes()
    return _EMPTY[schema.VERSION]


@functools.cache
def _workshop(process: int) -> Connection:
    """Return the database in which a process builds its catalogues: to start one is dearer than to fill a small file."""
    connection = duckdb.connect(config=NOTHING_LOADED | _READABLE | threads_asked())
    atexit.register(connection.close)  # takes away what it had put on the disk for want of memory, however the process ends
    return connection


@contextlib.contextmanager
def _in_workshop(path: str) -> Iterator[Connection]:
    """Yield a connection to a file of a catalogue, which is whole and nobody's in the end, or to one in `:memory:`."""
    with contextlib.closing(_workshop(os.getpid()).cursor()) as keeper:
        name = f"catalogue_{secrets.token_hex(6)}"
        keeper.execute(f"ATTACH {quote(path)} AS {name}")
        try:
            with contextlib.closing(keeper.cursor()) as connection:
                connection.execute(f"USE {name}")
                yield connection
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # whatever happened comes first, Ctrl-C above all
                keeper.execute(f"DETACH {name}")
            raise
        keeper.execute(f"DETACH {name}")


def copy_audited(connection: Connection) -> None:
    """Fill an empty database with what protocols and audits read, empty; made once in a DuckDB and copied from then on."""
    made = "SELECT 1 FROM duckdb_databases() WHERE database_name = 'audited_nothing'"
    with _COPYING:
        if not connection.execute(made).fetchone():
            with contextlib.closing(connection.cursor()) as beside:
                beside.execute("ATTACH ':memory:' AS audited_nothing")
                beside.execute("USE audited_nothing")
                create(beside, AUDITED_VIEWS)
    name = connection.execute("SELECT current_database()").fetchall()[0][0]
    connection.execute(f"COPY FROM DATABASE audited_nothing TO {quote_name(name)}")


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


def check_catalogue(cache: Cache, *, is_remembered: bool = True) -> bool:
    """Look at the catalogue's seal; return False if there is no catalogue, or one without a seal: an older version's.

    Args:
        cache: the cache.
        is_remembered: do not read the file again that this process has looked at before.

    Raises:
        DamagedError: if its content is not what was written there.
        UnreadableError: if it could not be read.
    """
    try:
        with opened(cache.catalogue) as file:
            status = os.fstat(file.fileno())
            stamp = _stamp(cache.catalogue, status)
            if stamp not in _WHOLE or not is_remembered:
                seal = seals.sealed_digits(file, cache.place(cache.catalogue), str(cache.catalogue))
                if not seal:
                    # An older version's has none, but is a row of whole blocks.
                    if file.read(12)[8:] != b"DUCK" or (status.st_size - _HEADERS) % _BLOCK:
                        raise DamagedError("is no catalogue, or not all of one", at=cache.catalogue)
                    return False
                _WHOLE[stamp] = seal
    except MissingFileError:
        return False
    return True


def _stamp(path: Path, status: os.stat_result) -> tuple[str, int, int, int]:
    """Return what tells a file from any other that stood at its path."""
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def _built_from(cache: Cache) -> dict[str, Stamp] | None:
    """Return the stamps that the catalogue was built from; None if there is none that this version can read, and is whole."""
    try:
        # Asked before the file is read: whoever puts another in its place meanwhile gives that one another stamp.
        try:
            stamp = _stamp(cache.catalogue, cache.catalogue.stat())
        except OSError:
            return None
        if not check_catalogue(cache):
            return None
        # Another stamp than that which was checked belongs to a file that was put there just now: ask that one.
        seal = _WHOLE.get(stamp, b"")
        if seal not in _BUILT:
            with contextlib.closing(_shown(cache)) as connection:
                version = connection.execute("SELECT version FROM meta").fetchone()
                if version != (schema.VERSION,):
                    return None
                found = {p: (size, mtime) for p, size, mtime in connection.execute("FROM sources").fetchall()}
            if not seal:
                return found
            _BUILT[seal] = found
        return dict(_BUILT[seal])
    except DamagedError as error:
        note(f"{error}; it is an index, and is built anew")
    except (UnreadableError, OSError, duckdb.Error):
        pass
    return None


def _left_out(connection: Connection) -> list[tuple[str, str]]:
    """Return which files of the cache a catalogue does without, and why."""
    return connection.execute(
        "SELECT path, reason FROM skipped WHERE stage "
        "IN ('corpus', 'annotations', 'protocols', 'near-duplicates', 'features', 'run') "
        "ORDER BY path, reason"
    ).fetchall()


def _note_left_out(cache: Cache, lacking: list[tuple[str, str]]) -> None:
    """Say in one line which files of the cache the catalogue does without."""
    if lacking:
        named = listed([f"{path} ({reason})" for path, reason in lacking], 3)
        note(f"left out of {cache.root}: {named}; `tfser cache verify` says what to do")


def _shown(cache: Cache) -> Connection:
    """Return a connection to the file as it is now: read-only, and closed to all else."""

    def begin() -> Connection:
        connection = open_memory()
        try:
            connection.execute(f"ATTACH {quote(duckdb_path(cache.catalogue))} AS catalogue (READ_ONLY)")
            lock_down(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    status = cache.catalogue.stat()
    # A large one is not held: a training may need the memory in which DuckDB keeps what it has read.
    connection = again(_stamp(cache.catalogue, status), begin) if status.st_size <= _SMALL else begin()
    connection.execute("USE catalogue")
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
    stamp = None
    try:
        refresh(cache)
        # Asked before the file is opened: if another one is put there meanwhile, nobody meets this stamp again.
        stamp = _stamp(cache.catalogue, cache.catalogue.stat())
        connection = _shown(cache)
    except (CannotWriteError, OSError, duckdb.Error):
        stamp = None  # a copy of our own stands for no file
        connection = open_memory()
        interruptibly(connection, lambda: build(cache, connection, {}, cache.sources(), fresh=True))
        lock_down(connection)
    with contextlib.closing(connection):
        lacking = _LACKING[stamp] if stamp in _LACKING else _left_out(connection)
        if stamp is not None:
            _LACKING[stamp] = lacking
        _note_left_out(cache, lacking)
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
                if name in cache.corpora():
                    read_corpus(cache, name)  # says what keeps it out of the catalogue
                raise unknown("corpus", name, cache.corpora())
        known = "SELECT 1 FROM protocols WHERE protocol = ? AND corpora = ?"
        if connection.execute(known, [protocol.name, corpus]).fetchone():
            return protocol.name
    with _in_workshop(":memory:") as trial:  # say what is wrong before anything is written
        copy_audited(trial)
        insert_corpora(trial, [read_corpus(cache, name) for name in corpora])
        install(trial, corpus, protocol)
    # The user's file first, then that it was asked for: a kill between the two leaves a copy that nobody names,
    # and never a name without a file.
    if own is not None:
        keep_own(cache, own)
    with cache.lock(f"protocols/{corpus if len(corpora) == 1 else 'asked'}"):
        path = asked_file(cache, corpus)
        try:
            asked = asked_protocols(cache, path)
        except DamagedError as error:
            note(f"{error}; it is moved to {cache.put_away(path).parent}, and begun anew")
            asked = []
        if protocol.name not in asked:
            cache.write_json(path, {"protocols": [*asked, protocol.name]})
    refresh(cache)
    return protocol.name


def rows(connection: Connection, query: str, parameters: Iterable[Any] = ()) -> list[dict[str, Any]]:
    """Run a query of tfser's own and return its rows as dictionaries."""

    def ask() -> list[dict[str, Any]]:
        result = connection.execute(query, list(parameters))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    return interruptibly(connection, ask)
