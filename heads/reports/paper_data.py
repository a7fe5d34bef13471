"""What the figures of a paper show besides the scores of a report: cost against score, embeddings, one utterance's features.

In goes the catalogue; out come plain values, which `tfser.heads.reports.paper_drawing` draws. Frames and recordings are read,
heads are timed; nothing is trained or stored.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfser.heads import head as head_of
from tfser.heads.reports.figure_data import text_of
from tfser.heads.reports.material import Contender, Material
from tfser.heads.reports.stored_frames import feature_sets as sets_of
from tfser.heads.reports.stored_frames import read_frames, with_fingerprint
from tfser.heads.spec.head import Network
from tfser.heads.training.conditions import Conditions
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.pipeline.features.stacks import layers_of
from tfser.pipeline.sound.audio import decode

Values = npt.NDArray[np.float64]
Method = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")
_SEED = 0
_COMPONENTS = 50
"""What t-SNE and UMAP start from, as scikit-learn's manual advises: principal components, that noise be less and time too."""

_FEWEST = 5


@dataclass(frozen=True, kw_only=True)
class CostPoint:
    """An experiment's score and what a forward pass of its head costs on this machine."""

    name: str
    parameters: int
    milliseconds: float
    score: float
    low: float | None
    high: float | None
    conditions: str


def costs(connection: Connection, material: Material, device: str = "cpu") -> tuple[list[CostPoint], list[str]]:
    """Time the head of each experiment, and return it beside its score (TF-Mamba, Fig. 3); and what is left out.

    Every head is built as its run had it, and fed one utterance of the median length of the experiment's features.

    Raises:
        UsageError: No experiment has a network.
    """
    from tfser.heads.training.cost import profile

    table, left_out = [], []
    for one in material.members:
        stored = rows(connection, "FROM runs WHERE experiment = ? ORDER BY seed, fold LIMIT 1", [one.experiment])
        run = stored[0]
        spec = head_of(str(one.row["head"]))
        if not isinstance(spec, Network):
            left_out.append(f"{one.name}: fitted at once, no network to time")
            continue
        features = with_fingerprint(connection, run["fingerprint"])
        frames = None if features is None else _median_frames(connection, features.stored)
        if features is None or frames is None:
            left_out.append(f"{one.name}: its features are no longer in the cache")
            continue
        # As the run had it, settings included: its preset alone may be another network.
        config = type(spec.preset()).from_dict(json.loads(run["config"])["head_config"])
        as_trained = replace(spec, presets={str(run["preset"]): config})
        conditions = Conditions(frames=max(1, frames), width=int(features.row["dim"]), classes=len(one.classes), device=device)
        measured = profile([(as_trained, str(run["preset"]))], conditions)[0]
        table.append(
            CostPoint(
                name=f"{one.name}{one.mark}" + (f" ({one.incomplete})" if one.incomplete else ""),
                parameters=int(run["parameters"]),
                milliseconds=measured.latency_ms,
                score=one.row["pooled_UA"],
                low=one.row["pooled_UA_low"],
                high=one.row["pooled_UA_high"],
                conditions=f"{measured.processor}, {measured.threads} threads, {measured.precision}, {measured.frames} frames",
            )
        )
    if not table:
        raise UsageError(f"no head to time: {'; '.join(left_out)}")
    return table, left_out


def _median_frames(connection: Connection, feature_set: str) -> int | None:
    """Return the frames of the median utterance of a stored feature set; None if it has none."""
    (counted,) = rows(connection, "SELECT median(frames) AS frames FROM features WHERE feature_set = ?", [feature_set])
    return None if counted["frames"] is None else int(counted["frames"])


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Utterances in a plane: `places` (n, 2), and what each is."""

    places: Values
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    method: Method
    feature_set: str
    explained: tuple[float, float] | None
    """Of PCA: the share of the variance along both axes."""


def embed(
    cache: Cache, connection: Connection, one: Contender, method: Method = "tsne", feature_set: str | None = None
) -> Embedded:
    """Lay the utterances that an experiment tested out in a plane, by the mean over frames of their features.

    Each feature is standardised over the utterances. PCA is scikit-learn's; t-SNE (van der Maaten and Hinton, JMLR 9, 2008) and
    UMAP start from the first 50 principal components, with a fixed seed.

    Args:
        cache: the cache.
        connection: its catalogue.
        one: the experiment.
        method: pca, tsne or umap.
        feature_set: None: what the experiment was trained on.

    Raises:
        UsageError: UMAP is not installed, there are too few utterances, or the features are not in the cache.
    """
    from sklearn.preprocessing import StandardScaler

    if method not in METHODS:
        raise unknown("method", method, METHODS)
    name, means, keys = _mean_frames(cache, connection, one, feature_set)
    if len(keys) < _FEWEST:
        raise UsageError(f"{one.experiment}: {len(keys)} utterances have {name} frames; {_FEWEST} are needed to lay them out")
    scaled = StandardScaler().fit_transform(means)
    places, explained = _laid_out(scaled, method)
    who = dict(
        zip(
            ((k[0], k[1]) for k in one.outcome.keys),
            zip(one.outcome.labels, one.outcome.who["speaker"], strict=True),
            strict=False,
        )
    )
    return Embedded(
        places=np.asarray(places, dtype=np.float64),
        labels=tuple(who[key][0] for key in keys),
        speakers=tuple(str(who[key][1] or "unknown") for key in keys),
        method=method,
        feature_set=name,
        explained=explained,
    )


def _laid_out(scaled: Values, method: Method) -> tuple[Values, tuple[float, float] | None]:
    """Return places (n, 2) of standardised rows, and of PCA the shares of the variance along both axes."""
    from sklearn.decomposition import PCA

    components = min(_COMPONENTS, *scaled.shape) if method != "pca" else 2
    pca = PCA(n_components=components, svd_solver="full")
    reduced = pca.fit_transform(scaled)
    explained = None
    if method == "pca":
        first, second = pca.explained_variance_ratio_[:2].tolist()
        explained = (first, second)
        places = reduced[:, :2]
    elif method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(scaled) - 1) / 3)
        places = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(reduced)
    else:
        places = _umap(reduced)
    return places, explained


def _umap(reduced: Values) -> Values:
    try:
        from umap import UMAP
    except ImportError as error:
        raise UsageError("umap is not installed; pip install umap-learn, or take --method tsne or pca") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fixed seed keeps it to one thread is meant so
        found: Values = UMAP(random_state=_SEED).fit_transform(reduced)
    return found


def _mean_frames(
    cache: Cache, connection: Connection, one: Contender, asked: str | None
) -> tuple[str, Values, list[tuple[str, str]]]:
    """Return the name of the feature set, the mean frame of each tested utterance (n, D), and corpus and id of each.

    Without a name it is the very set that the experiment was trained on: one that bears its name by now may be another.
    """
    there = sets_of(connection)
    if asked is None:
        run = rows(connection, "SELECT fingerprint FROM runs WHERE experiment = ? LIMIT 1", [one.experiment])[0]
        features = with_fingerprint(connection, run["fingerprint"])
        wanted = f"{one.row['feature_set']} frames with the fingerprint {run['fingerprint']}"
    else:
        features, wanted = there.get(asked), f"{asked} frames"
    stored = [] if features is None else rows(
        connection,
        "SELECT f.* FROM features f SEMI JOIN (SELECT DISTINCT corpus, utterance_id FROM test_predictions "
        f"WHERE experiment = {text_of(one.experiment)}) t USING (corpus, utterance_id) WHERE f.feature_set = ? "
        "ORDER BY f.corpus, f.utterance_id",
        [features.stored],
    )  # fmt: skip
    if features is None or not stored:
        raise UsageError(f"no {wanted} of what {one.experiment} tested; in the cache: {', '.join(there) or 'none'}")
    packed = read_frames(cache, features, stored)
    means = np.stack([packed.of(i).astype(np.float64).mean(axis=0) for i in range(len(packed))])
    return features.name, means, [(row["corpus"], row["utterance_id"]) for row in stored]


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """One utterance: its wave, and the frames of some feature sets, `frames` (t, D) each with its seconds a frame."""

    utterance: Mapping[str, Any]
    samples: npt.NDArray[np.float32] | None
    sample_rate: int
    frames: Mapping[str, tuple[Values, float]]
    notes: tuple[str, ...]


def features_of(
    cache: Cache,
    connection: Connection,
    utterance: str,
    *,
    corpus: str | None = None,
    feature_sets: tuple[str, ...] = (),
    has_sound: bool = True,
) -> FeatureView:
    """Read the wave and the frames of one utterance.

    Args:
        cache: the cache.
        connection: its catalogue.
        utterance: its id.
        corpus: where several corpora have one of that id.
        feature_sets: which; none: log-Mel and one encoder, as far as there are.
        has_sound: whether its file is to be read; False: frames alone.

    Raises:
        UsageError: There is no such utterance, several, or no frames of it.
    """
    candidates = rows(
        connection,
        "SELECT u.*, c.root FROM utterances u JOIN corpora c USING (corpus) WHERE u.utterance_id = ? "
        "AND (?::VARCHAR IS NULL OR u.corpus = ?)",
        [utterance, corpus, corpus],
    )
    if not candidates:
        known = rows(connection, "SELECT utterance_id FROM utterances ORDER BY 1 LIMIT 5000")
        raise unknown("utterance", utterance, [row["utterance_id"] for row in known],
                      listed_by="tfser sql 'SELECT utterance_id FROM utterances'")  # fmt: skip
    if len(candidates) > 1:
        raise UsageError(f"{utterance} is in {', '.join(row['corpus'] for row in candidates)}: say which with --corpus")
    spoken, notes = candidates[0], []
    samples, rate = None, 0
    if has_sound:
        try:
            audio = decode(Path(spoken["root"]) / spoken["path"], start_s=spoken["start_s"], end_s=spoken["end_s"])
            samples, rate = audio.samples, audio.sample_rate
        except (TfserError, OSError) as error:
            notes.append(f"no wave: {' '.join(str(error).split())}")
    return FeatureView(
        utterance=spoken,
        samples=samples,
        sample_rate=rate,
        frames=_frames_of(cache, connection, spoken, feature_sets),
        notes=tuple(notes),
    )


def _frames_of(
    cache: Cache, connection: Connection, spoken: Mapping[str, Any], wanted: tuple[str, ...]
) -> dict[str, tuple[Values, float]]:
    """Return frames (t, D) and the seconds from one to the next, by what they are called in the figure."""
    stored = rows(
        connection,
        "SELECT f.* FROM features f JOIN feature_sets s USING (feature_set) "
        "WHERE f.corpus = ? AND f.utterance_id = ? ORDER BY s.kind <> 'logmel', feature_set",
        [spoken["corpus"], spoken["utterance_id"]],
    )
    placed = {row["feature_set"]: row for row in stored}
    there = {name: of for name, of in sets_of(connection).items() if of.stored in placed}
    if missing := [name for name in wanted if name not in there]:
        raise unknown(f"feature set of {spoken['utterance_id']}", missing[0], list(there))
    kinds: dict[str, str] = {}
    for name in placed:
        kinds.setdefault(there[name].row["kind"], name)
    chosen = list(wanted) or list(kinds.values())[:2]
    if not chosen:
        raise UsageError(f"{spoken['utterance_id']} has no frames in this cache; `tfser extract` makes them")
    shown: dict[str, tuple[Values, float]] = {}
    for name in chosen:
        features = there[name]
        packed = read_frames(cache, features, [placed[features.stored]])
        frames = np.asarray(packed.frames, dtype=np.float64)
        layers = layers_of(features.row)
        if layers > 1:  # of all layers side by side, the last
            frames, name = frames[:, -(frames.shape[1] // layers) :], f"{name}, last layer"
        shown[name] = (frames, float(features.row["hop_s"]))
    return shown
