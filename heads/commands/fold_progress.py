"""What `tfser train` and `tfser ablate` show while they work: how far they are, each fold's score as it comes, the time left.

In: the events of `sweep_runs`. Out: text on standard error. On a terminal a bar stands for the fold at work; anywhere else (a log
file, a batch system) there is a line a minute, or one an epoch where epochs take longer. The time left is that of all folds that
were asked for and are not finished.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping

from tfser.heads.commands.sweep_table import duration
from tfser.heads.results.main_score import main_score
from tfser.heads.results.written import number_text, score_text
from tfser.heads.runs.experiment import EVERYTHING
from tfser.heads.runs.in_turn import Event
from tfser.heads.runs.plan import Plan, Run
from tfser.heads.spec.fold import EpochRecord
from tfser.manifests.cache import Cache
from tfser.manifests.display import bar, say

LINE_EVERY_S = 60.0
"""Where there is no terminal, a line is written so often at most."""


class FoldBars:
    """Shows the folds of a plan; a context manager whose `tell` takes events."""

    def __init__(self, cache: Cache, plan: Plan, headings: Mapping[str, str] | None = None) -> None:
        """Headings, by experiment, are said before its first fold."""
        self._cache, self._headings = cache, dict(headings or {})
        self._entries = {entry.experiment.name: entry for entry in plan.entries}
        self._places = {run.run_id: (i, len(of.runs)) for of in plan.entries for i, run in enumerate(of.runs, start=1)}
        self._epochs = {run.run_id: _epochs(run) for run in plan.missing}
        """Epochs that each run has still to go."""
        self._running: dict[str, int] = {}
        """The last epoch of each run at work; 0 before its first."""
        self._trained = 0
        self._began: float | None = None
        """When the first epoch was through: before it, libraries are loaded and memory is touched for the first time."""
        self._first_s = 0.0
        self._said_at = time.monotonic()
        self._open = contextlib.ExitStack()
        self._update: Callable[..., None] | None = None

    def __enter__(self) -> FoldBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def tell(self, event: Event) -> None:
        """Take note of what happened to a run."""
        run = event.run
        if run is None:
            self._say(event.text)
        elif event.kind == "start":
            if heading := self._headings.pop(run.experiment.name, None):
                self._say(heading)
            self._running[run.run_id] = 0
        elif event.kind == "epoch" and event.record is not None:
            self._epoch(run, event.record)
        elif event.kind == "busy":
            self._running.pop(run.run_id, None)
        else:
            self._running.pop(run.run_id, None)
            self._epochs.pop(run.run_id, None)
            self._say(self._end(run, event))

    def left_s(self) -> float | None:
        """Return the seconds that all unfinished folds will take, by the pace so far; None before the first epoch."""
        if self._began is None:
            return None
        since = self._trained - 1
        pace = (time.monotonic() - self._began) / since if since else self._first_s
        return pace * sum(self._epochs.values())

    def _epoch(self, run: Run, record: EpochRecord) -> None:
        if not self._running.get(run.run_id) and record.epoch > 1:
            self._say(f"{self._called(run)}: resumed after epoch {record.epoch - 1}")
        if self._began is None:
            self._began, self._first_s = time.monotonic(), record.train_s + record.eval_s
        self._running[run.run_id] = record.epoch
        self._trained += 1
        self._epochs[run.run_id] = max(0, _epochs(run) - record.epoch)
        state = f"{_state(record)}{self._left_text()}"
        if sys.stderr.isatty():
            if self._update is None:
                self._update = self._open.enter_context(bar(self._called(run), _epochs(run), time_left=False))
            self._update(
                description=self._called(run), total=max(_epochs(run), record.epoch), completed=record.epoch, state=state
            )
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            of = f"/{_epochs(run)}" if record.epoch <= _epochs(run) else ""
            self._say(f"{self._called(run)}: epoch {record.epoch}{of}, {state}")

    def _end(self, run: Run, event: Event) -> str:
        """Say how a run ended."""
        if event.kind != "done":
            return f"{self._called(run)}: not trained: {event.text}"
        score = main_score(self._cache, self._entries[run.experiment.name], run.run_id, "last")
        shown = "" if score is None else f"{score.text()}, "
        about = event.about or {}
        if not event.trained:
            return f"{self._called(run)}: {shown}found finished, {about['finished_at']} (--again trains it again)"
        return f"{self._called(run)}: {shown}{duration(about['seconds'])}{self._left_text()}"

    def _called(self, run: Run) -> str:
        place, of = self._places[run.run_id]
        if run.fold == EVERYTHING:
            return "all labelled utterances"
        return f"fold {run.fold}" + (f" ({place} of {of})" if of > 1 else "")

    def _left_text(self) -> str:
        seconds = self.left_s()
        return f", about {duration(seconds)} left" if seconds and seconds >= 0.5 else ""  # less is none, in words

    def _say(self, text: str) -> None:
        """Say something where no bar stands; the next epoch brings one back."""
        self._open.close()
        self._update = None
        self._said_at = time.monotonic()
        say(text)


def _epochs(run: Run) -> int:
    """Return how many epochs a run has; a head that is fitted at once has one."""
    return run.experiment.epochs(run.fold)


def _state(record: EpochRecord) -> str:
    val = f", val UA {score_text(record.val_UA, unit='%')}" if record.val_UA is not None else ""
    if record.val_CCC is not None:
        val = f", val CCC {number_text(record.val_CCC)}"
    return f"loss {record.loss:.3f}{val}, {record.train_s + record.eval_s:.1f} s an epoch"
