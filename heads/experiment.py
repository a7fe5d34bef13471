"""From a request to a run: choose, audit, load, train, store.

`resolve` settles everything that the request left open, and says what it chose. `train_fold` then refuses a fold
whose audit fails (unless told otherwise, which the run records), finds the finished run of the same configuration, or
trains, going on from a checkpoint where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.heads import head
from tfser.heads.base import HeadSpec, Settings
from tfser.heads.recipes import Recipe
from tfser.heads.runs import Selected, begin, digest, finish, finished, save_model, versions
from tfser.manifests.audit import Finding, blocking, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import Connection, ensure_protocol, open_catalogue, rows
from tfser.manifests.choices import choose_corpus, default_protocol
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.protocols import specify
from tfser.pipeline.batches import FeatureRow, PackedFeatures, load_packed
from tfser.pipeline.scan import now

if TYPE_CHECKING:
    from tfser.heads.training import EpochRecord, Selection

METHOD_VERSION = 1
"""Raised when the same configuration would train to other numbers, so that old runs are not taken for new ones."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked; None is left to be chosen."""

    head: str
    folds: str = "all"
    corpus: str | None = None
    features: str | None = None
    protocol: str | None = None
    labels: str | None = None
    validation: str | None = None
    preset: str | None = None
    recipe: str | None = None
    settings: Mapping[str, str] | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    allow_leaks: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that defines an experiment, settled; a run of it adds the fold. `chosen` says what was not asked
    for."""

    spec: HeadSpec
    preset: str
    config: Settings
    recipe_name: str
    recipe: Recipe
    corpus: str
    feature_set: str
    fingerprint: str
    dim: int
    protocol: str
    protocol_hash: str
    validation: str
    classes: tuple[str, ...]
    folds: tuple[int, ...]
    of_folds: int
    seed: int
    device: str
    data_hash: str
    allow_leaks: bool
    again: bool
    chosen: tuple[str, ...]

    def configuration(self) -> dict[str, Any]:
        """Return the whole configuration but fold and seed, as a run stores it."""
        return {
            "method_version": METHOD_VERSION,
            "head": self.spec.name,
            "preset": self.preset,
            "head_config": self.config.to_dict(),
            "recipe": self.recipe_name,
            "recipe_config": self.recipe.to_dict(),
            "corpus": self.corpus,
            "feature_set": self.feature_set,
            "fingerprint": self.fingerprint,
            "protocol": self.protocol,
            "protocol_hash": self.protocol_hash,
            "validation": self.validation,
            "classes": list(self.classes),
            "data_hash": self.data_hash,
            "device": self.device.partition(":")[0],
        }

    @property
    def name(self) -> str:
        """The experiment's id: readable, and unique by its configuration."""
        return f"{self.spec.name}-{self.preset}-{self.recipe_name.partition('+')[0]}-{self.corpus}-{digest(self.configuration())}"

    def run_id(self, fold: int) -> str:
        """Return the id of one run."""
        return f"{self.name}-f{fold}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The features of a protocol's utterances, in memory, with what training needs to know of each."""

    features: PackedFeatures
    labels: npt.NDArray[np.int64]
    speakers: tuple[str | None, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: what run.json says, and whether it was trained now or found."""

    about: Mapping[str, Any]
    trained: bool


def resolve(cache: Cache, request: Request) -> Experiment:
    """Settle what a request leaves open.

    Raises:
        UsageError: if a name is unknown, or the cache leaves several choices or none.
        TfserError: if the corpus cannot fill the protocol.
    """
    spec = head(request.head)
    said: list[str] = []
    corpus = choose_corpus(cache, request.corpus)
    protocol = ensure_protocol(
        cache,
        corpus,
        specify(request.protocol or default_protocol(cache, corpus), labels=request.labels, validation=request.validation),
    )
    preset = request.preset or spec.default_preset
    config = spec.preset(preset)
    recipe_name = request.recipe or spec.default_recipe
    recipe = spec.recipe(recipe_name)
    settings = dict(request.settings or {})
    if request.epochs is not None:
        settings["epochs"] = str(request.epochs)
    config, recipe, changes = _with_settings(spec, config, recipe, settings)
    with open_catalogue(cache) as connection:
        about = rows(connection, "SELECT * FROM protocols WHERE protocol = ? AND corpus = ?", [protocol, corpus])[0]
        feature_set = _choose_features(connection, spec, corpus, request.features)
        of = rows(connection, "SELECT * FROM feature_sets WHERE feature_set = ?", [feature_set])[0]
        data_hash = _data_hash(connection, protocol, corpus, feature_set)
    for asked, what, value in (
        (request.corpus, "corpus", corpus),
        (request.protocol, "protocol", protocol),
        (request.features, "features", feature_set),
        (request.preset, "preset", preset),
        (request.recipe, "recipe", recipe_name),
    ):
        if asked is None:
            said.append(f"{what} {value}")
    spec.check(config, of["dim"])
    return Experiment(
        spec=spec,
        preset=preset,
        config=config,
        recipe_name="+".join([recipe_name, *changes]),
        recipe=recipe,
        corpus=corpus,
        feature_set=feature_set,
        fingerprint=of["fingerprint"],
        dim=of["dim"],
        protocol=protocol,
        protocol_hash=about["hash"],
        validation=about["validation"],
        classes=tuple(about["classes"]),
        folds=_folds(request.folds, about["folds"], protocol),
        of_folds=about["folds"],
        seed=request.seed,
        device=_device(request.device),
        data_hash=data_hash,
        allow_leaks=request.allow_leaks,
        again=request.again,
        chosen=tuple(said),
    )


def _with_settings(
    spec: HeadSpec, config: Settings, recipe: Recipe, settings: Mapping[str, str]
) -> tuple[Settings, Recipe, list[str]]:
    """Apply `--set` to the recipe or, for names that it does not know, to the architecture; return what differs
    now."""
    recipe_names, config_names = recipe.to_dict(), config.to_dict()
    for key in settings:
        if key not in recipe_names and key not in config_names:
            raise unknown("setting", key, [*recipe_names, *config_names])
    new_recipe = recipe.with_settings({k: v for k, v in settings.items() if k in recipe_names})
    new_config = config.with_settings({k: v for k, v in settings.items() if k not in recipe_names})
    changes = [
        f"{key}={value}"
        for old, new in ((recipe_names, new_recipe.to_dict()), (config_names, new_config.to_dict()))
        for key, value in sorted(new.items())
        if old[key] != value
    ]
    return new_config, new_recipe, changes


def _choose_features(connection: Connection, spec: HeadSpec, corpus: str, asked: str | None) -> str:
    have: list[str] = [
        r["feature_set"]
        for r in rows(connection, "SELECT DISTINCT feature_set FROM features WHERE corpus = ? ORDER BY 1", [corpus])
    ]
    if not have:
        raise UsageError(f"no features of {corpus} in the cache; run `tfser extract --corpus {corpus}` first")
    if asked is not None:
        if asked not in have:
            raise unknown(f"feature set of {corpus}", asked, have)
        return asked
    current = [name for name in have if "@" not in name] or have
    for name in spec.features:
        if name in current:
            return name
    if len(current) == 1:
        return current[0]
    raise UsageError(f"which features? The cache holds {', '.join(current)} of {corpus}; say --features NAME")


def _data_hash(connection: Connection, protocol: str, corpus: str, feature_set: str) -> str:
    """Hash which audio each utterance of the protocol stands for, and which utterances have features."""
    found = connection.execute(
        "SELECT a.utterance_id, u.content_hash FROM assignments a "
        "JOIN utterances u ON u.corpus = a.corpus AND u.utterance_id = a.utterance_id "
        "JOIN features f ON f.corpus = a.corpus AND f.utterance_id = a.utterance_id AND f.feature_set = ? "
        "WHERE a.protocol = ? AND a.corpus = ? ORDER BY a.utterance_id",
        [feature_set, protocol, corpus],
    ).fetchall()
    return hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in found).encode()).hexdigest()[:16]


def _folds(text: str, count: int, protocol: str) -> tuple[int, ...]:
    """Parse `all`, `3`, `1,3` or `2-4`."""
    if text == "all":
        return tuple(range(1, count + 1))
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--fold {text}: write a number, a list (1,3), a range (2-4) or all")
        chosen += range(int(first), int(last or first) + 1)
    if not chosen or min(chosen) < 1 or max(chosen) > count:
        raise UsageError(f"--fold {text}: {protocol} has folds 1 to {count}")
    return tuple(dict.fromkeys(chosen))


def _device(asked: str) -> str:
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {asked}: not usable here ({str(error).splitlines()[0]})") from error
    return asked


def load(cache: Cache, experiment: Experiment, progress: Callable[[int, int], None] | None = None) -> Loaded:
    """Load the features of all utterances of the protocol that have any.

    Raises:
        TfserError: if a shard is damaged.
    """
    number = {name: i for i, name in enumerate(experiment.classes)}
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT f.*, a.label, u.speaker FROM features f "
            "JOIN assignments a ON a.corpus = f.corpus AND a.utterance_id = f.utterance_id "
            "JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id "
            "WHERE a.protocol = ? AND a.corpus = ? AND a.fold IS NOT NULL AND f.feature_set = ? "
            "ORDER BY f.shard, f.first_frame",
            [experiment.protocol, experiment.corpus, experiment.feature_set],
        )
        all_of = rows(
            connection,
            "SELECT count(*) AS n FROM assignments WHERE protocol = ? AND corpus = ?",
            [experiment.protocol, experiment.corpus],
        )[0]["n"]
    where = [
        FeatureRow(
            utterance_id=r["utterance_id"],
            path=cache.root / r["shard"],
            first_frame=r["first_frame"],
            frames=r["frames"],
            dim=r["dim"],
        )
        for r in found
    ]
    return Loaded(
        features=load_packed(where, progress=progress),
        labels=np.array([number[r["label"]] for r in found], dtype=np.int64),
        speakers=tuple(r["speaker"] for r in found),
        left_out=all_of - len(found),
    )


def audit_experiment(cache: Cache, experiment: Experiment) -> list[Finding]:
    """Run the audits that decide about an experiment: its protocol, and its feature set's completeness."""
    with open_catalogue(cache) as connection:
        return run_audits(
            connection, protocol=experiment.protocol, corpus=experiment.corpus, feature_sets=[experiment.feature_set]
        )


def check_audit(experiment: Experiment, findings: Sequence[Finding], fold: int) -> None:
    """Refuse a fold whose audit found an error.

    Raises:
        TfserError: unless leaks are allowed.
    """
    errors = blocking(findings, fold)
    if errors and not experiment.allow_leaks:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise TfserError(
            f"{experiment.protocol} fold {fold} fails its audit: {errors[0].sentence()}{more}. What to do: {errors[0].action}. "
            "See `tfser audit`; --allow-leaks trains all the same, and the run says so"
        )


def train_fold(
    cache: Cache,
    experiment: Experiment,
    fold: int,
    loaded: Callable[[], Loaded],
    findings: Sequence[Finding],
    *,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> RunResult:
    """Train one fold, or find its finished run.

    Args:
        cache: the cache.
        experiment: what to train.
        fold: which fold.
        loaded: gives the features; called only if there is something to train.
        findings: of `audit_experiment`.
        on_epoch: told about each epoch that is trained now.
        on_wait: told when another process is training the same run.

    Raises:
        TfserError: if the audit forbids the fold, or a side of it is empty.
    """
    from tfser.heads.training import FoldData, fit

    check_audit(experiment, findings, fold)
    run_id = experiment.run_id(fold)
    with cache.lock(f"runs/{run_id}", on_wait):
        done = None if experiment.again else finished(cache, run_id)
        if done is not None:
            return RunResult(about=done, trained=False)
        data = loaded()
        sides = _sides(cache, experiment, fold, data.features.utterance_ids)
        about = _about(experiment, fold, findings)
        folder = begin(cache, about, again=experiment.again)
        known = tuple(name for name in data.speakers if name is not None)
        result = fit(
            FoldData(
                features=data.features,
                labels=data.labels,
                classes=experiment.classes,
                speakers=known if len(known) == len(data.speakers) else None,
                **sides,
            ),
            spec=experiment.spec,
            config=experiment.config,
            recipe=experiment.recipe,
            seed=experiment.seed,
            device=experiment.device,
            checkpoint_dir=folder / "checkpoint",
            on_epoch=on_epoch,
        )
        for selection, state in result.states.items():
            save_model(folder / ("model.safetensors" if selection == "last" else f"model-{selection}.safetensors"), state)
        test = sides["test"]
        about = finish(
            cache,
            {
                **about,
                "parameters": result.parameters,
                "finished_at": now(),
                "seconds": sum(r.train_s + r.eval_s for r in result.history),
            },
            classes=experiment.classes,
            utterance_ids=[data.features.utterance_ids[i] for i in test],
            labels=data.labels[test],
            selections=[_selected(name, of, test) for name, of in result.selections.items()],
            history=[_history_row(record) for record in result.history],
        )
    return RunResult(about=about, trained=True)


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
        "test_WA": record.test_WA,
        "test_UA": record.test_UA,
    }


def _sides(cache: Cache, experiment: Experiment, fold: int, utterance_ids: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of the loaded features that train, validate and test a fold."""
    with open_catalogue(cache) as connection:
        role = dict(
            connection.execute(
                "SELECT utterance_id, role FROM folds WHERE protocol = ? AND corpus = ? AND fold = ?",
                [experiment.protocol, experiment.corpus, fold],
            ).fetchall()
        )
    sides = {
        side: np.array([i for i, name in enumerate(utterance_ids) if role.get(name) == side], dtype=np.int64)
        for side in ("train", "val", "test")
    }
    for side in ("train", "test"):
        if not len(sides[side]):
            raise TfserError(
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
        "epochs": experiment.recipe.epochs,
        "device": experiment.device,
        "audit": "overridden" if errors else "passed",
        "findings": [f.to_dict() for f in findings if f.level in ("error", "warning") and f.fold in (None, fold)],
        "started_at": now(),
        "versions": versions(),
        "config": experiment.configuration(),
    }
