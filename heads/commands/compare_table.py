"""A comparison as people read it: tables in percent, and the tests in words."""

from __future__ import annotations

from tfser.heads.results.compare import Comparison, notes
from tfser.heads.results.comparison_texts import compared_line, in_words
from tfser.heads.results.marks import explain_marks, standing
from tfser.manifests.display import Output, print_rows, show, show_wrapped
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
    print_rows([compared_line(of, row, "score", row.name) for row in of.scores], Output.table)
    show("")
    show_wrapped(*in_words(of))
    show("")
    print_rows([compared_line(of, row, "recall of", row.name) for row in of.classes], Output.table)
    if 1 < len(of.speakers) <= _MOST_SPEAKERS:
        show("")
        print_rows([compared_line(of, row, str(of.clustered_by), row.name) for row in of.speakers], Output.table)
    below = [*notes(of), *explain_marks([of.a.row(), of.b.row()])]
    if below:
        show("")
    show_wrapped(*below)
