"""Scores of predicted against true classes, in plain numpy.

Names as the field uses them: WA (weighted accuracy) is accuracy, UA (unweighted accuracy) is macro recall, WF1 is the
F1 averaged with the classes' sizes as weights, macro_F1 the plain average. WAR and UAR are WA and UA by other names.

A class without a true sample has no recall: it is left out of UA and has weight 0 in WF1. macro_F1 averages over the
classes that are true or predicted at least once, as scikit-learn does by default.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a set of predictions, all from 0 to 1."""

    n: int
    WA: float
    UA: float
    WF1: float
    macro_F1: float  # noqa: N815 - the name in the schema
    recall: tuple[float | None, ...]
    """Per class, in the order of the class numbers; None for a class without a true sample."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts: a row per true class, a column per predicted class."""


def confusion_matrix(labels: npt.ArrayLike, predictions: npt.ArrayLike, n_classes: int) -> npt.NDArray[np.int64]:
    """Count the pairs of true class (row) and predicted class (column): (n_classes, n_classes).

    Raises:
        ValueError: The lengths differ, or a class number lies outside 0 to n_classes - 1.
    """
    true = np.asarray(labels, dtype=np.int64)
    predicted = np.asarray(predictions, dtype=np.int64)
    if true.shape != predicted.shape or true.ndim != 1:
        raise ValueError(f"labels {true.shape} and predictions {predicted.shape} must be two lists of one length")
    for values in (true, predicted):
        if values.size and (values.min() < 0 or values.max() >= n_classes):
            raise ValueError(f"class numbers must lie from 0 to {n_classes - 1}, not {values.min()} to {values.max()}")
    counts = np.bincount(true * n_classes + predicted, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def scores(labels: npt.ArrayLike, predictions: npt.ArrayLike, n_classes: int) -> Scores:
    """Score predicted class numbers (n,) against the true ones (n,).

    >>> found = scores([0, 0, 0, 1], [0, 0, 1, 1], n_classes=3)
    >>> found.WA, round(found.UA, 3), found.recall
    (0.75, 0.833, (0.6666666666666666, 1.0, None))

    Raises:
        ValueError: There is nothing to score, the lengths differ, or a class number is out of range.
    """
    counts = confusion_matrix(labels, predictions, n_classes)
    total = int(counts.sum())
    if not total:
        raise ValueError("nothing to score: no predictions")
    # A class without test utterances has no recall and is left out of UA (a fold without disgust); one that was
    # predicted but never true counts in the macro F1, with 0, as in scikit-learn.
    hits = np.diagonal(counts).astype(np.float64)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    present = true > 0
    seen = (true + predicted) > 0
    recall = hits[present] / true[present]
    f1 = np.zeros(n_classes)
    f1[seen] = 2 * hits[seen] / (true + predicted)[seen]
    per_class: list[float | None] = [None] * n_classes
    for number, value in zip(np.flatnonzero(present), recall, strict=True):
        per_class[int(number)] = float(value)
    return Scores(
        n=total,
        WA=float(hits.sum() / total),
        UA=float(recall.mean()),
        WF1=float((f1 * true).sum() / total),
        macro_F1=float(f1[seen].mean()),
        recall=tuple(per_class),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
    )
