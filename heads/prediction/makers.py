"""What makes a head's frames of new audio: its feature set with everything that it is made of, and the front-end of that.

What comes in: a run of a cache, or what an exported folder says. What goes out: `StoredSet` with its parts (the sets that
are joined in it, the stack that a mix is taken of), and a `FrontEnd` of exactly its fingerprint. A layer that was read
where it lies in a stack, and so has no row of its own in the catalogue, is found by its fingerprint. Nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfser.heads.runs.learned_mix import measured, mixing, normaliser_of
from tfser.heads.training.normalise import Normaliser
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.feature_name import FeatureName
from tfser.pipeline.derived.joint_front_end import FrontEnds, joint_front_end
from tfser.pipeline.features.feature_set import JOINED
from tfser.pipeline.features.layer_views import LayerView, layer_views
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.front_end import EngineFrontEnd, FrontEnd, MissingEncoderError, front_end, front_end_by_name

Mixes = Mapping[str, Normaliser]
"""How the run that learned a mix scaled the layers, by the fingerprint of the mix's feature set."""

GONE: Mapping[str, Any] = {"gone": True}
"""Stands for the configuration of a part that the cache says nothing of any more."""


def whole_set(cache: Cache, fingerprint: str) -> StoredSet | None:
    """Return a feature set of the cache with all that it is made of; None if the cache no longer says what it is.

    A part that it says nothing of any more is left to its name, of which a front-end may still be made.
    """
    with open_catalogue(cache) as connection:
        sets = rows(connection, "FROM feature_sets")
    return _whole({row["fingerprint"]: row for row in (*_view_rows(sets), *sets)}, fingerprint)


def _view_rows(sets: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [view.row for view in layer_views(sets).values()]


def view_of(cache: Cache, fingerprint: str) -> LayerView | None:
    """Return the layer of a stored stack that has a fingerprint; None if that is no view, or a set of its own."""
    with open_catalogue(cache) as connection:
        sets = rows(connection, "FROM feature_sets")
    if any(row["fingerprint"] == fingerprint for row in sets):
        return None
    return next((view for view in layer_views(sets).values() if view.row["fingerprint"] == fingerprint), None)


def _whole(sets: Mapping[str, Mapping[str, Any]], fingerprint: str) -> StoredSet | None:
    row = sets.get(fingerprint)
    if row is None:
        return None
    plain = StoredSet.of_row(row)
    if plain.kind == JOINED:
        return replace(plain, parts=tuple(_part(sets, part) for part in plain.config["parts"]))
    if is_mix(plain):
        source = _whole(sets, plain.config["of"]["fingerprint"])
        return plain if source is None else replace(plain, parts=(source,))
    return plain


def _part(sets: Mapping[str, Mapping[str, Any]], part: Mapping[str, Any]) -> StoredSet:
    """Return a part of a joined set under the name that it had when it was joined."""
    found = _whole(sets, part["fingerprint"])
    if found is not None:
        return replace(found, name=part["feature_set"])
    name = part["feature_set"]
    words = {key: part[key] for key in ("kind", "fingerprint", "dim", "hop_s")}
    return StoredSet(name=name, config=GONE, dtype=FeatureName.parse(name).dtype, source={}, **words)


def is_mix(stored: StoredSet) -> bool:
    """Tell whether a feature set is the mix of layers that a run learned."""
    return stored.config.get("layer") == "mix" and "belongs_to" in stored.config


def mixes_in(cache: Cache, stored: StoredSet) -> dict[str, Normaliser]:
    """Return what the mixes in a feature set were scaled with, out of the runs that learned them.

    Raises:
        UsageError: such a run is gone.
        TfserError: it has learned another mix since, or is damaged.
    """
    mixes: dict[str, Normaliser] = {}
    for part in stored.parts:
        mixes |= mixes_in(cache, part)
    if is_mix(stored):
        try:
            mixes[stored.fingerprint] = normaliser_of(cache, stored.config)
        except UsageError as error:
            raise UsageError(f"{stored.name}: a mix of layers that a run learned ({error})") from error
    return mixes


def makers(sets: Sequence[StoredSet], mixes: Mixes, *, weights: str | None = None, memo: Path | None = None) -> FrontEnds:
    """Return what computes feature sets of new audio, each with exactly its fingerprint.

    Args:
        sets: each with its parts.
        mixes: of the mixes in them.
        weights: hub id or folder of their encoder; None: where it was. Where there are several encoders, it is that of the
            one whose weights lie there.
        memo: file that remembers the hashes of weights.

    Raises:
        UsageError: weights are named, and nothing is computed with any.
        TfserError: as `tfser.pipeline.front_end.front_end`; a part is gone, or another one than it was.
    """
    encoders = {encoder.config["weights"] for stored in sets for encoder in stored.encoders}
    if weights is not None and not encoders:
        raise UsageError(f"--weights {weights}: {' and '.join(stored.name for stored in sets)} is computed without any")

    def of_encoder(stored: StoredSet) -> EngineFrontEnd:
        try:
            return front_end(stored, weights=weights, memo=memo)
        except MissingEncoderError:
            if weights is None or len(encoders) < 2:
                raise
            return front_end(stored, memo=memo)

    return FrontEnds(of=tuple(_maker(stored, mixes, of_encoder) for stored in sets))


def _maker(stored: StoredSet, mixes: Mixes, of_encoder: Callable[[StoredSet], EngineFrontEnd]) -> FrontEnd:
    if stored.kind == JOINED:
        return joint_front_end(stored, [_maker(part, mixes, of_encoder) for part in stored.parts])
    if is_mix(stored):
        return _mix(stored, mixes, of_encoder)
    if stored.config == GONE:
        return front_end_by_name(stored)
    return of_encoder(stored) if stored.is_encoder else front_end(stored)


def _mix(stored: StoredSet, mixes: Mixes, of_encoder: Callable[[StoredSet], EngineFrontEnd]) -> FrontEnd:
    """Return the front-end of a learned mix: that of all layers, and the mix of them.

    Raises:
        TfserError: the stack is gone, or the normalisation is another one than the mix was made with.
    """
    normaliser = mixes.get(stored.fingerprint)
    if not stored.parts or normaliser is None:
        raise TfserError(f"{stored.name}: the layers that it mixes are no longer in the cache; extract them again")
    if measured(normaliser) != stored.config["normaliser"]:
        raise TfserError(f"{stored.name}: its layers were scaled otherwise when it was made")
    whole = of_encoder(stored.parts[0])
    mix = mixing(stored.config["weights"], normaliser)
    return EngineFrontEnd(
        stored=stored,
        sample_rate_hz=whole.sample_rate_hz,
        minimum_s=whole.minimum_s,
        frames=whole.frames,
        engine=whole.engine,
        combine=lambda frames: mix(whole.stored_frames(frames)),
    )
