"""The cache folder: where each thing lies, which files the catalogue is built from, and the locks of those who write.

The layout is drawn in docs/design.md. Nothing here reads audio or features.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests import files
from tfser.manifests.errors import TfserError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds of a file that the catalogue was built from."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be a folder's name on every system.

    Raises:
        UsageError: if it is empty or holds anything but letters, digits, '.', '_' and '-'.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{kind} name {name!r}: use letters, digits, '.', '_' and '-', starting with a letter or digit")
    return name


def default_cache_root() -> Path:
    """Return `$TFSER_CACHE`, else the user's cache folder for tfser."""
    if chosen := os.environ.get("TFSER_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("tfser", appauthor=False))


class Cache:
    """Paths and locks of one cache folder. Creating the object touches nothing on disk."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root if root is not None else default_cache_root()).expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"cache {self.root}: this is a file, not a folder; name a folder with --cache or $TFSER_CACHE")

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"

    @property
    def catalogue(self) -> Path:
        """The DuckDB file: an index that may be deleted at any time."""
        return self.root / "catalogue.duckdb"

    def corpus(self, corpus: str) -> Path:
        """The folder of one corpus's rows."""
        return self.root / "corpora" / check_name("corpus", corpus)

    def corpora(self) -> list[str]:
        """Names of the corpora that have been scanned into this cache, in order."""
        names = (path.parent.name for path in self.root.glob("corpora/*/corpus.json"))
        return sorted(name for name in names if _NAME.fullmatch(name))

    @property
    def protocols(self) -> Path:
        """The folder of users' own protocols, and of what was asked for over several corpora."""
        return self.root / "protocols"

    @property
    def features(self) -> Path:
        """The folder of all feature sets."""
        return self.root / "features"

    @property
    def runs(self) -> Path:
        """The folder of all training runs."""
        return self.root / "runs"

    def sources(self) -> dict[str, Stamp]:
        """Return the stamp of every file that the catalogue is built from, keyed by its path below the root.

        This is how a catalogue knows that it is up to date: one stat a file, no file is opened.
        """
        patterns = (
            "corpora/*/*.json",
            "corpora/*/*.parquet",
            "protocols/*.json",
            "protocols/*.toml",
            "features/*/feature_set.json",
            "features/*/*/*.rows.parquet",
            "features/*/*/skipped.parquet",
            "runs/*/run.json",
        )
        found: dict[str, Stamp] = {}
        for pattern in patterns:
            for path in self.root.glob(pattern):
                relative = path.relative_to(self.root)
                if not any(part.startswith(".") for part in relative.parts):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process just now
                        status = path.stat()
                        found[relative.as_posix()] = (status.st_size, status.st_mtime_ns)
        return found

    def place(self, path: Path) -> str:
        """Return where a file lies below the root, with forward slashes: what its seal is bound to."""
        return path.relative_to(self.root).as_posix()

    def read_json(self, path: Path) -> Any:
        """Read a JSON file of this cache; see `files.read_json`."""
        return files.read_json(path, place=self.place(path))

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON object into this cache, sealed; see `files.write_json`."""
        files.write_json(path, value, place=self.place(path))

    def read_table(self, path: Path, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a Parquet file of this cache; see `files.read_table`."""
        return files.read_table(path, place=self.place(path), columns=columns)

    def write_table(self, path: Path, table: pa.Table) -> None:
        """Write a Parquet file into this cache, sealed; see `files.write_table`."""
        files.write_table(path, table, place=self.place(path))

    def check(self, path: Path) -> None:
        """Look at the seal of a Parquet file that another library reads next.

        Raises:
            DamagedError: if its content is not what was written there.
            UnreadableError: if it could not be read.
        """
        files.check_parquet(path, files.read_sealed(path, self.place(path)))

    def put_away(self, path: Path, when: str | None = None) -> Path:
        """Move a file or folder of this cache to `removed/<time>/` at the same place; return where it lies now.

        Nothing is deleted: whoever wants it back moves it back. The caller holds the lock of those who write there.

        Raises:
            TfserError: if the system does not let it be moved; it is then where it was.
        """
        when, number = when or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), 1
        target = self.root / "removed" / when / path.relative_to(self.root)
        while os.path.lexists(target):  # moved once before, and made anew meanwhile
            number += 1
            target = self.root / "removed" / f"{when}-{number}" / path.relative_to(self.root)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            files.fsync_path(target.parent)
            files.fsync_path(path.parent)
        except OSError as error:
            raise TfserError(f"{path}: cannot be moved to {target} ({error.strerror or error})") from error
        return target

    def make(self) -> None:
        """Create the folder.

        Raises:
            TfserError: if that is impossible.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TfserError(
                f"cache {self.root}: cannot be created ({error.strerror}); name another folder with --cache or $TFSER_CACHE"
            ) from error

    @contextlib.contextmanager
    def lock(self, what: str, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the named lock of this cache; the system frees it when the process dies, however that happens.

        Args:
            what: what is written, for instance `features/logmel-1a2b/emodb`.
            on_wait: called once with a sentence when somebody else holds the lock, before waiting for it.
        """
        from filelock import FileLock, Timeout

        self.make()
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        path = folder / (what.replace("/", "--") + ".lock")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                owner = path.with_suffix(".owner")
                who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
                on_wait(f"{who} is writing {what}; waiting for it")
            lock.acquire()
        try:
            with contextlib.suppress(OSError):
                path.with_suffix(".owner").write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            lock.release()
