"""What a request names, looked up: the head, its configuration and its recipe, with the settings that were asked for.

What comes in: a request, and the cache where the head is left to the features. What goes out: `AskedHead`. Of the data nothing
is known here but the kind of its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfser.heads import head
from tfser.heads.runs.head_choice import with_head
from tfser.heads.runs.request import Request
from tfser.heads.runs.setting_list import unknown_setting
from tfser.heads.runs.target import check_learns, check_one_answer, without_classes
from tfser.heads.spec.head import HeadSpec, Network
from tfser.heads.spec.recipes import PLAIN, Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.cache import Cache


@dataclass(frozen=True, kw_only=True)
class TrainedBy:
    """A head with its variant and configuration, and the way it is trained: what both a request and an experiment settle."""

    spec: HeadSpec
    preset: str
    config: Settings
    recipe_name: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class AskedHead(TrainedBy):
    """What a request names, looked up: the head, and its configuration and recipe with the settings that were asked for."""

    request: Request
    """With its head, where that was left to the features."""
    changes: tuple[str, ...]
    """Settings that differ from those of the preset and the recipe, as KEY=VALUE: a part of the experiment's name."""
    chosen: tuple[str, ...]
    """Why this head, where it was chosen by the features."""


def asked_head(cache: Cache, request: Request) -> AskedHead:
    """Look up what a request names, before anything is known of its data.

    Raises:
        UsageError: if a head, preset, recipe or setting is unknown, or the head cannot learn what is asked.
    """
    request, why = with_head(cache, request)
    spec = head(request.head)
    preset, recipe_name = request.preset or spec.default_preset, request.recipe or spec.default_recipe
    # `--width`, `--epochs` and `--labels-from` go the way of every setting, and so into the experiment's name.
    config, recipe, changes = _with_settings(spec, spec.preset(preset), spec.recipe(recipe_name), _settings(spec, request))
    if request.targets and not request.learns_classes:
        check_one_answer(request.labels_from, request.targets)
        recipe, off = without_classes(recipe, request.settings)
        changes += off
    check_learns(spec, request.targets, request.learns_classes)
    return AskedHead(
        request=request,
        spec=spec,
        preset=preset,
        recipe_name=recipe_name,
        config=config,
        recipe=recipe,
        changes=tuple(changes),
        chosen=() if why is None else (why,),
    )


def _settings(spec: HeadSpec, request: Request) -> dict[str, str]:
    """Return what is asked of recipe and architecture: `--width`, `--epochs`, `--labels-from` are settings, too.

    So they are a part of what settings make of a recipe's name. A baseline has no epochs to shorten and takes one label an
    utterance, which is said instead of refused, since sweeps ask all their heads alike.

    Raises:
        UsageError: `--labels-from` is neither label nor distribution.
    """
    settings = ({} if request.width is None else {"width": str(request.width)}) | dict(request.settings)
    if request.epochs is not None and isinstance(spec, Network):
        settings["epochs"] = str(request.epochs)
    if request.labels_from is not None:
        PLAIN.with_settings({"labels_from": request.labels_from})  # a word that is none is refused of baselines, too
    if request.labels_from is not None and isinstance(spec, Network):
        settings["labels_from"] = request.labels_from
    return settings


def _with_settings(
    spec: HeadSpec, config: Settings, recipe: Recipe, settings: Mapping[str, str]
) -> tuple[Settings, Recipe, list[str]]:
    """Apply `--set` to the recipe or, for names that it does not know, to the architecture; return what differs now."""
    recipe_names, config_names = recipe.to_dict(), config.to_dict()
    del recipe_names["summary"]  # words for people
    if spec.recipe_settings is not None:
        recipe_names = {name: value for name, value in recipe_names.items() if name in spec.recipe_settings}
    # A setting that nobody knows is refused before any is applied: half of a `--set` would be an experiment of its own.
    for key in settings:
        if key not in recipe_names and key not in config_names:
            raise unknown_setting(spec, key, [*recipe_names, *config_names])
    of_recipe = {k: v for k, v in settings.items() if k in recipe_names}
    if "epochs" in of_recipe and "warmup_epochs" not in of_recipe:  # a short training warms up for half of it at most
        epochs = recipe.with_settings({"epochs": of_recipe["epochs"], "warmup_epochs": "0"}).epochs
        of_recipe["warmup_epochs"] = str(min(recipe.warmup_epochs, epochs / 2))
    if "epochs" in of_recipe and "steps" not in of_recipe:
        of_recipe["steps"] = "none"
    # What is asked and is so anyway is no change: both ways of asking find the same runs.
    new_recipe = recipe.with_settings(of_recipe)
    new_config = config.with_settings({k: v for k, v in settings.items() if k not in recipe_names})
    changes = [
        f"{key}={value}"
        for old, new in ((recipe.to_dict(), new_recipe.to_dict()), (config_names, new_config.to_dict()))
        for key, value in sorted(new.items())
        if old[key] != value and key != "parts"  # how a batch is computed, which is settled by what it holds
    ]
    return new_config, new_recipe, changes
