"""What a training came to on its test utterances, as it is handed on to be stored (`tfser.heads.runs.store`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.spec.fold import EpochRecord, Selection
from tfser.manifests.errors import TfserError


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The test predictions of one selection: U utterances and S segments of them, K classes (or ratings of dimensions on 0..1).

    `epoch` counts from 1. `segment_utterance` (S,) says which utterance (0 to U - 1) a segment belongs to,
    `segment_number` (S,) which of its segments it is.
    """

    selection: str
    epoch: int
    utterances: npt.NDArray[np.float32]  # (U, K)
    segments: npt.NDArray[np.float32]  # (S, K)
    segment_utterance: npt.NDArray[np.int64]
    segment_number: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a training came to on its U test utterances, as it is stored."""

    classes: Sequence[str]
    """Names, in the order of the head's outputs."""
    utterances: Sequence[tuple[str, str]]
    """Corpus and id of the test utterances."""
    labels: npt.NDArray[np.int64]
    """(U,) their true class numbers."""
    selections: Sequence[Selected]
    """Predictions, one set a selection; none of a run that was trained on everything."""
    history: Sequence[Mapping[str, Any]]
    """One mapping an epoch."""
    targets: tuple[str, ...] = ()
    """Dimensions that were learned; then there are no classes."""
    ratings: npt.NDArray[np.float32] | None = None
    """(U, T) their true ratings on 0..1."""
    scales: Sequence[tuple[str, float, float]] = ()
    """Corpora with the ends of their scales, on which ratings are stored."""


def selected(name: str, selection: Selection, test: npt.NDArray[np.int64]) -> Selected:
    """Turn rows of the packed features into places among the test utterances."""
    prediction = selection.test
    if prediction is None:
        raise TfserError("the test side gave no predictions")
    place = {int(row): i for i, row in enumerate(test)}
    probabilities = np.empty_like(prediction.utterance_probabilities)
    probabilities[[place[int(row)] for row in prediction.utterance]] = prediction.utterance_probabilities
    return Selected(
        selection=name,
        epoch=selection.epoch,
        utterances=probabilities,
        segments=prediction.segment_probabilities,
        segment_utterance=np.array([place[int(row)] for row in prediction.segment_utterance], dtype=np.int64),
        segment_number=prediction.segment_number,
    )


def history_row(record: EpochRecord) -> dict[str, Any]:
    """Return an epoch as a row of the table `history`; scores have the same names there."""
    first = {"epoch": record.epoch, "loss": record.loss, "lr": record.learning_rate, "seconds": record.train_s + record.eval_s}
    sides = [f"{side}_{score}" for side in ("val", "test") for score in ("WA", "UA", "WF1", "loss", "CCC")]
    return first | {name: getattr(record, name) for name in sides}
