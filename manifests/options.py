"""Options declared once: a field of a frozen dataclass, which the command line opens and the code below uses as it is.

What comes in: dataclasses whose fields are annotated with `Option`, as in

    @dataclass(frozen=True, kw_only=True)
    class Split:
        corpus: Annotated[str | None, Option("Corpus in the cache.", metavar="NAME")] = None

and a command that takes such a dataclass as a parameter. What goes out of `opened`: the command with one option for each field,
which puts the dataclass together before it calls the command. An option is added by one field, here or wherever its dataclass is,
and acts where the field is read. Nothing here imports the parser of the command line before a command is opened.

A field's type says how it is written: `tuple[str, ...]` is an option that may be repeated and may hold commas,
`Mapping[str, str]` one that is repeated as KEY=VALUE, `bool` a switch (with a --no- form where its default is True or None),
anything else one value.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar

from tfser.manifests.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """What the command line has to know of a field beyond its name, type and default."""

    help: str
    flag: str | None = None
    """How it is written, `--set`; by default, the field's name with hyphens."""
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    commas: bool = True
    """Of a `tuple[str, ...]`: whether one value may hold several, with commas between them."""

    def written(self, field: str) -> str:
        """Return the option's flag.

        >>> Option("Random seed.").written("checkpoint_every")
        '--checkpoint-every'
        """
        return self.flag or "--" + field.replace("_", "-")


def opened(command: Command) -> Command:
    """Return a command whose parameters that are dataclasses of options are opened into one option for each field.

    Fields without an `Option` are left at their defaults: they belong to the code, not to the command line.

    Raises:
        TypeError: if two fields of the dataclasses share a name.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            shown = {parameter.name: parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)}
        else:
            shown = _options_of(kind)
            groups[parameter.name] = (kind, list(shown))
        if twice := sorted(parameters.keys() & shown.keys()):
            raise TypeError(f"{command.__name__}: two options are called {twice[0]}")
        parameters |= shown

    @functools.wraps(command)
    def call(**given: Any) -> Any:
        for name, (kind, names) in groups.items():
            given[name] = build(kind, {field: given.pop(field) for field in names})
        return command(**given)

    call.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    call.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return call  # type: ignore[return-value]


def build(kind: type, given: Mapping[str, Any]) -> Any:
    """Return a dataclass of options out of what the command line's parser gave for its fields.

    Raises:
        UsageError: if a KEY=VALUE is none.
    """
    values = {}
    for name, (hint, option) in declared(kind).items():
        if name in given:
            values[name] = _read(option.written(name), given[name], hint, option)
    return kind(**values)


def declared(kind: type) -> dict[str, tuple[Any, Option]]:
    """Return the fields of a dataclass that are options, each with its type and its `Option`, in their order."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            plain, *more = typing.get_args(hint)
            option = next((each for each in more if isinstance(each, Option)), None)
            if option is not None:
                found[name] = (plain, option)
    return found


def pairs(flag: str, items: Iterable[str]) -> dict[str, str]:
    """Return repeated KEY=VALUE as a mapping.

    Raises:
        UsageError: if an item is none.

    >>> pairs("--set", ["lr=0.1", "width = 64"])
    {'lr': '0.1', 'width': '64'}
    """
    found = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark or not key.strip() or not value.strip():
            raise UsageError(f"{flag} {item}: write KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def listed(items: Iterable[str]) -> tuple[str, ...]:
    """Return what a repeated option names, each of which may be a list with commas; what is there twice, once.

    >>> listed(["a,b", "b"])
    ('a', 'b')
    """
    return tuple(dict.fromkeys(part.strip() for item in items for part in item.split(",") if part.strip()))


def _options_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters that stand for the fields of a dataclass, as the command line's parser wants them."""
    import typer

    defaults = {f.name: None if f.default is MISSING and f.default_factory is not MISSING else f.default for f in fields(kind)}
    found = {}
    for name, (hint, option) in declared(kind).items():
        flag, default = option.written(name), defaults[name]
        if _is_switch(hint):
            # A switch that may be on without being asked for needs a way to be turned off.
            flag = flag if default is False else f"{flag}/--no-{flag.removeprefix('--')}"
        if _is_many(hint):
            hint, default = list[str] | None, None
        bounds: dict[str, Any] = {name: of for name, of in (("min", option.minimum), ("max", option.maximum)) if of is not None}
        described = typer.Option(flag, help=option.help, metavar=option.metavar, **bounds)
        found[name] = inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=Annotated[hint, described],
        )
    return found


def _read(flag: str, value: Any, hint: Any, option: Option) -> Any:
    """Return what the parser gave as the field's type wants it."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return listed(value or ()) if option.commas else tuple(value or ())
    if origin is Mapping:
        return pairs(flag, value or ())
    return value


def _is_many(hint: Any) -> bool:
    return typing.get_origin(hint) in (tuple, Mapping)


def _is_switch(hint: Any) -> bool:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return bool in kinds
