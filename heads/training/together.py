"""Training several folds and seeds of one head together, so that a GPU is kept busy by small heads.

What comes in: jobs (`FitJob`: a fold, a seed, where its checkpoint lies) of one head, configuration and recipe. What goes out:
what `tfser.heads.training.loop.fit` gives for each alone. The arithmetic is in `tfser.heads.training.joint_step`.

* **Each job stays itself.** It has a `Trainer` of its own: initial weights, order, augmentation, schedule, evaluation, selections
  and checkpoints are those of `fit`. Only the arithmetic of a step is done for all jobs at once, and only while all have a step
  left in their epoch; folds differ in size, and the last steps of the larger ones are done alone.
* **A step** pads the jobs' batches to one size with samples that are not there: their targets are zero, so the loss does not see
  them, and heads with batch norm leave them out of its statistics (``present``). Weights, gradients and running statistics
  of all jobs lie in stacked tensors (J, ...), of which each job's model holds its part.
* **How** (`HOWS`): ``vmap``, torch.func's: every layer becomes one operation over J jobs. ``streams``: each job's operations
  on a CUDA stream of its own, side by side; convolutions keep their fastest kernels. Either way, a head that eats segments
  has the whole step (forward, backward, clipping, optimiser) in one CUDA graph.
* **Agreement.** The gradients of a step agree with those of separate training to `TOLERANCE` of the head's largest;
  over many steps rounding grows, and scores agree within the noise of a fold. So stacking is asked for (`--stack`), and a
  run's name holds it. Runs that repeat themselves to the bit are promised for CPUs, unstacked.
* **Dropout** does not stack: the masks of a job would depend on its neighbours.
* **Kills.** Checkpoints are those of `fit`, one a job: a group goes on from them, and so does a job alone or in another group.

On a CPU nothing is launch-bound and stacking costs time (docs/log.md), so `auto` trains one job after another there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.precision import settle_precision
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.joint_step import Group, make_capturable
from tfser.heads.training.loop import FitStoppedError, Trainer, fit
from tfser.heads.training.predict import own_randomness
from tfser.manifests.errors import TfserError, UsageError, unknown

How = Literal["auto", "none", "vmap", "streams"]
HOWS: tuple[How, ...] = ("auto", "none", "vmap", "streams")

TOLERANCE = 1e-5
"""Largest difference of a step's gradients from those of separate training, relative to the head's largest, in float32."""


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One training of a group."""

    data: FoldData
    seed: int
    checkpoint_dir: Path | None = None
    """Where its state is kept; one that is found there is resumed."""
    on_epoch: Callable[[EpochRecord], None] | None = None
    """Called after each epoch that is trained now."""


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How a group is trained, settled."""

    how: Literal["none", "vmap", "streams"]
    graph: bool
    """A step is one CUDA graph."""
    reason: str
    """Why so, in one line."""


def choose_stacking(
    spec: HeadSpec, config: Settings, recipe: Recipe, device: torch.device | str, how: How = "auto", *, layers: int = 1
) -> Stacking:
    """Say how jobs of a head, configuration and recipe are trained together on a device, and why.

    ``layers`` are those that the features hold side by side.

    Raises:
        UsageError: ``how`` is unknown, or names a way that is not there.
    """
    if how not in HOWS:
        raise unknown("way of stacking", how, HOWS)
    cuda = torch.device(device).type == "cuda"
    segments = spec.sample_frames(config, recipe) is not None
    graph = cuda and segments and recipe.optimiser in ("adam", "adamw")
    if how == "none":
        return Stacking(how="none", graph=False, reason="asked for")
    why = _why_not(spec, config, layers)
    if why is None and how == "vmap":
        why = spec.no_vmap_because(config)
    if how != "auto":
        if why is not None:
            raise UsageError(f"stack={how}: {spec.name} cannot be stacked here: {why}; take stack=auto")
        return Stacking(how=how, graph=graph, reason="asked for")
    if why is None and not cuda:
        why = "on a CPU, one job at a time is faster"
    if why is None and not segments:
        why = spec.no_vmap_because(config)
    if why is not None:
        return Stacking(how="none", graph=False, reason=why)
    if graph and spec.batch_norm:
        return Stacking(how="streams", graph=True, reason="one CUDA graph a step, a stream a job")
    return Stacking(how="vmap", graph=graph, reason="every layer is one operation over all jobs")


def _why_not(spec: HeadSpec, config: Settings, layers: int) -> str | None:
    """Return why a head and its configuration cannot be stacked at all, None if they can."""
    mixed = "a learned mix of layers comes before augmentation, outside the stacked step" if layers > 1 else None
    return spec.unstackable_because(config) or mixed


def provenance(stacking: Stacking, jobs: int) -> dict[str, Any]:
    """Return what a run stores of how it was trained beside `Experiment.stacked`; nothing if it was not stacked."""
    if stacking.how == "none":
        return {}
    return {"stacked": jobs, "stacked_by": stacking.how, "gradient_tolerance": TOLERANCE}


def fit_together(
    jobs: Sequence[FitJob],
    *,
    spec: HeadSpec,
    config: Settings,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    checkpoint_every_s: float = 60.0,
    epochs: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    how: How = "auto",
    on_note: Callable[[str], None] | None = None,
) -> list[FitResult | TfserError]:
    """Train jobs of one head, configuration and recipe.

    Args:
        jobs: What to train; their order does not matter. Folds may differ in size, not in the features' width or the classes.
        spec: The head.
        config: Its configuration.
        recipe: How to train.
        device: Where to train.
        checkpoint_every_s: At the end of an epoch all states are kept if so many seconds have gone by since the last time.
        epochs: Instead of the recipe's number; schedules stretch with it.
        should_stop: Asked after each epoch of the group; if it says so, all states are kept and `FitStoppedError` raised.
        how: One of `HOWS`; auto: as `choose_stacking` says.
        on_note: Told, once each, why jobs are not stacked, or why there is no CUDA graph where there should be one.

    Returns:
        For each job its result, in the order given; in its place the error of a job that failed, as by a loss that is
        no longer finite: the others go on without it. An epoch's ``train_s`` is a job's share of the group's time.

    Raises:
        UsageError: The jobs do not belong together, or a recipe does not fit.
        TfserError: A checkpoint belongs to another training or cannot be read.
        FitStoppedError: ``should_stop`` said so.
    """
    note = on_note or (lambda _: None)
    recipe = settle_precision(recipe, str(device))
    device = torch.device(device)
    layers = max((job.data.layers for job in jobs), default=1)
    stacking = choose_stacking(spec, config, recipe, device, how, layers=layers)
    if stacking.how == "none":
        if how == "auto" and len(jobs) > 1:
            note(f"trained one by one: {stacking.reason}")
        return [_alone(job, spec, config, recipe, device, checkpoint_every_s, epochs, should_stop) for job in jobs]
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs={epochs}: at least 1")
    if len({(job.data.features.frames.shape[1], job.data.classes) for job in jobs}) > 1:
        raise UsageError("jobs that are trained together need features of one width, and the same classes")
    with own_randomness(device):
        trainers = [Trainer(job.data, spec, config, recipe, job.seed, device, epochs) for job in jobs]
        _share_frames(trainers)
        for job, trainer in zip(jobs, trainers, strict=True):
            if stacking.graph:
                make_capturable(trainer.optimiser, device)
            if job.checkpoint_dir is not None:
                trainer.resume(job.checkpoint_dir)
        try:
            failed = _train_all(jobs, trainers, stacking, checkpoint_every_s, should_stop, note)
        except torch.OutOfMemoryError as error:
            raise TfserError(f"{len(jobs)} trainings of {spec.name} at once do not fit into memory; stack fewer") from error
        return [failed.get(i) or trainer.result() for i, trainer in enumerate(trainers)]


def _alone(
    job: FitJob,
    spec: HeadSpec,
    config: Settings,
    recipe: Recipe,
    device: torch.device,
    checkpoint_every_s: float,
    epochs: int | None,
    should_stop: Callable[[], bool] | None,
) -> FitResult | TfserError:
    try:
        return fit(
            job.data,
            spec=spec,
            config=config,
            recipe=recipe,
            seed=job.seed,
            device=device,
            checkpoint_dir=job.checkpoint_dir,
            checkpoint_every_s=checkpoint_every_s,
            epochs=epochs,
            on_epoch=job.on_epoch,
            should_stop=should_stop,
        )
    except (FitStoppedError, UsageError):
        raise
    except TfserError as error:
        return error


def _train_all(
    jobs: Sequence[FitJob],
    trainers: Sequence[Trainer],
    stacking: Stacking,
    checkpoint_every_s: float,
    should_stop: Callable[[], bool] | None,
    note: Callable[[str], None],
) -> dict[int, TfserError]:
    """Train until every job is done; return the errors of those that failed, by their number."""
    failed: dict[int, TfserError] = {}
    group: Group | None = None
    kept = time.monotonic()
    # In an order of their own, so that the order in which jobs are given changes nothing.
    order = sorted(range(len(jobs)), key=lambda i: (trainers[i].fingerprint, i))
    while True:
        active = [i for i in order if i not in failed and len(trainers[i].history) < trainers[i].epochs]
        if not active:
            return failed
        members = [trainers[i] for i in active]
        if group is None or group.trainers != members:
            group = Group(members, stacking.how, stacking.graph, note)
        records: dict[int, EpochRecord] = {}
        for i, outcome in zip(active, group.run_epoch(), strict=True):
            if isinstance(outcome, TfserError):
                failed[i] = outcome
            else:
                records[i] = outcome
        stop = should_stop is not None and should_stop()
        stop = stop and any(len(trainers[i].history) < trainers[i].epochs for i in records)
        due = stop or time.monotonic() - kept >= checkpoint_every_s
        for i in records:
            folder = jobs[i].checkpoint_dir
            if folder is not None and (due or len(trainers[i].history) == trainers[i].epochs):
                trainers[i].keep(folder)
        kept = time.monotonic() if due else kept
        for i, record in records.items():
            callback = jobs[i].on_epoch
            if callback is not None:
                callback(record)
        if stop:
            where = "its state is kept" if all(job.checkpoint_dir for job in jobs) else "some of it is not kept"
            raise FitStoppedError(f"a group of {len(jobs)} trainings was stopped; {where}")


def _share_frames(trainers: Sequence[Trainer]) -> None:
    """Keep frames that several folds have in common once."""
    first: dict[int, Tensor] = {}
    for trainer in trainers:
        trainer.store.frames = first.setdefault(id(trainer.data.features.frames), trainer.store.frames)
