"""The tables of a report, as text that a page, Markdown and LaTeX share: scores, recalls, speakers, groups, published numbers.

In go contenders and `FigureData`; out come `ReportTable`s, whose cells are texts as people read them: percent with intervals and
marks. Markdown and LaTeX are written here; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfser.heads import REFERENCE_HEADS
from tfser.heads.reports.figure_data import FigureData, Numbers, percent_of
from tfser.heads.reports.material import ContenderGroup, Material
from tfser.heads.results.latex import latex, needed, tabular, within_the_line
from tfser.heads.results.marks import explain_marks, mark, standing
from tfser.heads.results.written import score_text
from tfser.manifests.wording import cell, count, of_classes, visible


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """A table as people read it: cells are texts (in a page also links and players), `right` names the columns of numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    right: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    sql: str = ""


def table_of(title: str, given: Sequence[Mapping[str, Any]], *, most: int | None = None, sql: str = "") -> ReportTable:
    """Return rows as a table, numbers with six digits; of more than `most` rows the first ones, and a note that says so."""
    columns = tuple(given[0]) if given else ()
    shown = given if most is None else given[:most]
    right = frozenset(
        name for name in columns if any(isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in shown)
    )
    notes = (f"The first {len(shown)} of {len(given):,} rows; the SQL gives all.",) if len(shown) < len(given) else ()
    return ReportTable(
        title=title,
        columns=columns,
        rows=tuple(tuple(cell(row[name]) for name in columns) for row in shown),
        right=right,
        notes=notes,
        sql=sql,
    )


def shortened(table: ReportTable, most: int, rest: str) -> ReportTable:
    """Return a table with its first rows alone where it has more than `most`, and a note: `rest` says where all are."""
    if len(table.rows) <= most:
        return table
    note = f"The first {most} of {len(table.rows):,} rows; {rest}."
    return replace(table, rows=table.rows[:most], notes=(note, *table.notes))


def of_numbers(numbers: Numbers, most: int = 60) -> ReportTable:
    """Return the numbers of a figure as a table with its SQL; long texts are cut."""
    shown = [{name: brief(value) if isinstance(value, str) else value for name, value in row.items()} for row in numbers.rows]
    return table_of(numbers.title, shown, most=most, sql=numbers.sql)


def brief(text: str, most: int = 300) -> str:
    """Return a text with its end left out where it is long, and how long it is: a page of transcripts stays a page.

    >>> brief("so it goes", 5), brief("so")
    ('so it… (10 characters)', 'so')
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def score_table(material: Material, group: ContenderGroup) -> ReportTable:
    """Return every selection of every experiment of a group, the best by the report's selection first."""
    lines = [
        {
            "experiment": member.name + (" (reference)" if row["head"] in REFERENCE_HEADS else ""),
            "selection": row["selection"],
            "pooled UA [95 %]": _range(row, "pooled_UA"),
            "pooled WA [95 %]": _range(row, "pooled_WA"),
            "UA": _spread(row, "UA"),
            "WA": _spread(row, "WA"),
            "features": row["feature_set"],
            "validation": row["validation"],
            "seeds": str(len(row["seeds"])),
            "folds": f"{row['folds']}/{row['of_folds'] or '?'}",
            "clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else "",
            "audit": standing(row),
        }
        for member in group.members
        for row in material.table
        if row["experiment"] == member.experiment
    ]
    columns = tuple(lines[0])
    numeric = frozenset({"seeds", "folds", "UA", "WA", "pooled UA [95 %]", "pooled WA [95 %]"})
    shown = [row for row in material.table if row["experiment"] in {m.experiment for m in group.members}]
    classes = f": {of_classes(group.classes)}" if group.classes else ""
    # What all rows share is said once below the table, which leaves room for what tells them apart.
    of_all = ReportTable(
        title=f"{group.corpus}, {group.protocol}{classes}",
        columns=columns,
        rows=tuple(tuple(line.values()) for line in lines),
        right=numeric,
        notes=tuple(explain_marks(shown)),
    )
    return without_shared(of_all, ("features", "validation", "seeds", "folds", "clusters", "audit"))


def without_shared(table: ReportTable, may_go: Sequence[str], fewest: int = 2) -> ReportTable:
    """Return a table without those columns that say the same in all rows, if it has `fewest` or more; a note below says it."""
    values = {name: {row[i] for row in table.rows} for i, name in enumerate(table.columns)}
    gone = [name for name in table.columns if name in may_go and len(values[name]) == 1]
    if len(table.rows) < fewest or not gone:
        return table
    kept = [i for i, name in enumerate(table.columns) if name not in gone]
    same = "; ".join(f"{name} {value}" for name in gone if (value := next(iter(values[name]))))
    return replace(
        table,
        columns=tuple(table.columns[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows),
        notes=(*((f"All rows: {same}.",) if same else ()), *table.notes),
    )


def _spread(row: Mapping[str, Any], name: str) -> str:
    return "" if row[name] is None else score_text(row[name], row.get(f"{name}_std"), mark(row))


def _range(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{percent_of(row[name])}{mark(row)}" + ("" if low is None else f" [{percent_of(low)}, {percent_of(high)}]")


def recall_table(data: FigureData) -> ReportTable:
    """Return the recalls of a confusion with their intervals, and how often each class was taken for each other one."""
    classes, recalls = data.details["classes"], data.numbers[1].rows
    share = {(row["label"], row["predicted"]): row for row in data.rows}
    digits = 0 if data.details["seeds"] == 1 else 1
    lines = tuple(
        (
            row["label"],
            f"{row['n']:.0f}",
            _with_bounds(row, "recall"),
            *(f"{share[row['label'], b]['n']:.{digits}f}" for b in classes),
        )
        for row in recalls
    )
    return ReportTable(
        title=data.title,
        columns=("true class", "n", "recall [95 %]", *classes),
        rows=lines,
        right=frozenset({"n", "recall [95 %]", *classes}),
        notes=data.notes,
    )


def speaker_table(data: FigureData) -> ReportTable:
    """Return the UA of each speaker, the worst first."""
    several = data.details["several"]
    return ReportTable(
        title=data.title,
        columns=("speaker", "gender", "session", "n", "UA"),
        rows=tuple(
            (
                f"{row['corpus']}/{row['speaker']}" if several else str(row["speaker"]),
                row["gender"] or "",
                row["session"] or "",
                str(row["n"]),
                percent_of(row["UA"]),
            )
            for row in data.rows
        ),
        right=frozenset({"n", "UA"}),
        notes=data.notes,
    )


def failing_table(data: FigureData) -> ReportTable:
    """Return the UA of each group of utterances, the weakest first."""
    return ReportTable(
        title=data.title,
        columns=("by", "group", "n", "classes", "UA [95 %]"),
        rows=tuple((row["what"], row["group"], str(row["n"]), str(row["classes"]), _with_bounds(row, "UA")) for row in data.rows),
        right=frozenset({"n", "classes", "UA [95 %]"}),
        notes=data.notes,
    )


def _with_bounds(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    return percent_of(row[name]) + ("" if row["low"] is None else f" [{percent_of(row['low'])}, {percent_of(row['high'])}]")


# For a manuscript.


def markdown_of(tables: Sequence[ReportTable]) -> list[str]:
    """Return tables as lines of Markdown; what would end a cell or begin a tag is escaped."""
    lines: list[str] = []
    for of in tables:
        lines += [f"**{_marked_down(of.title)}**", ""]
        lines.append(f"| {' | '.join(map(_marked_down, of.columns))} |")
        lines.append(f"| {' | '.join('---:' if name in of.right else '---' for name in of.columns)} |")
        lines += [f"| {' | '.join(_marked_down(str(value)) for value in row)} |" for row in of.rows]
        lines += ["", *(f"{_marked_down(note)}  " for note in of.notes), ""]
    return lines


def _marked_down(text: str) -> str:
    """Return a text as a cell of Markdown.

    >>> _marked_down("a|b <i>")
    'a\\\\|b &lt;i&gt;'
    """
    escaped = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "|*_`[" else letter for letter in escaped)


_OF_ONE_COLUMN = 5
"""Columns of a table that has room in one column of a paper of two."""

_ON_A_PAGE = 12
"""Tables, before LaTeX is told to begin a new page."""


def latex_of(tables: Sequence[ReportTable]) -> list[str]:
    r"""Return tables as lines of LaTeX for the package booktabs, each an environment `table` with its caption and notes.

    One of many columns is a `table*`, over both columns of a paper that has two; none is wider than its line.
    """
    lines: list[str] = []
    for number, table in enumerate(tables, 1):
        name = "table*" if len(table.columns) > _OF_ONE_COLUMN else "table"
        lines += [
            rf"\begin{{{name}}}",
            r"\centering\small",
            rf"\caption{{{latex(table.title)}}}",
            *within_the_line(tabular(table.columns, table.rows, table.right)),
            *(rf"\par\smallskip\footnotesize {latex(note)}" for note in table.notes),
            rf"\end{{{name}}}",
            # LaTeX keeps no more than some dozens of tables until it has a page for them, and then gives up.
            *([r"\clearpage"] if number % _ON_A_PAGE == 0 else []),
            "",
        ]
    return [*needed(lines), *lines]
