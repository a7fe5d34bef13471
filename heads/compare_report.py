"""A comparison as people read it: tables in percent, and the tests in words."""

from __future__ import annotations

from typing import Any

from tfser.heads.compare import Comparison, Row, notes, wins
from tfser.heads.outcomes import Outcome
from tfser.heads.score_tables import legend, marks
from tfser.heads.statistics import Interval
from tfser.manifests.display import Output, count, print_rows, show

_MOST_SPEAKERS = 30
"""Of more, the table would hide the rest; they are in --format json."""


def print_comparison(of: Comparison) -> None:
    """Print a comparison to standard output."""
    for letter, side in (("A", of.a), ("B", of.b)):
        seeds = ", ".join(map(str, side.seeds))
        show(f"{letter}  {side.subject.name}  (seed{'s' if len(side.seeds) > 1 else ''} {seeds}; audit {side.audit})")
    clusters = count(of.score.difference.clusters, of.clustered_by)
    about = f"{count(len(of.a.keys), of.a.level)} of {clusters}, selection {of.a.selection}"
    show(f"{about}; percent, with 95 % intervals over {of.clustered_by}s")
    show("")
    print_rows([_line(of, row, "score", row.name) for row in of.scores], Output.table)
    show("")
    for line in in_words(of):
        show(line)
    show("")
    print_rows([_line(of, row, "recall of", row.name) for row in of.classes], Output.table)
    if 1 < len(of.speakers) <= _MOST_SPEAKERS:
        show("")
        print_rows([_line(of, row, of.clustered_by, row.name) for row in of.speakers], Output.table)
    below = [*notes(of), *legend([_as_row(of.a), _as_row(of.b)])]
    if below:
        show("")
    for line in below:
        show(line)


def in_words(of: Comparison) -> list[str]:
    """Return the tests and the wins in words."""
    found = of.permutation
    swaps = f"all {found.draws:,} exchanges" if found.exact else f"{found.draws:,} exchanges drawn"
    lines = [f"permutation test of {of.metric}, whole {of.clustered_by}s exchanged: p = {p_value(found.p)} ({swaps})"]
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
    lines.append(f"  it takes utterances as independent, which those of one {of.clustered_by} are not, so its p is too small")
    if of.new_speaker and of.new_speaker[0].low is not None and of.new_speaker[1].low is not None:
        ends = [
            f"{100 * (new.low or 0):.0f} to {100 * (new.high or 0):.0f}{marks(_as_row(side))}"
            for new, side in zip(of.new_speaker, (of.a, of.b), strict=True)
        ]
        said = f"{of.new_speaker[0].utterances:.0f} {of.a.level}s"
        lines.append(f"{of.metric} of a new speaker (95 %), measured on about {said}: A {ends[0]}, B {ends[1]}")
    for what, rows in (("fold", of.folds), (of.clustered_by, of.speakers)):
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


def _line(of: Comparison, row: Row, what: str, name: str) -> dict[str, Any]:
    both = "".join(sorted(set(marks(_as_row(of.a)) + marks(_as_row(of.b)))))
    return {
        what: name,
        "n": row.n,
        "A": _shown(row.a, marks(_as_row(of.a))),
        "B": _shown(row.b, marks(_as_row(of.b))),
        "A - B": _shown(row.difference, both, sign="+"),
    }


def _shown(found: Interval, mark: str, sign: str = "") -> str:
    text = f"{100 * found.value:{sign}.1f}{mark}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def _as_row(of: Outcome) -> dict[str, Any]:
    return {"selection": of.selection, "audit": of.audit, "experiment": of.subject.name}
