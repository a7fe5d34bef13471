"""What `tfser sweep` and `tfser reproduce` do between their options and their tables: the request put together, the plan
trained, the results shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.heads.commands.progress import SweepView
from tfser.heads.commands.sweep_table import failure_lines, latex, markdown_notes, print_plan, print_summary, print_table
from tfser.heads.results.summary import check_runs_output, check_selection, summary, write_runs
from tfser.heads.runs.in_turn import Failure, run_here
from tfser.heads.runs.plan import HeadBlock, Plan, SweepRequest, estimate, feature_bytes, parse_seeds, plan_sweep
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh_if_possible
from tfser.manifests.display import Output, TableOutput, count, print_rows, say, show
from tfser.manifests.errors import unknown

if TYPE_CHECKING:
    from tfser.heads.results.published import Paper


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a sweep is run; none of this changes what comes out, but for the threads' rounding."""

    jobs: int = 1
    threads: int | None = None
    keep_memory: bool = True
    checkpoint_every_s: float = 30.0
    selection: str = "last"


def asked(file: Path | None, *, heads: Sequence[str], **options: Any) -> SweepRequest:
    """Return what a file and options ask for; options stand before the file's defaults, and empty ones leave them.

    Args:
        file: a sweep written down, or None.
        heads: names; with a file, only these of its blocks.
        options: other fields of `SweepRequest`, None or empty where nothing was said. Seeds are a text.

    Raises:
        UsageError: if the file is off, or has no block for a head that is named.
    """
    from tfser.heads.runs.sweep_file import read_sweep

    request = read_sweep(file) if file is not None else SweepRequest(heads=tuple(HeadBlock(name=name) for name in heads))
    if file is not None and heads:
        known = [block.name for block in request.heads]
        for name in heads:
            if name not in known:
                raise unknown(f"head of {file}", name, list(dict.fromkeys(known)))
        request = replace(request, heads=tuple(block for block in request.heads if block.name in heads))
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or value in ([], {}, ()):
            continue
        if name == "seeds":
            changes[name] = parse_seeds(value)
        elif name == "settings":
            changes[name] = {**request.settings, **value}
        else:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return replace(request, **changes)


def sweep(
    cache: Cache,
    request: SweepRequest,
    how: Running,
    *,
    format: TableOutput = TableOutput.table,
    dry_run: bool = False,
    output: Path | None = None,
) -> bool:
    """Plan, train and print a sweep; return whether no run failed.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold.
    """
    if output is not None:
        check_runs_output(output)
    prepare(how, request.device)
    plan = plan_sweep(cache, request)
    check_selection(plan, how.selection)
    estimates = estimate(cache, plan)
    if dry_run:
        print_plan(plan, estimates, feature_bytes(cache, plan), format, jobs=how.jobs)
        return True
    failures = run_plan(cache, plan, how)
    print_summary(summary(cache, plan, how.selection, failures), format, references=plan.references)
    if output is not None:
        say(f"{count(write_runs(output, cache, plan, how.selection), 'row')} written to {output}")
    for line in failure_lines(failures):
        say(line)
    return not failures


def reproduce(
    cache: Cache,
    paper: Paper,
    how: Running,
    *,
    format: TableOutput = TableOutput.table,
    dry_run: bool = False,
    **wanted: Any,
) -> bool:
    """Train what a paper's tables need, and print them with ours; return whether no run failed.

    Args:
        cache: the cache.
        paper: the paper.
        how: how it is run.
        format: how the tables are printed.
        dry_run: print what could be run and what it may cost; train nothing.
        wanted: as `tfser.heads.results.papers.prepare` has it.

    Raises:
        UsageError: if the request is off; nothing is trained then.
    """
    from tfser.heads.results import papers as reproducing

    prepare(how, wanted.get("device", "auto"))
    of = reproducing.prepare(cache, paper, **wanted)
    reproducing.check(how.selection, of)
    if dry_run:
        lines = [line for line in reproducing.readable(reproducing.compare(cache, of, how.selection)) if line["note"]]
        if lines:
            _print_cells(lines, ("table", "row", "corpus", "metric", "paper", "note"), format)
        if of.plan is not None:
            print_plan(of.plan, estimate(cache, of.plan), feature_bytes(cache, of.plan), format, jobs=how.jobs)
        else:
            say(
                "nothing of it can be run yet"
                if reproducing.has_a_corpus(cache, paper)
                else "nothing of it can be run yet; without --dry-run its rows are trained on the built-in synthetic corpus"
            )
        return True
    failures = run_plan(cache, of.plan, how) if of.plan is not None else []
    table = reproducing.compare(cache, of, how.selection, failures)
    if format in (TableOutput.json, TableOutput.csv):
        print_rows(table, Output(format.value))
    else:
        lines = reproducing.readable(table)
        _print_cells(lines, list(lines[0]), format)
    _print_notes(reproducing.notes(of, table), format)
    for line in failure_lines(failures):
        say(line)
    return not failures


def _print_cells(lines: Sequence[dict[str, str]], columns: Sequence[str], format: TableOutput) -> None:
    """Print the cells of a paper's tables, and below them why some could not run."""
    from tfser.heads.results.papers import numbered

    if format in (TableOutput.json, TableOutput.csv):
        print_table([{name: line[name] for name in columns} for line in lines], format)
        return
    short, reasons = numbered(lines)
    print_table([{name: line[name] for name in columns} for line in short], format)
    if reasons:
        show("")
    for reason in reasons:
        if format is TableOutput.latex:
            show(rf"\par\smallskip {latex(reason)}")
        else:
            show(reason + ("  " if format is TableOutput.markdown else ""))


def _print_notes(notes: Sequence[str], format: TableOutput) -> None:
    """Print what a reader has to know: where the table goes if that is for a paper, else to standard error."""
    if format is TableOutput.markdown:
        show("", *markdown_notes(notes))
    elif format is TableOutput.latex:
        show(*(rf"\par\smallskip {latex(note)}" for note in notes))
    else:
        for note in notes:
            say(note)


def prepare(how: Running, device: str) -> None:
    """Set up this process, before torch allocates anything, where the runs are trained in it."""
    if how.jobs > 1:
        return
    if how.keep_memory and not device.startswith("cuda"):
        from tfser.heads.machine.memory import keep_freed_memory

        keep_freed_memory()
    if how.threads is not None:
        import torch

        torch.set_num_threads(how.threads)


def run_plan(cache: Cache, plan: Plan, how: Running) -> list[Failure]:
    """Train what is missing of a plan, under a live table; return what failed."""
    for note in plan.notes():
        say(note)
    view = SweepView(cache, plan, estimate(cache, plan), selection=how.selection, jobs=how.jobs)
    runs = plan.missing
    if len(runs) < len(plan.runs):
        say(f"{count(len(plan.runs) - len(runs), 'run')} of {len(plan.runs):,} found finished (--again trains them again)")
    try:
        with view:
            if how.jobs == 1 or len(runs) < 2:
                every = how.checkpoint_every_s
                return run_here(cache, runs, plan.findings, tell=view.tell, checkpoint_every_s=every)
            from tfser.heads.runs.processes import run_in_processes

            return run_in_processes(
                cache,
                runs,
                plan.findings,
                jobs=how.jobs,
                tell=view.tell,
                threads=how.threads,
                keep_memory=how.keep_memory,
                checkpoint_every_s=how.checkpoint_every_s,
            )
    finally:
        refresh_if_possible(cache)
