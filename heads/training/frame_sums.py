"""Sums of each utterance's frames and of their squares: all that a normalisation, or a head of means, wants to know of frames.

What comes in: packed frames, in memory or streamed from their shards. What goes out: for each utterance and feature two numbers
in double precision, the same to the bit however many threads, parts or blocks there are. Sums that several runs have in common
are kept for them (`KeptSums`). Nothing is stored, and frames are never changed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError
from tfser.pipeline.resources.cores import cores

_MOST_KEPT = 2**28  # bytes of sums that are kept from one run to the next
_READ_VALUES = 2**22  # values that a thread takes at a time: 8 MB of float16, or one utterance that is longer
_CACHED_VALUES = 2**16  # of them, how many are squared and added up at a time: 512 KB, which a core's cache holds
_WORTH_THREADS = 2**23  # values from which on several threads are worth their start
_MOST_THREADS = 4

Floats = npt.NDArray[np.float64]
Sums = tuple[Floats, Floats]


class KeptSums:
    """The sums of the features that runs have in common, kept from one run to the next by whoever trains them.

    Only inside `used`, whose frames nobody changes meanwhile: elsewhere sums are taken anew each time. Sums of all utterances
    that take more than ``most`` bytes are not kept.
    """

    def __init__(self, most: int = _MOST_KEPT) -> None:
        self._most = most
        self._of: tuple[Any, ...] = ()
        self._sums: Sums | None = None

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let `utterance_sums` look here first, and leave here what it has found."""
        _KEPT.append(self)
        try:
            yield
        finally:
            _KEPT.remove(self)

    def takes(self, size: int) -> bool:
        """Tell whether sums of so many bytes would be kept."""
        return size <= self._most

    def get(self, frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> Sums | None:
        """Return the sums of these very arrays, if they are the ones that were put here last."""
        same = self._sums is not None and all(a() is b for a, b in zip(self._of, (frames, offsets), strict=True))
        return self._sums if same else None

    def put(self, frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], sums: Sums) -> None:
        """Keep the sums of these arrays instead of any others, while the arrays live."""
        if self.takes(sums[0].nbytes + sums[1].nbytes):
            self._of, self._sums = (weakref.ref(frames), weakref.ref(offsets)), sums


_KEPT: list[KeptSums] = []


def are_kept(frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> bool:
    """Tell whether the sums of these very arrays are here, so that no frame is read for them."""
    return any(kept.get(frames, offsets) is not None for kept in _KEPT)


def utterance_sums(frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> Sums:
    """Return per utterance the sum of its frames and of their squares, each (n, D) float64, of all n utterances.

    They are not to be written into: others may be given the same arrays (`KeptSums`).

    Raises:
        UsageError: An utterance has no frames.
    """
    for kept in _KEPT:
        if (known := kept.get(frames, offsets)) is not None:
            return known
    found = _gathered(frames, offsets, np.arange(len(offsets) - 1))
    for kept in _KEPT:
        kept.put(frames, offsets, found)
    return found


def sums_in_parts(
    frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[slice, Sums]]:
    """Yield which of ``rows`` a part is of, and the sums of these utterances, each (utterances, D) float64, in their order.

    Only these utterances are read, unless the sums of all are kept for whoever needs others of them (`KeptSums`). What would take
    more memory than runs keep comes in many parts, and else as one.

    Raises:
        UsageError: An utterance has no frames.
    """
    dim = frames.shape[1]
    size = 2 * dim * np.dtype(np.float64).itemsize
    as_one = size * len(rows) <= _MOST_KEPT
    if any(kept.takes(size * (len(offsets) - 1)) for kept in _KEPT):
        sums, squares = utterance_sums(frames, offsets)
        step = max(1, len(rows) if as_one else _READ_VALUES // dim)
        for part in (slice(first, first + step) for first in range(0, max(1, len(rows)), step)):
            yield part, (sums[rows[part]], squares[rows[part]])
    elif as_one:
        yield slice(0, len(rows)), _gathered(frames, offsets, rows)
    else:
        yield from _summed(frames, offsets, rows)


def _gathered(frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Sums:
    """Return the sums of the utterances ``rows``, each (len(rows), D)."""
    sums, squares = (np.empty((len(rows), frames.shape[1])) for _ in range(2))
    for part, found in _summed(frames, offsets, rows):
        sums[part], squares[part] = found
    return sums, squares


def _summed(
    frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[slice, Sums]]:
    """Yield the sums of the utterances ``rows`` in their order, a stretch of neighbours at a time.

    Several threads take a stretch each, and no more are under way than threads: float64 copies of a corpus's frames would take
    four times the memory of stored float16.
    """
    _refuse_empty(offsets)
    parts = _stretches(offsets, rows, max(1, _READ_VALUES // frames.shape[1]))

    def read(part: slice) -> Sums:
        first, last = int(rows[part.start]), int(rows[part.stop - 1]) + 1
        begins = offsets[first:last] - offsets[first]
        return _sums_of(frames[int(offsets[first]) : int(offsets[last])], begins)

    workers = min(_MOST_THREADS, cores(), len(parts))
    if workers < 2 or int(np.diff(offsets)[rows].sum()) * frames.shape[1] < _WORTH_THREADS:
        yield from ((part, read(part)) for part in parts)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[slice, Future[Sums]]] = deque()
        try:
            for part in parts:
                waiting.append((part, pool.submit(read, part)))
                if len(waiting) > workers:
                    done, sums = waiting.popleft()
                    yield done, sums.result()
            while waiting:
                done, sums = waiting.popleft()
                yield done, sums.result()
        finally:  # an error, or nobody wants the rest: what has not begun is not read
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_empty(offsets: npt.NDArray[np.int64]) -> None:
    """Refuse an utterance without frames.

    Raises:
        UsageError: There is one.
    """
    counts = np.diff(offsets)
    if len(counts) and counts.min() < 1:
        empty = int(counts.argmin())
        raise UsageError(f"utterance number {empty} of the fold has no frames; extract the features again")


def _stretches(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], most: int) -> list[slice]:
    """Return the parts of ``rows`` that follow one another in the frames, of at most ``most`` frames or of one utterance."""
    parts, start, held, before = [], 0, 0, -1
    for i, (row, length) in enumerate(zip(rows.tolist(), np.diff(offsets)[rows].tolist(), strict=True)):
        if i > start and (row != before + 1 or held + length > most):
            parts.append(slice(start, i))
            start, held = i, 0
        held, before = held + length, row
    return [*parts, slice(start, len(rows))] if len(rows) else []


@np.errstate(invalid="ignore", over="ignore")  # of the thread that runs this: what a caller ignores is not ignored here
def _sums_of(frames: npt.NDArray[np.floating], begins: npt.NDArray[np.int64]) -> Sums:
    """Return the sums of utterances that begin at the frames ``begins`` of an array in memory, each (len(begins), D)."""
    n, dim = len(begins), frames.shape[1]
    sums, squares = np.empty((n, dim)), np.empty((n, dim))
    ends = np.append(begins[1:], len(frames))
    # NumPy adds up a feature's frames in an order that depends on their number alone, so blocks are whole utterances, and as
    # many columns as a core's cache holds: it goes down one column after the other, each time through all of the block.
    for part in _stretches(np.append(begins, len(frames)), np.arange(n), max(1, _CACHED_VALUES // dim)):
        first, last = int(begins[part.start]), int(ends[part.stop - 1])
        inner = begins[part] - first
        width = max(1, _CACHED_VALUES // (last - first))
        for columns in (slice(at, at + width) for at in range(0, dim, width)):
            block = frames[first:last, columns].astype(np.float64)
            sums[part, columns] = np.add.reduceat(block, inner, axis=0)
            np.multiply(block, block, out=block)
            squares[part, columns] = np.add.reduceat(block, inner, axis=0)
    return sums, squares


class RunningTotal:
    """The sum of rows that come in parts, to the bit what ``.sum(axis=0)`` gives of all of them: row after row.

    (Of a single column NumPy adds up in another order, by pairs; rows of one number come as one part, or their total may differ
    in its last bit.)
    """

    def __init__(self) -> None:
        self._total: Floats | None = None

    @property
    def total(self) -> Floats:
        """The sum (D,) of the rows that came.

        Raises:
            ValueError: None came.
        """
        if self._total is None:
            raise ValueError("no rows were added")
        return self._total

    def add(self, rows: Floats) -> None:
        """Add rows (n, D)."""
        if self._total is None:
            self._total = rows.sum(axis=0)
            return
        for row in rows:
            self._total += row
