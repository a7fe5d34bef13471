"""What any feature set says of itself: name, configuration, shape, the fingerprint that tells it from others, and its folder.

Front-ends and encoders (`tfser.pipeline.features.registry`) and what is made of other features
(`tfser.pipeline.features.stacks`) are described alike, so that either finds the other's shards where they are the same numbers.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from tfser import __version__
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import FEATURE_SET, read_feature_set
from tfser.manifests.errors import DamagedError, MissingFileError, UnknownContentError, UnreadableError
from tfser.manifests.feature_name import FeatureName
from tfser.manifests.files import now, sweep
from tfser.manifests.notes import note
from tfser.pipeline.shards.writer import StorageDtype

PER_UTTERANCE = "utterance"
"""What the configuration's ``per`` says of a feature set that has one frame an utterance."""

PER_UTTERANCE_HOP_S = 1.0
"""Stands where other sets have the seconds between frames: there is but one."""

JOINED = "joined"
"""The kind of a feature set whose frames are those of others side by side."""

IMPORTED = "imported"
"""The kind of a feature set that was computed elsewhere: only its content is known, and not how it was made."""


def is_per_utterance(feature_set: Mapping[str, Any]) -> bool:
    """Tell whether a row of the table `feature_sets` has one frame an utterance, which says nothing of time.

    >>> is_per_utterance({"config": '{"per": "utterance"}'}), is_per_utterance({"config": "{}"})
    (True, False)
    """
    return bool(json.loads(feature_set["config"]).get("per") == PER_UTTERANCE)


@dataclass(frozen=True, kw_only=True)
class Described:
    """A feature set's description.

    Attributes:
        name: for people, unique among configurations.
        kind: front-end or encoder family.
        config: everything that changes the numbers but the dtype, as JSON knows it.
        dim: numbers in a frame.
        dtype: of storage.
        hop_s: seconds between frames.
        origin: where an encoder's weights came from: no part of the fingerprint, which holds their content.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    dim: int
    dtype: StorageDtype
    hop_s: float
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that changes the numbers."""
        return fingerprint_of(self.config, self.dtype)

    @property
    def folder(self) -> str:
        """The folder's name below `features/`."""
        return f"{re.sub(r'[^A-Za-z0-9._]+', '-', self.name)}-{self.fingerprint}"

    def bound_to(self) -> list[str]:
        """Return the fold that a learned feature set belongs to, in a line for people; none where it belongs to no fold."""
        owner = self.config.get("belongs_to")
        if not owner:
            return []
        return [f"it belongs to {owner['protocol']} fold {owner['fold']}: other folds and protocols are refused (`tfser audit`)"]


def superseded(names: Iterable[str]) -> list[str]:
    """Return those of a cache's feature sets whose name a newer one has taken.

    >>> superseded(["enc/2@0a1b2c3d", "logmel", "logmel@4e5f6a7b"])
    ['logmel@4e5f6a7b']
    """
    there = set(names)
    return [name for name in names if name != FeatureName.plain(name) and FeatureName.plain(name) in there]


def namesakes(name: str, names: Iterable[str]) -> list[str]:
    """Return the feature sets that a name may mean where none bears it alone: those of several encoders called alike.

    >>> namesakes("enc/2", ["enc/2@0a1b2c3d", "enc/2@4e5f6a7b", "enc/3"])
    ['enc/2@0a1b2c3d', 'enc/2@4e5f6a7b']
    """
    there = list(names)
    return [] if name in there else sorted(other for other in there if FeatureName.plain(other) == name)


def fingerprint_of(config: Mapping[str, Any], dtype: str) -> str:
    """Return the fingerprint of a configuration that is stored as `dtype`."""
    text = json.dumps({**config, "dtype": dtype}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_description(cache: Cache, features: Described) -> None:
    """Write down what a feature set is, unless it stands there already."""
    path = cache.feature_root / features.folder / FEATURE_SET
    description = {
        "name": features.name,
        "kind": features.kind,
        "fingerprint": features.fingerprint,
        "dim": features.dim,
        "dtype": features.dtype,
        "hop_s": features.hop_s,
        "config": dict(features.config),
    }
    if features.origin:
        description["source"] = dict(features.origin)

    def stands() -> bool:
        stored = read_feature_set(cache, path.parent)
        return {k: stored.get(k) for k in description} == description

    # Looked at without the lock first: extractions of ten corpora would otherwise queue up to find that nothing
    # is to do.
    with contextlib.suppress(DamagedError, UnknownContentError, MissingFileError):
        if stands():
            return
    with cache.lock(f"features/{features.folder}"):  # extractions of other corpora write it too
        sweep(path.parent)
        try:
            if stands():
                return
        except MissingFileError:
            pass
        except (DamagedError, UnknownContentError) as error:
            note(f"{error}; moved to {cache.place(cache.put_away(path).parent)}, and made again")
        made_with = _versions(bool(features.origin))
        cache.write_json(path, {**description, "made_with": made_with, "created_at": _created_at(cache, features)})


def _created_at(cache: Cache, features: Described) -> str:
    """Return the time at which a feature set is first written: now, but later than every other of its name.

    The newest has the name: where a clock was set back, or two were made within a second, that is the one that was made last.
    """
    times = [now()]
    for path in cache.feature_root.glob(f"*/{FEATURE_SET}"):
        with contextlib.suppress(DamagedError, UnreadableError, ValueError):  # a damaged one is nobody's newest
            about = read_feature_set(cache, path.parent)
            if about["name"] == features.name and about["fingerprint"] != features.fingerprint:
                after = datetime.datetime.fromisoformat(about["created_at"]) + datetime.timedelta(seconds=1)
                times.append(after.astimezone(datetime.UTC).isoformat(timespec="seconds"))
    return max(times)


def _versions(is_encoder: bool) -> dict[str, str]:
    """Return what computed a feature set first, for people who wonder: no part of what tells it from others."""
    names = ("numpy", "soxr", *(("torch", "transformers") if is_encoder else ()))
    return {"tfser": __version__} | {name: metadata.version(name) for name in names}
