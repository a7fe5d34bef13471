"""Normalisation of frames: what is subtracted from and multiplied into each feature, and who it was measured on.

Modes (`tfser.heads.spec.recipes.Recipe.normalise`): none; train, from the training utterances of the fold only; utterance
and utterance-mean, from the utterance itself; speaker, from all utterances that are given of its speaker
(transductive). What was measured on the training side is kept in `Normaliser.mean` and `Normaliser.deviation` and
saved with the model.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.spec.recipes import Normalise
from tfser.manifests.errors import UsageError

_MOST_KEPT = 2**28  # bytes of sums that are kept from one run to the next
_BLOCK_VALUES = 2**22  # values squared at a time: 32 MB
_SMALLEST_DEVIATION = 1e-3  # a feature that hardly moves is not blown up


Sums = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class KeptSums:
    """The sums of the features that runs have in common, kept from one run to the next by whoever trains them.

    Only inside `used`, whose frames nobody changes meanwhile: elsewhere sums are taken anew each time.
    """

    def __init__(self) -> None:
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

    def get(self, frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> Sums | None:
        """Return the sums of these very arrays, if they are the ones that were put here last."""
        same = self._sums is not None and all(a() is b for a, b in zip(self._of, (frames, offsets), strict=True))
        return self._sums if same else None

    def put(self, frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], sums: Sums) -> None:
        """Keep the sums of these arrays instead of any others, while the arrays live."""
        if sums[0].nbytes + sums[1].nbytes <= _MOST_KEPT:
            self._of, self._sums = (weakref.ref(frames), weakref.ref(offsets)), sums


_KEPT: list[KeptSums] = []


def utterance_sums(frames: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> Sums:
    """Return per utterance the sum of its frames and of their squares, each (n, D) float64, block by block.

    They are not to be written into: others may be given the same arrays (`KeptSums`).

    Raises:
        UsageError: An utterance has no frames.
    """
    for kept in _KEPT:
        if (known := kept.get(frames, offsets)) is not None:
            return known
    counts = np.diff(offsets)
    if len(counts) and counts.min() < 1:
        empty = int(counts.argmin())
        raise UsageError(f"utterance number {empty} of the fold has no frames; extract the features again")
    n, dim = len(counts), frames.shape[1]
    sums, squares = np.empty((n, dim)), np.empty((n, dim))
    # Block by block: float64 copies of a corpus's frames, and their squares, would take eight times the memory
    # of stored float16.
    first = 0
    while first < n:
        room = offsets[first] + max(1, _BLOCK_VALUES // dim)
        last = max(first + 1, int(np.searchsorted(offsets, room, side="right")) - 1)
        block = frames[offsets[first] : offsets[last]].astype(np.float64)
        begins = offsets[first:last] - offsets[first]
        sums[first:last] = np.add.reduceat(block, begins, axis=0)
        squares[first:last] = np.add.reduceat(block * block, begins, axis=0)
        first = last
    found = (sums, squares)
    for kept in _KEPT:
        kept.put(frames, offsets, found)
    return found


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """A mode, and what it measured on the training side: (D,) float32 each, zeros and ones where it measured
    nothing."""

    mode: Normalise
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    @np.errstate(invalid="ignore", over="ignore")  # of features that are no numbers: `tfser.heads.training.finite` says so
    def fit(
        cls,
        mode: Normalise,
        frames: npt.NDArray[np.floating],
        offsets: npt.NDArray[np.int64],
        train: npt.NDArray[np.int64],
    ) -> Normaliser:
        """Measure what the mode needs on the training utterances (rows ``train``) and nothing else."""
        dim = frames.shape[1]
        mean, deviation = np.zeros(dim), np.ones(dim)
        # Only the rows of the training side enter, and their frames weigh the same whoever they are of: a mean
        # of utterances' means would give a short one more say for each frame.
        if mode in ("train", "utterance-mean"):
            sums, squares = utterance_sums(frames, offsets)
            counts = np.diff(offsets)[train, None]
            total = counts.sum()
            centre = sums[train].sum(axis=0) / total
            if mode == "train":
                mean = centre
                variance = squares[train].sum(axis=0) / total - centre**2
            else:
                variance = (squares[train] - sums[train] ** 2 / counts).sum(axis=0) / total
            deviation = _deviation(variance)
        return cls(mode=mode, mean=mean.astype(np.float32), deviation=deviation.astype(np.float32))

    @np.errstate(invalid="ignore", over="ignore")
    def tables(
        self,
        frames: npt.NDArray[np.floating],
        offsets: npt.NDArray[np.int64],
        speakers: tuple[str, ...] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return shift and scale, (n, D) or (1, D) each: a frame x of utterance u becomes (x - shift[u]) * scale[u].

        Raises:
            UsageError: The mode is speaker and an utterance's speaker is not known.
        """
        if self.mode in ("none", "train"):
            return self.mean[None].copy(), np.float32(1) / self.deviation[None]
        sums, squares = utterance_sums(frames, offsets)
        counts = np.diff(offsets)[:, None].astype(np.float64)
        # All utterances that are given of a speaker, test side included: transductive, as its name in the docs
        # says, and so never a default.
        if self.mode == "speaker":
            if speakers is None or not all(speakers):
                raise UsageError("normalise=speaker needs every utterance's speaker; take train or utterance instead")
            _, group = np.unique(np.array(speakers), return_inverse=True)
            grouped = [np.zeros((group.max() + 1, values.shape[1])) for values in (sums, squares, counts)]
            for total, values in zip(grouped, (sums, squares, counts), strict=True):
                np.add.at(total, group, values)
            sums, squares, counts = (total[group] for total in grouped)
        # Some utterances at a time: of all layers of a corpus each array in double precision has a gigabyte.
        shift, scale = np.empty(sums.shape, np.float32), np.empty(sums.shape, np.float32)
        step = max(1, _BLOCK_VALUES // sums.shape[1])
        for part in (slice(first, first + step) for first in range(0, len(sums), step)):
            mean = sums[part] / counts[part]
            shift[part] = mean
            if self.mode == "utterance-mean":
                scale[part] = 1 / self.deviation.astype(np.float64)
            else:
                scale[part] = 1 / _deviation(squares[part] / counts[part] - mean**2)
        return shift, scale


def _deviation(variance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(np.sqrt(np.maximum(variance, 0.0)), _SMALLEST_DEVIATION)
