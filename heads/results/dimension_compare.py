"""Two experiments on dimensions, on the same test utterances: which is better, by how much, and is it more than luck of the
speakers.

The same for CCC, pearson and MAE as `compare` is for UA: in go the stored test predictions of both, out come both scores with
intervals, the difference with its interval, a permutation test that exchanges whole speakers, and wins by fold and speaker.
There is no McNemar's test: a rating is not right or wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfser.heads.results.compare import ComparedRow, fold_clusters, wins
from tfser.heads.results.exchanges import Permutation
from tfser.heads.results.intervals import FEW
from tfser.heads.results.moments import (
    MOST_IS_BEST,
    RATED_METRICS,
    Moments,
    cluster_scores,
    rating_difference,
    rating_interval,
    rating_permutation,
)
from tfser.heads.results.outcomes import Outcome, choose_clusters, dropped_seeds, keyed_alike
from tfser.heads.results.rating_outcomes import RatedOutcome
from tfser.heads.spec.selections import peeks
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.wording import count


@dataclass(frozen=True, kw_only=True)
class RatedComparison:
    """The outcome; differences are A's score minus B's. `scores` are over all shared dimensions, `dimensions` of each.

    Where nothing makes clusters, `clustered_by` and `permutation` are None and no score has an interval. `left_out` counts
    utterances that one side alone tested.
    """

    a: RatedOutcome
    b: RatedOutcome
    metric: str
    clustered_by: str | None
    scores: tuple[ComparedRow, ...]
    dimensions: tuple[ComparedRow, ...]
    folds: tuple[ComparedRow, ...]
    speakers: tuple[ComparedRow, ...]
    permutation: Permutation | None
    left_out: int

    def rows(self) -> list[dict[str, Any]]:
        """Return everything as flat rows, for csv and Parquet."""
        about = {
            "a": self.a.of.subject.name, "b": self.b.of.subject.name, "selection": self.a.of.selection,
            "looked_at_test": peeks(self.a.of.selection), "level": self.a.of.level,
        }  # fmt: skip
        return [
            about
            | row.columns()
            | {"clustered_by": self.clustered_by}
            | {"p_permutation": self.permutation.p if row is self.scores[0] and self.permutation else None}
            for row in (*self.scores, *self.dimensions, *self.folds, *self.speakers)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""

        def side(outcome: Outcome) -> dict[str, Any]:
            standing = {"audit": outcome.audit, "speakers_kept": outcome.speakers_kept}
            return {
                "name": outcome.subject.name,
                **standing,
                "seeds": list(outcome.seeds),
                "seeds_left_out": list(outcome.dropped),
            }

        parts = f"{self.clustered_by}s" if self.clustered_by else None
        return {
            "a": side(self.a.of),
            "b": side(self.b.of),
            "selection": self.a.of.selection,
            "looked_at_test": peeks(self.a.of.selection),
            "level": self.a.of.level,
            "metric": self.metric,
            "targets": list(self.a.dimensions),
            "utterances": len(self.a.of.keys),
            "utterances_left_out": self.left_out,
            "clustered_by": self.clustered_by,
            "scores": [row.to_dict() for row in self.scores],
            "dimensions": [row.to_dict() for row in self.dimensions],
            "permutation": None if self.permutation is None else dict(vars(self.permutation)),
            "wins": {"folds": self.wins("folds"), **({parts: self.wins("speakers")} if parts else {})},
            "folds": [row.to_dict() for row in self.folds],
            **({parts: [row.to_dict() for row in self.speakers]} if parts else {}),
        }

    def wins(self, what: str) -> dict[str, int]:
        """Count the folds or speakers where A is better, where both are alike, where B is; of MAE, less is better."""
        more = wins(getattr(self, what))
        return more if self.metric in MOST_IS_BEST else {"a": more["b"], "ties": more["ties"], "b": more["a"]}


def compare_ratings(
    a: RatedOutcome, b: RatedOutcome, *, metric: str = "CCC", clusters: str | None = None, common: bool = False, seed: int = 0
) -> RatedComparison:
    """Compare two subjects that learned dimensions.

    Args:
        a: what was tested of the one.
        b: and of the other.
        metric: CCC, pearson or MAE: what is tested, over the mean of the dimensions that both learned.
        clusters: speaker, session or dialogue; if left out, the speakers, where they are known and new to both.
        common: leave out what one side alone tested, or learned, instead of refusing.
        seed: of the permutations that are drawn where there are too many clusters to count all.

    Raises:
        UsageError: they are one and the same, were not tested alike, or cannot be clustered as asked for.
        TfserError: they have no utterance or no dimension in common, or a score does not exist.
    """
    if metric not in RATED_METRICS:
        raise unknown("metric of dimensions", metric, RATED_METRICS)
    if a.of.subject == b.of.subject:
        raise UsageError(f"both are {a.of.subject.name}: name two experiments")
    (a, b), left_out = matched((a, b), common)
    by = choose_clusters((a.of, b.of), clusters)
    who = ("all",) * len(a.of.keys) if by is None else a.of.clusters(by)
    A, B = a.moments(who), b.moments(who)
    folds = fold_clusters(a.of)
    scores = [_row("score", name, A, B, name) for name in sorted(RATED_METRICS, key=lambda name: name != metric)]
    if scores[0] is None:
        raise TfserError(f"{metric} does not exist: the ratings or predictions of one side are all alike")
    of_dimensions = [_row("dimension", name, A.only(name), B.only(name), metric) for name in a.dimensions]
    return RatedComparison(
        a=a,
        b=b,
        metric=metric,
        clustered_by=by,
        scores=tuple(row for row in scores if row is not None),
        dimensions=tuple(row for row in of_dimensions if row is not None) if len(a.dimensions) > 1 else (),
        folds=_parts("fold", a.moments(folds), b.moments(folds), metric) if a.of.folds == b.of.folds else (),
        speakers=() if by is None else _parts(by, A, B, metric),
        permutation=None if by is None else rating_permutation(A, B, metric, seed=seed),
        left_out=left_out,
    )


def matched(outcomes: Sequence[RatedOutcome], common: bool) -> tuple[list[RatedOutcome], int]:
    """Return all of them over the same utterances and dimensions in the same order, and how many were left out for it.

    Raises:
        UsageError: they were not tested alike, and `common` does not say to leave out what not all of them tested.
        TfserError: they have no utterance or no dimension in common.
    """
    outcomes = [replace(rated, of=of) for rated, of in zip(outcomes, keyed_alike([each.of for each in outcomes]), strict=True)]
    first = outcomes[0]
    shared = tuple(name for name in first.dimensions if all(name in outcome.dimensions for outcome in outcomes))
    names = " and ".join(outcome.of.subject.name for outcome in outcomes)
    learned = ", and ".join(dict.fromkeys(", ".join(outcome.dimensions) for outcome in outcomes))
    if not shared:
        raise TfserError(f"{names} learned no dimension in common: {learned}")
    if any(outcome.dimensions != shared for outcome in outcomes) and not common:
        raise UsageError(f"{names} learned {learned}; --common compares {', '.join(shared)}")
    places = [{key: i for i, key in enumerate(outcome.of.keys)} for outcome in outcomes]
    keys = [key for key in first.of.keys if all(key in there for there in places)]
    left_out = len({key for there in places for key in there}) - len(keys)
    if not keys:
        raise TfserError(f"{names} tested no utterance in common")
    if left_out and not common:
        whom = "one alone" if len(outcomes) == 2 else "some alone"
        raise UsageError(f"{names} were not tested alike: {left_out:,} utterances by {whom}; --common leaves them out")
    taken = [
        _of_dimensions(outcome, shared).take([there[key] for key in keys])
        for outcome, there in zip(outcomes, places, strict=True)
    ]
    if any(abs(outcome.true - taken[0].true).max() > 1e-9 for outcome in taken):
        raise UsageError(f"{names} were tested with other true ratings; train the older one --again")
    return taken, left_out


def _of_dimensions(of: RatedOutcome, names: Sequence[str]) -> RatedOutcome:
    at = [of.dimensions.index(name) for name in names]
    return replace(of, dimensions=tuple(names), true=of.true[:, at], predicted=of.predicted[..., at], error=of.error[..., at])


def _row(part: str, name: str, a: Moments, b: Moments, metric: str) -> ComparedRow | None:
    """Return a line with intervals; None where a score does not exist."""
    of_a, of_b, difference = rating_interval(a, metric), rating_interval(b, metric), rating_difference(a, b, metric)
    if of_a is None or of_b is None or difference is None:
        return None
    return ComparedRow(part=part, name=name, n=int(a.sizes.sum()), a=of_a, b=of_b, difference=difference)


def _parts(part: str, a: Moments, b: Moments, metric: str) -> tuple[ComparedRow, ...]:
    """Return a row a cluster that has a score on both sides."""
    sides = zip(a.clusters, a.sizes[:, 0], cluster_scores(a, metric), cluster_scores(b, metric), strict=True)
    return tuple(ComparedRow.of_one(part, name, n, x, y) for name, n, x, y in sides if x is not None and y is not None)


def rated_notes(comparison: RatedComparison) -> list[str]:
    """Return what a reader must know, a sentence a line."""
    lines = dropped_seeds((comparison.a.of, comparison.b.of))
    if comparison.left_out:
        lines.append(f"{comparison.left_out:,} utterances are left out, which only one of them tested")
    if comparison.clustered_by is None:
        lines.append(
            "no interval and no permutation test over speakers, who are not known to be new to both; --clusters names others"
        )
    elif (n := comparison.scores[0].difference.clusters) < FEW:
        lines.append(f"only {count(n, comparison.clustered_by)}: exchanging them cannot give p below {min(1.0, 2 / 2**n):.3g}")
    if not comparison.folds:
        lines.append("the two were not folded alike: no wins by fold")
    return lines
