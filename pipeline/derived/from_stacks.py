"""Layers that are asked for and stored already: taken out of a stack of all layers, so that no audio is decoded for them.

What comes in: a pass over a corpus, about to begin. What goes out: shards of those of its feature sets that are a layer of a
stored stack, bit by bit (the same configuration, and no rounding between), of the utterances that the stack holds. What is still
missing then, the extraction computes. Nothing here reads audio or loads an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.pipeline.derived.collapse import collapse
from tfser.pipeline.extraction.new_shards import AS_USUAL, ShardWriting, Written
from tfser.pipeline.features.registry import FeatureSet, Pass
from tfser.pipeline.features.stacks import Collapsed, layer_cut, layers_of


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A feature set that was taken out of a stack, and how many utterances of it."""

    feature_set: str
    stack: str
    report: Written


def take_stored_layers(
    cache: Cache,
    corpus: str,
    job: Pass,
    how: ShardWriting = AS_USUAL,
) -> list[Taken]:
    """Write what stored stacks hold of the feature sets of a pass; return what was written, one a feature set.

    Args:
        cache: the cache.
        corpus: a corpus that was scanned.
        job: what is about to be extracted.
        how: sizes of shards, and who is told.

    Raises:
        TfserError: if a shard of a stack is damaged, or the disk is or would be full. What was finished stays.
    """
    if not job.is_encoder:
        return []
    with open_catalogue(cache) as connection:
        held = "SELECT DISTINCT feature_set FROM features WHERE corpus = ?"
        sets = rows(connection, "FROM feature_sets ORDER BY feature_set")
        have = {row["feature_set"] for row in rows(connection, held, [corpus])}
    named = {row["feature_set"]: row["fingerprint"] for row in sets}
    stacks = [row for row in sets if row["feature_set"] in have and layers_of(row) > 1]
    taken: list[Taken] = []
    for features in job.sets:
        if named.get(features.name, features.fingerprint) != features.fingerprint:
            continue  # its name is that of a set which it replaces: the extraction says so
        for stack in stacks:
            if (cut := _same(stack, features)) is not None:
                (report,) = collapse(cache, stack, cut, [corpus], how)
                taken += [Taken(feature_set=features.name, stack=stack["feature_set"], report=report)] if report.written else []
    return taken


def _same(stack: dict[str, Any], features: FeatureSet) -> Collapsed | None:
    """Return how to cut a feature set out of a stack; None where the stack does not hold the very same numbers."""
    layer = str(features.config["layer"])
    if layer != "mean" and (not layer.isdigit() or int(layer) >= layers_of(stack)):
        return None
    cut = replace(layer_cut(stack, layer, dtype=features.dtype, name=features.name), origin=features.origin)
    return cut if cut.fingerprint == features.fingerprint else None
