"""How results are shown: tables, csv and JSON on standard output, notes and progress bars on standard error.

Bars appear on a terminal only. Where standard output is no terminal, a table is as wide as it needs to be.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tfser.manifests.files import write_bytes

_WIDE = 400  # columns of a table that goes into a file or a pipe

Begin = Callable[[int, float], Callable[[int, float], None]]
"""`begin(utterances, audio_s)` starts a bar and returns `advance(utterances, audio_s)`."""


class Output(StrEnum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def say(text: str) -> None:
    """Tell people something, on standard error."""
    _notes().print(text, markup=False)


def _notes() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_rows(rows: Sequence[Mapping[str, Any]], output: Output, columns: Sequence[str] | None = None) -> None:
    """Print rows to standard output.

    Args:
        rows: the rows.
        output: table, csv or JSON (a list of objects, values as they are).
        columns: which, in this order; None takes those of the first row.
    """
    names = list(columns or (rows[0] if rows else ()))
    if output is Output.json:
        print(json.dumps([{n: row[n] for n in names} for row in rows], indent=2, ensure_ascii=False, default=str))
    elif output is Output.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([cell(row[n], exact=True) for n in names] for row in rows)
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in names:
            right = any(_is_number(row[name]) for row in rows)
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell(row[n]) for n in names))
        width = None if sys.stdout.isatty() else _WIDE
        Console(highlight=False, markup=False, width=width).print(table)


def _is_number(value: Any) -> bool:
    """Tell whether a cell is set to the right: numbers, and scores that `percent` wrote."""
    if isinstance(value, str):
        return re.fullmatch(r"-?\d+\.\d", value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cell(value: Any, *, exact: bool = False) -> str:
    """Return a value as the text of a cell; floating-point numbers with four digits unless `exact`."""
    if value is None:
        return ""
    if isinstance(value, float) and not exact:
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value)
    return str(value)


@contextlib.contextmanager
def output_to(path: Path | None) -> Iterator[None]:
    """Send standard output to a file, written aside and renamed; None leaves it where it is."""
    if path is None:
        yield
        return
    text = io.StringIO(newline="")
    with contextlib.redirect_stdout(text):
        yield
    write_bytes(path.absolute(), text.getvalue().encode())


@contextlib.contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yield `update(total=, advance=, completed=, state=)`, all optional."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=_notes(),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total, state="", visible=total is not None)

        def update(**changes: Any) -> None:
            progress.update(task, visible=True, **changes)

        yield update


@contextlib.contextmanager
def utterance_bar(what: str) -> Iterator[Begin]:
    """Show progress over utterances, with the rate in times real time; the bar appears when it begins."""
    with bar(what) as update:

        def begin(utterances: int, audio_s: float = 0.0) -> Callable[[int, float], None]:
            start, heard = time.monotonic(), 0.0
            update(total=utterances)

            def advance(count: int, seconds: float) -> None:
                nonlocal heard
                heard += seconds
                rate = heard / max(time.monotonic() - start, 1e-6)
                update(advance=count, state=f"{rate:,.0f} x real time" if heard else "")

            return advance

        yield begin


def count(number: int, thing: str) -> str:
    """Return a number of things in words.

    >>> count(1, "utterance"), count(5531, "utterance")
    ('1 utterance', '5,531 utterances')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def percent(row: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Return some values of a row in percent, with one decimal.

    >>> percent({"UA": 0.5173, "WA": None}, "UA", "WA")
    {'UA': '51.7', 'WA': ''}
    """
    return {name: "" if row[name] is None else f"{100 * row[name]:.1f}" for name in names}


def size(number: float) -> str:
    """Return a number of bytes for people.

    >>> size(512), size(34_452_728)
    ('512 B', '34.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} TB"
