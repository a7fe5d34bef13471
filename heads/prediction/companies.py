"""Who is evaluated beside whom: the parts in which audio is predicted.

**Why it matters.** A matrix product rounds by its shape, so a head gives an utterance the same probabilities to the last
bit only in a batch of the same make-up: alone or beside others they differ by about 1e-8 (docs/methods.md). A training
evaluates all test utterances of its fold together, in the order of their corpora and ids, in batches of a fixed size
(`tfser.heads.training.predict`). What comes in: measured speech, and what a run was tested and trained on. What goes out:
parts
of it: those that the run was tested on together in their order, known by the hash of their samples wherever their files
lie now, so that a fold's audio gives the stored predictions bit for bit; all others in the order given, in parts of
bounded memory.

A head that normalises by speaker needs all of a speaker's utterances at once: they are never parted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfser.heads.prediction.inputs import Speech
from tfser.heads.runs.experiment import EVERYTHING
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.derived.joint_front_end import FrontEnds

PART_BYTES = 256 * 2**20
"""Of frames that are held at once."""

PART_UTTERANCES = 1024
"""Utterances that are predicted at once."""

Key = tuple[str, str]
"""Corpus and utterance id."""


@dataclass(frozen=True, kw_only=True)
class Familiar:
    """What a run was tested and trained on, by the hash of the samples; empty for a head whose run is not at hand.

    Attributes:
        tested: the test utterances that have a hash, each hash with those that bear it.
        roles: train, val or test, by hash.
        speakers: of the tested, as the training called them.
    """

    tested: Mapping[str, Sequence[Key]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[Key, str | None] = field(default_factory=dict)


def known_to(cache: Cache, run: Mapping[str, Any]) -> Familiar:
    """Return what a run was tested and trained on, as far as the cache still has those utterances with the same sound."""
    corpora = str(run["corpus"]).split(JOINED_BY)
    with open_catalogue(cache) as connection:
        tested = rows(
            connection,
            "SELECT DISTINCT p.corpus, p.utterance_id, u.content_hash, u.speaker FROM predictions p "
            "JOIN utterances u ON u.corpus = p.corpus AND u.utterance_id = p.utterance_id "
            "WHERE p.run_id = ? AND p.level = 'utterance' AND p.selection = 'last' AND u.content_hash IS NOT NULL "
            "ORDER BY p.corpus, p.utterance_id",
            [run["run_id"]],
        )
        # A run on everything has no fold: whoever has a class in its protocol trained it.
        sides = (
            "SELECT DISTINCT 'train' AS role, u.content_hash FROM assignments f JOIN utterances u USING (corpus, utterance_id) "
            "WHERE f.protocol = ? AND list_contains(?, f.corpus) AND ? = 0 AND u.content_hash IS NOT NULL"
            if run["fold"] == EVERYTHING
            else "SELECT DISTINCT role, content_hash FROM fold_utterances "
            "WHERE protocol = ? AND list_contains(?, corpus) AND fold = ? AND content_hash IS NOT NULL"
        )
        roles = rows(connection, sides, [run["protocol"], corpora, run["fold"]])
    # By the sound and not by the name: a file that was tested under another name is the same utterance, and
    # what was trained on is said of it.
    by_hash: dict[str, list[Key]] = defaultdict(list)
    for row in tested:
        by_hash[row["content_hash"]].append((row["corpus"], row["utterance_id"]))
    order = ("test", "val", "train")  # of the same sound on two sides: what it may have been learnt from counts
    several = len(corpora) > 1
    return Familiar(
        tested=by_hash,
        roles={row["content_hash"]: row["role"] for row in sorted(roles, key=lambda row: order.index(row["role"]))},
        speakers={
            (row["corpus"], row["utterance_id"]): f"{row['corpus']}/{row['speaker']}" if several else row["speaker"]
            for row in tested
        },
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Speech that is evaluated together, in its order, with who speaks."""

    speech: tuple[Speech, ...]
    speakers: tuple[str | None, ...]


def parts(speech: Sequence[Speech], known: Familiar, fronts: FrontEnds, *, by_speaker: bool) -> list[Part]:
    """Return the parts in which speech is predicted; every piece is in exactly one.

    Args:
        speech: measured.
        known: what the run was tested on.
        fronts: what makes the frames.
        by_speaker: whether all of a speaker has to be together.
    """
    # Each tested utterance is taken once, so that two inputs of the same sound do not both count as the one
    # that was tested.
    free = {content: list(keys) for content, keys in known.tested.items()}
    tested: dict[Key, Speech] = {}
    others: list[Speech] = []
    for piece in speech:
        key = _key_of(piece, free.get(piece.content_hash, []))
        if key is None:
            others.append(piece)
        else:
            free[piece.content_hash].remove(key)
            tested[key] = piece
    keys = sorted(tested)
    found = []
    if keys:
        found = [Part(speech=tuple(tested[key] for key in keys), speakers=tuple(known.speakers[key] for key in keys))]
    groups = _of_speakers(others) if by_speaker else _bounded(others, fronts)
    return found + [Part(speech=tuple(group), speakers=tuple(piece.speaker for piece in group)) for group in groups]


def _key_of(piece: Speech, keys: Sequence[Key]) -> Key | None:
    """Return which of the tested utterances of the same sound a piece is: itself, if it is a corpus's, else the first
    left."""
    if piece.corpus is not None:
        own = (piece.corpus, piece.utterance_id or "")
        return own if own in keys else None
    return keys[0] if keys else None


def _bounded(speech: Sequence[Speech], fronts: FrontEnds) -> list[list[Speech]]:
    groups: list[list[Speech]] = []
    size = 0
    for piece in speech:
        need = fronts.bytes_for(piece.duration_s)
        if not groups or size + need > PART_BYTES or len(groups[-1]) >= PART_UTTERANCES:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += need
    return groups


def _of_speakers(speech: Sequence[Speech]) -> list[list[Speech]]:
    groups: dict[str | None, list[Speech]] = defaultdict(list)
    for piece in speech:
        groups[piece.speaker].append(piece)
    return list(groups.values())
