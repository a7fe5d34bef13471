"""How a sweep's plan and results are shown: for people, for other programs, and for a paper.

Numbers bear the marks of `tfser.heads.results.marks` in every format that people read; csv and JSON say the same in columns of
their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads import head
from tfser.heads.commands.columns import fitted
from tfser.heads.results.intervals import FEW
from tfser.heads.results.latex import latex, needed, tabular
from tfser.heads.results.marks import explain_marks, is_independent, mark
from tfser.heads.results.written import range_text, score_text
from tfser.heads.runs.in_turn import Failure
from tfser.heads.runs.plan import Estimate, Key, Plan, data_key
from tfser.heads.spec import lineages
from tfser.manifests.display import Output, TableOutput, markdown_lines, print_rows, say, show, terminal_width
from tfser.manifests.wording import count, listed, ranges, size

_MAY_GO = ("parameters", "runs", "WF1", "folds", "seeds", "selection", "pooled WA", "WA")
"""Columns that a narrow terminal can do without, the first one first."""


def _expendable(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns that may go, first those of one value all the way down; what tells lines apart stays."""
    alike = [name for name in (*_MAY_GO, "recipe", "features", "preset") if len({line.get(name) for line in lines}) == 1]
    apart = {(line["head"], line["preset"], line["features"]) for line in lines}
    return [*alike, *(["recipe"] if len(apart) == len(lines) else []), *_MAY_GO]


def print_summary(
    table: Sequence[Mapping[str, Any]], format: TableOutput, *, references: bool, lacking: str | None = None
) -> None:
    """Print a sweep's table on standard output; what explains it goes below it, or in a plain table to standard error.

    Args:
        table: of `tfser.heads.results.summary.summary`.
        format: how.
        references: whether the reference heads are in it.
        lacking: which reference rows are missing, and how they are had.
    """
    if format in (TableOutput.json, TableOutput.csv):
        print_rows(table, Output(format.value))
        return
    lines, notes = readable(table), legend(table, references)
    notes += [f"{lacking}."] if lacking else []
    if format is TableOutput.table:
        lines, narrow = fitted(lines, terminal_width(), _expendable(lines))
        print_rows(lines, Output.table)
        for note in (*narrow, *notes):
            say(note)
    elif format is TableOutput.markdown:
        show(*markdown_lines(lines))
        show("", *markdown_notes(notes))
    else:
        show(*latex_lines(lines, notes))


def print_table(lines: Sequence[Mapping[str, Any]], format: TableOutput) -> None:
    """Print lines for people as they are, in any format."""
    if format is TableOutput.markdown:
        show(*markdown_lines(lines))
    elif format is TableOutput.latex:
        show(*latex_lines(lines, ()))
    else:
        print_rows(lines, Output(format.value))


def readable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the table's cells for people: percent with one decimal, deviations, marks."""
    lines = []
    for row in table:
        signs = mark(row)
        lines.append(
            {
                "head": row["head"],
                "preset": row["preset"],
                "recipe": row["recipe"],
                "features": row["features"],
                "parameters": "" if row["parameters"] is None else f"{row['parameters']:,}",
                "seeds": numbers(row["seeds"]),
                "folds": numbers(row["folds"]) + f" of {row['of_folds']}",
                "runs": str(row["runs"]) if row["runs"] == row["of_runs"] else f"{row['runs']} of {row['of_runs']}",
                **{metric: score_text(row[metric], row[f"{metric}_std"], signs, empty="-") for metric in ("UA", "WA", "WF1")},
                "pooled UA": score_text(row["pooled_UA"], None, signs, empty="-"),
                "95 %": range_text(row["pooled_UA_low"], row["pooled_UA_high"], signs),
                "pooled WA": score_text(row["pooled_WA"], None, signs, empty="-"),
                "selection": row["selection"],
            }
        )
    keep = [name for name in (lines[0] if lines else ()) if name != "95 %" or any(line["95 %"] for line in lines)]
    return [{name: line[name] for name in keep} for line in lines]


def legend(table: Sequence[Mapping[str, Any]], references: bool) -> list[str]:
    """Return what a reader of the table has to know."""
    # Only what stands in this table is explained: a legend of everything is read by nobody.
    protocols = dict.fromkeys(
        f"{row['corpus']}, {row['protocol']}" + (f", validation {row['validation']}" if row["validation"] != "none" else "")
        for row in table
    )
    notes = [
        "; ".join(protocols) + ". Percent: mean ± sample standard deviation over folds and seeds; pooled: over all test "
        "utterances of a seed's folds, mean over seeds."
    ]
    by = dict.fromkeys(row["clustered_by"] for row in table if row["pooled_UA_low"] is not None)
    if by:
        notes.append(
            f"95 %: interval of the pooled UA over {' or '.join(f'{name}s' for name in by)}, whose utterances are alike "
            "(jackknife, t quantiles)."
        )
    if any(row["clusters"] == 1 for row in table):
        notes.append("No interval over one speaker alone: it says nothing about others.")
    if any(row["runs"] and row["clustered_by"] is None and is_independent(row) for row in table):
        notes.append("No interval where the speakers of some utterances are unknown.")
    few = [row["clusters"] for row in table if row["pooled_UA_low"] is not None and row["clusters"] < FEW]
    if few:
        notes.append(f"Only {min(few)} of them: the intervals are wide, and right only if they vary about normally.")
    chosen = {row["selection"] for row in table}
    if "last" in chosen:
        notes.append("last: the last epoch, none chosen.")
    if vals := sorted(name for name in chosen if name.startswith("val")):
        notes.append(f"{', '.join(vals)}: the epoch was chosen on validation utterances.")
    notes += dict.fromkeys(
        f"{said}." for row in table if (said := lineages.explain(row["recipe"], head(row["head"]).recipes)) is not None
    )
    notes += [f"{line}." for line in explain_marks([row for row in table if row["runs"]])]
    if any(row["runs"] < row["of_runs"] for row in table):
        notes.append(
            "Incomplete: not all runs are finished; their number says of how many a mean is. Pooled are the seeds with the most."
        )
    # Runs stored by versions before lack some scores; a mean over fewer than it seems is said by name.
    for row in table:
        short = [f"{m} of {row[f'{m}_runs']} runs" for m in ("UA", "WA", "WF1") if row[f"{m}_runs"] != row["runs"]]
        folds = len(row["folds"]) if row["runs"] == row["of_runs"] else row["pooled_folds"]
        short += [f"pooled over {row['pooled_folds']} of {folds} folds"] if row["pooled_folds"] != folds else []
        if short:
            notes.append(f"{row['head']} {row['preset']} {row['recipe']}: {', '.join(short)}: the files of the others lack them.")
    if not references:
        notes.append("Without the reference heads (logreg, svm).")
    return notes


def numbers(values: Sequence[int]) -> str:
    """Return whole numbers with runs of three or more as ranges.

    >>> numbers([0, 1, 2, 3]), numbers([1, 2]), numbers([0, 1, 2, 7])
    ('0-3', '1,2', '0-2,7')
    """
    return ranges(values, shortest=3, between=",")


_LEFT = ("head", "preset", "recipe", "features", "seeds", "folds", "selection", "table", "row", "corpus", "metric", "note")


def markdown_notes(notes: Sequence[str]) -> list[str]:
    """Return notes as lines of one Markdown paragraph, each on a line of its own."""
    return [note + "  " for note in notes[:-1]] + list(notes[-1:])


def latex_lines(lines: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> list[str]:
    """Return a LaTeX table for the package booktabs, with its notes below it in the same environment."""
    names = list(lines[0]) if lines else []
    table = tabular(names, ([line[name] for name in names] for line in lines), [name for name in names if name not in _LEFT])
    table += [rf"\par\smallskip {latex(note)}" for note in notes]
    return [*needed(table), *table]


def plan_rows(plan: Plan, estimates: Mapping[str, Estimate], memory: Mapping[Key, int]) -> list[dict[str, Any]]:
    """Return a plan, one row an experiment: what is finished, what is to do, and how long that may take."""
    return [
        {
            "head": entry.experiment.spec.name,
            "preset": entry.experiment.preset,
            "recipe": entry.experiment.recipe_name,
            "features": entry.experiment.feature_set,
            "epochs": max(run.experiment.epochs(run.fold) for run in entry.runs),
            "seeds": entry.seeds,
            "folds": entry.folds,
            "runs": len(entry.runs),
            "finished": (finished := sum(run.run_id in plan.finished and not run.experiment.again for run in entry.runs)),
            "to_do": len(entry.runs) - finished,
            "seconds": None if (known := estimates[entry.experiment.name].seconds) is None else round(known, 1),
            "known_by": estimates[entry.experiment.name].known_by,
            "feature_bytes": memory[data_key(entry.experiment)],
            "reference": entry.reference,
            "experiment": entry.experiment.name,
        }
        for entry in plan.entries
    ]


def print_plan(
    plan: Plan, estimates: Mapping[str, Estimate], memory: Mapping[Key, int], format: TableOutput, *, jobs: int
) -> None:
    """Print what a sweep would train, and what that may cost."""
    table = plan_rows(plan, estimates, memory)
    if format in (TableOutput.json, TableOutput.csv):
        print_rows(table, Output(format.value))
        return
    lines = [
        {
            **{name: row[name] for name in ("head", "preset", "recipe", "features", "epochs")},
            "seeds": numbers(row["seeds"]),
            "folds": numbers(row["folds"]),
            "runs": row["runs"],
            "finished": row["finished"],
            "to do": row["to_do"],
            "time": row["known_by"] if not row["to_do"] or row["seconds"] is None else duration(row["seconds"]),
        }
        for row in table
    ]
    print_table(lines, format)
    # What is known of the time is kept apart from what is not: a sum over both would be a promise.
    todo = [row for row in table if row["to_do"]]
    known = [row for row in todo if row["seconds"] is not None]
    unknown = sum(row["to_do"] for row in todo if row["seconds"] is None)
    say(f"{count(len(plan.runs), 'run')}, {sum(row['finished'] for row in table):,} finished, {len(plan.missing):,} to do")
    if known:
        say(
            f"time: {about(sum(row['seconds'] for row in known))} for {sum(row['to_do'] for row in known):,} of them, "
            "one after the other, as finished runs took here"
        )
    if unknown:
        say(f"time: no estimate yet for {count(unknown, 'run')}: nothing like them was trained in this cache")
    if memory and todo:
        most = max(memory.values())
        times = f", in each of {jobs} processes" if jobs > 1 else ""
        say(f"memory of features: {size(most)}{times} (those of one feature set at a time), beside what training takes")


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(0.2), duration(4.2), duration(150), duration(5400)
    ('under 1 s', '4 s', '2.5 min', '1.5 h')
    """
    if seconds < 0.5:
        return "under 1 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """Return an estimate of a time for people: one that is hardly any is not called approximate.

    >>> about(0.2), about(150)
    ('under 1 s', 'about 2.5 min')
    """
    return duration(seconds) if seconds < 0.5 else f"about {duration(seconds)}"


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return one line for each reason why runs failed, with the runs."""
    by_reason: dict[str, list[str]] = {}
    for failure in failures:
        of = failure.run.experiment
        by_reason.setdefault(failure.reason, []).append(f"{of.spec.name} {of.preset} fold {failure.run.fold} seed {of.seed}")
    return [f"failed: {listed(runs, 3)}: {why}" for why, runs in by_reason.items()]
