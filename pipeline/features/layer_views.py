"""One layer of a stored stack, read where it lies: a feature set without shards of its own.

What comes in: the rows of the catalogue's table `feature_sets`. What goes out: for each stack that holds all layers of an
encoder (`tfser.pipeline.features.stacks`) its layers under the names and fingerprints that a direct extraction of each would
have. They are the same numbers, so whatever is made of a view is what would be made of the extracted layer: runs find one
another, and identities, audits and reports know no difference. A view is offered where no other feature set bears its name;
nothing here writes a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfser.manifests.feature_name import ALL, FeatureName, meant
from tfser.pipeline.features.stacks import layer_cut, layers_of
from tfser.pipeline.shards.packed import FeatureRow

EACH = ("each", "*")
"""Layers that stand for every layer of an encoder where several feature sets may be named: `whisper-base/each`."""


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """One layer of a stack: what it is called, whose columns it is, and the row that it would have in `feature_sets`."""

    name: str
    stack: str
    """The feature set whose shards hold it."""
    layer: int
    row: Mapping[str, Any]

    @property
    def first_column(self) -> int:
        """Where its columns begin in a frame of the stack."""
        return self.layer * int(self.row["dim"])


@dataclass(frozen=True, kw_only=True)
class Features:
    """A feature set whose frames can be read: its row as the catalogue has it or would have it, and the stack that it is a
    layer of, if so."""

    row: dict[str, Any]
    view: LayerView | None = None

    @property
    def name(self) -> str:
        """What it is called, whether it is stored or read out of a stack."""
        return str(self.row["feature_set"])

    @property
    def stored(self) -> str:
        """The feature set whose shards hold its frames."""
        return self.name if self.view is None else self.view.stack


def layer_views(sets: Sequence[Mapping[str, Any]]) -> dict[str, LayerView]:
    """Return the layers of all stacks that can be read in their place, by name.

    Two encoders that are called alike give views that are told apart as the catalogue tells their feature sets apart: by the
    first digits of the fingerprint. A stack that a newer one replaced has none.

    Args:
        sets: rows of the table `feature_sets`, of all feature sets: a view whose name another one has is left out.
    """
    # A layer that is stored by itself stands before the view of the same name, which has the same numbers: a
    # view is what saves storing it.
    taken = {row["feature_set"]: row["fingerprint"] for row in sets}
    plain = {name for name in taken if FeatureName.parse(name).is_current}
    views: list[LayerView] = []
    for row in sets:
        parsed = FeatureName.parse(row["feature_set"])
        replaced = not parsed.is_current and FeatureName.plain(row["feature_set"]) in plain
        if layers_of(row) == 1 or parsed.layer != ALL or replaced:
            continue
        views += [_view(row, layer) for layer in range(layers_of(row))]
    alike: dict[str, set[str]] = {}
    for view in views:
        alike.setdefault(view.name, set()).add(view.row["fingerprint"])
    offered: dict[str, LayerView] = {}
    for view in views:
        name = view.name if len(alike[view.name]) == 1 else f"{view.name}@{view.row['fingerprint'][:8]}"
        if taken.get(name, view.row["fingerprint"]) == view.row["fingerprint"]:
            offered[name] = replace(view, name=name, row={**view.row, "feature_set": name})
    return offered


def _view(stack: Mapping[str, Any], layer: int) -> LayerView:
    cut = layer_cut(stack, str(layer))
    own = {
        "feature_set": cut.name,
        "fingerprint": cut.fingerprint,
        "dim": cut.dim,
        "config": json.dumps(dict(cut.config)),
    }
    return LayerView(name=cut.name, stack=stack["feature_set"], layer=layer, row={**stack, **own})


def meant_views(asked: str, views: Iterable[LayerView]) -> list[str]:
    """Return the views that a name may mean, as `tfser.manifests.feature_name.meant` does of feature sets.

    `last` is the highest layer of each encoder. A name without a layer means none: what has to be chosen is said by whoever asks.
    """
    have = list(views)
    wanted = FeatureName.parse(asked)
    if wanted.layer is None:
        return []
    if wanted.layer == "last":
        highest: dict[str, int] = {}
        for view in have:
            highest[view.stack] = max(view.layer, highest.get(view.stack, 0))
        have = [view for view in have if view.layer == highest[view.stack]]
        asked = str(replace(wanted, layer=None))
    elif not re.fullmatch("[0-9]+", wanted.layer):
        return []
    return meant(asked, [view.name for view in have])


def asks_for_each(asked: str | None) -> bool:
    """Tell whether a name stands for every layer of an encoder.

    >>> asks_for_each("whisper-base/each+float16"), asks_for_each("whisper-base/all")
    (True, False)
    """
    return asked is not None and FeatureName.parse(asked).layer in EACH


def each_layer(asked: str, names: Iterable[str], views: Iterable[LayerView]) -> list[str]:
    """Return the layers that a name such as `whisper-base/each` stands for, from the lowest to the highest.

    Of each layer that a stack holds or that is stored by itself, the feature set that its number alone would mean; several where
    that does not tell them apart. Empty where there is no layer of that encoder.

    Args:
        asked: with one of `EACH` as its layer.
        names: feature sets that are stored.
        views: those that are read in their place.
    """
    stored, have = list(names), list(views)
    wanted = FeatureName.parse(asked)
    there = {FeatureName.parse(name).layer for name in (*stored, *(view.name for view in have))}
    found: list[str] = []
    for layer in sorted(int(text) for text in there if text is not None and re.fullmatch("[0-9]+", text)):
        numbered = str(replace(wanted, layer=str(layer)))
        found += meant(numbered, stored) or meant_views(numbered, have)
    return list(dict.fromkeys(found))


def where_of(root: Path, row: Mapping[str, Any], view: LayerView | None) -> FeatureRow:
    """Return where a row of the table `features` lies below a cache's root; of a layer, its columns of the stack's frames."""
    return FeatureRow(
        utterance_id=row["utterance_id"],
        path=root / row["shard"],
        first_frame=row["first_frame"],
        frames=row["frames"],
        dim=row["dim"] if view is None else view.row["dim"],
        checksum=row["checksum"],
        first_column=None if view is None else view.first_column,
    )
