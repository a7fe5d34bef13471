"""Streamed features: frames that stay in their shards and are read from memory maps, sample by sample, as they are asked for.

What comes in: the rows that `tfser.pipeline.shards.packed.load_packed` takes. What goes out: the same :class:`PackedFeatures`,
whose ``frames`` are a :class:`StreamedFrames`: as an array they have a shape and a dtype and give slices, and hold nothing. The
system keeps what was read lately, and takes that memory back when somebody needs it; so features may be larger than memory. A
frame is the same, to the bit, whichever way it is read, and nobody asks in another order: a streamed training gives the numbers
of a resident one.

Nothing is written or changed here, and nothing is shuffled: any frame can be read at any time, so samples come in the order that
was drawn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Verify
from tfser.manifests.errors import TfserError, UnreadableError
from tfser.pipeline.resources.cores import cores
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, column_of, compare, offsets_of
from tfser.pipeline.shards.reader import ShardReader, Stamp

Array = npt.NDArray[Any]

MOST_OPEN = 128
"""Shards that are mapped at once, at most: each map holds a file open, and systems allow a process about a thousand."""

_WORTH_THREADS = 1 << 24
"""Bytes from which on several threads copy."""


class StreamedFrames:
    """The frames of n utterances, one after another, (sum of frames, dim), read when they are asked for.

    Attributes:
        shape: (sum of frames, dim).
        dtype: float16 or float32, that of the shards.
        offsets: (n + 1,) int64; utterance i has the frames ``offsets[i]`` to ``offsets[i + 1]``.

    Raises:
        TfserError: no rows, or rows of different widths.
        UnreadableError: a shard is missing, or could not be read just now.
    """

    def __init__(self, rows: Sequence[FeatureRow], verify: Verify = "once") -> None:
        self._column = column_of(rows)
        self._rows = tuple(rows)
        self.offsets = offsets_of([row.frames for row in rows])
        self.shape = (int(self.offsets[-1]), rows[0].dim)
        self.ndim = 2
        self._open: OrderedDict[Path, ShardReader] = OrderedDict()
        self._stamps: dict[Path, Stamp] = {}
        self._lock = threading.Lock()
        # Whose frames nobody has compared with their checksums yet; it is done when an utterance is read first.
        self._new = np.full(len(rows), verify == "once")
        self.dtype = self._reader(rows[0]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that the frames would take in memory."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, wanted: slice) -> Array:
        """Return consecutive frames, (stop - start, dim): a copy.

        Raises:
            TypeError: for anything but a slice without a step.
            TfserError: a shard is damaged or cannot be read.
        """
        if not isinstance(wanted, slice) or wanted.step not in (None, 1):
            raise TypeError("streamed frames give slices without a step; `take` gathers single frames")
        first, last, _ = wanted.indices(len(self))
        found = np.empty((max(0, last - first), self.shape[1]), self.dtype)
        if len(found):
            self._read_stretch(found, first, last)
        return found

    def take(self, frames: npt.NDArray[np.int64], out: Array | None = None) -> Array:
        """Gather samples: of each, L frames by their numbers, all of one utterance.

        Args:
            frames: (B, L) numbers of frames, from 0 to the sum of frames.
            out: (B, L, dim) of the shards' dtype, C order, to read into; a fresh one by default.

        Returns:
            (B, L, dim).

        Raises:
            TfserError: a shard is damaged or cannot be read.
        """
        B, L = frames.shape
        found = np.empty((B, L, self.shape[1]), self.dtype) if out is None else out
        if not found.size:
            return found
        utterances = np.searchsorted(self.offsets, frames[:, 0], side="right") - 1
        # Most samples are one stretch of an utterance. One that goes on cyclically is a few of them, one that is read at another
        # pace than it was spoken is many.
        breaks = np.diff(frames, axis=1) != 1  # (B, L - 1)

        def read(sample: int) -> None:
            cuts = [0, *(np.flatnonzero(breaks[sample]) + 1).tolist(), L]
            u, numbers = int(utterances[sample]), frames[sample]
            if len(cuts) - 1 > max(4, L // 16):
                whole = self[int(self.offsets[u]) : int(self.offsets[u + 1])]
                np.take(whole, numbers - self.offsets[u], axis=0, out=found[sample])
                return
            for start, stop in pairwise(cuts):
                self._read_of(found[sample, start:stop], u, int(numbers[start]))

        self._for_each(read, B, found.nbytes)
        return found

    def _for_each(self, read: Callable[[int], None], count: int, size: int) -> None:
        """Read samples, by several threads where copying is the work."""
        if size < _WORTH_THREADS or count < 2:
            for sample in range(count):
                read(sample)
            return
        with ThreadPoolExecutor(min(4, cores())) as pool:
            list(pool.map(read, range(count)))

    def _read_stretch(self, dest: Array, first: int, last: int) -> None:
        """Read the frames from ``first`` to ``last``, of as many utterances as they are of."""
        u = int(np.searchsorted(self.offsets, first, side="right")) - 1
        while first < last:
            stop = min(last, int(self.offsets[u + 1]))
            if stop > first:
                self._read_of(dest[len(dest) - (last - first) : len(dest) - (last - stop)], u, first)
            first, u = stop, u + 1

    def _read_of(self, dest: Array, u: int, first: int) -> None:
        """Read consecutive frames of an utterance, from frame number ``first`` of all on; compare it when it is new."""
        row = self._rows[u]
        reader, at = self._reader(row), row.first_frame + first - int(self.offsets[u])
        if not self._new[u]:
            self._copy(reader, dest, at)
            return
        # All of it is compared, whatever part of it is wanted; where that is the whole, it is read once.
        whole = dest if len(dest) == row.frames and dest.flags.c_contiguous else np.empty((row.frames, row.dim), self.dtype)
        self._copy(reader, whole, row.first_frame)
        compare(reader, [(row, whole)])
        self._new[u] = False
        if whole is not dest:
            dest[...] = whole[at - row.first_frame : at - row.first_frame + len(dest)]

    def _copy(self, reader: ShardReader, dest: Array, first_frame: int) -> None:
        if self._column is None:
            reader.will_need(first_frame, len(dest))
            reader.read_into(dest, first_frame, len(dest))
        else:
            reader.read_columns_into(dest, first_frame, self._column)

    def _reader(self, row: FeatureRow) -> ShardReader:
        """Return the reader of a row's shard, opened if it is not.

        Raises:
            UnreadableError: another file lies there than when it was opened first.
            TfserError: its frames are of another width or dtype than those of the first row.
        """
        path = row.path
        with self._lock:
            if (reader := self._open.get(path)) is not None:
                self._open.move_to_end(path)
                return reader
            reader = ShardReader(path)
            if self._stamps.setdefault(path, reader.stamp) != reader.stamp:
                reason = "it was replaced while it is trained on; the same command goes on from the last checkpoint"
                raise UnreadableError(reason, at=path)
            dim, dtype = self.shape[1], getattr(self, "dtype", reader.dtype)
            if (self._column is None and reader.dim != dim) or reader.dtype != dtype:
                raise TfserError(f"{path} holds frames of {reader.dim} {reader.dtype}, {dim} {dtype} are wanted")
            self._open[path] = reader
            # Who still reads from it keeps the map alive; nobody closes it under them.
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return reader


def stream_packed(rows: Sequence[FeatureRow], *, verify: Verify = "once") -> PackedFeatures:
    """Return the features of ``rows``, in their order, whose frames stay on disk (`StreamedFrames`).

    Raises:
        TfserError: no rows, or rows of different widths.
        UnreadableError: a shard is missing, or could not be read just now.
    """
    frames: Any = StreamedFrames(rows, verify)  # it is read like the array that it stands for
    return PackedFeatures(frames=frames, offsets=frames.offsets, utterance_ids=tuple(row.utterance_id for row in rows))


def is_streamed(features: PackedFeatures) -> bool:
    """Tell whether the frames of features stay on disk."""
    frames: Any = features.frames
    return isinstance(frames, StreamedFrames)
