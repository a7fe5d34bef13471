"""How wide the columns of a table are, and where lines end: at words, whatever the terminal's width.

In go the texts of a table and the columns of the terminal, out come widths. Headers and numbers are never broken within a word;
texts give way first, down to their longest word or `_LEAST`. Where even that does not fit, nothing does, and whoever prints shows
one record below the other instead. Nothing here prints.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

GAP = 2
"""Columns between two columns."""
_LEAST = 16
"""So narrow a text may become where its words are longer: ids, paths."""
_LEAST_FIRST = 40
"""And in the first column, which names what a row is about: an experiment stays whole, to be copied."""


def column_widths(names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], room: int) -> list[int] | None:
    """Return the width of each column, or None where they do not fit.

    >>> column_widths(["UA gain", "action"], [["+2.2 ± 5.5", "choose folds that keep each class"]], [True, False], 30)
    [10, 18]
    >>> column_widths(["UA gain", "action"], [["+2.2 ± 5.5", "choose"]], [True, False], 12) is None
    True

    Args:
        names: the headers.
        cells: the rows, a text a column; a line end begins a new line within a cell.
        whole: by column, whether its cells stay in one piece, as numbers do.
        room: columns of the terminal.
    """
    columns = [[row[at] for row in cells] for at in range(len(names))]
    wanted = [max([cell_len(name), *map(_widest, texts)]) for name, texts in zip(names, columns, strict=True)]
    least = [
        max(_longest_word(name), _narrowest(texts, one_piece, _LEAST if at else _LEAST_FIRST))
        for at, (name, texts, one_piece) in enumerate(zip(names, columns, whole, strict=True))
    ]
    spare = room - GAP * (len(names) - 1) - sum(least)
    if spare < 0:
        return None
    # Whoever lacks least is served first, so that what is left over goes to the long texts alone, in equal parts.
    lacking = sorted(range(len(names)), key=lambda at: (wanted[at] - least[at], at))
    widths = list(least)
    for served, at in enumerate(lacking):
        given = min(max(wanted[at] - least[at], 0), spare // (len(lacking) - served))
        widths[at] += given
        spare -= given
    return widths


def cell_len(text: str) -> int:
    """Return the columns that a text takes: wide characters take two, marks that sit on others none.

    >>> cell_len("fold"), cell_len("愤怒"), cell_len("e\N{COMBINING ACUTE ACCENT}")
    (4, 4, 1)
    """
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _narrowest(texts: Sequence[str], one_piece: bool, least: int) -> int:
    """Return how narrow a column's cells may become."""
    if one_piece:
        return max([1, *map(_widest, texts)])
    return min(max([1, *map(_longest_word, texts)]), least)


def _widest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=1)


def at_words(line: str, width: int | None) -> list[str]:
    """Return a line as lines of a terminal: broken between words, later ones further to the right.

    What can be copied into a shell stays in one piece, and so do words that are longer than the terminal.

    >>> at_words("only 3 speakers: the intervals are wide", 24)
    ['only 3 speakers: the', '  intervals are wide']
    >>> at_words("$ tfser train --head mean_pool", 12), at_words("a b", None)
    (['$ tfser train --head mean_pool'], ['a b'])
    """
    bare = line.lstrip()
    if width is None or cell_len(line) <= width or bare.startswith(("$ ", "tfser ")):
        return [line]
    indent = " " * (len(line) - len(bare) + 2)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
