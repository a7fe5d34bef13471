"""Frames that figures are drawn of, found as training finds them: in shards of their own, or in a stack of layers.

What comes in: the catalogue and the name or the fingerprint of a feature set. What goes out: the feature set, and where
the frames of utterances lie. A run on one layer of a stored stack has no feature set of its own in the catalogue, and its
figures are drawn all the same. Another feature set never stands in for the one that was asked for; nothing is computed or stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.pipeline.features.layer_views import Features, layer_views, where_of
from tfser.pipeline.shards.packed import PackedFeatures, load_packed


def feature_sets(connection: Connection) -> dict[str, Features]:
    """Return by name what frames can be read of: first the sets that are stored, then the layers of stacks in their order."""
    stored = rows(connection, "FROM feature_sets ORDER BY feature_set")
    views = layer_views(stored).items()
    readable = {row["feature_set"]: Features(row=row) for row in stored}
    return readable | {name: Features(row=dict(view.row), view=view) for name, view in views if name not in readable}


def with_fingerprint(connection: Connection, fingerprint: str | None) -> Features | None:
    """Return the feature set of a fingerprint, whatever it is called by now; None if the cache no longer has it."""
    return next((each for each in feature_sets(connection).values() if each.row["fingerprint"] == fingerprint), None)


def read_frames(cache: Cache, features: Features, stored: Sequence[Mapping[str, Any]]) -> PackedFeatures:
    """Read the frames of utterances, in their order.

    Args:
        cache: the cache.
        features: the feature set.
        stored: rows of the table `features` of `features.stored`.

    Raises:
        TfserError: if a shard is gone or damaged.
    """
    return load_packed([where_of(cache.root, row, features.view) for row in stored], verify=cache.verify)
