"""Looking after the cache: what lies there, how much room it takes, whether it is whole, and taking parts of it away.

Whatever is removed, by `verify(repair=True)` or by `delete`, is removed under the lock of those who write it, and in an order
in which a kill leaves what can still be named and removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import open_catalogue, refresh, rows
from tfser.manifests.errors import DamagedError, TfserError, UsageError, unknown
from tfser.manifests.files import read_json
from tfser.manifests.run_files import check_run, run_folders, run_of, shown
from tfser.pipeline.shard_reader import ShardReader
from tfser.pipeline.shard_rows import ROWS_SUFFIX, read_rows, rows_path
from tfser.pipeline.shards import SUFFIXES


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
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed or renamed just now
            total += file.stat().st_size if file.is_file() else 0
    return total


def usage(cache: Cache) -> dict[str, int]:
    """Return bytes by part of the cache: catalogue, each corpus's rows, each feature set, runs."""
    parts = {"catalogue.duckdb": cache.catalogue} if cache.catalogue.exists() else {}
    for area in ("corpora", "features"):
        parts |= {f"{area}/{p.name}": p for p in sorted((cache.root / area).glob("*")) if p.is_dir()}
    parts |= {p.name: p for p in sorted(cache.root.glob("*")) if p.is_dir() and p.name not in ("corpora", "features", "locks")}
    return {name: size_of(path) for name, path in parts.items()}


def verify(
    cache: Cache,
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> list[str]:
    """Read every shard and compare it with its checksums, and read the files of every run; return one line a problem.

    Args:
        cache: the cache.
        repair: also remove damaged shards, damaged runs and left-overs, so that the next extraction or training makes
            them again. Writers at work are waited for; without `repair`, nothing is waited for and what they are writing
            is listed as a left-over.
        progress: told (shards read, shards in all).
        on_wait: told when a writer has to be waited for.

    Raises:
        UsageError: if there is no such folder.
    """
    if not cache.root.is_dir():
        raise UsageError(f"no cache at {cache.root}; name another with --cache")
    problems: list[str] = []
    folders = sorted(p for p in cache.features.glob("[!.]*/[!.]*") if p.is_dir())
    total = sum(len(_shards(folder)) for folder in folders)
    done = 0
    for folder in folders:
        with _writers(cache, folder, on_wait) if repair else contextlib.nullcontext():
            for shard in _shards(folder):
                found = _problems(cache, shard)
                problems += found
                if found and repair:
                    if _counts(shard):
                        rows_path(shard).unlink(missing_ok=True)
                    shard.unlink(missing_ok=True)
                done += 1
                if progress is not None:
                    progress(min(done, total), total)
            for path in sorted(folder.glob(f"[!.]*{ROWS_SUFFIX}")):
                if not any(p.exists() for p in _frames_of(path)):
                    problems.append(f"{_name(cache, path)}: its shard is missing")
                    if repair:
                        path.unlink(missing_ok=True)
    for path in sorted(p for p in cache.root.rglob(".*") if p.name.endswith((".tmp", ".tmp.wal"))):
        problems.append(f"{_name(cache, path)}: left by a writer that was killed (or is at work now)")
        if repair:
            with _writers(cache, path.parent, on_wait):
                path.unlink(missing_ok=True)
    for path, problem in [*_descriptions(cache), *_corpora_problems(cache)]:
        problems.append(problem)
        if repair and path.suffix == ".json":  # damaged rows of a corpus are replaced by its next scan
            with _writers(cache, path.parent, on_wait):
                path.unlink(missing_ok=True)
    for folder in run_folders(cache):
        if (error := _problem_of(folder)) is None:
            continue
        kind = "cannot be read" if isinstance(error, DamagedError) else "could not be checked"
        problems.append(f"{_name(cache, folder)}: {kind} ({shown(folder, error)}); train again to make it")
        if repair and isinstance(error, DamagedError):
            with cache.lock(f"runs/{run_of(folder)}", on_wait):
                if isinstance(_problem_of(folder), DamagedError):  # still: whoever was waited for may have made it anew
                    cache.put_away(folder)
    return problems


def _name(cache: Cache, path: Path) -> str:
    return path.relative_to(cache.root).as_posix()


def _shards(folder: Path) -> list[Path]:
    return sorted(p for suffix in SUFFIXES.values() for p in folder.glob(f"[!.]*{suffix}"))


def _frames_of(rows_file: Path) -> list[Path]:
    """Return the files that may hold the frames of a file of rows."""
    stem = rows_file.name.removesuffix(ROWS_SUFFIX)
    return [rows_file.with_name(stem + suffix) for suffix in SUFFIXES.values()]


def _counts(shard: Path) -> bool:
    """Tell whether the rows beside a shard are its own: both formats of one shard share a name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_table(rows_path(shard), columns=["shard"], memory_map=False)["shard"].to_pylist()
    except FileNotFoundError:
        return False
    except (OSError, ValueError, pa.ArrowException):  # damaged rows: nobody's, so this shard's as well
        return True
    return shard.name in names or not any(shard.with_name(str(name)).exists() for name in set(names))


def _problems(cache: Cache, shard: Path) -> list[str]:
    name = _name(cache, shard)
    if not _counts(shard):
        return [f"{name}: has no rows, so it does not count; left by a writer that was killed (or is at work now)"]
    try:
        with ShardReader(shard) as reader:
            found = reader.verify()
    except Exception as error:  # whatever a damaged file makes a library raise is a finding, not a failure
        found = [(str(error).splitlines() or [type(error).__name__])[0]]
    return [f"{name}: {problem.removeprefix(f'{shard}: ').replace(f'{cache.root}/', '')}" for problem in found]


def _descriptions(cache: Cache) -> Iterator[tuple[Path, str]]:
    """Yield feature_set.json where it is gone or damaged, with a line about it; the next extraction writes it again."""
    for folder in sorted(p for p in cache.features.glob("[!.]*") if p.is_dir()):
        path = folder / "feature_set.json"
        if not path.exists():
            if any(folder.glob(f"*/[!.]*{ROWS_SUFFIX}")):
                yield path, f"{_name(cache, path)}: is missing; extract again to write it"
            continue
        try:
            read_json(path)["fingerprint"]
        except (TfserError, KeyError, TypeError):
            yield path, f"{_name(cache, path)}: cannot be read; extract again to write it"


def _corpora_problems(cache: Cache) -> Iterator[tuple[Path, str]]:
    """Yield the damaged file of each corpus that has one, with a line about it."""
    import pyarrow.parquet as pq

    for name in cache.corpora():
        path = cache.corpus(name) / "corpus.json"
        try:
            read_json(path)["root"]
            path = path.with_name("utterances.parquet")
            pq.read_table(path, memory_map=False)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].replace(f"{cache.root}/", "")
            yield path, f"{_name(cache, path)}: cannot be read ({reason}); scan {name} again"


def _problem_of(folder: Path) -> TfserError | None:
    """Return what is wrong with a folder of a run, or why that could not be told."""
    try:
        check_run(folder)
    except TfserError as error:
        return error
    return None


@contextlib.contextmanager
def _writers(cache: Cache, folder: Path, on_wait: Callable[[str], None] | None) -> Iterator[None]:
    """Hold the lock of those who write a folder of the cache, see docs/design.md."""
    parts = folder.relative_to(cache.root).parts
    depth = {"features": 3, "corpora": 2, "runs": 2}.get(parts[0], 1) if parts else 0
    with cache.lock("/".join(parts[:depth]) if depth else "catalogue", on_wait):
        yield


def doomed(
    cache: Cache, *, features: str | None = None, corpus: str | None = None, run: str | None = None, stale: bool = False
) -> list[Path]:
    """Return the folders and files that a removal takes away; `delete` does it.

    Args:
        cache: the cache.
        features: a feature set; with `corpus`, only that corpus's part of it.
        corpus: without `features`: the corpus's rows and all its features (not its runs).
        run: a run (a folder's name below runs/, whatever is in it), or an experiment with all its runs.
        stale: shards that no utterance needs any more, and outdated feature sets.

    Raises:
        UsageError: if nothing is named, or what is named is not there.
    """
    if sum((features is not None or corpus is not None, run is not None, stale)) != 1:
        raise UsageError("say what to remove: --features NAME [--corpus NAME], --corpus NAME, --run ID or --stale")
    if run is not None and run in {p.name for p in cache.runs.glob("[!.]*") if p.is_dir()}:
        return [cache.runs / run]
    finished = sorted(cache.features.glob(f"*/*/[!.]*{ROWS_SUFFIX}"))  # before the catalogue, which so knows all of them
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
    found = [p for p in cache.features.glob(f"*/{corpus}") if p.is_dir()]
    return [*found, cache.corpus(corpus or "")]


def _stale(cache: Cache, finished: Iterable[Path], live: set[str], sets: dict[str, Path]) -> list[Path]:
    outdated = [folder for name, folder in sets.items() if "@" in name]
    found: list[Path] = list(outdated)
    for rows_file in finished:
        if rows_file.parent.parent in outdated:
            continue
        shards = [p for p in _frames_of(rows_file) if p.exists()]
        if not any(_name(cache, p) in live for p in shards):
            found += [rows_file, *shards]
    return found


def delete(cache: Cache, paths: list[Path]) -> int:
    """Remove what `doomed` listed and bring the catalogue up to date; return the bytes that became free.

    Raises:
        TfserError: if somebody is writing there, or the system refuses; what was removed until then is gone.
    """

    def refuse(who: str) -> None:
        raise TfserError(f"{who.removesuffix('; waiting for it')}; remove it when that has finished")

    freed = 0
    for path in paths:
        if not path.exists():
            continue
        size = size_of(path)
        inner = [p for p in path.iterdir() if p.is_dir()] if path.parent == cache.features else []
        try:
            for folder in sorted(inner):
                with _writers(cache, folder, refuse):
                    _remove(folder)
            with _writers(cache, path if path.is_dir() else path.parent, refuse):
                _remove(path)
        except OSError as error:
            raise TfserError(f"{error.filename or path}: cannot be removed ({error.strerror or error})") from error
        freed += size
    refresh(cache)
    return freed


def _remove(path: Path) -> None:
    """Remove a file, or a folder: what makes its content count first, a feature set's description last."""

    def turn(file: Path) -> int:
        if file.name in ("corpus.json", "run.json"):
            return 0
        return 1 if file.name.endswith(ROWS_SUFFIX) else 3 if file.name == "feature_set.json" else 2

    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for file in sorted((p for p in path.rglob("*") if p.is_file() or p.is_symlink()), key=turn):
        file.unlink(missing_ok=True)
    shutil.rmtree(path)
