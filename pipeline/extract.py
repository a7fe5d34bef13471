"""Extraction: utterance rows -> features -> shards, exactly what is missing and nothing twice.

An utterance is extracted when its feature set holds no frames for its content hash. Frames are collected in the order of the
rows and closed into a shard at a fixed size, so that where an extraction was killed does not show in what the next one
writes. A shard counts from the moment that its row file exists; whatever a killed writer left before that is swept away.
"""

from __future__ import annotations

import errno
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
from tfser.manifests.errors import TfserError
from tfser.manifests.files import read_json, sweep, write_json, write_table
from tfser.manifests.utterances import Skipped, skipped_table
from tfser.pipeline.audio import AudioError, content_hash, decode, resample
from tfser.pipeline.scan import Advance, audio_path, in_order, now
from tfser.pipeline.shard_rows import read_rows, write_rows
from tfser.pipeline.shards import ShardFormat, ShardMember, write_shard
from tfser.pipeline.upstreams import Extractor, FeatureSet

SHARD_BYTES = 128 * 2**20
"""A shard is closed once it holds this many bytes of frames ..."""

SHARD_UTTERANCES = 512
"""... or this many utterances: so much work at most is done again after a kill."""


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
        TfserError: if the disk is or would be full, or values do not fit the dtype. What was finished stays.
    """
    start = time.monotonic()
    about = read_json(cache.corpus(corpus) / "corpus.json")
    folder = cache.features / features.folder / corpus
    with cache.lock(f"features/{features.folder}/{corpus}", on_wait):
        sweep(folder)
        repaired = drop_broken(folder)
        rows, unread = _rows(cache, corpus)
        have = _have(folder)
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
            _describe(cache, features)
            advance = begin(len(todo), sum(row.duration_s for row in todo)) if begin is not None else None
            _run(report, folder, Path(about["root"]), features, todo, format, advance, workers, shard_bytes, shard_utterances)
        _write_skipped(folder, report.skipped)
    report.seconds = time.monotonic() - start
    return report


def drop_broken(folder: Path) -> list[str]:
    """Remove the rows of shards that are gone or cut off, so that their utterances are extracted again; say which."""
    problems: list[str] = []
    if folder.is_dir():
        bad: list[str] = []
        read_rows(folder, report=bad.append)
        for path in sorted(folder.glob("*.rows.parquet")):
            if any(path.name in problem for problem in bad):
                path.unlink()
        problems = bad
    return problems


def _rows(cache: Cache, corpus: str) -> tuple[list[_Row], int]:
    """Return the readable utterances of a corpus, and the number of unreadable ones."""
    import pyarrow.parquet as pq

    columns = ["utterance_id", "path", "start_s", "end_s", "content_hash", "duration_s"]
    table = pq.read_table(cache.corpus(corpus) / "utterances.parquet", columns=columns)
    values = [table[name].to_pylist() for name in columns]
    rows = [
        _Row(utterance_id=u, path=p, start_s=s, end_s=e, content_hash=h, duration_s=d)
        for u, p, s, e, h, d in zip(*values, strict=True)
        if h is not None
    ]
    return rows, table.num_rows - len(rows)


def _have(folder: Path) -> set[tuple[str, str]]:
    """Return the utterances that were extracted, each with the content hash that it had."""
    if not folder.is_dir():
        return set()
    table = read_rows(folder)
    return set(zip(table["utterance_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))


def _check_disk(cache: Cache, features: FeatureSet, todo: list[_Row]) -> None:
    need = sum(features.bytes_for(row.duration_s) + 256 for row in todo)
    free = shutil.disk_usage(cache.root).free
    if need > free:
        raise TfserError(
            f"{features.name} of {len(todo)} utterances needs about {need / 1e9:.2f} GB, and {cache.root} has {free / 1e9:.2f} GB "
            "free; make room, or choose another folder with --cache, or half the size with --dtype float16"
        )


def _describe(cache: Cache, features: FeatureSet) -> None:
    path = cache.features / features.folder / "feature_set.json"
    if not path.exists():
        write_json(
            path,
            {
                "name": features.name,
                "kind": features.kind,
                "fingerprint": features.fingerprint,
                "dim": features.dim,
                "dtype": features.dtype,
                "hop_s": features.hop_s,
                "config": dict(features.config),
                "created_at": now(),
            },
        )


def _skip(corpus: str, features: FeatureSet, row: _Row, reason: str) -> Skipped:
    return Skipped(
        corpus=corpus,
        utterance_id=row.utterance_id,
        path=row.path,
        stage=f"extract:{features.name}",
        reason=reason,
    )


def _write_skipped(folder: Path, skipped: list[Skipped]) -> None:
    """Write the list where it changed; an empty list where there was none is no file."""
    import pyarrow.parquet as pq

    path = folder / "skipped.parquet"
    table = skipped_table(skipped)
    if (path.exists() and not pq.read_table(path).equals(table)) or (skipped and not path.exists()):
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
            try:
                shard = write_shard(
                    folder, digest.hexdigest()[:16], members, dtype=features.dtype, format=format, attributes=words
                )
                write_rows(shard)
            except OSError as error:
                raise _no_room(error, folder, report) from error
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
        except AudioError as error:
            return row, None, str(error).removeprefix(f"{path}: ")
        if content_hash(audio) != row.content_hash:
            return row, None, "the file changed between scan and extraction; run the extraction again"
        samples = resample(audio.samples, audio.sample_rate, features.sample_rate_hz)
        return row, extractor.extract(samples).astype(features.dtype, copy=False), None

    return in_order(compute, todo, workers)


def _no_room(error: OSError, folder: Path, report: ExtractReport) -> TfserError:
    done = f"{report.extracted} utterances of this run are safe; make room and run the same command again"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TfserError(f"the disk is full at {folder}; {done}")
    return TfserError(f"{folder}: cannot be written ({error.strerror or error}); {done}")
