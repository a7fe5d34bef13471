"""How results are shown: tables, csv and JSON on standard output, notes and progress bars on standard error.

Bars appear on a terminal only. A table that goes into a file or a pipe is as wide as COLUMNS says; if that is not set, its texts
are wrapped at 120 columns, no column is left out, and no word or number is broken, however wide the table must be for it.

Names, labels and paths come from other people's files and may hold characters that move the cursor, clear the screen, set
the terminal's title or turn the text around. Nothing of that reaches a terminal: `visible` writes them as escapes, and all that
is printed goes through it here. Tables and notes show escapes wherever they go; csv keeps the data as it is but on a terminal,
and JSON has escapes of its own, which read back as the same data.
"""

from __future__ import annotations

import contextlib
import csv
import decimal
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from tfser.manifests.errors import ReaderGoneError, TfserError
from tfser.manifests.widths import GAP, at_words, column_widths, unbroken_widths
from tfser.manifests.wording import UNSAFE, cell, plain, visible

_DRAWN_AT_ONCE = 500
"""Rows of a table that are drawn before the next are."""

PIPED = 120
"""Columns of a table that goes into a file or a pipe, if its words and numbers need no more."""

_NARROWEST = 20  # columns of a terminal; a smaller number in COLUMNS is no terminal's
Begin = Callable[[int, float], Callable[[int, float], None]]
"""`begin(utterances, audio_s)` starts a bar and returns `advance(utterances, audio_s)`."""


class Output(StrEnum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


class TableOutput(StrEnum):
    """How a table of results is printed; the last two can go into a paper."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


class Lines(tuple[str, ...]):
    """A cell of several lines; a line end within a text is shown as an escape."""


def say(*lines: str) -> None:
    """Tell people something, on standard error."""
    width = _columns(sys.stderr)
    for line in lines:
        for part in at_words(visible(line), width):
            _notes().print(part, markup=False)


def show(*lines: str) -> None:
    """Print lines of a result to standard output."""
    with _to_output():
        for line in lines:
            print(visible(line))


def show_wrapped(*lines: str) -> None:
    """Print lines of a result, on a terminal wrapped at words; into a file or a pipe as they are."""
    width = _columns(sys.stdout)
    for line in lines:
        plain = width is None or len(line) <= width
        show(*([line] if plain else textwrap.wrap(line, width or 1, subsequent_indent="  ", break_on_hyphens=False)))


def print_json(value: Any) -> None:
    """Print a value as JSON; what a terminal would obey is escaped, which reads back as the same text."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    with _to_output():
        print(UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text))


@contextlib.contextmanager
def _to_output() -> Iterator[None]:
    """Name standard output in the system's error over it, which names no file; a reader who has enough is no error."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGoneError from error
    except OSError as error:
        raise TfserError(f"standard output: cannot be written ({(error.strerror or str(error)).lower()})") from error


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output goes to; if it goes elsewhere, what COLUMNS says, else None."""
    if sys.stdout.isatty():
        return _columns(sys.stdout)
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isascii() and asked.isdigit() and int(asked) >= _NARROWEST else None


def _columns(stream: Any) -> int | None:
    """Return the columns of a stream's terminal, whatever nonsense the environment says; None if it goes elsewhere.

    What is said to a file or a pipe stays a line, whatever COLUMNS says: it is searched.
    """
    if not stream.isatty():
        return None
    width = shutil.get_terminal_size().columns
    if width < _NARROWEST:
        with contextlib.suppress(OSError, ValueError):
            width = os.get_terminal_size(stream.fileno()).columns
    return width if width >= _NARROWEST else 80


def _notes() -> Console:
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, width=_columns(sys.stderr))


def print_rows(rows: Sequence[Mapping[str, Any]], output: Output, columns: Sequence[str] | None = None) -> None:
    """Print rows to standard output.

    Args:
        rows: the rows.
        output: table, csv or JSON (a list of objects, values as they are).
        columns: which, in this order; None takes all, as they come up: a row that lacks one has an empty cell there.
    """
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    if columns is None:
        rows = [{name: row.get(name) for name in names} for row in rows]
    if output is Output.json:
        print_json([{n: row[n] for n in names} for row in rows])
    elif output is Output.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        shown = visible if sys.stdout.isatty() else str
        with _to_output():
            writer.writerow(shown(n) for n in names)
            writer.writerows([shown(cell(row[n], exact=True)) for n in names] for row in rows)
    else:
        _print_table(rows, names)


def _print_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Draw rows below their headers; where a terminal is too narrow for whole words, one record below the other."""
    cells = [[_shown(row[name]) for name in names] for row in rows]
    right = [any(_is_number(row[name]) for row in rows) for name in names]
    headers, room = [visible(name) for name in names], terminal_width()
    if room is None:
        widths: list[int] | None = unbroken_widths(headers, cells, right, PIPED)
    else:
        widths = column_widths(headers, cells, right, room)
    with _to_output():
        whole = max(1, sum(widths or ()) + GAP * len(headers))
        console = Console(highlight=False, markup=False, emoji=False, width=room or whole)
        if widths is None:
            for number, row in enumerate(cells):
                if number:
                    console.print()
                console.print(_record(headers, row))
            return
        # Some rows at a time, each part as wide as all of them: of a large table the first rows stand there at once.
        for first in range(0, max(1, len(cells)), _DRAWN_AT_ONCE):
            table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=first == 0)
            for header, width, is_right in zip(headers, widths, right, strict=True):
                place: Literal["left", "right"] = "right" if is_right else "left"
                table.add_column(header, justify=place, overflow="fold", width=width)
            for row in cells[first : first + _DRAWN_AT_ONCE]:
                table.add_row(*row)
            console.print(table)


def _record(headers: Sequence[str], row: Sequence[str]) -> Table:
    """Return one row as lines of a header and a value."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for header, value in zip(headers, row, strict=True):
        table.add_row(header, value)
    return table


def _shown(value: Any) -> str:
    """Return a value as the text of a table's cell."""
    return "\n".join(map(visible, value)) if isinstance(value, Lines) else visible(cell(value))


def _is_number(value: Any) -> bool:
    """Tell whether a cell is set to the right: numbers, and scores, sizes and large numbers that were written as text, with
    a deviation, an interval or marks behind them."""
    if isinstance(value, str):
        score = r"[-+]?\d+\.\d( ± \d+\.\d| to \d+\.\d)?[†‡§]*( \[[^]]*\])?"
        return re.fullmatch(score + r"|\d{1,3}(,\d{3})+|\d+(\.\d+)? ([kMGT]|[kMGT]?B)", value) is not None
    return isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)


def markdown_lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str]:
    """Return rows as the lines of a Markdown table: numbers to the right, what would end a cell escaped.

    Args:
        rows: alike in their columns.
        names: the columns; those of the first row if left out.
    """
    names = list(names if names is not None else rows[0] if rows else [])
    rule = ["---:" if any(_is_number(row[name]) for row in rows) else "---" for name in names]
    cells = [[visible(cell(row[name])).replace("|", r"\|") for name in names] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([visible(name) for name in names], rule, *cells)]


@contextlib.contextmanager
def bar(what: str, total: int | None = None, *, time_left: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yield `update(total=, advance=, completed=, state=, description=)`, all optional.

    Without `time_left` the caller says in the state what is left, as where a bar is only a part of what is to be done.
    """
    with _progress(what, MofNCompleteColumn(), total=total, time_left=time_left) as (progress, task):

        def update(**changes: Any) -> None:
            if "state" in changes:
                changes["state"] = visible(changes["state"])
            progress.update(task, visible=True, **changes)

        yield update


@contextlib.contextmanager
def _progress(
    what: str, *columns: ProgressColumn, total: int | None = None, time_left: bool = True
) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar on a terminal: what is done, some columns, the task's state, the time left."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TextColumn("{task.fields[state]}", markup=False),
        *((TimeRemainingColumn(),) if time_left else ()),
        console=_notes(),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        yield progress, progress.add_task(visible(what), total=total, state="", visible=total is not None)


@contextlib.contextmanager
def utterance_bar(what: str) -> Iterator[Begin]:
    """Show progress over utterances, with the rate in times real time; the bar appears when it begins.

    Where the seconds of audio are known, the time left follows from them: long utterances may come first.
    """
    with _progress(what) as (progress, task):

        def begin(utterances: int, audio_s: float = 0.0) -> Callable[[int, float], None]:
            start, done, heard, before = 0.0, 0, 0.0, 0.0
            progress.update(task, visible=True, total=audio_s or utterances, state=f"0/{utterances:,}")

            def advance(count: int, seconds: float) -> None:
                nonlocal start, done, heard, before
                done, heard = done + count, heard + seconds
                if not start:  # the rate is that of what follows the first result: weights were loaded before it
                    start, before = time.monotonic(), heard
                rate = (heard - before) / max(time.monotonic() - start, 1e-6)
                pace = f", {rate:,.{0 if rate >= 20 else 1}f} x real time" if heard > before else ""
                progress.update(task, advance=seconds if audio_s else count, state=f"{done:,}/{utterances:,}{pace}")

            return advance

        yield begin
