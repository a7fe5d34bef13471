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
* **Memory.** Features that jobs have in common lie on the device once. A group that does not fit into its memory is halved and
  goes on; what it trained since its last checkpoint is trained again, to the same numbers. Steps that keep a GPU busy by
  themselves (`LARGE_STEP`) are not stacked by `auto`: nothing is gained, and each job costs as much memory as alone.
* **Kills.** Checkpoints are those of `fit`, one a job: a group goes on from them, and so does a job alone or in another group.

On a CPU nothing is launch-bound and stacking costs time (docs/log.md), so `auto` trains one job after another there.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tfser.heads.models.layer_mix import build_module
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData
from tfser.heads.spec.head import HeadSpec, count_parameters
from tfser.heads.spec.precision import settle_precision
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training.graphs import make_capturable
from tfser.heads.training.joint_step import Group
from tfser.heads.training.loop import Keeping, Trainer, fit, out_of_memory
from tfser.heads.training.predict import own_randomness
from tfser.heads.training.samples import placed
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.pipeline.resources.devices import computing_on
from tfser.pipeline.shards.streamed import StreamedFrames

How = Literal["auto", "none", "vmap", "streams"]
HOWS: tuple[How, ...] = ("auto", "none", "vmap", "streams")

TOLERANCE = 1e-5
"""Largest difference of a step's gradients from those of separate training, relative to the head's largest, in float32."""

LARGE_STEP = 5e10
"""Multiply-accumulates of a step (`step_size`) from which on it is not stacked by `auto`: a step of 700 kernels takes about 5 ms
to launch, in which a GPU of 60 TFLOP/s does 1.5e11. By calculation; the GPU check measures it."""


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One training of a group."""

    data: FoldData
    seed: int
    keeping: Keeping = field(default_factory=Keeping)
    """Where its state is kept, and who hears of its epochs. A group keeps its states as often as the one that asks for most."""


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How a group is trained, settled."""

    how: Literal["none", "vmap", "streams"]
    graph: bool
    """A step is one CUDA graph."""
    reason: str
    """Why so, in one line."""


def choose_stacking(
    spec: HeadSpec,
    config: Settings,
    recipe: Recipe,
    device: torch.device | str,
    how: How = "auto",
    *,
    layers: int = 1,
    dim: int | None = None,
) -> Stacking:
    """Say how jobs of a head, configuration and recipe are trained together on a device, and why.

    ``layers`` are those that the features hold side by side, ``dim`` is the width of one; None: what the head was made for.

    Raises:
        UsageError: ``how`` is unknown, or names a way that is not there.
    """
    if how not in HOWS:
        raise unknown("way of stacking", how, HOWS)
    # A graph needs batches of one shape and an optimiser that counts its steps on the device.
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
    # Measured: on a CPU stacking costs time (docs/log.md), since nothing waits to be launched.
    if why is None and not cuda:
        why = "on a CPU, one job at a time is faster"
    if why is None:  # segments too: a step of slices is made by vmap as well
        why = spec.no_vmap_because(config)
    if why is None and step_size(spec, config, recipe, dim or spec.typical_dim) >= LARGE_STEP:
        why = "one step of it keeps a GPU busy"
    if why is not None:
        return Stacking(how="none", graph=False, reason=why)
    # Convolutions of J jobs as one are grouped convolutions, whose kernels are slower than J fast ones side by
    # side.
    if graph and spec.batch_norm:
        return Stacking(how="streams", graph=True, reason="one CUDA graph a step, a stream a job")
    return Stacking(how="vmap", graph=graph, reason="every layer is one operation over all jobs")


def step_size(spec: HeadSpec, config: Settings, recipe: Recipe, dim: int) -> float:
    """Return about how many multiply-accumulates a training step takes: three for each parameter and frame of the batch.

    That is right for heads that work frame by frame, such as TF-Mamba; too much for those that pool first, too little for
    convolutions whose kernels pass over each frame's features. A head that sees whole utterances of any length counts as seeing
    500 frames, ten seconds.
    """
    with own_randomness(torch.device("cpu")), torch.device("meta"):
        parameters = count_parameters(build_module(spec, config, dim, 4))
    frames = spec.sample_frames(config, recipe) or spec.seen_frames(config, recipe) or 500
    return 3.0 * parameters * recipe.batch_size * frames


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
        how: One of `HOWS`; auto: as `choose_stacking` says.
        on_note: Told, once each, why jobs are not stacked, or why there is no CUDA graph where there should be one.

    Returns:
        For each job its result, in the order given; in its place the error of a job that failed, as by a loss that is
        no longer finite: the others go on without it. An epoch's ``train_s`` is a job's share of the group's time.

    Raises:
        UsageError: The jobs do not belong together, or a recipe does not fit.
        TfserError: A checkpoint belongs to another training or cannot be read.
    """
    note = on_note or (lambda _: None)
    recipe = settle_precision(recipe, str(device))
    device = torch.device(device)
    layers = max((job.data.layers for job in jobs), default=1)
    dim = jobs[0].data.features.frames.shape[1] // layers if jobs else None
    stacking = choose_stacking(spec, config, recipe, device, how, layers=layers, dim=dim)
    if stacking.how == "none":
        if how == "auto" and len(jobs) > 1:
            note(f"trained one by one: {stacking.reason}")
        return [_alone(job, spec, config, recipe, device) for job in jobs]
    if len({(job.data.features.frames.shape[1], job.data.classes, job.data.targets) for job in jobs}) > 1:
        raise UsageError("jobs that are trained together need features of one width, and the same classes or dimensions")
    recipe = replace(recipe, parts=None)  # one padded batch for all
    return _in_groups(jobs, _Terms(spec, config, recipe, device, stacking, note))


@dataclass(frozen=True)
class _Terms:
    """What the groups of a call have in common: the arguments of `fit_together`, settled."""

    spec: HeadSpec
    config: Settings
    recipe: Recipe
    device: torch.device
    stacking: Stacking
    note: Callable[[str], None]


def _in_groups(jobs: Sequence[FitJob], terms: _Terms) -> list[FitResult | TfserError]:
    """Train all jobs at once, or in smaller groups where they do not fit into memory; return their results in their order."""
    results: dict[int, FitResult | TfserError] = {}
    told = [0] * len(jobs)  # the last epoch that each job's listener has heard of
    listening = [_listening(job, told, i) for i, job in enumerate(jobs)]
    waiting = [list(range(len(jobs)))] if jobs else []
    with computing_on(terms.device), own_randomness(terms.device):
        while waiting:
            group = waiting.pop(0)
            trained: list[FitResult | TfserError] = []
            try:
                trained = _train_group([listening[i] for i in group], terms)
            except torch.OutOfMemoryError as error:
                if len(group) == 1:
                    raise out_of_memory(terms.spec, terms.device) from error
                # Halves, and not one job less: a group that misses by a little would be tried, and fail, many times over.
                half = math.ceil(len(group) / 2)
                waiting[:0] = [group[:half], group[half:]]
                too_many = f"{len(group)} trainings of {terms.spec.name} at once do not fit into memory"
                terms.note(f"{terms.device}: {too_many}; going on with {half} at a time")
            if trained:
                results |= zip(group, trained, strict=True)
            else:  # out of the handler: the error holds what did not fit
                _free(terms.device)
    return [results[i] for i in range(len(jobs))]


def _train_group(jobs: Sequence[FitJob], terms: _Terms) -> list[FitResult | TfserError]:
    """Train jobs in one stack, from the beginning or their checkpoints.

    Raises:
        OutOfMemoryError: They do not fit into the device's memory together.
    """
    frames: dict[int, Tensor | StreamedFrames] = {}  # of each features, on the device once
    trainers = []
    for job in jobs:
        packed = job.data.features.frames
        if id(packed) not in frames:
            frames[id(packed)] = placed(packed, terms.device)
        shared = frames[id(packed)]
        trainers.append(Trainer(job.data, terms.spec, terms.config, terms.recipe, job.seed, terms.device, shared))
    for job, trainer in zip(jobs, trainers, strict=True):
        if terms.stacking.graph:
            make_capturable(trainer.optimiser, terms.device)
        if job.keeping.checkpoint_dir is not None:
            trainer.resume(job.keeping.checkpoint_dir)
    failed = _train_all(jobs, trainers, terms)
    return [failed.get(i) or replace(trainer.result(), together=len(jobs)) for i, trainer in enumerate(trainers)]


def _listening(job: FitJob, heard: list[int], i: int) -> FitJob:
    """Return a job whose listener hears of each epoch once, whether or not it is trained again."""
    listener = job.keeping.on_epoch
    if listener is None:
        return job

    def hear(record: EpochRecord) -> None:
        if record.epoch > heard[i]:
            heard[i] = record.epoch
            listener(record)

    return replace(job, keeping=replace(job.keeping, on_epoch=hear))


def _free(device: torch.device) -> None:
    """Hand back the memory that a group which did not fit has left behind."""
    gc.collect()  # a group and its trainers point to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _alone(job: FitJob, spec: HeadSpec, config: Settings, recipe: Recipe, device: torch.device) -> FitResult | TfserError:
    try:
        return fit(job.data, spec=spec, config=config, recipe=recipe, seed=job.seed, device=device, keeping=job.keeping)
    except UsageError:  # the request's own mistake, and so every job's
        raise
    except TfserError as error:
        return error


def _train_all(jobs: Sequence[FitJob], trainers: Sequence[Trainer], terms: _Terms) -> dict[int, TfserError]:
    """Train until every job is done; return the errors of those that failed, by their number."""
    failed: dict[int, TfserError] = {}
    group: Group | None = None
    kept, every_s = time.monotonic(), min(job.keeping.checkpoint_every_s for job in jobs)
    # In an order of their own, so that the order in which jobs are given changes nothing.
    order = sorted(range(len(jobs)), key=lambda i: (trainers[i].fingerprint, i))
    while True:
        active = [i for i in order if i not in failed and len(trainers[i].history) < trainers[i].epochs]
        if not active:
            return failed
        members = [trainers[i] for i in active]
        if group is None or group.trainers != members:
            group = Group(members, terms.stacking.how, terms.stacking.graph, terms.note)
        records: dict[int, EpochRecord] = {}
        for i, outcome in zip(active, group.run_epoch(), strict=True):
            if isinstance(outcome, TfserError):
                failed[i] = outcome
            else:
                records[i] = outcome
        # All states are kept before anybody hears of the epoch, so that a group which ends there goes on as one.
        due = time.monotonic() - kept >= every_s
        for i in records:
            folder = jobs[i].keeping.checkpoint_dir
            if folder is not None and (due or len(trainers[i].history) == trainers[i].epochs):
                trainers[i].keep(folder)
        kept = time.monotonic() if due else kept
        for i, record in records.items():
            callback = jobs[i].keeping.on_epoch
            if callback is not None:
                callback(record)
