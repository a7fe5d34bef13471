"""Measuring: what the audio of each utterance is like, by as many threads as there are cores.

What comes in: utterances, and what is known of them from an earlier scan. What goes out: for each its stamp (size and time of
its file), length, level, flags and content hash, or why it cannot be decoded. A file is decoded only if its stamp changed.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tfser.manifests.errors import TfserError
from tfser.manifests.utterances import Measured, Utterance
from tfser.pipeline import video
from tfser.pipeline.audio import VIDEO_SUFFIXES, AudioError, content_hash, decode, describe

Advance = Callable[[int, float], None]
"""Called with the number of utterances and the seconds of audio that were finished since the last call."""

ODD_LENGTH = 8.0
"""An utterance this many times longer or shorter than the corpus's median is flagged `long` or `short`."""

SegmentKey = tuple[str, float | None, float | None]
"""Path, start and end: what was measured."""

T = TypeVar("T")
R = TypeVar("R")

_Stamp = tuple[int, int]


def segment_key(path: str, start_s: float | None, end_s: float | None) -> SegmentKey:
    """Return the key of a segment: None for an edge that is the file's own, which tables may write as not-a-number."""

    def edge(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else value

    return path, edge(start_s), edge(end_s)


def audio_path(root: str | Path, path: str) -> Path:
    """Return where the file of an utterance row lies."""
    return Path(root, path)  # an absolute path stands for itself


def threads_for(workers: int | None) -> int:
    """Return how many threads decode: as many as asked for, or one a core, at most eight."""
    return workers or min(8, os.cpu_count() or 1)


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
    """Yield `function(item)` in the order of the items, a bounded number of them worked on at once by threads."""
    count = threads_for(workers)
    with ThreadPoolExecutor(count) as pool:
        pending: list[Future[R]] = []
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * count:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()


@contextlib.contextmanager
def disk_errors(folder: Path, way_out: str) -> Iterator[None]:
    """Turn what the system says of a disk that is full, or cannot be written, into one clear line.

    Raises:
        TfserError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TfserError(f"the disk is full at {folder}; {way_out}") from error
        raise TfserError(f"{folder}: cannot be written ({error.strerror or error}); {way_out}") from error


def measure_all(
    root: Path,
    utterances: Sequence[Utterance],
    known: Mapping[SegmentKey, tuple[Measured, str | None]],
    begin: Callable[[int], Advance] | None,
    workers: int | None,
) -> tuple[list[Measured], dict[str, str], int]:
    """Return what is known or now measured of each utterance, the reasons of the unreadable ones, and how many were decoded now.

    Args:
        root: of the corpus.
        utterances: to measure.
        known: what was measured before, with the reason where it was unreadable; the stamp in it decides whether it holds.
        begin: told how many utterances will be decoded; returns what to call as they are.
        workers: decoding threads; None takes one a core, at most eight.

    Raises:
        MissingExtraError: if there are videos to decode and nothing that reads them is installed.
    """
    stamps: dict[str, _Stamp | str] = {}
    measured: list[Measured | None] = []
    reasons: dict[str, str] = {}
    for u in utterances:
        if (stamp := stamps.get(u.path)) is None:
            stamp = stamps[u.path] = _stamp(audio_path(root, u.path))
        before, reason = known.get(segment_key(u.path, u.start_s, u.end_s), (None, None))
        if isinstance(stamp, str):
            measured.append(Measured())
            reasons[u.utterance_id] = stamp
        elif before is not None and (before.size, before.mtime_ns) == stamp:
            measured.append(before)
            if before.content_hash is None:
                reasons[u.utterance_id] = reason or "unreadable"
        else:
            measured.append(None)
    todo = [i for i, m in enumerate(measured) if m is None]
    videos = {utterances[i].path for i in todo if Path(utterances[i].path).suffix.lower() in VIDEO_SUFFIXES}
    if videos:
        video.need(f"{root} holds {len(videos):,} video {'file' if len(videos) == 1 else 'files'} to read")
    advance = begin(len(todo)) if begin is not None and todo else None
    decoded = 0
    jobs = ((root, utterances[i], stamps[utterances[i].path]) for i in todo)
    for i, (result, reason) in zip(todo, in_order(lambda job: _measure(*job), jobs, workers), strict=True):
        measured[i] = result
        decoded += result.content_hash is not None
        if reason is not None:
            reasons[utterances[i].utterance_id] = reason
        if advance is not None:
            advance(1, result.duration_s or 0.0)
    return [m for m in measured if m is not None], reasons, decoded


def _stamp(path: Path) -> _Stamp | str:
    """Return size and modification time of a file, or why it has none."""
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a path with a zero byte
        return str(error)
    return status.st_size, status.st_mtime_ns


def _measure(root: Path, utterance: Utterance, stamp: _Stamp | str) -> tuple[Measured, str | None]:
    path = audio_path(root, utterance.path)
    if isinstance(stamp, str):
        return Measured(), stamp
    try:
        if path.is_file():
            path.open("rb").close()  # libsndfile would not say why it cannot
    except OSError as error:
        return Measured(), error.strerror or str(error)
    size, mtime_ns = stamp
    try:
        audio = decode(path, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return Measured(size=size, mtime_ns=mtime_ns), str(error).removeprefix(f"{path}: ")
    facts = describe(audio)
    return (
        Measured(
            size=size,
            mtime_ns=mtime_ns,
            duration_s=facts.duration_s,
            sample_rate=facts.sample_rate,
            content_hash=content_hash(audio),
            peak=facts.peak,
            rms_db=facts.rms_db,
            clipped_share=facts.clipped_share,
            flags=facts.flags,
        ),
        None,
    )


def flag_lengths(measured: list[Measured]) -> list[Measured]:
    """Return the measurements with those flagged whose length is far from the corpus's median."""
    lengths = [m.duration_s for m in measured if m.duration_s]
    if not lengths:
        return measured
    median = statistics.median(lengths)
    result = []
    for m in measured:
        length = m.duration_s or median
        odd = ("long",) if length > ODD_LENGTH * median else ("short",) if length * ODD_LENGTH < median else ()
        result.append(replace(m, flags=m.flags + odd) if odd else m)
    return result
