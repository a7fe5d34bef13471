"""What names an experiment: the names of before stay, whatever is added to recipes and heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tfser.heads import HEADS, head
from tfser.heads.runs.experiment import Experiment
from tfser.heads.spec.first_words import _OF_HEADS, named_by
from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings, later
from tfser.heads.training.loop import Trainer


def experiment(name: str, preset: str, recipe: str, **changes: Any) -> Experiment:
    """An experiment with data that exist nowhere."""
    spec = head(name)
    settled = {
        "spec": spec,
        "preset": preset,
        "config": spec.settled(spec.preset(preset), hop_s=0.02, longest=326, device="cpu"),
        "recipe_name": recipe,
        "recipe": replace(spec.recipe(recipe), precision="float32"),
        "corpus": "emodb",
        "feature_set": "logmel",
        "fingerprint": "0123456789ab",
        "dim": 80,
        "protocol": "emodb7-speaker",
        "protocol_hash": "cafe",
        "validation": "none",
        "classes": ("anger", "sadness"),
        "folds": (1,),
        "of_folds": 10,
        "seed": 0,
        "device": "cpu",
        "data_hash": "beef",
        "allow_leaks": False,
        "again": False,
        "chosen": (),
    }
    return Experiment(**settled | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "preset", "recipe", "expected"),
    [
        ("mean_pool", "mlp", "default", "mean_pool-mlp-default-emodb-de80a317d0"),
        ("tf_transformer", "full", "robust", "tf_transformer-full-robust-emodb-44ba742456"),
        ("tf_mamba", "full", "paper", "tf_mamba-full-paper-emodb-0e20d943e2"),
    ],
)
def test_names_are_those_of_the_first_release(name: str, preset: str, recipe: str, expected: str) -> None:
    """Computed by the code of before there were later fields. If this fails, users' finished runs are trained again."""
    assert experiment(name, preset, recipe).name == expected


def test_a_later_field_names_the_experiment_once_it_is_used() -> None:
    plain = experiment("mean_pool", "mlp", "default")
    changed = replace(plain, recipe=replace(plain.recipe, focal=2.0))
    assert changed.name != plain.name
    assert plain.configuration()["recipe_config"]["focal"] == 0.0  # stored all the same
    assert "focal" not in plain.identity()["recipe_config"]
    assert changed.identity()["recipe_config"]["focal"] == 2.0


def test_only_later_fields_are_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Example(Settings):
        old: int = 1
        new: int | None = later(None)
        names: tuple[str, ...] = later(())

    assert Example().identity() == {"old": 1}
    assert Example(new=0, names=("a",)).identity() == {"old": 1, "new": 0, "names": ["a"]}
    assert Example().to_dict() == {"old": 1, "new": None, "names": []}
    assert Example.from_dict(Example(new=3).identity()) == Example(new=3)


FIRST = {
    Recipe: "averaging band_mask_bands band_masks batch_size betas class_weights cmdt cmdt_axis cmdt_bins cmdt_similarity "
    "cmdt_temperature epochs eval_hop gain_db grad_clip jitter label_smoothing lr mixup normalise optimiser own_rate precision "
    "schedule speed summary tilt_db time_mask_frames time_masks train_hop warmup_epochs warp weight_decay",
}


def test_the_recipe_s_first_fields_are_known() -> None:
    """A field that is added without `later` changes the name of every experiment."""
    assert sorted(Recipe().identity()) == FIRST[Recipe].split()


@pytest.mark.parametrize("name", HEADS)
def test_a_stored_identity_gives_the_configuration_back(name: str) -> None:
    spec = head(name)
    for config in (*spec.presets.values(), *spec.recipes.values()):
        assert type(config).from_dict(config.identity()) == config


def test_what_a_recipe_says_of_itself_names_no_experiment() -> None:
    plain = experiment("mean_pool", "mlp", "default")
    assert replace(plain, recipe=replace(plain.recipe, summary="a mended word")).name == plain.name
    assert named_by("mean_pool", "a younger recipe") == ""


YOUNGER = {("logreg", "speaker"), ("svm", "speaker")}
"""Recipes that came after the first releases: they are named without words."""


@pytest.mark.parametrize("name", sorted({name for name, _ in _OF_HEADS}))
def test_names_hold_the_words_of_the_first_releases(name: str) -> None:
    """As long as nobody mends one, they are those of today: then strike it out here, not in `first_words`."""
    spec = head(name)
    for recipe in spec.recipe_names:
        assert named_by(name, recipe) == ("" if (name, recipe) in YOUNGER else spec.recipe(recipe).summary)


@pytest.mark.parametrize("name", ["mean_pool", "tf_transformer"])
def test_what_a_recipe_says_of_itself_is_not_in_a_checkpoint_s_fingerprint(fold: FoldData, name: str) -> None:
    spec = head(name)

    def fingerprint(recipe: Recipe) -> str:
        return Trainer(fold, spec, spec.preset(), recipe, 0, torch.device("cpu")).fingerprint

    recipe = spec.recipe()
    assert fingerprint(recipe) == fingerprint(replace(recipe, summary="a mended word"))
    assert fingerprint(recipe) != fingerprint(replace(recipe, lr=0.5))
