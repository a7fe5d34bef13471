"""What a published split is worth to ratings: `worth` with CCC, pearson or MAE in UA's place.

In go the plan and the predicted ratings of both arms (`tfser.heads.results.worth` says how they are drawn); out comes the same
`Worth`, over the mean of the dimensions. Each test utterance of the published split is scored twice, by heads that have and have
not heard its speaker, and intervals and the permutation test are those of `moments`. Of MAE, less is better: a split that leaks
is then worth less than nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from tfser.heads.results.outcomes import Key
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.heads.results.worth import Worth, WorthPlan, both_arms, by_draw
from tfser.manifests.errors import TfserError, unknown


def measure_ratings(
    plan: WorthPlan, published: Sequence[RatedOutcome], clean: Sequence[RatedOutcome], *, head: str, features: str, metric: str
) -> Worth:
    """Return what the published split is worth, of the predicted ratings of both arms: `worth.measure`, with its arguments.

    Raises:
        UsageError: the metric is none of RATED_METRICS.
        TfserError: the clean splits did not test what the published one did, or a score does not exist.
    """
    if metric not in RATED_METRICS:
        raise unknown("metric of dimensions", metric, RATED_METRICS)
    dimensions = published[0].dimensions
    tested = [outcome.of for outcome in clean]
    where, speakers, places = both_arms(plan, [outcome.of for outcome in published], tested)
    seeds = min(len(outcome.of.seeds) for outcome in published)
    true = np.concatenate([outcome.true for outcome in published])
    # Both arms are summed by the same speakers, so that the difference is of pairs: a speaker's own ease cancels out.
    a = gathered(speakers, dimensions, true, *(_joined(published, what, seeds) for what in ("predicted", "error")))
    b = gathered(speakers, dimensions, true, *(_taken(clean, places, where, what) for what in ("predicted", "error")))
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
        by_draw=by_draw(tested, seed_scores(b, metric)),
        speakers=tuple((name, int(n), x, y) for name, n, x, y in sides if x is not None and y is not None),
        dimensions=dimensions,
    )


def _joined(published: Sequence[RatedOutcome], what: str, seeds: int) -> Floats:
    """Return predictions or errors (S, n, T) of the published arm, its protocols one after the other."""
    return np.concatenate([getattr(outcome, what)[:seeds] for outcome in published], axis=1)


def _taken(clean: Sequence[RatedOutcome], places: Sequence[dict[Key, int]], where: Sequence[Key], what: str) -> Floats:
    """Return the same (S, n, T) of the clean arm, over the published arm's utterances; its draws one seed after the other."""
    return np.concatenate(
        [getattr(outcome, what)[:, [at[key] for key in where]] for outcome, at in zip(clean, places, strict=True)]
    )
