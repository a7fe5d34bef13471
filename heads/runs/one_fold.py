"""Runs of an experiment: audit, load, train, store, fold by fold.

`train_fold` refuses a fold whose audit fails (unless told otherwise, which the run records), finds the finished run of the same
configuration, or trains, going on from a checkpoint where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.heads.runs.experiment import EVERYTHING, Experiment, check_unchanged, soft_labels
from tfser.heads.runs.outcome import RunOutcome, Selected
from tfser.heads.runs.store import begin, finish, peek, pick_up, save_model, versions
from tfser.heads.runs.target import ratings_of
from tfser.heads.runs.training_data import soft_rows
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData, Selection, UnlearnableError
from tfser.manifests.audits.participation import definition, finding, participation, unmatched
from tfser.manifests.audits.run import Finding, blocking, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import DamagedError, TfserError
from tfser.manifests.protocols.independence import Independence, fold_independence
from tfser.manifests.protocols.validation import WITHOUT_VAL
from tfser.manifests.wording import more
from tfser.pipeline.features.devices import processor
from tfser.pipeline.scan import now
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, load_packed

if TYPE_CHECKING:
    from torch import Tensor

    from tfser.heads.training.loop import Keeping


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
    """(n, T) true ratings on 0..1, where dimensions are learned."""
    soft_labels: npt.NDArray[np.float32] | None = None
    """(n, K) soft labels, one-hot where an utterance has none; None: they are not asked for."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: what run.json says, and whether it was trained now or found."""

    about: Mapping[str, Any]
    trained: bool


class EmptySideError(TfserError):
    """A fold cannot be trained: nothing is left of one of its sides, or nothing can be learned from it."""


def load(cache: Cache, experiment: Experiment, progress: Callable[[int, int], None] | None = None) -> Loaded:
    """Load the features of all utterances of the protocol that have any, and who is in which fold, from one catalogue.

    Utterances come in the order of their corpora and ids, whatever shards they lie in: the same data trains to the same numbers
    however the cache grew.

    Raises:
        TfserError: if a shard is damaged, or the corpus was scanned anew since the experiment was settled.
    """
    number = {name: i for i, name in enumerate(experiment.classes)}
    key = [experiment.protocol, experiment.corpora]
    several = len(experiment.corpora) > 1
    # Rows, folds and who is independent from one open catalogue: a scan between two queries would give
    # utterances of one state the folds of another.
    with open_catalogue(cache) as connection:
        check_unchanged(connection, experiment)
        utterances = rows(
            connection,
            f"SELECT f.*, a.label, u.speaker{''.join(f', u.{name}' for name in experiment.targets)} FROM features f "
            "JOIN assignments a ON a.corpus = f.corpus AND a.utterance_id = f.utterance_id "
            "JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id "
            "WHERE a.protocol = ? AND list_contains(?, a.corpus) AND a.fold IS NOT NULL AND f.feature_set = ? "
            "ORDER BY f.corpus, f.utterance_id",
            [*key, experiment.stored],
        )
        placed = connection.execute(
            "SELECT fold, role, corpus, utterance_id FROM folds WHERE protocol = ? AND list_contains(?, corpus) "
            "AND list_contains(?, fold)",
            [*key, list(experiment.folds)],
        ).fetchall()
        kept = fold_independence(connection, experiment.protocol, experiment.corpus)
        soft = soft_labels(connection, experiment) if experiment.recipe.labels_from == "distribution" else None
    view = experiment.view
    where = [
        FeatureRow(
            utterance_id=r["utterance_id"],
            path=cache.root / r["shard"],
            first_frame=r["first_frame"],
            frames=r["frames"],
            dim=r["dim"] if view is None else view.row["dim"],
            checksum=r["checksum"],
            first_column=None if view is None else view.first_column,
        )
        for r in utterances
    ]
    return Loaded(
        features=load_packed(where, progress=progress, verify=cache.verify),
        labels=np.array([0 if experiment.targets else number[r["label"]] for r in utterances], dtype=np.int64),
        ratings=ratings_of(utterances, experiment.targets, experiment.scales),
        corpora=tuple(r["corpus"] for r in utterances),
        speakers=tuple(f"{r['corpus']}/{r['speaker']}" if several and r["speaker"] else r["speaker"] for r in utterances),
        sides=_sides_of(experiment.folds, [(row["corpus"], row["utterance_id"]) for row in utterances], placed),
        speakers_kept=kept,
        soft_labels=None if soft is None else soft_rows(soft, utterances, number),
    )


def _sides_of(
    folds: Sequence[int], utterances: Sequence[tuple[str, str]], placed: Sequence[tuple[int, str, str, str]]
) -> dict[int, dict[str, npt.NDArray[np.int64]]]:
    """Return the rows of each side by fold and role; `placed` are (fold, role, corpus, utterance_id).

    An utterance without features stands in no side; whoever lacks some was named by the audit, which has run before.
    """
    place = {utterance: row for row, utterance in enumerate(utterances)}
    sides: dict[int, dict[str, list[int]]] = {fold: {"train": [], "val": [], "test": []} for fold in folds}
    if EVERYTHING in sides:
        sides[EVERYTHING]["train"] = list(range(len(utterances)))
    for fold, role, *utterance in placed:
        if tuple(utterance) in place:
            sides[fold][role].append(place[tuple(utterance)])  # type: ignore[index]
    return {
        fold: {role: np.array(sorted(members), dtype=np.int64) for role, members in by_role.items()}
        for fold, by_role in sides.items()
    }


def utterances_cut(experiment: Experiment, loaded: Loaded) -> int:
    """Count the utterances that are longer than what the head sees."""
    most = experiment.spec.seen_frames(experiment.config, experiment.recipe)
    return 0 if most is None else int((loaded.features.lengths > most).sum())


def audit_experiment(cache: Cache, experiment: Experiment) -> list[Finding]:
    """Run the audits that decide about an experiment: its protocol, and its feature set's completeness.

    The last finding is who takes no part in it, and why (`participation`).
    """
    protocol, corpus, feature_set = experiment.protocol, experiment.corpus, experiment.stored
    with open_catalogue(cache) as connection:
        found = run_audits(connection, protocol=protocol, corpus=corpus, feature_sets=[feature_set])
        found += unmatched(connection, protocol=protocol, corpus=corpus)
        defined = definition(cache, protocol)
        tally = participation(connection, protocol=protocol, corpus=corpus, defined=defined, feature_set=feature_set)
    return [*found, finding(tally, protocol=protocol, corpus=corpus)]


def check_audit(experiment: Experiment, findings: Sequence[Finding], fold: int) -> None:
    """Refuse a fold whose audit found an error.

    Raises:
        TfserError: unless errors of that kind, leaks or gaps, are allowed.
    """
    allowed = {"leak": experiment.allow_leaks, "gap": experiment.allow_gaps}
    errors = [finding for finding in blocking(findings, fold) if not allowed[finding.kind]]
    if errors:
        others = more(len(errors) - 1, brackets=True)
        raise TfserError(
            f"{experiment.protocol} fold {fold} fails its audit: {errors[0].sentence()}{others}. What to do: {errors[0].action}. "
            f"See `tfser audit`; --allow-{errors[0].kind}s trains all the same, and the run says so"
        )


@dataclass(frozen=True, kw_only=True)
class Following:
    """Who hears how runs go, and how often what they have learnt is kept."""

    checkpoint_every_s: float = 30.0
    """At the end of an epoch the state is kept if so many seconds have gone by since the last time."""
    on_epoch: Callable[[int, EpochRecord], None] | None = None
    """Told about each epoch that is trained now, with the run's number among those that are trained together."""
    on_wait: Callable[[str], None] | None = None
    """Told when another process is training the same run; it may raise to give up."""
    on_note: Callable[[str], None] | None = None
    """Told when something damaged is moved to `removed/`, or why there is no CUDA graph."""

    def note(self, text: str) -> None:
        """Tell whoever is told of notes."""
        if self.on_note is not None:
            self.on_note(text)

    def keeping(self, number: int, checkpoint_dir: Path) -> Keeping:
        """Return what the loop is to keep and tell of a run of that number."""
        from tfser.heads.training.loop import Keeping

        def on_epoch(record: EpochRecord) -> None:
            if self.on_epoch is not None:
                self.on_epoch(number, record)

        return Keeping(checkpoint_dir=checkpoint_dir, checkpoint_every_s=self.checkpoint_every_s, on_epoch=on_epoch)


BY_ITSELF = Following()


def train_fold(
    cache: Cache,
    experiment: Experiment,
    fold: int,
    loaded: Callable[[], Loaded],
    findings: Sequence[Finding],
    following: Following = BY_ITSELF,
) -> RunResult:
    """Train one fold, or find its finished run.

    Args:
        cache: the cache.
        experiment: what to train.
        fold: which fold.
        loaded: gives the features; called only if there is something to train.
        findings: of `audit_experiment`.
        following: who hears of it, and how often the state is kept; the run's number is 0.

    Raises:
        TfserError: if the audit forbids the fold, or predictions are no numbers.
        UnreadableError: if its run cannot be read now: it may be whole, and is not trained over.
        EmptySideError: if a side of it is empty.
    """
    from tfser.heads.training.loop import fit

    check_audit(experiment, findings, fold)
    run_id = experiment.run_id(fold)
    # Before the lock: a finished run is found in a cache that cannot be written to as well.
    if not experiment.again and (done := peek(cache, run_id)) is not None:
        return RunResult(about=done, trained=False)
    with cache.lock(f"runs/{run_id}", following.on_wait):
        if (done := pick_up(cache, run_id, again=experiment.again, note=following.note)) is not None:
            return RunResult(about=done, trained=False)
        begun = begin_run(cache, experiment, fold, loaded(), findings, following.note)
        result = fit(
            begun.data,
            spec=experiment.spec,
            config=experiment.config,
            recipe=experiment.recipe,
            seed=experiment.seed,
            device=experiment.device,
            graphs=experiment.graphs,
            keeping=following.keeping(0, begun.checkpoint_dir),
        )
        return store_run(cache, begun, result, following.note)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run whose folder is made and which is not trained yet."""

    about: Mapping[str, Any]
    folder: Path
    loaded: Loaded
    data: FoldData

    @property
    def checkpoint_dir(self) -> Path:
        """Where the state of its training is kept."""
        return self.folder / "checkpoint"


def begin_run(
    cache: Cache,
    experiment: Experiment,
    fold: int,
    loaded: Loaded,
    findings: Sequence[Finding],
    note: Callable[[str], None],
) -> Begun:
    """Put together what a run is trained on, and make its folder. The caller holds its lock.

    Raises:
        EmptySideError: if a side of the fold is empty.
    """
    from tfser.heads.training import checkpoints

    sides = _sides(experiment, loaded, fold)
    about = _about(experiment, fold, findings) | {
        "utterances_cut": utterances_cut(experiment, loaded),
        # A run on everything has no test speaker who could have been heard.
        "speakers_kept": "kept" if fold == EVERYTHING else loaded.speakers_kept.get(fold, "unknown"),
    }
    known = tuple(name for name in loaded.speakers if name is not None)
    try:
        data = FoldData(
            features=loaded.features,
            labels=loaded.labels,
            classes=experiment.classes,
            speakers=known if len(known) == len(loaded.speakers) else None,
            layers=experiment.layers,
            targets=experiment.targets,
            ratings=loaded.ratings,
            soft_labels=loaded.soft_labels,
            **sides,
        )
    except UnlearnableError as error:
        raise EmptySideError(f"{experiment.protocol} fold {fold}: {error}") from error
    begun = Begun(about=about, folder=begin(cache, about, again=experiment.again, note=note), loaded=loaded, data=data)
    try:
        checkpoints.load(begun.checkpoint_dir)
    except DamagedError as error:
        moved = cache.put_away(begun.checkpoint_dir / checkpoints.FILE)
        note(f"{error}; it is moved to {moved}, and the run is trained from the beginning")
    return begun


def store_run(cache: Cache, begun: Begun, result: FitResult, note: Callable[[str], None]) -> RunResult:
    """Store what a run's training gave, and that it is finished."""
    for selection, state in result.states.items():
        save_model(begun.folder / ("model.safetensors" if selection == "last" else f"model-{selection}.safetensors"), state)
    test, loaded = begun.data.test, begun.loaded
    about = finish(
        cache,
        {
            **begun.about,
            "parameters": result.parameters,
            "epochs": len(result.history),
            "layer_weights": _layer_weights(result.states),
            "temperature": _temperatures(result),
            "finished_at": now(),
            "seconds": sum(r.train_s + r.eval_s for r in result.history),
        },
        RunOutcome(
            classes=begun.data.classes,
            utterances=[(loaded.corpora[i], loaded.features.utterance_ids[i]) for i in test],
            labels=loaded.labels[test],
            ratings=None if loaded.ratings is None else loaded.ratings[test],
            scales=tuple(begun.about["config"].get("scales", ())),
            targets=begun.data.targets,
            selections=[_selected(name, of, test) for name, of in result.selections.items()] if len(test) else [],
            history=[_history_row(record) for record in result.history],
        ),
        folder=begun.folder,
        note=note,
    )
    return RunResult(about=about, trained=True)


def _temperatures(result: FitResult) -> dict[str, float] | None:
    """Return the temperature of each selection's epoch; None where none were fitted."""
    by_epoch = {record.epoch: record.temperature for record in result.history}
    found = {name: by_epoch.get(selection.epoch) for name, selection in result.selections.items()}
    return {name: value for name, value in found.items() if value is not None} or None


def _layer_weights(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[float]] | None:
    """Return the weights of a learned layer mix by selection; None where the features have one layer."""
    from tfser.heads.models.layer_mix import layer_weights

    found = {selection: weights for selection, state in states.items() if (weights := layer_weights(state)) is not None}
    return found or None


def _selected(name: str, selection: Selection, test: npt.NDArray[np.int64]) -> Selected:
    """Turn rows of the packed features into places among the test utterances."""
    prediction = selection.test
    if prediction is None:
        raise TfserError("the test side gave no predictions")
    place = {int(row): i for i, row in enumerate(test)}
    probabilities = np.empty_like(prediction.utterance_probabilities)
    probabilities[[place[int(row)] for row in prediction.utterance]] = prediction.utterance_probabilities
    return Selected(
        selection=name,
        epoch=selection.epoch,
        utterances=probabilities,
        segments=prediction.segment_probabilities,
        segment_utterance=np.array([place[int(row)] for row in prediction.segment_utterance], dtype=np.int64),
        segment_number=prediction.segment_number,
    )


def _history_row(record: EpochRecord) -> dict[str, Any]:
    return {
        "epoch": record.epoch,
        "loss": record.loss,
        "lr": record.learning_rate,
        "seconds": record.train_s + record.eval_s,
        "val_WA": record.val_WA,
        "val_UA": record.val_UA,
        "val_WF1": record.val_WF1,
        "val_loss": record.val_loss,
        "test_WA": record.test_WA,
        "test_UA": record.test_UA,
        "test_WF1": record.test_WF1,
        "test_loss": record.test_loss,
        "val_CCC": record.val_CCC,
        "test_CCC": record.test_CCC,
    }


def _sides(experiment: Experiment, loaded: Loaded, fold: int) -> Mapping[str, npt.NDArray[np.int64]]:
    sides = loaded.sides[fold]
    if fold == EVERYTHING:
        wanted: tuple[str, ...] = ("train",)
    else:
        wanted = ("train", "test") if experiment.validation in WITHOUT_VAL else ("train", "val", "test")
    for side in wanted:
        if not len(sides[side]):
            raise EmptySideError(
                f"{experiment.protocol} fold {fold}: no utterance of its {side} side has {experiment.feature_set} features"
            )
    return sides


def _about(experiment: Experiment, fold: int, findings: Sequence[Finding]) -> dict[str, Any]:
    errors = blocking(findings, fold)
    return {
        "run_id": experiment.run_id(fold),
        "experiment": experiment.name,
        "head": experiment.spec.name,
        "preset": experiment.preset,
        "recipe": experiment.recipe_name,
        "corpus": experiment.corpus,
        "protocol": experiment.protocol,
        "protocol_hash": experiment.protocol_hash,
        "validation": experiment.validation,
        "fold": fold,
        "seed": experiment.seed,
        "feature_set": experiment.feature_set,
        "fingerprint": experiment.fingerprint,
        "epochs": experiment.epochs(fold),
        "device": experiment.device,
        "device_name": processor(experiment.device),
        "audit": "overridden" if any(e.kind == "leak" for e in errors) else "gaps" if errors else "passed",
        "findings": [f.to_dict() for f in findings if f.level in ("error", "warning") and f.fold in (None, fold)],
        "started_at": now(),
        "versions": versions(),
        "config": experiment.configuration(),
        **({"targets": list(experiment.targets)} if experiment.targets else {}),
        **({"graphs": True} if experiment.graphs else {}),
    }
