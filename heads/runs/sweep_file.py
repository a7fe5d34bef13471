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

The keys are the fields of `SweepRequest` and `HeadBlock` (`tfser.heads.runs.request`), which are the options of the command line.
The defaults may also stand in a table `[defaults]`. Options on the command line override the defaults, not what a block says for
itself. A key that is not known is an error which names it, where it stands, and the nearest that is known; so is a value of the
wrong kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from tfser.heads.runs.request import HeadBlock, SweepRequest
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import Declared, declared, listed
from tfser.manifests.texts import as_toml, read_text


def read_sweep(path: Path) -> SweepRequest:
    """Read a sweep from a TOML file.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is off; the message says where.
    """
    values = as_toml(read_text(path, str(path)), str(path))
    # Keys may stand above all tables or in [defaults], as TOML files of either habit have them; in both it is
    # an error, since nobody knows which was meant.
    blocks, table = values.pop("head", []), values.pop("defaults", {})
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{path}: write heads as blocks: [[head]], and name = ... below it")
    if not isinstance(table, dict):
        raise UsageError(f"{path}: defaults is a table: [defaults]")
    if twice := sorted(values.keys() & table.keys()):
        raise UsageError(f"{path}: {twice[0]} stands twice, above all tables and in [defaults]")
    fields = read_fields(f"{path}, defaults", values | table, SweepRequest, ("head", "defaults"))
    heads = []
    for number, block in enumerate(blocks, start=1):
        where = f"{path}, [[head]] {number}" + (f" ({block['name']})" if isinstance(block.get("name"), str) else "")
        if "name" not in block:
            read_fields(where, block, HeadBlock)  # a misspelt `name` is better told as such
            raise UsageError(f"{where}: say name = ...")
        heads.append(HeadBlock(**read_fields(where, block, HeadBlock)))
    if not heads:
        raise UsageError(f"{path}: no head: write a block [[head]] with name = ...")
    return SweepRequest(heads=tuple(heads), **fields)


def asked(file: Path | None, heads: Sequence[str], given: Mapping[str, Any]) -> SweepRequest:
    """Return what a file and options ask for; options stand before the file's defaults.

    Args:
        file: a sweep written down, or None.
        heads: names; with a file, only these of its blocks.
        given: by field of `SweepRequest`, what was given beside the file; settings are added to the file's.

    Raises:
        UsageError: if the file is off, or has no block for a head that is named.
    """
    request = read_sweep(file) if file is not None else SweepRequest(heads=tuple(HeadBlock(name=name) for name in heads))
    if file is not None and heads:
        known = [block.name for block in request.heads]
        for name in heads:
            if name not in known:
                raise unknown(f"head of {file}", name, list(dict.fromkeys(known)))
        request = replace(request, heads=tuple(block for block in request.heads if block.name in heads))
    settings = {**request.settings, **given.get("settings", {})}
    return replace(request, **{**given, "settings": settings})


def read_fields(where: str, values: Mapping[str, Any], kind: type, also: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values by field of a dataclass of options, checked and as its types want them.

    Args:
        where: for errors.
        values: by key.
        kind: the dataclass.
        also: keys that stand there for something else, for errors.
    """
    by_key = {key: field for field in declared(kind).values() for key in field.keys}
    values_read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in by_key:
            names = [*by_key, *also]
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(names))}"
            raise UsageError(f"{where}: unknown key {key!r}{hint}")
        field = by_key[key]
        if field.name in values_read:
            raise UsageError(f"{where}: {key} stands twice: say {' or '.join(field.keys)}")
        values_read[field.name] = _value(f"{where}, {key}", value, field)
    return values_read


def _value(where: str, value: Any, field: Declared) -> Any:
    """Return a value as its field wants it.

    Raises:
        UsageError: if it is of another kind; the message says what to write.
    """
    kind = _kind_of(field)
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "switch" and isinstance(value, bool):
        return value
    if kind == "number" and _is_whole(value) and value >= (field.option.minimum or 0):
        return value
    if kind == "names" and isinstance(value, str):
        return listed([value])
    if kind == "names" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if kind == "numbers" and (text := _numbers(value)) is not None:
        return text if field.option.read is None else _read(where, text, field.option.read)
    if kind == "settings" and isinstance(value, dict):
        return {name: _text(f"{where}.{name}", of) for name, of in _flat(value).items()}
    raise UsageError(f"{where}: {value!r}; write {_WANTED[kind]}")


_WANTED = {
    "text": "a text in quotes",
    "switch": "true or false",
    "number": "a whole number above 0",
    "names": "a name or a list of names",
    "numbers": 'a number, a list of numbers or a text such as "0-4"',
    "settings": "a table: set = { lr = 0.001 }",
}


def _kind_of(field: Declared) -> str:
    """Return how a file writes an option, by the field's type."""
    if field.option.numbers:
        return "numbers"
    if field.is_switch:
        return "switch"
    if field.is_many:
        return "settings" if get_origin(field.hint) is Mapping else "names"
    return "number" if int in (get_args(field.hint) or (field.hint,)) else "text"


def _numbers(value: Any) -> str | None:
    """Return numbers as the command line writes them; None if these are none."""
    if isinstance(value, str) or _is_whole(value):
        return str(value)
    if isinstance(value, list) and value and all(_is_whole(number) for number in value):
        return ",".join(map(str, value))
    return None


def _read(where: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name; `head.name`, which TOML reads as a table in a table, is a name of its own."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{inner}": of for inner, of in value.items()} if isinstance(value, dict) else {name: value}
    return flat


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
