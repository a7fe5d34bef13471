"""Extraction: utterance rows -> features -> shards, exactly what is missing and nothing twice.

An utterance is extracted when a feature set holds no frames for its content hash. Several feature sets of one pass (the
layers of an encoder) are made from the same run over the audio, each of them getting what it lacks. Frames are collected as
the engine yields them and closed into a shard at a fixed size; front-ends yield in the order of the rows, so that where an
extraction was killed does not show in what the next one writes. A shard counts from the moment that its row file exists;
whatever a killed writer left before that is swept away. What is left of a shard that was cut off or whose rows are damaged is
moved to the cache's folder `removed`, and its utterances are extracted again.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.fill_features import other_encoder
from tfser.manifests.catalogue.stored import FEATURE_SET, SKIPPED, read_corpus, read_feature_set, read_skipped
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, unknown
from tfser.manifests.files import sweep
from tfser.manifests.utterances import Skipped, skipped_table
from tfser.pipeline.extract_report import ExtractReport
from tfser.pipeline.features.engine import AudioRow, Compute, Result, Samples, Tell
from tfser.pipeline.features.feature_set import write_description
from tfser.pipeline.features.registry import FeatureSet, Pass, alone
from tfser.pipeline.measure import Advance, audio_path, disk_errors
from tfser.pipeline.new_shards import AS_USUAL, ShardWriting, store_members
from tfser.pipeline.shards.writer import ShardMember, StorageDtype
from tfser.pipeline.sound.audio import content_hash, decode, resample
from tfser.pipeline.sound.recording import AudioError, TooLongError
from tfser.pipeline.sound.video import MissingExtraError
from tfser.pipeline.stock import take_stock

SHARD_SECONDS = 300.0
"""A shard of an encoder's frames is closed, too, once it holds what was computed in so many seconds."""

ENOUGH = 64
"""After so many utterances a feature set ends where most of them overflow; before, a few odd ones decide nothing."""

_CHANGED = "the file changed between scan and extraction, or its row did; run the extraction again, which decodes it anew"


def extract(
    cache: Cache, corpus: str, features: FeatureSet, *, workers: int | None = None, **how: Any
) -> ExtractReport:
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


def extract_pass(
    cache: Cache, corpus: str, job: Pass, compute: Compute, how: ShardWriting = AS_USUAL
) -> list[ExtractReport]:
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
            locks.enter_context(cache.lock(f"features/{features.folder}/{corpus}", how.on_wait))
        # After the locks: what another extraction has just finished is in stock now, and is not made again.
        root, rows, unread = _rows(cache, corpus)
        writers = [_Writer(cache, corpus, features, len(rows), unread, how) for features in job.sets]
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
                writer.describe()
                _write_skipped(cache, writer.folder / SKIPPED, writer.report.skipped)
                _tell_of_namesakes(cache, writer.features, compute.tell)
    for writer in writers:
        writer.report.seconds = time.monotonic() - start
    return [writer.report for writer in writers]


class _Writer:
    """What one feature set of a pass lacks of a corpus, and the shards that it is written to."""

    def __init__(
        self, cache: Cache, corpus: str, features: FeatureSet, readable: int, unreadable: int, how: ShardWriting
    ) -> None:
        self.cache, self.corpus, self.features, self.how = cache, corpus, features, how
        self.folder = cache.feature_root / features.folder / corpus
        sweep(self.folder)
        self._have, repaired = take_stock(cache, self.folder)
        self._wanted: set[str] = set()
        self._members: list[ShardMember] = []
        self._size, self._opened = 0, 0.0
        self._most_s = SHARD_SECONDS if features.origin else math.inf
        self._described = False
        self._taken, self._overflown = 0, list[tuple[AudioRow, str]]()
        self.report = ExtractReport(
            corpus=corpus,
            feature_set=features.name,
            utterances=readable + unreadable,
            before=0,
            unreadable=unreadable,
            repaired=repaired,
        )

    def wants(self, row: AudioRow) -> bool:
        """Tell whether a row is to be extracted, and count or list it if not."""
        if (row.utterance_id, row.content_hash) in self._have:
            self.report.before += 1
            return False
        if row.duration_s < self.features.minimum_s:
            least = f"{self.features.minimum_s * 1000:g} ms"
            self.skip(row, f"{row.duration_s * 1000:.4g} ms of audio, shorter than one window of {least}")
            return False
        self._wanted.add(row.utterance_id)
        return True

    def need(self, rows: Sequence[AudioRow]) -> int:
        """Return about how many bytes the wanted ones of some rows will take."""
        mine = [row for row in rows if row.utterance_id in self._wanted]
        return sum(self.features.bytes_for(row.duration_s) + 256 for row in mine)

    def describe(self) -> None:
        """Write down what the feature set is, if there is anything of it; not before, lest an encoder that does not load leave
        an empty feature set behind."""
        if not self._described and (self._wanted or self._have or self.report.skipped):
            write_description(self.cache, self.features)
            self._described = True

    def skip(self, row: AudioRow, reason: str) -> None:
        """List a row that has no frames."""
        self.report.skipped.append(_skip(self.corpus, self.features, row, reason))

    def take(self, row: AudioRow, frames: npt.NDArray[Any] | None, reason: str | None) -> None:
        """Collect the frames of a row if they are wanted, or list why it has none; close a full shard.

        Values that cannot be stored are that row's own affair, unless most rows have them: then the feature set ends, what it
        has is kept, and nothing more is taken.
        """
        report = self.report
        if row.utterance_id not in self._wanted or report.refused is not None:
            return
        if frames is None:
            self.skip(row, reason or "unreadable")
            return
        if (narrow := narrowed(frames, self.features.dtype)) is None:
            self._overflown.append((row, why_not_stored(frames, self.features.dtype, self.features.config)))
            if report.before + self._taken + len(self._overflown) >= ENOUGH:
                self._refuse_if_most()
            return
        self._taken += 1
        if not self._members:
            self._opened = time.monotonic()
        self._members.append(ShardMember(utterance_id=row.utterance_id, content_hash=row.content_hash, frames=narrow))
        self._size += narrow.nbytes
        report.audio_s += row.duration_s
        # A shard closes by size, by number and, for encoders, by age: a kill costs what is in memory, and
        # minutes of a GPU are worth more than a full shard.
        is_old = time.monotonic() - self._opened >= self._most_s
        if self._size >= self.how.shard_bytes or len(self._members) >= self.how.shard_utterances or is_old:
            self.close()

    def finish(self) -> None:
        """Write what is left; settle whether what overflowed is a few utterances or the feature set."""
        self.close()
        self._refuse_if_most()
        if self.report.refused is None:
            for row, reason in self._overflown:
                self.skip(row, reason)

    def _refuse_if_most(self) -> None:
        """End the feature set where more utterances overflow than are stored."""
        lost, stored = len(self._overflown), self.report.before + self._taken
        if lost > stored:
            name, (row, reason) = self.features.name, self._overflown[0]
            self.report.refused = (
                f"{name} ends: the features of {lost:,} of {lost + stored:,} utterances cannot be stored, first of "
                f"{row.utterance_id}: {reason}; `tfser cache rm --features {name}` removes what it has"
            )

    def close(self) -> None:
        """Write what is collected as a shard."""
        members, self._members, self._size = self._members, [], 0
        if not members:
            return
        self.describe()
        layers = int(self.features.config.get("layers", 1))
        size = store_members(self.cache, self.folder, self.features, members, self.how.format or "hdf5", layers)
        self.report.extracted += len(members)
        self.report.bytes += size


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


def _check_disk(cache: Cache, writers: Sequence[_Writer], todo: Sequence[AudioRow], tell: Tell | None) -> None:
    need = sum(writer.need(todo) for writer in writers) + (1 << 16)
    free = shutil.disk_usage(cache.root).free
    names = ", ".join(writer.features.name for writer in writers)
    if need > free:
        raise TfserError(
            f"{names} of {len(todo)} utterances needs about {_size(need)}, and {cache.root} has "
            f"{_size(free)} free; make room, or choose another folder with --cache, or half the size with --dtype float16"
        )
    if tell is not None:
        hours = sum(row.duration_s for row in todo) / 3600
        audio = f"{len(todo):,} utterances ({hours:.2f} h)"
        tell(f"{names} of {audio} will take about {_size(need)}; {_size(free)} are free")


def _size(number: float) -> str:
    """Return a number of bytes for people.

    >>> _size(3_400_000), _size(71_234_000_000)
    ('3.4 MB', '71.2 GB')
    """
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _skip(corpus: str, features: FeatureSet, row: AudioRow, reason: str) -> Skipped:
    """Return what to list. A file that changed is there to be extracted: its stage excuses nothing before the audits."""
    return Skipped(
        corpus=corpus,
        utterance_id=row.utterance_id,
        path=row.path,
        stage=f"{'changed' if reason == _CHANGED else 'extract'}:{features.name}",
        reason=reason,
    )


def _write_skipped(cache: Cache, path: Path, skipped: list[Skipped]) -> None:
    """Write the list where it changed; an empty list where there was none is no file."""
    try:
        if read_skipped(cache, path).equals(skipped_table(skipped)):
            return
    except DamagedError:
        cache.put_away(path)
    cache.write_table(path, skipped_table(skipped))


def _run(
    writers: Sequence[_Writer], root: Path, job: Pass, todo: Sequence[AudioRow], compute: Compute, advance: Advance | None
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
    def load(row: AudioRow) -> Samples:
        path = audio_path(root, row.path)
        try:
            # A file that was replaced by a much longer one is not decoded to its end only to find that.
            audio = decode(path, row.start_s, row.end_s, max_duration_s=row.duration_s + 1.0)
        except MissingExtraError:
            raise
        except TooLongError:
            raise TfserError(_CHANGED) from None
        except AudioError as error:
            raise TfserError(error.reason) from error
        if content_hash(audio) != row.content_hash:
            raise TfserError(_CHANGED)
        return resample(audio.samples, audio.sample_rate, job.sample_rate_hz)

    yield from job.engine(todo, load, compute)


def narrowed(frames: npt.NDArray[Any], dtype: StorageDtype) -> npt.NDArray[Any] | None:
    """Return the frames in their storage dtype; None where they do not fit."""
    with np.errstate(over="ignore"):
        narrow = frames.astype(dtype, copy=False)
    return narrow if np.isfinite(narrow).all() else None


def why_not_stored(frames: npt.NDArray[Any], dtype: str, config: Mapping[str, Any]) -> str:
    """Say why frames of a feature set's configuration cannot be stored, and the way out."""
    if np.isfinite(frames).all():
        return f"{float(np.abs(frames).max()):g} is too large for {dtype}; store float32 instead (--dtype float32)"
    why = "its features hold NaN or infinite values; they are not stored"
    if config.get("precision") == "float16":
        why += ": half precision overflowed, so compute in bfloat16 or float32 (--precision)"
    return why


@contextlib.contextmanager
def _disk(writers: Sequence[_Writer]) -> Iterator[None]:
    """Turn a full or broken disk into one line that says what of this extraction is safe."""
    try:
        yield
    except OSError as error:
        folder = writers[0].folder if len(writers) == 1 else writers[0].cache.feature_root
        safe = sum(writer.report.extracted for writer in writers)
        way_out = f"{safe} utterances of this run are safe; make room and run the same command again"
        with disk_errors(folder, way_out):
            raise error
