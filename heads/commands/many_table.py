"""A comparison of many systems as people read it: scores with letters, all differences, and what cannot be seen."""

from __future__ import annotations

from tfser.heads.results.comparison_texts import pair_lines, system_lines
from tfser.heads.results.many import ManyComparison, in_words
from tfser.heads.results.marks import explain_marks
from tfser.manifests.display import Output, print_rows, show, show_wrapped
from tfser.manifests.wording import count

_MOST_PAIRS = 66
"""Of more, the table would hide the rest; they are in --format csv."""


def print_many(of: ManyComparison) -> None:
    """Print a comparison of many systems to standard output."""
    clusters = "" if of.clustered_by is None else f" of {count(of.scores[0].clusters, of.clustered_by)}"
    first = of.outcomes[0]
    what = f"{of.metric} of {', '.join(of.dimensions)}" if of.dimensions else f"percent, {of.metric}"
    show(f"{count(len(first.keys), first.level)}{clusters}, selection {first.selection}; {what}", "")
    print_rows(system_lines(of), Output.table)
    if of.pairs:
        show("")
        print_rows(pair_lines(of, _MOST_PAIRS), Output.table)
        if len(of.pairs) > _MOST_PAIRS:
            show(f"and {len(of.pairs) - _MOST_PAIRS} pairs more; --format csv has all")
    show("")
    show_wrapped(*in_words(of), *explain_marks([side.row() for side in of.outcomes]))
