"""Writing files so that nobody ever sees half of one: aside, fsync, rename, fsync of the folder.

A process killed at any moment leaves either the old file, or the new one, and at most a hidden `.tmp` beside it, which the next
writer of that folder sweeps away.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests.errors import TfserError

if TYPE_CHECKING:
    import pyarrow as pa


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


def sweep(folder: Path, *, older_than_s: float = 0.0) -> int:
    """Remove the temporary files that killed writers left in `folder`; return how many.

    Call it while holding the lock of that folder's writers, or with an age that no live writer reaches.
    """
    removed = 0
    if folder.is_dir():
        limit = time.time() - older_than_s
        for path in folder.iterdir():
            if path.name.startswith(".") and path.name.endswith((".tmp", ".tmp.wal")):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= limit:
                        path.unlink()
                        removed += 1
    return removed


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, aside and renamed."""
    with aside(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, aside and renamed."""
    with aside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file that tfser wrote.

    Raises:
        TfserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TfserError(f"{path}: cannot be read ({error})") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as Parquet, aside and renamed."""
    import pyarrow.parquet as pq

    with aside(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
