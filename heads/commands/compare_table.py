"""A comparison as people read it: tables in percent, and the tests in words."""

from __future__ import annotations

from tfser.heads.results.compare import Comparison, notes
from tfser.heads.results.comparison_texts import compared_line, in_words
from tfser.heads.results.marks import explain_marks, standing
from tfser.manifests.display import Output, print_rows, show, show_wrapped
from tfser.manifests.wording import count

_MOST_SPEAKERS = 30
"""Of more, the table would hide the rest; they are in --format json."""


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison to standard output."""
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        seeds = ", ".join(map(str, side.seeds))
        show(f"{letter}  {side.subject.name}  (seed{'s' if len(side.seeds) > 1 else ''} {seeds}; audit {standing(side.row())})")
    by, number = comparison.clustered_by, comparison.clusters
    clusters = "" if by is None or number is None else f" of {count(number, by)}"
    over = f", with 95 % intervals over {by}s" if by else ""
    show(f"{count(len(comparison.a.keys), comparison.a.level)}{clusters}, selection {comparison.a.selection}; percent{over}", "")
    print_rows([compared_line(comparison, row, "score", row.name) for row in comparison.scores], Output.table)
    show("")
    show_wrapped(*in_words(comparison))
    show("")
    print_rows([compared_line(comparison, row, "recall of", row.name) for row in comparison.classes], Output.table)
    if 1 < len(comparison.speakers) <= _MOST_SPEAKERS:
        show("")
        print_rows([compared_line(comparison, row, str(by), row.name) for row in comparison.speakers], Output.table)
    below = [*notes(comparison), *explain_marks([comparison.a.row(), comparison.b.row()])]
    if below:
        show("")
    show_wrapped(*below)
