"""Scores of dimensions as people read them: CCC, pearson and MAE with three decimals, a table for each protocol and set of
targets.

In go the rows of `tfser.heads.results.dimension_tables` and comparisons of `dimension_compare`; out come tables on standard
output. CCC is no share, so it is not written in percent. The mean over folds and the pooled score stand side by side
always.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.commands.columns import fitted
from tfser.heads.commands.score_report import below, short_names
from tfser.heads.commands.sweep_table import latex_lines, markdown_notes
from tfser.heads.results.dimension_compare import RatedComparison, rated_notes
from tfser.heads.results.intervals import Interval
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.written import bounds_text, number_text
from tfser.manifests.display import Output, TableOutput, markdown_lines, print_rows, say, show, terminal_width
from tfser.manifests.wording import count

Row = Mapping[str, Any]

_MAY_GO = ("preset", "recipe", "features", "level", "seconds", "clusters", "seeds", "folds", "MAE", "pearson", "experiment")
"""Columns that a narrow terminal can do without, the first one first."""

_READING = (
    "CCC = pearson x what two shifts cost. scale: how widely predictions are spread, by the ratings' spread (1: as widely); "
    "shift: how far their mean is off, in deviations (0: not). MAE in points of the corpus's scale."
)


def print_dimensions(table: Sequence[Row], by: str | None, width: int | None) -> None:
    """Print rows in groups, each under its heading, and below all what explains them; of no rows, nothing."""
    for heading, lines in _grouped(table, by):
        shown, narrow = fitted(lines, width, _expendable(lines))
        show(*textwrap.wrap(heading, width or 1000, subsequent_indent="  "))
        print_rows(shown, Output.table)
        for note in narrow:
            show(note)
        show("")
    if table:
        show(*textwrap.wrap(_READING, width or 1000))
        show(*below(table, by))


def dimension_markdown(found: Sequence[Row], by: str | None) -> list[str]:
    """Return the same as lines of Markdown; of no rows, none."""
    lines: list[str] = []
    for heading, group in _grouped(found, by):
        lines += [f"**{heading}**", "", *markdown_lines(group), ""]
    return [*lines, _READING, "", *(f"{line}  " for line in below(found, by))] if found else []


def _grouped(found: Sequence[Row], by: str | None) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        groups.setdefault((row["corpus"], row["protocol"], tuple(row["targets"])), []).append(row)
    names = short_names(found)
    return [
        (f"{corpus}, {protocol}: {', '.join(targets)}", _plain([_line(row, by, names) for row in members]))
        for (corpus, protocol, targets), members in groups.items()
    ]


def _plain(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out columns that say nothing in any row, of those that only some tables need."""
    needless = {
        name
        for name, usual in (("differs", None), ("validation", "none"), ("level", "utterance"))
        if all(line.get(name, usual) == usual for line in lines)
    }
    return [{name: value for name, value in line.items() if name not in needless} for line in lines]


def _expendable(lines: Sequence[Row]) -> list[str]:
    """Return the columns that may go, first those of one value all the way down."""
    alike = [name for name in _MAY_GO if len({str(line.get(name)) for line in lines}) == 1]
    return [*alike, *(name for name in _MAY_GO[4:] if name not in alike)]


def _line(row: Row, by: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    signs = mark(row)
    line: dict[str, Any] = {"head": row["head"], "preset": row["preset"], "recipe": row["recipe"].replace("+", " +")}
    line |= {"features": row["feature_set"], "validation": row["validation"], "differs": row["differs"]}
    line |= {"level": row["level"], "selection": row["selection"]}
    if by is not None:
        line |= {by: row[by]}
    line |= {"dimension": row["dimension"]}
    if by is None:
        line |= {"seeds": len(row["seeds"]), "folds": _folds(row)}
        line |= {"CCC": number_text(row["CCC"], row["CCC_std"], signs, empty="-")}
        line |= {"pooled CCC [95 %]": bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], signs)}
        line |= {"pearson": number_text(row["pooled_pearson"], None, signs, empty="-")}
        line |= {"MAE": number_text(row["pooled_MAE"], None, signs)}
    else:
        line |= {"n": row["n"], "CCC": number_text(row["CCC"], row.get("CCC_std"), signs, empty="-")}
        line |= {"pearson": number_text(row["pearson"], None, signs, empty="-"), "MAE": number_text(row["MAE"], None, signs)}
    line |= {"scale": number_text(row["scale_shift"], digits=2), "shift": number_text(row["location_shift"], sign="+", digits=2)}
    if by is None:
        line |= {"clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else ""}
        line |= {"seconds": round(row["seconds"], 1)}
    return line | {"experiment": names[row["experiment"]]}


def _folds(row: Row) -> str:
    return f"{row['folds']} of {row['of_folds']}" if row["of_folds"] else str(row["folds"])


def print_dimension_summary(table: Sequence[Row], format: TableOutput, lacking: str | None = None) -> None:
    """Print a sweep's table of dimensions in any format; which reference rows are missing is said last."""
    if format in (TableOutput.json, TableOutput.csv):
        print_rows(table, Output(format.value))
        return
    scored = [row for row in table if row["dimension"] is not None]
    notes = [f"{lacking}."] if lacking else []
    notes += [f"{row['head']} {row['preset']}: no finished run" for row in table if row["dimension"] is None]
    if format is TableOutput.markdown:
        show(*dimension_markdown(scored, None), *markdown_notes(notes))
    elif format is TableOutput.latex:
        for heading, lines in _grouped(scored, None):
            show(*latex_lines(lines, [f"{heading}. {_READING}", *below(scored)]))
    else:
        print_dimensions(scored, None, terminal_width())
        for note in notes:
            say(note)


def print_rated_comparison(comparison: RatedComparison) -> None:
    """Print a comparison: the scores, each dimension, the tests, and wins by fold and speaker."""
    a, b = comparison.a.of, comparison.b.of
    show(f"A: {a.subject.name}", f"B: {b.subject.name}")
    show(f"{', '.join(comparison.a.dimensions)}; {a.selection}, {len(a.keys):,} {a.level}s", "")
    marks = [mark(side.row()) for side in (a, b)]

    def cell(bounds: Interval, signs: str, sign: str = "") -> str:
        return bounds_text(bounds.value, bounds.low, bounds.high, signs, sign=sign)

    # Over 40 speakers the table hides the scores above it; --format json has them all.
    for rows, what in (
        (comparison.scores, "score"),
        (comparison.dimensions, f"{comparison.metric} of"),
        (comparison.speakers, str(comparison.clustered_by)),
    ):
        if not rows or len(rows) > 40:
            continue
        both = "".join(dict.fromkeys("".join(marks)))
        lines = [
            {what: row.name, "n": row.n, "A": cell(row.a, marks[0]), "B": cell(row.b, marks[1])}
            | {"A - B": cell(row.difference, both, "+")}
            for row in rows
        ]
        print_rows(lines, Output.table)
        show("")
    if (test := comparison.permutation) is not None:
        swaps = f"all {test.draws:,} exchanges" if test.exact else f"{test.draws:,} exchanges drawn"
        show(f"permutation test of {comparison.metric}, whole {comparison.clustered_by}s exchanged: p = {test.p:.3g} ({swaps})")
    for what, rows in (("folds", comparison.folds), ("speakers", comparison.speakers)):
        if rows:
            won = comparison.wins(what)
            unit = what if what == "folds" else f"{comparison.clustered_by}s"
            show(f"{unit}: A better in {won['a']}, B in {won['b']}, alike in {won['ties']}")
    show(*rated_notes(comparison), *explain_marks([a.row(), b.row()]))
