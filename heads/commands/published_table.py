"""Published numbers as `tfser scores --published` prints them: three groups for each corpus and protocol; UA in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.commands.columns import fitted
from tfser.heads.results.marks import HEARD
from tfser.heads.results.reference_numbers import EXPLAINED, GROUPS, METRICS
from tfser.heads.results.written import number_text, score_text
from tfser.manifests.display import Output, markdown_lines, print_rows, show, show_wrapped

Row = Mapping[str, Any]

_MOST = 8
"""Rows of a group that a table shows."""


def print_published(numbers: Sequence[Row], width: int | None) -> None:
    """Print published rows below a table of scores."""
    if not numbers:
        show("", "no published numbers of these corpora and of what was learned are known here")
        return
    for heading, group, rows in _grouped(numbers):
        shown, notes = fitted([_line(row) for row in rows[:_MOST]], width, ("protocol", "macro F1", "WA", "training"))
        show("", f"{heading}: {group}, {EXPLAINED[group]}")
        print_rows(shown, Output.table)
        show_wrapped(*notes, *_more(rows))
    show("")
    show_wrapped(*_below(numbers))


def markdown_published(numbers: Sequence[Row]) -> list[str]:
    """Return the same as lines of Markdown."""
    lines = []
    for heading, group, rows in _grouped(numbers):
        lines += ["", f"**{heading}: {group}**, {EXPLAINED[group]}", "", *markdown_lines([_line(row) for row in rows[:_MOST]])]
        lines += ["", *_more(rows)] if len(rows) > _MOST else []
    return [*lines, "", *(f"{line}  " for line in _below(numbers))]


def _grouped(numbers: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    beside = dict.fromkeys((row["of"], row["beside"], "CCC" in row) for row in numbers)
    every = [
        (
            f"published, {corpus}, beside {protocol}",
            group,
            [
                row
                for row in numbers
                if (row["of"], row["beside"], row["group"], "CCC" in row) == (corpus, protocol, group, rated)
            ],
        )
        for corpus, protocol, rated in beside
        for group in GROUPS
    ]
    return [each for each in every if each[2]]


def _line(row: Row) -> dict[str, Any]:
    mark = HEARD if row["speakers"] == "broken" else ""
    if "CCC" in row:
        scores = {"dimension": row["dimension"], "CCC": number_text(row["CCC"], None, mark)}
    else:
        scores = {name.replace("_", " "): score_text(row[name], None, mark) for name in METRICS}
    apart = {"kept": "apart", "broken": "shared", "unknown": "not checked"}[row["speakers"]]
    return {"encoder": row["encoder"], **scores, "speakers": apart, "training": row["training"], "protocol": row["protocol"]}


def _more(rows: Sequence[Row]) -> list[str]:
    return [f"and {len(rows) - _MOST} more; --format json has all"] if len(rows) > _MOST else []


def _below(found: Sequence[Row]) -> list[str]:
    """Return the sources, the notes on single rows, and what the mark means."""
    lines = [f"{row['encoder']} ({row['of']}): {row['note']}" for row in found if row["note"]]
    lines += [f"{HEARD} test speakers are heard in training"] if any(row["speakers"] == "broken" for row in found) else []
    return [*dict.fromkeys(lines), f"sources: {'; '.join(dict.fromkeys(row['source'] for row in found))}"]
