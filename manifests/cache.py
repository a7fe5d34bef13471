"""The cache folder: where each thing lies, which files the catalogue is built from, and the locks of those who write.

The layout is drawn in docs/design.md. Nothing here reads audio or features.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tfser.manifests.errors import TfserError, UsageError

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

    def require(self) -> Cache:
        """Return this cache if it is one: commands that only read make nothing in a folder that is none.

        Raises:
            UsageError: if there is no such folder, or it is none that tfser filled.
        """
        parts = ("corpora", "features", "runs", "protocols")
        if self.catalogue.is_file() or any((self.root / part).is_dir() for part in parts):
            return self
        what = "the folder holds none of what a cache does" if self.root.is_dir() else "there is no such folder"
        raise UsageError(
            f"no cache at {self.root} ({what}); fill one with `tfser extract --corpus NAME`, or name another with --cache"
        )

    def make(self) -> None:
        """Create the folder, with the one in it by which `require` knows a cache.

        Raises:
            TfserError: if that is impossible.
        """
        try:
            (self.root / "corpora").mkdir(parents=True, exist_ok=True)
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
        except OSError as error:  # of a disk without locks, which names no file
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
        try:
            with contextlib.suppress(OSError):
                path.with_suffix(".owner").write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            lock.release()
