"""Trained heads, ready for use: the weights of a finished run with everything that it takes to call them on new frames.

What comes in: a run of a cache. What goes out: `TrainedHead`, whose `predict` is the very evaluation that the training
stored its test predictions with. Nothing here reads audio, and nothing is changed in a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tfser.heads import head
from tfser.heads.prediction.makers import Mixes, mixes_in, whole_set
from tfser.heads.prediction.outputs import Outputs
from tfser.heads.results.outcomes import find
from tfser.heads.runs.experiment import EVERYTHING
from tfser.heads.runs.learned_mix import FILES
from tfser.heads.runs.store import finished, read_model, run_folder
from tfser.heads.spec.fold import Prediction
from tfser.heads.spec.head import Baseline, HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.predict import TrainedState, predict
from tfser.heads.training.temperature import scaled
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.experiment_names import meant_by
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.shards.packed import PackedFeatures

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """A head with its trained weights, and what it has to be given.

    Attributes:
        about: what the run says of itself (run.json).
        spec, config, recipe: the head, its configuration, and how it was trained, which says how frames are normalised
            and cut.
        classes: K names, in the order of the head's outputs; none of a head of dimensions alone.
        selection: how the epoch of the weights was chosen.
        state: the weights with their normalisation.
        features: the feature set that it was trained on.
        mixes: how the layers of learned mixes in it were scaled.
        is_calibrated: whether `predict` gives utterances' probabilities at the run's temperature.
    """

    about: Mapping[str, Any]
    spec: HeadSpec
    config: Settings
    recipe: Recipe
    classes: tuple[str, ...]
    selection: str
    state: Mapping[str, Tensor]
    features: StoredSet
    mixes: Mixes = field(default_factory=dict)
    is_calibrated: bool = False

    @property
    def temperature(self) -> float | None:
        """That of this selection, fitted on validation utterances (`tfser.heads.training.temperature`); None: none was."""
        found = (self.about.get("temperature") or {}).get(self.selection)
        return None if found is None else float(found)

    def calibrated(self) -> TrainedHead:
        """Return the head with probabilities at its temperature.

        Raises:
            UsageError: its training fitted none.
        """
        if self.temperature is None:
            raise UsageError(
                f"--calibrated: {self.name} has no temperature; train with --set temperature=true and a validation side "
                "(--validation)"
            )
        return replace(self, is_calibrated=True)

    @property
    def targets(self) -> tuple[str, ...]:
        """The T dimensions that it rates, alone or beside its classes; none of a head of classes alone."""
        return tuple(self.about["config"].get("targets", ()))

    @property
    def scale(self) -> tuple[float, float]:
        """The ends of the scale that it rates on: its corpus's, or 0 and 1 where its corpora have several."""
        ends = {(low, high) for _, low, high in self.about["config"].get("scales", ())}
        return ends.pop() if len(ends) == 1 else (0.0, 1.0)

    @property
    def outputs(self) -> Outputs:
        """What its K + T numbers are called."""
        return Outputs(classes=self.classes, targets=self.targets, scale=self.scale)

    @property
    def name(self) -> str:
        """The run's id."""
        return str(self.about["run_id"])

    @property
    def needs_speakers(self) -> bool:
        """Whether frames, or what is made of them, are normalised by speaker, so that it has to be known who speaks."""
        return self.recipe.normalise == "speaker"

    @property
    def is_fitted_at_once(self) -> bool:
        """Whether it is a reference head, which has no network and computes on the CPU."""
        return isinstance(self.spec, Baseline)

    def predict(
        self,
        features: PackedFeatures,
        *,
        speakers: tuple[str, ...] | None = None,
        rows_of: npt.NDArray[Any] | None = None,
        device: str = "cpu",
    ) -> Prediction:
        """Return the class probabilities, and behind them ratings on 0..1, of utterances and segments, as the training evaluated
        its own.

        They are as sure as those that the run stored. Of a calibrated head the probabilities of utterances, and they alone, are
        scaled.

        Args:
            features: frames of the feature set that the head was trained on, n utterances.
            speakers: (n,) who speaks; needed where frames are normalised by speaker.
            rows_of: the utterances to predict; None: all.
            device: where to compute.

        Raises:
            UsageError: the features are of another width, or the speakers are needed and not given.
        """
        found = predict(
            TrainedState(
                state=self.state,
                spec=self.spec,
                config=self.config,
                recipe=self.recipe,
                n_classes=len(self.classes),
                targets=self.targets,
                layers=self.features.layers,
            ),
            features,
            utterances=rows_of,
            speakers=speakers,
            device=device,
        )
        if not self.is_calibrated or self.temperature is None:
            return found
        both, K = found.utterance_probabilities.copy(), len(self.classes)
        both[:, :K] = scaled(both[:, :K], self.temperature)
        return replace(found, utterance_probabilities=both)


def trained_head(cache: Cache, run_id: str, *, selection: str = "last") -> TrainedHead:
    """Return the trained head of a finished run.

    Args:
        cache: the cache.
        run_id: of the run.
        selection: last or val: those whose weights a run keeps.

    Raises:
        UsageError: there is no such run, or it keeps no weights of this selection.
        DamagedError: a file of it is not what was written.
        UnreadableError: a file of it cannot be read now.
        TfserError: the description of its features is no longer in the cache.
    """
    about = finished(cache, run_id)
    if about is None:
        raise UsageError(f"no finished run {run_id!r} in {cache.runs}; `tfser runs ls` lists them")
    if selection not in FILES:
        raise unknown("selection whose weights are kept", selection, list(FILES))
    if not (run_folder(cache, run_id) / FILES[selection]).exists() and selection != "last":
        raise UsageError(f"{run_id}: no epoch was selected by validation ({about['validation']}); take --selection last")
    features = stored_set(cache, about)
    return TrainedHead(
        about=about,
        **described(about),
        selection=selection,
        state=read_model(cache, about, FILES[selection]),
        features=features,
        mixes=mixes_in(cache, features),
    )


def described(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return head, configuration, recipe and classes of a run, as `TrainedHead` calls them, out of what it says of
    itself.

    Raises:
        TfserError: the head is not known here, or has no such settings: another version's, or a plug-in's that is not
            installed.
    """
    config = about["config"]
    try:
        spec = head(about["head"])
        kind = type(spec.preset())
        return {
            "spec": spec,
            "config": kind.from_dict(config["head_config"]),
            "recipe": Recipe.from_dict(config["recipe_config"]),
            "classes": tuple(about["classes"] or ()),
        }
    except UsageError as error:
        raise TfserError(f"{about['run_id']}: cannot be used by this version or without its plug-in ({error})") from error


def stored_set(cache: Cache, about: Mapping[str, Any]) -> StoredSet:
    """Return the feature set that a run was trained on, with all that it is made of.

    Raises:
        TfserError: the cache no longer says what it is.
    """
    found = whole_set(cache, about["fingerprint"])
    if found is None:
        raise TfserError(
            f"{about['run_id']}: its features {about['feature_set']} ({about['fingerprint']}) are no longer in the cache, so "
            "nothing says how to compute them; extract them again"
        )
    return found


def choose_runs(cache: Cache, text: str, *, ensemble: bool = False) -> list[str]:
    """Return the runs that a text means: one, or all folds and seeds of an experiment.

    Args:
        cache: the cache.
        text: the id of a run or an experiment, or a piece of one.
        ensemble: whether several are wanted.

    Raises:
        UsageError: there is none of this name, or an experiment has several runs and nothing says which.
    """
    with open_catalogue(cache) as connection:
        subject = find(connection, meant_by(cache, text))
        if subject.run_id is not None and not ensemble:
            return [subject.run_id]
        found = rows(
            connection,
            "SELECT run_id, fold FROM runs WHERE experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?) ORDER BY fold, seed",
            [subject.experiment, subject.run_id, subject.run_id],
        )
    whole = [row["run_id"] for row in found if row["fold"] == EVERYTHING]
    parts = [row["run_id"] for row in found if row["fold"] != EVERYTHING]
    if ensemble:
        if len(parts or whole) < 2:
            raise UsageError(f"--ensemble: {text} has one run, {(parts or whole)[0]}; train more folds or seeds, or leave it out")
        return parts or whole
    one: Sequence[str] = whole or parts
    if len(one) > 1:
        raise UsageError(
            f"{subject.experiment} has {len(one)} runs: name one ({one[0]} ...), take their mean with --ensemble, or train one "
            "on all labelled utterances with `tfser train --fold none`"
        )
    return [one[0]]
