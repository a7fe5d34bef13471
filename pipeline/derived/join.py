"""Joining feature sets: the frames of several, side by side, as one ordinary feature set (early fusion).

What comes in: the names of stored feature sets, `logmel+wavlm-large/12`, of which a layer may stand in a stack of all of them.
What goes out: shards of another feature set that bears that name, written as a collapse writes its own
(`tfser.pipeline.extraction.new_shards`): whoever trains on it, audits or verifies it needs to know nothing of where it came
from. Its fingerprint is made of those of its parts, in their order, and of the rule below, so features that were made anew never
stand in it unnoticed. No audio is read, and nothing is invented: an utterance that one of the parts lacks is left out, counted,
and missed by the audits as in any other feature set.

**The rule.** The first feature set sets the pace. Each frame of another belongs to the frame of the first that begins nearest to
it in time (frame i of a set begins i hops after the start; a tie goes to the later). A frame of the first shows the mean of
those that belong to it; where there are none, since the other is slower, it shows the other's frame that begins nearest to it,
and past the other's end its last. A set of one frame an utterance (functionals) stands beside every frame; it cannot set the pace
of others. So sets of one hop stand frame by frame, slower ones are repeated, faster ones averaged.
Beginnings are not centres: windows of unequal lengths are up to half their difference apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.feature_name import FeatureName, joined_names, meant
from tfser.pipeline.derived.collapse import copy_excuses, stored_frames
from tfser.pipeline.extraction.new_shards import AS_USUAL, OpenShards, Row, ShardWriting, Written, write_lacking
from tfser.pipeline.features.feature_set import JOINED, PER_UTTERANCE, Described, is_per_utterance
from tfser.pipeline.features.layer_views import layer_views, meant_views
from tfser.pipeline.features.stacks import layers_of
from tfser.pipeline.shards.writer import Array

ALGORITHM = 1
"""Raised whenever the same parts would give other numbers than before."""

MOST_APART_S = 0.5
"""By how much the parts of one utterance may differ in length: encoders drop or add a frame or two at the end."""

RULE = "the first sets the pace; others: the mean of the frames that begin nearest to a frame's beginning, else the nearest"


@dataclass(frozen=True, kw_only=True)
class Joined(Described):
    """A feature set of several others side by side.

    Each part is a row of the table `feature_sets`, with the feature set whose shards hold it (`stored_as`: of a layer of a stack
    the stack) and the first of its columns there (`first_column`).
    """

    parts: tuple[Mapping[str, Any], ...]

    def combine(self, frames: Sequence[Array]) -> Array:
        """Return the frames (t, dim) of one utterance from those of the parts, (t_i, dim_i) each."""
        return side_by_side(frames, [part["hop_s"] for part in self.parts])

    def paces(self) -> list[str]:
        """Return in words how parts whose frames come at another pace than the first's stand beside them; vectors have none."""
        first, *others = self.parts
        at = {part["feature_set"]: 1000 * part["hop_s"] for part in others if not is_per_utterance(part)}
        odd = [f"{name} ({ms:g} ms)" for name, ms in at.items() if ms != 1000 * first["hop_s"]]
        if not odd:
            return []
        return [f"{', '.join(odd)} at the pace of {first['feature_set']} ({1000 * first['hop_s']:g} ms): {RULE}"]


@dataclass(frozen=True, kw_only=True)
class JoinReport(Written):
    """What a join did for one corpus."""

    lacking: Mapping[str, int]
    """Utterances that this part lacks and another has, by the part's name."""


def at_pace(frames: Array, count: int, pace_s: float, hop_s: float) -> Array:
    """Return ``count`` frames, one every ``pace_s`` seconds, of (t, dim) frames that come every ``hop_s``: the module's rule.

    >>> at_pace(np.array([[0.0], [1], [2]]), 6, 0.01, 0.02)[:, 0].tolist()  # slower: repeated, and the last one to the end
    [0.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    >>> at_pace(np.array([[0.0], [1], [2], [3]]), 2, 0.02, 0.01)[:, 0].tolist()  # faster: averaged
    [0.0, 1.5]
    """
    own = np.floor(np.arange(count) * (pace_s / hop_s) + 0.5 + 1e-9).astype(np.int64)  # the nearest of the other's frames
    nearest: Array = frames[np.minimum(own, len(frames) - 1)]
    belongs = np.floor(np.arange(len(frames)) * (hop_s / pace_s) + 0.5 + 1e-9).astype(np.int64)
    belongs, used = belongs[belongs < count], frames[: int((belongs < count).sum())]
    number = np.bincount(belongs, minlength=count)
    if len(belongs) == 0 or number.max() < 2:  # nothing to average
        return nearest
    total = np.zeros((count, frames.shape[1]), np.float64)
    np.add.at(total, belongs, used)
    mean = (total / np.maximum(number, 1)[:, None]).astype(frames.dtype)
    nearest[number > 0] = mean[number > 0]
    return nearest


def side_by_side(frames: Sequence[Array], hops_s: Sequence[float]) -> Array:
    """Return the frames (t, dim) float32 of one utterance from those of the parts, (t_i, dim_i) each, by the module's
    rule."""
    count, pace_s = len(frames[0]), hops_s[0]
    placed = [at_pace(of, count, pace_s, hop_s).astype(np.float32) for of, hop_s in zip(frames, hops_s, strict=True)]
    return np.concatenate(placed, axis=1)


def apart(parts: Sequence[Mapping[str, Any]], frames: Sequence[int]) -> str | None:
    """Return why an utterance's parts cannot be joined: what they have of it is of unequal lengths. None: they can be.

    Frames are matched by time, so a part that ends early would be read from its last frame on; beyond rounding of
    windows that is another recording.

    Args:
        parts: what describes them, with their configurations.
        frames: how many each has of the utterance.
    """
    timed = [of for of in zip(parts, frames, strict=True) if of[0]["config"].get("per") != PER_UTTERANCE]
    lengths = {part["feature_set"]: count * part["hop_s"] for part, count in timed}
    if not lengths or max(lengths.values()) - min(lengths.values()) <= MOST_APART_S:
        return None
    each = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in lengths.items())
    return f"its features are of unequal lengths ({each}), so they cannot be joined"


def joined_config(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return everything that changes the numbers of a joined set.

    Args:
        parts: what describes them, in their order: `feature_set`, `kind`, `fingerprint`, `dim`, `hop_s`, `config`.

    Raises:
        TfserError: they were learned in different folds.
    """
    config: dict[str, Any] = {
        "kind": JOINED,
        "algorithm": ALGORITHM,
        "rule": RULE,
        "parts": [{key: part[key] for key in ("feature_set", "kind", "fingerprint", "dim", "hop_s")} for part in parts],
    }
    if all(part["config"].get("per") == PER_UTTERANCE for part in parts):
        config["per"] = PER_UTTERANCE
    # A part that was learned in a fold binds the whole to that fold: tested elsewhere it would have seen the
    # test side.
    owners = [owner for part in parts if (owner := part["config"].get("belongs_to"))]
    if any(owner != owners[0] for owner in owners):
        raise TfserError("its parts were learned in different folds, so no fold could be tested on them")
    if owners:
        config["belongs_to"] = owners[0]
    return config


def joined(cache: Cache, name: str) -> Joined:
    """Return what stands for several feature sets, named with a plus between them.

    Raises:
        UsageError: if fewer than two are named, one is not in the cache or may mean several, or one holds several layers.
        TfserError: if two of them belong to different folds.
    """
    names = joined_names(name)
    if len(names) < 2:
        raise UsageError(f"{name} names one feature set; join two or more: logmel+wavlm-large/12")
    with open_catalogue(cache) as connection:
        stored = {row["feature_set"]: row for row in rows(connection, "FROM feature_sets")}
    parts = [_part(asked, stored) for asked in names]
    if len({part["fingerprint"] for part in parts}) < len(parts):
        raise UsageError(f"{name} names a feature set twice")
    # The first part sets the pace, so it must have frames over time unless none has.
    single = [is_per_utterance(part) for part in parts]
    if single[0] and not all(single):
        way_out = "+".join(part["feature_set"] for part in sorted(parts, key=is_per_utterance))
        raise UsageError(f"{parts[0]['feature_set']} has one frame an utterance and cannot set the pace; write {way_out}")
    described = [dict(part) | {"config": json.loads(part["config"])} for part in parts]
    try:
        config = joined_config(described)
    except TfserError as error:
        raise TfserError(f"{name}: {error}") from error
    return Joined(
        name="+".join(part["feature_set"] for part in parts),
        kind=JOINED,
        config=config,
        dim=sum(part["dim"] for part in parts),
        dtype="float16" if all(part["dtype"] == "float16" for part in parts) else "float32",
        hop_s=parts[0]["hop_s"],
        parts=tuple(parts),
    )


def _part(asked: str, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of a name: of the feature sets that are stored, or else one layer of a stack of them.

    A part is a feature set of its own and no joined one; one that may mean several is asked back about, since a guess would be a
    part of the fingerprint.

    Raises:
        UsageError: if there is none, there are several, or it holds several layers.
    """
    close = meant(asked, [known for known in stored if len(joined_names(known)) == 1])
    views = layer_views(list(stored.values()))
    among = close or meant_views(asked, views.values())
    if not among:
        raise unknown("feature set", asked, [*stored, *views])
    if len(among) > 1:
        raise UsageError(f"{asked} may be {' or '.join(among)}; say which")
    if not close:
        view = views[among[0]]
        return {**view.row, "stored_as": view.stack, "first_column": view.first_column}
    if layers_of(stored[close[0]]) > 1:
        way_out = f"name one of them: {FeatureName.parse(close[0]).encoder}/{layers_of(stored[close[0]]) - 1}"
        raise UsageError(f"{close[0]} holds several layers; {way_out}")
    return {**stored[close[0]], "stored_as": close[0], "first_column": 0}


def join(cache: Cache, target: Joined, corpora: Sequence[str] | None = None, how: ShardWriting = AS_USUAL) -> list[JoinReport]:
    """Write what a joined feature set lacks; a join that was killed goes on where it was.

    Args:
        cache: the cache.
        target: what to make.
        corpora: of which; None: all of which every part has utterances.
        how: sizes of shards, and who is told.

    Raises:
        UsageError: if a part has no utterances of a corpus.
        TfserError: if a shard is damaged, parts differ in length by more than `MOST_APART_S`, or the disk is full.
    """
    with open_catalogue(cache) as connection:
        stored = [stored_frames(connection, part["stored_as"]) for part in target.parts]
    have = sorted(set.intersection(*({row["corpus"] for row in part} for part in stored)))
    for corpus in corpora or ():
        if corpus not in have:
            raise unknown(f"corpus of all parts of {target.name}", corpus, have)
    if not have:
        raise UsageError(f"no corpus has all of {', '.join(part['feature_set'] for part in target.parts)}; extract them of one")
    return [
        _join_corpus(cache, target, corpus, [[row for row in part if row["corpus"] == corpus] for part in stored], how)
        for corpus in corpora or have
    ]


def _join_corpus(cache: Cache, target: Joined, corpus: str, stored: Sequence[Sequence[Row]], how: ShardWriting) -> JoinReport:
    """Join what the parts hold of one corpus: ``stored`` are the rows of each part."""
    by_utterance = [{row["utterance_id"]: row for row in part} for part in stored]
    everyone = {row["utterance_id"] for part in stored for row in part}
    whole = [row for row in stored[0] if all(row["utterance_id"] in part for part in by_utterance)]
    lacking = {p["feature_set"]: len(everyone) - len(rows) for p, rows in zip(target.parts, by_utterance, strict=True)}

    described = [dict(part) | {"config": json.loads(part["config"])} for part in target.parts]

    def frames_of(shards: OpenShards, row: Row) -> Array:
        parts = [part[row["utterance_id"]] for part in by_utterance]
        if too_far := apart(described, [part["frames"] for part in parts]):
            raise TfserError(f"{row['utterance_id']}: {too_far}")
        columns = (slice(p["first_column"], p["first_column"] + p["dim"]) for p in target.parts)
        return target.combine([shards.frames_of(part)[:, own] for part, own in zip(parts, columns, strict=True)])

    def excuse(folder: Path) -> None:
        copy_excuses(cache, target, [cache.root / part["folder"] for part in target.parts], folder)

    written = write_lacking(cache, target, corpus, whole, frames_of, how, excuse)
    return JoinReport(**vars(written), lacking={name: number for name, number in lacking.items() if number})
