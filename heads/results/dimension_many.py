"""Several experiments on dimensions at once: `many` for ratings instead of classes.

In go the stored test predictions of M systems; out comes a `ManyComparison` over the mean of the dimensions that all of them
learned: scores, the M (M - 1) / 2 differences with simultaneous intervals and step-down p values over exchanges of whole
speakers, letters, and how large a difference would have to be to be seen. The method is that of `many`; intervals of single
pairs are those of `moments`, whose standard errors are wider than the jackknife's by the root of G / (G - 1), and so are these.
Of MAE, where less is better, the smallest comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfser.heads.results.dimension_compare import matched
from tfser.heads.results.intervals import Interval
from tfser.heads.results.many import ManyComparison, SystemsMeasured, told_apart
from tfser.heads.results.moments import (
    MOST_IS_BEST,
    RATED_METRICS,
    Moments,
    rating_difference,
    rating_exchanged,
    rating_interval,
    without_each,
)
from tfser.heads.results.outcomes import choose_clusters
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.manifests.errors import TfserError, UsageError, unknown


def compare_many_ratings(
    outcomes: Sequence[RatedOutcome], *, metric: str = "CCC", clusters: str | None = None, common: bool = False
) -> ManyComparison:
    """Compare all pairs of several experiments on dimensions at once.

    Args:
        outcomes: what was tested of each.
        metric: the score that is tested, over the mean of the dimensions: CCC, pearson or MAE.
        clusters: speaker, session or dialogue; if left out, the speakers, where they are known and new to all.
        common: leave out what not all of them tested or learned, instead of refusing.

    Raises:
        UsageError: two are the same, they were not tested alike, or cannot be clustered as asked for.
        TfserError: they have no utterance or dimension in common, or a score does not exist.
    """
    if metric not in RATED_METRICS:
        raise unknown("metric of dimensions", metric, RATED_METRICS)
    named = [outcome.of.subject for outcome in outcomes]
    if twice := [subject.name for i, subject in enumerate(named) if subject in named[:i]]:
        raise UsageError(f"{twice[0]} stands there twice: name different experiments")
    taken, left_out = matched(outcomes, common)
    by = choose_clusters([outcome.of for outcome in taken], clusters)
    who = ("all",) * len(taken[0].of.keys) if by is None else taken[0].of.clusters(by)
    moments = [outcome.moments(who) for outcome in taken]
    scores = [_existing(rating_interval(of, metric), metric, outcome) for of, outcome in zip(moments, taken, strict=True)]
    sign = -1.0 if metric in MOST_IS_BEST else 1.0
    order = sorted(range(len(taken)), key=lambda i: (sign * scores[i].value, named[i].name))
    return told_apart(
        tuple(taken[i].of for i in order),
        tuple(scores[i] for i in order),
        None if by is None else _measured([moments[i] for i in order], metric),
        metric=metric,
        clustered_by=by,
        left_out=left_out,
        dimensions=taken[0].dimensions,
    )


def _existing(found: Interval | None, metric: str, outcome: RatedOutcome) -> Interval:
    if found is None:
        raise TfserError(f"{outcome.of.subject.name}: {metric} does not exist: its ratings or predictions are all alike")
    return found


def _measured(moments: Sequence[Moments], metric: str) -> SystemsMeasured:
    """Return what the systems are told apart by.

    Raises:
        TfserError: without one of the clusters there is no score: what it is worth cannot be said.
    """
    without = np.stack([without_each(of, metric) for of in moments])
    G = without.shape[1]
    if G > 1 and not np.isfinite(without).all():
        raise TfserError(f"{metric} does not exist without one of the clusters; compare two at a time, or take --metric MAE")

    def gap(a: int, b: int, confidence: float) -> Interval:
        found = rating_difference(moments[a], moments[b], metric, confidence=confidence)
        assert found is not None  # both have a score
        return found

    return SystemsMeasured(
        without=without,
        difference=gap,
        exchanged=lambda a, b, signs: rating_exchanged(moments[a], moments[b], metric, signs),
        wider=math.sqrt(G / (G - 1)) if G > 1 else 1.0,
    )
