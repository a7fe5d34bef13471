"""What Python code hands to the notebook's surface, checked as the command line's parser checks words.

What comes in: arguments of `tfser.Cache` and `tfser.load`, of whatever type. What goes out: names as texts, seeds as numbers, a
`Request` as the parser would have built it; or one line that says which argument is off and what is wanted. So nothing of a wrong
type gets as far as a query or a run's name. Nothing is looked up here: whether a name is known is for those who know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfser.heads.runs.request import Request, SweepRequest
from tfser.heads.runs.sweep_file import read_fields
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import declared
from tfser.pipeline.sound.recording import RATES_HZ

TRAIN = "Cache.train"
"""What errors of a training's arguments begin with."""


def a_text(what: str, value: object) -> str:
    """Return a name, a path or a statement as text.

    Raises:
        UsageError: it is of another type; `what` says of which argument.

    >>> a_text("corpus", "emodb"), a_text("protocol", Path("my.toml"))
    ('emodb', 'my.toml')
    """
    if isinstance(value, (str, Path)):
        return str(value)
    raise UsageError(f"{what}: a text is wanted, not {_shown(value)}")


def maybe_text(what: str, value: object) -> str | None:
    """Return the same of an argument that may be left out; None then."""
    return None if value is None else a_text(what, value)


def texts(what: str, values: object) -> list[str]:
    """Return several names.

    Raises:
        UsageError: it is a single text, which would be read letter by letter, or something in it is no text.
    """
    if isinstance(values, (str, Path, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"{what}: a list of names is wanted, not {_shown(values)}")
    return [a_text(what, _plain(value)) for value in values]


def a_rate(value: object) -> int:
    """Return a sample rate in Hz, to the nearest whole one.

    Raises:
        UsageError: it is no rate that recordings have: of those beyond, some samples would become hours, or nothing.
    """
    number, (low, high) = _plain(value), RATES_HZ
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
        raise UsageError(f"sample_rate: {low:,} to {high:,} samples a second are wanted, not {_shown(value)}")
    return round(number)


def training_request(head: object, settings: object, asked: Mapping[str, Any]) -> Request:
    """Return what `Cache.train` is asked, of the types that the command line would give.

    Args:
        head: the head's name.
        settings: by name; None: none.
        asked: other fields of `Request` by name; None leaves one out.

    Raises:
        UsageError: a name is no field, or a value is of another type or beyond its bounds.
    """
    fields = declared(Request)
    known = sorted({*fields, "features"} - {"head", "settings", "seed"})
    if strange := [name for name in asked if name not in known]:
        raise unknown(f"argument of {TRAIN}", strange[0], known)
    given = {"head": a_text(f"{TRAIN}, head", head), "settings": _settings(settings)}
    given |= {name: _plain(value) for name, value in asked.items() if value is not None and name != "features"}
    # The types of a sweep's file are the same fields': one place knows what each takes. Features are no option of one head:
    # commands take several.
    features = maybe_text(f"{TRAIN}, features", asked.get("features"))
    return Request(features=features, **read_fields(TRAIN, given, Request))


def seeds_of(values: object) -> tuple[int, ...]:
    """Return seeds: one number, several, or a text as `--seeds` takes it.

    Raises:
        UsageError: they are none.

    >>> seeds_of(3), seeds_of(range(2)), seeds_of("0-2")
    ((3,), (0, 1), (0, 1, 2))
    """
    seeds: tuple[int, ...] = read_fields(TRAIN, {"seeds": _plain(values)}, SweepRequest)["seeds"]
    return seeds


def _settings(settings: object) -> dict[str, str]:
    if not isinstance(settings, (Mapping, type(None))):
        raise UsageError(f"{TRAIN}, settings: a mapping is wanted, such as {{'lr': 0.001}}, not {_shown(settings)}")
    return {a_text(f"{TRAIN}, settings", name): setting_text(value) for name, value in (settings or {}).items()}


def setting_text(value: object) -> str:
    """Return a setting as `--set` would write it.

    >>> setting_text(range(1, 4)), setting_text(np.array([0.5, 2.0])), setting_text(None)
    ('1,2,3', '0.5,2.0', 'none')
    """
    value = _plain(value)
    if isinstance(value, list):
        return ",".join(str(each) for each in value)
    return "none" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Return a value as a file would hold it: NumPy's numbers as Python's, paths as texts, whatever lists as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (range, set, frozenset)) or (isinstance(value, Sequence) and not isinstance(value, (str, bytes))):
        return [_plain(each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value


def _shown(value: object) -> str:
    """Return a value for an error: itself where it is short, and its type."""
    text = repr(value)
    return f"{text} ({type(value).__name__})" if len(text) <= 40 else type(value).__name__
