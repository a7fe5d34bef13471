"""Training: what it yields, that it repeats itself, and that a killed one goes on to the same numbers."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tfser.heads import head
from tfser.heads.models.tf_transformer import TFTransformerConfig
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.metrics import scores as score
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.manifests.errors import TfserError, UsageError

SMALL = TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8, dropout=0.1)
RICH = Recipe(
    optimiser="adamw", lr=2e-3, weight_decay=0.01, schedule="cosine", warmup_epochs=1, epochs=4, batch_size=8,
    grad_clip=1.0, label_smoothing=0.1, class_weights="balanced", averaging=0.9, normalise="utterance-mean",
    train_hop=8, eval_hop=8, jitter=True, time_masks=1, time_mask_frames=4, band_masks=1, band_mask_bands=3,
    gain_db=3, tilt_db=2, speed=0.1, warp=0.1, mixup=0.3,
)  # fmt: skip


def train(
    fold: FoldData,
    recipe: Recipe = RICH,
    name: str = "tf_transformer",
    *,
    seed: int = 3,
    epochs: int | None = None,
    **keeping: Any,
) -> FitResult:
    spec = head(name)
    config = SMALL if name == "tf_transformer" else spec.preset()
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, epochs / 2))
    return fit(fold, spec=spec, config=config, recipe=recipe, seed=seed, keeping=Keeping(**keeping))


def assert_same(one: FitResult, other: FitResult) -> None:
    """All numbers but the seconds are the same to the bit."""
    still = [[replace(record, train_s=0, eval_s=0) for record in result.history] for result in (one, other)]
    assert still[0] == still[1]
    assert {name: s.epoch for name, s in one.selections.items()} == {name: s.epoch for name, s in other.selections.items()}
    for name, selection in one.selections.items():
        for key, values in vars(selection.test).items():
            np.testing.assert_array_equal(values, getattr(other.selections[name].test, key))
    for name, state in one.states.items():
        assert state.keys() == other.states[name].keys()
        assert all(torch.equal(tensor, other.states[name][key]) for key, tensor in state.items())


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["tf_transformer", "mean_pool"])
def test_the_same_seed_gives_the_same_numbers(fold: FoldData, name: str) -> None:
    recipe = RICH if name == "tf_transformer" else replace(RICH, speed=0.0)
    torch.manual_seed(1)
    first = train(fold, recipe, name)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert_same(first, train(fold, recipe, name))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert train(fold, recipe, name, seed=4).history != first.history


def test_selections_follow_their_rules(fold: FoldData) -> None:
    result = train(fold, epochs=6)
    assert set(result.selections) == {"last", "val", "test-oracle"}
    assert set(result.states) == {"last", "val"}
    records = result.history
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5, 6]
    assert result.selections["last"].epoch == 6
    for name, key in (("val", "val_UA"), ("test-oracle", "test_UA")):
        scores = [getattr(record, key) for record in records]
        assert result.selections[name].epoch == 1 + scores.index(max(scores))
    test = result.selections["test-oracle"].test
    assert test is not None
    assert test.utterance.tolist() == fold.test.tolist()
    found = score(fold.labels[test.utterance], test.utterance_probabilities.argmax(axis=1), len(fold.classes))
    assert max(r.test_UA or 0 for r in records) == found.UA
    for u, probabilities in zip(test.utterance, test.utterance_probabilities, strict=True):
        mine = test.segment_probabilities[test.segment_utterance == u]
        np.testing.assert_allclose(mine.mean(axis=0), probabilities, atol=1e-6)


def test_what_is_not_there_is_not_invented(fold: FoldData) -> None:
    none = np.array([], dtype=np.int64)
    result = train(replace(fold, val=none), epochs=2)
    assert set(result.selections) == {"last", "test-oracle"}
    assert set(result.states) == {"last"}
    assert all(record.val_UA is None and record.val_WA is None for record in result.history)
    alone = train(replace(fold, val=none, test=none), epochs=1)
    assert alone.selections["last"].test is None
    assert alone.history[0].test_UA is None


def test_training_learns(fold: FoldData) -> None:
    recipe = head("mean_pool").recipe()
    result = train(fold, replace(recipe, lr=1e-2), "mean_pool", epochs=20)
    assert result.history[-1].loss < result.history[0].loss
    assert result.history[-1].test_UA == 1.0


@pytest.mark.few(3)
@pytest.mark.parametrize("mode", ["none", "train", "utterance", "utterance-mean", "speaker"])
@pytest.mark.parametrize("name", ["tf_transformer", "mean_pool"])
def test_a_saved_model_predicts_the_same(fold: FoldData, tmp_path: Path, mode: str, name: str) -> None:
    recipe = replace(RICH, normalise=mode, speed=0.0)
    result = train(fold, recipe, name, epochs=1)
    save_file(result.states["last"], tmp_path / "model.safetensors")
    spec = head(name)
    found = predict(
        TrainedState(
            state=load_file(tmp_path / "model.safetensors"),
            spec=spec,
            config=SMALL if name == "tf_transformer" else spec.preset(),
            recipe=recipe,
            n_classes=3,
        ),
        fold.features,
        utterances=fold.test[::-1].copy(),
        speakers=fold.speakers,
    )
    test = result.selections["last"].test
    assert test is not None
    for key, values in vars(test).items():
        np.testing.assert_array_equal(getattr(found, key), values)


def test_a_state_of_another_head_is_refused(fold: FoldData) -> None:
    state = train(fold, epochs=1).states["last"]
    spec = head("mean_pool")
    with pytest.raises(UsageError, match="not a state of mean_pool"):
        predict(TrainedState(state=state, spec=spec, config=spec.preset(), recipe=RICH, n_classes=3), fold.features)


def test_a_stopped_training_goes_on(fold: FoldData, tmp_path: Path) -> None:
    seen: list[int] = []

    def note(record: EpochRecord) -> None:
        seen.append(record.epoch)
        torch.rand(3)  # a caller's own use of randomness changes nothing
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fold, checkpoint_dir=tmp_path, checkpoint_every_s=0.0, on_epoch=note)
    result = train(fold, checkpoint_dir=tmp_path, on_epoch=note)
    assert seen == [1, 2, 3, 4]
    assert_same(result, train(fold))
    assert_same(train(fold, checkpoint_dir=tmp_path), result)  # nothing is left to do
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


# Loads this file and its neighbour by their paths, trains, and kills itself after an epoch.
CHILD = """
import importlib.util, os, signal, sys
from pathlib import Path
from typing import Any

import torch

def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

here, folder, fatal = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
load(here).train(
    load(here.with_name("conftest.py")).make_fold(),
    checkpoint_dir=folder,
    checkpoint_every_s=0.0,
    on_epoch=lambda record: record.epoch == fatal and os.kill(os.getpid(), signal.SIGKILL),
)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_training_goes_on_to_the_same_numbers(fold: FoldData, tmp_path: Path) -> None:
    for fatal_epoch in ("2", "3"):
        child = subprocess.run([sys.executable, "-c", CHILD, __file__, str(tmp_path), fatal_epoch], check=False)
        assert child.returncode == -signal.SIGKILL
    seen: list[int] = []
    result = train(fold, checkpoint_dir=tmp_path, on_epoch=lambda record: seen.append(record.epoch))
    assert seen == [4]
    assert_same(result, train(fold))


def test_checkpoints_of_other_trainings_are_refused(fold: FoldData, tmp_path: Path) -> None:
    train(fold, checkpoint_dir=tmp_path, epochs=1)
    with pytest.raises(TfserError, match="another training"):
        train(fold, checkpoint_dir=tmp_path, epochs=1, seed=9)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(TfserError, match="not a readable checkpoint"):
        train(fold, checkpoint_dir=tmp_path, epochs=1)


def test_bfloat16_and_sgd_train(fold: FoldData) -> None:
    result = train(fold, replace(RICH, precision="bfloat16", optimiser="sgd"), epochs=2)
    assert np.isfinite(result.history[-1].loss)


def test_a_diverged_training_says_so(fold: FoldData) -> None:
    with pytest.raises(TfserError, match="epoch 1"):
        train(fold, Recipe(optimiser="sgd", lr=1e30, betas=(0.0, 0.0), normalise="none"), "mean_pool", epochs=3)


def test_recipes_that_do_not_fit_are_refused(fold: FoldData) -> None:
    with pytest.raises(UsageError, match="speed"):
        train(fold, Recipe(speed=0.1), "mean_pool")
    with pytest.raises(UsageError, match="speaker"):
        train(replace(fold, speakers=None), Recipe(normalise="speaker"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train": np.array([], dtype=np.int64)}, "no training"),
        ({"val": np.array([0])}, "twice"),
        ({"test": np.array([22])}, "0 to 21"),
        ({"labels": np.full(22, 3)}, "labels"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "22 labels"),
    ],
)
def test_folds_that_make_no_sense_are_refused(fold: FoldData, changes: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        replace(fold, **changes)
