"""A command's dataclasses of options, opened into one option for each field, as the parser of the command line wants them.

In: a plain function, whose parameters are dataclasses of `Option` fields (`tfser.manifests.options`), single options annotated
with `Option`, or whatever the parser knows by itself, such as its arguments. Out of `opened`: the function that the parser is
given; it puts the dataclasses together before it calls the command. Nothing is computed or printed here.

A parameter annotated `Annotated[Mapping[str, Any], Said(KIND)]` gets of KIND only the fields that were given on the command
line: for options that stand before what a file says.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tfser.manifests.catalogue.keeping import kept_open
from tfser.manifests.options import Declared, build, declared, option_of, values

_CONTEXT = "parser_context"

_METAVARS: dict[type, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""What stands for a value of a type in help, where an option says nothing else: words for people, no names of Python's types."""


@dataclass(frozen=True)
class Said:
    """Marks a parameter that gets the fields of a dataclass which were given on the command line, and no others."""

    kind: type


def opened(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with one option for each field of its parameters that are dataclasses of options.

    Raises:
        TypeError: if two options share a name.
    """
    # Typer reads a command by its signature, so that is what is made here: fields become options and the
    # dataclasses are put together again when the command is called. What has no field stays as it was declared.
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, tuple[type, bool]] = {}
    single: dict[str, Declared] = {}
    for parameter in inspect.signature(command).parameters.values():
        name, hint = parameter.name, hints[parameter.name]
        kind, only_said = _kind_of(hint)
        if kind is not None:
            shown = {option.name: _as_parameter(option) for option in declared(kind).values()}
            groups[name] = (kind, only_said)
        elif (one := option_of(name, hint, _default_of(parameter), None)) is not None:
            shown, single[name] = {name: _as_parameter(one)}, one
        else:
            shown = {name: parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)}
        if twice := sorted(parameters.keys() & shown.keys()):
            raise TypeError(f"{command.__name__}: two options are called {twice[0]}")
        parameters |= shown
    if any(only_said for _, only_said in groups.values()):
        parameters[_CONTEXT] = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    # The way back: the parser hands over single values, and the command gets the dataclasses that it declared.
    @functools.wraps(command)
    def call(**given: Any) -> Any:
        context = given.pop(_CONTEXT, None)
        for name, option in single.items():
            given[name] = option.default if given[name] is None else option.value(given[name])
        for name, (kind, only_said) in groups.items():
            of_group = {field: given.pop(field) for field in declared(kind)}
            given[name] = values(kind, _said(context, of_group)) if only_said else build(kind, of_group)
        with kept_open():
            return command(**given)

    call.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    call.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return call


def _kind_of(hint: Any) -> tuple[type | None, bool]:
    """Return the dataclass of options that a parameter is (None: it is none), and whether only what was said counts."""
    if typing.get_origin(hint) is Annotated:
        marks = [mark for mark in typing.get_args(hint)[1:] if isinstance(mark, Said)]
        return (marks[0].kind, True) if marks else (None, False)
    return (hint, False) if isinstance(hint, type) and is_dataclass(hint) else (None, False)


def _said(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Return those values that stand on the command line; the parser fills in the defaults of all others."""
    sources = {name: context.get_parameter_source(name) for name in given}
    return {name: given[name] for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _default_of(parameter: inspect.Parameter) -> Any:
    return MISSING if parameter.default is inspect.Parameter.empty else parameter.default


def _as_parameter(declared_option: Declared) -> inspect.Parameter:
    """Return the parameter that stands for an option, as the parser wants it."""
    flag, hint, default, option = declared_option.flag, declared_option.hint, declared_option.default, declared_option.option
    if declared_option.is_switch and (default is not False or option.negative):
        # A switch that may be on without being asked for needs a way to be turned off.
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    if declared_option.is_many:
        hint, default = list[str] | None, None
    elif option.read is not None:
        hint, default = str | None, None
    bounds: dict[str, Any] = {
        name: bound for name, bound in (("min", option.minimum), ("max", option.maximum)) if bound is not None
    }
    metavar = option.metavar or _metavar_of(hint)
    described = typer.Option(flag, help=option.help, metavar=metavar, rich_help_panel=declared_option.panel, **bounds)
    return inspect.Parameter(
        declared_option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[hint, described],
    )


def _metavar_of(hint: Any) -> str | None:
    """Return what stands for a value of a type in help; None where the parser lists the values itself, or there is none."""
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    return _METAVARS.get(kinds[0]) if len(kinds) == 1 else None
