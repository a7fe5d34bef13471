"""What a fold is trained on: the features of a protocol's utterances, and what training needs to know of each.

What comes in: an experiment and its cache. What goes out: `Loaded`, in an order that depends on the utterances' names alone.
Frames lie in memory or stay in their shards (`tfser.heads.runs.holding`). Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.runs.experiment import EVERYTHING, Experiment, check_unchanged, soft_labels
from tfser.heads.runs.holding import AS_IT_FITS, Holding
from tfser.heads.runs.target import ratings_of
from tfser.heads.runs.training_data import soft_rows
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.protocols.independence import Independence, fold_independence
from tfser.pipeline.features.layer_views import where_of
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, load_packed
from tfser.pipeline.shards.reader import ShardReader
from tfser.pipeline.shards.streamed import stream_packed


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The features of a protocol's n utterances, in memory, with what training needs to know of each.

    `corpora` names the corpus of each: an utterance's id tells it from others of its corpus only. Speakers of a protocol over
    several corpora are called `corpus/speaker`. `sides` gives, for each fold and role, the rows of the features that are in it.
    `speakers_kept` says of each fold whether its test speakers are new.
    """

    features: PackedFeatures
    corpora: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    speakers: tuple[str | None, ...]
    sides: Mapping[int, Mapping[str, npt.NDArray[np.int64]]]
    speakers_kept: Mapping[int, Independence]
    ratings: npt.NDArray[np.float32] | None = None
    """(n, T) true ratings on 0..1, where dimensions are learned; NaN where one beside classes is not rated."""
    soft_labels: npt.NDArray[np.float32] | None = None
    """(n, K) soft labels, one-hot where an utterance has none; None: they are not asked for."""
    streamed: str | None = None
    """Why the frames stay on disk; None: they are in memory."""


def load(
    cache: Cache,
    experiment: Experiment,
    progress: Callable[[int, int], None] | None = None,
    holding: Holding = AS_IT_FITS,
) -> Loaded:
    """Load the features of all utterances of the protocol that have any, and who is in which fold, from one catalogue.

    Frames that do not fit into memory stay in their shards, and are read from there as training asks for them.

    Utterances come in the order of their corpora and ids, whatever shards they lie in: the same data trains to the same numbers
    however the cache grew.

    Raises:
        TfserError: if a shard is damaged, or the corpus was scanned anew since the experiment was settled.
    """
    number = {name: i for i, name in enumerate(experiment.classes)}
    several = len(experiment.corpora) > 1
    # Rows, folds and who is independent from one open catalogue: a scan between two queries would give
    # utterances of one state the folds of another.
    with open_catalogue(cache) as connection:
        check_unchanged(connection, experiment)
        utterances = _utterances_of(connection, experiment)
        sides = _sides_of(connection, experiment, utterances)
        kept = fold_independence(connection, experiment.protocol, experiment.corpus)
        soft = soft_labels(connection, experiment) if experiment.recipe.labels_from == "distribution" else None
    where = [where_of(cache.root, row, experiment.view) for row in utterances]
    streamed = holding.why_streamed(_bytes_of(where), experiment.device)
    if streamed is None:
        features = load_packed(where, progress=progress, verify=cache.verify)
    else:
        features = stream_packed(where, verify=cache.verify)
    return Loaded(
        features=features,
        streamed=streamed,
        labels=np.array([number[r["label"]] if number else 0 for r in utterances], dtype=np.int64),
        ratings=ratings_of(utterances, experiment.targets, experiment.scales),
        corpora=tuple(r["corpus"] for r in utterances),
        speakers=tuple(f"{r['corpus']}/{r['speaker']}" if several and r["speaker"] else r["speaker"] for r in utterances),
        sides=sides,
        speakers_kept=kept,
        soft_labels=None if soft is None else soft_rows(soft, utterances, number),
    )


def _utterances_of(connection: Connection, experiment: Experiment) -> list[dict[str, Any]]:
    """Return the rows of `features` of the protocol's utterances, each with its class, speaker and true ratings."""
    ratings = "".join(f", u.{name}" for name in experiment.targets)
    return rows(
        connection,
        f"SELECT f.*, a.label, u.speaker{ratings} FROM features f "
        "JOIN assignments a ON a.corpus = f.corpus AND a.utterance_id = f.utterance_id "
        "JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id "
        "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL AND f.feature_set = ? "
        "ORDER BY f.corpus, f.utterance_id",
        [experiment.protocol, experiment.corpora, experiment.stored],
    )


def _bytes_of(where: Sequence[FeatureRow]) -> int:
    """Return the memory that frames take."""
    if not where:  # whoever loads them says so
        return 0
    with ShardReader(where[0].path) as reader:
        return sum(row.frames for row in where) * where[0].dim * reader.dtype.itemsize


def _sides_of(
    connection: Connection, experiment: Experiment, utterances: Sequence[Mapping[str, Any]]
) -> dict[int, dict[str, npt.NDArray[np.int64]]]:
    """Return the rows of each side by fold and role.

    An utterance without features stands in no side; whoever lacks some was named by the audit, which has run before.
    """
    place = {(row["corpus"], row["utterance_id"]): at for at, row in enumerate(utterances)}
    sides: dict[int, dict[str, list[int]]] = {fold: {"train": [], "val": [], "test": []} for fold in experiment.folds}
    if EVERYTHING in sides:
        sides[EVERYTHING]["train"] = list(range(len(utterances)))
    placed = connection.execute(
        "SELECT fold, role, corpus, utterance_id FROM folds WHERE protocol = ? AND list_contains(?, corpus) "
        "AND list_contains(?, fold)",
        [experiment.protocol, experiment.corpora, list(experiment.folds)],
    )
    for fold, role, corpus, utterance in placed.fetchall():
        if (corpus, utterance) in place:
            sides[fold][role].append(place[corpus, utterance])
    return {
        fold: {role: np.array(sorted(members), dtype=np.int64) for role, members in by_role.items()}
        for fold, by_role in sides.items()
    }
