"""Comparisons as texts that a terminal and a page share: lines of tables in percent, and the tests in words.

In go the outcomes of `tfser.heads.results.compare` and `many`; out come rows of texts, with intervals and marks. Nothing is
computed, and nothing is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfser.heads.results.compare import ComparedRow, Comparison, wins
from tfser.heads.results.many import ManyComparison
from tfser.heads.results.marks import mark, standing
from tfser.heads.results.written import bounds_text, interval_text, range_text
from tfser.manifests.wording import count


def in_words(comparison: Comparison) -> list[str]:
    """Return the tests and the wins in words."""
    lines = []
    if (found := comparison.permutation) is not None:
        swaps = f"all {found.draws:,} exchanges" if found.exact else f"{found.draws:,} exchanges drawn"
        whole = f"whole {comparison.clustered_by}s exchanged"
        lines.append(f"permutation test of {comparison.metric}, {whole}: p = {p_value(found.p)} ({swaps})")
    if len(comparison.mcnemar) == 1:
        only_a, only_b, p = comparison.mcnemar[0]
        tested = f"p = {p_value(p)} (A alone right {only_a:,} times, B alone {only_b:,})"
    else:
        every = sorted(p for *_, p in comparison.mcnemar)
        tested = f"seed by seed: median p = {p_value(comparison.mcnemar_p)}, from {p_value(every[0])} to {p_value(every[-1])}"
    few, many = sorted((len(comparison.a.seeds), len(comparison.b.seeds)))
    if few < many:
        tested += f"; of the first {count(few, 'seed')} of each only"
    lines.append(f"McNemar's test, exact, {tested}")
    # Said each time: McNemar's p is what papers print, and of clustered utterances it is too small.
    unit = comparison.clustered_by or "speaker"
    lines.append(f"  it takes utterances as independent, which those of one {unit} are not, so its p is too small")
    if comparison.new_speaker and comparison.new_speaker[0].low is not None and comparison.new_speaker[1].low is not None:
        ends = [
            range_text(new.low, new.high, mark(side.row()), digits=0)
            for new, side in zip(comparison.new_speaker, (comparison.a, comparison.b), strict=True)
        ]
        spoken = f"{comparison.new_speaker[0].utterances:.0f} {comparison.a.level}s"
        lines.append(f"{comparison.metric} of a new speaker (95 %), measured on about {spoken}: A {ends[0]}, B {ends[1]}")
    for what, rows in (("fold", comparison.folds), (unit, comparison.speakers)):
        if rows:
            found_wins = wins(rows)
            lines.append(f"{what}s: A better in {found_wins['a']}, B in {found_wins['b']}, alike in {found_wins['ties']}")
    return lines


def p_value(p: float) -> str:
    """Return a p value with three digits.

    >>> p_value(0.0371), p_value(1.0), p_value(0.00001234)
    ('0.0371', '1', '1.23e-05')
    """
    return f"{p:.3g}"


def compared_line(of: Comparison, row: ComparedRow, what: str, name: str) -> dict[str, Any]:
    """Return a row of a comparison: a score, or that of a class or speaker, of A and of B, and their difference."""
    a, b = mark(of.a.row()), mark(of.b.row())
    return {
        what: name,
        "n": row.n,
        "A": interval_text(row.a.value, row.a.low, row.a.high, a),
        "B": interval_text(row.b.value, row.b.low, row.b.high, b),
        "A - B": interval_text(
            row.difference.value, row.difference.low, row.difference.high, "".join(dict.fromkeys(a + b)), sign="+"
        ),
    }


def system_lines(comparison: ManyComparison) -> list[dict[str, Any]]:
    """Return a row a system of many: its score, and the letters of the groups that are not told apart."""
    lines = []
    names = short_names(len(comparison.outcomes))
    for name, side, score, letters in zip(names, comparison.outcomes, comparison.scores, comparison.letters, strict=True):
        text = _text(comparison)(score.value, score.low, score.high, mark(side.row()))
        groups = {"groups": letters} if comparison.clustered_by else {}
        scored = {"": name, "system": side.subject.name, f"{comparison.metric} [95 %]": text}
        lines.append({**scored, **groups, "audit": standing(side.row())})
    return lines


def pair_lines(comparison: ManyComparison, most: int) -> list[dict[str, Any]]:
    """Return a row for each of the first so many pairs of systems: difference, p value, and from where one would be seen."""
    names = short_names(len(comparison.outcomes))
    return [
        {
            "pair": f"{names[pair.a]} - {names[pair.b]}",
            "difference [95 % together]": _text(comparison)(
                pair.difference.value, pair.difference.low, pair.difference.high, sign="+"
            ),
            "p": "" if pair.p is None else f"{pair.p:.3g}",
            "seen from": "" if pair.seen_from is None else _text(comparison)(pair.seen_from, None, None),
        }
        for pair in comparison.pairs[:most]
    ]


def _text(of: ManyComparison) -> Callable[..., str]:
    """Return what writes the scores of many systems: in percent, but for ratings, whose scores are no shares."""
    return bounds_text if of.dimensions else interval_text


def short_names(n: int) -> list[str]:
    """Return a short name for each of n systems: S1, S2 ... (letters are taken by the groups)."""
    return [f"S{i}" for i in range(1, n + 1)]
