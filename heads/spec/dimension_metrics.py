"""Scores of predicted against true ratings of one dimension, in plain numpy, out of sums that add up over speakers.

The concordance correlation coefficient (Lin, Biometrics 45, 1989) is Pearson's correlation times what two shifts cost:

    CCC = 2 cov(t, p) / (var t + var p + (mean p - mean t)^2) = pearson * 2 / (v + 1 / v + u^2)

with the scale shift v = sd p / sd t (1: ratings are spread as widely as they are) and the location shift
u = (mean p - mean t) / sqrt(sd t sd p) (0: none). Variances are those of the population (divided by n), as in Lin's paper and in
audmetric. CCC, pearson and both shifts are the same on any scale of ratings; MAE is in the units of the ratings.

What has no value is None: CCC where both sides are one and the same constant, and of one utterance; pearson and the shifts
where either side is constant (CCC is 0 then).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SUMS = ("n", "t", "p", "tt", "pp", "tp", "error")
"""The last axis of sums: how many, the sums of true and predicted ratings, of their squares and product, and of |p - t|."""

DIMENSION_METRICS = ("CCC", "pearson", "MAE", "scale_shift", "location_shift")
"""As tables call them."""

_TINY = 1e-9
"""A variance below this, of ratings from 0 to 1, (a deviation of 0.00003) is no spread: the ratings are constant."""


@dataclass(frozen=True, kw_only=True)
class DimensionScores:
    """How well ratings of one dimension were predicted; see the module for what is None."""

    n: int
    CCC: float | None
    pearson: float | None
    MAE: float
    scale_shift: float | None
    location_shift: float | None


def sums_of(true: npt.ArrayLike, predicted: npt.ArrayLike, error: npt.ArrayLike | None = None) -> Floats:
    """Return the sums (7,) of true and predicted ratings (n,) on 0..1, in the order of `SUMS`.

    Args:
        true: (n,)
        predicted: (n,)
        error: (n,) what stands for |p - t|, where MAE is wanted in other units; None: that.
    """
    t, p = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    e = np.abs(p - t) if error is None else np.asarray(error, dtype=np.float64)
    # Around the middle of the scale, where squares lose no digits.
    t, p = t - 0.5, p - 0.5
    return np.array([len(t), t.sum(), p.sum(), (t * t).sum(), (p * p).sum(), (t * p).sum(), e.sum()])


def of_sums(sums: Floats, metric: str) -> Floats:
    """Return a score of sums (..., 7): (...); NaN where there is none."""
    n, t, p, tt, pp, tp, error = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "MAE":
            return np.asarray(error / n)
        mean_t, mean_p = t / n, p / n
        var_t, var_p = np.maximum(tt / n - mean_t**2, 0.0), np.maximum(pp / n - mean_p**2, 0.0)
        cov, gap = tp / n - mean_t * mean_p, mean_p - mean_t
        constant = (var_t < _TINY) | (var_p < _TINY)
        if metric == "CCC":
            below = var_t + var_p + gap**2
            none = (below < _TINY) | (n < 2)
            return np.asarray(np.where(none, np.nan, np.where(constant, 0.0, 2 * cov / below)))
        if metric == "pearson":
            value = np.clip(cov / np.sqrt(var_t * var_p), -1.0, 1.0)
        elif metric == "scale_shift":
            value = np.sqrt(var_p / var_t)
        elif metric == "location_shift":
            value = gap / np.sqrt(np.sqrt(var_t * var_p))
        else:
            raise ValueError(f"no such score: {metric}")
        return np.asarray(np.where(constant, np.nan, value))


def dimension_scores(true: npt.ArrayLike, predicted: npt.ArrayLike, error: npt.ArrayLike | None = None) -> DimensionScores:
    """Score predicted ratings (n,) against the true ones (n,), both on 0..1; of `error`, see `sums_of`.

    >>> found = dimension_scores([0.0, 0.5, 1.0], [0.25, 0.5, 0.75])
    >>> found.CCC, found.pearson, found.scale_shift, found.location_shift
    (0.8, 1.0, 0.5, 0.0)

    Raises:
        ValueError: There is nothing to score, or the lengths differ.
    """
    if np.shape(true) != np.shape(predicted) or np.ndim(true) != 1:
        raise ValueError(f"ratings {np.shape(true)} and predictions {np.shape(predicted)} must be two lists of one length")
    if not np.size(true):
        raise ValueError("nothing to score: no predictions")
    sums = sums_of(true, predicted, error)
    values = {metric: float(of_sums(sums, metric)) for metric in DIMENSION_METRICS}
    mae = values.pop("MAE")
    return DimensionScores(n=int(sums[0]), MAE=mae, **{name: None if np.isnan(x) else x for name, x in values.items()})


def mean_ccc(true: npt.ArrayLike, predicted: npt.ArrayLike) -> float | None:
    """Return the mean over T dimensions of the CCC of ratings (m, T); None where none of them has one."""
    found = [dimension_scores(*sides).CCC for sides in zip(np.transpose(true), np.transpose(predicted), strict=True)]
    there = [value for value in found if value is not None]
    return float(np.mean(there)) if there else None
