"""Settings: immutable configurations of heads and of ways of training, read from text, stored with every result.

What comes in: numbers, words, or text as `--set name=value` gives it. What goes out: a dataclass that is valid once it exists,
the dictionary that a run stores (`Settings.to_dict`), and the one that names an experiment (`Settings.identity`).
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

from tfser.manifests.errors import UsageError, unknown

T = TypeVar("T")

SMALLEST, LARGEST = 1e-30, 1e30
"""Between which a setting that is not 0 lies: float32 goes to 1e38 either way, and there is room for a product."""

_LATER = "added later"


def later(default: T) -> T:
    """Return the default of a field that is added to a `Settings` class that runs are already named by.

    Such a field is left out of what names an experiment while it is at its default (`Settings.identity`), so that finished runs
    are found again by a newer version.
    """
    return field(default=default, metadata={_LATER: True})


@dataclass(frozen=True)
class Bound:
    """What the numbers of a setting may be, declared where the setting is: `lr: Annotated[float, ABOVE_0]`.

    `words` say it in the error of a value that is out of it. Of a tuple, each number is held to it; None is no number.
    """

    words: str
    holds: Callable[[float], bool]


ABOVE_0 = Bound("above 0", lambda value: value > 0)
ABOVE_0_TO_1 = Bound("above 0, at most 1", lambda value: 0 < value <= 1)
AT_LEAST_0 = Bound("0 or more", lambda value: value >= 0)
AT_LEAST_1 = Bound("1 or more", lambda value: value >= 1)
BELOW_1 = Bound("from 0 to below 1", lambda value: 0 <= value < 1)
SHARE = Bound("from 0 to 1", lambda value: 0 <= value <= 1)
UP_TO_HALF = Bound("from 0 to 0.5", lambda value: 0 <= value <= 0.5)
INSIDE_0_1 = Bound("between 0 and 1", lambda value: 0 < value < 1)


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """What a field may be."""

    words: tuple[str, ...]
    """One of these; none: any."""
    bound: Bound | None
    is_optional: bool
    types: tuple[type, ...]
    """Of the value, or of each value of a tuple."""

    def fits(self, value: object) -> bool:
        """Tell whether a value is of the type that its field declares; a truth value is no number, a whole number a fraction."""
        if value is None:
            return self.is_optional
        values = value if isinstance(value, tuple) else (value,)
        kinds = (*self.types, int) if float in self.types else self.types
        return all(isinstance(each, kinds) and (bool in kinds or not isinstance(each, bool)) for each in values)


@functools.cache
def _declared(kind: type) -> Mapping[str, _Declared]:
    """Return what each field of a dataclass may be."""
    declared = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is ClassVar:
            continue
        bound = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bound)), None)
        plain = hint.__origin__ if bound is not None else hint
        words = typing.get_args(plain) if typing.get_origin(plain) is Literal else ()
        types = tuple(dict.fromkeys(_types(plain)))
        declared[name] = _Declared(words=words, bound=bound, is_optional=type(None) in types, types=types)
    return declared


def _types(hint: Any) -> list[type]:
    """Return the plain types of an annotation: of a tuple those of its values, of words theirs."""
    if typing.get_origin(hint) is Literal:
        return [type(word) for word in typing.get_args(hint)]
    inner = [each for each in typing.get_args(hint) if each is not Ellipsis]
    return [found for each in inner for found in _types(each)] if inner else [hint]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration: immutable, valid once constructed, stored with every result.

    Subclasses are frozen keyword-only dataclasses whose fields are numbers, strings, booleans, tuples of these or None. What a
    field may be is declared in its annotation: a Literal, or a `Bound` of its numbers. What several fields have to agree in, a
    subclass's ``__post_init__`` checks.

    Raises:
        UsageError: A value is not what its field declares, or no number that can be computed with.
    """

    called: ClassVar[str] = ""
    """What errors call a setting of this kind."""

    def __post_init__(self) -> None:
        for name, declared in _declared(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            value = getattr(self, name)
            if declared.words and value not in declared.words:
                raise unknown(name, str(value), declared.words)
            if not declared.fits(value):
                wanted = " or ".join("none" if kind is type(None) else kind.__name__ for kind in declared.types)
                raise UsageError(f"{self.called}{name}={value!r}: not a value of type {wanted}")
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    checked_number(f"{self.called}{name}", number)
                    if (bound := declared.bound) is not None and not bound.holds(number):
                        raise self._off(name, f"{bound.words}, or none" if declared.is_optional else bound.words)

    def _off(self, name: str, wanted: str) -> UsageError:
        """Return the error of a value that makes no sense."""
        return UsageError(f"{self.called}{name}={getattr(self, name)}: must be {wanted}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold (tuples as lists)."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """Return what names an experiment: `to_dict` without the fields of `later` that are at their defaults.

        A field that is added from now on has to be declared with `later`, or every finished run is trained again.
        """
        neutral = {f.name for f in fields(self) if f.metadata.get(_LATER) and getattr(self, f.name) == f.default}
        return {name: value for name, value in self.to_dict().items() if name not in neutral}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that ``to_dict`` described; fields that it lacks take their defaults.

        Raises:
            UsageError: A field is unknown or its value makes no sense.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown(f"{cls.__name__} setting", name, known)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def with_settings(self, settings: Mapping[str, str]) -> Self:
        """Return a copy with some fields set from text, as the command line's ``--set name=value`` gives them.

        Raises:
            UsageError: A field is unknown, its text does not read as the field's type, or its value makes no sense.
        """
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class is hashable
        known = [f.name for f in fields(self)]
        values: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in known:
                raise unknown(f"{type(self).__name__} setting", name, known)
            values[name] = _parse(name, text, hints[name])
        return replace(self, **values)


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Return the types of a configuration's fields, by name; evaluated once a class."""
    return typing.get_type_hints(kind)


def _parse(name: str, text: str, hint: Any) -> Any:
    """Return ``text`` as a value of the annotated type ``hint``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    try:
        if origin in (typing.Union, types.UnionType):
            if text.lower() in ("none", "null") and type(None) in arguments:
                return None
            return _parse(name, text, next(a for a in arguments if a is not type(None)))
        if origin is tuple:
            items = [item for item in text.strip("()[] ").split(",") if item.strip()]
            return tuple(_parse(name, item.strip(), arguments[0]) for item in items)
        if hint is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if hint is int:
            return checked_number(name, int(text))
        if hint is float:
            return checked_number(name, float(text))
    except (KeyError, ValueError) as error:
        expected = getattr(hint, "__name__", str(hint))
        raise UsageError(f"{name}={text}: not a value of type {expected}") from error
    return text  # strings and literals, which the dataclass itself checks


Number = TypeVar("Number", int, float)


def checked_number(name: str, value: Number) -> Number:
    """Return a setting's number if float32 (or, a whole one, the catalogue's INTEGER) can hold it and compute with it.

    Raises:
        UsageError: It is infinite, no number, too large, or so small that it would be zero.
    """
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise UsageError(f"{name}={value}: must be below {2**31:,}")
    elif not (value == 0 or SMALLEST <= abs(value) <= LARGEST):
        raise UsageError(f"{name}={value}: must be 0, or from {SMALLEST:g} to {LARGEST:g}: float32 has no room for others")
    return value
