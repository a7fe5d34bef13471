"""A comparison of many systems as people read it: scores with letters, all differences, and what cannot be seen."""

from __future__ import annotations

from tfser.heads.results.comparison_texts import pair_lines, system_lines
from tfser.heads.results.many import ManyComparison, in_words
from tfser.heads.results.marks import explain_marks
from tfser.manifests.display import Output, print_rows, show, show_wrapped
from tfser.manifests.wording import count

_MOST_PAIRS = 66
"""Of more, the table would hide the rest; they are in --format csv."""


def print_many(comparison: ManyComparison) -> None:
    """Print a comparison of many systems to standard output."""
    clusters = "" if comparison.clustered_by is None else f" of {count(comparison.scores[0].clusters, comparison.clustered_by)}"
    first = comparison.outcomes[0]
    learned = f" of {', '.join(comparison.dimensions)}"
    what = f"{comparison.metric}{learned}" if comparison.dimensions else f"percent, {comparison.metric}"
    show(f"{count(len(first.keys), first.level)}{clusters}, selection {first.selection}; {what}", "")
    print_rows(system_lines(comparison), Output.table)
    if comparison.pairs:
        show("")
        print_rows(pair_lines(comparison, _MOST_PAIRS), Output.table)
        if len(comparison.pairs) > _MOST_PAIRS:
            show(f"and {len(comparison.pairs) - _MOST_PAIRS} pairs more; --format csv has all")
    show("")
    show_wrapped(*in_words(comparison), *explain_marks([side.row() for side in comparison.outcomes]))
