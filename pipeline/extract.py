"""Extraction: utterance rows -> features -> shards, exactly what is missing and nothing twice.

An utterance is extracted when its feature set holds no frames for its content hash. Frames are collected in the order of the
rows and closed into a shard at a fixed size, so that where an extraction was killed does not show in what the next one
writes. A shard counts from the moment that its row file exists; whatever a killed writer left before that is swept away, and
so is what is left of a shard that was cut off or whose rows are gone, so that its utterances are extracted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, unknown
from tfser.manifests.files import read_json, sweep, write_json, write_table
from tfser.manifests.utterances import Skipped, skipped_table
from tfser.pipeline.audio import content_hash, decode, resample
from tfser.pipeline.measure import Advance, audio_path, disk_errors, in_order
from tfser.pipeline.scan import now
from tfser.pipeline.shard_rows import ROWS_SUFFIX, read_rows, write_rows
from tfser.pipeline.shards import SUFFIXES, ShardFormat, ShardMember, write_shard
from tfser.pipeline.upstreams import Extractor, FeatureSet
from tfser.pipeline.video import MissingExtraError

SHARD_BYTES = 128 * 2**20
"""A shard is closed once it holds this many bytes of frames ..."""

SHARD_UTTERANCES = 512
"""... or this many utterances: so much work at most is done again after a kill."""

_CHANGED = "the file changed between scan and extraction; run the extraction again"


@dataclass(kw_only=True)
class ExtractReport:
    """What an extraction did. `utterances` = `before` + `extracted` + the skipped of this corpus at whatever stage."""

    corpus: str
    feature_set: str
    utterances: int
    before: int
    extracted: int = 0
    audio_s: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Row:
    utterance_id: str
    path: str
    start_s: float | None
    end_s: float | None
    content_hash: str
    duration_s: float


def extract(
    cache: Cache,
    corpus: str,
    features: FeatureSet,
    *,
    format: ShardFormat = "hdf5",
    begin: Callable[[int, float], Advance] | None = None,
    on_wait: Callable[[str], None] | None = None,
    workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    shard_utterances: int = SHARD_UTTERANCES,
) -> ExtractReport:
    """Extract what a feature set lacks of a scanned corpus.

    Args:
        cache: where the rows are and the shards go.
        corpus: a corpus that was scanned.
        features: what to compute.
        format: of new shards.
        begin: told the number of utterances and the seconds of audio to come; returns what to call as they are done.
        on_wait: told when another extraction of the same corpus and feature set has to be waited for.
        workers: threads that decode and compute; None takes one a core, at most eight.
        shard_bytes: closes a shard.
        shard_utterances: closes a shard.

    Raises:
        UsageError: if the corpus is not in the cache.
        TfserError: if its rows are damaged, the disk is or would be full, or values do not fit the dtype. What was
            finished stays.
    """
    start = time.monotonic()
    if corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    folder = cache.features / features.folder / corpus
    with cache.lock(f"features/{features.folder}/{corpus}", on_wait):
        sweep(folder)
        have, repaired = take_stock(folder)
        root, rows, unread = _rows(cache, corpus)
        report = ExtractReport(
            corpus=corpus, feature_set=features.name, utterances=len(rows) + unread, before=0, repaired=repaired
        )
        todo: list[_Row] = []
        for row in rows:
            if (row.utterance_id, row.content_hash) in have:
                report.before += 1
            elif row.duration_s < features.minimum_s:
                reason = f"{row.duration_s * 1000:.0f} ms of audio, shorter than one window of {features.minimum_s * 1000:.0f} ms"
                report.skipped.append(_skip(corpus, features, row, reason))
            else:
                todo.append(row)
        if todo:
            _check_disk(cache, features, todo)
        with _disk(folder, report):
            if todo or have or report.skipped:
                _describe(cache, features)
            if todo:
                advance = begin(len(todo), sum(row.duration_s for row in todo)) if begin is not None else None
                _run(report, folder, root, features, todo, format, advance, workers, shard_bytes, shard_utterances)
            _write_skipped(folder, report.skipped)
    report.seconds = time.monotonic() - start
    return report


def take_stock(folder: Path) -> tuple[set[tuple[str, str]], list[str]]:
    """Return which utterances a folder holds, each with its content hash, and the shards that had to go, one line each.

    Shards that are gone or cut off, and those that were never finished, are removed, so that their utterances are
    extracted again. Call it while holding the lock of the folder's writers.

    Raises:
        TfserError: if the system does not let rows be read, which is no reason to remove them.
    """
    if not folder.is_dir():
        return set(), []
    problems: list[str] = []
    table = read_rows(folder, report=problems.append)
    broken = {problem.split(f"{ROWS_SUFFIX}: ", 1)[0] for problem in problems}
    for path in folder.glob(f"[!.]*{ROWS_SUFFIX}"):
        if str(path).removesuffix(ROWS_SUFFIX) in broken:
            try:
                path.read_bytes()
            except OSError as error:
                raise TfserError(f"{path}: cannot be read ({error.strerror or error})") from error
            path.unlink()
    named = set(table["shard"].to_pylist())
    for suffix in SUFFIXES.values():
        for path in folder.glob(f"[!.]*{suffix}"):
            if path.name not in named:
                path.unlink()
    return set(zip(table["utterance_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True)), problems


def _rows(cache: Cache, corpus: str) -> tuple[Path, list[_Row], int]:
    """Return the root of a corpus, its readable utterances, and the number of unreadable ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["utterance_id", "path", "start_s", "end_s", "content_hash", "duration_s"]
    folder = cache.corpus(corpus)
    try:
        root = Path(read_json(folder / "corpus.json")["root"])
        table = pq.read_table(folder / "utterances.parquet", columns=columns, memory_map=False)
    except (TfserError, OSError, KeyError, TypeError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TfserError(f"{folder}: the rows of {corpus} cannot be read ({reason}); scan it again") from error
    values = [table[name].to_pylist() for name in columns]
    rows = [
        _Row(utterance_id=u, path=p, start_s=s, end_s=e, content_hash=h, duration_s=d)
        for u, p, s, e, h, d in zip(*values, strict=True)
        if h is not None
    ]
    return root, rows, table.num_rows - len(rows)


def _check_disk(cache: Cache, features: FeatureSet, todo: list[_Row]) -> None:
    need = sum(features.bytes_for(row.duration_s) + 256 for row in todo) + (1 << 16)
    free = shutil.disk_usage(cache.root).free
    if need > free:
        raise TfserError(
            f"{features.name} of {len(todo)} utterances needs about {need / 1e9:.2f} GB, and {cache.root} has "
            f"{free / 1e9:.2f} GB free; make room, or choose another folder with --cache, or half the size with --dtype float16"
        )


def _describe(cache: Cache, features: FeatureSet) -> None:
    """Write down what the feature set is, unless it stands there already."""
    path = cache.features / features.folder / "feature_set.json"
    about = {
        "name": features.name,
        "kind": features.kind,
        "fingerprint": features.fingerprint,
        "dim": features.dim,
        "dtype": features.dtype,
        "hop_s": features.hop_s,
        "config": dict(features.config),
    }
    with contextlib.suppress(TfserError):
        stored = read_json(path)
        if isinstance(stored, dict) and "created_at" in stored and {k: stored.get(k) for k in about} == about:
            return
    with cache.lock(f"features/{features.folder}"):  # extractions of other corpora write it too
        sweep(path.parent)
        write_json(path, {**about, "created_at": now()})


def _skip(corpus: str, features: FeatureSet, row: _Row, reason: str) -> Skipped:
    """Return what to list. A file that changed is there to be extracted: its stage excuses nothing before the audits."""
    return Skipped(
        corpus=corpus,
        utterance_id=row.utterance_id,
        path=row.path,
        stage=f"{'changed' if reason == _CHANGED else 'extract'}:{features.name}",
        reason=reason,
    )


def _write_skipped(folder: Path, skipped: list[Skipped]) -> None:
    """Write the list where it changed; an empty list where there was none is no file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "skipped.parquet"
    table = skipped_table(skipped)
    try:
        same = pq.read_table(path, memory_map=False).equals(table)
    except FileNotFoundError:
        same = not skipped
    except (OSError, pa.ArrowException):  # damaged
        same = False
    if not same:
        write_table(path, table)


def _run(
    report: ExtractReport,
    folder: Path,
    root: Path,
    features: FeatureSet,
    todo: list[_Row],
    format: ShardFormat,
    advance: Advance | None,
    workers: int | None,
    shard_bytes: int,
    shard_utterances: int,
) -> None:
    members: list[ShardMember] = []
    size = 0

    def close() -> None:
        nonlocal members, size
        if members:
            digest = hashlib.sha256(features.fingerprint.encode())
            for member in members:
                digest.update(f"\n{member.utterance_id}\t{member.content_hash}".encode())
            words = {"feature_set": features.name, "fingerprint": features.fingerprint, "corpus": report.corpus}
            shard = write_shard(
                folder, digest.hexdigest()[:16], members, dtype=features.dtype, format=format, attributes=words
            )
            write_rows(shard)
            report.extracted += len(members)
            report.bytes += shard.size_bytes
        members, size = [], 0

    try:
        for row, frames, reason in _frames(root, features, todo, workers):
            if frames is None:
                report.skipped.append(_skip(report.corpus, features, row, reason or "unreadable"))
            else:
                members.append(ShardMember(utterance_id=row.utterance_id, content_hash=row.content_hash, frames=frames))
                size += frames.size * np.dtype(features.dtype).itemsize
                report.audio_s += row.duration_s
            if size >= shard_bytes or len(members) >= shard_utterances:
                close()
            if advance is not None:
                advance(1, row.duration_s)
    except KeyboardInterrupt:
        close()
        raise
    close()


def _frames(
    root: Path, features: FeatureSet, todo: list[_Row], workers: int | None
) -> Iterator[tuple[_Row, npt.NDArray[Any] | None, str | None]]:
    extractor: Extractor = features.build()

    def compute(row: _Row) -> tuple[_Row, npt.NDArray[Any] | None, str | None]:
        path = audio_path(root, row.path)
        try:
            audio = decode(path, row.start_s, row.end_s)
            if content_hash(audio) != row.content_hash:
                return row, None, _CHANGED
            samples = resample(audio.samples, audio.sample_rate, features.sample_rate_hz)
            return row, _narrow(extractor.extract(samples), features.dtype), None
        except MissingExtraError:
            raise
        except TfserError as error:
            return row, None, str(error).removeprefix(f"{path}: ")

    return in_order(compute, todo, workers)


def _narrow(frames: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return the frames in their storage dtype, or as they are where they do not fit: the shard's writer says so."""
    with np.errstate(over="ignore"):
        narrow = frames.astype(dtype, copy=False)
    return narrow if np.isfinite(narrow).all() else frames


@contextlib.contextmanager
def _disk(folder: Path, report: ExtractReport) -> Iterator[None]:
    """Turn a full or broken disk into one line that says what of this extraction is safe."""
    try:
        yield
    except OSError as error:
        way_out = f"{report.extracted} utterances of this run are safe; make room and run the same command again"
        with disk_errors(folder, way_out):
            raise error
