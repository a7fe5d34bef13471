"""Recipes: refused when they make no sense, read from text, written as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.models.tf_transformer import TFTransformerConfig
from tfser.heads.spec.recipes import Recipe
from tfser.manifests.errors import UsageError


@pytest.mark.parametrize(
    "setting",
    ["lr=0", "epochs=-1", "mixup=0.6", "normalise=corpus", "label_smoothing=1", "precision=float16", "train_hop=0",
     "betas=0.9", "warmup_epochs=99", "gain_db=-1", "optimiser=lion", "schedule=poly", "floor=2", "period_epochs=0",
     "period_growth=0.5", "peak=0.9", "step_factor=0", "step_factor=1.5", "steps=0", "focal=-1", "class_beta=1",
     "class_weights=sqrt", "cut_seconds=0", "slice_frames=-2"],
)  # fmt: skip
def test_senseless_values_are_refused(setting: str) -> None:
    name, text = setting.split("=")
    with pytest.raises(UsageError, match=name):
        Recipe().with_settings({name: text})


def test_settings_are_read_as_their_types() -> None:
    recipe = Recipe(train_hop=20).with_settings(
        {"lr": "3e-4", "epochs": "7", "train_hop": "none", "eval_hop": "40", "jitter": "true", "betas": "0.8,0.9"}
    )
    assert recipe == replace(Recipe(), lr=3e-4, epochs=7, eval_hop=40, jitter=True, betas=(0.8, 0.9))
    assert TFTransformerConfig().with_settings({"time": "no"}) == TFTransformerConfig(time=False)
    assert MeanPoolConfig().with_settings({"hidden": "64,32"}).hidden == (64, 32)
    assert MeanPoolConfig().with_settings({"hidden": ""}).hidden == ()


@pytest.mark.parametrize(("name", "text"), [("lr", "fast"), ("epochs", "1.5"), ("jitter", "maybe"), ("train_hop", "x")])
def test_text_that_is_no_such_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name}={text}: not a value of type"):
        Recipe().with_settings({name: text})


def test_unknown_settings_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown Recipe setting 'learning_rate'.*weight_decay"):
        Recipe().with_settings({"learning_rate": "1"})
    with pytest.raises(UsageError, match="unknown Recipe setting"):
        Recipe.from_dict({"learning_rate": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"),
        ("epochs", 2.5),
        ("lr", "fast"),
        ("lr", True),
        ("summary", 3),
        ("jitter", 1),
        ("betas", (0.9, "x")),
        ("lr", None),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: object) -> None:
    """Of whoever makes a recipe in Python, too: else it would fail in the middle of a training, or name another experiment."""
    with pytest.raises(UsageError, match=rf"recipe setting {name}=.*: not a value of type"):
        Recipe.from_dict({name: value})
    assert Recipe(lr=1, slice_seconds=None).lr == 1 and MeanPoolConfig(hidden=()).hidden == ()


def test_recipes_go_through_json() -> None:
    recipe = Recipe(lr=1e-4, betas=(0.8, 0.99), train_hop=16)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(lr=1.0, schedule="cosine", warmup_epochs=2, epochs=10)
    rates = [recipe.learning_rate(step, 5, 10) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    assert {Recipe(lr=0.5).learning_rate(step, 5, 10) for step in range(50)} == {0.5}


def rates(recipe: Recipe, per_epoch: int = 10, epochs: int | None = None) -> list[float]:
    epochs = recipe.epochs if epochs is None else epochs
    return [recipe.learning_rate(step, per_epoch, epochs) for step in range(per_epoch * epochs)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_floor_is_where_the_schedule_ends(schedule: str) -> None:
    found = rates(Recipe(lr=2.0, schedule=schedule, floor=0.25, epochs=10))  # type: ignore[arg-type]
    assert found[0] == 2.0
    assert found[50] == pytest.approx(2.0 * (0.25 + 0.75 / 2))  # half way, of both
    assert found[-1] == pytest.approx(0.5, abs=0.02)
    assert found == sorted(found, reverse=True)
    assert found[25] == pytest.approx({"linear": 2 - 1.5 / 4, "cosine": 0.5 + 1.5 * (1 + 0.5**0.5) / 2}[schedule])


def test_warm_restarts_are_torch_s() -> None:
    """Periods of 3, 6 and 12 epochs, as DWFormer's; torch moves by fractions of an epoch when told so."""
    recipe = Recipe(lr=5e-4, schedule="restarts", period_epochs=3, period_growth=2, floor=0.02, epochs=21)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=3, T_mult=2, eta_min=1e-5)
    found = rates(recipe)
    for step in range(0, 210, 7):
        theirs.step(step / 10)
        assert found[step] == pytest.approx(optimiser.param_groups[0]["lr"]), step
    assert [found[step] for step in (0, 30, 90)] == [5e-4] * 3
    assert found[29] < 2e-5


def test_steps_and_cycles_at_known_points() -> None:
    stepped = rates(Recipe(lr=1.0, schedule="step", period_epochs=5, step_factor=0.5, epochs=15))
    assert [stepped[step] for step in (0, 49, 50, 99, 100, 149)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    cyclic = rates(Recipe(lr=1.0, schedule="cyclic", period_epochs=4, peak=3.0, epochs=8))
    assert [cyclic[step] for step in (0, 10, 20, 30, 40, 60)] == pytest.approx([1, 2, 3, 2, 1, 3])


def test_a_period_is_a_step_at_least() -> None:
    for schedule in ("step", "cyclic", "restarts"):
        short, step = (
            rates(Recipe(lr=1.0, schedule=schedule, period_epochs=epochs, epochs=3))  # type: ignore[arg-type]
            for epochs in (0.01, 0.1)  # of ten steps
        )
        assert short == step


def test_a_warm_up_comes_before_every_schedule() -> None:
    for schedule in ("constant", "cosine", "linear", "restarts", "step", "cyclic"):
        found = rates(Recipe(lr=1.0, schedule=schedule, warmup_epochs=2, period_epochs=3, epochs=10))  # type: ignore[arg-type]
        assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
        assert found[20] == 1.0


def test_a_length_in_steps_is_rounded_up_to_epochs() -> None:
    recipe = Recipe(steps=30_000, epochs=1, warmup_epochs=9)
    assert recipe.length(110) == 273
    assert recipe.length(30_000) == 1
    assert Recipe(epochs=7).length(110) == 7


def test_seconds_become_frames_of_the_features() -> None:
    recipe = Recipe(cut_seconds=7.48, slice_seconds=3.0, slice_frames=100)
    assert recipe.settled(0.02).cut_frames == 374
    assert recipe.settled(0.01).cut_frames == 748
    assert recipe.settled(0.02).slice_frames == 100  # the fewer
    assert Recipe().settled(0.02) == Recipe()


def test_selections_and_validation_are_checked_at_once() -> None:
    assert Recipe().with_settings({"selections": "test-WA, val-WF1"}).selections == ("test-WA", "val-WF1")
    with pytest.raises(UsageError, match="unknown selection 'test-AUC'"):
        Recipe(selections=("test-AUC",))
    with pytest.raises(UsageError, match="random-leaky"):
        Recipe(validation="random:0.2")
