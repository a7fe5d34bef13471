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

from tfser.heads.runs.experiment import EVERYTHING, Experiment
from tfser.heads.runs.loaded import Loaded
from tfser.heads.runs.outcome import RunOutcome, history_row, selected
from tfser.heads.runs.store import begin, finish, peek, pick_up, save_model, versions
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData, UnlearnableError
from tfser.heads.training.frame_sums import are_kept
from tfser.manifests.audits.participation import Tally, definition, finding, participation, unmatched
from tfser.manifests.audits.run import Finding, blocking, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.errors import DamagedError, TfserError
from tfser.manifests.files import now
from tfser.manifests.protocols.validation import WITHOUT_VAL
from tfser.manifests.wording import more, size
from tfser.pipeline.resources.devices import processor

if TYPE_CHECKING:
    from torch import Tensor

    from tfser.heads.training.loop import Keeping


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: what run.json says, and whether it was trained now or found."""

    about: Mapping[str, Any]
    trained: bool


class EmptySideError(TfserError):
    """A fold cannot be trained: nothing is left of one of its sides, or nothing can be learned from it."""


def utterances_cut(experiment: Experiment, loaded: Loaded) -> int:
    """Count the utterances that are longer than what the head sees."""
    most = experiment.spec.seen_frames(experiment.config, experiment.recipe)
    return 0 if most is None else int((loaded.features.lengths > most).sum())


def audit_experiment(cache: Cache, experiment: Experiment) -> list[Finding]:
    """Run the audits that decide about an experiment: its protocol, and its feature set's completeness.

    The last finding is who takes no part in it, and why (`participation`).
    """
    protocol, corpus = experiment.protocol, experiment.corpus
    with open_catalogue(cache) as connection:
        findings = run_audits(connection, protocol=protocol, corpus=corpus, feature_sets=[experiment.stored])
        findings += unmatched(connection, protocol=protocol, corpus=corpus)
        tally = who_takes_part(cache, connection, experiment)
    return [*findings, finding(tally, protocol=protocol, corpus=corpus)]


def who_takes_part(cache: Cache, connection: Connection, experiment: Experiment) -> Tally:
    """Count who takes part in an experiment's protocol with its features; those of a layer are looked for in its stack."""
    return participation(
        connection,
        protocol=experiment.protocol,
        corpus=experiment.corpus,
        defined=definition(cache, experiment.protocol),
        feature_set=experiment.stored,
    )


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


WORTH_SAYING = 4e9
"""Bytes that a disk reads within half a minute: whoever waits longer is told what for."""


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
        if (first := _measured_first(begun, experiment)) >= WORTH_SAYING:
            following.note(f"fold {fold}: {size(first)} are read once to measure the normalisation")
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


def _measured_first(begun: Begun, experiment: Experiment) -> int:
    """Return the bytes that are read from the disk before the first epoch, to measure what the frames are normalised by."""
    features = begun.data.features
    if begun.loaded.streamed is None or experiment.recipe.normalise == "none" or are_kept(features.frames, features.offsets):
        return 0
    read = features.lengths[begun.data.train] if experiment.recipe.normalise == "train" else features.lengths
    return int(read.sum()) * int(features.frames.nbytes // max(1, len(features.frames)))


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
    run_json = _about(experiment, fold, findings) | {
        "utterances_cut": utterances_cut(experiment, loaded),
        # A run on everything has no test speaker who could have been heard.
        "speakers_kept": "kept" if fold == EVERYTHING else loaded.speakers_kept.get(fold, "unknown"),
    }
    named = tuple(name for name in loaded.speakers if name is not None)
    # Speakers only where all are known: a normaliser by speaker could not place the others.
    try:
        data = FoldData(
            features=loaded.features,
            labels=loaded.labels,
            classes=experiment.classes,
            speakers=named if len(named) == len(loaded.speakers) else None,
            layers=experiment.layers,
            targets=experiment.targets,
            ratings=loaded.ratings,
            soft_labels=loaded.soft_labels,
            **sides,
        )
    except UnlearnableError as error:
        raise EmptySideError(f"{experiment.protocol} fold {fold}: {error}") from error
    begun = Begun(about=run_json, folder=begin(cache, run_json, again=experiment.again, note=note), loaded=loaded, data=data)
    # A damaged checkpoint is found now and not in the loop: the run goes on without it, and nothing is lost but time.
    try:
        checkpoints.load(begun.checkpoint_dir)
    except DamagedError as error:
        moved = cache.put_away(begun.checkpoint_dir / checkpoints.FILE)
        note(f"{error}; it is moved to {moved}, and the run is trained from the beginning")
    return begun


def store_run(cache: Cache, begun: Begun, result: FitResult, note: Callable[[str], None]) -> RunResult:
    """Store what a run's training gave, and that it is finished."""
    # Weights first: run.json, which `finish` writes last of all, lists the digest of every file that lies there by
    # then.
    for selection, state in result.states.items():
        save_model(begun.folder / ("model.safetensors" if selection == "last" else f"model-{selection}.safetensors"), state)
    test, loaded = begun.data.test, begun.loaded
    run_json = finish(
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
            selections=[selected(name, of, test) for name, of in result.selections.items()] if len(test) else [],
            history=[history_row(record) for record in result.history],
        ),
        folder=begun.folder,
        note=note,
    )
    return RunResult(about=run_json, trained=True)


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
    # Errors here were allowed, or the fold would have been refused: leaks weigh more than gaps.
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
