"""Segments: which frames a sample holds, by index arithmetic alone.

The rule, with segments of L frames and a hop of h frames (h = L: no overlap), for an utterance of n frames:

* n >= L: segments start at 0, h, 2h, ... as long as they fit; if frames are left over, one more segment ends at the
  last frame, overlapping its neighbour more than h asks for.
* n < L: one segment, which repeats the utterance's frames cyclically until it is full.

So every frame stands in at least one segment as long as h <= L, and nothing is dropped, padded or reached across
utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.shards.streamed import StreamedFrames


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """Which segments there are, utterance by utterance in the order that was asked for."""

    utterance: npt.NDArray[np.int64]
    """(S,) the segment's utterance, a row of the packed features."""
    number: npt.NDArray[np.int64]
    """(S,) the segment's number within its utterance, from 0."""
    start: npt.NDArray[np.int64]
    """(S,) its first frame within the utterance."""

    def __len__(self) -> int:
        return len(self.utterance)


def plan(
    offsets: npt.NDArray[np.int64],
    utterances: npt.NDArray[np.int64],
    frames: int | None,
    hop: int | None = None,
    most: int | None = None,
) -> SamplePlan:
    """Lay segments of ``frames`` frames over some utterances; ``frames`` None: one sample an utterance, whole.

    Args:
        offsets: (n + 1,) where each utterance begins in the packed frames, and where the last one ends.
        utterances: (m,) the rows to cover.
        frames: Frames of a segment.
        hop: Frames from one start to the next; None: ``frames``.
        most: What lies beyond so many frames of an utterance is left out; None: nothing.

    >>> plan(np.array([0, 201, 251]), np.array([0, 1]), 80).start.tolist()
    [0, 80, 121, 0]

    Raises:
        UsageError: The hop is longer than the segment: frames would be skipped.
    """
    utterances = np.asarray(utterances, dtype=np.int64)
    if frames is None:
        zeros = np.zeros(len(utterances), dtype=np.int64)
        return SamplePlan(utterance=utterances, number=zeros, start=zeros)
    hop = frames if hop is None else hop
    if not 0 < hop <= frames:
        raise UsageError(f"a hop of {hop} frames does not fit segments of {frames}: take 1 to {frames}")
    counts = np.diff(offsets)[utterances] if most is None else np.minimum(np.diff(offsets)[utterances], most)
    # The last segment ends at the last frame, overlapping its neighbour more than the hop says: padding it
    # would show the head silence that is not there, dropping it would lose the end of most utterances.
    spare = np.maximum(counts - frames, 0)  # (m,) the last possible start
    counts = 1 + -(-spare // hop)
    utterance = np.repeat(utterances, counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return SamplePlan(utterance=utterance, number=number, start=np.minimum(number * hop, np.repeat(spare, counts)))


class FrameStore:
    """All frames of a fold, packed on the device as one tensor or left on disk, and samples gathered from them.

    Args:
        frames: (sum of frames, D), float16 or float32; kept in its dtype. A tensor that is there already (`placed`) is taken as
            it is, so that several trainings on the same features hold them once. Streamed frames stay where they are, and the
            samples of each batch go to the device.
        offsets: (n + 1,) int64.
        shift, scale: (n, D), (1, D) or (k, D) each, float32: a frame x of utterance u becomes (x - shift[u]) * scale[u]; where
            there are fewer rows than utterances, each row is that of n / k utterances in turn.
        device: Where they live.
        most: What lies beyond so many frames of an utterance is left out; None: nothing.
    """

    def __init__(
        self,
        frames: npt.NDArray[np.floating] | Tensor | StreamedFrames,
        offsets: npt.NDArray[np.int64],
        shift: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        device: torch.device,
        most: int | None = None,
    ) -> None:
        self.frames = frames if isinstance(frames, Tensor) else placed(frames, device)  # (N, D)
        # Which frames a sample has is worked out where they are.
        self.where = device if isinstance(self.frames, Tensor) else torch.device("cpu")
        self.begins = torch.from_numpy(np.ascontiguousarray(offsets[:-1])).to(self.where)  # (n,)
        self.lengths = np.diff(offsets) if most is None else np.minimum(np.diff(offsets), most)
        """(n,) of the utterances, on the CPU: whoever asks the device for them waits for all that it has to do."""
        self.counts = torch.from_numpy(self.lengths).to(self.where)  # (n,)
        self.shift = torch.from_numpy(shift).to(device)
        self.scale = torch.from_numpy(scale).to(device)
        self.device = device

    @property
    def is_streamed(self) -> bool:
        """Whether frames are read from disk as they are asked for."""
        return not isinstance(self.frames, Tensor)

    @classmethod
    def joined(cls, stores: Sequence[FrameStore]) -> FrameStore:
        """Return the store of J stores of the same n utterances, normalised by each: utterance u of store j is number j n + u.

        The frames lie there once, as before.
        """
        first, found = stores[0], cls.__new__(cls)
        found.frames, found.device, found.where = first.frames, first.device, first.where
        found.begins, found.counts = first.begins.repeat(len(stores)), first.counts.repeat(len(stores))
        found.lengths = np.tile(first.lengths, len(stores))
        found.shift, found.scale = (torch.cat([getattr(of, name) for of in stores]) for name in ("shift", "scale"))
        return found

    def gather(self, utterance: Tensor, start: Tensor, frames: int | None, pace: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read one sample for each of ``utterance`` (B,) int64: from its frame ``start`` (B,), ``frames`` frames.

        Args:
            utterance: (B,) rows, on the CPU: the device is never waited for.
            start: (B,) first frames; a segment reaching beyond the utterance's end goes on cyclically.
            frames: L; None: the whole utterance, padded with zeros to the longest of the batch.
            pace: (B,) float, frames of the utterance per frame of the sample; between frames by linear interpolation.
                None: 1.

        Returns:
            Normalised float32 frames (B, L, D), and lengths (B,) int64.
        """
        # The longest length is known on the CPU: asking the device for it would wait for the step before.
        span = int(self.lengths[utterance.numpy()].max()) if frames is None else frames
        utterance, start = (of.to(self.where, non_blocking=True) for of in (utterance, start))
        counts = self.counts[utterance]  # (B,)
        lengths = counts if frames is None else torch.full_like(counts, frames)
        steps = torch.arange(span, device=self.where)  # (L,)
        # Read at the pace from the stored frames instead of being resampled beforehand: each epoch draws
        # another pace, and the cache holds one copy.
        if pace is None:
            samples = self._read(utterance, start[:, None] + steps)  # (B, L, D)
        else:
            position = start[:, None] + steps * pace.to(self.where, non_blocking=True)[:, None]  # (B, L)
            below = position.floor()
            share = (position - below)[:, :, None].to(self.device, non_blocking=True)  # (B, L, 1)
            first = below.long()
            samples = self._read(utterance, first)
            samples = samples + share * (self._read(utterance, first + 1) - samples)
        if frames is None:
            beyond = (steps >= counts[:, None]).to(self.device, non_blocking=True)
            samples.masked_fill_(beyond[:, :, None], 0.0)
        return samples, lengths.to(self.device, non_blocking=True)

    def _read(self, utterance: Tensor, frame: Tensor) -> Tensor:
        """Return the normalised frames number ``frame`` (B, L) of the utterances (B,), counted cyclically: (B, L,
        D)."""
        rows = self.begins[utterance, None] + frame % self.counts[utterance, None]
        row = self._table_row(utterance)
        # A copy of their own, so the rest is done in place: all layers of a batch are large.
        read = self.frames[rows].float() if isinstance(self.frames, Tensor) else self._fetched(self.frames, rows)
        return read.sub_(self.shift[row, None, :]).mul_(self.scale[row, None, :])

    def _fetched(self, frames: StreamedFrames, rows: Tensor) -> Tensor:
        """Read frames by their numbers (B, L) from disk and hand them to the device: (B, L, D) float32, nobody else's."""
        on_gpu = self.device.type == "cuda"
        dtype = torch.float16 if frames.dtype == np.float16 else torch.float32
        # From pinned memory the copy to a GPU goes on beside everything else, in half precision where they are stored so.
        read = torch.empty(*rows.shape, frames.shape[1], dtype=dtype, pin_memory=on_gpu)
        frames.take(rows.numpy(), out=read.numpy())
        return read.to(self.device, non_blocking=True).float()

    def gain(self, utterance: Tensor) -> Tensor:
        """Return what a unit of the raw features is worth after normalisation: (B, 1, D), of rows (B,) on the CPU."""
        return self.scale[self._table_row(utterance.to(self.device, non_blocking=True)), None, :]

    def _table_row(self, utterance: Tensor) -> Tensor:
        """Return which row of shift and scale is that of each utterance (B,)."""
        share = len(self.lengths) // len(self.shift)  # utterances of a row
        return (utterance if share == 1 else utterance // share).to(self.device, non_blocking=True)


def placed(frames: npt.NDArray[np.floating] | StreamedFrames, device: torch.device) -> Tensor | StreamedFrames:
    """Copy frames (N, D) to a device, or take them as they are where they lie there, or are streamed.

    Raises:
        TfserError: They do not fit into the device's memory.
    """
    if isinstance(frames, StreamedFrames):
        return frames
    frames = np.require(frames, requirements=["C", "W"])  # torch takes no read-only array: a memory map is copied
    try:
        return torch.from_numpy(frames).to(device)
    except torch.OutOfMemoryError as error:
        raise TfserError(
            f"{device}: the {frames.nbytes / 1e9:,.1f} GB of frames do not fit into its memory; take features of one layer "
            "instead of all, stored as float16 (`tfser cache collapse`), or --stream, or --device cpu"
        ) from error
