"""A sweep while it runs: a live table on a terminal, one line a finished run anywhere else.

In: the events of `sweep_runs`. Out: text on standard error. The live table has a line an experiment: what is done, the mean of UA
and its deviation over finished folds and seeds, what is trained at the moment; below it, the time that is left, from the pace of
this sweep, or of finished runs like those that are missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tfser.heads.commands.sweep_table import about, duration
from tfser.heads.results.main_score import MainScore, main_score, main_scores, name_of, spread_text
from tfser.heads.results.scores import Spread
from tfser.heads.runs.in_turn import Event
from tfser.heads.runs.plan import Entry, Estimate, Plan, Run
from tfser.heads.spec.fold import EpochRecord
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.widths import GAP, cell_len
from tfser.manifests.wording import visible

_LONGEST_SCORE = "100.0 ± 50.0†"

_LEAST_NAME = 6
"""Characters of a name that a narrow terminal leaves."""

_LINES = 30
"""More experiments than this, and the table shows those at work, and how many others there are."""


@dataclass(kw_only=True)
class _Line:
    """What is known of one experiment."""

    entry: Entry
    expected: float | None
    """Seconds of one run, by what is in the cache."""
    scores: dict[str, float] = field(default_factory=dict)
    """By run: UA, or CCC where dimensions are learned."""
    done: set[str] = field(default_factory=set)
    failed: int = 0
    running: dict[str, tuple[Run, EpochRecord | None]] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)
    """Wall time of runs that were trained now, seconds."""
    mark: str = ""
    """Of its numbers (`tfser.heads.results.marks`)."""

    def add(self, score: MainScore) -> None:
        """Take in what a finished run scored."""
        if score.value is not None:
            self.scores[score.run_id], self.mark = score.value, score.marks


class SweepView:
    """Shows a sweep; a context manager whose `tell` takes events."""

    def __init__(
        self,
        cache: Cache,
        plan: Plan,
        estimates: Mapping[str, Estimate],
        *,
        selection: str = "last",
        jobs: int = 1,
        console: Console | None = None,
    ) -> None:
        self._cache, self._plan, self._selection, self._jobs = cache, plan, selection, jobs
        self._console = console or Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())
        self._lines: dict[str, _Line] = {}
        missing = {run.run_id for run in plan.missing}
        for entry in plan.entries:
            todo = sum(run.run_id in missing for run in entry.runs)
            seconds = estimates[entry.experiment.name].seconds
            self._lines[entry.experiment.name] = _Line(
                entry=entry,
                expected=seconds / todo if seconds is not None and todo else None,
                done={run.run_id for run in entry.runs if run.run_id not in missing},
            )
        alike = [(of.spec.name, of.preset, of.feature_set) for of in (entry.experiment for entry in plan.entries)]
        self._recipes = len(set(alike)) < len(alike)  # only their recipes tell some apart
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        self._said: set[str] = set()
        self._live: Live | None = None
        self.trained = 0

    def __enter__(self) -> SweepView:
        with open_catalogue(self._cache) as connection:
            for name, scores in main_scores(connection, self._plan.entries, self._selection).items():
                line = self._lines[name]
                for score in scores:
                    if score.run_id in line.done:
                        line.add(score)
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.render, console=self._console, refresh_per_second=2, transient=True, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, event: Event) -> None:
        """Take note of what happened to a run."""
        if event.run is None:
            if event.text not in self._said:  # every process says it
                self._said.add(event.text)
                self._print(event.text)
            return
        run, run_id = event.run, event.run.run_id
        line = self._lines[run.experiment.name]
        if event.kind == "start":
            line.running[run_id] = (run, None)
            self._started[run_id] = time.monotonic()
        elif event.kind == "epoch":
            line.running[run_id] = (run, event.record)
        else:
            line.running.pop(run_id, None)
        if event.kind == "done":
            self._finish(line, run, event)
        elif event.kind == "failed":
            line.failed += 1
            self._print(f"{self._count()} {self._called(run)}: failed: {event.text}")

    def _finish(self, line: _Line, run: Run, event: Event) -> None:
        line.done.add(run.run_id)
        score = main_score(self._cache, line.entry, run.run_id, self._selection)
        if score is not None:
            line.add(score)
        if event.trained:
            self.trained += 1
            line.spent.append(time.monotonic() - self._started[run.run_id])
        if self._live is None:
            how = f"{duration(line.spent[-1])}" if event.trained else "found finished"
            text = f"{name_of(line.entry)} -" if score is None else score.text()
            self._print(f"{self._count()} {self._called(run)}: {text}, {how}{self._left_text()}")

    def _print(self, text: str) -> None:
        self._console.print(visible(text), markup=False)

    def _count(self) -> str:
        done = sum(len(line.done) + line.failed for line in self._lines.values())
        return f"{done}/{len(self._plan.runs)}"

    def _called(self, run: Run) -> str:
        of = run.experiment
        recipe = f" {of.recipe_name}" if self._recipes else ""
        return f"{of.spec.name} {of.preset}{recipe} on {of.feature_set}, fold {run.fold}, seed {of.seed}"

    # What is left.

    def left_s(self) -> tuple[float, bool]:
        """Return the seconds that are left, and whether that is known of all runs."""
        total, is_known = 0.0, True
        for line in self._lines.values():
            missing = len(line.entry.runs) - len(line.done) - line.failed
            if not missing:
                continue
            pace = median(line.spent) if line.spent else self._by_epochs(line) or line.expected
            if pace is None:
                is_known = False
                continue
            gone = sum(time.monotonic() - self._started[run_id] for run_id in line.running)
            total += max(0.0, missing * pace - min(gone, len(line.running) * pace))
        return total / max(1, min(self._jobs, len(self._plan.missing))), is_known

    def _by_epochs(self, line: _Line) -> float | None:
        seconds = [record.train_s + record.eval_s for _, record in line.running.values() if record is not None]
        return mean(seconds) * line.entry.experiment.epochs() if seconds else None

    def _left_text(self) -> str:
        seconds, known = self.left_s()
        if not seconds or (seconds < 0.5 and not known):  # more than nothing says nothing
            return ""
        return f", {about(seconds) if known else f'more than {duration(seconds)}'} left"

    # The live table.

    def render(self) -> RenderableType:
        """Return the live table as it stands."""
        lines = list(self._lines.values())
        shown = lines
        if len(lines) > _LINES:
            shown = [line for line in lines if line.running] or lines[:1]
        names = ("head", "preset", *(["recipe"] if self._recipes else []), "features")
        score = name_of(lines[0].entry) if lines else "UA"
        table = Table(box=None, pad_edge=False, header_style="bold")
        headers = (*names, "done", score, "now")
        for at, (name, width) in enumerate(zip(headers, self._widths(lines, headers), strict=True)):
            right = len(names) <= at < len(headers) - 1
            table.add_column(name, justify="right" if right else "left", overflow="ellipsis", no_wrap=True, width=width)
        for line in shown:
            over = Spread.of(line.scores.values())
            scored = spread_text(name_of(line.entry), over, line.mark)
            table.add_row(*self._names(line), f"{len(line.done)}/{len(line.entry.runs)}", scored, Text(self._now(line)))
        below = f"{self._count()} runs, {duration(time.monotonic() - self._began)} gone{self._left_text()}"
        if len(shown) < len(lines):
            below += f"; {len(lines) - len(shown)} other experiments"
        return Group(table, Text(below))

    def _names(self, line: _Line) -> list[str]:
        """Return what tells an experiment from others, a text a column."""
        of = line.entry.experiment
        return [of.spec.name, of.preset, *([of.recipe_name] if self._recipes else []), of.feature_set]

    def _widths(self, lines: Sequence[_Line], headers: Sequence[str]) -> list[int]:
        """Return how wide each column is: from the first run to the last the same, so that nothing moves while it runs.

        Counts and scores have the room of the longest that may come; names, and what is trained now, share what is left.
        """
        most = max(len(str(len(line.entry.runs))) for line in lines)
        done = f"{'9' * most}/{'9' * most}"
        every = [[*self._names(line), done, _LONGEST_SCORE, self._longest_now(line)] for line in lines]
        widths = [max(cell_len(text) for text in column) for column in zip(headers, *every, strict=True)]
        give_way = [at for at in range(len(widths)) if at not in (len(widths) - 3, len(widths) - 2)]
        while sum(widths) + GAP * (len(widths) - 1) > self._console.width:
            widest = max(give_way, key=lambda at: widths[at])
            if widths[widest] <= _LEAST_NAME:
                break
            widths[widest] -= 1
        return widths

    def _longest_now(self, line: _Line) -> str:
        """Return the longest that `_now` may say of an experiment."""
        runs = line.entry.runs
        folds = max(len(str(run.fold)) for run in runs)
        seeds = max(len(str(run.experiment.seed)) for run in runs)
        epochs = line.entry.experiment.epochs()
        trained = f", epoch {epochs}/{epochs}" if epochs > 1 else ""
        return f"fold {'9' * folds}, seed {'9' * seeds}{trained}" + (f" (+{self._jobs - 1})" if self._jobs > 1 else "")

    def _now(self, line: _Line) -> str:
        """Return what is trained at the moment: how many failed, the first run with its epoch, and how many more."""
        failed = f"{line.failed} failed" if line.failed else ""
        if not line.running:
            return failed
        run, record = next(iter(line.running.values()))
        of = run.experiment
        text = (f"{failed}; " if failed else "") + f"fold {run.fold}, seed {of.seed}"
        if record is not None:
            text += f", epoch {record.epoch}/{of.epochs(run.fold)}"
        return text + (f" (+{len(line.running) - 1})" if len(line.running) > 1 else "")
