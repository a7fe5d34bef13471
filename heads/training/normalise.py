"""Normalisation of frames: what is subtracted from and multiplied into each feature, and who it was measured on.

Modes (`tfser.heads.spec.recipes.Recipe.normalise`): none; train, from the training utterances of the fold only; utterance
and utterance-mean, from the utterance itself; speaker, from all utterances that are given of its speaker
(transductive). What was measured on the training side is kept in `Normaliser.mean` and `Normaliser.deviation` and
saved with the model.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfser.heads.spec.recipes import Normalise
from tfser.heads.training.frame_sums import KeptSums, RunningTotal, sums_in_parts, utterance_sums
from tfser.manifests.errors import UsageError

_TABLE_VALUES = 2**22  # of which shift and scale are made at a time: 32 MB
_SMALLEST_DEVIATION = 1e-3  # a feature that hardly moves is not blown up

Tables = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


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
            counts = np.diff(offsets)[train, None]
            centre, spread = RunningTotal(), RunningTotal()
            for part, (sums, squares) in sums_in_parts(frames, offsets, train):
                centre.add(sums)
                spread.add(squares if mode == "train" else squares - sums**2 / counts[part])
            variance = spread.total / counts.sum()
            if mode == "train":
                mean = centre.total / counts.sum()
                variance = variance - mean**2
            deviation = _deviation(variance)
        return cls(mode=mode, mean=mean.astype(np.float32), deviation=deviation.astype(np.float32))

    @np.errstate(invalid="ignore", over="ignore")
    def tables(
        self,
        frames: npt.NDArray[np.floating],
        offsets: npt.NDArray[np.int64],
        speakers: tuple[str, ...] | None = None,
    ) -> Tables:
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
        step = max(1, _TABLE_VALUES // sums.shape[1])
        for part in (slice(first, first + step) for first in range(0, len(sums), step)):
            mean = sums[part] / counts[part]
            shift[part] = mean
            if self.mode == "utterance-mean":
                scale[part] = 1 / self.deviation.astype(np.float64)
            else:
                scale[part] = 1 / _deviation(squares[part] / counts[part] - mean**2)
        return shift, scale


def measured(
    mode: Normalise,
    frames: npt.NDArray[np.floating],
    offsets: npt.NDArray[np.int64],
    train: npt.NDArray[np.int64],
    speakers: tuple[str, ...] | None = None,
) -> tuple[Normaliser, Tables]:
    """Return the normaliser of a training side, and its tables for all utterances, reading the frames once.

    Raises:
        UsageError: As `Normaliser.tables`, or an utterance has no frames.
    """
    # One mode looks at the frames twice, for deviations and for means: what it has added up serves both, however much it is.
    with KeptSums(sys.maxsize).used() if mode == "utterance-mean" else contextlib.nullcontext():
        normaliser = Normaliser.fit(mode, frames, offsets, train)
        return normaliser, normaliser.tables(frames, offsets, speakers)


def _deviation(variance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(np.sqrt(np.maximum(variance, 0.0)), _SMALLEST_DEVIATION)
