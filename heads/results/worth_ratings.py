"""What a published split is worth to ratings: `worth` with CCC, pearson or MAE in UA's place.

In go the plan and the predicted ratings of both arms (`tfser.heads.results.worth` says how they are drawn); out comes the same
`Worth`, over the mean of the dimensions. Each test utterance of the published split is scored twice, by heads that have and have
not heard its speaker, and intervals and the permutation test are those of `moments`. Of MAE, less is better: a split that leaks
is then worth less than nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfser.heads.results.moments import (
    RATED_METRICS,
    Floats,
    cluster_scores,
    gathered,
    rating_difference,
    rating_interval,
    rating_permutation,
    seed_scores,
)
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.heads.results.worth import Worth, WorthPlan
from tfser.manifests.errors import TfserError, unknown


def measure_ratings(
    plan: WorthPlan, published: Sequence[RatedOutcome], clean: Sequence[RatedOutcome], *, head: str, features: str, metric: str
) -> Worth:
    """Return what the published split is worth, of the predicted ratings of both arms.

    Args:
        plan: what was trained.
        published: the predictions on each of the plan's published protocols.
        clean: those on each draw of the clean one.
        head: what was trained, in words.
        features: on which.
        metric: one of RATED_METRICS.

    Raises:
        UsageError: there is no such score.
        TfserError: the clean splits did not test what the published one did, or a score does not exist.
    """
    if metric not in RATED_METRICS:
        raise unknown("metric of dimensions", metric, RATED_METRICS)
    dimensions = published[0].dimensions
    where: list[tuple[Any, ...]] = [key[:2] for outcome in published for key in outcome.of.keys]
    who = [name for outcome in published for name in outcome.of.clusters("speaker")]
    seeds = min(len(outcome.of.seeds) for outcome in published)
    true = np.concatenate([outcome.true for outcome in published])
    there = [{key[:2]: i for i, key in enumerate(outcome.of.keys)} for outcome in clean]
    if lost := [key for key in where if any(key not in of for of in there)]:
        raise TfserError(f"{len(lost)} test utterances of {plan.called} have no clean prediction ({lost[0][1]}); train --again")
    # Both arms are summed by the same speakers, so that the difference is of pairs: a speaker's own ease cancels out.
    a = gathered(who, dimensions, true, *(_joined(published, what, seeds) for what in ("predicted", "error")))
    b = gathered(who, dimensions, true, *(_taken(clean, there, where, what) for what in ("predicted", "error")))
    gap, test = rating_difference(a, b, metric), rating_permutation(a, b, metric)
    of_a, of_b = rating_interval(a, metric), rating_interval(b, metric)
    if gap is None or test is None or of_a is None or of_b is None:
        raise TfserError(f"{metric} does not exist: the ratings or predictions of one side are all alike")
    sides = zip(a.clusters, a.sizes[:, 0], cluster_scores(a, metric), cluster_scores(b, metric), strict=True)
    return Worth(
        plan=plan,
        head=head,
        features=features,
        metric=metric,
        selection=published[0].of.selection,
        utterances=len(where),
        published=of_a.value,
        clean=of_b,
        difference=gap,
        permutation=test,
        by_draw=_by_draw(clean, seed_scores(b, metric)),
        speakers=tuple((name, int(n), x, y) for name, n, x, y in sides if x is not None and y is not None),
        dimensions=dimensions,
    )


def _joined(published: Sequence[RatedOutcome], what: str, seeds: int) -> Floats:
    """Return predictions or errors (S, n, T) of the published arm, its protocols one after the other."""
    return np.concatenate([getattr(outcome, what)[:seeds] for outcome in published], axis=1)


def _taken(
    clean: Sequence[RatedOutcome], there: Sequence[dict[tuple[Any, ...], int]], where: Sequence[tuple[Any, ...]], what: str
) -> Floats:
    """Return the same (S, n, T) of the clean arm, over the published arm's utterances; its draws one seed after the other."""
    return np.concatenate([getattr(of, what)[:, [at[key] for key in where]] for of, at in zip(clean, there, strict=True)])


def _by_draw(clean: Sequence[RatedOutcome], scores: Sequence[float | None]) -> tuple[float, ...]:
    """Return each draw's score, averaged over its seeds; draws in which a seed has none are left out."""
    found, start = [], 0
    for outcome in clean:
        of_draw = scores[start : (start := start + len(outcome.of.seeds))]
        known = [value for value in of_draw if value is not None]
        if len(known) == len(of_draw):
            found.append(float(np.mean(known)))
    return tuple(found)
