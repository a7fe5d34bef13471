"""Where results are written: the one way of every `--output`, and how a file's name says the format.

A regular file is written aside and renamed, so that nobody sees half of one. What is no regular file is never replaced: a device
or a named pipe is written into, as a shell would, and of a symbolic link it is the target that gets the content, since
whoever made the link wants it to stay one. Folders are not made: a misspelt one would go unnoticed.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import aside


def check_output(path: Path | None) -> Path | None:
    """Return the path that is really written, before anything long is begun; None stays None.

    Raises:
        UsageError: if it is a folder, a block device or a socket, its folder is not there, or it must not be written.
    """
    if path is None:
        return None
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"--output {path}: this is a folder; name a file")
    if mode is not None and (stat.S_ISBLK(mode) or stat.S_ISSOCK(mode)):
        raise UsageError(f"--output {path}: this is a disk or a socket; name a file")
    # /dev/stdout and its like lead to whatever is open there, which has no name of its own that could be replaced.
    special = mode is not None and not stat.S_ISREG(mode)
    target = path.absolute() if special or _is_open_elsewhere(path) else path.resolve()
    if not target.parent.is_dir():
        raise UsageError(f"--output {path}: there is no folder {target.parent}; make it first, or name another")
    if mode is not None and not os.access(target, os.W_OK):
        raise UsageError(f"--output {path}: the file is there and may not be written")
    return target


def _is_open_elsewhere(path: Path) -> bool:
    where = path.absolute().as_posix()  # files in shared memory are files as any other
    return where.startswith(("/dev/", "/proc/")) and not where.startswith("/dev/shm/")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file for what `path` is to hold; a regular file is replaced when the block ends well.

    Raises:
        UsageError: as `check_output`.
        TfserError: if it cannot be written: the disk is full, the pipe's reader went away.
    """
    target = check_output(path)
    assert target is not None
    try:
        if _is_open_elsewhere(path) or (target.exists() and not target.is_file()):
            with target.open("wb") as file:
                yield file
            return
        with aside(target) as temporary:
            with temporary.open("wb") as file:
                yield file
            if target.exists():  # whoever may read the old file may read the new one, and nobody else
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    except OSError as error:
        raise TfserError(
            f"--output {path}: cannot be written ({(error.strerror or str(error)).lower()}); name another file"
        ) from error


@contextlib.contextmanager
def output_to(path: Path | None) -> Iterator[None]:
    """Send standard output to a file, as UTF-8; None leaves it where it is.

    Raises:
        UsageError, TfserError: as `writing`.
    """
    if path is None:
        yield
        return
    check_output(path)
    text = io.StringIO(newline="")
    with contextlib.redirect_stdout(text):
        yield
    with writing(path) as file:
        file.write(text.getvalue().encode(errors="backslashreplace"))


def write_parquet(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet.

    Raises:
        UsageError, TfserError: as `writing`.
    """
    import pyarrow.parquet as pq

    with writing(path) as file:
        pq.write_table(table, file, compression="zstd")


def format_of(path: Path, suffixes: Collection[str], otherwise: str = ", or say --format") -> str | None:
    """Return the format that a file's name says, without the dot; None for a device or a pipe, which has no suffix to go by.

    Args:
        path: the file.
        suffixes: that are formats, without the dot.
        otherwise: what else an error advises.

    Raises:
        UsageError: if the suffix is none of them.
    """
    suffix = path.suffix.casefold().removeprefix(".")
    if suffix in suffixes:
        return suffix
    if _is_open_elsewhere(path) or (path.exists() and not path.is_file()):
        return None
    *most, last = [f".{name}" for name in suffixes]
    known = f"{', '.join(most)} or {last}" if most else last
    said = f"the suffix {path.suffix} is no format" if path.suffix else "the name has no suffix to tell the format by"
    raise UsageError(f"--output {path}: {said}; name it {known}{otherwise}")
