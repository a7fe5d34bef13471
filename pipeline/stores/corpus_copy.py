"""A corpus that lies elsewhere: its files are copied once, and again where they changed, and read from here.

What comes in: the URL of a folder. What goes out: a folder of the cache with the same files, which is scanned and extracted
like any other. A file counts as the same while the store gives it the same size and stamp; one that is there no more is
taken out of the copy. Files are fetched by a few threads, each written aside and renamed, so that an interrupted copy goes
on where it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, UsageError
from tfser.manifests.files import sweep
from tfser.manifests.wording import count, size
from tfser.pipeline.scanning.source import Source
from tfser.pipeline.stores.remote import RemoteError, RemoteFile, RemoteFolder, as_url

COPIES = "copies"
"""The folder of a cache that has them."""

INDEX = "index.json"
"""What a copy was made of: size and stamp of each file; beside the files, not among them."""

_THREADS = 8
_KEEP_EVERY = 500  # files after which it is written down what is there


def with_copy(cache: Cache, source: Source, tell: Callable[[str], None]) -> Source:
    """Return a source whose root is on this machine: its own, or a copy of what its URL names, brought up to date.

    Raises:
        UsageError: nothing here knows such URLs, or the table is elsewhere.
        RemoteError: the store does not answer, or has no such folder.
    """
    if source.table is not None and as_url(source.table) is not None:
        raise UsageError(f"--table {as_url(source.table)}: fetch the table first; only --root may be elsewhere")
    url = None if source.root is None else as_url(source.root)
    return source if url is None else replace(source, root=copied(cache, RemoteFolder(url), tell))


def copied(cache: Cache, remote: RemoteFolder, tell: Callable[[str], None]) -> Path:
    """Bring the copy of a folder up to date; return where it is.

    Raises:
        RemoteError: the store does not answer, or has no such folder.
        TfserError: a name there cannot be one here.
    """
    cache.make()
    last = re.sub(r"[^A-Za-z0-9._-]", "-", PurePosixPath(remote.url).name) or "root"
    name = f"{last}-{hashlib.sha256(remote.url.encode()).hexdigest()[:12]}"
    place = cache.root / COPIES / name
    with cache.lock(f"{COPIES}/{name}", tell):
        there = remote.listing()
        if not there:
            raise RemoteError(f"{remote.url}: there is no such folder, or nothing in it")
        _check_names(there, remote.url)
        known = _known(cache, place / INDEX)
        files = place / "files"
        for gone in known.keys() - there.keys():
            (files / gone).unlink(missing_ok=True)
            del known[gone]
        here = {of.name for of in there.values() if known.get(of.name) == [of.size, of.stamp] and (files / of.name).is_file()}
        stale = [of for of in there.values() if of.name not in here]
        if stale:
            tell(f"{remote.url}: copying {count(len(stale), 'file')} of {len(there):,}, {size(sum(of.size for of in stale))}")
        _fetch_all(cache, remote, place, stale, known)
    return files


def _fetch_all(cache: Cache, remote: RemoteFolder, place: Path, stale: list[RemoteFile], known: dict[str, list[object]]) -> None:
    """Fetch files, and write down which are there, also when a fetch fails."""

    def fetch(of: RemoteFile) -> RemoteFile:
        target = place / "files" / of.name
        sweep(target.parent, older_than_s=3600)

        def whole(copy: Path) -> None:
            if copy.stat().st_size != of.size:
                raise OSError(f"{copy.stat().st_size} of {of.size} bytes came")

        remote.fetch(of.name, target, whole)
        return of

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            for number, of in enumerate(pool.map(fetch, stale), start=1):
                known[of.name] = [of.size, of.stamp]
                if number % _KEEP_EVERY == 0:
                    cache.write_json(place / INDEX, {"files": known})
    finally:
        cache.write_json(place / INDEX, {"files": known})


def _known(cache: Cache, path: Path) -> dict[str, list[object]]:
    """Return what a copy holds by its own account; nothing where that cannot be read: then all is fetched again."""
    try:
        found = cache.read_json(path)
    except (DamagedError, UnreadableError):
        return {}
    files = found.get("files") if isinstance(found, dict) else None
    return dict(files) if isinstance(files, dict) else {}


def _check_names(there: dict[str, RemoteFile], url: str) -> None:
    """Refuse names that would leave the folder, or that only a store without folders can have side by side.

    Raises:
        TfserError: there is one.
    """
    for name in there:
        if both := [str(above) for above in PurePosixPath(name).parents if str(above) in there]:
            raise TfserError(f"{url}: {both[0]!r} is a file and the folder of {name!r}, which cannot be here; rename one there")
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name or "\\" in name:
            raise TfserError(f"{url}: a file is called {name!r}, which cannot be a file's name here; rename it there")
