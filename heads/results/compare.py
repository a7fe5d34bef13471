"""Two experiments on the same test utterances: which is better, by how much, and is it more than the luck of the speakers.

In go the stored test predictions of both (`heads.outcomes`); out come both scores with intervals, the difference with its
interval, a permutation test that exchanges whole speakers, McNemar's test, and wins by fold, speaker and class.

Several seeds of a side are averaged: each score is the mean of the seeds' scores. McNemar's test compares two classifiers, not
two means, so it is made seed by seed: the i-th seed of A with the i-th of B, as many as both have. A majority of the seeds would
be another classifier, one that nobody reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from tfser.heads.results.exchanges import Permutation, mcnemar, permutation_test
from tfser.heads.results.intervals import (
    FEW,
    METRICS,
    Counts,
    Interval,
    NewSpeaker,
    cluster_scores,
    difference,
    interval,
    new_speaker,
    seed_scores,
)
from tfser.heads.results.marks import is_independent
from tfser.heads.results.outcomes import Outcome, choose_clusters, dropped_seeds, keyed_alike
from tfser.heads.spec.selections import peeks
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.wording import count

_TIE = 1e-12


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One line of a comparison: a score, or that of a class, fold or speaker; intervals only where they mean something."""

    part: str
    name: str
    n: int
    a: Interval
    b: Interval
    difference: Interval

    def columns(self) -> dict[str, Any]:
        """Return what it says as columns of a flat row."""
        values = {
            f"{side}_{what}": getattr(of, what)
            for side, of in (("score_a", self.a), ("score_b", self.b), ("difference", self.difference))
            for what in ("value", "low", "high")
        }
        return {"part": self.part, "name": self.name, "n": self.n, **values, "df": self.difference.df}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the part that it stands in."""
        sides = {"a": self.a, "b": self.b, "difference": self.difference}
        return {"name": self.name, "n": self.n, **{name: score.to_dict() for name, score in sides.items()}}

    @classmethod
    def of_one(cls, part: str, cluster: str, n: float, a: float, b: float) -> ComparedRow:
        """Return the row of one cluster, without intervals: within it there is nothing to take as independent."""
        name = str(int(cluster)) if part == "fold" else cluster
        scores = {"a": a, "b": b, "difference": a - b}
        return cls(part=part, name=name, n=int(n), **{side: Interval.alone(float(value)) for side, value in scores.items()})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The outcome; scores are shares of 1, and the difference is A's minus B's.

    Where nothing makes clusters, `clustered_by` and `permutation` are None, no score has an interval, and `speakers` is empty.
    `mcnemar` has one (right in A alone, right in B alone, p) a pair of seeds. `folds` are empty where the two were not folded
    alike. `left_out` counts utterances that one side alone tested, or that have another true label there.
    """

    a: Outcome
    b: Outcome
    metric: str
    clustered_by: str | None
    scores: tuple[ComparedRow, ...]
    classes: tuple[ComparedRow, ...]
    speakers: tuple[ComparedRow, ...]
    folds: tuple[ComparedRow, ...]
    by_seed: tuple[tuple[float, ...], tuple[float, ...]]
    permutation: Permutation | None
    mcnemar: tuple[tuple[int, int, float], ...]
    left_out: int
    new_speaker: tuple[NewSpeaker, NewSpeaker] | None
    """Where a further speaker's score would lie under A and under B; None where the clusters are not speakers."""

    @property
    def score(self) -> ComparedRow:
        """The row of the metric that was asked for."""
        return self.scores[0]

    @property
    def clusters(self) -> int | None:
        """How many there are; None where nothing makes clusters."""
        return None if self.clustered_by is None else self.score.difference.clusters

    @property
    def mcnemar_p(self) -> float:
        """The median over the pairs of seeds."""
        return float(median(p for *_, p in self.mcnemar))

    def rows(self) -> list[dict[str, Any]]:
        """Return everything as flat rows, for csv and Parquet; p values stand in the row of the metric that was asked for."""
        result = []
        for row in (*self.scores, *self.classes, *self.folds, *self.speakers):
            tests = row is self.score
            result.append(
                {
                    "a": self.a.subject.name,
                    "b": self.b.subject.name,
                    "selection": self.a.selection,
                    "looked_at_test": peeks(self.a.selection),
                    "level": self.a.level,
                    **row.columns(),
                    "clustered_by": self.clustered_by,
                    "clusters": None if self.clustered_by is None else row.difference.clusters,
                    "p_permutation": self.permutation.p if tests and self.permutation else None,
                    "p_mcnemar": self.mcnemar_p if tests else None,
                    "audit_a": self.a.audit,
                    "audit_b": self.b.audit,
                    "speakers_kept_a": self.a.speakers_kept,
                    "speakers_kept_b": self.b.speakers_kept,
                }
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""

        def side(outcome: Outcome, by_seed: Sequence[float]) -> dict[str, Any]:
            return {
                "name": outcome.subject.name,
                "audit": outcome.audit,
                "speakers_kept": outcome.speakers_kept,
                "seeds": list(outcome.seeds),
                "seeds_left_out": list(outcome.dropped),
                f"{self.metric}_by_seed": list(by_seed),
            }

        parts = f"{self.clustered_by}s" if self.clustered_by else None
        return {
            "a": side(self.a, self.by_seed[0]),
            "b": side(self.b, self.by_seed[1]),
            "selection": self.a.selection,
            "looked_at_test": peeks(self.a.selection),
            "level": self.a.level,
            "metric": self.metric,
            "utterances": len(self.a.keys),
            "utterances_left_out": self.left_out,
            "clustered_by": self.clustered_by,
            "clusters": self.clusters,
            "scores": [row.to_dict() for row in self.scores],
            "permutation": None if self.permutation is None else dict(vars(self.permutation)),
            "mcnemar": [{"only_a": a, "only_b": b, "p": p} for a, b, p in self.mcnemar],
            "mcnemar_p": self.mcnemar_p,
            "new_speaker": dict(zip("ab", map(vars, self.new_speaker), strict=True)) if self.new_speaker else None,
            "wins": {"folds": wins(self.folds), **({parts: wins(self.speakers)} if parts else {})},
            "classes": [row.to_dict() for row in self.classes],
            "folds": [row.to_dict() for row in self.folds],
            **({parts: [row.to_dict() for row in self.speakers]} if parts else {}),
        }


def wins(compared: Sequence[ComparedRow]) -> dict[str, int]:
    """Count the rows where A is better, where both are alike, where B is."""
    gains = [row.difference.value for row in compared]
    return {
        "a": sum(gain > _TIE for gain in gains),
        "ties": sum(abs(gain) <= _TIE for gain in gains),
        "b": sum(gain < -_TIE for gain in gains),
    }


def compare(
    a: Outcome, b: Outcome, *, metric: str = "UA", clusters: str | None = None, common: bool = False, seed: int = 0
) -> Comparison:
    """Compare two subjects.

    Args:
        a: what was tested of the one.
        b: and of the other.
        metric: the score that is tested: UA, WA, WF1 or macro_F1.
        clusters: speaker, session or dialogue; if left out, the speakers, where they are known and new to both.
        common: leave out what one side alone tested, or under another true label, instead of refusing.
        seed: of the permutations that are drawn where there are too many clusters to count all.

    Raises:
        UsageError: They are one and the same, were not tested alike, or cannot be clustered as asked for.
        TfserError: They have no utterance in common.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if a.subject == b.subject:
        raise UsageError(f"both are {a.subject.name}: name two experiments")
    # Matched before anything is counted: every number below is then of the same utterances under the same
    # labels.
    a, b, left_out = _match(a, b, common)
    by = choose_clusters((a, b), clusters)
    # Without units that can be taken as independent everything is one cluster: scores stay, intervals and tests
    # fall away by themselves.
    who = ("all",) * len(a.keys) if by is None else a.clusters(by)
    classes = tuple(sorted({*a.labels, *(name for side in (a, b) for row in side.predicted for name in row)}))
    A, B = a.counts(who, classes), b.counts(who, classes)
    # Folds are compared only where both have the same ones: a fold of five and a fold of ten share their number
    # and nothing else.
    folded = a.folds == b.folds
    folds = fold_clusters(a)
    right = [[np.array(row) == np.array(side.labels) for row in side.predicted] for side in (a, b)]
    return Comparison(
        a=a,
        b=b,
        metric=metric,
        clustered_by=by,
        scores=tuple(_row("score", m, A, B, m) for m in sorted(METRICS, key=lambda m: m != metric)),
        classes=tuple(_row("class", k, A.only(k), B.only(k), "UA") for k in classes if A.true[0, :, classes.index(k)].any()),
        speakers=() if by is None else _parts(by, A, B, metric),
        folds=_parts("fold", a.counts(folds, classes), b.counts(folds, classes), metric) if folded else (),
        by_seed=(seed_scores(A, metric), seed_scores(B, metric)),
        permutation=None if by is None else permutation_test(A, B, metric, seed=seed),
        mcnemar=tuple(mcnemar(x, y) for x, y in zip(*right, strict=False)),
        left_out=left_out,
        new_speaker=(new_speaker(A, metric), new_speaker(B, metric)) if by == "speaker" else None,
    )


def _match(a: Outcome, b: Outcome, common: bool) -> tuple[Outcome, Outcome, int]:
    """Return both over the same utterances in the same order, and how many were left out for it."""
    a, b = keyed_alike((a, b))
    there: Mapping[Any, int] = {key: i for i, key in enumerate(b.keys)}
    pairs = [(i, there[key]) for i, key in enumerate(a.keys) if key in there]
    alike = [(i, j) for i, j in pairs if a.labels[i] == b.labels[j]]
    only_a, only_b, other = len(a.keys) - len(pairs), len(b.keys) - len(pairs), len(pairs) - len(alike)
    if not alike:
        raise TfserError(f"{a.subject.name} and {b.subject.name} tested no utterance in common under the same label")
    if (only_a or only_b or other) and not common:
        raise UsageError(
            f"not tested alike: {only_a:,} utterances by {a.subject.name} alone, {only_b:,} by {b.subject.name} alone, {other:,} "
            f"under other labels; --common compares the {len(alike):,} that both tested under the same label"
        )
    return a.take([i for i, _ in alike]), b.take([j for _, j in alike]), only_a + only_b + other


def _row(part: str, name: str, a: Counts, b: Counts, metric: str) -> ComparedRow:
    return ComparedRow(
        part=part,
        name=name,
        n=int(a.true[0].sum()),
        a=interval(a, metric),
        b=interval(b, metric),
        difference=difference(a, b, metric),
    )


def _parts(part: str, a: Counts, b: Counts, metric: str) -> tuple[ComparedRow, ...]:
    """Return a row a cluster."""
    sides = zip(a.clusters, a.true[0].sum(axis=1), cluster_scores(a, metric), cluster_scores(b, metric), strict=True)
    return tuple(ComparedRow.of_one(part, *side) for side in sides)


def fold_clusters(outcome: Outcome) -> list[str]:
    """Return the fold of each utterance as the name of a cluster: with leading zeros, so that folds sort as numbers."""
    return [f"{fold:06d}" for fold in outcome.folds]


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know, a sentence a line."""
    lines = dropped_seeds((comparison.a, comparison.b))
    if comparison.left_out:
        lines.append(f"{comparison.left_out:,} utterances are left out, which only one of them tested, or under another label")
    # Why there is no interval comes before what an interval means: whoever reads one line reads the first.
    n, by = comparison.clusters, comparison.clustered_by
    if by is None or n is None:
        lines.append(
            "no interval and no permutation test: the speakers of some utterances are unknown"
            if is_independent(comparison.a.row()) and is_independent(comparison.b.row())
            else "no interval and no permutation test over speakers, who are not known to be new to both; --clusters names others"
        )
        return lines + (["the two were not folded alike: no wins by fold"] if not comparison.folds else [])
    if by != "speaker":
        lines.append(f"{by}s are taken as independent: an interval is one of other {by}s")
    if n < FEW:
        lines.append(
            f"only {count(n, by)}: exchanging {'it' if n == 1 else 'them'} cannot give p below {min(1.0, 2 / 2**n):.3g}, "
            "whatever the difference; "
            + ("one alone gives no interval" if n == 1 else "the intervals are wide for the same reason")
        )
    df = comparison.score.difference.df
    if df is not None and n >= FEW and df < n / 2:
        lines.append(f"a few of the {n} {by}s say most of it: the intervals rest on {df:.1f} degrees of freedom")
    if not comparison.folds:
        lines.append("the two were not folded alike: no wins by fold")
    return lines
