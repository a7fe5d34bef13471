"""Finished runs to a store and back: whole folders, whose `run.json` counts last.

What comes in: a cache, or what the commits of a store name below `runs/`. What goes out: of a cache the files of its finished
runs, with the digests that they themselves hold; of a store a run's folder, fetched into a hidden folder beside its place,
looked at as a whole, and then renamed. Whatever ends a pull leaves no half of a run, and the next one goes on with it. A run
that is unfinished or damaged is passed over, with the reason; one that a cache has is never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfser.manifests.cache import PULLED, Cache
from tfser.manifests.catalogue.run_files import read_about, read_run, shown
from tfser.manifests.errors import DamagedError, MissingFileError, UnreadableError
from tfser.manifests.files import fsync_path, sha256_of, sweep
from tfser.pipeline.stores.remote import RemoteError, RemoteFolder
from tfser.pipeline.stores.stored_objects import Entry, Moved, fetch_object

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class SharedRun:
    """A finished run: its folder, and the SHA-256 of each of its files by their names."""

    folder: Path
    digests: Mapping[str, str]


def is_of(about: Mapping[str, Any], features: str | None, corpus: str | None) -> bool:
    """Tell whether a run was trained on a feature set, alone or joined with others, and on a corpus; None: on any.

    >>> is_of({"feature_set": "whisper-base/3+logmel@1a2b3c4d", "corpus": "emodb+casia"}, "logmel", "casia")
    True
    """
    sets = {part.partition("@")[0] for part in str(about.get("feature_set")).split("+")}
    sets |= {*str(about.get("feature_set")).split("+"), str(about.get("feature_set"))}
    return (features is None or features in sets) and (corpus is None or corpus in str(about.get("corpus")).split("+"))


def finished_runs(cache: Cache, features: str | None, corpus: str | None) -> tuple[list[SharedRun], list[str]]:
    """Return the finished runs of a cache that are whole, and in words those that are not.

    Args:
        cache: the cache.
        features: only runs on this feature set, by its name.
        corpus: only runs on this corpus.
    """
    runs: list[SharedRun] = []
    passed: list[str] = []
    for folder in sorted(path for path in cache.runs.glob("[!.]*") if path.is_dir()):
        try:
            if not is_of(read_about(folder), features, corpus):
                continue
            before = sha256_of(folder / RUN)
            run = read_run(folder, weights=True)
            if run is None:
                passed.append(f"{folder.name} (not finished)")
                continue
            listed = run.about.get("files")
            names = listed if isinstance(listed, dict) else _hashed(folder)
        except MissingFileError as error:
            passed.append(f"{folder.name} ({shown(folder, error)})")
        except (DamagedError, UnreadableError) as error:
            passed.append(f"{folder.name} ({shown(folder, error)})")
        else:
            # A run that is trained again meanwhile has other digests when it is sent, and is passed over then.
            runs.append(SharedRun(folder=folder, digests={**names, RUN: before}))
    return runs, passed


def experiment_of(run_id: str) -> str:
    """Return the experiment that a run is of.

    >>> experiment_of("svm-rbf-default-emodb-0a1b2c3d4e-f3-s0")
    'svm-rbf-default-emodb-0a1b2c3d4e'
    """
    return run_id.rpartition("-f")[0]


def _hashed(folder: Path) -> dict[str, str]:
    """Return the digests of the files of a run that lists none: an older version's."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name: sha256_of(path) for path in files if path.name != RUN}


def is_run_place(parts: tuple[str, ...]) -> bool:
    """Tell whether the parts of a place name a file of a run, and nothing outside of its folder."""
    return len(parts) == 3 and parts[0] == "runs" and all(not p.startswith(".") and "\\" not in p for p in parts[1:])


def by_run(places: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """Return the entries of commits by the run that they are of, and the file's name; whatever has no `run.json` is no run."""
    runs: dict[str, dict[str, Entry]] = {}
    for place, entry in sorted(places.items()):
        parts = PurePosixPath(place).parts
        if is_run_place(parts):
            runs.setdefault(parts[1], {})[parts[2]] = entry
    return {name: files for name, files in runs.items() if RUN in files}


def pull_run(
    cache: Cache,
    remote: RemoteFolder,
    run_id: str,
    files: Mapping[str, Entry],
    done: Moved,
    on_wait: Callable[[str], None] | None = None,
) -> bool:
    """Fetch a run that is not here; return whether it came. Whatever is here stays, a training that was only begun, too.

    Args:
        cache: to.
        remote: from.
        run_id: of the run.
        files: the entry of each of its files.
        done: is counted in.
        on_wait: told where somebody else writes that run just now.

    Raises:
        RemoteError: the store does not answer, or what it has is no whole run.
    """
    folder = cache.runs / run_id
    if _is_here(folder, files, done):
        return False
    with cache.lock(f"runs/{run_id}", on_wait):
        if _is_here(folder, files, done):
            return False
        hidden = cache.runs / f".{run_id}{PULLED}"
        hidden.mkdir(parents=True, exist_ok=True)
        sweep(hidden)
        # What an interrupted pull has left is taken if it is still the same, and taken away if nobody names it any more.
        for path in hidden.iterdir():
            if path.name not in files:
                path.unlink()
        for name, entry in files.items():
            path = hidden / name
            if not (path.exists() and sha256_of(path) == entry["sha256"]):
                fetch_object(remote, entry, path, f"runs/{run_id}/{name}", done)
        # Looked at as a whole before it counts: the seals say that the files are of this run, the digests that they fit.
        try:
            whole = read_run(hidden, weights=True)
        except (DamagedError, UnreadableError) as error:
            raise RemoteError(f"{remote.url}: the run {run_id} is not whole there ({shown(hidden, error)})") from error
        if whole is None:
            raise RemoteError(f"{remote.url}: the run {run_id} is not finished there")
        hidden.rename(folder)
        fsync_path(cache.runs)
    done.runs += 1
    return True


def _is_here(folder: Path, files: Mapping[str, Entry], done: Moved) -> bool:
    """Tell whether a cache has a run, or the beginning of one, and count it in: the same, or another that stays."""
    if not os.path.lexists(folder):
        return False
    try:
        is_same = sha256_of(folder / RUN) == files[RUN]["sha256"]
    except (DamagedError, UnreadableError):
        is_same = False
    if is_same:
        done.before += len(files)
    else:
        done.kept.append(f"runs/{folder.name}")
    return True
