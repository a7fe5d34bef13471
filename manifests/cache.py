"""The cache folder: where each thing lies, which files the catalogue is built from, and the locks of those who write.

The layout is drawn in docs/design.md. Nothing here reads audio or features.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfser.manifests import files
from tfser.manifests.errors import CannotWriteError, TfserError, UnknownContentError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Verify = Literal["once", "never"]

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


AGAIN, BEFORE = ".again", ".before"
"""How the folders are called, after the run's id and hidden, in which a run is trained again, and the old one goes meanwhile."""

PULLED = ".pulled"
"""The same of the folder into which a run is fetched from a store."""


def run_of(name: str) -> str:
    """Return the id of the run that a folder below runs/ is of, also where it is trained again beside the old one, or fetched.

    >>> run_of("logreg-f1-s0"), run_of(".logreg-f1-s0.again"), run_of(".logreg-f1-s0.pulled")
    ('logreg-f1-s0', 'logreg-f1-s0', 'logreg-f1-s0')
    """
    return name[1:].removesuffix(AGAIN).removesuffix(BEFORE).removesuffix(PULLED) if name.startswith(".") else name


_PARTS = ("corpora", "locks")
"""The folders that every cache has from the beginning."""


class Cache:
    """Paths and locks of one cache folder. Creating the object touches nothing on disk.

    `verify` says when frames are compared with their checksums: once, when a process first reads them, or never.
    """

    def __init__(self, root: Path | None = None, *, verify: Verify = "once") -> None:
        self.verify: Verify = verify
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

    def broken_corpora(self) -> list[str]:
        """Names of the corpora whose rows are there without the file that says what they are, in order."""
        names = {path.parent.name for path in self.root.glob("corpora/[!.]*/utterances.parquet")}
        return sorted(name for name in names - set(self.corpora()) if _NAME.fullmatch(name))

    @property
    def protocols(self) -> Path:
        """The folder of users' own protocols, and of what was asked for over several corpora."""
        return self.root / "protocols"

    @property
    def feature_root(self) -> Path:
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
        # Sizes and times alone: this runs in every command, and a cache has tens of thousands of files.
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
        stamps: dict[str, Stamp] = {}
        for pattern in patterns:
            for path in self.root.glob(pattern):
                relative = path.relative_to(self.root)
                if not any(part.startswith(".") for part in relative.parts):
                    with contextlib.suppress(OSError):  # removed by another process just now, or a link in a circle
                        status = path.stat()
                        stamps[relative.as_posix()] = (status.st_size, status.st_mtime_ns)
        return stamps

    def require(self) -> Cache:
        """Return this cache if it is one: commands that only read make nothing in a folder that is none.

        Raises:
            UsageError: if there is no such folder, or it is none that tfser filled.
        """
        if self.is_one():
            return self
        what = "the folder holds none of what a cache does" if self.root.is_dir() else "there is no such folder"
        raise UsageError(
            f"no cache at {self.root} ({what}); fill one with `tfser extract --corpus NAME`, or name another with --cache"
        )

    def place(self, path: Path) -> str:
        """Return where a file lies below the root, with forward slashes: what its seal is bound to."""
        return path.relative_to(self.root).as_posix()

    def read_json(self, path: Path) -> Any:
        """Read a JSON file of this cache; see `files.read_json`."""
        return files.read_json(path, place=self.place(path))

    def read_object(self, path: Path, keys: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
        """Read a JSON object of this cache that has at least certain keys.

        Args:
            path: the file.
            keys: the names that must be there, and of which type their values are.

        Raises:
            DamagedError: if its content is not what was written there.
            UnreadableError: if it could not be read, or another version's program wrote something else there.
        """
        value = self.read_json(path)
        if not isinstance(value, dict):
            raise UnknownContentError("cannot be understood (it holds no JSON object)", at=path)
        for key, kind in keys.items():
            if key not in value:
                raise UnknownContentError(f"cannot be understood (it has no {key!r})", at=path)
            if not isinstance(value[key], kind):
                raise UnknownContentError(f"cannot be understood ({key!r} is {str(value[key])[:40]!r})", at=path)
        return value

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

    def is_one(self) -> bool:
        """Tell whether the folder is a cache: as `make` leaves one, or with some file in it as only tfser puts it."""
        if all((self.root / part).is_dir() for part in _PARTS):
            return True
        patterns = (
            *("corpora/*/corpus.json", "corpora/*/utterances.parquet", "features/*/feature_set.json", "runs/*/run.json"),
            *("features/*/*/*.rows.parquet", "catalogue.duckdb", "locks/*.lock", "protocols/asked.json"),
        )
        return any(next(iter(self.root.glob(pattern)), None) is not None for pattern in patterns)

    @property
    def removed(self) -> Path:
        """Where what was damaged is moved to, by the time of the removal and the place that it had."""
        return self.root / "removed"

    def put_away(self, path: Path, when: str | None = None) -> Path:
        """Move a file or folder of this cache to `removed/<time>/<its place>`, a link as the link; return where it is now.

        Args:
            path: what to move; call this while holding the lock of those who write it.
            when: the folder below `removed`; the present time by default.

        Raises:
            CannotWriteError: if it cannot be moved; it is then where it was.
        """
        when = when or datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        target = self.removed / when / self.place(path)
        number = 1
        while os.path.lexists(target):  # moved once before, and made anew meanwhile
            number += 1
            target = self.removed / f"{when}-{number}" / self.place(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)  # noqa: PTH104 - within one file system, or not at all
        except OSError as error:
            raise CannotWriteError(f"{path}: cannot be moved to {target.parent} ({error.strerror or error})") from error
        return target

    def beside(self, folder: Path) -> Cache:
        """Return a cache in `folder` whose runs and catalogue are its own, and whose rows and features are this one's.

        For a cache that cannot be written, as on a lab's shared disk. Features are reached through a link; rows and protocols are
        copied, so that protocols can be asked for that this cache does not know, and brought up to date when they changed.

        Raises:
            UsageError: if this is no cache, or the folder has features that are not this cache's.
            CannotWriteError: if the folder cannot be written.
        """
        self.require()
        other = Cache(folder, verify=self.verify)
        if other.root == self.root:
            return self
        other.make()
        try:
            # Features are linked, since they are large and read only; rows are copied, so that the folder can
            # be read where this one is gone.
            if not os.path.lexists(other.feature_root):
                other.feature_root.symlink_to(self.feature_root)
            elif not other.feature_root.is_symlink() or other.feature_root.resolve() != self.feature_root.resolve():
                raise UsageError(f"--runs {folder}: this folder has features that are not those of {self.root}; name another")
            with other.lock("corpora"):
                for path in (p for pattern in ("corpora/*/*", "protocols/*.toml") for p in sorted(self.root.glob(pattern))):
                    copy = other.root / self.place(path)
                    asked = path.name == "protocols.json" and copy.exists()  # what was asked for there stays
                    if not path.name.startswith(".") and not asked and not _is_copy(path, copy):
                        # Asked before it is read: what is exchanged meanwhile must not look like a copy of what came after.
                        of = path.stat()
                        files.write_bytes(copy, files.read_bytes(path))
                        copy.chmod(stat.S_IMODE(of.st_mode))
                        os.utime(copy, ns=(of.st_atime_ns, of.st_mtime_ns))
        except OSError as error:
            raise CannotWriteError(f"--runs {folder}: cannot be written ({(error.strerror or str(error)).lower()})") from error
        return other

    def make(self) -> None:
        """Create the folder, with those in it by which `is_one` knows a cache.

        Raises:
            CannotWriteError: if that is impossible.
        """
        try:
            for part in _PARTS:
                (self.root / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if self.is_one():  # one without locks, that was copied or made by an older version, where nothing can be written
                raise CannotWriteError(f"cache {self.root}: {_why_no_lock(error)}") from error
            raise CannotWriteError(
                f"cache {self.root}: cannot be created ({error.strerror}); name another folder with --cache or $TFSER_CACHE"
            ) from error

    @contextlib.contextmanager
    def lock(self, what: str, on_wait: Callable[[str], None] | None = None, *, or_refuse: str | None = None) -> Iterator[None]:
        """Hold the named lock of this cache; the system frees it when the process dies, however that happens.

        Args:
            what: what is written, for instance `features/logmel-1a2b/emodb`.
            on_wait: called once with a sentence when somebody else holds the lock, before waiting for it.
            or_refuse: the way out in the error that is raised instead of waiting; None: wait.

        Raises:
            TfserError: if somebody else holds it, and nobody is to wait.
            CannotWriteError: if the disk is read-only or full, or knows no file locks.
        """
        from filelock import FileLock, Timeout

        self.make()
        folder = self.root / "locks"
        path = folder / (what.replace("/", "--") + ".lock")
        # Tried without waiting first: whoever has to wait says so and for whom, or does other work.
        try:
            folder.mkdir(exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                owner = path.with_suffix(".owner")
                who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
                if or_refuse is not None:
                    raise TfserError(f"{who} is writing {what}; {or_refuse}") from None
                if on_wait is not None:
                    on_wait(f"{who} is writing {what}; waiting for it")
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # the latter is how filelock says that there are no locks
            raise CannotWriteError(f"cache {self.root}: {_why_no_lock(error)}") from error
        # The owner is for people alone: a lock that nobody holds counts whatever is written there.
        try:
            with contextlib.suppress(OSError):
                path.with_suffix(".owner").write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            lock.release()

    def writers_of(self, path: Path) -> str:
        """Return the name of the lock of those who write a file or folder of the cache, see docs/design.md."""
        parts = path.relative_to(self.root).parts
        if parts[0] == "protocols":
            return "protocols/asked"
        if parts[0].removeprefix(".").startswith("names."):
            return "names"
        if parts[0] == "corpora" and len(parts) == 3:  # files of one folder that different commands write
            name = parts[2].removeprefix(".")
            area = "fingerprints" if name.startswith(("fingerprints.", "near_duplicates.")) else "corpora"
            return f"{'protocols' if name.startswith('protocols.') else area}/{parts[1]}"
        folders = parts if path.is_dir() and not path.is_symlink() else parts[:-1]
        if parts[0] == "runs" and len(folders) > 1:  # a run that is trained again beside the old one has the run's lock
            return f"runs/{run_of(folders[1])}"
        depth = {"features": 3, "corpora": 2}.get(parts[0], 1)
        return "/".join(folders[:depth]) or "catalogue"

    def sweep(self, folder: Path, held: str) -> None:
        """Remove what killed writers left in a folder, under the lock `held`; what holders of other locks are writing stays."""
        files.sweep(folder, keep=lambda path: (lock := self.writers_of(path)) != held and self.is_locked(lock))

    def is_locked(self, what: str) -> bool:
        """Tell whether another writer holds a lock just now; nothing is written for it."""
        from filelock import FileLock, Timeout

        path = self.root / "locks" / (what.replace("/", "--") + ".lock")
        if not path.exists():
            return False
        try:
            with FileLock(path).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # read-only, or no locks: nobody writes here from this machine
            return False


def _is_copy(path: Path, copy: Path) -> bool:
    """Tell whether a copy is there that is as old and as large as what it is of."""
    if not copy.exists():
        return False
    a, b = path.stat(), copy.stat()
    return (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def _why_no_lock(error: OSError | NotImplementedError) -> str:
    """Say why the cache's locks cannot be had, and the way out."""
    number = error.errno if isinstance(error, OSError) else errno.ENOSYS
    if number in _NO_LOCKS:
        return (
            "its disk knows no file locks, without which two writers would spoil each other's files; what is there can be read, "
            "to write choose a folder on another disk with --cache or $TFSER_CACHE"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room and run the same command again"
    reason = os.strerror(number).lower() if number else str(error)
    return (
        f"cannot be written ({reason}); what is there can be read: keep runs elsewhere with --runs DIR, or choose another folder "
        "with --cache or $TFSER_CACHE"
    )
