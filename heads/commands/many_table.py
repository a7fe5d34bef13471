"""A comparison of many systems as people read it: scores with letters, all differences, and what cannot be seen."""

from __future__ import annotations

from tfser.heads.results.many import ManyComparison, in_words
from tfser.heads.results.marks import explain_marks, mark, standing
from tfser.heads.results.written import interval_text
from tfser.manifests.display import Output, print_rows, show
from tfser.manifests.wording import count

_MOST_PAIRS = 66
"""Of more, the table would hide the rest; they are in --format csv."""


def print_many(of: ManyComparison) -> None:
    """Print a comparison of many systems to standard output."""
    clusters = "" if of.clustered_by is None else f" of {count(of.scores[0].clusters, of.clustered_by)}"
    first = of.outcomes[0]
    show(f"{count(len(first.keys), first.level)}{clusters}, selection {first.selection}; percent, {of.metric}", "")
    names = _names(len(of.outcomes))
    lines = []
    for name, side, score, letters in zip(names, of.outcomes, of.scores, of.letters, strict=True):
        text = interval_text(score.value, score.low, score.high, mark(side.row()))
        told = {"groups": letters} if of.clustered_by else {}
        lines.append({"": name, "system": side.subject.name, f"{of.metric} [95 %]": text, **told, "audit": standing(side.row())})
    print_rows(lines, Output.table)
    if of.pairs:
        show("")
        print_rows(
            [
                {
                    "pair": f"{names[pair.a]} - {names[pair.b]}",
                    "difference [95 % together]": interval_text(
                        pair.difference.value, pair.difference.low, pair.difference.high, sign="+"
                    ),
                    "p": "" if pair.p is None else f"{pair.p:.3g}",
                    "seen from": "" if pair.seen_from is None else f"{100 * pair.seen_from:.1f}",
                }
                for pair in of.pairs[:_MOST_PAIRS]
            ],
            Output.table,
        )
        if len(of.pairs) > _MOST_PAIRS:
            show(f"and {len(of.pairs) - _MOST_PAIRS} pairs more; --format csv has all")
    show("", *in_words(of), *explain_marks([side.row() for side in of.outcomes]))


def _names(n: int) -> list[str]:
    """Return a short name for each of n systems: S1, S2 ... (letters are taken by the groups)."""
    return [f"S{i}" for i in range(1, n + 1)]
