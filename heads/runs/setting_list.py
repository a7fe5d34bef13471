"""The settings of a head and of its recipes: what `--set` takes, with default, choices and meaning.

All of it is read from the dataclasses themselves: the fields, their types, and the texts that stand below them in the source.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from dataclasses import fields
from itertools import pairwise
from typing import Any

from tfser.heads import HEADS, head
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.wording import cell

_FEW = 8
"""So many names are listed in an error; of more, the command that explains them is named."""


def settings_of(spec: HeadSpec, preset: str | None = None, recipe: str | None = None) -> list[dict[str, Any]]:
    """Return one row a setting: those of the architecture, then those of training; `default` is the preset's or recipe's.

    Raises:
        UsageError: There is no such preset or recipe.
    """
    parts: tuple[tuple[str, Settings], ...] = (("architecture", spec.preset(preset)), ("training", spec.recipe(recipe)))
    rows = []
    for part, settings in parts:
        hints, explained = typing.get_type_hints(type(settings)), meanings(type(settings))
        for field in fields(settings):
            unused = part == "training" and spec.recipe_settings is not None and field.name not in spec.recipe_settings
            if unused or field.name == "summary":
                continue
            rows.append(
                {
                    "setting": field.name,
                    "of": part,
                    "default": _written(getattr(settings, field.name)),
                    "takes": _takes(hints[field.name]),
                    "meaning": explained.get(field.name, ""),
                }
            )
    return rows


def _written(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return cell(value).replace(", ", ",")


class UnknownSettingError(UsageError):
    """A setting that the head does not have."""


def setting_names() -> list[str]:
    """Return every name that `--set` knows for some head."""
    names = [field.name for field in fields(Recipe)]
    for name in HEADS:
        names += [field.name for field in fields(head(name).preset())]
    return list(dict.fromkeys(names))


def unknown_setting(spec: HeadSpec, name: str, names: list[str]) -> UnknownSettingError:
    """Return the error for a setting that a head does not have: the nearest by its name, else those whose meaning names it."""
    words = name.casefold().replace("_", " ")
    told = {row["setting"]: row["meaning"].casefold() for row in settings_of(spec) if row["setting"] in names}
    meant = sorted((meaning.find(words), setting) for setting, meaning in told.items() if words in meaning)
    if len(words) > 3 and meant:  # the one whose meaning begins with it
        return UnknownSettingError(f"unknown setting {name!r}; did you mean {meant[0][1]!r}? `tfser heads {spec.name}` lists all")
    listed_by = f"tfser heads {spec.name}" if len(names) > _FEW else None
    explained = "" if listed_by else f"; `tfser heads {spec.name}` explains them"
    return UnknownSettingError(f"{unknown('setting', name, names, listed_by=listed_by)}{explained}")


def meanings(kind: type[Settings]) -> dict[str, str]:
    """Return what the fields of a class mean, by name: the text below each.

    >>> from tfser.heads.spec.recipes import Recipe
    >>> meanings(Recipe)["warmup_epochs"]
    'The learning rate climbs linearly from zero over so many epochs; may be a fraction.'
    """
    found: dict[str, str] = {}
    for part in reversed([base for base in kind.__mro__ if issubclass(base, Settings)]):  # what a class inherits, too
        found |= _texts_below(part)
    return found


def _texts_below(kind: type[Settings]) -> dict[str, str]:
    """Return the text below each field that a class itself declares."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, below in pairwise(tree.body):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(text, str):
            found[node.target.id] = re.sub(r"\s+", " ", text.replace("``", "`")).strip()
    return found


def _takes(hint: Any) -> str:
    """Return what a setting takes, in a word or two.

    >>> _takes(float), _takes(int | None), _takes(typing.Literal["a", "b"]), _takes(tuple[str, ...])
    ('number', 'whole number or none', 'a, b', 'list of texts')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _takes(part) for part in arguments)
    if origin is tuple:
        return f"list of {_takes(arguments[0])}s"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(hint, str(hint))
