"""Tables that fit a terminal: cells are not folded to pieces of three letters; what a reader can do without goes first.

In go a table's lines and the columns that may go, the first one first. Out come lines that fit the width, and sentences that say
what is not shown: of a column with one value all the way down that value, of any other its name. What goes into a file or a pipe
loses nothing: only columns of one value leave the table, and that value is said below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.manifests.display import PIPED
from tfser.manifests.widths import GAP, cell_len
from tfser.manifests.wording import cell


def fitted(
    lines: Sequence[Mapping[str, Any]], width: int | None, expendable: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the lines without the columns that do not fit, and the notes that say so.

    >>> fitted([{"head": "svm", "folds": "1-4 of 4", "WF1": 39.6}], 10, ["WF1", "folds"])
    ([{'head': 'svm'}], ['In all rows: folds 1-4 of 4, WF1 39.6.'])

    Args:
        lines: of a table, all with the same columns.
        width: of the terminal; None: there is none, and what is left out is said.
        expendable: columns that may go, the first one first.
    """
    names = list(lines[0]) if lines else []
    wide = {name: max(cell_len(name), *(cell_len(cell(line[name])) for line in lines)) for name in names}
    same = {name for name in names if len({cell(line[name]) for line in lines}) == 1}
    gone: list[str] = []
    for name in dict.fromkeys(name for name in expendable if name in wide):
        if sum(wide[of] + GAP for of in names if of not in gone) - GAP <= (width or PIPED):
            break
        if width is not None or name in same:
            gone.append(name)
    if not gone:
        return [dict(line) for line in lines], []
    alike = [name for name in names if name in gone and name in same]
    others = [name for name in names if name in gone and name not in alike]
    said = [f"{name} {cell(lines[0][name])}" for name in alike if cell(lines[0][name])]
    notes = [f"In all rows: {', '.join(said)}."] if said else []
    if others:
        notes.append(f"Not shown for want of width: {', '.join(others)} (--format csv has them).")
    return [{name: line[name] for name in names if name not in gone} for line in lines], notes


def side_by_side(of_classes: list[dict[str, Any]], of_dimensions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of classes and of dimensions in one list, with all columns in each where there are both."""
    if not of_classes or not of_dimensions:
        return of_classes or of_dimensions
    columns = dict.fromkeys((*of_classes[0], *of_dimensions[0]))
    return [{name: row.get(name) for name in columns} for row in (*of_classes, *of_dimensions)]
