"""Layers of an encoder in the cache: feature sets that hold all of them, and what one of the width of a single layer is.

A feature set whose configuration says `"layers": M` has frames (t, M*D) with layer k in the columns k*D to (k+1)*D. `Collapsed`
describes the feature set (t, D) that is made of it, a layer (`layer_cut`) or a learned mix (`tfser.heads.runs.learned_mix`);
`tfser.pipeline.derived.collapse` writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.feature_name import ALL, FeatureName, checked_name, meant
from tfser.pipeline.features.encoders.spec import layer_in_words
from tfser.pipeline.features.feature_set import Described
from tfser.pipeline.shards.writer import Array, storage_dtype

Combine = Callable[[Array], Array]
"""Makes (t, D) of the (t, M*D) frames of one utterance."""


@dataclass(frozen=True, kw_only=True)
class Collapsed(Described):
    """The feature set that a collapse makes: its description, and how to compute it."""

    combine: Combine


def layers_of(feature_set: Mapping[str, Any]) -> int:
    """Return how many layers a row of the table `feature_sets` holds side by side; 1 for what is no stack of layers.

    Raises:
        TfserError: if its width does not part into them.
    """
    layers = json.loads(feature_set["config"]).get("layers", 1)
    if not isinstance(layers, int) or layers < 1 or feature_set["dim"] % layers:
        raise TfserError(f"{feature_set['feature_set']}: {feature_set['dim']} columns do not part into {layers!r} layers")
    return layers


def layered(cache: Cache, name: str) -> tuple[dict[str, Any], int]:
    """Return the row of a feature set that holds several layers, and their number.

    Raises:
        UsageError: if there is no such feature set, or it has one layer.
    """
    with open_catalogue(cache) as connection:
        stored = {row["feature_set"]: row for row in rows(connection, "FROM feature_sets")}
    close = meant(name, stored)
    if not close:
        raise unknown("feature set", name, list(stored))
    if len(close) > 1:
        raise UsageError(f"{name} may be {' or '.join(close)}; say which")
    layers = layers_of(stored[name := close[0]])
    if layers == 1:
        several = [of for of in stored if layers_of(stored[of]) > 1]
        have = f"those that hold several: {', '.join(several)}" if several else "store them with `tfser extract --layer all`"
        raise UsageError(f"{name} holds one layer, so there is nothing to collapse; {have}")
    return stored[name], layers


def weighted_sum(frames: Array, weights: Sequence[float], shift: Array | None = None, scale: Array | None = None) -> Array:
    """Return the sum over layers of weight * (frame - shift) * scale: (t, D) float32, a layer at a time.

    Args:
        frames: (t, M*D).
        weights: M; layers of the weight 0 are not looked at.
        shift, scale: (M*D,) each; None: 0 and 1.
    """
    dim = frames.shape[1] // len(weights)
    total = np.zeros((len(frames), dim), np.float32)
    for k, weight in enumerate(weights):
        if weight:
            columns = slice(k * dim, (k + 1) * dim)
            layer = frames[:, columns].astype(np.float32)
            if shift is not None:
                layer -= shift[columns]
            layer *= np.float32(weight) if scale is None else np.float32(weight) * scale[columns]
            total += layer
    return total


def layer_config(config: Mapping[str, Any], layer: int | str) -> dict[str, Any]:
    """Return the configuration of one layer, or of their mean, out of that of the feature set of all layers.

    It is what a direct extraction of that layer has (`tfser.pipeline.features.encoders.spec.EncoderSpec.config`): the same but
    for `layer` and its definition in words, and without `layers`.
    """
    words = layer_in_words(config["family"], str(layer), config["layers"] - 1)
    return {key: value for key, value in config.items() if key != "layers"} | {"layer": layer, "layer_is": words}


def layer_cut(source: Mapping[str, Any], layer: str, *, dtype: str | None = None, name: str | None = None) -> Collapsed:
    """Return the feature set of one layer of a stored stack, or of the mean of all but layer 0, the encoder's input.

    Where the stored numbers are those that a direct extraction would store, it has the name and the fingerprint that
    the direct extraction has, so either finds the other's shards. Where they were rounded before (stored in float16, and now
    averaged or stored in float32), it is a feature set of its own, `<encoder>/<layer>-of-all`.

    Args:
        source: the row of the table `feature_sets`, see `layered`.
        layer: a number from 0 on, last or mean.
        dtype: of storage; None: that of the source.
        name: None: as above.

    Raises:
        UsageError: if there is no such layer or dtype, or the name cannot be one.
    """
    layers, stored = layers_of(source), storage_dtype(dtype or source["dtype"])
    chosen = _layer(layer, layers)
    weights = [0.0, *[1 / (layers - 1)] * (layers - 1)] if chosen == "mean" else [float(k == chosen) for k in range(layers)]
    # The same numbers have the same fingerprint, whoever computed them; what was rounded on the way has not.
    config = json.loads(source["config"])
    exact = source["dtype"] == "float32" or (stored == source["dtype"] and chosen != "mean")
    own = layer_config(config, chosen)
    if not exact:
        own["of"] = {"fingerprint": source["fingerprint"], "dtype": source["dtype"]}
    called = FeatureName.parse(source["feature_set"]).with_layer(f"{chosen}" if exact else f"{chosen}-of-{ALL}", stored)
    return Collapsed(
        name=str(called) if name is None else checked_name(name),
        kind=source["kind"],
        config=own,
        dim=source["dim"] // layers,
        dtype=stored,
        hop_s=source["hop_s"],
        origin=json.loads(source.get("source") or "{}"),
        combine=lambda frames: weighted_sum(frames, weights),
    )


def _layer(text: str, layers: int) -> int | str:
    if text == "mean":
        return text
    if text == "last":
        return layers - 1
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) >= layers:
        raise UsageError(f"--layer {text}: a number from 0 to {layers - 1}, last or mean")
    return int(text)
