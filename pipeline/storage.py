"""Looking after the cache: what lies there, how much room it takes, whether it is whole, and taking parts of it away."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import open_catalogue, refresh, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.files import read_json
from tfser.pipeline.shard_reader import ShardReader
from tfser.pipeline.shard_rows import read_rows, rows_path


@dataclass(frozen=True, kw_only=True)
class Entry:
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


def list_features(cache: Cache) -> list[Entry]:
    """Return what the feature sets hold, by feature set and corpus.

    Raises:
        TfserError: if there is no cache.
    """
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
    for of in sets:
        for folder in sorted(p for p in (cache.root / of["folder"]).iterdir() if p.is_dir()):
            stored = read_rows(folder).num_rows
            live = counts.get((of["feature_set"], folder.name), {"live": 0, "frames": 0})
            entries.append(
                Entry(
                    feature_set=of["feature_set"],
                    corpus=folder.name,
                    utterances=totals.get(folder.name, 0),
                    live=live["live"],
                    stale=stored - live["live"],
                    frames=int(live["frames"] or 0),
                    dim=of["dim"],
                    dtype=of["dtype"],
                    shards=len(list(folder.glob("[!.]*.rows.parquet"))),
                    bytes=size_of(folder),
                    folder=folder.relative_to(cache.root).as_posix(),
                )
            )
    return entries


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def usage(cache: Cache) -> dict[str, int]:
    """Return bytes by part of the cache: catalogue, each corpus's rows, each feature set, runs."""
    parts = {"catalogue.duckdb": cache.catalogue} if cache.catalogue.exists() else {}
    for area in ("corpora", "features"):
        parts |= {f"{area}/{p.name}": p for p in sorted((cache.root / area).glob("*")) if p.is_dir()}
    parts |= {p.name: p for p in sorted(cache.root.glob("*")) if p.is_dir() and p.name not in ("corpora", "features", "locks")}
    return {name: size_of(path) for name, path in parts.items()}


def verify(cache: Cache, *, repair: bool = False, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read every shard and compare it with its checksums; return one line a problem.

    Args:
        cache: the cache.
        repair: also remove damaged shards and left-overs, so that the next extraction makes them again.
        progress: told (shards read, shards in all).

    Raises:
        UsageError: if there is no such folder.
    """
    if not cache.root.is_dir():
        raise UsageError(f"no cache at {cache.root}; name another with --cache")
    problems: list[str] = []
    shards = [p for pattern in ("*.h5", "*.frames.parquet") for p in sorted(cache.features.glob(f"*/*/[!.]{pattern}"))]
    for number, shard in enumerate(shards, 1):
        found = _problems(shard)
        problems += found
        if found and repair:
            rows_path(shard).unlink(missing_ok=True)
            shard.unlink(missing_ok=True)
        if progress is not None:
            progress(number, len(shards))
    for path in sorted(cache.features.glob("*/*/[!.]*.rows.parquet")):
        stem = path.name.removesuffix(".rows.parquet")
        if not any(path.with_name(stem + suffix).exists() for suffix in (".h5", ".frames.parquet")):
            problems.append(f"{path.relative_to(cache.root)}: its shard is missing")
            if repair:
                path.unlink(missing_ok=True)
    for path in sorted(cache.root.rglob(".*.tmp")):
        problems.append(f"{path.relative_to(cache.root)}: left by a writer that was killed (or is at work now)")
        if repair:
            path.unlink(missing_ok=True)
    problems += _corpora_problems(cache)
    return problems


def _problems(shard: Path) -> list[str]:
    if not rows_path(shard).exists():
        return [f"{shard}: has no rows, so it does not count; left by a writer that was killed"]
    try:
        with ShardReader(shard) as reader:
            return [f"{shard}: {problem}" if str(shard) not in problem else problem for problem in reader.verify()]
    except Exception as error:  # whatever a damaged file makes a library raise is a finding, not a failure
        return [f"{shard}: {str(error).splitlines()[0].removeprefix(f'{shard}: ')}"]


def _corpora_problems(cache: Cache) -> Iterator[str]:
    import pyarrow.parquet as pq

    for name in cache.corpora():
        folder = cache.corpus(name)
        try:
            read_json(folder / "corpus.json")
            pq.read_table(folder / "utterances.parquet", columns=["utterance_id"])
        except Exception as error:
            yield f"corpora/{name}: cannot be read ({str(error).splitlines()[0]}); scan it again"


def doomed(
    cache: Cache, *, features: str | None = None, corpus: str | None = None, run: str | None = None, stale: bool = False
) -> list[Path]:
    """Return the folders and files that a removal takes away; `delete` does it.

    Args:
        cache: the cache.
        features: a feature set; with `corpus`, only that corpus's part of it.
        corpus: without `features`: the corpus's rows and all its features (not its runs).
        run: a run, or an experiment with all its runs.
        stale: shards that no utterance needs any more, and outdated feature sets.

    Raises:
        UsageError: if nothing is named, or what is named is not there.
    """
    if sum((features is not None or corpus is not None, run is not None, stale)) != 1:
        raise UsageError("say what to remove: --features NAME [--corpus NAME], --corpus NAME, --run ID or --stale")
    with open_catalogue(cache) as connection:
        sets = {r["feature_set"]: cache.root / r["folder"] for r in rows(connection, "FROM feature_sets")}
        if run is not None:
            known = rows(connection, "SELECT run_id, experiment FROM runs")
            unfinished = [p.parent.name for p in cache.runs.glob("*/run.json")]
            chosen = sorted(
                {r["run_id"] for r in known if run in (r["run_id"], r["experiment"])} | {n for n in unfinished if n == run}
            )
            if not chosen:
                raise unknown("run", run, sorted({r["experiment"] for r in known}))
            return [cache.runs / name for name in chosen]
        if stale:
            return _stale(cache, {r["shard"] for r in rows(connection, "SELECT DISTINCT shard FROM features")}, sets)
    if features is not None and features not in sets:
        raise unknown("feature set", features, list(sets))
    if corpus is not None and corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    if features is not None:
        return [sets[features] / corpus] if corpus else [sets[features]]
    found = [p for p in cache.features.glob(f"*/{corpus}") if p.is_dir()]
    return [*found, cache.corpus(corpus or "")]


def _stale(cache: Cache, live: set[str], sets: dict[str, Path]) -> list[Path]:
    outdated = [folder for name, folder in sets.items() if "@" in name]
    found: list[Path] = list(outdated)
    for rows_file in sorted(cache.features.glob("*/*/[!.]*.rows.parquet")):
        if rows_file.parent.parent in outdated:
            continue
        stem = rows_file.name.removesuffix(".rows.parquet")
        shards = [p for s in (".h5", ".frames.parquet") if (p := rows_file.with_name(stem + s)).exists()]
        if not any(p.relative_to(cache.root).as_posix() in live for p in shards):
            found += [rows_file, *shards]
    return found


def delete(cache: Cache, paths: list[Path]) -> int:
    """Remove what `doomed` listed and bring the catalogue up to date; return the bytes that became free."""
    freed = 0
    for path in paths:
        if path.exists():
            freed += size_of(path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    refresh(cache)
    return freed
