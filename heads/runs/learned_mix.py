"""The learned layer mix of a finished run, as a feature set to be written by `tfser.pipeline.derived.collapse`.

What comes in: a run that was trained on all layers of an encoder (`tfser.heads.models.layer_mix`). What goes out: what the cache
needs to make an ordinary feature set (t, D) of its mix. Its frames are what the run's own head was given: normalised as the run
did, then summed with the weights of the chosen selection. Training on it normalises it again, by the recipe of that training.

The weights were learned from the training side of one fold. They know its labels, so the feature set belongs to that fold: its
configuration says so in `belongs_to`, and the audit `mix_of_other_fold` refuses every other use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.models.layer_mix import layer_weights
from tfser.heads.runs.store import finished, read_model, run_folder
from tfser.heads.training.normalise import Normaliser
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import DamagedError, TfserError, UsageError, unknown
from tfser.manifests.feature_name import FeatureName, checked_name
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.features.stacks import Collapsed, Combine, layers_of, weighted_sum
from tfser.pipeline.shards.writer import storage_dtype

FILES = {"last": "model.safetensors", "val": "model-val.safetensors"}
"""Selections whose weights a run keeps, and where."""


def mix_of_run(
    cache: Cache, run_id: str, *, selection: str = "last", dtype: str | None = None, name: str | None = None
) -> tuple[dict[str, Any], Collapsed, list[str]]:
    """Return the feature set that a run was trained on (its row of `feature_sets`), what to make of it, and for which corpora.

    Args:
        cache: the cache.
        run_id: a finished run.
        selection: last or val.
        dtype: of storage; None: that of the run's features.
        name: None: `<encoder>/mix-` and the first digits of the fingerprint.

    Raises:
        UsageError: if there is no such run, it has no such selection, learned no mix, or normalised by speaker.
        TfserError: if the features that it was trained on are gone.
        DamagedError: if a file of the run is not what was written.
        UnreadableError: if one cannot be read now.
    """
    run_json = _run(cache, run_id)
    if selection not in FILES:
        raise unknown("selection", selection, list(FILES))
    weights, normaliser = _state(cache, run_json, selection)
    source = _source(cache, run_json, run_id)
    if layers_of(source) != len(weights):
        raise TfserError(f"{run_id}: it mixes {len(weights)} layers, and {source['feature_set']} has {layers_of(source)}")
    # The run stands in the configuration, so that two runs with the same weights are two feature sets: what was
    # learned in a fold must not be tested in another.
    config = _configuration(run_json, selection, weights, normaliser)

    def described(called: str) -> Collapsed:
        return Collapsed(
            name=called,
            kind=source["kind"],
            config=config,
            dim=source["dim"] // len(weights),
            dtype=storage_dtype(dtype or source["dtype"]),
            hop_s=source["hop_s"],
            origin=json.loads(source.get("source") or "{}"),
            combine=mixing(weights, normaliser),
        )

    # Named by its fingerprint unless somebody names it: the same mix of the same run is found again, and no
    # other one overwrites it.
    encoder = FeatureName.parse(source["feature_set"]).encoder
    named = checked_name(name) if name else f"{encoder}/mix-{described('').fingerprint[:8]}"
    return source, described(named), str(run_json["corpus"]).split(JOINED_BY)


def _source(cache: Cache, run_json: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Return the row of `feature_sets` that a run was trained on."""
    with open_catalogue(cache) as connection:
        found = rows(connection, "FROM feature_sets WHERE fingerprint = ?", [run_json["fingerprint"]])
    if not found:
        gone = f"{run_json['feature_set']} ({run_json['fingerprint']})"
        raise TfserError(f"{run_id}: its features {gone} are no longer in the cache")
    return found[0]


def mixing(weights: Sequence[float], normaliser: Normaliser) -> Combine:
    """Return what makes of all layers side by side their mix, scaled as the run's own head was given them.

    Args:
        weights: M.
        normaliser: of the run, (M*D,) wide.
    """

    def combine(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shift, scale = normaliser.tables(frames, np.array([0, len(frames)]))
        return weighted_sum(frames, weights, shift[0], scale[0])

    return combine


def normaliser_of(cache: Cache, config: Mapping[str, Any]) -> Normaliser:
    """Return the normalisation of the run that learned a mix, given what the mix's feature set says of itself.

    Raises:
        UsageError: the run is gone.
        TfserError: it has learned another mix since.
        DamagedError: if a file of the run is not what was written.
        UnreadableError: if one cannot be read now.
    """
    owner = config["belongs_to"]["run_id"]
    weights, normaliser = _state(cache, _run(cache, owner), config["selection"])
    if weights != config["weights"] or measured(normaliser) != config["normaliser"]:
        raise TfserError(f"the run {owner} has learned another mix since; collapse it again")
    return normaliser


def measured(normaliser: Normaliser) -> str:
    """Return the digest by which a mix's configuration knows the normalisation that it was made with."""
    return hashlib.sha256(normaliser.mean.tobytes() + normaliser.deviation.tobytes()).hexdigest()[:16]


def _configuration(run_json: Mapping[str, Any], selection: str, weights: list[float], normaliser: Normaliser) -> dict[str, Any]:
    """Return what a feature set of a learned mix is known by: the weights, how layers were scaled, and the run it is of."""
    return {
        "layer": "mix",
        "of": {"feature_set": run_json["feature_set"], "fingerprint": run_json["fingerprint"]},
        "selection": selection,
        "weights": weights,
        "normalise": normaliser.mode,
        "normaliser": measured(normaliser),
        "belongs_to": {
            key: run_json[of]
            for key, of in (
                ("run_id", "run_id"),
                ("experiment", "experiment"),
                ("corpora", "corpus"),
                ("protocol", "protocol"),
                ("protocol_hash", "protocol_hash"),
                ("fold", "fold"),
                ("seed", "seed"),
            )
        },
    }


def _run(cache: Cache, run_id: str) -> Mapping[str, Any]:
    try:
        run_json = finished(cache, run_id) if (cache.runs / run_id).is_dir() else None
    except DamagedError as error:
        raise DamagedError(f"{error}; the command that trained it moves it to `removed/` and trains it again") from error
    if run_json is None:
        with open_catalogue(cache) as connection:
            known = [row["run_id"] for row in rows(connection, "SELECT run_id FROM runs WHERE layer_weights IS NOT NULL")]
        if not known:
            raise UsageError(f"no finished run {run_id!r}, and none that learned a layer mix; train on features of all layers")
        raise unknown("run with a learned layer mix", run_id, known)
    return run_json


def _state(cache: Cache, run_json: Mapping[str, Any], selection: str) -> tuple[list[float], Normaliser]:
    """Return a run's layer weights and its normalisation."""
    run_id, mode = run_json["run_id"], run_json["config"]["recipe_config"]["normalise"]
    path = run_folder(cache, run_id) / FILES[selection]
    if not os.path.lexists(path) and selection == "val":
        raise UsageError(f"{run_id}: no epoch was selected by validation ({run_json['validation']}); take --selection last")
    state = read_model(cache, run_json, FILES[selection])
    weights = layer_weights(state)
    if weights is None:
        raise UsageError(f"{run_id}: {run_json['head']} on {run_json['feature_set']} mixed no layers; there is nothing to write")
    # Told in run.json and held by the weights: where the two differ, one of them is not what the run gave.
    stated = (run_json.get("layer_weights") or {}).get(selection)
    if stated is not None and not np.allclose(stated, weights, rtol=0, atol=1e-6):
        raise DamagedError("its mix of layers is not the one of run.json; `tfser train` makes the run anew", at=path)
    try:
        mean, deviation = state["normaliser.mean"].numpy(), state["normaliser.deviation"].numpy()
    except KeyError as error:
        raise DamagedError("has no normalisation; `tfser train` makes the run anew", at=path) from error
    if mode == "speaker":
        raise UsageError(
            f"{run_id}: its normalise=speaker takes statistics over all utterances of a speaker, which no feature set of single "
            "utterances can hold; train with --set normalise=train"
        )
    return weights, Normaliser(mode=mode, mean=mean, deviation=deviation)
