"""Folders of object stores and other machines, through fsspec: `s3://`, `gs://`, `memory://` and whatever else it knows.

What comes in: a URL. What goes out: listings, and files fetched or put whole. Nothing here assumes that a rename, or a write, is
whole at once there: who has to know whether a file is whole compares its size, and its content. What fails for a time is tried
again after a while, then named in one line. Local files are written aside and renamed.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.files import aside

T = TypeVar("T")

WAITS = (0.5, 2.0, 8.0)
"""Seconds before each further try of what failed."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")

_STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
"""What stores say of a file that changes with its content; the first that is there counts."""

_LOCAL = ("file", "local")
"""Schemes of this machine's own folders."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class RemoteError(TfserError):
    """A store of files elsewhere did not answer, or refused, more often than it is asked."""


def as_url(place: Path | str) -> str | None:
    """Return the URL that a path of the command line means; None for a path of this machine.

    >>> as_url(Path("s3://bucket/corpora/emodb")), as_url("/data/emodb"), as_url("C:/data"), as_url("memory://a")
    ('s3://bucket/corpora/emodb', None, None, 'memory://a')
    >>> as_url("file:///data/emodb"), as_url(Path("file:///data/emodb"))
    ('file:///data/emodb', 'file:///data/emodb')
    """
    found = _URL.fullmatch(str(place))
    if found is None or (isinstance(place, Path) and place.exists()):
        return None
    scheme = found[1].lower()
    # A folder of this machine has no host before it: without the third slash it would lie below the working folder.
    return f"{scheme}://{'/' if scheme in _LOCAL else ''}{found[2].rstrip('/')}"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a listing."""

    name: str
    """Its path below the folder that was listed, with forward slashes."""
    size: int
    stamp: str
    """What changes when its content does, as far as the store says: an ETag, a checksum, a time; nothing where it says none."""


class RemoteFolder:
    """A folder of a store.

    Args:
        url: of the folder, which need not be there yet.
        sleep: waits so many seconds before a further try.

    Raises:
        UsageError: nothing that is installed knows such URLs.
    """

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url, self._sleep = url, sleep
        scheme = url.partition("://")[0]
        try:
            import fsspec

            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(scheme)
            way_out = f"pip install 'tfser[{extra}]'" if extra else "see fsspec's list of file systems"
            raise UsageError(f"{url}: nothing here reads {scheme}:// ({first_line(error)}); {way_out}") from error
        self._root = self._root.rstrip("/")

    def listing(self, below: str = "") -> dict[str, RemoteFile]:
        """Return all files of the folder, or of one below it, by their names; nothing where there is no such folder.

        Raises:
            RemoteError: the store does not answer.
        """
        top = f"{self._root}/{below}".rstrip("/")

        def find() -> dict[str, Any]:
            self._files.invalidate_cache()
            found: dict[str, Any] = self._files.find(top, detail=True)
            return found

        try:
            found = self._tried("listed", below, find)
        except FileNotFoundError:
            return {}
        names: dict[str, RemoteFile] = {}
        for path, about in found.items():
            name = path[len(self._root) :].lstrip("/")
            if not name or name.endswith("/"):  # marks an empty folder in stores that have none; no file of anybody's
                continue
            stamp = next((str(about[key]) for key in _STAMPS if key in about), "")
            names[name] = RemoteFile(name=name, size=int(about.get("size") or 0), stamp=stamp)
        return names

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            RemoteError: it cannot be read.
        """
        try:
            content: bytes = self._tried("read", name, lambda: self._files.cat_file(self._at(name)))
        except FileNotFoundError as error:
            raise RemoteError(f"{self.url}/{name}: is not there") from error
        return content

    def fetch(self, name: str, to: Path, check: Callable[[Path], None] | None = None) -> None:
        """Copy a file to this machine, whole or not at all.

        Args:
            name: of the file.
            to: where; what stands there is replaced.
            check: looks at the copy before it counts, and raises what is wrong with it.

        Raises:
            RemoteError: it cannot be read.
        """

        def get() -> None:
            with aside(to) as temporary:
                self._files.get_file(self._at(name), str(temporary))
                if check is not None:
                    check(temporary)

        self._tried("fetched", name, get, to.parent)

    def put(self, source: Path, name: str) -> None:
        """Copy a file of this machine to the store.

        Raises:
            RemoteError: it cannot be written.
        """
        self._tried("written", name, lambda: self._put(source, name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file to the store.

        Raises:
            RemoteError: it cannot be written.
        """

        def pipe() -> None:
            self._files.makedirs(self._parent(name), exist_ok=True)
            self._files.pipe_file(self._at(name), content)

        self._tried("written", name, pipe)

    def _put(self, source: Path, name: str) -> None:
        self._files.makedirs(self._parent(name), exist_ok=True)
        self._files.put_file(str(source), self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _parent(self, name: str) -> str:
        return self._at(str(PurePosixPath(name).parent)).removesuffix("/.")

    def _tried(self, what: str, name: str, action: Callable[[], T], disk: Path | None = None) -> T:
        """Do something, and again after a while if it fails: stores and networks are away for seconds.

        Args:
            what: is done to the file, for errors.
            name: of the file.
            action: does it.
            disk: a folder of this machine that it writes to; None: it writes to the store, if anywhere.

        Raises:
            FileNotFoundError: there is no such file; it is not asked for again.
            RemoteError: it fails each time, or there is no room, which nobody makes within seconds.
        """
        for wait in (*WAITS, None):
            try:
                return action()
            except (FileNotFoundError, TfserError):
                raise
            except Exception as error:  # each store's library has errors of its own
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    full = disk or f"{self.url}/{name}"
                    raise RemoteError(f"the disk is full at {full}; make room and run the same command again") from error
                # Who may not read now may not read in a second either.
                if wait is None or isinstance(error, PermissionError):
                    where = f"{self.url}/{name}".rstrip("/")
                    tries = "" if wait is not None else f", {len(WAITS) + 1} times"
                    why = f"{type(error).__name__}: {first_line(error)}"
                    raise RemoteError(f"{where}: could not be {what}{tries} ({why})") from error
                self._sleep(wait)
        raise AssertionError("a last try either returns or raises")
