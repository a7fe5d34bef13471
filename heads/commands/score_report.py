"""Tables of scores as people read them: in percent, with marks, a table for each protocol and set of classes.

In go the rows of `tfser.heads.results.score_tables`. Numbers of other protocols, or over other classes, do not compare, so each
kind has a table of its own under a heading that names both. In a table stand the columns that tell its rows apart; on a terminal
that is too narrow, what all rows share goes below it first.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfser.heads.commands.columns import fitted
from tfser.heads.results.calibration import MEASURES
from tfser.heads.results.marks import explain_marks, mark, standing
from tfser.heads.results.score_tables import SAID_BY_MARKS
from tfser.heads.results.written import interval_text, range_text, score_text
from tfser.manifests.display import Output, markdown_lines, print_rows, show, show_wrapped
from tfser.manifests.wording import cell, count, of_classes

Row = Mapping[str, Any]

_APART = ("head", "preset", "recipe", "features", "validation", "differs", "level", "selection")
"""Columns that say what a row is: they go only where all rows share them."""

_HOW_MANY = ("seeds", "folds")
"""Rows that differ in these are not alike either."""

_NEW = "new speaker's UA [95 %]"

_MAY_GO = ("seconds", "clusters", "audit", "pooled WA [95 %]", "pooled WA", _NEW, "WA")
"""Columns that a narrow terminal can do without, the first one first."""

_DIGEST = re.compile(r".*-([0-9a-f]{10})")


@dataclass(frozen=True, kw_only=True)
class ScoreGroup:
    """Rows whose numbers compare: of one protocol, over the same classes."""

    heading: str
    lines: tuple[dict[str, Any], ...]


def grouped(table: Sequence[Row], by: str | None = None) -> list[ScoreGroup]:
    """Return the rows as people read them, a group for each corpus, protocol and set of classes, in the order of the rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        groups.setdefault((row["corpus"], row["protocol"], tuple(row["classes"] or ())), []).append(row)
    names = short_names(table)
    return [
        ScoreGroup(heading=_heading(*key), lines=_without_empty([_line(row, by, names) for row in members]))
        for key, members in groups.items()
    ]


def below(table: Sequence[Row], by: str | None = None) -> list[str]:
    """Return the lines that explain the marks and hold the notes of rows; of no rows, why there are none."""
    if not table:
        if by in ("raters", "agreement"):
            return [f"no scores by {by}: no test utterance has single ratings (see `tfser scan --annotations`)"]
        why = f" by {by}: nothing that was tested has a known {by}" if by else ": no finished run in this cache"
        return [f"no scores{why}"]
    lines = explain_marks(table)
    names = short_names(table)
    called = {row["experiment"]: f"{row['head']} {row['preset']} {row['recipe']} ({names[row['experiment']]})" for row in table}
    experiments = dict.fromkeys(row["experiment"] for row in table)
    of_note: dict[str, dict[str, None]] = {}
    for row in table:
        for note in row.get("notes", ()):
            of_note.setdefault(note, {})[row["experiment"]] = None
    for note, of in of_note.items():  # what holds of several is said once
        if note in SAID_BY_MARKS and lines:
            continue
        who = "all of them" if 1 < len(of) == len(experiments) else ", ".join(called[name] for name in of)
        lines.append(f"{who}: {note}")
    return lines


def print_table(rows: Sequence[Row], by: str | None, width: int | None, once: Sequence[str] = ()) -> None:
    """Print rows in groups, each under its heading, and below all what explains them.

    Args:
        rows: rows of a table.
        by: what they are of.
        width: of the terminal; None: as wide as need be.
        once: experiments without segments, whose level of segments is left out since it is that of utterances.
    """
    shown = [row for row in rows if row.get("level") != "segment" or row["experiment"] not in once]
    for group in grouped(shown, by):
        lines, narrow = fitted(group.lines, width, expendable(group.lines, by))
        show(*textwrap.wrap(group.heading, width or 1000, subsequent_indent="  "))
        print_rows(lines if width is None or _wide(lines) <= width else _merged(lines), Output.table)
        show_wrapped(*narrow)
        show("")
    show_wrapped(*below(shown, by))
    if len(shown) < len(rows):
        show("heads without segments: both levels are the same, and shown once")


def markdown(table: Sequence[Row], by: str | None, once: Sequence[str] = ()) -> list[str]:
    """Return the same as lines of Markdown, whole tables whatever their width, for an issue or a supplement."""
    shown = [row for row in table if row.get("level") != "segment" or row["experiment"] not in once]
    lines: list[str] = []
    for group in grouped(shown, by):
        lines += [f"**{group.heading}**", "", *markdown_lines(group.lines), ""]
    return [*lines, *(f"{line}  " for line in below(shown, by))]


def _wide(lines: Sequence[Row]) -> int:
    """Return how many columns of a terminal a table takes."""
    return sum(max(len(cell(value)) for value in (name, *(line[name] for line in lines))) + 2 for name in lines[0]) - 2


def _merged(lines: Sequence[Row]) -> list[dict[str, Any]]:
    """Put what says which row this is into one column, whose cells may take several lines, so that numbers take one."""
    names = [name for name in _APART[:6] if name in lines[0]]
    return [
        {", ".join(names): " ".join(cell(line[name]) for name in names if line[name])}
        | {name: value for name, value in line.items() if name not in names}
        for line in lines
    ]


def expendable(lines: Sequence[Row], by: str | None = None) -> list[str]:
    """Return the columns that may go from a table, first those of one value all the way down; what tells rows apart stays."""
    columns = list(lines[0]) if lines else []
    alike = [name for name in columns if len({str(line[name]) for line in lines}) == 1]
    commons = [name for name in (*_MAY_GO[:3], *_HOW_MANY, *_APART[::-1]) if name in alike and name != "head"]
    telling = (*_APART, *([by] if by else []))
    apart = {tuple(str(line[name]) for name in telling if name in line) for line in lines}
    # Where the names tell all rows apart, the hash is for `tfser compare` alone.
    return [*commons, *_MAY_GO, *(["experiment"] if len(apart) == len(lines) else [])]


def short_names(table: Sequence[Row]) -> dict[str, str]:
    """Return how experiments are called in a table: by the hash at the end of their ids, which `tfser compare` takes, too.

    >>> short_names([{"experiment": "svm-plain-default-emodb-0123456789"}, {"experiment": "mine"}])
    {'svm-plain-default-emodb-0123456789': '0123456789', 'mine': 'mine'}
    """
    names = list(dict.fromkeys(row["experiment"] for row in table))
    digest = {name: match[1] if (match := _DIGEST.fullmatch(name)) else name for name in names}
    taken = list(digest.values())
    return {name: short if taken.count(short) == 1 else name for name, short in digest.items()}


def _heading(corpus: str, protocol: str, classes: Sequence[str]) -> str:
    return f"{corpus}, {protocol}" + (f": {of_classes(classes)}" if classes else "")


def _without_empty(lines: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Leave out columns that say nothing in any row, of those that only some tables need."""
    needless = {
        name
        for name, plain in (
            *(("differs", None), ("validation", "none"), ("level", "utterance"), (_NEW, ""), ("T", "")),
            *((f"{name} at T", "") for name in MEASURES),
        )
        if all(line.get(name, plain) == plain for line in lines)
    }
    return tuple({name: value for name, value in line.items() if name not in needless} for line in lines)


def _line(row: Row, by: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    # What is the same for every way of grouping stands first, then what each of them is about.
    line: dict[str, Any] = {"head": row["head"], "preset": row["preset"], "recipe": row["recipe"].replace("+", " +")}
    line |= {"features": row["feature_set"], "validation": row["validation"], "differs": row["differs"]}
    line |= {"level": row["level"], "selection": row["selection"]}
    if by == "seed":
        line |= {"seed": row["seed"], "folds": _folds(row), "UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
        line |= {"pooled UA": _one(row, "pooled_UA"), "pooled WA": _one(row, "pooled_WA")}
        line |= {"seconds": round(row["seconds"], 1)}
    elif by is None:
        line |= {"seeds": len(row["seeds"]), "folds": _folds(row), "UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
        line |= {"pooled UA [95 %]": _range(row, "pooled_UA"), "pooled WA [95 %]": _range(row, "pooled_WA")}
        line |= {_NEW: range_text(row["new_speaker_UA_low"], row["new_speaker_UA_high"], mark(row), digits=0)}
        line |= {"clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else ""}
        line |= {"seconds": round(row["seconds"], 1)}
    elif by == "calibration":
        line |= {"seeds": len(row["seeds"]), "n": row["n"]}
        line |= {f"{name} [95 %]": _measure(row, name) for name in MEASURES}
        line |= {"T": "" if row["temperature"] is None else f"{row['temperature']:.2f}"}
        line |= {f"{name} at T": _measure(row, f"{name}_scaled") for name in MEASURES}
        line |= {"clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else ""}
    elif by == "raters":
        line |= {"seeds": len(row["seeds"]), "n": row["n"], "not rated": row["not_rated"], "ties": row["ties"]}
        line |= {"UA of majority [95 %]": _range(row, "UA_majority"), "macro F1 at 1/K [95 %]": _range(row, "macro_F1_multi")}
        line |= {f"{name} [95 %]": _measure(row, name) for name in ("KL", "JS", "cosine")}
        line |= {"clusters": count(row["clusters"], row["clustered_by"]) if row["clusters"] else ""}
    else:
        line |= {"seeds": len(row["seeds"]), by: row[by], "n": row["n"]}
        if by == "class":
            line |= {"recall [95 %]": _range(row, "recall"), "precision": _one(row, "precision"), "F1": _one(row, "F1")}
            digits = 0 if len(row["seeds"]) == 1 else 1  # a mean over seeds, which of one is a whole number
            line |= {"taken for it": f"{row['predicted']:.{digits}f}", "clusters": row["clusters"] or ""}
        else:
            line |= {"UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
    return line | {"audit": standing(row), "experiment": names[row["experiment"]]}


def _measure(row: Row, name: str) -> str:
    """Return a measure of calibration with its interval: as it is, ECE in percent like the scores that it is a difference of."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    if name.startswith("ECE"):
        return interval_text(value, low, high, mark(row))
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{mark(row)}{ends}"


def _folds(row: Row) -> str:
    return f"{row['folds']}/{row['of_folds'] or '?'}"


def _one(row: Row, name: str) -> str:
    return score_text(row[name], None, mark(row))


def _spread(row: Row, name: str) -> str:
    return score_text(row[name], row[f"{name}_std"], mark(row))


def _range(row: Row, name: str) -> str:
    return interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], mark(row))
