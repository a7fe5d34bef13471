"""Runs that are trained together are the runs that are trained alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tfser.heads.runs import experiment
from tfser.heads.runs.experiment import Experiment, How, resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import Following, RunResult, audit_experiment, train_fold
from tfser.heads.runs.request import Request
from tfser.heads.runs.several_folds import train_together
from tfser.heads.runs.store import run_folder
from tfser.heads.spec.fold import EpochRecord
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError

from ..conftest import fill_with_tones


@pytest.fixture
def filled(cache: Cache, tmp_path: Path) -> Cache:
    """A corpus of three speakers, of unequal numbers of utterances, and two tones."""
    fill_with_tones(cache, tmp_path / "wavs", each=(3, 4, 5))
    return cache


def experiment_of(cache: Cache, seed: int = 0, stacked: How = "vmap", **request: Any) -> Experiment:
    """A CPU stacks nothing by itself, so what is settled is replaced."""
    found = resolve(cache, Request(head="mean_pool", device="cpu", seed=seed, **{"epochs": 2, **request}))
    return replace(found, stacked=stacked)


def together(cache: Cache, runs: list[tuple[Experiment, int]], **options: Any) -> list[RunResult | TfserError]:
    of = runs[0][0]
    return train_together(cache, runs, lambda: load(cache, of), audit_experiment(cache, of), Following(**options))


SCORES = (
    "SELECT r.fold, r.seed, metric, class, value FROM metrics m JOIN runs r USING (run_id) "
    "WHERE selection = 'last' AND {} ORDER BY r.seed, r.fold, level, metric, class"
)
PREDICTIONS = (
    "SELECT r.seed, p.* FROM predictions p JOIN runs r USING (run_id) "
    "WHERE level = 'utterance' AND selection = 'last' AND {} ORDER BY r.seed, r.fold, utterance_id"
)


def ask(cache: Cache, query: str) -> list[dict[str, Any]]:
    refresh(cache)
    with open_catalogue(cache) as connection:
        return rows(connection, query)


@pytest.mark.slow
def test_runs_trained_together_are_found_again_and_agree_with_those_trained_alone(filled: Cache) -> None:
    seeds = [experiment_of(filled, seed) for seed in (0, 1)]
    runs = [(of, fold) for of in seeds for fold in of.folds]
    told: list[tuple[int, int]] = []

    def on_epoch(i: int, record: EpochRecord) -> None:
        told.append((i, record.epoch))

    found = together(filled, runs, on_epoch=on_epoch)
    assert sorted(told) == [(i, epoch) for i in range(6) for epoch in (1, 2)]
    scores, predictions = ask(filled, SCORES.format("TRUE")), ask(filled, PREDICTIONS.format("TRUE"))
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

    alone = [experiment_of(filled, seed, stacked="none") for seed in (0, 1)]
    for of, other in zip(alone, seeds, strict=True):
        assert of.name != other.name and "stacked" not in of.configuration()
        assert other.configuration()["stacked"] == "vmap"
        for fold in of.folds:
            assert of.run_id(fold) != other.run_id(fold)
            about = train_fold(filled, of, fold, lambda of=of: load(filled, of), audit_experiment(filled, of)).about  # type: ignore[misc]
            assert "stacked" not in about
    scored = ask(filled, SCORES.format("NOT contains(config, 'stacked')"))
    assert [list(row.values())[2:] for row in scored] == [list(row.values())[2:] for row in scores]
    said = ask(filled, PREDICTIONS.format("NOT contains(config, 'stacked')"))
    for one, other in zip(said, predictions, strict=True):
        assert one["utterance_id"] == other["utterance_id"]
        assert dict(one["probabilities"]) == pytest.approx(dict(other["probabilities"]), abs=1e-4)


@pytest.mark.slow
def test_a_group_trains_what_is_missing_only(filled: Cache) -> None:
    of = experiment_of(filled)
    first = together(filled, [(of, 2)])[0]
    assert isinstance(first, RunResult)
    assert (first.about["stacked"], first.about["stacked_by"]) == (1, "vmap")
    found = together(filled, [(of, fold) for fold in of.folds])
    assert [result.trained for result in found if isinstance(result, RunResult)] == [True, False, True]
    assert not (run_folder(filled, of.run_id(1)) / "checkpoint").exists()


@pytest.mark.slow
def test_runs_of_several_experiments_are_refused(filled: Cache) -> None:
    one, other = experiment_of(filled), experiment_of(filled, epochs=3)
    with pytest.raises(UsageError, match="one experiment"):
        together(filled, [(one, 1), (other, 1)])
    with pytest.raises(UsageError, match="twice"):
        together(filled, [(one, 1), (one, 1)])


@pytest.mark.slow
def test_on_a_cpu_nothing_is_stacked_and_that_is_said(filled: Cache) -> None:
    plain = resolve(filled, Request(head="mean_pool", device="cpu"))
    asked = resolve(filled, Request(head="mean_pool", device="cpu", stack=True))
    assert asked.stacked == plain.stacked == "none" and asked.name == plain.name
    assert [text for text in asked.chosen if "one by one" in text and "CPU" in text]
    assert not [text for text in plain.chosen if "one by one" in text]


@pytest.mark.few(1)
@pytest.mark.parametrize("stack", [False, True])
def test_on_a_gpu_only_what_is_asked_for_is_stacked(filled: Cache, stack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "choose_device", lambda asked: "cuda")
    of = resolve(filled, Request(head="mean_pool", stack=stack))
    assert (of.stacked != "none") == stack == ("stacked" in of.identity())
