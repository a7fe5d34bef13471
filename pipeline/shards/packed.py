"""Packed features: all frames of many utterances as one array, read straight from shards.

What comes in: rows that say in which shard, from which frame on and how many frames each utterance has (the
catalogue's `features`). What goes out: :class:`PackedFeatures`, one (sum of frames, dim) array plus offsets, in the
order of the rows. Nothing is padded and nothing is copied twice: each shard is read once, front to back, whatever order
the rows stand in, neighbours are copied together, and a few threads take a shard each.

Heads gather segments of the packed array on their device, so this file knows no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.cache import Verify
from tfser.manifests.errors import TfserError
from tfser.pipeline.resources.cores import cores
from tfser.pipeline.shards.reader import ShardReader, Stamp, checksum_of, damaged_frames
from tfser.pipeline.shards.rows import layer_checksums

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Run = tuple[int, int, int]
"""First frame in the shard, start and stop in the destination."""

_WORTH_THREADS = 1 << 24  # bytes


@dataclass(frozen=True, kw_only=True)
class PackedFeatures:
    """The frames of n utterances, one after another.

    Attributes:
        frames: (sum of frames, dim) float16 or float32, C order; or what stands for such an array and gives its slices
            (`tfser.pipeline.shards.streamed`).
        offsets: (n + 1,) int64; utterance i is ``frames[offsets[i]:offsets[i + 1]]``.
        utterance_ids: the n utterances, in the same order.

    Raises:
        TfserError: the three do not fit together.

    >>> packed = PackedFeatures(
    ...     frames=np.arange(10, dtype=np.float32).reshape(5, 2),
    ...     offsets=np.array([0, 2, 5]),
    ...     utterance_ids=("a", "b"),
    ... )
    >>> packed.lengths.tolist(), packed.dim, packed.of(1).tolist()[0]
    ([2, 3], 2, [4.0, 5.0])
    >>> packed.select([1, 0]).utterance_ids
    ('b', 'a')
    """

    frames: Array
    offsets: npt.NDArray[np.int64]
    utterance_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.frames.ndim != 2:
            raise TfserError(f"packed frames have the shape {self.frames.shape}; (sum of frames, dim) is wanted")
        if self.offsets.shape != (len(self.utterance_ids) + 1,):
            raise TfserError(f"{len(self.utterance_ids)} utterances need one offset more, not {self.offsets.shape}")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.frames) or bool((np.diff(self.offsets) < 0).any()):
            raise TfserError(f"the offsets must rise from 0 to {len(self.frames)} frames")

    def __len__(self) -> int:
        return len(self.utterance_ids)

    @property
    def dim(self) -> int:
        """Numbers in a frame."""
        return int(self.frames.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of each utterance, (n,) int64."""
        return np.diff(self.offsets)

    def of(self, i: int) -> Array:
        """Return the frames of the i-th utterance, (t, dim): a view, not a copy."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"utterance {i} of {len(self)}")
        i %= len(self)
        return self.frames[self.offsets[i] : self.offsets[i + 1]]

    def select(self, indices: Sequence[int] | npt.NDArray[Any]) -> PackedFeatures:
        """Return the utterances at ``indices`` (or of a boolean mask), in that order, as a copy of their own."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise TfserError(f"a mask for {len(self)} utterances has the shape {chosen.shape}")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        offsets = offsets_of(self.lengths[chosen])
        frames = np.empty((int(offsets[-1]), self.dim), self.frames.dtype)
        for place, i in enumerate(chosen):
            frames[offsets[place] : offsets[place + 1]] = self.of(int(i))
        return PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(self.utterance_ids[int(i)] for i in chosen))


@dataclass(frozen=True, kw_only=True)
class FeatureRow:
    """Where one utterance lies: ``frames`` frames of ``dim`` numbers from ``first_frame`` on in the shard ``path``.

    ``checksum`` is what the frames' bytes have to add up to; None: nobody can say. With ``first_column``, the frames are those
    ``dim`` columns of wider ones, one layer of a stack, and ``checksum`` is that of the wider ones.
    """

    utterance_id: str
    path: Path
    first_frame: int
    frames: int
    dim: int
    checksum: str | None = None
    first_column: int | None = None


_CHECKED: dict[Stamp, set[tuple[int, int | None]]] = defaultdict(set)
"""The utterances that this process has compared with their checksums, by the shard's file: first frame, and first column of what
was compared of it alone."""


def load_packed(
    rows: Sequence[FeatureRow], *, progress: Progress | None = None, out: Array | None = None, verify: Verify = "once"
) -> PackedFeatures:
    """Read the frames of ``rows`` into one array, in their order.

    Args:
        rows: at least one; all of one dim, their shards of one dtype.
        progress: called with (utterances read, utterances in all) after each shard.
        out: a C-order (at least sum of frames, dim) array of the shards' dtype to read into; a fresh one by default.
        verify: compare each utterance's frames with its checksum when this process reads them first, or never.

    Raises:
        TfserError: no rows, or rows of different widths or dtypes.
        ShardError: a shard is damaged, ends before a row does, or holds frames that are not those that were written.
        UnreadableError: a shard is missing, or could not be read just now.
    """
    column = column_of(rows)
    # One array of the final size, read into by shard: each would otherwise be held twice while they are put
    # together.
    offsets = offsets_of([row.frames for row in rows])
    by_shard: dict[Path, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_shard[row.path].append(place)
    # The dtype is that of the shards: float16 stays so in memory, and becomes float32 batch by batch on the
    # device.
    with ShardReader(rows[0].path) as reader:
        frames = _destination(int(offsets[-1]), rows[0].dim, reader.dtype, out)

    def read(path: Path) -> int:
        with ShardReader(path) as reader:
            if (column is None and reader.dim != frames.shape[1]) or reader.dtype != frames.dtype:
                found, wanted = f"{reader.dim} {reader.dtype}", f"{frames.shape[1]} {frames.dtype}"
                raise TfserError(f"{path} holds frames of {found} numbers, {wanted} are wanted as in {rows[0].path}")
            for first, start, stop in _runs(rows, by_shard[path], offsets):
                if column is None:
                    reader.read_into(frames[start:stop], first, stop - start)
                else:
                    reader.read_columns_into(frames[start:stop], first, column)
            if verify == "once":
                compare(reader, [(rows[i], frames[offsets[i] : offsets[i + 1]]) for i in by_shard[path]])
        return len(by_shard[path])

    # Threads only where reading is the work: for a small corpus, starting them takes longer.
    done = 0
    with ThreadPoolExecutor(_workers()) as pool:
        for count in (pool.map if frames.nbytes >= _WORTH_THREADS else map)(read, by_shard):
            done += count
            if progress is not None:
                progress(done, len(rows))
    return PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(row.utterance_id for row in rows))


def offsets_of(lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each of n stretches begins when they lie one after the other, and where the last one ends: (n + 1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def column_of(rows: Sequence[FeatureRow]) -> int | None:
    """Return the column from which on the rows' features are read, where they are a layer of a stack.

    Raises:
        TfserError: if there are no rows, or rows of different widths or layers.
    """
    if not rows:
        raise TfserError("no features to load: extract them first (`tfser extract`)")
    dims, columns = {row.dim for row in rows}, {row.first_column for row in rows}
    if len(dims) > 1:
        raise TfserError(f"features of different widths cannot be packed together: {sorted(dims)}")
    if len(columns) > 1:
        raise TfserError("columns of different layers cannot be packed together")
    return columns.pop()


def compare(reader: ShardReader, read: Sequence[tuple[FeatureRow, Array]]) -> None:
    """Compare frames that were read from one shard with their checksums, unless this process did so before.

    Columns of a stack are compared with their layer's own checksum. Where the shard's rows have none, which older versions wrote,
    the whole frames are read and compared, once.
    """
    checked = _CHECKED[reader.stamp]
    new = [
        (row, frames)
        for row, frames in read
        if row.checksum is not None and not {(row.first_frame, None), (row.first_frame, row.first_column)} & checked
    ]
    of_layers = layer_checksums(reader.path) if new and new[0][0].first_column is not None else {}
    wrong: list[str] = []
    for row, frames in new:
        wanted, found, column = row.checksum, frames, row.first_column
        if column is not None and row.first_frame in of_layers:
            wanted = of_layers[row.first_frame][column // row.dim]
        elif column is not None:
            found, column = reader.frames_of(row.first_frame, row.frames), None
        if checksum_of(found) != wanted:
            wrong.append(row.utterance_id)
        checked.add((row.first_frame, column))
    if wrong:
        checked.difference_update({(row.first_frame, column) for row, _ in new for column in (None, row.first_column)})
        raise damaged_frames(reader.path, wrong)


def forget_compared() -> None:
    """Compare all frames anew when they are read next."""
    _CHECKED.clear()


def _workers() -> int:
    """Return how many threads copy: one core alone cannot fill the memory's bandwidth, four can."""
    return min(4, cores())


def _destination(total: int, dim: int, dtype: np.dtype[Any], out: Array | None) -> Array:
    """Return the (total, dim) array to read into: fresh, or the head of ``out``."""
    if out is None:
        return np.empty((total, dim), dtype)
    if out.ndim != 2 or len(out) < total or out.shape[1] != dim or out.dtype != dtype or not out.flags.c_contiguous:
        raise TfserError(f"`out` is {out.shape} {out.dtype}; ({total} or more, {dim}) {dtype} in C order is wanted")
    return out[:total]


def _runs(rows: Sequence[FeatureRow], places: list[int], offsets: npt.NDArray[np.int64]) -> Iterator[Run]:
    """Yield the stretches that are neighbours in the shard and in the destination."""
    first = start = stop = 0
    for place in sorted(places, key=lambda place: rows[place].first_frame):
        begin, after = int(offsets[place]), int(offsets[place + 1])
        if begin == stop and rows[place].first_frame == first + stop - start:
            stop = after
        else:
            if stop > start:
                yield first, start, stop
            first, start, stop = rows[place].first_frame, begin, after
    if stop > start:
        yield first, start, stop
