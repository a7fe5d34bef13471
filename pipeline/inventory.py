"""Looking after the cache: what lies there, how much room it takes, and taking parts of it away.

Whatever `delete` removes is removed under the lock of those who write it, and in an order in which a kill leaves what can still
be named and removed. Whether what lies there is whole, `verify` says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.options import Option
from tfser.pipeline.features.feature_set import superseded
from tfser.pipeline.shards.rows import ROWS_SUFFIX, frames_of, read_rows


@dataclass(frozen=True, kw_only=True)
class StoredFeatures:
    """The features of one feature set for one corpus. `live` utterances are served; `stale` rows fit no utterance any more."""

    feature_set: str
    corpus: str
    utterances: int
    live: int
    stale: int
    frames: int
    dim: int
    dtype: str
    shards: int
    bytes: int
    folder: str


def list_features(cache: Cache) -> list[StoredFeatures]:
    """Return what the feature sets hold, by feature set and corpus.

    Raises:
        TfserError: if there is no cache.
    """
    # The catalogue says what counts; how much lies on the disk beside it is asked of the shards.
    with open_catalogue(cache) as connection:
        sets = rows(connection, "SELECT * FROM feature_sets ORDER BY feature_set")
        counts = {
            (r["feature_set"], r["corpus"]): r
            for r in rows(
                connection, "SELECT feature_set, corpus, count(*) AS live, sum(frames) AS frames FROM features GROUP BY ALL"
            )
        }
        totals = {r["corpus"]: r["n"] for r in rows(connection, "SELECT corpus, count(*) AS n FROM utterances GROUP BY ALL")}
    entries = []
    # Shards on disk against rows that still count: what is stale is there and serves nobody.
    for features in sets:
        for folder in sorted(p for p in (cache.root / features["folder"]).iterdir() if p.is_dir()):
            stored = read_rows(folder, cache).num_rows
            live = counts.get((features["feature_set"], folder.name), {"live": 0, "frames": 0})
            entries.append(
                StoredFeatures(
                    feature_set=features["feature_set"],
                    corpus=folder.name,
                    utterances=totals.get(folder.name, 0),
                    live=live["live"],
                    stale=stored - live["live"],
                    frames=int(live["frames"] or 0),
                    dim=features["dim"],
                    dtype=features["dtype"],
                    shards=len(list(folder.glob("[!.]*.rows.parquet"))),
                    bytes=size_of(folder),
                    folder=folder.relative_to(cache.root).as_posix(),
                )
            )
    return entries


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; what is behind a link is not counted."""
    total = 0
    if path.is_symlink():
        return total
    for file in [path] if path.is_file() else path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed or renamed just now
            total += file.lstat().st_size if file.is_file() else 0
    return total


def usage(cache: Cache) -> dict[str, int]:
    """Return bytes by part of the cache: catalogue, each corpus's rows, each feature set, runs."""
    parts = {"catalogue.duckdb": cache.catalogue} if cache.catalogue.exists() else {}
    for area in ("corpora", "features"):
        parts |= {f"{area}/{p.name}": p for p in sorted((cache.root / area).glob("*")) if p.is_dir()}
    parts |= {p.name: p for p in sorted(cache.root.glob("*")) if p.is_dir() and p.name not in ("corpora", "features", "locks")}
    return {name: size_of(path) for name, path in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Unwanted:
    """What is to be removed of a cache: one kind of thing at a time."""

    features: Annotated[str | None, Option("A feature set.", metavar="NAME")] = None
    corpus: Annotated[str | None, Option("A corpus: its rows and features.", metavar="NAME")] = None
    run: Annotated[str | None, Option("A run, or an experiment with all its runs.", metavar="ID")] = None
    stale: Annotated[bool, Option("Shards that no utterance needs, and outdated feature sets.")] = False
    removed: Annotated[bool, Option("What `cache verify --repair` moved away.")] = False


def doomed(cache: Cache, unwanted: Unwanted) -> list[Path]:
    """Return the folders and files that a removal takes away; `delete` does it.

    A feature set goes whole, or with a corpus only its part of it; a corpus without a feature set goes with its rows and all its
    features, but not its runs. A run is a folder's name below runs/, whatever is in it.

    Raises:
        UsageError: if nothing is named, or what is named is not there.
    """
    features, corpus, run, stale = unwanted.features, unwanted.corpus, unwanted.run, unwanted.stale
    # One kind of thing at a time: a removal that is two removals is easily more than was meant.
    if sum((features is not None or corpus is not None, run is not None, stale, unwanted.removed)) != 1:
        raise UsageError("say what to remove: --features NAME [--corpus NAME], --corpus NAME, --run ID, --stale or --removed")
    # Neither this nor a run's folder needs the catalogue, which may be what is damaged.
    if unwanted.removed:
        if not cache.is_one():
            raise UsageError(f"no cache at {cache.root}; name another with --cache")
        return [cache.removed] if os.path.lexists(cache.removed) else []
    if run is not None and run in {p.name for p in cache.runs.glob("[!.]*") if p.is_dir()}:
        return [cache.runs / run]
    finished = sorted(cache.feature_root.glob(f"*/*/[!.]*{ROWS_SUFFIX}"))  # before the catalogue, which so knows all of them
    with open_catalogue(cache) as connection:
        sets = {r["feature_set"]: cache.root / r["folder"] for r in rows(connection, "FROM feature_sets")}
        if run is not None:
            known = rows(connection, "SELECT run_id, experiment FROM runs")
            chosen = sorted(r["run_id"] for r in known if run == r["experiment"])
            if not chosen:
                raise unknown("run", run, sorted({r["experiment"] for r in known}))
            return [cache.runs / name for name in chosen]
        if stale:
            live = {r["shard"] for r in rows(connection, "SELECT DISTINCT shard FROM features")}
            return _stale(cache, finished, live, sets)
    if features is not None and features not in sets:
        raise unknown("feature set", features, list(sets))
    if corpus is not None and corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    if features is not None:
        part = sets[features] / corpus if corpus else sets[features]
        if not part.is_dir():
            raise UsageError(f"there are no features {features} of {corpus} in {cache.root}")
        return [part]
    found = [p for p in cache.feature_root.glob(f"*/{corpus}") if p.is_dir()]
    return [*found, cache.corpus(corpus or "")]


def _stale(cache: Cache, finished: Iterable[Path], live: set[str], sets: dict[str, Path]) -> list[Path]:
    outdated = [sets[name] for name in superseded(sets)]
    paths: list[Path] = list(outdated)
    for rows_file in finished:
        if rows_file.parent.parent in outdated:
            continue
        shards = [p for p in frames_of(rows_file) if p.exists()]
        if not any(cache.place(p) in live for p in shards):
            paths += [rows_file, *shards]
    return paths


def delete(cache: Cache, paths: list[Path]) -> int:
    """Remove what `doomed` listed and bring the catalogue up to date; return the bytes that became free.

    Raises:
        TfserError: if somebody is writing there, or the system refuses; what was removed until then is gone.
    """
    way_out = "remove it when that has finished"
    freed = 0
    for path in paths:
        if not os.path.lexists(path):
            continue
        size = size_of(path)
        is_set = path.parent == cache.feature_root and not path.is_symlink()
        inner = [p for p in path.iterdir() if p.is_dir()] if is_set else []
        try:
            for folder in sorted(inner):
                with cache.lock(cache.writers_of(folder), or_refuse=way_out):
                    _remove(folder)
            with cache.lock(cache.writers_of(path), or_refuse=way_out):
                _remove(path)
        except OSError as error:
            raise TfserError(f"{error.filename or path}: cannot be removed ({error.strerror or error})") from error
        freed += size
    refresh(cache)
    return freed


def _remove(path: Path) -> None:
    """Remove a file, a link (not what is behind it), or a folder: what makes its content count first, a feature set's description
    last."""

    def turn(file: Path) -> int:
        if file.name in ("corpus.json", "run.json"):
            return 0
        return 1 if file.name.endswith(ROWS_SUFFIX) else 3 if file.name == "feature_set.json" else 2

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for file in sorted((p for p in path.rglob("*") if p.is_file() or p.is_symlink()), key=turn):
        file.unlink(missing_ok=True)
    shutil.rmtree(path)
