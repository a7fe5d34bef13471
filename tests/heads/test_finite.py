"""What leaves a head is numbers, or an error that says when and what to do; no run of anything else is stored as finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfser.heads import HEADS, head
from tfser.heads.models.tf_transformer import TFTransformerConfig
from tfser.heads.runs.outcome import RunOutcome, Selected
from tfser.heads.runs.store import begin, finish
from tfser.heads.spec.fold import FitResult, FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import LARGEST, SMALLEST, Settings
from tfser.heads.training.finite import NotFiniteError
from tfser.heads.training.loop import Keeping, fit
from tfser.heads.training.together import FitJob, fit_together
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError

NETWORKS = ("mean_pool", "tf_transformer")
SMALL = TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8, dropout=0.0)


def train(fold: FoldData, name: str, recipe: Recipe | None = None, **keeping: Any) -> FitResult:
    spec = head(name)
    recipe = recipe or replace(spec.recipe(), epochs=2, warmup_epochs=0, steps=None, train_hop=None, eval_hop=None)
    config = SMALL if name == "tf_transformer" else spec.preset()
    return fit(fold, spec=spec, config=config, recipe=recipe, seed=0, keeping=Keeping(**keeping))


def spoil(fold: FoldData, utterance: int, value: float) -> FoldData:
    frames = fold.features.frames.copy()
    frames[fold.features.offsets[utterance] + 1, 3] = value
    return replace(fold, features=replace(fold.features, frames=frames))


@pytest.mark.few(9)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # they would stand beside the one line
@pytest.mark.parametrize("name", ["logreg", "svm", *NETWORKS])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("utterance", [2, 13, 19])  # of training, validation, test
def test_features_that_are_no_numbers_are_named(fold: FoldData, name: str, value: float, utterance: int) -> None:
    with pytest.raises(NotFiniteError) as caught:
        train(spoil(fold, utterance, value), name)
    said = str(caught.value)
    assert f"'u{utterance}'" in said and "features" in said and "\n" not in said


@pytest.mark.parametrize("name", ["logreg", "svm"])
def test_a_reference_head_predicts_from_numbers_only(fold: FoldData, name: str) -> None:
    state = train(fold, name).states["last"]
    predict = head(name).predict
    assert predict is not None
    spoilt = spoil(fold, 4, float("nan")).features
    with pytest.raises(NotFiniteError, match="'u4'"):
        predict(state, spoilt, np.arange(22))
    assert len(predict(state, spoilt, np.array([0, 1])).utterance) == 2  # nobody asked about u4


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", ["logreg", "svm", "probe", "mean_pool"])
def test_by_speaker_a_spoilt_utterance_that_the_fold_leaves_out_is_named(fold: FoldData, name: str) -> None:
    """It counts in the mean of its speaker's others; otherwise nobody looks at it."""
    fold = replace(spoil(fold, 16, float("nan")), test=fold.test[1:])
    plain = replace(head(name).recipe(), epochs=1, warmup_epochs=0)
    train(fold, name, plain)
    with pytest.raises(NotFiniteError, match=r"'u16'.*features"):
        train(fold, name, replace(plain, normalise="speaker"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_are_no_numbers_end_the_training_in_the_epoch_that_made_them(
    fold: FoldData, name: str, epochs: int, tmp_path: Path
) -> None:
    """A step so large that the loss, which is of before it, is a number still."""
    recipe = Recipe(lr=1e20, epochs=epochs, batch_size=512)
    with pytest.raises(NotFiniteError, match=r"(after|of) epoch 1\b.*lower lr"):
        train(fold, name, recipe, checkpoint_dir=tmp_path, checkpoint_every_s=0)
    assert not list(tmp_path.iterdir())  # nothing that a later training would go on from


def test_predictions_of_finite_weights_are_looked_at_too(fold: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfser.heads.training import loop as training

    real = training.evaluate

    def evaluate(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        found.utterance_probabilities[1] = np.nan
        return found

    monkeypatch.setattr(training, "evaluate", evaluate)
    with pytest.raises(NotFiniteError, match="after epoch 1, the predictions of 1 of 6 test utterances are no numbers"):
        train(fold, "mean_pool")


def test_a_stacked_training_fails_alone(fold: FoldData) -> None:
    spec = head("mean_pool")
    jobs = [FitJob(data=data, seed=0) for data in (fold, spoil(fold, 19, float("nan")))]
    recipe = replace(spec.recipe(), epochs=2, warmup_epochs=0)
    good, bad = fit_together(jobs, spec=spec, config=spec.preset(), recipe=recipe, how="vmap")
    assert isinstance(good, FitResult) and len(good.history) == 2
    assert isinstance(bad, NotFiniteError) and "'u19'" in str(bad)


def test_nothing_is_stored_that_is_no_number(cache: Cache) -> None:
    """Whatever a head's own `fit` lets through."""
    about = {"run_id": "a-1", "fold": 1, "epochs": 1}
    begin(cache, about)
    probabilities = np.array([[0.5, 0.5], [np.nan, np.nan]], dtype=np.float32)
    numbers = np.zeros(2, dtype=np.int64)
    selected = Selected(
        selection="last", epoch=1, utterances=probabilities, segments=probabilities, segment_utterance=np.arange(2),
        segment_number=numbers,
    )  # fmt: skip
    with pytest.raises(TfserError, match="no numbers"):
        outcome = RunOutcome(
            classes=("a", "b"),
            utterances=[("c", "u0"), ("c", "u1")],
            labels=numbers,
            selections=[selected],
            history=[],
        )
        finish(cache, about, outcome)
    assert [path.name for path in (cache.runs / "a-1").iterdir()] == ["run.json"]


FLOATS = [name for name, value in Recipe().to_dict().items() if isinstance(value, float)]


@pytest.mark.parametrize("name", [*FLOATS, "cut_seconds", "slice_seconds"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e38", "1e-46"])
def test_settings_that_float32_has_no_room_for_are_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        Recipe().with_settings({name: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=name):
        Recipe(**{name: float(value)})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "steps", "time_masks"])
def test_whole_numbers_fit_their_column(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Recipe(**{name: 2**31})


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("value", ["inf", "nan", "1e38"])
def test_settings_of_every_head_are_numbers(name: str, value: str) -> None:
    config: Settings = head(name).preset()
    for setting, now in config.to_dict().items():
        if isinstance(now, float):
            with pytest.raises(UsageError, match=setting):
                config.with_settings({setting: value})


def test_every_preset_and_recipe_lies_between_the_bounds() -> None:
    for name in HEADS:
        spec = head(name)
        for settings in (*spec.presets.values(), *(spec.recipe(recipe) for recipe in spec.recipe_names)):
            for value in settings.to_dict().values():
                assert not isinstance(value, float) or value == 0 or SMALLEST <= abs(value) <= LARGEST
