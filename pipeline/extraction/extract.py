"""Extraction: utterance rows -> features -> shards, exactly what is missing and nothing twice.

An utterance is extracted when a feature set holds no frames for its content hash. Several feature sets of one pass (the
layers of an encoder) are made from the same run over the audio, each of them getting what it lacks. Frames are collected as
the engine yields them and closed into a shard at a fixed size; front-ends yield in the order of the rows, so that where an
extraction was killed does not show in what the next one writes. A shard counts from the moment that its row file exists;
whatever a killed writer left before that is swept away. What is left of a shard that was cut off or whose rows are damaged is
moved to the cache's folder `removed`, and its utterances are extracted again.

Several processes may share one extraction (`Compute.part`), on one machine or on many with one disk. An extraction of all holds
the lock of its feature set and corpus to its end; a part holds the lock of that part to its end, and the feature set's only while
it looks at what is there and while it writes a shard. What somebody else has stored by then is not stored again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.fill_features import other_encoder
from tfser.manifests.catalogue.stored import FEATURE_SET, read_corpus, read_feature_set
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, unknown
from tfser.manifests.wording import count, size
from tfser.pipeline.extraction.audio_loading import audio_loader
from tfser.pipeline.extraction.extract_report import ExtractReport
from tfser.pipeline.extraction.feature_writer import FeatureWriter, Share
from tfser.pipeline.extraction.new_shards import AS_USUAL, ShardWriting, check_room
from tfser.pipeline.extraction.on_ray import results_of_cluster
from tfser.pipeline.features.engine import AudioRow, Compute, Result, Tell
from tfser.pipeline.features.registry import FeatureSet, Pass, alone
from tfser.pipeline.scanning.measure import Advance, disk_errors


def extract(cache: Cache, corpus: str, features: FeatureSet, *, workers: int | None = None, **how: Any) -> ExtractReport:
    """Extract what one feature set lacks of a scanned corpus; see `extract_pass`.

    Args:
        cache: where the rows are and the shards go.
        corpus: a corpus that was scanned.
        features: what to compute.
        workers: threads that decode.
        how: fields of `ShardWriting`.

    Raises:
        UsageError: if the corpus is not in the cache.
        TfserError: if its rows are damaged, the disk is or would be full, or values do not fit the dtype. What was
            finished stays.
    """
    (report,) = extract_pass(cache, corpus, alone(features), Compute(workers=workers), ShardWriting(**how))
    if report.refused is not None:
        raise TfserError(report.refused)
    return report


def extract_pass(cache: Cache, corpus: str, job: Pass, compute: Compute, how: ShardWriting = AS_USUAL) -> list[ExtractReport]:
    """Extract what the feature sets of a pass lack of a scanned corpus, in one run over the audio.

    Args:
        cache: where the rows are and the shards go.
        corpus: a corpus that was scanned.
        job: what to compute.
        compute: where.
        how: sizes and format of new shards, and who is told.

    Returns:
        A report for each feature set. One in which the values of most utterances do not fit is `refused`; the others go on.

    Raises:
        UsageError: if the corpus is not in the cache.
        TfserError: if its rows are damaged, the disk is or would be full, or the engine fails. What was finished stays.
    """
    start = time.monotonic()
    if corpus not in cache.corpora():
        raise unknown("corpus", corpus, cache.corpora())
    with contextlib.ExitStack() as locks:
        for features in sorted(job.sets, key=lambda of: of.folder):  # everybody in the same order: nobody waits in a circle
            lock = f"features/{features.folder}/{corpus}"
            locks.enter_context(cache.lock(lock if compute.part is None else f"{lock}/{compute.part.name}", how.on_wait))
        # After the locks: what another extraction has just finished is in stock now, and is not made again.
        root, rows, unread = _rows(cache, corpus)
        share = Share(cache, corpus, compute.part, how.on_wait)
        writers = [FeatureWriter(share, features, len(rows), unread, how) for features in job.sets]
        wanted = [[writer.wants(row) for writer in writers] for row in rows]  # all are asked: each lists what it skips
        todo = [row for row, by_writer in zip(rows, wanted, strict=True) if any(by_writer)]
        # Disk space is looked at before the encoder is loaded, which may take minutes and gigabytes of its own.
        if todo:
            _check_disk(cache, writers, todo, compute.tell if job.is_encoder else None)
        with _disk(writers):
            if todo:
                advance = how.begin(len(todo), sum(row.duration_s for row in todo)) if how.begin is not None else None
                _run(writers, root, job, todo, compute, advance)
            # Also where nothing was to do: what a feature set is and who was left out are written even if every
            # utterance was too short.
            for writer in writers:
                writer.leave()
                _tell_of_namesakes(cache, writer.features, compute.tell)
    for writer in writers:
        writer.report.seconds = time.monotonic() - start
    return [writer.report for writer in writers]


def _tell_of_namesakes(cache: Cache, features: FeatureSet, tell: Tell) -> None:
    """Say where the cache holds another encoder under this name, and how each of the two is asked for then."""
    mine = {"source": dict(features.origin), "config": dict(features.config)}
    for path in sorted(cache.feature_root.glob(f"*/{FEATURE_SET}")) if features.origin else []:
        with contextlib.suppress(DamagedError, UnreadableError):  # those are named by whoever needs them
            about = read_feature_set(cache, path.parent)
            if about["name"] == features.name and other_encoder(about, mine):
                tell(
                    f"{features.name}: another encoder of this name is in the cache, from {about['source']['weights']}; ask for "
                    f"this one by --features {features.name}@{features.fingerprint[:8]}, for that one by "
                    f"{features.name}@{about['fingerprint'][:8]}"
                )


def _rows(cache: Cache, corpus: str) -> tuple[Path, list[AudioRow], int]:
    """Return the root of a corpus, its readable utterances, and the number of unreadable ones."""
    columns = ["utterance_id", "path", "start_s", "end_s", "content_hash", "duration_s"]
    stored = read_corpus(cache, corpus)
    values = [stored.utterances[name].to_pylist() for name in columns]
    rows = [
        AudioRow(utterance_id=u, path=p, start_s=s, end_s=e, content_hash=h, duration_s=d)
        for u, p, s, e, h, d in zip(*values, strict=True)
        if h is not None
    ]
    return Path(stored.about["root"]), rows, stored.utterances.num_rows - len(rows)


def _check_disk(cache: Cache, writers: Sequence[FeatureWriter], todo: Sequence[AudioRow], tell: Tell | None) -> None:
    need = sum(writer.need(todo) for writer in writers) + (1 << 16)
    names = ", ".join(writer.features.name for writer in writers)
    free = check_room(cache, names, len(todo), need)
    if tell is not None:
        hours = sum(row.duration_s for row in todo) / 3600
        tell(f"{names} of {count(len(todo), 'utterance')} ({hours:.2f} h) will take about {size(need)}; {size(free)} are free")


def _run(
    writers: Sequence[FeatureWriter], root: Path, job: Pass, todo: Sequence[AudioRow], compute: Compute, advance: Advance | None
) -> None:
    try:
        with contextlib.closing(_results(root, job, todo, compute)) as results:
            for result in results:
                frames = result.frames or (None,) * len(writers)
                for writer, of in zip(writers, frames, strict=True):
                    writer.take(result.row, of, result.reason)
                if advance is not None:
                    advance(1, result.row.duration_s)
                if all(writer.report.refused is not None for writer in writers):
                    break
    except (KeyboardInterrupt, TfserError):  # the disk is well: what is done is kept
        for writer in writers:
            writer.close()
        raise
    for writer in writers:
        writer.finish()


def _results(root: Path, job: Pass, todo: Sequence[AudioRow], compute: Compute) -> Generator[Result]:
    if compute.cluster is not None:
        yield from results_of_cluster(compute.cluster, root, job, todo, compute)
        return
    yield from job.engine(todo, audio_loader(root, job.sample_rate_hz), compute)


@contextlib.contextmanager
def _disk(writers: Sequence[FeatureWriter]) -> Iterator[None]:
    """Turn a full or broken disk into one line that says what of this extraction is safe."""
    try:
        yield
    except OSError as error:
        folder = writers[0].folder if len(writers) == 1 else writers[0].cache.feature_root
        safe = sum(writer.report.extracted for writer in writers)
        way_out = f"{safe} utterances of this run are safe; make room and run the same command again"
        with disk_errors(folder, way_out):
            raise error
