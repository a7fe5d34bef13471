"""Temperature scaling: one number that makes probabilities as sure of themselves as they are right (Guo et al., ICML 2017).

In: class probabilities of validation utterances, (n, K), and their classes. Out: the temperature T at which p^(1/T), made to sum
to 1, has the least negative log likelihood; above 1 where a head is too sure. Of logits this is their softmax divided by T; an
utterance's probabilities, which may be a mean over its segments, are scaled as they are. The largest stays the largest whatever T
is. Nothing here sees a test utterance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEAST, MOST = 0.05, 20.0
"""Temperatures that are looked at: beyond them, few utterances that are all right (or all wrong) would take T to no end."""

_TINY = 1e-12


def scaled(probabilities: npt.ArrayLike, temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities (n, K) at a temperature; rows sum to 1, a probability below 1e-12 counts as that.

    >>> scaled([[0.9, 0.1]], 2.0).round(2).tolist()
    [[0.75, 0.25]]
    """
    logarithms = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _TINY)) / temperature
    powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_temperature(probabilities: npt.ArrayLike, labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature of the least negative log likelihood of the classes ``labels`` (n,), from LEAST to MOST.

    Raises:
        ValueError: There are no utterances.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        raise ValueError("there are no utterances to fit a temperature on")
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        return float(-np.log(scaled(probabilities, float(np.exp(logarithm)))[rows, labels] + 1e-300).mean())

    found = minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
