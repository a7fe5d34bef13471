"""Whether two experiments differ at all: the test that exchanges whole clusters, and McNemar's.

In go counts by seed, cluster (speaker) and class of both (`tfser.heads.results.intervals`), or any other score of which
differences after exchanges can be given (`permuted`); out come p values. Under the permutation test clusters are the
independent units; under McNemar's, which papers print, each utterance is. Random exchanges have a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfser.heads.results.intervals import Counts, Floats, check_paired, score, score_of


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A two-sided p value of the clustered permutation test.

    `exact`: all swaps were counted, or as many as `draws` says were drawn. `smallest_p` is the least that these clusters allow.
    """

    p: float
    exact: bool
    draws: int
    clusters: int
    smallest_p: float


def permutation_test(
    a: Counts, b: Counts, metric: str, *, exact_up_to: int = 14, draws: int = 19_999, seed: int = 0
) -> Permutation:
    """Test whether A and B are alike by exchanging their predictions for whole clusters at a time.

    If they are, each speaker's predictions could as well have come from the other one. All 2^G exchanges are counted where at
    most `exact_up_to` clusters differ (one that does not changes nothing); else `draws` are drawn and the one that was seen is
    added (Phipson and Smyth, "Permutation p-values should never be zero", 2010). Seeds are exchanged with their speaker: the
    i-th of A with the i-th of B, each side's repeated until both have as many, so that what is tested is what is shown: the
    difference of the two means over seeds.

    Raises:
        ValueError: The two were not counted over the same utterances.
    """
    # Each side's seeds are repeated to a common number, so that the difference that is tested is the one of the
    # two means that is shown.
    check_paired(a, b)
    seeds = math.lcm(len(a.hits), len(b.hits))
    a, b = a.repeated(seeds), b.repeated(seeds)
    parts = {n: (getattr(a, n), getattr(b, n)) for n in ("hits", "predicted")}
    # A cluster in which both predicted the same changes nothing when it is exchanged: only those that differ
    # count towards the 2^G.
    differ = np.logical_or.reduce([(x != y).any(axis=(0, 2)) for x, y in parts.values()])
    seen = abs(score(a, metric) - score(b, metric))
    return permuted(differ, seen, lambda signs: exchanged(a, b, metric, signs), exact_up_to=exact_up_to, draws=draws, seed=seed)


def permuted(
    differ: npt.NDArray[np.bool_],
    seen: float,
    exchange: Callable[[Floats], Floats],
    *,
    exact_up_to: int,
    draws: int,
    seed: int,
) -> Permutation:
    """Compare the size of a difference with its sizes after whole clusters were exchanged: in all ways, or in some drawn ones.

    Args:
        differ: (G,) the clusters whose exchange changes something.
        seen: the size of the difference.
        exchange: gives the differences (m,) of signs (m, G), as `exchanged` does.
        exact_up_to: so many clusters are exchanged in every way.
        draws: of more, so many ways are drawn.
        seed: of the draws.
    """
    n = int(differ.sum())
    exact = n <= exact_up_to
    if exact:  # one of each pair of opposite exchanges: they give the same size
        codes = np.arange(2 ** max(n - 1, 0))
        signs = 1.0 - 2.0 * (codes[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (draws, n))
    every = np.ones((len(signs), len(differ)))
    every[:, differ] = signs
    sizes = exchange(every)
    # Ties count as at least as large, whatever rounding says: the exchange that was seen is always among them.
    at_least = int((np.abs(sizes) >= seen - 1e-12).sum())
    p = at_least / len(signs) if exact else (1 + at_least) / (1 + draws)
    smallest = min(1.0, 2.0 / 2**n) if exact else 1 / (1 + draws)
    return Permutation(p=float(p), exact=exact, draws=2**n if exact else draws, clusters=n, smallest_p=smallest)


def exchanged(a: Counts, b: Counts, metric: str, signs: Floats) -> Floats:
    """Return the difference of A and B after whole clusters were exchanged between them: (m,).

    Args:
        a: counts over S seeds.
        b: counts of the same utterances; where it has other seeds than A, both are repeated until they have as many.
        metric: the score.
        signs: (m, G) of 1 and -1: whose predictions each cluster keeps, and whose are exchanged.
    """
    seeds = math.lcm(len(a.hits), len(b.hits))
    a, b = a.repeated(seeds), b.repeated(seeds)
    # Scores are sums over clusters, so an exchange is a sign in front of half the difference: one matrix product for all of them.
    true = a.true.sum(axis=1)  # (S, K), the same for both
    sizes = np.zeros(len(signs))
    for s in range(seeds):  # one at a time: three seeds against ten are thirty pairs
        swapped = {}
        for name, x, y in (("hits", a.hits[s], b.hits[s]), ("predicted", a.predicted[s], b.predicted[s])):
            middle = (x + y).sum(axis=0) / 2
            moved = signs @ ((x - y) / 2)  # (m, K)
            swapped[name] = (middle + moved, middle - moved)
        for side, sign in ((0, 1.0), (1, -1.0)):
            sizes += sign * score_of(swapped["hits"][side], true[s], swapped["predicted"][side], metric) / seeds
    return sizes


def mcnemar(a_right: npt.ArrayLike, b_right: npt.ArrayLike) -> tuple[int, int, float]:
    """Return how often A alone is right, B alone is, and the exact two-sided p of McNemar's test (binomial, 1/2).

    It takes utterances as independent, which those of one speaker are not: its p is too small.

    >>> mcnemar([True] * 8 + [False] * 2, [False] * 7 + [True] * 3)
    (7, 2, 0.1796875)
    """
    from scipy.special import bdtr

    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    return only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), n, 0.5))) if n else 1.0
