"""Runs that are trained together are the runs that are trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfser.heads.experiment import Experiment, Request, resolve
from tfser.heads.fold_runs import RunResult, audit_experiment, load, train_fold
from tfser.heads.runs import run_folder
from tfser.heads.stacked_runs import can_stack, train_together
from tfser.heads.training import EpochRecord
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError

from ..conftest import fill_with_tones


@pytest.fixture
def filled(cache: Cache, tmp_path: Path) -> Cache:
    """A corpus of three speakers, of unequal numbers of utterances, and two tones."""
    fill_with_tones(cache, tmp_path / "wavs", each=(3, 4, 5))
    return cache


def experiment_of(cache: Cache, seed: int = 0, **request: Any) -> Experiment:
    return resolve(cache, Request(head="mean_pool", device="cpu", seed=seed, **{"epochs": 2, **request}))


def together(cache: Cache, runs: list[tuple[Experiment, int]], **options: Any) -> list[RunResult | TfserError]:
    of = runs[0][0]
    return train_together(cache, runs, lambda: load(cache, of), audit_experiment(cache, of), how="vmap", **options)


def ask(cache: Cache, query: str) -> list[dict[str, Any]]:
    refresh(cache)
    with open_catalogue(cache) as connection:
        return rows(connection, query)


def test_runs_trained_together_are_found_by_those_trained_alone(filled: Cache) -> None:
    seeds = [experiment_of(filled, seed) for seed in (0, 1)]
    runs = [(of, fold) for of in seeds for fold in of.folds]
    told: list[tuple[int, int]] = []

    def on_epoch(i: int, record: EpochRecord) -> None:
        told.append((i, record.epoch))

    found = together(filled, runs, on_epoch=on_epoch)
    assert sorted(told) == [(i, epoch) for i in range(6) for epoch in (1, 2)]
    scores = ask(filled, "SELECT run_id, metric, value FROM metrics WHERE selection = 'last' ORDER BY ALL")
    predictions = ask(filled, "SELECT * FROM predictions WHERE level = 'utterance' AND selection = 'last' ORDER BY ALL")
    for (of, fold), result in zip(runs, found, strict=True):
        assert isinstance(result, RunResult)
        assert result.trained
        assert result.about["run_id"] == of.run_id(fold)
        assert result.about["stacked"] == 6
        assert result.about["stacked_by"] == "vmap"
        findings = audit_experiment(filled, of)
        again = train_fold(filled, of, fold, lambda of=of: load(filled, of), findings)  # type: ignore[misc]
        assert not again.trained
    assert all(not result.trained for result in together(filled, runs) if isinstance(result, RunResult))

    alone = [experiment_of(filled, seed, again=True) for seed in (0, 1)]
    for of in alone:
        for fold in of.folds:
            about = train_fold(filled, of, fold, lambda of=of: load(filled, of), audit_experiment(filled, of)).about  # type: ignore[misc]
            assert "stacked" not in about
    assert ask(filled, "SELECT run_id, metric, value FROM metrics WHERE selection = 'last' ORDER BY ALL") == scores
    for one, other in zip(
        ask(filled, "SELECT * FROM predictions WHERE level = 'utterance' AND selection = 'last' ORDER BY ALL"),
        predictions,
        strict=True,
    ):
        assert one["utterance_id"] == other["utterance_id"]
        assert dict(one["probabilities"]) == pytest.approx(dict(other["probabilities"]), abs=1e-4)


def test_a_group_trains_what_is_missing_only(filled: Cache) -> None:
    of = experiment_of(filled)
    first = together(filled, [(of, 2)])[0]
    assert isinstance(first, RunResult)
    assert "stacked" not in first.about
    found = together(filled, [(of, fold) for fold in of.folds])
    assert [result.trained for result in found if isinstance(result, RunResult)] == [True, False, True]
    assert not (run_folder(filled, of.run_id(1)) / "checkpoint").exists()


def test_runs_of_several_experiments_are_refused(filled: Cache) -> None:
    one, other = experiment_of(filled), experiment_of(filled, epochs=3)
    with pytest.raises(UsageError, match="one experiment"):
        together(filled, [(one, 1), (other, 1)])
    with pytest.raises(UsageError, match="twice"):
        together(filled, [(one, 1), (one, 1)])


def test_on_a_cpu_runs_are_not_stacked_unless_asked(filled: Cache) -> None:
    of = experiment_of(filled)
    assert not can_stack(of)
    said: list[str] = []
    found = train_together(
        filled, [(of, 1), (of, 2)], lambda: load(filled, of), audit_experiment(filled, of), on_note=said.append
    )
    assert ["CPU" in text for text in said] == [True]
    for result in found:
        assert isinstance(result, RunResult)
        assert "stacked" not in result.about
