"""Writing files so that nobody ever sees half of one: aside, fsync, rename, fsync of the folder.

A process killed at any moment leaves either the old file, or the new one, and at most a hidden `.tmp` beside it, which the next
writer of that folder sweeps away.

Files of a cache are sealed (see `seals`) and read through this file, which keeps two things apart: bytes that were read and are
not what was written (`DamagedError`), and whatever kept a file from being read (`UnreadableError`), which says nothing about it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests import seals
from tfser.manifests.errors import DamagedError, MissingFileError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa


_ASIDE = re.compile(r"\..+\.\d+-[0-9a-f]+\.tmp(\.wal)?")


def now() -> str:
    """Return the time as files note it: in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk (folders: where the system allows it)."""
    if path.is_dir() and sys.platform == "win32":  # Windows has no handle for a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure removed.

    The caller must have closed the temporary file when the block ends.
    """
    # Beside and not in a temporary folder: only within one file system is a rename whole. The folder is fsynced
    # too, since a rename that is not on the disk is undone by a power cut.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    except BaseException as error:
        for leftover in (temporary, temporary.with_name(f"{temporary.name}.wal")):  # DuckDB writes a log beside its file
            leftover.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a write that fails names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_left_over(name: str) -> bool:
    """Tell whether a file has the name of those that `aside` writes: after a kill, it stays.

    >>> is_left_over(".run.json.4711-0a1b2c3d.tmp"), is_left_over(".notes.tmp")
    (True, False)
    """
    return _ASIDE.fullmatch(name) is not None


def sweep(folder: Path, *, older_than_s: float = 0.0, keep: Callable[[Path], bool] = lambda path: False) -> int:
    """Remove the temporary files that killed writers left in `folder`, but for those to `keep`; return how many.

    Call it while holding the lock of that folder's writers, or with an age that no live writer reaches.
    """
    removed = 0
    if folder.is_dir():
        limit = time.time() - older_than_s
        for path in folder.iterdir():
            if is_left_over(path.name) and not keep(path):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= limit:
                        path.unlink()
                        removed += 1
    return removed


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of the cache, read at once; errors as of `opened`."""
    with opened(path) as file:
        return file.read()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in parts; errors as of `opened`."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Yield a file of the cache, open for reading; what goes wrong meanwhile says whether it is the file's fault.

    Raises:
        DamagedError: if what lies there is no file at all but, for instance, a folder or a named pipe.
        MissingFileError: if nothing is there.
        UnreadableError: if the system does not let it be read now; that says nothing about the file.
    """
    try:
        # Without O_NONBLOCK, to open a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedError(f"{kind_of(path)} lies where a file was written", at=path)
            yield file
    except FileNotFoundError as error:
        if path.is_symlink():  # the file behind the link may be away for a while: a disk that is not mounted
            raise UnreadableError(f"could not be read (a link to {path.readlink()}, which is not there)", at=path) from error
        raise MissingFileError("is missing", at=path) from error
    except IsADirectoryError as error:
        raise DamagedError("a folder lies where a file was written", at=path) from error
    except (OSError, MemoryError) as error:
        raise could_not_read(path, error) from error


def kind_of(path: Path) -> str:
    """Return in words what lies at a path that should be a file."""
    mode = path.stat().st_mode
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for test, words in kinds if test(mode)), "a device")


def could_not_read(path: Path, error: BaseException) -> UnreadableError:
    """Return the error for a file that could not be read, with the system's or the library's reason in one line."""
    reason = error.strerror if isinstance(error, OSError) else None
    reason = reason or ("not enough memory" if isinstance(error, MemoryError) else " ".join(str(error).split()))
    return UnreadableError(f"could not be read ({reason or type(error).__name__})", at=path)


def read_sealed(path: Path, place: str | None) -> bytes:
    """Return the content of a file of the cache after a look at its seal.

    Args:
        path: the file.
        place: where it lies below the cache's root; None for files outside a cache, which have no seal.

    Raises:
        DamagedError: if the content is not what was written there.
        UnreadableError: if it could not be read.
    """
    content = read_bytes(path)
    if place is not None:
        seals.is_sealed(content, place, str(path))
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, aside and renamed."""
    with aside(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any, *, place: str | None = None) -> None:
    """Write `value` as indented UTF-8 JSON, aside and renamed.

    Args:
        path: the file.
        value: what JSON can hold; an object if it is sealed.
        place: where the file lies below its cache's root: it is then sealed.
    """
    shown = value if place is None else {**{k: v for k, v in value.items() if k != seals.KEY}, seals.KEY: seals.EMPTY}
    content = (json.dumps(shown, indent=2, ensure_ascii=False) + "\n").encode()
    write_bytes(path, content if place is None else seals.sealed(content, place))


def read_json(path: Path, *, place: str | None = None) -> Any:
    """Read a JSON file that tfser wrote; the seal is looked at and left out.

    Args:
        path: the file.
        place: where it lies below its cache's root; None for a file that has no seal.

    Raises:
        DamagedError: if its content is not what was written there, or is no JSON.
        UnreadableError: if it could not be read, or is missing (`MissingFileError`).
    """
    content = read_sealed(path, place)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # a sealed file that fits is always JSON: these bytes were never written
        raise DamagedError(f"is no JSON ({error})", at=path) from error
    if place is not None and isinstance(value, dict):
        value.pop(seals.KEY, None)
    return value


def write_table(path: Path, table: pa.Table, *, place: str | None = None) -> None:
    """Write an Arrow table as Parquet, aside and renamed, and sealed where a place below a cache's root is given."""
    import pyarrow.parquet as pq

    with aside(path) as temporary:
        with pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
            writer.write_table(table)
            if place is not None:
                writer.add_key_value_metadata({seals.KEY: seals.EMPTY})
        if place is not None:
            temporary.write_bytes(seals.sealed(temporary.read_bytes(), place))


def read_table(path: Path, *, place: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file that tfser wrote; its seal is looked at first.

    Raises:
        DamagedError: if its content is not what was written there, or is no Parquet at all.
        UnreadableError: if it could not be read, is missing (`MissingFileError`), or cannot be understood.
    """
    content = read_sealed(path, place)
    check_parquet(path, content)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Not by `pq.read_table`, which imports Arrow's datasets, and pandas where that is installed: half a second a command.
        table = pq.ParquetFile(pa.BufferReader(content)).read(columns=list(columns) if columns is not None else None)
        return table if columns is None else table.select(list(columns))
    except Exception as error:  # whatever the library raises, or its import for want of memory, says nothing about the file
        raise could_not_read(path, error) from error


def check_parquet(path: Path, content: bytes) -> None:
    """Refuse bytes that cannot be a Parquet file; what a file without a seal shows of damage at once.

    Raises:
        DamagedError: if the marks at both ends are not there, or the footer between them has no room.
    """
    footer = int.from_bytes(content[-8:-4], "little")
    if content[:4] != b"PAR1" or content[-4:] != b"PAR1" or not 0 < footer <= len(content) - 12:
        raise DamagedError("is no Parquet file, or not all of one", at=path)
