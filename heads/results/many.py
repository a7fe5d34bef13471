"""Several experiments on the same test utterances: which of them can be told apart at all, when all pairs are looked at.

In go the stored test predictions of M systems; out come their scores, the M (M - 1) / 2 differences with simultaneous intervals
and adjusted p values, letters for groups that are not told apart, and how large a difference would have to be to be seen.

* **Intervals**: of all differences at once, at 95 % together. Each is the cluster-robust one of two systems
  (`tfser.heads.results.intervals`: delete-one-speaker jackknife, Student's t), wider by one factor: the level of each is lowered
  until the largest of all t values exceeds its bound in 5 % of simulated data (single-step max-t: Hothorn, Bretz and Westfall,
  Biometrical Journal 50, 2008). The data are G draws from a normal distribution with the covariance of the speakers'
  jackknife deviations over the pairs, so pairs that share a system, and systems that err alike, are not paid for twice.
* **p values**: step-down max-T over exchanges of whole speakers (Westfall and Young, Resampling-Based Multiple Testing, 1993).
  The same speakers are exchanged in all pairs; all 2^(G - 1) exchanges are counted up to 14 speakers, else as many are drawn as
  for two systems. Two systems that share a letter have an adjusted p of 0.05 or more.
* **Smallest difference that is seen**: what the bounds above would exclude in 80 % of data like these, were all speakers to gain
  as much: simulated from the same normal distribution, for each pair.

Every simulation has a fixed seed. With fewer than six speakers no exchange can reach p < 0.05, whatever the systems.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from tfser.heads.results.exchanges import exchanged
from tfser.heads.results.intervals import (
    CONFIDENCE,
    FEW,
    METRICS,
    Floats,
    Interval,
    difference,
    interval,
    without_one,
)
from tfser.heads.results.outcomes import Outcome, choose_clusters, dropped_seeds, keyed_alike
from tfser.heads.spec.selections import peeks
from tfser.manifests.errors import TfserError, UsageError, unknown

_EXACT_UP_TO = 14
_DRAWS = 19_999
_SIMULATED = 20_000
_POWER = 0.8
_MANY_CLUSTERS = 100
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class SystemPair:
    """Two of the systems, by their places, the better one first: difference with simultaneous interval, adjusted p."""

    a: int
    b: int
    difference: Interval
    p: float | None
    seen_from: float | None
    """The difference that would be seen in 80 % of data like these; None where nothing varies between clusters."""


@dataclass(frozen=True, kw_only=True)
class ManyComparison:
    """The outcome; systems are in the order of their scores, the best first. Scores are shares of 1.

    `letters` has one text a system: those that share a letter are not told apart. `per_pair` is the confidence of each pair's
    interval by itself. Where nothing makes clusters, `clustered_by` is None, and there are neither intervals nor letters.
    """

    outcomes: tuple[Outcome, ...]
    metric: str
    clustered_by: str | None
    scores: tuple[Interval, ...]
    pairs: tuple[SystemPair, ...]
    letters: tuple[str, ...]
    per_pair: float
    exact: bool
    left_out: int
    dimensions: tuple[str, ...] = ()
    """Over the mean of which the scores are, where ratings are compared; then they are no shares."""

    @property
    def seen_from(self) -> float | None:
        """The median over the pairs of the smallest difference that is seen."""
        known = [pair.seen_from for pair in self.pairs if pair.seen_from is not None]
        return float(np.median(known)) if known else None

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a pair, for csv and Parquet."""
        names = [of.subject.name for of in self.outcomes]
        return [
            {
                "a": names[pair.a],
                "b": names[pair.b],
                "metric": self.metric,
                "selection": self.outcomes[0].selection,
                "looked_at_test": peeks(self.outcomes[0].selection),
                "score_a": self.scores[pair.a].value,
                "score_b": self.scores[pair.b].value,
                **{f"difference_{what}": getattr(pair.difference, what) for what in ("value", "low", "high")},
                "p_adjusted": pair.p,
                "seen_from": pair.seen_from,
                "letters_a": self.letters[pair.a],
                "letters_b": self.letters[pair.b],
                "clustered_by": self.clustered_by,
                "clusters": None if self.clustered_by is None else pair.difference.clusters,
                "audit_a": self.outcomes[pair.a].audit,
                "audit_b": self.outcomes[pair.b].audit,
                "speakers_kept_a": self.outcomes[pair.a].speakers_kept,
                "speakers_kept_b": self.outcomes[pair.b].speakers_kept,
            }
            for pair in self.pairs
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        systems = [
            {
                "name": outcome.subject.name,
                "audit": outcome.audit,
                "speakers_kept": outcome.speakers_kept,
                "seeds": list(outcome.seeds),
                "seeds_left_out": list(outcome.dropped),
                self.metric: score.to_dict(),
                "letters": letters,
            }
            for outcome, score, letters in zip(self.outcomes, self.scores, self.letters, strict=True)
        ]
        return {
            "metric": self.metric,
            "selection": self.outcomes[0].selection,
            "looked_at_test": peeks(self.outcomes[0].selection),
            "clustered_by": self.clustered_by,
            "clusters": None if self.clustered_by is None else self.scores[0].clusters,
            "utterances": len(self.outcomes[0].keys),
            "left_out": self.left_out,
            "systems": systems,
            "pairs": self.rows(),
            **({"targets": list(self.dimensions)} if self.dimensions else {}),
            "confidence": CONFIDENCE,
            "confidence_per_pair": self.per_pair,
            "p_exact": self.exact,
            "seen_from": self.seen_from,
        }


def compare_many(
    outcomes: Sequence[Outcome], *, metric: str = "UA", clusters: str | None = None, common: bool = False
) -> ManyComparison:
    """Compare all pairs of several experiments at once.

    Args:
        outcomes: what was tested of each.
        metric: the score that is tested: UA, WA, WF1 or macro_F1.
        clusters: speaker, session or dialogue; if left out, the speakers, where they are known and new to all.
        common: leave out what not all of them tested, or under another true label, instead of refusing.

    Raises:
        UsageError: Two are the same, they were not tested alike, or cannot be clustered as asked for.
        TfserError: They have no utterance in common.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    named = [outcome.subject for outcome in outcomes]
    if twice := [outcome.name for i, outcome in enumerate(named) if outcome in named[:i]]:
        raise UsageError(f"{twice[0]} stands there twice: name different experiments")
    # Everybody is compared on the same utterances, clustered in the same way: differences are paired only then.
    outcomes, left_out = _matched(outcomes, common)
    by = choose_clusters(outcomes, clusters)
    classes = tuple(sorted({*outcomes[0].labels, *(name for outcome in outcomes for row in outcome.predicted for name in row)}))
    who = ("all",) * len(outcomes[0].keys) if by is None else outcomes[0].clusters(by)
    counted = [outcome.counts(who, classes) for outcome in outcomes]
    scores = [interval(outcome, metric) for outcome in counted]
    # The best comes first, and letters go down from it; names settle ties, so that the table is the same every time.
    order = sorted(range(len(counted)), key=lambda i: (-scores[i].value, named[i].name))
    counted = [counted[i] for i in order]
    measured = None
    if by is not None:
        measured = SystemsMeasured(
            without=np.stack([without_one(of, metric) for of in counted]),
            difference=lambda a, b, sure: difference(counted[a], counted[b], metric, confidence=sure),
            exchanged=lambda a, b, signs: exchanged(counted[a], counted[b], metric, signs),
        )
    ordered = (tuple(outcomes[i] for i in order), tuple(scores[i] for i in order))
    return told_apart(*ordered, measured, metric=metric, clustered_by=by, left_out=left_out)


@dataclass(frozen=True, kw_only=True)
class SystemsMeasured:
    """What M systems are told apart by, over G clusters, in the order of their scores.

    `without` (M, G) are the scores without each cluster, `difference(a, b, confidence)` is that of two with its interval, and
    `exchanged(a, b, signs)` what it is once whole clusters are exchanged (`tfser.heads.results.exchanges.exchanged`).
    """

    without: Floats
    difference: Callable[[int, int, float], Interval]
    exchanged: Callable[[int, int, Floats], Floats]
    wider: float = 1.0
    """By which standard errors are wider than the jackknife's own."""


def told_apart(
    outcomes: tuple[Outcome, ...],
    scores: tuple[Interval, ...],
    measured: SystemsMeasured | None,
    *,
    metric: str,
    clustered_by: str | None,
    left_out: int,
    dimensions: tuple[str, ...] = (),
) -> ManyComparison:
    """Return the comparison of systems in the order of their scores; without clusters (`measured` None) the scores alone."""
    pairs, per_pair, exact = ((), CONFIDENCE, True) if measured is None else _pairs(measured)
    apart = {(pair.a, pair.b) for pair in pairs if pair.p is not None and pair.p < 1 - CONFIDENCE}
    return ManyComparison(
        outcomes=outcomes,
        metric=metric,
        clustered_by=clustered_by,
        scores=scores,
        pairs=pairs,
        letters=letters_of(len(outcomes), apart) if measured is not None else ("",) * len(outcomes),
        per_pair=per_pair,
        exact=exact,
        left_out=left_out,
        dimensions=dimensions,
    )


def _matched(outcomes: Sequence[Outcome], common: bool) -> tuple[list[Outcome], int]:
    """Return all of them over the same utterances in the same order, and how many were left out for it."""
    outcomes = keyed_alike(outcomes)
    places: list[Mapping[Any, int]] = [{key: i for i, key in enumerate(outcome.keys)} for outcome in outcomes]
    first = outcomes[0]
    shared = [
        key
        for i, key in enumerate(first.keys)
        if all(
            key in present and outcome.labels[present[key]] == first.labels[i]
            for outcome, present in zip(outcomes, places, strict=True)
        )
    ]
    left_out = len({key for outcome in outcomes for key in outcome.keys}) - len(shared)
    if not shared:
        raise TfserError("they tested no utterance in common under the same label")
    if left_out and not common:
        raise UsageError(
            f"not tested alike: {left_out:,} utterances were not tested by all of them, or under other labels; --common compares "
            f"the {len(shared):,} that were"
        )
    return [outcome.take([present[key] for key in shared]) for outcome, present in zip(outcomes, places, strict=True)], left_out


def _pairs(measured: SystemsMeasured) -> tuple[tuple[SystemPair, ...], float, bool]:
    """Return all pairs, the confidence of each by itself, and whether the p values are of all exchanges."""
    systems, n = measured.without.shape
    places = list(combinations(range(systems), 2))
    gaps = [measured.difference(a, b, CONFIDENCE) for a, b in places]
    if n < 2:
        alone = tuple(
            SystemPair(a=a, b=b, difference=gap, p=None, seen_from=None) for (a, b), gap in zip(places, gaps, strict=True)
        )
        return alone, CONFIDENCE, True
    values = np.array([gap.value for gap in gaps])
    lacking = [measured.without[a] - measured.without[b] for a, b in places]  # the differences without each cluster
    deviations = np.stack([measured.wider * (n - 1) * (gap.value - one) for gap, one in zip(gaps, lacking, strict=True)], axis=1)
    errors = np.array([gap.std_error or 0.0 for gap in gaps])
    varies = errors > _ROUNDING
    means, spreads = _simulated(deviations[:, varies], n)
    per_pair = _level(means, spreads, n)
    p, exact = _adjusted(measured, places, errors / measured.wider, values)
    pairs = []
    seen = iter(_seen_from(means, spreads, n, per_pair, deviations[:, varies]))
    for i, (a, b) in enumerate(places):
        gap = measured.difference(a, b, per_pair)
        at_least = next(seen) if varies[i] else None
        pairs.append(SystemPair(a=a, b=b, difference=replace(gap, confidence=CONFIDENCE), p=p[i], seen_from=at_least))
    return tuple(pairs), per_pair, exact


def _simulated(deviations: Floats, n: int) -> tuple[Floats, Floats]:
    """Return means and standard errors of simulated differences around zero: (draws, pairs) each, in units of one's deviation.

    G normal draws with the covariance of the deviations are G x G independent numbers times the deviations.
    """
    rng = np.random.default_rng(0)
    scale = np.sqrt((deviations**2).sum(axis=0) / (n - 1))
    unit = deviations / np.where(scale > 0, scale, 1.0) / np.sqrt(n - 1)
    at_once = 2_000
    if n > _MANY_CLUSTERS:
        # The pairs of M systems span M - 1 directions, so G x (M - 1) numbers have the same covariance as G x G, of which a
        # thousand clusters would take hours and all memory.
        _, sizes, rows = np.linalg.svd(unit, full_matrices=False)
        unit = (sizes[:, None] * rows)[sizes > _ROUNDING]
        at_once = max(1, 20_000_000 // (n * max(1, *unit.shape)))
    means, spreads = [], []
    for start in range(0, _SIMULATED, at_once):
        drawn = rng.standard_normal((min(at_once, _SIMULATED - start), n, len(unit))) @ unit  # (draws, G, pairs)
        means.append(drawn.mean(axis=1))
        spreads.append(drawn.std(axis=1, ddof=1) / np.sqrt(n))
    return np.concatenate(means), np.concatenate(spreads)


def _level(means: Floats, spreads: Floats, n: int) -> float:
    """Return the confidence of one pair by itself at which all pairs hold together."""
    from scipy.special import stdtr

    if not means.shape[1]:
        return CONFIDENCE
    largest = np.abs(means / spreads).max(axis=1)
    bound = float(np.quantile(largest, CONFIDENCE, method="higher"))
    return max(CONFIDENCE, float(1 - 2 * stdtr(n - 1, -bound)))


def _seen_from(means: Floats, spreads: Floats, n: int, per_pair: float, deviations: Floats) -> list[float]:
    """Return for each pair the smallest true difference whose interval leaves zero out in 80 % of the simulated data."""
    from scipy.special import stdtrit

    bound = float(stdtrit(n - 1, (1 + per_pair) / 2))
    scale = np.sqrt((deviations**2).sum(axis=0) / (n - 1))
    # The interval lies above zero where the difference exceeds bound * error - mean.
    needed = np.quantile(bound * spreads - means, _POWER, axis=0)
    return [min(1.0, float(value)) for value in needed * scale]


def _adjusted(
    measured: SystemsMeasured, places: Sequence[tuple[int, int]], errors: Floats, values: Floats
) -> tuple[list[float], bool]:
    """Return the step-down max-T p value of each pair, over exchanges of whole clusters, and whether all were counted."""
    n = measured.without.shape[1]
    exact = n <= _EXACT_UP_TO
    if exact:  # the first cluster is never exchanged: the opposite exchange gives the same sizes
        codes = np.arange(2 ** (n - 1))
        signs = np.concatenate([np.ones((len(codes), 1)), 1.0 - 2.0 * (codes[:, None] >> np.arange(n - 1) & 1)], axis=1)
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (_DRAWS, n))
    # What each pair is measured by must not change when clusters are exchanged: the mean square of what each cluster adds. By
    # their standard errors, which do, the largest of six pairs was found different in 17 % of equal systems instead of 5.
    scale = np.sqrt(values**2 + (n - 1) * errors**2)
    safe = np.where(scale > _ROUNDING, scale, np.inf)
    sizes = np.stack([np.abs(measured.exchanged(a, b, signs)) for a, b in places], axis=1) / safe
    seen = np.abs(values) / safe
    p = np.ones(len(places))
    order = np.argsort(-seen, kind="stable")
    largest = np.zeros(len(signs))
    for i in order[::-1]:  # the maximum over this pair and all smaller ones
        largest = np.maximum(largest, sizes[:, i])
        at_least = int((largest >= seen[i] - 1e-12).sum())
        p[i] = at_least / len(signs) if exact else (1 + at_least) / (1 + len(signs))
    highest = 0.0
    for i in order:  # no pair is surer than a larger one
        highest = max(highest, p[i])
        p[i] = highest
    return [float(value) for value in p], exact


def letters_of(systems: int, apart: set[tuple[int, int]]) -> tuple[str, ...]:
    """Return letters such that two systems share one unless they are told apart (Piepho, J. Comput. Graph. Stat. 13, 2004).

    >>> letters_of(3, {(0, 2)})
    ('a', 'ab', 'b')
    >>> letters_of(2, set())
    ('a', 'a')

    Args:
        systems: how many there are, the best first.
        apart: pairs of places, the smaller first.
    """
    groups = [frozenset(range(systems))]
    for a, b in sorted(apart):
        split = [group - {one} for group in groups if {a, b} <= group for one in (b, a)]
        kept = [group for group in groups if not {a, b} <= group]
        groups = []
        for group in sorted({*kept, *split}, key=lambda group: (-len(group), sorted(group))):
            if not any(group <= other for other in groups):
                groups.append(group)
    named = dict(zip(sorted(groups, key=sorted), _letters(), strict=False))
    return tuple("".join(letter for group, letter in named.items() if i in group) for i in range(systems))


def _letters() -> list[str]:
    return [*string.ascii_lowercase, *string.ascii_uppercase, *(f"({i})" for i in range(1, 1000))]


def in_words(comparison: ManyComparison) -> list[str]:
    """Return what a reader must know, a sentence a line."""
    by, lines = comparison.clustered_by, dropped_seeds(comparison.outcomes)
    if comparison.left_out:
        lines.append(f"{comparison.left_out:,} utterances are left out, which not all of them tested, or under another label")
    if by is None:
        return [
            *lines,
            "no intervals and no letters: speakers are unknown, or not known to be new to all of them; --clusters names others",
        ]
    n = comparison.scores[0].clusters
    lines += [
        f"{len(comparison.pairs)} differences at once: their intervals hold together at 95 %, each by itself at "
        f"{100 * comparison.per_pair:.2f} %",
        "systems that share a letter are not told apart (p < 0.05): step-down max-T over "
        f"{'all' if comparison.exact else 'drawn'} exchanges of whole {by}s",
    ]
    if (least := comparison.seen_from) is not None:
        size = f"{least:.3f} of" if comparison.dimensions else f"{100 * least:.1f} points of"
        size += f" {comparison.metric}"
        lines.append(
            f"with these {n} {by}s, differences under {size} cannot be seen (in 80 % of such data; median over the pairs)"
        )
    if n < FEW:
        lines.append(f"only {n} {by}s: no exchange of them reaches p < 0.05, so all share a letter whatever the difference")
    return lines
