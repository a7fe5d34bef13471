"""What training shows: a line a minute without a terminal, what was resumed, each score as it comes, all the time left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tfser.heads.commands import fold_progress as fold_view
from tfser.heads.commands.fold_progress import FoldBars
from tfser.heads.results.main_score import MainScore
from tfser.heads.runs.in_turn import Event
from tfser.heads.spec.fold import EpochRecord
from tfser.manifests.cache import Cache


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def record(epoch: int, seconds: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        loss=1.5,
        learning_rate=1e-3,
        train_s=seconds,
        eval_s=0.0,
        val_WA=None,
        val_UA=0.5,
        test_WA=None,
        test_UA=None,
    )


class Stage:
    """A plan of some folds of one experiment, a clock, and what was said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folds: tuple[int, ...], epochs: int, finished: tuple[int, ...] = ()):
        self.clock, self.said = Clock(), cast(list[str], [])
        monkeypatch.setattr(fold_view, "time", self.clock)
        monkeypatch.setattr(fold_view, "say", self.said.append)
        score = MainScore(run_id="r", name="UA", value=0.25, marks="§")
        monkeypatch.setattr(fold_view, "main_score", lambda *_: score)
        of = SimpleNamespace(name="x", epochs=lambda fold: epochs)
        self.runs = {f: SimpleNamespace(experiment=of, fold=f, run_id=f"x-f{f}") for f in folds}
        entry = SimpleNamespace(experiment=of, runs=list(self.runs.values()))
        missing = [run for f, run in self.runs.items() if f not in finished]
        plan: Any = SimpleNamespace(entries=[entry], missing=missing, runs=entry.runs)
        self.bars = FoldBars(Cache(Path("/nowhere")), plan, {"x": "heading"})

    def start(self, fold: int) -> None:
        self.bars.tell(Event(kind="start", run=cast(Any, self.runs[fold])))

    def epoch(self, fold: int, number: int, seconds: float) -> None:
        self.clock.now += seconds
        self.bars.tell(Event(kind="epoch", run=cast(Any, self.runs[fold]), record=record(number, seconds)))

    def done(self, fold: int, *, trained: bool = True) -> None:
        about = {"seconds": 40.0, "finished_at": "then"}
        self.bars.tell(Event(kind="done", run=cast(Any, self.runs[fold]), about=about, trained=trained))


def test_long_epochs_give_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, (2, 5, 7), epochs=2)
    stage.start(2)
    stage.epoch(2, 1, 100.0)
    stage.epoch(2, 2, 100.0)
    stage.done(2)
    assert stage.said == [
        "heading",
        "fold 2 (1 of 3): epoch 1/2, loss 1.500, val UA 50.0%, 100.0 s an epoch, about 8.3 min left",  # five epochs of all folds
        "fold 2 (1 of 3): epoch 2/2, loss 1.500, val UA 50.0%, 100.0 s an epoch, about 6.7 min left",
        "fold 2 (1 of 3): UA 25.0%§, 40 s, about 6.7 min left",
    ]


def test_short_epochs_give_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, (1,), epochs=100)
    stage.start(1)
    for number in range(1, 101):
        stage.epoch(1, number, 6.0)
    lines = [line for line in stage.said if "epoch " in line]
    assert len(lines) == 10 and lines[0].startswith("fold 1: epoch 10/100, ")
    assert lines[0].endswith("about 9.0 min left") and "left" not in lines[-1]


def test_a_resumed_fold_says_so_and_counts_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, (1, 2), epochs=10, finished=(1,))
    stage.start(1)
    stage.done(1, trained=False)
    stage.start(2)
    stage.epoch(2, 8, 30.0)
    assert stage.said[1:] == [
        "fold 1 (1 of 2): UA 25.0%§, found finished, then (--again trains it again)",
        "fold 2 (2 of 2): resumed after epoch 7",
    ]
    assert stage.bars.left_s() == pytest.approx(60.0)  # two epochs: what was found costs nothing
    stage.epoch(2, 9, 30.0)
    assert sum("resumed" in line for line in stage.said) == 1


def test_a_fold_that_failed_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, (1, 2), epochs=4)
    stage.start(1)
    stage.bars.tell(Event(kind="failed", run=cast(Any, stage.runs[1]), text="no test side"))
    stage.start(2)
    stage.epoch(2, 1, 10.0)
    assert "fold 1 (1 of 2): not trained: no test side" in stage.said
    assert stage.bars.left_s() == pytest.approx(30.0)


def test_more_epochs_than_the_recipe_says_are_no_negative_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, (1,), epochs=2)
    stage.start(1)
    for number in (1, 2, 3):
        stage.epoch(1, number, 70.0)
    assert stage.said[-1].startswith("fold 1: epoch 3, ") and stage.bars.left_s() == 0
