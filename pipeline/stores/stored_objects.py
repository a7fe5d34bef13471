"""Objects of a store: files that are named by the SHA-256 of their content, fetched and compared with it.

What comes in: an entry of a commit, which says of a place in a cache what lies there. What goes out: the file, whole or not at
all. Nothing here decides what is wanted, and nothing of a cache is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfser.manifests.files import sha256_of
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder

OBJECTS = "objects"
"""The folder of a store that has them."""

Entry = Mapping[str, Any]
"""What a commit says of a file: `sha256` and `size`."""


@dataclass(kw_only=True)
class Moved:
    """What a push or pull did, in files: moved now, there before, and (of a pull) kept since they differ here.

    `runs` counts those whose files are among these; `passed` says which runs took no part, each with the reason, and
    `other_scans` which files a pull left, since this cache has another scan of their corpus. `names_kept` are names that
    mean other experiments here.
    """

    moved: int = 0
    bytes: int = 0
    before: int = 0
    runs: int = 0
    kept: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    other_scans: list[str] = field(default_factory=list)
    names_kept: list[str] = field(default_factory=list)


def object_name(digest: str) -> str:
    """Return the name of an object below a store's folder.

    >>> object_name("ab12")
    'objects/ab/ab12'
    """
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def fetch_object(remote: RemoteFolder, entry: Entry, path: Path, place: str, done: Moved) -> None:
    """Fetch the file that an entry names, compared with its SHA-256 before it counts.

    Args:
        remote: from.
        entry: of a commit.
        path: where it goes.
        place: what it is in a cache, for errors.
        done: is counted in.

    Raises:
        RemoteError: the store does not answer, or the object is gone or is not what its name says.
    """
    name = object_name(str(entry["sha256"]))

    def check(copy: Path) -> None:
        if sha256_of(copy) != entry["sha256"]:
            raise RemoteError(f"{remote.url}/{name}: is not what was pushed as {place}; push it again")

    try:
        remote.fetch(name, path, check)
    except FileNotFoundError as error:
        raise RemoteError(f"{remote.url}/{name}: is gone, and was {place}; push it again") from error
    done.moved, done.bytes = done.moved + 1, done.bytes + int(entry["size"])
