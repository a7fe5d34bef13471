"""What `tfser sweep` and `tfser reproduce` do between their options and their tables: the plan trained, the results shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.heads.commands.columns import fitted, side_by_side
from tfser.heads.commands.dimension_report import print_dimension_summary
from tfser.heads.commands.progress import SweepView
from tfser.heads.commands.runs_file import check_runs_output, write_runs
from tfser.heads.commands.showing import Showing
from tfser.heads.commands.sweep_table import failure_lines, markdown_notes, plan_rows, print_plan, print_summary, print_table
from tfser.heads.results import papers as reproducing
from tfser.heads.results.dimension_summary import dimension_runs, dimension_summary
from tfser.heads.results.latex import latex
from tfser.heads.results.papers import SYNTHETIC_NOTE, Reproduction
from tfser.heads.results.published import Paper
from tfser.heads.results.summary import check_selection, rows_of_plan, summary
from tfser.heads.runs.in_turn import Failure, run_here
from tfser.heads.runs.on_ray import run_on_ray
from tfser.heads.runs.plan import Plan, estimate, feature_bytes, plan_sweep
from tfser.heads.runs.processes import run_in_processes
from tfser.heads.runs.request import SweepRequest, Training
from tfser.heads.runs.running import RunningMany
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh_if_possible
from tfser.manifests.display import Output, TableOutput, print_rows, say, show, terminal_width
from tfser.manifests.wording import count

_MAY_GO = ("table", "corpus", "paper", "difference", "note")
"""Columns of a paper's cells that a narrow terminal can do without where all cells say the same, or nothing."""


def show_sweep(cache: Cache, request: SweepRequest, running: RunningMany, showing: Showing, output: Path | None = None) -> bool:
    """Plan, train and print a sweep; return whether no run failed.

    Args:
        cache: the cache.
        request: what is asked.
        running: how it is run.
        showing: what is shown, and how; with a dry run nothing is trained.
        output: a file for one row a run.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold.
    """
    if output is not None:
        check_runs_output(output)
    plan = plan_sweep(cache, request)
    check_selection(plan, showing.selection)
    if showing.dry_run:
        print_plan(plan, estimate(cache, plan), feature_bytes(cache, plan), showing.format, jobs=running.jobs)
        return True
    failures = run_plan(cache, plan, running, showing.selection)
    of_classes = summary(cache, plan, showing.selection, failures) if request.learns_classes else []
    of_dimensions = dimension_summary(cache, plan, showing.selection, failures) if request.targets else []
    if of_classes and of_dimensions and showing.format in (TableOutput.json, TableOutput.csv):
        print_rows(side_by_side(of_classes, of_dimensions), Output(showing.format.value))
    else:
        if of_classes:
            print_summary(of_classes, showing.format, references=plan.references, lacking=plan.lacking)
            show(*[""] * bool(of_dimensions))
        if of_dimensions:
            print_dimension_summary(of_dimensions, showing.format, None if of_classes else plan.lacking)
    if output is not None:
        rows = rows_of_plan(cache, plan, showing.selection) if request.learns_classes else []
        rated = dimension_runs(cache, plan, showing.selection) if request.targets else []
        write_runs(output, side_by_side(rows, rated))
    for line in failure_lines(failures):
        say(line)
    return not failures


def show_reproduction(
    cache: Cache, paper: Paper, training: Training, running: RunningMany, showing: Showing, **wanted: Any
) -> bool:
    """Train what a paper's tables need, and print them with ours; return whether no run failed.

    Args:
        cache: the cache.
        paper: the paper.
        training: what every run is asked.
        running: how it is run.
        showing: what is shown, and how; a dry run says what could be run and what it may cost, and trains nothing.
        wanted: as `tfser.heads.results.papers.prepare` has it.

    Raises:
        UsageError: if the request is off; nothing is trained then.
    """
    planned = reproducing.prepare(cache, paper, training, **wanted)
    reproducing.check(showing.selection, planned)
    if showing.dry_run:
        _print_what_could_run(cache, planned, running, showing)
        return True
    failures = run_plan(cache, planned.plan, running, showing.selection) if planned.plan is not None else []
    table = reproducing.compare(cache, planned, showing.selection, failures)
    if showing.format in (TableOutput.json, TableOutput.csv):
        print_rows(table, Output(showing.format.value))
    else:
        lines = reproducing.readable(table)
        _print_cells(lines, list(lines[0]), showing.format)
    _print_notes(reproducing.notes(planned, table), showing.format)
    for line in failure_lines(failures):
        say(line)
    return not failures


def _print_what_could_run(cache: Cache, planned: Reproduction, running: RunningMany, showing: Showing) -> None:
    """Print which cells cannot run and why, and the plan of the others; for programs as one list with the columns of both."""
    columns = ("table", "row", "corpus", "metric", "paper", "note")
    cells = [row for row in reproducing.compare(cache, planned, showing.selection) if row["experiment"] is None]
    lacking = [{name: line[name] for name in columns} for line in reproducing.readable(cells)]
    plan = planned.plan
    costs = None if plan is None else (plan, estimate(cache, plan), feature_bytes(cache, plan))
    if showing.format in (TableOutput.json, TableOutput.csv):
        print_rows(side_by_side(lacking, plan_rows(*costs) if costs else []), Output(showing.format.value))
    else:
        if lacking:
            _print_cells(lacking, columns, showing.format)
        if costs:
            print_plan(*costs, showing.format, jobs=running.jobs)
    if planned.on_synthetic:
        say(SYNTHETIC_NOTE)
    elif plan is None and reproducing.has_a_corpus(cache, planned.paper):
        say("nothing of it can be run yet")
    elif plan is None:
        say("nothing of it can be run yet; without --dry-run its rows are trained on the built-in synthetic corpus")


def _print_cells(lines: Sequence[dict[str, str]], columns: Sequence[str], format: TableOutput) -> None:
    """Print the cells of a paper's tables, and below them why some could not run."""
    if format in (TableOutput.json, TableOutput.csv):
        print_table([{name: line[name] for name in columns} for line in lines], format)
        return
    short, reasons = _numbered(lines)
    cells, narrow = [{name: line[name] for name in columns} for line in short], list[str]()
    if format is TableOutput.table:
        # What is the same all the way down goes first; long names of rows are wrapped at their words.
        alike = [name for name in _MAY_GO if name in columns and len({cell[name] for cell in cells}) == 1]
        cells, narrow = fitted(cells, terminal_width(), [*alike, "pooled"])
    print_table(cells, format)
    for line in narrow:
        say(line)
    if reasons:
        show("")
    for reason in reasons:
        if format is TableOutput.latex:
            show(rf"\par\smallskip {latex(reason)}")
        else:
            show(reason + ("  " if format is TableOutput.markdown else ""))


def _numbered(lines: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the lines with their notes as numbers, and the notes: most of them are the same for many cells."""
    texts = dict.fromkeys(of["note"] for of in lines if of["note"])
    reasons = {text: f"({number})" for number, text in enumerate(texts, start=1)}
    return [{**of, "note": reasons.get(of["note"], "")} for of in lines], [f"{n} {text}" for text, n in reasons.items()]


def _print_notes(notes: Sequence[str], format: TableOutput) -> None:
    """Print what a reader has to know: where the table goes if that is for a paper, else to standard error."""
    if format is TableOutput.markdown:
        show("", *markdown_notes(notes))
    elif format is TableOutput.latex:
        show(*(rf"\par\smallskip {latex(note)}" for note in notes))
    else:
        for note in notes:
            say(note)


def run_plan(cache: Cache, plan: Plan, running: RunningMany, selection: str) -> list[Failure]:
    """Train what is missing of a plan, under a live table of a selection's scores; return what failed."""
    for note in plan.notes():
        say(note)
    view = SweepView(cache, plan, estimate(cache, plan), selection=selection, jobs=running.jobs)
    runs = plan.missing
    if len(runs) < len(plan.runs):
        say(f"{count(len(plan.runs) - len(runs), 'run')} of {len(plan.runs):,} found finished (--again trains them again)")
    try:
        with view:
            if (cluster := running.cluster()) is not None and runs:
                return run_on_ray(cache, runs, plan.findings, running, cluster, tell=view.tell)
            if running.jobs == 1 or len(runs) < 2:
                return run_here(
                    cache,
                    runs,
                    plan.findings,
                    tell=view.tell,
                    checkpoint_every_s=running.checkpoint_every,
                    holding=running.holding,
                )
            return run_in_processes(cache, runs, plan.findings, running, tell=view.tell)
    finally:
        refresh_if_possible(cache)
