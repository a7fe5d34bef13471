"""`tfser heads`: the heads with their presets and recipes, or the settings of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tfser.heads import TABLE_ONE, head, head_names
from tfser.heads.runs.setting_list import setting_names, settings_of
from tfser.heads.spec import lineages
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.recipes import FRAMES_RECIPES
from tfser.manifests.commands.printing import Format
from tfser.manifests.display import Output, print_rows, say, show, terminal_width
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.plugins import HEADS as GROUP
from tfser.manifests.plugins import PluginError, with_origins
from tfser.manifests.widths import at_words
from tfser.pipeline.features.registry import UPSTREAMS


def heads(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A head: its settings, with default and meaning.")] = None,
    *,
    preset: Annotated[str | None, Option("With NAME: the defaults of this one.", metavar="NAME")] = None,
    recipe: Annotated[str | None, Option("With NAME: the defaults of this one.", metavar="NAME")] = None,
    format: Format = Output.table,
) -> None:
    """List the heads with their presets (architectures) and recipes (ways of training), or what `--set` takes for one head.

    Raises:
        UsageError: if there is no such head, preset or recipe.

    Example:
        tfser heads mean_pool --recipe robust
    """
    if name is not None:
        spec = head(name)
        _print_settings(spec, preset, recipe, format)
        return
    if preset or recipe:
        raise UsageError("--preset and --recipe go with the name of a head: tfser heads NAME")
    rows = with_origins([_row(called) for called in head_names()], "head", GROUP, always=format is not Output.table)
    shared = lineages.listed()
    # People get three short tables; programs get one, whose rows of lineages name no head.
    if format is Output.table:
        print_rows([row for row in rows if row["head"] not in TABLE_ONE], format)
        show("", f"TF-Mamba's Table I compares it with these (recipes: {', '.join(FRAMES_RECIPES)}):")
        print_rows([row for row in rows if row["head"] in TABLE_ONE], format, ["head", "presets", "about"])
        show("", "recipes of published lineages, for every head with a network, and the selections that they report:")
        print_rows(shared, format, ["recipe", "reports", "about"])
        say("selections that begin with test- chose their epoch on the test fold: upper bounds, and no results")
    else:
        every: list[dict[str, Any]] = [{"head": None, "presets": None, "recipes": of["recipe"], **of} for of in shared]
        columns = [*rows[0], *(column for column in shared[0] if column not in (*rows[0], "recipe"))]
        print_rows([dict.fromkeys(columns) | row for row in (*rows, *every)], format, columns)


def _row(called: str) -> dict[str, Any]:
    """Return what the list says of a head; a plug-in that does not load stands there with its reason: it hides no other head."""
    try:
        spec = head(called)
    except PluginError as error:
        return {"head": called, "presets": "", "recipes": "", "about": str(error)}
    return {
        "head": called,
        "presets": _default_first(spec.default_preset, spec.presets),
        "recipes": _default_first(spec.default_recipe, spec.recipes),
        "about": f"{spec.summary} ({spec.source})",
    }


def _print_settings(spec: HeadSpec, preset: str | None, recipe: str | None, format: Output) -> None:
    """Print what `--set` takes: a table for the architecture and one for the training, each below whose defaults it shows."""
    rows = settings_of(spec, preset, recipe)
    if format is not Output.table:
        print_rows(rows, format)
        return
    columns = ["setting", "default", "takes", "meaning"]
    preset, recipe = preset or spec.default_preset, recipe or spec.default_recipe
    show(*at_words(f"{spec.name}: {spec.summary} ({spec.source})", terminal_width()))
    for part, of in (("architecture", f"preset {preset}"), ("training", f"recipe {recipe}")):
        if found := [row for row in rows if row["of"] == part]:
            show("", f"{part}, with the defaults of {of}:")
            print_rows(found, format, columns)
    say("", f"--preset: {', '.join(spec.presets)}", f"--recipe: {', '.join(spec.recipe_names)}")
    say(f"for instance: tfser train --head {spec.name} --preset {preset} --recipe {recipe} --set {rows[0]['setting']}=VALUE")


def _default_first(default: str, names: Iterable[str]) -> str:
    return ", ".join([default, *(name for name in names if name != default)])


def known_settings() -> list[str]:
    """Return every name that `--set` knows, of heads and of features: for errors."""
    return [*setting_names(), *(name for upstream in UPSTREAMS.values() for name in upstream.options)]
