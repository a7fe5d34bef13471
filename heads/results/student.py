"""Student's t: the quantile that an interval reaches to, and the logit scale on which intervals of shares are taken.

In go degrees of freedom and a probability, floats; out come floats. SciPy has the same (`scipy.special.stdtrit`, `expit`), and a
test compares the two to eleven digits; here they stand because to import it takes a third of a second, which every table and
page of scores would wait for. Nothing here knows what a score is.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

_STEPS = 200
_NEARLY = 1e-15
_TINY = 1e-300
_MANY = 5_000
"""Degrees of freedom from which the expansion around the normal quantile is exact to eleven digits."""


@functools.lru_cache(maxsize=1024)
def t_quantile(df: float, probability: float) -> float:
    """Return the value that Student's t with so many degrees of freedom stays below with a probability from 0.5 to 1.

    Newton's steps from the normal quantile, which lies below: the distribution function is concave there, so that no step goes
    too far. It is not a number where the degrees of freedom are none (zero or less), and infinite at 1.

    >>> round(t_quantile(9, 0.975), 6), round(t_quantile(1, 0.975), 6)
    (2.262157, 12.706205)

    Raises:
        ValueError: the probability is not such.
    """
    if not 0.5 <= probability <= 1:
        raise ValueError(f"the probability must be from 0.5 to 1, not {probability}")
    if not df > 0:
        return math.nan
    if probability == 1:
        return math.inf
    z = t = NormalDist().inv_cdf(probability)
    if df >= _MANY:  # Abramowitz and Stegun, 26.7.5
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    # Of the upper tail, which keeps its digits where the distribution function is nearly 1.
    tail = 1 - probability
    log_scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    for _ in range(_STEPS):
        above = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))
        density = math.exp(log_scale - (df + 1) / 2 * math.log1p(t * t / df))
        step = (above - tail) / density
        t += step
        if abs(step) <= 4 * _NEARLY * max(1.0, abs(t)):
            break
    return t


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (Abramowitz and Stegun, 26.5.8), evaluated from
    its beginning (Lentz, Applied Optics 15, 1976)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other end converges faster
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for part in (even, odd):
            c, d = _not_zero(1 + part / c), 1 / _not_zero(1 + part * d)
            value *= c * d
        if abs(c * d - 1) < _NEARLY:
            break
    return math.exp(front) * value / a


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def logit(share: float) -> float:
    """Return the logarithm of the odds of a share between 0 and 1, neither of them."""
    return math.log(share / (1 - share))


def expit(log_odds: float) -> float:
    """Return the share whose odds have this logarithm.

    >>> expit(0.0), round(expit(logit(0.9)), 12)
    (0.5, 0.9)
    """
    odds = math.exp(-abs(log_odds))
    return (1 if log_odds >= 0 else odds) / (1 + odds)
