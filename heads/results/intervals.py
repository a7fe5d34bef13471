"""What a score is worth when a speaker's utterances are alike: intervals over clusters (`exchanges` has the tests).

In go counts by seed, cluster (speaker) and class; out come scores with intervals, and differences with intervals. The
predictions of one speaker are not independent, so an interval over utterances is too narrow by far; here the speaker is the unit.

* A score is pooled: computed from the counts of all test utterances together, for each seed, and averaged over the seeds. The
  clusters stay the same speakers however many seeds there are, so more seeds do not narrow what lies between speakers.
* Its variance is the delete-one-cluster jackknife's around the full score, (G - 1)/G * sum of squares: the cluster-robust CV3 of
  MacKinnon, Nielsen and Webb, "Fast and reliable jackknife and bootstrap methods for cluster-robust inference", Journal of
  Applied Econometrics 38 (2023). It serves F1 as well, where a closed form is awkward.
* Student's t with the degrees of freedom of Bell and McCaffrey, "Bias reduction in standard errors for linear regression with
  multi-stage samples", Survey Methodology 28 (2002): Satterthwaite's, under independent utterances. Equal speakers give G - 1;
  a corpus where six of a hundred speakers say nearly everything gives about six.
* The interval of a score is taken on the logit scale (delta method) and turned back, so it stays between 0 and 1 and is skewed
  near them; the interval of a difference is symmetric.

* Where a further speaker's score would lie is another question than where the mean of all lies: `new_speaker`.

`benchmarks/intervals.py` simulates speakers and prints how often each kind of interval holds the truth.

What the interval is of: these trained heads' recipe on other speakers of the same population. It leaves out that another
training corpus would train other heads, and that the heads of two folds share most of their training side (no unbiased estimate
of that variance exists: Bengio and Grandvalet, JMLR 5, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = ("UA", "WA", "WF1", "macro_F1")
"""Scores that can be pooled, by the names of heads.metrics."""

CONFIDENCE = 0.95

_ROUNDING = 1e-9
"""A standard error below this is zero: what is left of scores that differ by rounding alone."""

_FEWEST = 3
"""With two clusters a new speaker could lie anywhere: Student's quantile is 12.7."""

FEW = 6
"""With fewer clusters the clustered test cannot reach p < 0.05: five give 2/2^5 = 0.0625 at best."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What S seeds predicted for the same G clusters' test utterances of K classes; counts as floats, so that they average.

    `true` (S, G, K) counts utterances by true class, `hits` those of them that are right, `predicted` all that were taken for
    the class.
    """

    clusters: tuple[str, ...]
    classes: tuple[str, ...]
    hits: Floats
    true: Floats
    predicted: Floats

    def __post_init__(self) -> None:
        shape = (len(self.hits), len(self.clusters), len(self.classes))
        if not all(shape) or any(of.shape != shape for of in (self.hits, self.true, self.predicted)):
            raise ValueError(f"counts must all be {shape}, and none of the three empty")
        if not (self.true.sum(axis=2) > 0).all():
            raise ValueError("a cluster without an utterance")

    def only(self, name: str) -> Counts:
        """Return the counts of one class; its UA is the recall. Clusters that lack it are left out."""
        k = self.classes.index(name)
        has = self.true[0, :, k] > 0
        return Counts(
            clusters=tuple(c for c, there in zip(self.clusters, has, strict=True) if there),
            classes=(name,),
            hits=self.hits[:, has, k : k + 1],
            true=self.true[:, has, k : k + 1],
            predicted=self.predicted[:, has, k : k + 1],
        )

    def repeated(self, seeds: int) -> Counts:
        """Return the seeds one after the other and again from the first, so many in all: a multiple of how many there are."""
        times = (seeds // len(self.hits), 1, 1)
        hits, true, predicted = (np.tile(of, times) for of in (self.hits, self.true, self.predicted))
        return replace(self, hits=hits, true=true, predicted=predicted)


def count(
    clusters: Sequence[str], labels: Sequence[str], predicted: npt.ArrayLike, classes: Sequence[str] | None = None
) -> Counts:
    """Count predictions.

    Args:
        clusters: (n,) the cluster of each utterance.
        labels: (n,) true classes.
        predicted: (S, n) or (n,) predicted classes, a row a seed.
        classes: names in their order; those that occur, sorted, if left out.

    >>> found = count(["a", "a", "b"], ["anger", "sadness", "anger"], ["anger", "anger", "sadness"])
    >>> found.classes, found.hits[0].tolist(), found.predicted[0].tolist()
    (('anger', 'sadness'), [[1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]])
    """
    rows = np.atleast_2d(np.asarray(predicted, dtype=object))
    names = tuple(classes or sorted({*labels, *rows.ravel().tolist()}))
    number = {name: i for i, name in enumerate(names)}
    who = tuple(sorted(set(clusters)))
    place = {name: i for i, name in enumerate(who)}
    cluster = np.array([place[c] for c in clusters])
    truth = np.array([number[label] for label in labels])
    shape = (len(rows), len(who), len(names))
    hits, true, taken = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for s, row in enumerate(rows):
        guess = np.array([number[name] for name in row])
        np.add.at(true[s], (cluster, truth), 1)
        np.add.at(taken[s], (cluster, guess), 1)
        np.add.at(hits[s], (cluster[guess == truth], truth[guess == truth]), 1)
    return Counts(clusters=who, classes=names, hits=hits, true=true, predicted=taken)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score or a difference of two, from 0 to 1, with the interval that holds it at the stated confidence.

    `low` and `high` are None where nothing can be said: one cluster alone, or nothing that varies between them (all right, all
    wrong, the same share in each): an interval of width zero would claim to be sure.
    `df` are the degrees of freedom; far below the number of clusters where a few of them hold most utterances.
    """

    value: float
    low: float | None
    high: float | None
    std_error: float | None
    df: float | None
    clusters: int
    confidence: float = CONFIDENCE

    @classmethod
    def alone(cls, value: float, clusters: int = 1, confidence: float = CONFIDENCE) -> Interval:
        """Return a value without an interval."""
        return cls(value=value, low=None, high=None, std_error=None, df=None, clusters=clusters, confidence=confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dict(vars(self))


def score(counts: Counts, metric: str) -> float:
    """Return the pooled score, averaged over the seeds."""
    return float(_of_seeds(counts, metric).mean())


def seed_scores(counts: Counts, metric: str) -> tuple[float, ...]:
    """Return the pooled score of each seed."""
    return tuple(float(value) for value in _of_seeds(counts, metric))


def cluster_scores(counts: Counts, metric: str) -> Floats:
    """Return each cluster's score by itself, averaged over the seeds: (G,). UA is over the classes that the cluster has."""
    return np.asarray(score_of(counts.hits, counts.true, counts.predicted, metric).mean(axis=0))


def interval(counts: Counts, metric: str, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the pooled score, averaged over seeds, with its cluster-robust interval."""
    from scipy.special import expit, logit

    value = score(counts, metric)
    linear = symmetric(value, without_one(counts, metric), counts.true[0], metric, confidence)
    if not linear.std_error or not 0 < value < 1:
        return linear
    # On the logit scale, where the interval stays between 0 and 1; by simulation it covers better than the
    # symmetric one where most utterances are right (docs/methods.md).
    reach = quantile(linear.df, confidence) * linear.std_error / (value * (1 - value))
    return replace(linear, low=float(expit(logit(value) - reach)), high=float(expit(logit(value) + reach)))


def difference(a: Counts, b: Counts, metric: str, *, confidence: float = CONFIDENCE) -> Interval:
    """Return how much better A is than B on the same utterances, with the cluster-robust interval of the difference.

    Raises:
        ValueError: The two were not counted over the same utterances.
    """
    check_paired(a, b)
    value = score(a, metric) - score(b, metric)
    without = without_one(a, metric) - without_one(b, metric)
    found = symmetric(value, without, a.true[0], metric, confidence)
    if not found.std_error:
        return found
    # No logit here: a difference has either sign, and is cut at -1 and 1 alone.
    reach = quantile(found.df, confidence) * found.std_error
    return replace(found, low=max(value - reach, -1.0), high=min(value + reach, 1.0))


@dataclass(frozen=True, kw_only=True)
class NewSpeaker:
    """Where the score of one further speaker would lie at the stated confidence, from 0 to 1.

    `low` and `high` are None where nothing can be said: fewer than three clusters, or nothing that varies between them.
    `utterances` is the median of how many each of the clusters has.
    """

    low: float | None
    high: float | None
    utterances: float
    clusters: int
    confidence: float = CONFIDENCE


def new_speaker(counts: Counts, metric: str, *, confidence: float = CONFIDENCE) -> NewSpeaker:
    """Return the prediction interval of the score that a further cluster of the same kind would be measured at.

    Each cluster's own score (`cluster_scores`: averaged over seeds, UA over the classes that it has) is one draw; Student's
    prediction interval of the next draw (Hahn, "Factors for calculating two-sided prediction intervals for samples from a normal
    distribution", JASA 64, 1969) is taken on the scale of the arcsine of the root, where a share's sampling variance is the same
    everywhere (Anscombe, Biometrika 35, 1948), and turned back, so it stays between 0 and 1.

    It assumes that the next speaker is drawn like these ones, says about as much, and that speakers vary about normally on that
    scale. What a few utterances add by chance belongs to it, on purpose: whoever tries the head on a speaker sees that too. With
    endless utterances of the speaker it is too wide, the more so the fewer utterances these ones have.
    """
    values = np.arcsin(np.sqrt(np.clip(cluster_scores(counts, metric), 0.0, 1.0)))
    n = len(values)
    utterances = float(np.median(counts.true[0].sum(axis=1)))
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if n < _FEWEST or spread < _ROUNDING:
        return NewSpeaker(low=None, high=None, utterances=utterances, clusters=n, confidence=confidence)
    reach = quantile(n - 1.0, confidence) * spread * math.sqrt(1 + 1 / n)
    low, high = (math.sin(min(max(values.mean() + sign * reach, 0.0), math.pi / 2)) ** 2 for sign in (-1, 1))
    return NewSpeaker(low=low, high=high, utterances=utterances, clusters=n, confidence=confidence)


def check_paired(a: Counts, b: Counts) -> None:
    """Refuse counts that are not over the same utterances.

    Raises:
        ValueError: They are not.
    """
    same = a.clusters == b.clusters and a.classes == b.classes
    if not same or not (a.true[0] == b.true[0]).all():
        raise ValueError("the two were not counted over the same utterances")


def _of_seeds(counts: Counts, metric: str) -> Floats:
    return score_of(counts.hits.sum(axis=1), counts.true.sum(axis=1), counts.predicted.sum(axis=1), metric)


def score_of(hits: Floats, true: Floats, predicted: Floats, metric: str, unseen: Floats | None = None) -> Floats:
    """Score counts by class (..., K); `unseen` (..., K) stands for the recall or F1 of a class that has none."""
    if metric == "WA":
        return np.asarray(hits.sum(axis=-1) / true.sum(axis=-1))
    if metric == "UA":
        present, by_class = true > 0, _ratio(hits, true)
    elif metric in ("WF1", "macro_F1"):
        present, by_class = true + predicted > 0, _ratio(2 * hits, true + predicted)
    else:
        raise ValueError(f"no such score: {metric}")
    if metric == "WF1":
        return np.asarray((by_class * true).sum(axis=-1) / true.sum(axis=-1))
    if unseen is not None:
        present, by_class = np.broadcast_to(~np.isnan(unseen), present.shape), np.where(present, by_class, np.nan_to_num(unseen))
    return np.asarray((by_class * present).sum(axis=-1) / present.sum(axis=-1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def without_one(counts: Counts, metric: str) -> Floats:
    """Return the score without each cluster in turn, averaged over seeds: (G,).

    A class that one cluster alone has would be gone with it, and the score one of other classes: its recall (F1) is then the
    full one, so what such a class varies between speakers is not in the interval.
    """
    if len(counts.clusters) == 1:
        return np.full(1, np.nan)
    whole = [of.sum(axis=1, keepdims=True) for of in (counts.hits, counts.true, counts.predicted)]
    if metric == "UA":
        full = np.where(whole[1] > 0, _ratio(whole[0], whole[1]), np.nan)
    else:
        full = np.where(whole[1] + whole[2] > 0, _ratio(2 * whole[0], whole[1] + whole[2]), np.nan)
    hits, true, predicted = (w - of for w, of in zip(whole, (counts.hits, counts.true, counts.predicted), strict=True))
    return np.asarray(score_of(hits, true, predicted, metric, full).mean(axis=0))


def symmetric(value: float, without: Floats, true: Floats, metric: str, confidence: float) -> Interval:
    """Return a value with its standard error and degrees of freedom, and no interval yet.

    Args:
        value: the score.
        without: (G,) the score without each cluster.
        true: (G, K) utterances by cluster and class.
        metric: what `degrees_of_freedom` weighs them by.
        confidence: of the interval to be.
    """
    n = len(without)
    nothing = Interval.alone(value, n, confidence)
    if n == 1:
        return nothing
    std_error = math.sqrt((n - 1) / n * float(((without - value) ** 2).sum()))
    if std_error < _ROUNDING:
        std_error = 0.0
    return replace(nothing, std_error=std_error, df=degrees_of_freedom(true, metric))


def quantile(df: float | None, confidence: float) -> float:
    """Return Student's quantile that a two-sided interval at a confidence reaches to."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + confidence) / 2))


def ends_of_mean(value: float, without: Floats, sizes: Floats, most: float = math.inf) -> tuple[float | None, float | None]:
    """Return the interval of a measure that is a mean over utterances, cut at 0 and at the most that it can be.

    None where nothing varies between clusters, or the measure does not exist without one of them.

    Args:
        value: the measure.
        without: (G,) what it is without each cluster.
        sizes: (G,) utterances by cluster.
        most: its largest possible value.
    """
    found = symmetric(value, without, sizes[:, None], "WA", CONFIDENCE)
    if not found.std_error or not math.isfinite(found.std_error):
        return None, None
    reach = quantile(found.df, CONFIDENCE) * found.std_error
    return max(0.0, value - reach), min(most, value + reach)


def degrees_of_freedom(true: Floats, metric: str) -> float:
    """Return Satterthwaite's degrees of freedom of the jackknife variance, for independent utterances: 2 E^2 / Var.

    A score is close to a weighted mean over clusters, of weights w (sum 1) and variances s: the variance estimate is a quadratic
    form, sum of d (y - mean)^2 with d = (w / (1 - w))^2, whose mean and variance follow from B = cov(y - mean).

    Args:
        true: (G, K) utterances by cluster and class.
        metric: WA and WF1 weight utterances alike, UA and macro_F1 the classes.
    """
    # Only the sizes of clusters enter, not what was predicted: the degrees of freedom are of the design, and do
    # not swing with the score.
    of_class = true.sum(axis=0)
    share = _ratio(true, of_class[None]) / (of_class > 0).sum() if metric in ("UA", "macro_F1") else true / true.sum()
    each = share / np.maximum(true, 1)  # what one utterance weighs
    w = share.sum(axis=1)
    s = (share * each).sum(axis=1) / w**2
    d = (w / (1 - w)) ** 2
    u, c = -s * w, float((w * w * s).sum())  # B = diag(s) + u 1' + 1 u' + c
    mean = float((d * (s + 2 * u + c)).sum())
    off = 2 * d.sum() * (d * u * u).sum() + 2 * (d * u).sum() ** 2 + 4 * c * (d * u).sum() * d.sum() + (c * d.sum()) ** 2
    square = float(off + (d * d * ((s + 2 * u + c) ** 2 - (2 * u + c) ** 2)).sum())
    return min(mean * mean / square, len(true) - 1.0)
