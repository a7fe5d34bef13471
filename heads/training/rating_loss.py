"""Losses of dimensions: 1 - CCC over the batch, the squared error, and their mix; and what a head's outputs mean as ratings.

A head's output z stands for the rating 0.5 + z on 0..1: a head that has learned nothing says about the middle of the scale. In
training it is free; what is predicted is cut to 0..1, since nobody's rating lies beyond its scale.

1 - CCC is taken over the samples of a batch, the mean over the dimensions, with Lin's moments divided by B. It is **not**
the mean of a loss of single samples, and the CCC of a small batch is biased: even for the same errors its expectation is
not the CCC over all samples. Where predictions are t + noise, the mean over batches of B is the farther below the
population's the smaller B is (about 0.03 at B = 8 and CCC = 0.67, below 0.01 from B = 32 on;
`tests/heads/test_rating_loss.py`). So batches of 16 and more are meant; a batch whose ratings and predictions are all alike
has no CCC and gives a loss of 1 without a gradient of its own. The mix with the squared error, which has no such bias,
keeps small batches honest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tfser.heads.spec.recipes import Recipe

MIDDLE = 0.5
_TINY = 1e-6  # added to a sum of variances, which is 0 in a batch of one sample that is predicted right
_SPREAD = 1 / 12
"""The variance of ratings that are spread evenly over 0..1: in its units, the squared error weighs about as much as 1 - CCC."""


def rated(outputs: Tensor) -> Tensor:
    """Return the ratings (B, T) that a head's outputs stand for, cut to 0..1."""
    return (outputs + MIDDLE).clamp(0.0, 1.0)


def rating_loss(outputs: Tensor, targets: Tensor, recipe: Recipe, present: Tensor | None = None) -> Tensor:
    """Return the loss of a batch.

    Args:
        outputs: (B, T) of the head.
        targets: (B, T) true ratings on 0..1.
        recipe: its rating_loss and rating_mix.
        present: (B,) bool, the samples that are there. None: all.
    """
    weights = torch.ones_like(outputs[:, :1]) if present is None else present.to(outputs.dtype)[:, None]  # (B, 1)
    n = weights.sum().clamp(min=1.0)
    predicted = outputs + MIDDLE
    squared = ((predicted - targets).square() * weights).sum() / (n * targets.shape[1])
    if recipe.rating_loss == "mse":
        return squared
    concordance = 1 - ccc(predicted, targets, weights).mean()
    if recipe.rating_loss == "ccc":
        return concordance
    return recipe.rating_mix * concordance + (1 - recipe.rating_mix) * squared / _SPREAD


def ccc(predicted: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the concordance correlation of each of T dimensions over a batch: (T,).

    Args:
        predicted: (B, T)
        targets: (B, T)
        weights: (B, 1) of 1, and 0 for samples that are not there.
    """
    n = weights.sum().clamp(min=1.0)
    mean_t, mean_p = (targets * weights).sum(dim=0) / n, (predicted * weights).sum(dim=0) / n
    t, p = (targets - mean_t) * weights, (predicted - mean_p) * weights
    below = (t.square() + p.square()).sum(dim=0) / n + (mean_p - mean_t).square()
    return 2 * (t * p).sum(dim=0) / n / (below + _TINY)
