"""What a score of dimensions is worth when a speaker's utterances are alike: `intervals` for ratings instead of classes.

In go sums by seed, cluster (speaker) and dimension (`tfser.heads.spec.dimension_metrics`); out come CCC, pearson and MAE with
intervals, differences with intervals, and p values. As for UA, a score is pooled: computed from the sums over all test
utterances of a seed, averaged over the seeds; of several dimensions it is the mean of theirs. The speaker is the unit
throughout.

* The variance is that of the delete-one-speaker jackknife, times G / (G - 1): CCC is a ratio of second moments, in which the
  deviations of few speakers stand squared, so that the plain jackknife's is a little short (by simulation 92.7 to 95.2 % of
  95 at ten speakers). Student's t has the degrees of freedom of `intervals`.
* The interval of CCC and of pearson is taken on Fisher's scale (artanh, delta method) and turned back, so it stays between
  -1 and 1; that of MAE on the scale of logarithms; that of a difference is symmetric.
* The permutation test exchanges whole speakers, as for classes.

`benchmarks/intervals.py --dimensions` simulates speakers and prints how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tfser.heads.results.exchanges import Permutation, permuted
from tfser.heads.results.intervals import CONFIDENCE, Interval, quantile, symmetric
from tfser.heads.spec.dimension_metrics import SUMS, of_sums

Floats = npt.NDArray[np.float64]

RATED_METRICS = ("CCC", "pearson", "MAE")
"""Scores of dimensions that have intervals and can be compared."""

MOST_IS_BEST = frozenset({"CCC", "pearson"})
"""Those of which more is better."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What S seeds predicted for the same utterances of G clusters: `sums` (S, G, T, 7), see `dimension_metrics.SUMS`."""

    clusters: tuple[str, ...]
    dimensions: tuple[str, ...]
    sums: Floats

    def __post_init__(self) -> None:
        shape = (len(self.sums), len(self.clusters), len(self.dimensions), len(SUMS))
        if not all(shape) or self.sums.shape != shape:
            raise ValueError(f"sums must be {shape}, and not empty")
        if not (self.sums[..., 0] > 0).all():
            raise ValueError("a cluster without an utterance")

    def only(self, dimension: str) -> Moments:
        """Return the sums of one dimension."""
        t = self.dimensions.index(dimension)
        return replace(self, dimensions=(dimension,), sums=self.sums[:, :, t : t + 1])

    def repeated(self, seeds: int) -> Moments:
        """Return the seeds one after the other and again from the first, so many in all: a multiple of how many there are."""
        return replace(self, sums=np.tile(self.sums, (seeds // len(self.sums), 1, 1, 1)))

    @property
    def sizes(self) -> Floats:
        """Utterances by cluster, (G, 1)."""
        return np.asarray(self.sums[0, :, :1, 0])


def score(moments: Moments, metric: str) -> float | None:
    """Return the pooled score, averaged over dimensions and seeds; None where a dimension has none."""
    return _number(float(_score(moments.sums.sum(axis=1), metric).mean()))


def seed_scores(moments: Moments, metric: str) -> tuple[float | None, ...]:
    """Return the pooled score of each seed."""
    return tuple(_number(float(value)) for value in _score(moments.sums.sum(axis=1), metric))


def cluster_scores(moments: Moments, metric: str) -> list[float | None]:
    """Return each cluster's score by itself, averaged over the seeds."""
    return [_number(float(value)) for value in _score(moments.sums, metric).mean(axis=0)]


def rating_interval(moments: Moments, metric: str) -> Interval | None:
    """Return the pooled score with its interval over clusters; None where there is no score."""
    value = score(moments, metric)
    if value is None:
        return None
    linear = _wider(value, without_each(moments, metric), moments, CONFIDENCE)
    if not linear.std_error or (abs(value) >= 1 and metric != "MAE"):
        return linear
    reach = quantile(linear.df, CONFIDENCE) * linear.std_error
    if metric == "MAE":
        return replace(linear, low=value * math.exp(-reach / value), high=value * math.exp(reach / value))
    z, steep = math.atanh(value), 1 - value * value
    return replace(linear, low=math.tanh(z - reach / steep), high=math.tanh(z + reach / steep))


def rating_difference(a: Moments, b: Moments, metric: str, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Return A's score less B's on the same utterances, with its interval over clusters; None where either has no score.

    Raises:
        ValueError: The two are not of the same utterances.
    """
    _same(a, b)
    of_a, of_b = score(a, metric), score(b, metric)
    if of_a is None or of_b is None:
        return None
    found = _wider(of_a - of_b, without_each(a, metric) - without_each(b, metric), a, confidence)
    if not found.std_error:
        return found
    reach = quantile(found.df, confidence) * found.std_error
    return replace(found, low=found.value - reach, high=found.value + reach)


def rating_permutation(
    a: Moments, b: Moments, metric: str, *, exact_up_to: int = 14, draws: int = 19_999, seed: int = 0
) -> Permutation | None:
    """Test whether A and B are alike by exchanging their predictions for whole clusters, as `exchanges.permutation_test`; None
    where either has no score.

    Raises:
        ValueError: The two are not of the same utterances.
    """
    _same(a, b)
    seen = rating_difference(a, b, metric)
    if seen is None:
        return None
    seeds = math.lcm(len(a.sums), len(b.sums))
    # A cluster in which both predicted the same changes nothing when it is exchanged.
    differ = (a.repeated(seeds).sums != b.repeated(seeds).sums).any(axis=(0, 2, 3))
    size = abs(seen.value)
    return permuted(
        differ, size, lambda signs: rating_exchanged(a, b, metric, signs), exact_up_to=exact_up_to, draws=draws, seed=seed
    )


def rating_exchanged(a: Moments, b: Moments, metric: str, signs: Floats) -> Floats:
    """Return the difference of A and B after whole clusters were exchanged: `exchanges.exchanged`, with its arguments."""
    seeds = math.lcm(len(a.sums), len(b.sums))
    sizes = np.zeros(len(signs))
    for one, other in zip(a.repeated(seeds).sums, b.repeated(seeds).sums, strict=True):  # a seed at a time
        middle = (one + other).sum(axis=0) / 2  # (T, 7)
        moved = np.einsum("mg,gtk->mtk", signs, (one - other) / 2)
        sizes += (_score(middle + moved, metric) - _score(middle - moved, metric)) / seeds
    return sizes


def gathered(
    clusters: Sequence[str], dimensions: Sequence[str], true: npt.ArrayLike, predicted: npt.ArrayLike, error: npt.ArrayLike
) -> Moments:
    """Return the moments of predictions.

    Args:
        clusters: (n,) of the utterances.
        dimensions: T names.
        true: (n, T) ratings on 0..1.
        predicted: (S, n, T) on 0..1.
        error: (S, n, T) distances in points of the corpora's scales.
    """
    who = tuple(sorted(set(clusters)))
    number = {name: i for i, name in enumerate(who)}
    place = np.array([number[name] for name in clusters])
    t = np.broadcast_to(np.asarray(true, dtype=np.float64) - 0.5, np.shape(predicted))
    p = np.asarray(predicted, dtype=np.float64) - 0.5
    parts = np.stack([np.ones_like(p), t, p, t * t, p * p, t * p, np.asarray(error, dtype=np.float64)], axis=-1)  # (S, n, T, 7)
    sums = np.zeros((len(p), len(who), len(dimensions), len(SUMS)))
    for s, of_seed in enumerate(parts):
        np.add.at(sums[s], place, of_seed)
    return Moments(clusters=who, dimensions=tuple(dimensions), sums=sums)


def _score(sums: Floats, metric: str) -> Floats:
    """Return the mean over the dimensions (..., T, 7): (...)."""
    return np.asarray(of_sums(sums, metric).mean(axis=-1))


def without_each(moments: Moments, metric: str) -> Floats:
    """Return the score without each cluster in turn, averaged over seeds: (G,); NaN where there is none."""
    if len(moments.clusters) == 1:
        return np.full(1, np.nan)
    return np.asarray(_score(moments.sums.sum(axis=1, keepdims=True) - moments.sums, metric).mean(axis=0))


def _wider(value: float, without: Floats, moments: Moments, confidence: float) -> Interval:
    """Return a value with its standard error, wider than the jackknife's by the root of G / (G - 1), and no interval yet."""
    found = symmetric(value, without, moments.sizes, "WA", confidence)
    G = len(moments.clusters)
    if found.std_error is None or not math.isfinite(found.std_error):
        return replace(found, std_error=None, df=None)
    return replace(found, std_error=found.std_error * math.sqrt(G / (G - 1)))


def _same(a: Moments, b: Moments) -> None:
    same = a.clusters == b.clusters and a.dimensions == b.dimensions
    if not same or not np.allclose(a.sums[0][..., [0, 1, 3]], b.sums[0][..., [0, 1, 3]]):
        raise ValueError("the two are not of the same utterances")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
