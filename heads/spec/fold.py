"""What goes into the training of one fold, and what comes out of it.

In: `FoldData`, the packed features of n utterances with their labels and roles. Out: `FitResult`, an `EpochRecord` an epoch, and
for each selection its epoch with a `Prediction` of the test utterances. Networks (`tfser.heads.training.loop`) and heads that
are fitted at once (`tfser.heads.training.baselines`) take and give the same. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures

if TYPE_CHECKING:
    from torch import Tensor

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Class probabilities of m utterances and of their S segments, whose rows sum to 1; or their ratings from 0 to 1.

    Of a fold with dimensions (`FoldData.targets`), the last T columns are its ratings, and no shares of anything; the others, if
    there are any, are its classes' probabilities.
    """

    segment_utterance: Indices
    """(S,) the segment's utterance, a row of the packed features."""
    segment_number: Indices
    """(S,) from 0 within the utterance."""
    segment_probabilities: npt.NDArray[np.float32]
    """(S, K)"""
    utterance: Indices
    """(m,) rows of the packed features."""
    utterance_probabilities: npt.NDArray[np.float32]
    """(m, K) the mean over each utterance's segments."""

    @classmethod
    def of_whole(cls, answers: npt.NDArray[np.floating[Any]], rows: Indices) -> Prediction:
        """Return the prediction of utterances ``rows`` (m,) without segments: the ``answers`` (m, K) are one segment each."""
        rounded = answers.astype(np.float32)
        return cls(
            segment_utterance=rows,
            segment_number=np.zeros(len(rows), dtype=np.int64),
            segment_probabilities=rounded,
            utterance=rows,
            utterance_probabilities=rounded,
        )


class UnlearnableError(UsageError):
    """The training side's ratings are all alike."""


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """One fold: n utterances, and who is in which role.

    Raises:
        UsageError: Lengths differ, an index is out of range, roles overlap or there is nothing to train on.
    """

    features: PackedFeatures
    labels: npt.NDArray[np.int64]
    """(n,) numbers into ``classes``; of utterances without a role: anything."""
    classes: tuple[str, ...]
    train: Indices
    val: Indices
    """May be empty."""
    test: Indices
    """May be empty: then nothing is tested, as when training a model for use."""
    speakers: tuple[str, ...] | None = None
    """(n,) needed by normalise=speaker only."""
    soft_labels: npt.NDArray[np.float32] | None = None
    """(n, K) probabilities of the classes that training utterances are trained to; None: each is its label's."""
    layers: int = 1
    """Layers that the features hold side by side; above 1, a mix of them is learned (`tfser.heads.models.layer_mix`)."""
    targets: tuple[str, ...] = ()
    """Dimensions that are learned, T of them: instead of ``classes``, or beside them."""
    ratings: npt.NDArray[np.float32] | None = None
    """(n, T) true ratings on 0..1; of utterances without a role: anything. Beside classes, a row of NaN is of an utterance that
    is not rated and teaches the classes alone. None of a fold without dimensions."""

    @property
    def outputs(self) -> int:
        """How many numbers a head gives of a sample: one a class, then one a dimension."""
        return len(self.classes) + len(self.targets)

    def rated(self, rows: Indices) -> Indices:
        """Return those of some utterances that have ratings; none of a fold without dimensions."""
        return rows[:0] if self.ratings is None else rows[np.isfinite(self.ratings[rows]).all(axis=1)]

    def __post_init__(self) -> None:
        n = len(self.features.utterance_ids)
        if len(self.labels) != n or (self.speakers is not None and len(self.speakers) != n):
            raise UsageError(f"a fold of {n} utterances needs {n} labels and speakers")
        roles = np.concatenate([self.train, self.val, self.test])
        if len(roles) and (roles.min() < 0 or roles.max() >= n):
            raise UsageError(f"a fold's indices must lie from 0 to {n - 1}")
        if len(np.unique(roles)) != len(roles):
            raise UsageError("an utterance stands twice in the fold's train, val and test")
        if not len(self.train):
            raise UsageError("the fold has no training utterances")
        if self.targets:
            self._check_ratings(roles)
        if self.targets and not self.classes:
            return
        if self.soft_labels is not None and self.soft_labels.shape != (n, len(self.classes)):
            raise UsageError(f"soft labels {self.soft_labels.shape} must be of {n} utterances and {len(self.classes)} classes")
        used = self.labels[roles]
        if used.min() < 0 or used.max() >= len(self.classes):
            raise UsageError(f"labels must lie from 0 to {len(self.classes) - 1}")

    def _check_ratings(self, roles: Indices) -> None:
        """Refuse ratings that nothing can be learned from.

        Raises:
            UsageError: Shapes differ, there are soft labels of no classes, a rating is no number (beside classes it may be
                none), or all of the training side are alike.
        """
        wanted = (len(self.features.utterance_ids), len(self.targets))
        if self.ratings is None or self.ratings.shape != wanted or (self.soft_labels is not None and not self.classes):
            raise UsageError(f"a fold of {wanted[0]} utterances and {wanted[1]} dimensions needs ratings {wanted}")
        if not self.classes and not np.isfinite(self.ratings[roles]).all():
            odd = self.features.utterance_ids[int(roles[~np.isfinite(self.ratings[roles]).all(axis=1)][0])]
            raise UsageError(f"utterance {odd!r}: its rating is no number")
        taught = self.rated(self.train)
        if not len(taught):
            raise UnlearnableError(f"no training utterance is rated for {' and '.join(self.targets)}: there is nothing to learn")
        for name, values in zip(self.targets, self.ratings[taught].T, strict=True):
            if values.min() == values.max():
                raise UnlearnableError(f"all {len(values):,} training utterances have the same {name}: there is nothing to learn")


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch; scores are utterance-level, None where there are no such utterances."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the training samples, augmented and with all regularisation."""
    learning_rate: float
    """Of the last step."""
    train_s: float
    eval_s: float
    val_WA: float | None  # noqa: N815
    val_UA: float | None  # noqa: N815
    test_WA: float | None  # noqa: N815
    test_UA: float | None  # noqa: N815
    val_WF1: float | None = None  # noqa: N815
    test_WF1: float | None = None  # noqa: N815
    val_loss: float | None = None
    """Mean negative logarithm of the true class's probability over the utterances; no weights, no smoothing. Of dimensions: the
    mean squared error on 0..1."""
    test_loss: float | None = None
    val_CCC: float | None = None  # noqa: N815
    """Mean over the dimensions; None of classes alone. WA, UA and WF1 are None of dimensions alone; of both, losses are the
    classes'."""
    test_CCC: float | None = None  # noqa: N815
    temperature: float | None = None
    """Fitted on the validation utterances, where the recipe asks for it."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of epoch, and its predictions on the test utterances (None where the fold has none)."""

    epoch: int
    test: Prediction | None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a training yields."""

    history: tuple[EpochRecord, ...]
    selections: Mapping[str, Selection]
    """``last``, ``val`` (with validation utterances), ``test-oracle`` (with test utterances), and the recipe's own."""
    states: Mapping[str, dict[str, Tensor]]
    """``last`` and, if there is one, ``val``: self-contained, see `predict`. On the CPU."""
    parameters: int
    together: int = 1
    """Trainings that shared each step with this one, itself included."""
