"""A comparison as people read it: tables in percent, and the tests in words."""

from __future__ import annotations

from typing import Any

from tfser.heads.results.compare import ComparedRow, Comparison, notes, wins
from tfser.heads.results.marks import explain_marks, mark, standing
from tfser.heads.results.written import interval_text, range_text
from tfser.manifests.display import Output, print_rows, show
from tfser.manifests.wording import count

_MOST_SPEAKERS = 30
"""Of more, the table would hide the rest; they are in --format json."""


def print_comparison(of: Comparison) -> None:
    """Print a comparison to standard output."""
    for letter, side in (("A", of.a), ("B", of.b)):
        seeds = ", ".join(map(str, side.seeds))
        show(f"{letter}  {side.subject.name}  (seed{'s' if len(side.seeds) > 1 else ''} {seeds}; audit {standing(side.row())})")
    clusters = "" if of.clustered_by is None or of.clusters is None else f" of {count(of.clusters, of.clustered_by)}"
    over = f", with 95 % intervals over {of.clustered_by}s" if of.clustered_by else ""
    show(f"{count(len(of.a.keys), of.a.level)}{clusters}, selection {of.a.selection}; percent{over}", "")
    print_rows([_line(of, row, "score", row.name) for row in of.scores], Output.table)
    show("")
    for line in in_words(of):
        show(line)
    show("")
    print_rows([_line(of, row, "recall of", row.name) for row in of.classes], Output.table)
    if 1 < len(of.speakers) <= _MOST_SPEAKERS:
        show("")
        print_rows([_line(of, row, str(of.clustered_by), row.name) for row in of.speakers], Output.table)
    below = [*notes(of), *explain_marks([of.a.row(), of.b.row()])]
    if below:
        show("")
    for line in below:
        show(line)


def in_words(of: Comparison) -> list[str]:
    """Return the tests and the wins in words."""
    lines = []
    if (found := of.permutation) is not None:
        swaps = f"all {found.draws:,} exchanges" if found.exact else f"{found.draws:,} exchanges drawn"
        lines.append(f"permutation test of {of.metric}, whole {of.clustered_by}s exchanged: p = {p_value(found.p)} ({swaps})")
    if len(of.mcnemar) == 1:
        only_a, only_b, p = of.mcnemar[0]
        said = f"p = {p_value(p)} (A alone right {only_a:,} times, B alone {only_b:,})"
    else:
        every = sorted(p for *_, p in of.mcnemar)
        said = f"seed by seed: median p = {p_value(of.mcnemar_p)}, from {p_value(every[0])} to {p_value(every[-1])}"
    few, many = sorted((len(of.a.seeds), len(of.b.seeds)))
    if few < many:
        said += f"; of the first {count(few, 'seed')} of each only"
    lines.append(f"McNemar's test, exact, {said}")
    # Said each time: McNemar's p is what papers print, and of clustered utterances it is too small.
    unit = of.clustered_by or "speaker"
    lines.append(f"  it takes utterances as independent, which those of one {unit} are not, so its p is too small")
    if of.new_speaker and of.new_speaker[0].low is not None and of.new_speaker[1].low is not None:
        ends = [
            range_text(new.low, new.high, mark(side.row()), digits=0)
            for new, side in zip(of.new_speaker, (of.a, of.b), strict=True)
        ]
        said = f"{of.new_speaker[0].utterances:.0f} {of.a.level}s"
        lines.append(f"{of.metric} of a new speaker (95 %), measured on about {said}: A {ends[0]}, B {ends[1]}")
    for what, rows in (("fold", of.folds), (unit, of.speakers)):
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


def _line(of: Comparison, row: ComparedRow, what: str, name: str) -> dict[str, Any]:
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
