"""Features and corpora's rows to a store elsewhere and back: `tfser cache push` and `pull`.

What comes in: a cache and a folder of a store. What goes out: the same files at the other end. There, a file is an object
named by the SHA-256 of its content, so that nothing is ever written over and two who push at once do no harm; a commit,
written last, says which place in a cache each object has. What no commit names does not count, however much of it is there:
no rename is needed. Commits are counted, and no clock is asked. Here, each file is fetched aside, compared with its SHA-256
and renamed, shards before the rows that make them count.

A file that counts in this cache is never replaced: frames count by content hash, so what is whole here stays, and what differs
is named. A shard without rows, which a killed writer left, does not count; and to a corpus that was scanned here otherwise
nothing is added, since files of two scans do not belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError, first_line, unknown
from tfser.manifests.files import sha256_of
from tfser.pipeline.shards.rows import ROWS_SUFFIX, rows_path
from tfser.pipeline.shards.writer import SUFFIXES
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder

OBJECTS, COMMITS = "objects", "commits"

FORMAT = 1
"""Of commits; raise it when an older version could not read them."""

_CORPUS_FILES = ("corpus.json", "utterances.parquet", "skipped.parquet", "annotations.parquet")


@dataclass(kw_only=True)
class Moved:
    """What a push or pull did, in files: moved now, there before, and (of a pull) kept since they differ here, or passed over
    since this cache has another scan of their corpus."""

    moved: int = 0
    bytes: int = 0
    before: int = 0
    kept: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def shared_files(cache: Cache, features: str | None, corpus: str | None) -> list[Path]:
    """Return the files of a cache that are shared, those that make others count last.

    Args:
        cache: the cache.
        features: only this feature set, by the name in its description; None: all.
        corpus: only this corpus; None: all.

    Raises:
        UsageError: there is no such feature set or corpus.
    """
    if corpus is not None and corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    corpora = [corpus] if corpus is not None else cache.corpora()
    sets = {path.parent: str(cache.read_json(path)["name"]) for path in sorted(cache.feature_root.glob("*/feature_set.json"))}
    chosen = [folder for folder, name in sets.items() if features in (None, name)]
    if features is not None and not chosen:
        raise unknown("feature set", features, sorted(set(sets.values())))
    found = [cache.corpus(name) / file for name in corpora for file in reversed(_CORPUS_FILES)]
    for folder in chosen:
        found.append(folder / "feature_set.json")
        for name in corpora:
            mine = [path for path in sorted((folder / name).glob("[!.]*")) if path.is_file()]
            found += sorted(mine, key=lambda path: path.name.endswith(ROWS_SUFFIX))
    return [path for path in found if path.is_file()]


def push(
    cache: Cache,
    remote: RemoteFolder,
    *,
    features: str | None = None,
    corpus: str | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Moved:
    """Copy what the store lacks of a cache, then write the commit that makes it count.

    Args:
        cache: from.
        remote: to.
        features, corpus: as `shared_files` has them.
        advance: told (files done, of) as it goes.

    Raises:
        UsageError: there is no such feature set or corpus, or nothing to share.
        RemoteError: the store does not answer; nothing of this push counts then.
    """
    paths = shared_files(cache.require(), features, corpus)
    if not paths:
        raise UsageError(f"{cache.root} has nothing to push: no corpus was scanned yet")
    there = {name: of.size for name, of in remote.listing(OBJECTS).items()}
    done, entries = Moved(), {}
    for number, path in enumerate(paths, start=1):
        digest, size = sha256_of(path), path.stat().st_size
        entries[cache.place(path)] = {"sha256": digest, "size": size}
        # One of the right name and another size is what an interrupted write has left.
        if there.get(_object(digest)) == size:
            done.before += 1
        else:
            remote.put(path, _object(digest))
            done.moved, done.bytes = done.moved + 1, done.bytes + size
        if advance is not None:
            advance(number, len(paths))
    # All of it is looked at once more: the commit vouches for what lies there, not for what was sent.
    there = {name: of.size for name, of in remote.listing(OBJECTS).items()}
    lacking = [place for place, of in entries.items() if there.get(_object(str(of["sha256"]))) != of["size"]]
    if lacking:
        raise RemoteError(f"{remote.url}: {lacking[0]} was written and is not there whole; nothing was committed, push again")
    before = _commits(remote)
    if before and before[-1]["files"] == entries:
        return done
    number = 1 + max((of["number"] for of in before), default=0)
    content = json.dumps({"format": FORMAT, "number": number, "files": entries}, sort_keys=True, indent=0).encode()
    remote.write(f"{COMMITS}/{hashlib.sha256(content).hexdigest()}.json", content)
    return done


def _commits(remote: RemoteFolder) -> list[dict[str, Any]]:
    """Return the commits of a store in their order: by number, and of two that were written at once by name.

    Raises:
        RemoteError: one cannot be read.
        TfserError: another version wrote one.
    """
    found = []
    for name in sorted(name for name in remote.listing(COMMITS) if name.endswith(".json")):
        content = remote.read(name)
        # A commit's name is its content's: one that is cut off, or being written, is none yet.
        if hashlib.sha256(content).hexdigest() == PurePosixPath(name).stem:
            found.append(_read_commit(content, f"{remote.url}/{name}"))
    return sorted(found, key=lambda of: int(of["number"]))


def _read_commit(content: bytes, called: str) -> dict[str, Any]:
    """Return a commit; its name says that it is whole, and nothing of who wrote it.

    Raises:
        TfserError: it is none, another version wrote it, or it names a place that no cache has.
    """
    try:
        commit: dict[str, Any] = json.loads(content)
        if commit["format"] != FORMAT:
            raise TfserError(f"{called}: written by another version of tfser (format {commit['format']!r})")
        int(commit["number"])
        for place, of in commit["files"].items():
            parts = PurePosixPath(place).parts
            if len(parts) < 3 or parts[0] not in ("corpora", "features") or any(part.startswith(".") for part in parts):
                raise TfserError(f"{called}: names the place {place!r}, which no cache has")
            bytes.fromhex(of["sha256"])
            int(of["size"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TfserError(f"{called}: is no commit of `tfser cache push` ({first_line(error)}); remove it there") from error
    return commit


def committed(remote: RemoteFolder) -> dict[str, list[Mapping[str, Any]]]:
    """Return what the commits of a store name: for each place in a cache the contents that it has had, the newest last.

    Raises:
        RemoteError: there are none, or one cannot be read.
        TfserError: another version wrote one.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for commit in _commits(remote):
        files: dict[str, Mapping[str, Any]] = commit["files"]
        # A corpus's files belong together: what an older scan had beside them is not mixed with those of a newer one.
        scanned = {str(PurePosixPath(place).parent) for place in files if place.startswith("corpora/")}
        for place in [place for place in found if str(PurePosixPath(place).parent) in scanned and place not in files]:
            del found[place]
        for place, of in files.items():
            contents = found.setdefault(place, [])
            found[place] = [*(before for before in contents if before != of), of]
    if not found:
        raise RemoteError(f"{remote.url}: nothing was committed there; `tfser cache push {remote.url}` does")
    return found


def pull(
    cache: Cache,
    remote: RemoteFolder,
    *,
    features: str | None = None,
    corpus: str | None = None,
    advance: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Moved:
    """Copy what a cache lacks of what a store's commits name; arguments are those of `push`, and who is told of waiting.

    Raises:
        UsageError: nothing there is of that feature set or corpus.
        RemoteError: the store does not answer, or an object is not what its name says; what came until then stays.
    """
    named = committed(remote)
    wanted = _wanted(remote, named, features, corpus)
    cache.make()
    done, number = Moved(), 0
    for lock, places in _by_lock(cache, wanted):
        with cache.lock(lock, on_wait):
            is_other = lock.startswith("corpora/") and _is_other_scan(cache, lock, named)
            for place in places:
                number += 1
                if is_other and not (cache.root / place).exists():
                    done.passed.append(place)
                else:
                    _pull_file(cache, remote, place, named[place], done)
                if advance is not None:
                    advance(number, len(wanted))
    return done


def _pull_file(cache: Cache, remote: RemoteFolder, place: str, contents: list[Mapping[str, Any]], done: Moved) -> None:
    """Fetch a file that is not here, or that a killed writer left; whatever counts here stays."""
    path = cache.root / place
    if path.exists():
        if sha256_of(path) in {of["sha256"] for of in contents}:
            done.before += 1
            return
        if not _is_unfinished(path):
            done.kept.append(place)
            return
    wanted = contents[-1]

    def check(copy: Path) -> None:
        if sha256_of(copy) != wanted["sha256"]:
            raise RemoteError(f"{remote.url}/{_object(wanted['sha256'])}: is not what was pushed as {place}; push it again")

    try:
        remote.fetch(_object(wanted["sha256"]), path, check)
    except FileNotFoundError as error:
        raise RemoteError(f"{remote.url}/{_object(wanted['sha256'])}: is gone, and was {place}; push it again") from error
    done.moved, done.bytes = done.moved + 1, done.bytes + int(wanted["size"])


def _is_unfinished(path: Path) -> bool:
    """Tell whether a file is a shard without rows: frames of another machine's rows beside it would be taken for damaged ones."""
    return path.name.endswith(tuple(SUFFIXES.values())) and not path.name.endswith(ROWS_SUFFIX) and not rows_path(path).exists()


def _is_other_scan(cache: Cache, folder: str, named: Mapping[str, list[Mapping[str, Any]]]) -> bool:
    """Tell whether a corpus is here, and was not scanned as any that the store has."""
    place = f"{folder}/{_CORPUS_FILES[0]}"
    path = cache.root / place
    return path.exists() and sha256_of(path) not in {of["sha256"] for of in named.get(place, ())}


def _wanted(remote: RemoteFolder, named: Mapping[str, Any], features: str | None, corpus: str | None) -> list[str]:
    """Return the places that a pull is about, those that make others count after them.

    Raises:
        UsageError: nothing there is of that feature set or corpus.
    """
    corpora = {PurePosixPath(place).parts[1] for place in named if place.startswith("corpora/")}
    if corpus is not None and corpus not in corpora:
        raise unknown("corpus", corpus, sorted(corpora))
    folders = None
    if features is not None:
        descriptions = {p: of for p, of in named.items() if p.startswith("features/") and p.endswith("/feature_set.json")}
        read = {p: json.loads(remote.read(_object(of[-1]["sha256"]))) for p, of in descriptions.items()}
        folders = {PurePosixPath(p).parts[1] for p, about in read.items() if about.get("name") == features}
        if not folders:
            raise unknown("feature set", features, sorted({str(about.get("name")) for about in read.values()}))

    def is_wanted(parts: tuple[str, ...]) -> bool:
        if ".." in parts or parts[0] not in ("corpora", "features"):
            return False
        if parts[0] == "corpora":
            return len(parts) == 3 and parts[2] in _CORPUS_FILES and corpus in (None, parts[1])
        if folders is not None and parts[1] not in folders:
            return False
        return parts[2:] == ("feature_set.json",) or (len(parts) == 4 and corpus in (None, parts[2]))

    def turn(place: str) -> tuple[Any, ...]:
        """Sort what makes others count behind them; a shard's rows directly, so that what came until a failure counts."""
        parts = PurePosixPath(place).parts
        if parts[0] == "corpora":
            return parts[:2], len(_CORPUS_FILES) - _CORPUS_FILES.index(parts[2])
        of_shard = (*parts[2:-1], parts[-1].partition(".")[0])
        return parts[:2], int(len(parts) > 3), of_shard, parts[-1].endswith(ROWS_SUFFIX), place

    return sorted((place for place in named if is_wanted(PurePosixPath(place).parts)), key=turn)


def _by_lock(cache: Cache, places: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the lock of those who write some files, and the files, in their order."""
    groups: dict[str, list[str]] = {}
    for place in places:
        parts = PurePosixPath(place).parts
        lock = f"corpora/{parts[1]}" if parts[0] == "corpora" else "/".join(("features", *parts[1:-1]))
        groups.setdefault(lock, []).append(place)
    yield from groups.items()


def _object(digest: str) -> str:
    return f"{OBJECTS}/{digest[:2]}/{digest}"
