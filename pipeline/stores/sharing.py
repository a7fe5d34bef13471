"""Rows, features and finished runs to a store elsewhere and back: `tfser cache push` and `pull`.

What comes in: a cache and a folder of a store. What goes out: the same files at the other end. There, a file is an object
named by the SHA-256 of its content, so that nothing is ever written over and two who push at once do no harm; a commit,
written last, says which place in a cache each object has. What no commit names does not count, however much of it is there:
no rename is needed. Commits are counted, and no clock is asked. Here, each file is fetched aside, compared with its SHA-256
and renamed, shards before the rows that make them count; a run's folder comes as a whole (`tfser.pipeline.stores.shared_runs`).

A file that counts in this cache is never replaced: frames count by content hash, so what is whole here stays, and what differs
is named. A shard without rows, which a killed writer left, does not count; and to a corpus that was scanned here otherwise
nothing is added, since files of two scans do not belong together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue
from tfser.manifests.errors import TfserError, UsageError, first_line, unknown
from tfser.manifests.experiment_names import give_name, names_of
from tfser.manifests.files import sha256_of
from tfser.pipeline.shards.rows import ROWS_SUFFIX, rows_path
from tfser.pipeline.shards.writer import SUFFIXES
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder
from tfser.pipeline.stores.shared_runs import RUN, by_run, experiment_of, finished_runs, is_of, is_run_place, pull_run
from tfser.pipeline.stores.stored_objects import OBJECTS, Entry, Moved, fetch_object, object_name

COMMITS = "commits"

FORMAT = 1
"""Of commits; raise it when an older version could not read them."""

_PLACES = {"corpora": 3, "features": 3, "runs": 3, "protocols": 2}
"""The folders of a cache that are shared, and of how many parts a file's place in each is at least."""

_CORPUS_FILES = ("corpus.json", "utterances.parquet", "skipped.parquet", "annotations.parquet")


class What(StrEnum):
    """What of a cache is shared, beside the rows of its corpora, which all else needs."""

    everything = "all"
    features = "features"
    runs = "runs"


def shared_files(cache: Cache, features: str | None, corpus: str | None, what: What = What.features) -> list[Path]:
    """Return the files of a cache that are shared, but for runs, those that make others count last.

    Args:
        cache: the cache.
        features: only this feature set, by the name in its description; None: all.
        corpus: only this corpus; None: all.
        what: rows alone go with runs, and the protocols of one's own.

    Raises:
        UsageError: there is no such feature set or corpus.
    """
    if corpus is not None and corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    corpora = [corpus] if corpus is not None else cache.corpora()
    found = [cache.corpus(name) / file for name in corpora for file in reversed(_CORPUS_FILES)]
    if what is not What.runs:
        found += _feature_files(cache, features, corpora)
    if what is not What.features:
        found += sorted(cache.protocols.glob("[!.]*.toml"))
    return [path for path in found if path.is_file()]


def _feature_files(cache: Cache, features: str | None, corpora: list[str]) -> list[Path]:
    """Return the files of a feature set, or of all, for some corpora.

    Raises:
        UsageError: there is no such feature set.
    """
    sets = {path.parent: str(cache.read_json(path)["name"]) for path in sorted(cache.feature_root.glob("*/feature_set.json"))}
    chosen = [folder for folder, name in sets.items() if features in (None, name)]
    if features is not None and not chosen:
        raise unknown("feature set", features, sorted(set(sets.values())))
    found = []
    for folder in chosen:
        found.append(folder / "feature_set.json")
        for name in corpora:
            mine = [path for path in sorted((folder / name).glob("[!.]*")) if path.is_file()]
            found += sorted(mine, key=lambda path: path.name.endswith(ROWS_SUFFIX))
    return found


def push(
    cache: Cache,
    remote: RemoteFolder,
    *,
    features: str | None = None,
    corpus: str | None = None,
    what: What = What.everything,
    advance: Callable[[int, int], None] | None = None,
) -> Moved:
    """Copy what the store lacks of a cache, then write the commit that makes it count.

    Args:
        cache: from.
        remote: to.
        features, corpus: as `shared_files` has them; of runs, those that were trained on them.
        what: rows with features, with runs, or with both; runs take the names of their experiments along.
        advance: told (files done, of) as it goes.

    Raises:
        UsageError: there is no such feature set or corpus, or nothing to share.
        RemoteError: the store does not answer; nothing of this push counts then.
    """
    paths = shared_files(cache.require(), features, corpus, what)
    runs, passed = finished_runs(cache, features, corpus) if what is not What.features else ([], [])
    if not paths and not runs:
        raise UsageError(f"{cache.root} has nothing to push: no corpus was scanned yet")
    if what is What.runs and not runs:
        raise UsageError(f"{cache.root} has no finished run of that" + (f"; passed over: {passed[0]}" if passed else ""))
    sending = _Sending(cache, remote, advance, len(paths) + sum(len(run.digests) for run in runs))
    entries = {cache.place(path): sending.send(path) for path in paths}
    sending.done.passed += passed
    experiments: set[str] = set()
    for run in runs:
        sent = {cache.place(run.folder / name): sending.send(run.folder / name) for name in run.digests}
        # Trained again and exchanged while it was sent: files of two runs make none.
        if [entry["sha256"] for entry in sent.values()] == list(run.digests.values()):
            entries |= sent
            sending.done.runs += 1
            experiments.add(experiment_of(run.folder.name))
        else:
            sending.done.passed.append(f"{run.folder.name} (it changed meanwhile; push again)")
    _commit(remote, entries, {name: of for name, of in names_of(cache).items() if of in experiments})
    return sending.done


class _Sending:
    """Sends files that a store lacks, one after the other, and counts them.

    Args:
        cache: from.
        remote: to.
        advance: told (files done, of).
        total: files.
    """

    def __init__(self, cache: Cache, remote: RemoteFolder, advance: Callable[[int, int], None] | None, total: int) -> None:
        self.done = Moved()
        self._remote, self._advance, self._total, self._number = remote, advance, total, 0
        self._there = {name: of.size for name, of in remote.listing(OBJECTS).items()}

    def send(self, path: Path) -> Entry:
        """Send a file unless its content is there; return what a commit says of it."""
        digest, size = sha256_of(path), path.stat().st_size
        name = object_name(digest)
        # One of the right name and another size is what an interrupted write has left.
        if self._there.get(name) == size:
            self.done.before += 1
        else:
            self._remote.put(path, name)
            self._there[name] = size
            self.done.moved, self.done.bytes = self.done.moved + 1, self.done.bytes + size
        self._number += 1
        if self._advance is not None:
            self._advance(self._number, self._total)
        return {"sha256": digest, "size": size}


def _commit(remote: RemoteFolder, entries: Mapping[str, Entry], names: Mapping[str, str]) -> None:
    """Write the commit that makes entries count, with the names of experiments, unless the last one says the same.

    Raises:
        RemoteError: the store does not answer, or an object is not there whole.
    """
    # All of it is looked at once more: the commit vouches for what lies there, not for what was sent.
    there = {name: of.size for name, of in remote.listing(OBJECTS).items()}
    lacking = [place for place, of in entries.items() if there.get(object_name(str(of["sha256"]))) != of["size"]]
    if lacking:
        raise RemoteError(f"{remote.url}: {lacking[0]} was written and is not there whole; nothing was committed, push again")
    before = _commits(remote)
    if before and before[-1]["files"] == entries and before[-1].get("names", {}) == names:
        return
    number = 1 + max((of["number"] for of in before), default=0)
    commit = {"format": FORMAT, "number": number, "files": entries} | ({"names": names} if names else {})
    content = json.dumps(commit, sort_keys=True, indent=0).encode()
    remote.write(f"{COMMITS}/{hashlib.sha256(content).hexdigest()}.json", content)


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
            deep_enough = len(parts) >= _PLACES.get(parts[0], len(parts) + 1)
            if not deep_enough or any(part.startswith(".") for part in parts):
                raise TfserError(f"{called}: names the place {place!r}, which no cache has")
            bytes.fromhex(of["sha256"])
            int(of["size"])
        if not all(isinstance(text, str) for pair in commit.get("names", {}).items() for text in pair):
            raise TypeError("a name of an experiment is no text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TfserError(f"{called}: is no commit of `tfser cache push` ({first_line(error)}); remove it there") from error
    return commit


def committed(remote: RemoteFolder) -> dict[str, list[Entry]]:
    """Return what the commits of a store name: for each place in a cache the contents that it has had, the newest last.

    Raises:
        RemoteError: there are none, or one cannot be read.
        TfserError: another version wrote one.
    """
    return _contents(remote, _commits(remote))


def _contents(remote: RemoteFolder, commits: Sequence[Mapping[str, Any]]) -> dict[str, list[Entry]]:
    """Return what commits name, in their order.

    Raises:
        RemoteError: there are none.
    """
    found: dict[str, list[Entry]] = {}
    for commit in commits:
        files: dict[str, Entry] = commit["files"]
        # Files of a corpus, and of a run, belong together: what an older scan or training had beside them is not mixed in.
        whole = {str(PurePosixPath(place).parent) for place in files if place.startswith(("corpora/", "runs/"))}
        for place in [place for place in found if str(PurePosixPath(place).parent) in whole and place not in files]:
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
    what: What = What.everything,
    advance: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Moved:
    """Copy what a cache lacks of what a store's commits name; arguments are those of `push`, and who is told of waiting.

    Raises:
        UsageError: nothing there is of that feature set or corpus.
        RemoteError: the store does not answer, or an object is not what its name says; what came until then stays.
    """
    # What is there is what commits name, nothing else; of several versions of a file the newest counts.
    named = _contents(remote, commits := _commits(remote))
    newest = {place: contents[-1] for place, contents in named.items()}
    wanted = _wanted(remote, newest, features, corpus, what)
    runs = _wanted_runs(remote, newest, features, corpus) if what is not What.features else {}
    if what is What.runs and not runs:
        raise UsageError(f"{remote.url} has no run of that")
    cache.make()
    done, number, total = Moved(), 0, len(wanted) + sum(map(len, runs.values()))

    def tell(files: int) -> None:
        nonlocal number
        number += files
        if advance is not None:
            advance(number, total)

    for lock, places in _by_lock(cache, wanted):
        with cache.lock(lock, on_wait):  # of whoever writes it here
            is_other = lock.startswith("corpora/") and _is_other_scan(cache, lock, named)
            for place in places:
                if is_other and not (cache.root / place).exists():  # another scan of the same corpus stays as it is
                    done.other_scans.append(place)
                else:
                    _pull_file(cache, remote, place, named[place], done)
                tell(1)
    # Runs come last, each as a whole: their utterances and features are there by then.
    came = []
    for run_id, files in runs.items():
        if pull_run(cache, remote, run_id, files, done, on_wait):
            came.append(run_id)
        tell(len(files))
    _ask_for_protocols(cache, came)
    _take_names(cache, commits, {experiment_of(run_id) for run_id in runs}, done)
    return done


def _take_names(cache: Cache, commits: Sequence[Mapping[str, Any]], experiments: Collection[str], done: Moved) -> None:
    """Give experiments the names that the newest of a store's commits have for them; a name that means another here stays."""
    named: dict[str, str] = {}
    for commit in commits:
        named |= commit.get("names", {})
    for name, experiment in sorted(named.items()):
        if experiment in experiments:
            try:
                give_name(cache, name, experiment)
            except UsageError:  # it is no name, or means another experiment
                done.names_kept.append(f"{name} (there {experiment})")


def _ask_for_protocols(cache: Cache, run_ids: list[str]) -> None:
    """Ask for the protocols of runs that came, where this cache has not yet asked for them: so that their folds are known here.

    One that cannot be had (its corpus is not here) costs no scores: what a run said of its speakers then stands.
    """
    if not run_ids:
        return
    with open_catalogue(cache) as connection:
        lacking = connection.execute(
            "SELECT DISTINCT r.corpus, r.protocol FROM runs r ANTI JOIN protocols p "
            "ON p.protocol = r.protocol AND p.corpora = r.corpus "
            "WHERE list_contains(?, r.run_id) AND r.protocol IS NOT NULL ORDER BY ALL",  # null: a run of an early version
            [run_ids],
        ).fetchall()
    for corpus, protocol in lacking:
        with contextlib.suppress(TfserError):
            ensure_protocol(cache, corpus, protocol)


def _pull_file(cache: Cache, remote: RemoteFolder, place: str, contents: list[Entry], done: Moved) -> None:
    """Fetch a file that is not here, or that a killed writer left; whatever counts here stays."""
    path = cache.root / place
    if not path.exists():
        fetch_object(remote, contents[-1], path, place, done)
    elif sha256_of(path) in {of["sha256"] for of in contents}:
        done.before += 1
    elif _is_unfinished(path):
        fetch_object(remote, contents[-1], path, place, done)
    else:
        done.kept.append(place)


def _is_unfinished(path: Path) -> bool:
    """Tell whether a file is a shard without rows: frames of another machine's rows beside it would be taken for damaged ones."""
    return path.name.endswith(tuple(SUFFIXES.values())) and not path.name.endswith(ROWS_SUFFIX) and not rows_path(path).exists()


def _is_other_scan(cache: Cache, folder: str, named: Mapping[str, list[Entry]]) -> bool:
    """Tell whether a corpus is here, and was not scanned as any that the store has."""
    place = f"{folder}/{_CORPUS_FILES[0]}"
    path = cache.root / place
    return path.exists() and sha256_of(path) not in {of["sha256"] for of in named.get(place, ())}


def _wanted_runs(
    remote: RemoteFolder, newest: Mapping[str, Entry], features: str | None, corpus: str | None
) -> dict[str, dict[str, Entry]]:
    """Return the files of the runs that a pull is about, by run and name; what they were trained on says their `run.json`.

    Raises:
        RemoteError: one cannot be read.
    """
    runs = by_run(newest)
    if features is None and corpus is None:
        return runs
    about = {name: json.loads(remote.read(object_name(str(files[RUN]["sha256"])))) for name, files in runs.items()}
    return {name: files for name, files in runs.items() if is_of(about[name], features, corpus)}


def _wanted(remote: RemoteFolder, newest: Mapping[str, Entry], features: str | None, corpus: str | None, what: What) -> list[str]:
    """Return the places that a pull is about, but for runs, those that make others count after them.

    Raises:
        UsageError: nothing there is of that feature set or corpus.
    """
    corpora = {PurePosixPath(place).parts[1] for place in newest if place.startswith("corpora/")}
    if corpus is not None and corpus not in corpora:
        raise unknown("corpus", corpus, sorted(corpora))
    # A feature set is known by what its description says, since its folder bears a fingerprint.
    folders = None
    if features is not None and what is not What.runs:
        descriptions = {p: of for p, of in newest.items() if p.startswith("features/") and p.endswith("/feature_set.json")}
        read = {p: json.loads(remote.read(object_name(str(of["sha256"])))) for p, of in descriptions.items()}
        folders = {PurePosixPath(p).parts[1] for p, about in read.items() if about.get("name") == features}
        if not folders:
            raise unknown("feature set", features, sorted({str(about.get("name")) for about in read.values()}))

    def is_wanted(parts: tuple[str, ...]) -> bool:
        if ".." in parts or is_run_place(parts):
            return False
        if parts[0] == "corpora":
            return len(parts) == 3 and parts[2] in _CORPUS_FILES and corpus in (None, parts[1])
        if parts[0] == "protocols":
            return what is not What.features and len(parts) == 2 and parts[1].endswith(".toml") and "\\" not in parts[1]
        if parts[0] != "features" or what is What.runs or (folders is not None and parts[1] not in folders):
            return False
        return parts[2:] == ("feature_set.json",) or (len(parts) == 4 and corpus in (None, parts[2]))

    def turn(place: str) -> tuple[Any, ...]:
        """Sort what makes others count behind them; a shard's rows directly, so that what came until a failure counts."""
        parts = PurePosixPath(place).parts
        if parts[0] == "corpora":
            return parts[:2], len(_CORPUS_FILES) - _CORPUS_FILES.index(parts[2])
        of_shard = (*parts[2:-1], parts[-1].partition(".")[0])
        return parts[:2], int(len(parts) > 3), of_shard, parts[-1].endswith(ROWS_SUFFIX), place

    return sorted((place for place in newest if is_wanted(PurePosixPath(place).parts)), key=turn)


def _by_lock(cache: Cache, places: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the lock of those who write some files, and the files, in their order."""
    groups: dict[str, list[str]] = {}
    for place in places:
        parts = PurePosixPath(place).parts
        folders = {"corpora": parts[:2], "protocols": ("protocols", "asked")}.get(parts[0], parts[:-1])
        groups.setdefault("/".join(folders), []).append(place)
    yield from groups.items()
