"""How long a run trains is known before it (recipes that count steps, heads fitted at once), and estimates rest on that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import stored_runs as stored
import torch

from tfser.heads.commands.sweep_table import plan_rows
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, begin_run
from tfser.heads.runs.plan import Plan, estimate, plan_sweep
from tfser.heads.runs.request import HeadBlock, Request, SweepRequest
from tfser.heads.training.loop import Trainer
from tfser.manifests.cache import Cache
from tfser.manifests.utterances import Utterance


@pytest.fixture
def filled(cache: Cache, put_corpus: Any, put_stack: Any) -> Cache:
    """Speakers of 4, 9 and 14 utterances of 5 to 40 frames."""
    utterances = [
        Utterance(utterance_id=f"{speaker}{i:02d}", path="x", speaker=speaker, label=("anger", "sadness")[i % 2])
        for speaker, n in (("a", 4), ("b", 9), ("c", 14))
        for i in range(n)
    ]
    put_corpus(cache, utterances)
    rng = np.random.default_rng(0)
    frames = {u.utterance_id: np.ones((int(rng.integers(5, 41)), 6), np.float32) for u in utterances}
    put_stack(cache, frames, 1, name="enc/1")
    put_stack(cache, {name: np.repeat(of, 3, axis=1) for name, of in frames.items()}, 3, name="enc/all")
    return cache


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": "20", "batch_size": "4"},
        {"steps": "50", "batch_size": "3", "slice_frames": "8"},
        {"steps": "50", "batch_size": "3", "slice_frames": "8", "train_hop": "3", "cut_frames": "20"},
        {},
    ],
)
def test_the_settled_number_is_what_is_trained(filled: Cache, settings: dict[str, str]) -> None:
    asked = {"features": "enc/1", "protocol": "loso-speaker", "device": "cpu"}
    request = Request(head="mean_pool", preset="linear", settings=settings, **asked)
    experiment = resolve(filled, request)
    loaded, findings = load(filled, experiment), audit_experiment(filled, experiment)
    lengths = []
    for fold in (1, 2, 3):
        begun = begin_run(filled, experiment, fold, loaded, findings, pytest.fail)
        args = (experiment.spec, experiment.config, experiment.recipe, 0, torch.device("cpu"))
        lengths.append(Trainer(begun.data, *args).epochs)
        assert begun.about["epochs"] == lengths[-1]
    assert [experiment.epochs(fold) for fold in (1, 2, 3)] == lengths and experiment.epochs() == max(lengths)
    assert (len(set(lengths)) > 1) == bool(settings)


def planned(cache: Cache, *heads: HeadBlock, **more: Any) -> Plan:
    wanted = {"features": ("enc/1",), "protocol": "loso-speaker", "device": "cpu", "reference": False, **more}
    return plan_sweep(cache, SweepRequest(heads=heads, **wanted))


@pytest.mark.slow
def test_a_plan_shows_it_and_the_parameters_of_all_layers(filled: Cache) -> None:
    from tfser.heads.results.summary import summary

    steps = HeadBlock(name="mean_pool", presets=("linear",), settings={"steps": "7", "batch_size": "4"})
    plan = planned(filled, steps, HeadBlock(name="logreg"), features=("enc/1", "enc/all"))
    rows = plan_rows(plan, estimate(filled, plan), dict.fromkeys(plan.findings, 0))
    # 4 + 9 of the utterances train where the third speaker tests: four batches, two epochs.
    assert {(row["head"], row["epochs"]) for row in rows} == {("mean_pool", 2), ("logreg", 1)}
    found = {(row["head"], row["features"]): row["parameters"] for row in summary(filled, plan, "last") if row["parameters"]}
    # One layer of six values: 6 x 2 weights, 2 biases; of three layers one weight each, beside the same head.
    assert found == {("mean_pool", "enc/1"): 14, ("mean_pool", "enc/all"): 17}


@pytest.mark.slow
@pytest.mark.parametrize(("device", "known_by"), [("cpu", "an epoch of this head and preset"), ("cuda", "no estimate yet")])
def test_estimates_rest_on_runs_of_the_same_kind_of_device(filled: Cache, device: str, known_by: str) -> None:
    of = {"head": "mean_pool", "preset": "linear", "feature_set": "enc/1", "protocol": "loso-speaker", "device": device}
    utterances = stored.make_utterances(speakers=3)
    stored.put_experiment(filled, "mean_pool-like-it", utterances, **of)
    plan = planned(filled, HeadBlock(name="mean_pool", presets=("linear",), settings={"steps": "7", "batch_size": "4"}))
    (found,) = estimate(filled, plan).values()
    epochs = sum(run.experiment.epochs(run.fold) for run in plan.runs)
    assert found.known_by == known_by
    assert found.seconds == (None if device == "cuda" else pytest.approx(epochs * 1.0 / 5))  # a second, five epochs
    on_gpu = [replace(run, experiment=replace(run.experiment, device="cuda:1")) for run in plan.runs]
    (entry,) = plan.entries
    moved = replace(plan, entries=(replace(entry, experiment=on_gpu[0].experiment, runs=tuple(on_gpu)),))
    (found,) = estimate(filled, moved).values()
    assert (found.seconds is None) == (device == "cpu")
