"""What the catalogue says of the data that is trained on: a protocol's rows, on one feature set.

What comes in: a protocol, its corpora and the features that were asked for. What goes out: what a run's name and length depend
on, all of one state of the cache. Nothing here reads a frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.runs.chosen_features import choose_features
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.manifests.audits.participation import definition
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.dimensions import CLASSES, Scale, scales_of
from tfser.manifests.errors import UsageError
from tfser.manifests.protocols.distributions import class_distributions, digest_of
from tfser.manifests.protocols.folds import is_rated
from tfser.manifests.protocols.protocol import JOINED_BY
from tfser.pipeline.features.layer_views import Features
from tfser.pipeline.features.stacks import layers_of


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What the catalogue says of a protocol on features, all of one state of the cache."""

    protocol: Mapping[str, Any]
    """Its row of `protocols`."""
    features: Features
    hash: str
    """Of what training sees of each utterance; with soft labels, of these too."""
    lengths: npt.NDArray[np.int64]
    """(n,) frames of the utterances."""
    trained: Mapping[int, Sequence[int]]
    """Frames of each training utterance by fold; nothing for recipes that count epochs."""
    scales: Mapping[str, Scale]
    """Of each corpus, where dimensions are learned."""
    labels: Mapping[str, str] | None = None
    """The protocol's class of each label, for soft labels; None: every label is its own, or no soft labels are asked for."""
    rated: tuple[int, int] | None = None
    """Of soft labels: how many utterances have some, and of how many."""
    beside: tuple[int, int] | None = None
    """Where dimensions are learned beside classes: how many utterances are rated for all of them, and of how many."""
    beyond: int = 0
    """Where dimensions are learned: how many utterances are rated beyond the ends of their corpus's scale."""

    @property
    def layers(self) -> int:
        """Layers that the features hold side by side."""
        return layers_of(self.features.row)


def look_up(
    cache: Cache,
    features: str | None,
    spec: HeadSpec,
    recipe: Recipe,
    corpus: str,
    protocol: str,
    targets: tuple[str, ...] = (),
) -> TrainingData:
    """Read what a training depends on, from one open catalogue: a scan between two queries would mix two states."""
    with open_catalogue(cache) as connection:
        chosen = choose_features(connection, spec, corpus, features)
        key = (connection, protocol, corpus, chosen.stored)
        row = rows(connection, "SELECT * FROM protocols WHERE protocol = ? AND corpora = ?", [protocol, corpus])[0]
        # The hash is of all that training reads from the catalogue: what changes it makes another experiment of the
        # same request.
        lengths, hashed = _lengths(*key), data_hash(*key, targets)
        labels, rated = None, None
        beside = _rated_beside(connection, protocol, corpus, targets) if targets and row["classes"] else None
        if recipe.labels_from == "distribution":
            defined = definition(cache, protocol)
            labels = None if defined is None else defined.labels
            soft = class_distributions(connection, protocol, corpus.split(JOINED_BY), row["classes"], labels)
            if not soft:
                raise UsageError(
                    f"--labels-from distribution: no rater of {corpus} gave one of the classes {', '.join(row['classes'])}; "
                    "scan the corpus again if it has single ratings, or name a table of them with `tfser scan --annotations FILE`"
                )
            # Votes can change while labels do not, so they are hashed, too.
            hashed, rated = soft_hash(hashed, soft), (len(soft), _assigned(connection, protocol, corpus))
        scales = scales_of(connection, corpus.split(JOINED_BY)) if targets else {}
        return TrainingData(
            protocol=row,
            features=chosen,
            hash=hashed,
            lengths=lengths,
            trained=_training_frames(*key) if recipe.steps is not None else {},
            scales=scales,
            beyond=sum(_beyond(connection, protocol, name, scale, targets) for name, scale in scales.items()),
            labels=labels,
            rated=rated,
            beside=beside,
        )


def _rated_beside(connection: Connection, protocol: str, corpus: str, targets: tuple[str, ...]) -> tuple[int, int]:
    """Return how many utterances of a protocol's folds are rated for all of some dimensions, and how many there are.

    Raises:
        UsageError: none is.
    """
    counted = rows(
        connection,
        f"SELECT count(*) FILTER ({is_rated(targets)}) AS rated, count(*) AS every FROM assignments a "
        "JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id "
        "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL",
        [protocol, corpus.split(JOINED_BY)],
    )[0]
    if not counted["rated"]:
        raise UsageError(f"--target {','.join((CLASSES, *targets))}: no utterance of {corpus} with a class is rated for "
                         f"{' and '.join(targets)}; take --target class")  # fmt: skip
    return int(counted["rated"]), int(counted["every"])


def _beyond(connection: Connection, protocol: str, corpus: str, scale: Scale, targets: tuple[str, ...]) -> int:
    """Return how many utterances of a corpus in a protocol's folds are rated beyond the ends of a scale."""
    outside = " OR ".join(f"u.{name} NOT BETWEEN {scale.low} AND {scale.high}" for name in targets)
    counted = rows(
        connection,
        f"SELECT count(*) FILTER ({outside}) AS n FROM assignments a "
        "JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id "
        "WHERE a.protocol = ? AND a.corpus = ? AND a.fold IS NOT NULL",
        [protocol, corpus],
    )
    return int(counted[0]["n"])


def check_temperature(data: TrainingData, folds: str) -> None:
    """Refuse a temperature where nobody validates.

    Raises:
        UsageError: nobody does.
    """
    if data.protocol["validation"] == "none" or folds == "none":
        raise UsageError(
            "--set temperature=true: it is fitted on validation utterances, and there are none; hold some out with "
            "--validation next-group or speakers:N"
        )


def soft_hash(hashed: str, soft: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """Return the hash of data whose utterances have soft labels, given that of the data without."""
    return hashlib.sha256(f"{hashed}|{digest_of(soft)}".encode()).hexdigest()[:16]


def soft_rows(
    soft: Mapping[tuple[str, str], Sequence[float]], utterances: Sequence[Mapping[str, Any]], number: Mapping[str, int]
) -> npt.NDArray[np.float32]:
    """Return the soft labels of utterances, (n, K); one whose raters named none of the classes has its label's."""
    hard = np.eye(len(number))
    of_each = [soft.get((row["corpus"], row["utterance_id"]), hard[number[row["label"]]]) for row in utterances]
    return np.array(of_each, dtype=np.float32).reshape(len(utterances), len(number))


def _assigned(connection: Connection, protocol: str, corpus: str) -> int:
    """Return how many utterances stand in a fold of a protocol."""
    counted = rows(
        connection,
        "SELECT count(*) AS n FROM assignments WHERE protocol = ? AND list_contains(?, corpus) AND fold IS NOT NULL",
        [protocol, corpus.split(JOINED_BY)],
    )
    return int(counted[0]["n"])


def data_hash(connection: Connection, protocol: str, corpus: str, feature_set: str, targets: tuple[str, ...] = ()) -> str:
    """Hash what training and audits see of each utterance that has features: its audio, speaker, session and dialogue; and its
    ratings, where dimensions are learned."""
    corpora = corpus.split(JOINED_BY)
    which = "a.corpus, a.utterance_id" if len(corpora) > 1 else "a.utterance_id"
    columns = ", ".join((which, *(f"u.{name}" for name in ("content_hash", "speaker", "session", "dialogue", *targets))))
    seen = connection.execute(
        f"SELECT {columns} FROM assignments a "
        "JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id "
        "JOIN features f ON f.corpus = a.corpus AND f.utterance_id = a.utterance_id AND f.feature_set = ? "
        "WHERE a.protocol = ? AND list_contains(?, a.corpus) ORDER BY a.corpus, a.utterance_id",
        [feature_set, protocol, corpora],
    ).fetchall()
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _lengths(connection: Connection, protocol: str, corpus: str, feature_set: str) -> npt.NDArray[np.int64]:
    """Return the frames of each utterance (n,) of a protocol, in the order of their lengths."""
    counted = connection.execute(
        "SELECT f.frames FROM assignments a "
        "JOIN features f ON f.corpus = a.corpus AND f.utterance_id = a.utterance_id AND f.feature_set = ? "
        "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL ORDER BY f.frames",
        [feature_set, protocol, corpus.split(JOINED_BY)],
    ).fetchnumpy()
    return np.asarray(counted["frames"], dtype=np.int64)


def _training_frames(connection: Connection, protocol: str, corpus: str, feature_set: str) -> dict[int, list[int]]:
    """Return the frames of each training utterance by fold; of `EVERYTHING`, those of all."""
    key = [feature_set, protocol, corpus.split(JOINED_BY)]
    by_fold = connection.execute(
        "SELECT s.fold, list(f.frames) FROM folds s "
        "JOIN features f ON f.corpus = s.corpus AND f.utterance_id = s.utterance_id AND f.feature_set = ? "
        "WHERE s.protocol = ? AND list_contains(?, s.corpus) AND s.role = 'train' GROUP BY s.fold "
        "UNION ALL SELECT 0, list(f.frames) FROM assignments a "
        "JOIN features f ON f.corpus = a.corpus AND f.utterance_id = a.utterance_id AND f.feature_set = ? "
        "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL",
        key * 2,
    ).fetchall()
    return dict(by_fold)


def count_samples(spec: HeadSpec, config: Settings, recipe: Recipe, frames: Sequence[int]) -> int:
    """Count the training samples of utterances of so many frames, as `tfser.heads.training.samples.plan` lays them; at least
    one."""
    length, most = spec.sample_frames(config, recipe), spec.seen_frames(config, recipe)
    if length is None:
        return max(1, len(frames))
    hop = recipe.train_hop or length
    seen = (n if most is None else min(n, most) for n in frames)
    return max(1, sum(1 + -(-max(n - length, 0) // hop) for n in seen))
