"""A digest of somebody's code: of a class or function, and of what it uses of the file that it stands in.

What comes in: a class or a function. What goes out: 16 hexadecimal digits, which change when its source does, or that of a class
or function of the same module that it uses or inherits from, or a constant that it reads there, a default value, or a value of
the function around it. What other modules hold is theirs: their versions stand in each run. Nothing is called.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from tfser.manifests.errors import UsageError

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def digest_of(build: Callable[..., Any]) -> str:
    """Return the digest.

    Raises:
        UsageError: the source of it, or of something that it uses of its own module, cannot be read; or a value of the function
            around it cannot be told from another.
    """
    uses = _Uses(getattr(build, "__module__", None))
    uses.look_at(build)
    text = _source(build)
    # A class that stands for itself has the digest that it always had.
    if uses.found:
        text += "".join(f"\n{name} = {value}" for name, value in sorted(uses.found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Uses:
    """What code uses beside itself: pairs of a name and what tells it from another of that name."""

    def __init__(self, module: str | None) -> None:
        self.found: set[tuple[str, str]] = set()
        self._module = module
        self._seen: set[int] = set()

    def look_at(self, thing: Any) -> None:
        """Collect what a class or function uses, and what that uses in turn."""
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type):
            for base in thing.__mro__[1:]:
                if base.__module__ == self._module:
                    self._add(base.__qualname__, base, must=True)
            for function in (each for value in vars(thing).values() for each in _functions(value)):
                self._function(function)
        elif isinstance(thing, FunctionType):
            self._function(thing)

    def _function(self, function: FunctionType) -> None:
        # A decorator of another module is its own matter; what it wraps is ours.
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None and function.__globals__.get("__name__") != self._module:
            self.look_at(wrapped)
            return
        # Wrapped by a decorator, a function stands in the wrapper's closure; its own code is read there.
        for name, value in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = value.cell_contents
            except ValueError:  # not filled yet: a function that names itself
                continue
            if name != "__class__":
                self._add(name, content, must=True)
        for place, value in enumerate(function.__defaults__ or ()):
            self._add(f"{function.__qualname__}, default {place}", value, must=False, of_source=True)
        for name, value in (function.__kwdefaults__ or {}).items():
            self._add(f"{function.__qualname__}, default {name}", value, must=False, of_source=True)
        for name in _globals_of(function.__code__):
            if name in function.__globals__:
                self._add(name, function.__globals__[name], must=False)

    def _add(self, name: str, value: Any, *, must: bool, of_source: bool = False) -> None:
        """Add a value under a name.

        Args:
            name: how the code calls it.
            value: what that is.
            must: whether a value that cannot be told from another is an error; else it is passed over.
            of_source: whether the source says the value already, unless it was computed.
        """
        if isinstance(value, ModuleType) or id(value) in self._seen:
            return
        if isinstance(value, (type, FunctionType)):
            if value.__module__ == self._module:
                self.found.add((name, _source(value)))
                self.look_at(value)
            elif value.__name__ != name:  # called otherwise than where it is from: which one it is, is not in the source
                self.found.add((name, f"{value.__module__}.{value.__qualname__}"))
            return
        if of_source and isinstance(value, _CONSTANTS):
            return
        text = _written(value)
        if " at 0x" not in text:
            self.found.add((name, text))
        elif must:
            raise UsageError(
                f"the value of {name!r} ({type(value).__name__}) cannot be told from another one, so its runs would not be told "
                "from another's; give a version="
            )


def _written(value: Any) -> str:
    """Return a value as text: the same in every process, and another for another value.

    >>> _written({"b", "a"}), _written([1, {"k": (2.0,)}])
    ("set('a', 'b')", "list(1, dict('k', tuple(2.0)))")
    """
    if isinstance(value, (set, frozenset)):  # whose order differs from process to process
        return f"{type(value).__name__}({', '.join(sorted(map(_written, value)))})"
    if isinstance(value, (list, tuple, dict)):
        each = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
        return f"{type(value).__name__}({', '.join(map(_written, each))})"
    if hasattr(value, "__array__"):  # arrays and tensors, of which only the ends are printed
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if not array.dtype.hasobject:
            return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    return repr(value)


def _functions(value: Any) -> list[FunctionType]:
    """Return the functions that an attribute of a class is made of, whatever they are wrapped in."""
    if isinstance(value, property):
        parts: tuple[Any, ...] = (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.cached_property):
        parts = (value.func,)
    else:
        parts = (getattr(value, "__func__", value),)
    return [part for part in parts if isinstance(part, FunctionType)]


def _globals_of(code: CodeType) -> Iterator[str]:
    """Yield the global names that code reads, that of functions inside of it too."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)


def _source(thing: Any) -> str:
    """Return the source of a class or function.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError) as error:
        raise UsageError(
            f"the source of {thing!r} cannot be read, so its runs would not be told from another version's; give a version="
        ) from error
