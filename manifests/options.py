"""Options declared once: a field of a frozen dataclass, which the command line opens and the code below uses as it is.

What comes in: dataclasses whose fields are annotated with `Option`, as in

    @dataclass(frozen=True, kw_only=True)
    class Split:
        panel: ClassVar = "Data and split"
        corpus: Annotated[str | None, Option("Corpus in the cache.", metavar="NAME")] = None

A command takes such a dataclass as a parameter (`tfser.manifests.commands.opening` makes options of its fields), and a file may
hold the same fields as keys (`tfser.heads.runs.sweep_file`). An option is added by one field and acts where the field is read.
Nothing here knows the parser of the command line.

A field's type says how it is written: `tuple[str, ...]` is an option that may be repeated and may hold commas,
`Mapping[str, str]` one that is repeated as KEY=VALUE, `bool` a switch (with a --no- form where its default is True or None),
anything else one value. `panel`, of the class that declares a field, is the heading under which a command's help shows it.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeVar

from tfser.manifests.errors import UsageError

Kind = TypeVar("Kind")


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
    negative: bool = False
    """Of a switch that is off by default: whether it has a --no- form, for where a file turned it on."""
    panel: str | None = None
    """The heading of a command's help that it stands under, instead of its class's."""
    also: str | None = None
    """Another key that it has in files."""
    numbers: bool = False
    """Whether it is a text that lists numbers (3, 1,3 or 2-4), which a file may write as numbers."""
    read: Callable[[str], Any] | None = None
    """What makes the field's value of its text, where that is none of the kinds above."""

    def written(self, field: str) -> str:
        """Return the option's flag.

        >>> Option("Random seed.").written("checkpoint_every")
        '--checkpoint-every'
        """
        return self.flag or "--" + field.replace("_", "-")


@dataclass(frozen=True)
class Declared:
    """A field that is an option: its type, its `Option`, its default (`MISSING` where it has to be given) and its heading."""

    name: str
    hint: Any
    option: Option
    default: Any
    panel: str | None

    @property
    def flag(self) -> str:
        """How it is written."""
        return self.option.written(self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        """How it is called in files: as on the command line, without the hyphens in front, or by its name here."""
        keys = (self.flag.removeprefix("--").replace("-", "_"), self.name, self.option.also)
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    @property
    def is_many(self) -> bool:
        """Whether it may be repeated."""
        return self.option.read is None and typing.get_origin(self.hint) in (tuple, Mapping)

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return bool in (typing.get_args(self.hint) or (self.hint,))

    def value(self, given: Any) -> Any:
        """Return what the command line's parser gave as the field's type wants it.

        Raises:
            UsageError: if a KEY=VALUE is none, a number is not finite, or a text is none that the field takes.
        """
        if isinstance(given, float) and not math.isfinite(given):
            raise UsageError(f"{self.flag} {given}: a finite number is wanted")
        if self.option.read is not None:
            return self.option.read(given)
        if typing.get_origin(self.hint) is tuple:
            return listed(given or ()) if self.option.commas else tuple(given or ())
        if typing.get_origin(self.hint) is Mapping:
            return pairs(self.flag, given or ())
        return given


def declared(kind: type) -> dict[str, Declared]:
    """Return the fields of a dataclass that are options: what has to be given, its own ones, those of what it is made of.

    Fields without an `Option` belong to the code, not to the command line.
    """
    return dict(_declared(kind))


@functools.cache
def _declared(kind: type) -> dict[str, Declared]:
    """Return what `declared` does; read once a class, since to evaluate its annotations takes milliseconds."""
    hints = typing.get_type_hints(kind, include_extras=True)
    of_field = {option.name: option for option in fields(kind)}
    options: dict[str, Declared] = {}
    for declaring in kind.__mro__:
        for name in inspect.get_annotations(declaring):
            if name in of_field and name not in options:
                field = of_field[name]
                plain = field.default if field.default_factory is MISSING else field.default_factory()
                if (option := option_of(name, hints[name], plain, getattr(declaring, "panel", None))) is not None:
                    options[name] = option
    return dict(sorted(options.items(), key=lambda item: item[1].default is not MISSING))


def option_of(name: str, hint: Any, default: Any, panel: str | None) -> Declared | None:
    """Return what an annotation declares, None if that is no option."""
    if typing.get_origin(hint) is not Annotated:
        return None
    plain, *more = typing.get_args(hint)
    option = next((each for each in more if isinstance(each, Option)), None)
    if option is None:
        return None
    return Declared(name=name, hint=plain, option=option, default=default, panel=option.panel or panel)


def build(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Return a dataclass of options out of what the command line's parser gave for its fields.

    Raises:
        UsageError: as `Declared.value`.
    """
    return kind(**values(kind, given))


def values(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of those fields of a dataclass for which the parser gave one; None leaves a field at its default.

    Raises:
        UsageError: as `Declared.value`.
    """
    return {name: of.value(given[name]) for name, of in declared(kind).items() if given.get(name) is not None}


def shared(kind: type, values_of: Any) -> dict[str, Any]:
    """Return the fields of a dataclass out of another one that is made of it, to make a third one."""
    return {field.name: getattr(values_of, field.name) for field in fields(kind)}


def pairs(flag: str, items: Iterable[str]) -> dict[str, str]:
    """Return repeated KEY=VALUE as a mapping.

    Raises:
        UsageError: if an item is none.

    >>> pairs("--set", ["lr=0.1", "width = 64"])
    {'lr': '0.1', 'width': '64'}
    """
    values = {}
    for item in items:
        key, mark, value = item.partition("=")
        if not mark or not key.strip() or not value.strip():
            raise UsageError(f"{flag} {item}: write KEY=VALUE")
        values[key.strip()] = value.strip()
    return values


def listed(items: Iterable[str]) -> tuple[str, ...]:
    """Return what a repeated option names, each of which may be a list with commas; what is there twice, once.

    >>> listed(["a,b", "b"])
    ('a', 'b')
    """
    return tuple(dict.fromkeys(part.strip() for item in items for part in item.split(",") if part.strip()))
