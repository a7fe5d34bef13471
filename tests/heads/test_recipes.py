"""Recipes: refused when they make no sense, read from text, written as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tfser.heads.mean_pool import MeanPoolConfig
from tfser.heads.recipes import Recipe
from tfser.heads.tf_transformer import TFTransformerConfig
from tfser.manifests.errors import UsageError


@pytest.mark.parametrize(
    "setting",
    ["lr=0", "epochs=-1", "mixup=0.6", "normalise=corpus", "label_smoothing=1", "precision=float16", "train_hop=0",
     "betas=0.9", "warmup_epochs=99", "gain_db=-1", "optimiser=lion"],
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
