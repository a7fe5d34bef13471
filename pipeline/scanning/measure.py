"""Measuring: what the audio of each utterance is like, by as many threads as there are cores.

What comes in: utterances, and what is known of them from an earlier scan. What goes out: for each its stamp, length, level,
flags and content hash, or why it cannot be decoded. A file is decoded only if its stamp changed: its size, the time of its last
change, and the time that the system noted for that (ctime), which no program can set. Two files of one size and time that
are swapped have other ones then; what an older scan stored without it holds as it is.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tfser.manifests.errors import TfserError
from tfser.manifests.utterances import Measured, Utterance
from tfser.pipeline.resources.cores import cores
from tfser.pipeline.sound import video
from tfser.pipeline.sound.audio import MAX_DURATION_S, VIDEO_SUFFIXES, survey
from tfser.pipeline.sound.recording import AudioError

Advance = Callable[[int, float], None]
"""Called with the number of utterances and the seconds of audio that were finished since the last call."""

ODD_LENGTH = 8.0
"""An utterance this many times longer or shorter than the corpus's median is flagged `long` or `short`."""

SegmentKey = tuple[str, float | None, float | None]
"""Path, start and end: what was measured."""

T = TypeVar("T")
R = TypeVar("R")

_Stamp = tuple[int, int, int]
"""Bytes, and the two times in nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """What became of utterances: what is known or now measured of each, in their order.

    Attributes:
        measured: of each utterance.
        reasons: why the audio of an utterance cannot be used, by its id.
        decoded: how many were decoded now.
        compared: how many of those an earlier scan had decoded as well ...
        different: ... and how many of them hold other sound now.
    """

    measured: list[Measured]
    reasons: dict[str, str]
    decoded: int
    compared: int
    different: int


def segment_key(path: str, start_s: float | None, end_s: float | None) -> SegmentKey:
    """Return the key of a segment: None for an edge that is the file's own, which tables may write as not-a-number."""
    if start_s is not None and math.isnan(start_s):
        start_s = None
    if end_s is not None and math.isnan(end_s):
        end_s = None
    return path, start_s, end_s


def audio_path(root: str | Path, path: str) -> Path:
    """Return where the file of an utterance row lies."""
    return Path(root, path)  # an absolute path stands for itself


def threads_for(workers: int | None) -> int:
    """Return how many threads decode: as many as asked for, or one a core, at most eight."""
    return workers or min(8, cores())


def in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    *,
    weight: Callable[[T], float] = lambda item: 0.0,
    most: float = MAX_DURATION_S,
) -> Iterator[R]:
    """Yield `function(item)` in the order of the items, a bounded number of them worked on at once by threads.

    Args:
        function: to call.
        items: with what.
        workers: threads.
        weight: of an item, as its seconds of audio; nothing where what is held does not grow with it.
        most: so much weight at most is worked on, or waits to be taken, at once; a heavier item alone. Short utterances never
            come near it, and a corpus of long recordings needs the memory of one instead of that of all threads.
    """
    count = threads_for(workers)
    with ThreadPoolExecutor(count) as pool:
        pending: deque[tuple[Future[R], float]] = deque()
        held = 0.0
        try:
            for item in items:
                heavy = weight(item)
                while pending and (len(pending) >= 4 * count or held + heavy > most):
                    future, light = pending.popleft()
                    held -= light
                    yield future.result()
                pending.append((pool.submit(function, item), heavy))
                held += heavy
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
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


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """What of a corpus is decoded, and how."""

    workers: int | None = None
    """Decoding threads; None takes one a core, at most eight."""
    rescan: bool = False
    """Decode everything, whatever is known."""
    again: Set[str] = frozenset()
    """Utterances to decode whatever is known, by their ids."""
    max_duration_s: float = MAX_DURATION_S
    """What is longer is listed as unreadable, whether it was measured before or not."""


def measure_all(
    root: Path,
    utterances: Sequence[Utterance],
    earlier: Mapping[SegmentKey, tuple[Measured, str | None]],
    how: DecodingOptions,
    begin: Callable[[int], Advance] | None,
) -> Surveyed:
    """Return what is known or now measured of each utterance.

    Args:
        root: of the corpus.
        utterances: to measure.
        earlier: what was measured before, with the reason where it was unreadable; the stamp in it decides whether it holds.
        how: what is decoded again, and how.
        begin: told how many utterances will be decoded; returns what to call as they are.

    Raises:
        MissingExtraError: if there are videos to decode and nothing that reads them is installed.
    """
    # One stamp a file, taken once and before anything is decoded: segments of a file that is written meanwhile must not
    # end up under two stamps, of which the later one would vouch for sound that was read before it.
    above = str(root)
    stamps = {path: _stamp(os.path.join(above, path)) for path in dict.fromkeys(u.path for u in utterances)}  # noqa: PTH118
    before = [earlier.get(segment_key(u.path, u.start_s, u.end_s)) for u in utterances]
    held = [_as_known(u, stamps[u.path], old, how) for u, old in zip(utterances, before, strict=True)]
    measured = [row for row, _ in held]
    reasons = {u.utterance_id: why for u, (_, why) in zip(utterances, held, strict=True) if why is not None}
    todo = [i for i, m in enumerate(measured) if m is None]
    _need_video(root, {utterances[i].path for i in todo})
    # Several threads decode, results come in the order of the rows: the same corpus gives the same files however many there are.
    advance = begin(len(todo)) if begin is not None and todo else None
    decoded = compared = different = 0
    jobs = ((root, utterances[i], stamps[utterances[i].path], how.max_duration_s) for i in todo)
    for i, (result, reason) in zip(todo, in_order(lambda job: _measure(*job), jobs, how.workers), strict=True):
        measured[i] = result
        decoded += result.content_hash is not None
        if (old := before[i]) is not None and old[0].content_hash is not None:
            compared += 1
            different += result.content_hash != old[0].content_hash
        if reason is not None:
            reasons[utterances[i].utterance_id] = reason
        if advance is not None:
            advance(1, result.duration_s or 0.0)
    return Surveyed(
        measured=[m for m in measured if m is not None],
        reasons=reasons,
        decoded=decoded,
        compared=compared,
        different=different,
    )


def _need_video(root: Path, paths: Collection[str]) -> None:
    """Make sure that videos can be read, if there are any: an error now and not thousands of unreadable rows later.

    Raises:
        MissingExtraError: if nothing that reads them is installed.
    """
    videos = [path for path in paths if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        video.need(f"{root} holds {len(videos):,} video {'file' if len(videos) == 1 else 'files'} to read")


def _as_known(
    utterance: Utterance, stamp: _Stamp | str, earlier: tuple[Measured, str | None] | None, how: DecodingOptions
) -> tuple[Measured | None, str | None]:
    """Return what can be said of an utterance without decoding it (None: it is to be decoded), and why it is unreadable."""
    if isinstance(stamp, str):
        return Measured(), stamp
    if earlier is None or how.rescan or utterance.utterance_id in how.again or not _holds(earlier[0], stamp):
        return None, None
    row, reason = earlier
    if row.duration_s is not None and row.duration_s > how.max_duration_s:
        row, reason = _unread(row), f"{row.duration_s:,.0f} s of sound, and {how.max_duration_s:,.0f} s is the most"
    return row, (reason or "unreadable") if row.content_hash is None else None


def _holds(before: Measured, stamp: _Stamp) -> bool:
    """Tell whether a file is, by its stamp, the one that was measured.

    What an older version could not read, this one may: it is tried again, once.
    """
    if before.content_hash is None and before.ctime_ns is None:
        return False
    size, mtime_ns, ctime_ns = stamp
    return (before.size, before.mtime_ns) == (size, mtime_ns) and before.ctime_ns in (None, ctime_ns)


def _unread(measured: Measured) -> Measured:
    return Measured(size=measured.size, mtime_ns=measured.mtime_ns, ctime_ns=measured.ctime_ns)


def _stamp(path: str) -> _Stamp | str:
    """Return the stamp of a file, or why it has none; of text, since of 100,000 files paths alone take a second."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a path with a zero byte
        return str(error)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _measure(root: Path, utterance: Utterance, stamp: _Stamp | str, max_duration_s: float) -> tuple[Measured, str | None]:
    path = audio_path(root, utterance.path)
    if isinstance(stamp, str):
        return Measured(), stamp
    try:
        if path.is_file():
            path.open("rb").close()  # libsndfile would not say why it cannot
    except OSError as error:
        return Measured(), error.strerror or str(error)
    size, mtime_ns, ctime_ns = stamp
    try:
        # One pass gives facts and hash: decoding is what a scan takes its time for.
        facts, content_hash = survey(path, utterance.start_s, utterance.end_s, max_duration_s=max_duration_s)
    except AudioError as error:
        # The stamp stays with what could not be read: the next scan believes it until the file changes.
        return Measured(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns), error.reason
    return (
        Measured(
            size=size,
            mtime_ns=mtime_ns,
            ctime_ns=ctime_ns,
            duration_s=facts.duration_s,
            sample_rate=facts.sample_rate,
            content_hash=content_hash,
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
