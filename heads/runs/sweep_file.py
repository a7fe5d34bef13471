"""A sweep written down: a TOML file of defaults and `[[head]]` blocks.

    protocol = "emodb7-speaker"        # corpus, protocol, labels, validation, fold, device ...: as the options of `tfser sweep`
    features = ["logmel"]
    seeds = "0-2"                      # or [0, 1, 2], or 0

    [[head]]
    name = "tf_transformer"
    presets = ["full", "t_f"]          # or "all"
    recipe = "robust"
    epochs = 20

    [[head]]
    name = "tf_mamba"
    seeds = 0                          # what a block says for itself stands before the defaults
    set = { width = 64, branches = ["temporal"] }

The defaults may also stand in a table `[defaults]`. Options on the command line override the defaults, not what a block says for
itself. A key that is not known is an error which names it, where it stands, and the nearest that is known; so is a value of the
wrong kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.heads.runs.plan import HeadBlock, SweepRequest, parse_seeds
from tfser.manifests.errors import UsageError
from tfser.manifests.texts import as_toml, read_text

_BOTH = {
    "preset": "names", "presets": "names", "recipe": "names", "recipes": "names", "features": "names",
    "seed": "seeds", "seeds": "seeds", "epochs": "number", "set": "settings",
}  # fmt: skip
_DEFAULTS = {
    "corpus": "text", "protocol": "text", "labels": "text", "validation": "text", "fold": "folds", "folds": "folds",
    "device": "text", "allow_leaks": "switch", "allow_gaps": "switch", "reference": "switch", "stack": "switch", **_BOTH,
}  # fmt: skip
_HEAD = {"name": "text", **_BOTH}
_SAME = {"preset": "presets", "recipe": "recipes", "seed": "seeds", "fold": "folds", "set": "settings"}
"""What is written, and the field it is for."""


def read_sweep(path: Path) -> SweepRequest:
    """Read a sweep from a TOML file.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is off; the message says where.
    """
    values = as_toml(read_text(path, str(path)), str(path))
    blocks, table = values.pop("head", []), values.pop("defaults", {})
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{path}: write heads as blocks: [[head]], and name = ... below it")
    if not isinstance(table, dict):
        raise UsageError(f"{path}: defaults is a table: [defaults]")
    if twice := sorted(values.keys() & table.keys()):
        raise UsageError(f"{path}: {twice[0]} stands twice, above all tables and in [defaults]")
    found = _fields(f"{path}, defaults", values | table, _DEFAULTS, ("head", "defaults"))
    heads = []
    for number, block in enumerate(blocks, start=1):
        where = f"{path}, [[head]] {number}" + (f" ({block['name']})" if isinstance(block.get("name"), str) else "")
        if "name" not in block:
            _fields(where, block, _HEAD)  # a misspelt `name` is better told as such
            raise UsageError(f"{where}: say name = ...")
        heads.append(HeadBlock(**_fields(where, block, _HEAD)))
    if not heads:
        raise UsageError(f"{path}: no head: write a block [[head]] with name = ...")
    return SweepRequest(heads=tuple(heads), **found)


def _fields(
    where: str, values: Mapping[str, Any], known: Mapping[str, str], also: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the values by field, checked and as the dataclasses want them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            names = [*known, *also]
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(names))}"
            raise UsageError(f"{where}: unknown key {key!r}{hint}")
        name = _SAME.get(key, key)
        if name in found:
            raise UsageError(f"{where}: {key} stands twice: say {key.removesuffix('s')} or {key.removesuffix('s')}s")
        found[name] = _value(f"{where}, {key}", value, known[key])
    return found


def _value(where: str, value: Any, kind: str) -> Any:
    """Return a value as its field wants it."""
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "switch" and isinstance(value, bool):
        return value
    if kind == "number" and _is_whole(value) and value > 0:
        return value
    if kind == "names" and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if kind == "names" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if kind in ("seeds", "folds"):
        texts = [str(value)] if isinstance(value, str) or _is_whole(value) else None
        if isinstance(value, list) and value and all(_is_whole(number) for number in value):
            texts = [str(number) for number in value]
        if texts is not None:
            return ",".join(texts) if kind == "folds" else _seeds(where, ",".join(texts))
    if kind == "settings" and isinstance(value, dict):
        return {name: _text(f"{where}.{name}", of) for name, of in _flat(value).items()}
    wanted = {
        "text": "a text in quotes",
        "switch": "true or false",
        "number": "a whole number above 0",
        "names": "a name or a list of names",
        "seeds": 'a number, a list of numbers or a text such as "0-4"',
        "folds": 'a number, a list of numbers or a text such as "2-4" or "all"',
        "settings": "a table: set = { lr = 0.001 }",
    }
    raise UsageError(f"{where}: {value!r}; write {wanted[kind]}")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name; `head.name`, which TOML reads as a table in a table, is a name of its own."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{inner}": of for inner, of in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _seeds(where: str, text: str) -> tuple[int, ...]:
    try:
        return parse_seeds(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _text(where: str, value: Any) -> str:
    """Return a setting as `--set` would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(each, (str, int, float)) for each in value):
        return ",".join(_text(where, each) for each in value)
    raise UsageError(f"{where}: {value!r}; write a text, a number, true, false or a list of these")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
