"""What other packages add: heads, upstreams and corpora that are announced as entry points.

What comes in: the name of a group (`tfser.heads`, `tfser.upstreams`, `tfser.corpora`). What goes out: `Plugin`s, each
with its name, the object it stands for (`module:attribute`) and the package it is from. Nothing of a plug-in is imported
before it is asked for; one that cannot be loaded is an error of one line, or a line beside the others in a list, and
never a crash.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, TypeVar

from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.notes import note

Kind = TypeVar("Kind")

HEADS, UPSTREAMS, CORPORA = "tfser.heads", "tfser.upstreams", "tfser.corpora"
"""The groups."""


class PluginError(TfserError):
    """A plug-in cannot be loaded."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """Something of another package: its name, `module:attribute`, and where it is from (the package and its version)."""

    name: str
    value: str
    origin: str

    def load(self, kind: type[Kind]) -> Kind:
        """Return the object.

        Raises:
            PluginError: it cannot be imported, or is of another kind.
        """
        module, _, attribute = self.value.partition(":")
        try:
            target: Any = import_module(module)
            for part in filter(None, attribute.split(".")):
                target = getattr(target, part)
        except Exception as error:  # whatever somebody else's module does while it is imported
            reason = f"{type(error).__name__}: {first_line(error)[:200]}"
            raise PluginError(f"plug-in {self.name} of {self.origin}: cannot be loaded ({reason})") from error
        if not isinstance(target, kind):
            what = f"{self.value} is a {type(target).__name__}, no {kind.__name__}"
            raise PluginError(f"plug-in {self.name} of {self.origin}: {what}")
        return target


@functools.cache
def plugins(group: str) -> dict[str, Plugin]:
    """Return the plug-ins of a group by name, in order; of two of one name, the one whose package comes first, which is
    said."""
    by_name: dict[str, Plugin] = {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda of: (of.name, _origin(of))):
        plugin = Plugin(name=entry.name, value=entry.value, origin=_origin(entry))
        if entry.name in by_name:
            note(f"plug-in {entry.name} of {plugin.origin} is passed over: {by_name[entry.name].origin} has one of this name")
        else:
            by_name[entry.name] = plugin
    return by_name


def _origin(entry: metadata.EntryPoint) -> str:
    distribution = entry.dist
    return "an unknown package" if distribution is None else f"{distribution.name} {distribution.version}"


def add_loaded(group: str, kind: type[Kind], registry: dict[str, Kind]) -> None:
    """Add the plug-ins of a group to a registry of objects; one that cannot be loaded, or takes a name that is there, is
    said."""
    for name, plugin in plugins(group).items():
        if name in registry:
            note(f"plug-in {name} of {plugin.origin} is passed over: tfser has one of this name")
            continue
        try:
            registry[name] = plugin.load(kind)
        except PluginError as error:
            note(f"{error}; it is left out")


def origin_of(group: str, name: str) -> str:
    """Return where the entry of a registry is from: `tfser`, or another package."""
    plugin = plugins(group).get(name)
    return "tfser" if plugin is None else plugin.origin


def with_origins(rows: list[dict[str, Any]], column: str, group: str, *, always: bool) -> list[dict[str, Any]]:
    """Say of the rows of a list where each entry is from, in a column `from`.

    Args:
        rows: one for each entry of a registry.
        column: that holds its name.
        group: of entry points.
        always: also where all of them are tfser's own.
    """
    origins = [origin_of(group, row[column]) for row in rows]
    if not always and set(origins) == {"tfser"}:
        return rows
    return [{**row, "from": origin} for row, origin in zip(rows, origins, strict=True)]
