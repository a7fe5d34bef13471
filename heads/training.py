"""Training a head on one fold.

What comes in: a fold's packed features, labels and roles (`FoldData`), a head, its configuration, a recipe and a
seed. What goes out: the history of every epoch, the predictions of each selection and the trained weights
(`FitResult`).

* All frames live on the device as one tensor; each batch is gathered from it by index arithmetic.
* Every epoch is evaluated once, on the test and the validation utterances. Three selections come of one training:
  ``last`` selects nothing, ``val`` takes the epoch of the best validation UA, ``test-oracle`` that of the best test
  UA (an upper bound, not a result), the earliest on ties. ``val`` exists only where there are validation utterances.
* An utterance's prediction is the mean of its segments' probabilities.
* All randomness of an epoch follows from the seed and the epoch's number, and torch's global generators are left as
  they were. So the same seed gives the same numbers on the same machine, and a training that was killed goes on from
  its last checkpoint to the very same ones.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tfser.heads import checkpoints
from tfser.heads.augment import augment, mix
from tfser.heads.base import HeadSpec, Settings, count_parameters
from tfser.heads.losses import cmdt, cross_entropy
from tfser.heads.metrics import wa_ua
from tfser.heads.normalise import Normaliser
from tfser.heads.precision import settle_precision
from tfser.heads.prediction import Indices, Prediction, evaluate, own_randomness, predict
from tfser.heads.recipes import Recipe
from tfser.heads.segments import FrameStore, plan
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.batches import PackedFeatures

__all__ = ["EpochRecord", "FitResult", "FitStoppedError", "FoldData", "Prediction", "Selection", "fit", "predict"]

_FORMAT = 1  # of checkpoints; raise it when training's numbers change


class FitStoppedError(TfserError):
    """The training was asked to stop; its state lies in the checkpoint folder, if there is one."""


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """One fold: n utterances, and who is in which role.

    Raises:
        UsageError: Lengths differ, an index is out of range, roles overlap or there is nothing to train on.
    """

    features: PackedFeatures
    labels: npt.NDArray[np.int64]
    """(n,) numbers into ``classes``; of utterances without a role: anything."""
    classes: tuple[str, ...]
    train: Indices
    val: Indices
    """May be empty."""
    test: Indices
    """May be empty: then nothing is tested, as when training a model for use."""
    speakers: tuple[str, ...] | None = None
    """(n,) needed by normalise=speaker only."""

    def __post_init__(self) -> None:
        n = len(self.features.utterance_ids)
        if len(self.labels) != n or (self.speakers is not None and len(self.speakers) != n):
            raise UsageError(f"a fold of {n} utterances needs {n} labels and speakers")
        roles = np.concatenate([self.train, self.val, self.test])
        if len(roles) and (roles.min() < 0 or roles.max() >= n):
            raise UsageError(f"a fold's indices must lie from 0 to {n - 1}")
        if len(np.unique(roles)) != len(roles):
            raise UsageError("an utterance stands twice in the fold's train, val and test")
        if not len(self.train):
            raise UsageError("the fold has no training utterances")
        used = self.labels[roles]
        if used.min() < 0 or used.max() >= len(self.classes):
            raise UsageError(f"labels must lie from 0 to {len(self.classes) - 1}")


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch; scores are utterance-level, None where there are no such utterances."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the training samples, augmented and with all regularisation."""
    learning_rate: float
    """Of the last step."""
    train_s: float
    eval_s: float
    val_WA: float | None  # noqa: N815
    val_UA: float | None  # noqa: N815
    test_WA: float | None  # noqa: N815
    test_UA: float | None  # noqa: N815


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of epoch, and its predictions on the test utterances (None where the fold has none)."""

    epoch: int
    test: Prediction | None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a training yields."""

    history: tuple[EpochRecord, ...]
    selections: Mapping[str, Selection]
    """``last``, ``val`` (with validation utterances), ``test-oracle`` (with test utterances)."""
    states: Mapping[str, dict[str, Tensor]]
    """``last`` and, if there is one, ``val``: self-contained, see `predict`. On the CPU."""
    parameters: int


def fit(
    data: FoldData,
    *,
    spec: HeadSpec,
    config: Settings,
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    checkpoint_dir: Path | None = None,
    checkpoint_every_s: float = 60.0,
    epochs: int | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Train a head on a fold.

    Args:
        data: The fold.
        spec: The head.
        config: Its configuration.
        recipe: How to train.
        seed: Everything random follows from it: weights, order, dropout, augmentation.
        device: Where to train.
        checkpoint_dir: Where to keep the state; one that is found there is resumed. None: nothing is kept.
        checkpoint_every_s: At the end of an epoch the state is kept if so many seconds have gone by since the last
            time.
        epochs: Instead of the recipe's number; schedules stretch with it.
        on_epoch: Called after each epoch of this call, not for those that a checkpoint brought.
        should_stop: Asked after each epoch; if it says so, the state is kept and `FitStoppedError` raised.

    Raises:
        UsageError: The features' width does not fit the head, or the recipe does not fit the data.
        TfserError: The checkpoint belongs to another training or cannot be read, or the loss is no longer finite.
        FitStoppedError: ``should_stop`` said so.
    """
    recipe = settle_precision(recipe, str(device))
    device = torch.device(device)
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise UsageError(f"epochs={epochs}: at least 1")
    with own_randomness(device):
        trainer = Trainer(data, spec, config, recipe, seed, device, epochs)
        if checkpoint_dir is not None:
            trainer.resume(checkpoint_dir)
        kept = time.monotonic()
        while len(trainer.history) < epochs:
            record = trainer.run_epoch()
            done = record.epoch == epochs
            stop = not done and should_stop is not None and should_stop()
            if checkpoint_dir is not None and (done or stop or time.monotonic() - kept >= checkpoint_every_s):
                trainer.keep(checkpoint_dir)
                kept = time.monotonic()
            if on_epoch is not None:
                on_epoch(record)
            if stop:
                where = f"its state is kept in {checkpoint_dir}" if checkpoint_dir else "nothing of it is kept"
                raise FitStoppedError(f"stopped after epoch {record.epoch} of {epochs}; {where}")
        return trainer.result()


class Trainer:
    """The state of a training between two epochs."""

    def __init__(
        self,
        data: FoldData,
        spec: HeadSpec,
        config: Settings,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        epochs: int,
    ) -> None:
        self.data, self.recipe, self.seed, self.device, self.epochs = data, recipe, seed, device, epochs
        packed = data.features
        self.frames = spec.segment_frames(config)
        self.most = spec.max_frames(config)
        self.batch_norm = spec.batch_norm
        if self.frames is None and recipe.speed:
            raise UsageError(f"recipe setting speed={recipe.speed}: only for segments, and {spec.name} eats utterances")
        if recipe.cmdt and (self.most is None or not spec.gives_frames):
            raise UsageError(f"recipe setting cmdt={recipe.cmdt}: {spec.name} gives no frames to compare; take cmdt=0")
        self.normaliser = Normaliser.fit(recipe.normalise, packed.frames, packed.offsets, data.train)
        tables = self.normaliser.tables(packed.frames, packed.offsets, data.speakers)
        self.store = FrameStore(packed.frames, packed.offsets, *tables, device, self.most)
        self.layout = plan(packed.offsets, data.train, self.frames, recipe.train_hop)
        self.val_layout = plan(packed.offsets, data.val, self.frames, recipe.eval_hop)
        self.test_layout = plan(packed.offsets, data.test, self.frames, recipe.eval_hop)
        self.counts = torch.from_numpy(np.diff(packed.offsets))
        self.labels = torch.from_numpy(data.labels).to(device)
        self.class_weights = _class_weights(recipe, data.labels[data.train], len(data.classes)).to(device)

        torch.manual_seed(_stream(seed, 0, "weights"))
        self.model = spec.module(config, packed.frames.shape[1], len(data.classes)).to(device)
        self.average = copy.deepcopy(self.model) if recipe.averaging else None
        self.optimiser = _optimiser(recipe, self.model)
        self.history: list[EpochRecord] = []
        self.selections: dict[str, Selection] = {}
        self.val_state: dict[str, Tensor] = {}
        described = [spec.name, config.to_dict(), recipe.to_dict(), seed, epochs, list(data.classes), _FORMAT]
        digest = hashlib.sha256(json.dumps(described).encode())
        for array in (data.labels, data.train, data.val, data.test, packed.offsets):
            digest.update(np.ascontiguousarray(array).tobytes() + b"|")
        self.fingerprint = digest.hexdigest()

    # One epoch.

    def run_epoch(self) -> EpochRecord:
        epoch = len(self.history) + 1
        torch.manual_seed(_stream(self.seed, epoch, "dropout"))
        began = time.perf_counter()
        loss, rate = self._train(epoch)
        return self.close_epoch(epoch, loss, rate, time.perf_counter() - began)

    def close_epoch(self, epoch: int, loss: float, rate: float, train_s: float) -> EpochRecord:
        """Evaluate what an epoch has trained, select, and note it."""
        trained = time.perf_counter()
        model = self.model if self.average is None else self.average
        test = evaluate(model, self.store, self.test_layout, self.frames) if len(self.test_layout) else None
        val = evaluate(model, self.store, self.val_layout, self.frames) if len(self.val_layout) else None
        test_WA, test_UA = self._score(test)
        val_WA, val_UA = self._score(val)
        now = Selection(epoch=epoch, test=test)
        self.selections["last"] = now
        if val_UA is not None and all(val_UA > (record.val_UA or 0.0) for record in self.history):
            self.selections["val"] = now
            self.val_state = self._state()
        if test_UA is not None and all(test_UA > (record.test_UA or 0.0) for record in self.history):
            self.selections["test-oracle"] = now
        record = EpochRecord(
            epoch=epoch,
            loss=loss,
            learning_rate=rate,
            train_s=train_s,
            eval_s=time.perf_counter() - trained,
            val_WA=val_WA,
            val_UA=val_UA,
            test_WA=test_WA,
            test_UA=test_UA,
        )
        self.history.append(record)
        return record

    def _train(self, epoch: int) -> tuple[float, float]:
        """Pass once over the training samples; return the mean loss and the last learning rate."""
        total, rate = torch.zeros((), device=self.device), 0.0
        self.model.train()
        for step, rate, batch in self.batches(epoch):
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["own_rate"]
            loss = training_loss(self.model, *batch, self.class_weights, self.recipe, self.most)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.recipe.grad_clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
            self.optimiser.step()
            self.update_average(step)
            total += loss.detach() * len(batch[0])
        return self.mean_loss(epoch, total), rate

    def steps(self) -> int:
        """Return the steps of an epoch."""
        return -(-len(self.layout) // self.recipe.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[int, float, tuple[Tensor, Tensor, Tensor]]]:
        """Yield the steps of an epoch: the number, counted over all epochs from 0, the learning rate and the batch."""
        generator = torch.Generator().manual_seed(_stream(self.seed, epoch, "data"))
        steps = self.steps()
        order = torch.randperm(len(self.layout), generator=generator)
        utterance = torch.from_numpy(self.layout.utterance)[order]
        start = torch.from_numpy(self.layout.start)[order]
        # Nearly equal batches, so that no small one's statistics upset the batch norms; nothing is dropped.
        for step, (rows, starts) in enumerate(
            zip(utterance.tensor_split(steps), start.tensor_split(steps), strict=True), start=(epoch - 1) * steps
        ):
            rate = self.recipe.learning_rate(step, steps, self.epochs)
            yield step, rate, self._batch(rows, starts, generator)

    def mean_loss(self, epoch: int, total: Tensor) -> float:
        """Return an epoch's loss per training sample.

        Raises:
            TfserError: It is not finite.
        """
        mean = float(total) / len(self.layout)
        if not np.isfinite(mean):
            raise TfserError(f"the loss of epoch {epoch} is {mean}: lower lr, set grad_clip, or check the features")
        return mean

    def _batch(self, rows: Tensor, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Gather and augment: samples (B, L, D), lengths (B,), targets (B, K)."""
        recipe = self.recipe
        starts, pace = self._places(rows, starts, generator)
        # Not waiting for the device: the next batch is made while it computes.
        rows, starts = (of.to(self.device, non_blocking=True) for of in (rows, starts))
        pace = None if pace is None else pace.to(self.device, non_blocking=True)
        samples, lengths = self.store.gather(rows, starts, self.frames, pace)
        samples = augment(samples, lengths, self.store.gain(rows), recipe, generator)
        targets = nn.functional.one_hot(self.labels[rows], len(self.data.classes)).float()
        if recipe.mixup:
            samples, lengths, targets = mix(samples, lengths, targets, recipe.mixup, generator)
        return samples, lengths, targets

    def _places(self, rows: Tensor, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw where the samples begin (B,) and at which pace their frames are read (B,), as the recipe says."""
        recipe, L, B = self.recipe, self.frames, len(rows)
        if L is None or not (recipe.jitter or recipe.speed):
            return starts, None
        counts = self.counts[rows]  # (B,) frames of the utterances
        pace = None
        if recipe.speed:
            pace = 1 + recipe.speed * (2 * torch.rand(B, generator=generator) - 1)
        reach = L if pace is None else ((L - 1) * pace).ceil() + 1  # frames that a sample spans
        last = (counts - reach).clamp(min=0)  # an utterance that is too short goes on cyclically
        if recipe.jitter:
            hop = recipe.train_hop or L
            moved = starts + (hop * (torch.rand(B, generator=generator) - 0.5)).round()
            anywhere = (counts * torch.rand(B, generator=generator)).floor()
            starts = torch.where(counts < L, anywhere, torch.minimum(moved.clamp(min=0), last)).long()
        else:
            starts = torch.minimum(starts, last).long()
        return starts, pace

    def update_average(self, step: int) -> None:
        """Move the averaged weights and batch-norm statistics towards the present ones; faster in the first steps."""
        if self.average is None:
            return
        share = self.average_share(step)
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, share)
                else:
                    mean.copy_(value)

    def _score(self, prediction: Prediction | None) -> tuple[float | None, float | None]:
        if prediction is None:
            return None, None
        return wa_ua(self.data.labels[prediction.utterance], prediction.utterance_probabilities)

    def average_share(self, step: int) -> float:
        """Return by which share of the way averages move in a step, counted from 0."""
        return 1 - min(self.recipe.averaging, (1 + step) / (10 + step))

    # What is kept.

    def _state(self) -> dict[str, Tensor]:
        """Return a self-contained copy of the evaluated model on the CPU."""
        model = self.model if self.average is None else self.average
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        return {
            **checkpoints.prefixed("model", weights),
            "normaliser.mean": torch.from_numpy(self.normaliser.mean),
            "normaliser.deviation": torch.from_numpy(self.normaliser.deviation),
        }

    def result(self) -> FitResult:
        states = {"last": self._state()}
        if self.val_state:
            states["val"] = self.val_state
        return FitResult(
            history=tuple(self.history),
            selections=dict(self.selections),
            states=states,
            parameters=count_parameters(self.model),
        )

    def keep(self, folder: Path) -> None:
        tensors = {
            **checkpoints.prefixed("model", self.model.state_dict()),
            **checkpoints.prefixed("optimiser", checkpoints.flatten_optimiser(self.optimiser)),
            **checkpoints.prefixed("val_state", self.val_state),
        }
        if self.average is not None:
            tensors |= checkpoints.prefixed("average", self.average.state_dict())
        for name, selection in self.selections.items():
            if selection.test is not None:
                arrays = {key: torch.from_numpy(value) for key, value in vars(selection.test).items()}
                tensors |= checkpoints.prefixed(f"selection.{name}", arrays)
        header = {
            "fingerprint": self.fingerprint,
            "history": [asdict(record) for record in self.history],
            "selections": {name: selection.epoch for name, selection in self.selections.items()},
        }
        checkpoints.save(folder, tensors, header)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        found = checkpoints.load(folder)
        if found is None:
            return
        tensors, header = found
        if header.get("fingerprint") != self.fingerprint:
            raise TfserError(f"{folder}: its checkpoint belongs to another training; delete it, or take another folder")
        self.model.load_state_dict(checkpoints.part(tensors, "model"))
        checkpoints.restore_optimiser(self.optimiser, checkpoints.part(tensors, "optimiser"))
        if self.average is not None:
            self.average.load_state_dict(checkpoints.part(tensors, "average"))
        self.val_state = checkpoints.part(tensors, "val_state")
        self.history = [EpochRecord(**record) for record in header["history"]]
        for name, epoch in header["selections"].items():
            arrays = {key: tensor.numpy() for key, tensor in checkpoints.part(tensors, f"selection.{name}").items()}
            self.selections[name] = Selection(epoch=epoch, test=Prediction(**arrays) if arrays else None)


def training_loss(
    model: nn.Module,
    samples: Tensor,
    lengths: Tensor,
    targets: Tensor,
    class_weights: Tensor,
    recipe: Recipe,
    most: int | None,
    present: Tensor | None = None,
    batch_norm: bool = False,
) -> Tensor:
    """Return the loss of a batch: Eq. 9 of TF-Mamba where the recipe has CMDT.

    Args:
        model: The head, in training mode.
        samples, lengths, targets: (B, L, D), (B,), (B, K).
        class_weights: (K,)
        recipe: How to train.
        most: Frames of the longest utterance that the head sees.
        present: (B,) bool, the samples that are there; the targets of the others are zero. None: all.
        batch_norm: The head's `forward` takes ``present``.
    """
    with torch.autocast(samples.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        if recipe.cmdt:
            frames = model.encode(samples, lengths)  # type: ignore[operator]
            logits = model.classify(frames, lengths)  # type: ignore[operator]
        else:
            logits = model(samples, lengths, present) if batch_norm else model(samples, lengths)
    loss = cross_entropy(logits.float(), targets, class_weights, recipe.label_smoothing)
    if recipe.cmdt and most is not None:
        loss = loss + recipe.cmdt * cmdt(frames, lengths, targets.argmax(dim=1), most, recipe, present)
    return loss


def _class_weights(recipe: Recipe, labels: Indices, n_classes: int) -> Tensor:
    if recipe.class_weights == "none":
        return torch.ones(n_classes)
    counts = np.maximum(np.bincount(labels, minlength=n_classes), 1)
    return torch.from_numpy((len(labels) / (n_classes * counts)).astype(np.float32))


def _optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser; its groups' `own_rate` is what the schedule's rate is multiplied by."""
    own: list[nn.Parameter] = model.own_rate_parameters() if hasattr(model, "own_rate_parameters") else []  # type: ignore[operator]
    among = {id(parameter) for parameter in own}
    shared = [parameter for parameter in model.parameters() if id(parameter) not in among]
    groups = [
        {"params": [p for p in shared if p.ndim > 1], "weight_decay": recipe.weight_decay, "own_rate": 1.0},
        {"params": [p for p in shared if p.ndim <= 1], "weight_decay": 0.0, "own_rate": 1.0},
        {"params": own, "weight_decay": 0.0, "own_rate": recipe.own_rate / recipe.lr},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.betas[0])
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=recipe.betas)


def _stream(seed: int, epoch: int, purpose: str) -> int:
    """Return a seed of its own for each purpose of each epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{epoch}|{purpose}".encode()).digest()[:8], "little") >> 1
