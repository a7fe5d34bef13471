"""What a figure shows, before anything is drawn: plain values, and beside them the SQL that gives each of its numbers.

Drawing, pages and tables take `FigureData` and compute nothing. The numbers themselves come from `tfser.heads.results`; the SQL
is the reader's way to them, over the catalogue's views, and a test holds that both agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfser.manifests.wording import UNSAFE

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A table of numbers that a figure draws, and the statement that gives them.

    `checked` are the columns that the statement gives too, row by row in the same order; the others (intervals over speakers)
    are computed by `tfser.heads.results.intervals` and cannot be had from SQL.
    """

    title: str
    sql: str
    rows: tuple[Row, ...]
    checked: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows."""
        return tuple(self.rows[0]) if self.rows else ()


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """One figure.

    Attributes:
        kind: which drawing it is, a name of `tfser.heads.reports.drawing.DRAWINGS`.
        title: what it is, in a few words.
        reading: what there is to see in it, in a sentence or two: the caption, and what a screen reader says.
        numbers: what is drawn.
        notes: what a reader must know besides, a sentence each.
        details: what the drawing needs beyond the numbers (classes in their order, the names of two sides).
    """

    kind: str
    title: str
    reading: str
    numbers: tuple[Numbers, ...]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the first table of numbers."""
        return self.numbers[0].rows


def text_of(value: str) -> str:
    r"""Return a text as SQL writes it; what nobody could see, or would turn the direction of the statement, by its number.

    >>> text_of("it's"), text_of("a\u202eb")
    ("'it''s'", "('a' || chr(8238) || 'b')")
    """
    parts, end = list[str](), 0
    for unseen in UNSAFE.finditer(value):
        parts += [_quoted(value[end : unseen.start()]), f"chr({ord(unseen[0])})"]
        end = unseen.end()
    if not parts:
        return _quoted(value)
    return f"({' || '.join([*parts, _quoted(value[end:])])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def list_of(values: Iterable[str]) -> str:
    """Return texts as SQL's IN takes them.

    >>> list_of(["a", "b"])
    "('a', 'b')"
    """
    return f"({', '.join(text_of(value) for value in values)})"


def identifier(name: str) -> str:
    """Return the name of a column as SQL writes it, whatever letters are in it.

    >>> identifier("rater agreement")
    '"rater agreement"'
    """
    return '"' + name.replace('"', '""') + '"'


def percent_of(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; nothing where there is none.

    >>> percent_of(0.4567), percent_of(None)
    ('45.7', '')
    """
    return "" if value is None else f"{100 * value:.{digits}f}"
