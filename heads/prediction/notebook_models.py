"""Trained heads in a notebook: an experiment that was just trained, and a head that is called on a waveform.

What comes in: a request, or the name of a run, an experiment or an exported folder. What goes out: `TrainedExperiment`
with its runs and scores, `TrainedModel` with class probabilities and ratings. Both are what the command line trains and
predicts with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.prediction.answers import SpokenAnswer, answers, evaluated
from tfser.heads.prediction.inputs import measured, named_inputs
from tfser.heads.prediction.loading import Model, load_model
from tfser.heads.prediction.outputs import mean_of
from tfser.heads.prediction.packing import heard_part
from tfser.heads.prediction.python_values import a_rate, a_text, texts
from tfser.heads.results.dimension_tables import table_beside
from tfser.heads.results.score_tables import Wanted, table
from tfser.heads.runs.experiment import EVERYTHING, Experiment, resolve
from tfser.heads.runs.in_turn import run_here
from tfser.heads.runs.plan import Entry, Run, make_plan
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh_if_possible
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.sound.audio import resample


@dataclass(frozen=True)
class TrainedExperiment:
    """An experiment that is trained: `name` is its id, `runs` the ids of the runs that were asked for."""

    cache: Cache
    experiment: Experiment
    runs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The experiment's id."""
        return self.experiment.name

    def scores(self, *, by: str | None = None) -> list[dict[str, Any]]:
        """Return its scores as shares of 1, with intervals over speakers; `by`: seed, fold, class, speaker or session.

        Of dimensions there is a row for each, and one for their mean, with CCC, pearson and MAE; where classes were learned, too,
        they stand behind those of classes.
        """
        if self.experiment.folds == (EVERYTHING,):
            raise UsageError(f"{self.name}: trained on all utterances, so it has no test scores; train folds='all' for some")
        wanted = Wanted(experiment=self.name)
        with open_catalogue(self.cache) as connection:
            of_classes = table(connection, wanted, by=by) if self.experiment.classes else []
            return of_classes + table_beside(connection, of_classes, wanted, by=by)

    def model(self, fold: int | None = None) -> TrainedModel:
        """Return the trained head of a fold, ready to be called; the only run's if there is one."""
        ids = [run for run in self.runs if fold is None or f"-f{fold}-" in run.removeprefix(self.name)]
        if len(ids) != 1:
            raise UsageError(f"which run? {', '.join(self.runs)}; say fold=")
        return load(ids[0], cache=self.cache)


def train_experiment(cache: Cache, request: Request, seeds: Sequence[int]) -> TrainedExperiment:
    """Train what a request asks for with each of some seeds.

    Raises:
        UsageError: a name is unknown, or the cache leaves a choice.
        TfserError: an audit forbids a fold, or a run failed.
    """
    settled = resolve(cache, request)
    runs = tuple(Run(experiment=replace(settled, seed=seed), fold=fold) for seed in seeds for fold in settled.folds)
    plan = make_plan(cache, [Entry(experiment=runs[0].experiment, runs=runs)])
    try:
        failures = run_here(cache, plan.runs, plan.findings, tell=lambda event: None, go_on_after=TfserError)
    finally:
        refresh_if_possible(cache)
    if failures:
        raise TfserError(f"{failures[0].run.run_id}: {failures[0].reason}")
    return TrainedExperiment(cache, settled, tuple(run.run_id for run in runs))


class TrainedModel:
    """A trained head, or the mean of several, with what makes its frames.

    Attributes:
        classes: names, in the order of the probabilities; none of a head of dimensions alone.
        targets: the dimensions that it rates; none of a head of classes alone.
        scale: the ends of the scale of their ratings.
        sample_rate: of the audio that the front-end wants; other rates are resampled.
        name: the run's id, or the first one's.
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self._model, self._compute = model, Compute(devices=(device,))
        self._outputs = model.heads[0].outputs
        self.classes, self.targets, self.scale = self._outputs.classes, self._outputs.targets, self._outputs.scale
        self.sample_rate = model.fronts.of[0].sample_rate_hz
        self.name = model.heads[0].name

    def __call__(self, waveform: npt.ArrayLike, sample_rate: int | None = None) -> dict[str, float]:
        """Return the probabilities of a waveform by class; of a head of dimensions alone, its ratings on their scale.

        A head of both gives its ratings by `answer`, so that the largest of these numbers is the class.

        Args:
            waveform: (n,) mono or (channels, n), full scale 1; a torch tensor, too.
            sample_rate: of it; None: the model's own.

        Raises:
            UsageError: it is no sound, too short, or the head has to know who speaks.
        """
        mean = mean_of(self._members(waveform, sample_rate))
        return self._outputs.shares(mean) if self.classes else self._outputs.ratings(mean)

    def answer(self, waveform: npt.ArrayLike, sample_rate: int | None = None) -> dict[str, Any]:
        """Return all that a model says of a waveform, as a row of `predict`: `predicted` and `probabilities`, `ratings`, and of
        several heads how far they agree.

        Raises:
            UsageError: as of a call.
        """
        members = self._members(waveform, sample_rate)
        return self._outputs.row(members) | self._outputs.disagreement(members)

    def _members(self, waveform: npt.ArrayLike, sample_rate: int | None) -> npt.NDArray[np.float32]:
        heads, fronts = self._model.heads, self._model.fronts
        if any(of.needs_speakers for of in heads):
            raise UsageError(
                f"{self.name} normalises by speaker: one waveform does not say what that is; predict files of a speaker"
            )
        try:
            given = np.asarray(waveform)
        except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's, of a tensor with a gradient
            raise UsageError(f"a waveform is (n,) or (channels, n) numbers, no {type(waveform).__name__}") from error
        if given.dtype.kind in "iu" and given.size:  # of another scale, mostly 32768, which heads take for very loud speech
            raise UsageError("a waveform has full scale 1, and these are integers: divide 16-bit ones by 32768")
        if given.dtype.kind != "f":
            raise UsageError(f"a waveform is (n,) or (channels, n) numbers, no {type(waveform).__name__} of {given.dtype}")
        samples = given.astype(np.float32, copy=False)
        if samples.ndim == 2 and len(samples) > samples.shape[1]:
            raise UsageError(f"a waveform is (n,) or (channels, n); this one is {samples.shape}: transpose it")
        if samples.ndim == 2:
            samples = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise UsageError(f"a waveform is (n,) or (channels, n) finite numbers, n above 0; this one is {samples.shape}")
        rate = self.sample_rate if sample_rate is None else a_rate(sample_rate)
        seconds = len(samples) / rate
        if seconds < fronts.minimum_s:
            raise UsageError(f"{seconds * 1000:.4g} ms of audio, shorter than one window of {fronts.minimum_s * 1000:g} ms")
        pieces = [("waveform", seconds)]
        with heard_part(fronts, pieces, lambda row, wanted: resample(samples, rate, wanted), self._compute) as heard:
            if heard.reasons:
                raise UsageError(heard.reasons[0])
            ((members, _),) = evaluated(heads, heard.packed, self._compute.devices[0], ())
        return members

    def predict(self, *files: str | Path) -> list[dict[str, Any]]:
        """Return a dict for each file of the names (files, folders, globs), as `tfser predict --format json` prints it.

        They stand in the order in which they were named, a folder's in natural order. What cannot be read has None in what is
        predicted, and a `reason`.
        """
        named = named_inputs(texts("predict", files))
        usable, lost = measured(named, minimum_s=self._model.fronts.minimum_s)
        heard = answers(self._model.heads, self._model.fronts, usable, known=self._model.known, compute=self._compute)
        nothing = self._outputs.row(np.empty((0, self._outputs.width), np.float32))
        found: dict[str, dict[str, Any]] = {}
        for answer in (*lost, *heard):  # in any order: what the run was tested on comes together
            if isinstance(answer, SpokenAnswer):
                found[answer.speech.name] = {**answer.to_dict(), "reason": None}
            else:
                found[answer.name] = {"input": answer.name, **nothing, "reason": answer.reason}
        return [found[piece.name] for piece in named]

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join((*self.classes, *self.targets))}>"


def load(
    name: str | Path,
    *,
    cache: Cache | str | Path | None = None,
    ensemble: bool = False,
    selection: str = "last",
    weights: str | None = None,
    calibrated: bool = False,
    device: str = "cpu",
) -> TrainedModel:
    """Return a trained head that can be called on a waveform.

    Args:
        name: a folder of `tfser export`, or a run or an experiment of a cache.
        cache: of the run; the command line's own if left out. A folder needs none.
        ensemble: the mean over an experiment's folds and seeds.
        selection: last, or val (the validated epoch).
        weights: where the encoder is, if not where it was.
        calibrated: probabilities at the temperature that was fitted on validation utterances.
        device: where to compute.

    Raises:
        UsageError: there is nothing of this name, or it leaves a choice.
        TfserError: weights are damaged, or the encoder is not here.
    """
    store = cache if isinstance(cache, Cache) else Cache(None if cache is None else Path(cache))
    named = a_text("name", name)
    model = load_model(named, store, ensemble=ensemble, selection=selection, weights=weights, calibrated=calibrated)
    return TrainedModel(model, device)
