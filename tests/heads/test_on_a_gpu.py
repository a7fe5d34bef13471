"""What only a GPU can show of training: every head learns there what it learns on a CPU, together, resumed, by the CLI.

Numbers of a GPU are those of a CPU to rounding, not to the bit: two epochs of small heads in float32, with TF32 off as always,
stay within `CLOSE`. TFSER_GPU_TESTS=cpu runs all but what fills the memory on a CPU, so that the tests themselves can be tried.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tfser.heads import head
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.head import Network
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.heads.training.together import FitJob, fit_together
from tfser.manifests.catalogue.reading import open_catalogue, rows

from ..conftest import fill_with_tones
from ..trained_heads import tiny_wavlm
from .conftest import make_features, make_fold, rated
from .test_every_head import HEADS, TINY, settled

ON = os.environ.get("TFSER_GPU_TESTS", "cuda")
CLOSE = 2e-3
"""Largest difference of a probability after two epochs."""
NETWORKS = [name for name in HEADS if isinstance(head(name), Network)]
WAYS = (("cpu", False), (ON, False), (ON, True))
"""Devices, and whether steps are graphs."""
GRADED = Recipe(epochs=2, batch_size=8, precision="float32")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON == "cuda" and not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]


def small(name: str, **changes: object) -> Any:
    spec = head(name)
    values = {**TINY.get(name, {}), **({"segment_frames": 16, "channels": 4} if name == "tf_transformer" else {}), **changes}
    if name == "tf_mamba":
        values |= {"width": 16, "scan": "chunked"}
    return settled(spec, next(iter(spec.presets)), **values)


def apart(one: FitResult, other: FitResult) -> float:
    first, second = one.selections["last"].test, other.selections["last"].test
    assert first is not None and second is not None
    assert np.isfinite(first.utterance_probabilities).all()
    return float(np.abs(first.utterance_probabilities - second.utterance_probabilities).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_head_learns_what_it_learns_on_a_cpu(name: str) -> None:
    spec, config, fold = head(name), small(name), make_fold()
    options: dict[str, Any] = {"spec": spec, "config": config, "recipe": GRADED, "seed": 0}
    here, there, graphed = (fit(fold, **options, device=device, graphs=graphs) for device, graphs in WAYS)
    for one, other, third in zip(here.history, there.history, graphed.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=CLOSE)
        assert one.loss == pytest.approx(third.loss, rel=CLOSE)
    assert apart(here, there) < CLOSE and apart(here, graphed) < CLOSE
    state = {key: tensor.cpu() for key, tensor in there.states["last"].items()}
    model = TrainedState(state=state, spec=spec, config=config, recipe=GRADED, n_classes=3)
    answers = predict(model, fold.features, utterances=fold.test, device="cpu")
    test = there.selections["last"].test
    assert test is not None
    np.testing.assert_allclose(answers.utterance_probabilities, test.utterance_probabilities, atol=CLOSE)


@pytest.mark.parametrize("name", ["mean_pool", "tf_mamba", "shift_lstm"])
def test_half_precision_learns_too(name: str) -> None:
    recipe = replace(GRADED, precision="bfloat16", epochs=3)
    found = fit(make_fold(), spec=head(name), config=small(name), recipe=recipe, seed=0, device=ON)
    assert apart(found, found) == 0 and found.history[-1].loss < 1.3


@pytest.mark.parametrize("name", ["mean_pool", "tf_mamba", "tf_transformer"])
def test_dimensions_are_learnt(name: str) -> None:
    spec, fold = head(name), rated(make_fold())
    here, there = (fit(fold, spec=spec, config=small(name), recipe=GRADED, seed=0, device=device) for device in ("cpu", ON))
    assert apart(here, there) < CLOSE


@pytest.mark.parametrize("name", ["mean_pool", "tf_mamba", "tf_transformer"])
@pytest.mark.parametrize("how", ["vmap", "streams", "none"])
def test_folds_trained_together_are_those_trained_alone(name: str, how: str) -> None:
    fold = make_fold()
    everyone = np.arange(22)
    folds = [replace(fold, train=everyone[k : k + 12], val=everyone[:0], test=np.setdiff1d(everyone, everyone[k : k + 12]))
             for k in (0, 4, 8)]  # fmt: skip
    notes: list[str] = []
    options: dict[str, Any] = {"spec": head(name), "config": small(name), "recipe": GRADED, "device": ON}
    found = fit_together([FitJob(data=one, seed=1) for one in folds], how=how, on_note=notes.append, **options)
    for one, result in zip(folds, found, strict=True):
        assert isinstance(result, FitResult)
        assert apart(result, fit(one, seed=1, **options)) < CLOSE
    assert not notes  # a graph was made where graphs are


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["mean_pool", "tf_mamba"])
def test_a_stopped_training_goes_on_from_its_checkpoint(name: str, graphs: bool, tmp_path: Path) -> None:
    recipe = replace(GRADED, epochs=4)
    options: dict[str, Any] = {"spec": head(name), "config": small(name), "recipe": recipe, "seed": 0, "device": ON}
    options["graphs"] = graphs
    heard: list[int] = []

    def stop(record: EpochRecord) -> None:
        heard.append(record.epoch)
        if record.epoch == 3:
            raise KeyboardInterrupt

    whole = fit(make_fold(), **options)
    with pytest.raises(KeyboardInterrupt):
        fit(make_fold(), keeping=Keeping(checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=stop), **options)
    keeping = Keeping(checkpoint_dir=tmp_path, on_epoch=lambda record: heard.append(record.epoch))
    resumed = fit(make_fold(), keeping=keeping, **options)
    assert heard[:3] == [1, 2, 3] and heard[-1] == 4 and len(heard) <= 5  # the first epochs are not trained again
    assert len(resumed.history) == 4 and apart(resumed, whole) < CLOSE


def test_a_group_too_large_for_the_memory_is_halved() -> None:
    """Left the memory of three trainings, a process trains sixteen in smaller groups."""
    if ON != "cuda":
        pytest.skip("a CPU's memory is not filled on purpose")
    features = make_features([120] * 64, 256)
    labels, everyone = np.arange(64) % 2, np.arange(64)
    sides = {"train": everyone[:48], "val": everyone[:0], "test": everyone[48:]}
    data = FoldData(features=features, labels=labels, classes=("a", "b"), **sides)
    config = settled(head("tf_mamba"), "full", width=128, scan="chunked")
    options: dict[str, Any] = {"spec": head("tf_mamba"), "config": config, "device": ON, "how": "vmap"}
    options["recipe"] = replace(GRADED, epochs=1, batch_size=16)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    fit_together([FitJob(data=data, seed=0)], **options)
    memory, one = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_reserved() - before
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 3 * one) / memory)
    notes: list[str] = []
    try:
        found = fit_together([FitJob(data=data, seed=k) for k in range(16)], on_note=notes.append, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("do not fit" in note for note in notes)
    assert all(isinstance(result, FitResult) for result in found)


def test_the_command_line_extracts_trains_and_predicts(tmp_path: Path) -> None:
    """With a small encoder of random weights; files of the corpus are predicted as they were in the test fold, to rounding."""
    from tfser.cli import app
    from tfser.manifests.cache import Cache

    cache, audio = Cache(tmp_path / "cache"), tmp_path / "audio"
    fill_with_tones(cache, audio, each=(4, 4, 4), noise=0.3, seconds=0.3)
    tiny_wavlm(tmp_path / "weights")

    def call(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--cache", str(cache.root)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    call("extract", "--corpus", "toy", "--features", "wavlm-large", "--layer", "2", "--weights", str(tmp_path / "weights"),
         "--device", ON)  # fmt: skip
    ways: dict[str, list[str]] = {
        "tf_mamba": ["--set", "width=16", "--set", "hidden=16,8", "--set", "scan=chunked", "--graphs"],
        "tf_transformer": ["--set", "segment_frames=16", "--set", "channels=4", "--recipe", "paper"],
        "mean_pool": ["--stack"],
        "logreg": [],
    }
    for features in ("logmel", "wavlm-large/2"):
        for name, more in ways.items():
            epochs = [] if name == "logreg" else ["--epochs", "2", "--device", ON]
            call("train", "--head", name, "--features", features, "--fold", "all", *epochs, *more)
    with open_catalogue(cache) as connection:
        stored = rows(
            connection,
            "SELECT run_id, utterance_id, p.probabilities FROM predictions p JOIN runs r USING (run_id) WHERE head = 'tf_mamba' "
            "AND level = 'utterance' AND selection = 'last' AND contains(config, 'wavlm')",
        )
    run = stored[0]["run_id"]
    for row in [row for row in stored if row["run_id"] == run][:3]:
        path = audio / f"{row['utterance_id']}.wav"
        (answer,) = json.loads(call("predict", run, str(path), "--format", "json", "--device", ON))["predictions"]
        assert answer["probabilities"] == pytest.approx(dict(row["probabilities"]), abs=CLOSE)
