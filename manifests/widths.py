"""How wide the columns of a table are, and where lines end: at words, whatever the terminal's width.

In go the texts of a table and the columns of the terminal, out come widths. Headers and numbers are never broken within a word;
texts give way first, down to their longest word or `_LEAST`. Where even that does not fit, nothing does, and whoever prints shows
one record below the other instead. What goes into a file or a pipe breaks no word at all, and may be wider than a terminal for it
(`unbroken_widths`): it is searched, and copied from. Nothing here prints.
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
    return _dealt(names, cells, _least_widths(names, cells, whole), room)


def unbroken_widths(names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], room: int) -> list[int]:
    """Return the width of each column where no word may be broken: of more than ``room`` together only if words need it.

    >>> unbroken_widths(["path", "why"], [["a/very/long/path.wav", "no such file"]], [False, False], 12)
    [20, 4]

    Args:
        names: the headers.
        cells: the rows, as `column_widths` takes them.
        whole: by column, whether its cells stay in one piece.
        room: how wide the table may be.
    """
    least = _least_widths(names, cells, whole, breaks_words=False)
    widths = _dealt(names, cells, least, max(room, sum(least) + GAP * (len(names) - 1)))
    assert widths is not None, "there is room for the least"
    return widths


def _least_widths(
    names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], breaks_words: bool = True
) -> list[int]:
    """Return how narrow each column may become."""
    found = []
    for at, (name, one_piece) in enumerate(zip(names, whole, strict=True)):
        texts = [row[at] for row in cells]
        least = (_LEAST if at else _LEAST_FIRST) if breaks_words else None
        found.append(max(_longest_word(name), _narrowest(texts, one_piece, least)))
    return found


def _dealt(names: Sequence[str], cells: Sequence[Sequence[str]], least: Sequence[int], room: int) -> list[int] | None:
    """Deal out what ``room`` leaves beyond the least widths; None where it is less."""
    wanted = [max([cell_len(name), *(_widest(row[at]) for row in cells)]) for at, name in enumerate(names)]
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


def _narrowest(texts: Sequence[str], one_piece: bool, least: int | None) -> int:
    """Return how narrow a column's cells may become: ``least`` even where a word is longer; None: no word is broken."""
    if one_piece:
        return max([1, *map(_widest, texts)])
    longest = max([1, *map(_longest_word, texts)])
    return longest if least is None else min(longest, least)


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
