"""Training a head on one fold.

What comes in: a fold's packed features, labels and roles (`FoldData`), a head, its configuration, a recipe and a
seed. What goes out: the history of every epoch, the predictions of each selection and the trained weights
(`FitResult`).

* All frames live on the device as one tensor; each batch is gathered from it by index arithmetic. Frames that are streamed stay
  on disk, and each batch is read from there, to the same numbers.
* Every epoch is evaluated once, on the test and the validation utterances. Three selections come of one training:
  ``last`` selects nothing, ``val`` takes the epoch of the best validation UA, ``test-oracle`` that of the best test
  UA (an upper bound, not a result), the earliest on ties. ``val`` exists only where there are validation utterances.
  A recipe may add others (`tfser.heads.spec.selections`).
* An utterance's prediction is the mean of its segments' probabilities.
* All randomness of an epoch follows from the seed and the epoch's number, and torch's global generators are left as
  they were. So on a CPU the same seed gives the same numbers on the same machine, and a training that was killed goes on
  from its last checkpoint to the very same ones. A GPU adds up in no fixed order: there both hold up to rounding, which
  grows over the steps.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tfser.heads.models.layer_mix import LayerMix, build_module
from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData, Prediction, Selection
from tfser.heads.spec.head import Baseline, HeadSpec, count_parameters
from tfser.heads.spec.precision import settle_precision
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.selections import Keeper
from tfser.heads.spec.settings import Settings
from tfser.heads.training import checkpoints
from tfser.heads.training.batches import BatchMaker, Draw
from tfser.heads.training.finite import check_loss, check_prediction, check_speakers, check_weights
from tfser.heads.training.fitting import check_fits
from tfser.heads.training.graphs import GraphedSteps, set_rate
from tfser.heads.training.losses import class_weights
from tfser.heads.training.normalise import measured
from tfser.heads.training.parts import Batch, why_whole
from tfser.heads.training.predict import TrainedState, evaluate, own_randomness, predict, seed_torch
from tfser.heads.training.samples import FrameStore, plan
from tfser.heads.training.sides import side_scores, targets_of
from tfser.heads.training.step import make_optimiser, move_average, training_loss
from tfser.heads.training.temperature import fit_temperature
from tfser.manifests.errors import TfserError, UnreadableError, first_line
from tfser.pipeline.resources.devices import computing_on
from tfser.pipeline.shards.streamed import StreamedFrames

__all__ = ["EpochRecord", "FitResult", "FoldData", "Keeping", "Prediction", "Selection", "TrainedState", "fit", "predict"]

_NEW_SETTINGS = {"labels_from": "label", "soft_loss": "cross-entropy", "temperature": False}
"""Settings that checkpoints of the version before do not hold, at the values that change nothing."""

_FORMAT = 2  # of checkpoints; raise it when training's numbers change


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where the state of a training is kept, and who hears of it; none of its numbers depends on that."""

    checkpoint_dir: Path | None = None
    """Where its state is kept; one that is found there is resumed. None: nothing is kept."""
    checkpoint_every_s: float = 60.0
    """At the end of an epoch the state is kept if so many seconds have gone by since the last time."""
    on_epoch: Callable[[EpochRecord], None] | None = None
    """Called after each epoch that is trained now, not for those that a checkpoint brought; what it raises ends the training."""


_KEEP_NOTHING = Keeping()


def fit(
    data: FoldData,
    *,
    spec: HeadSpec,
    config: Settings,
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    graphs: bool = False,
    keeping: Keeping = _KEEP_NOTHING,
) -> FitResult:
    """Train a head on a fold; a `Baseline` is fitted at once, and of what stands below the recipe only the listener applies.

    Args:
        data: The fold.
        spec: The head.
        config: Its configuration.
        recipe: How to train.
        seed: Everything random follows from it: weights, order, dropout, augmentation.
        device: Where to train.
        graphs: Launch a step as one CUDA graph, where that can be (`GraphedSteps.why_launched`).
        keeping: Where its state is kept, and who hears of each epoch.

    Raises:
        UsageError: The features' width does not fit the head, or the recipe does not fit the data.
        ForeignCheckpointError: The checkpoint belongs to another training.
        DamagedError: The checkpoint is not what was written.
        UnreadableError: The checkpoint cannot be read now, or is of another version.
        NotFiniteError: Features, the loss, weights or predictions are no numbers.
        TfserError: It does not fit into the device's memory.
    """
    if isinstance(spec, Baseline):
        return _fit_at_once(data, spec, config, recipe, keeping)
    recipe = settle_precision(recipe, str(device))
    device = torch.device(device)
    # Generators and TF32 flags are the process's: whoever calls this from a notebook finds them as they were,
    # whatever happens here.
    try:
        with computing_on(device), own_randomness(device):
            trainer = Trainer(data, spec, config, recipe, seed, device)
            if graphs:
                trainer.use_graphs()
            if keeping.checkpoint_dir is not None:
                trainer.resume(keeping.checkpoint_dir)
            return _train(trainer, keeping)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(spec, device) from error


def _fit_at_once(data: FoldData, spec: Baseline, config: Settings, recipe: Recipe, keeping: Keeping) -> FitResult:
    """Fit a head that has no epochs: nothing of the loop applies to it, but what it predicts is looked at all the same."""
    fitted = spec.fit(data, config, recipe)
    for name, selection in fitted.selections.items():
        check_prediction(selection.test, f"test ({name})", selection.epoch, data.features, data.train)
    if keeping.on_epoch is not None:
        keeping.on_epoch(fitted.history[-1])
    return fitted


def out_of_memory(spec: HeadSpec, device: torch.device) -> TfserError:
    """Return the error of a training that does not fit into a device's memory, with the ways out."""
    return TfserError(
        f"{device}: a training of {spec.name} does not fit into its memory; take a smaller batch (--set batch_size=...), shorter "
        "utterances (--set cut_seconds=...), or --device cpu"
    )


def _train(trainer: Trainer, keeping: Keeping) -> FitResult:
    """Train what is left of a training's epochs."""
    kept = time.monotonic()
    while len(trainer.history) < trainer.epochs:
        record = trainer.run_epoch()
        # Kept before anybody hears of it: whatever ends the process while it is told, the epoch is not trained twice.
        due = record.epoch == trainer.epochs or time.monotonic() - kept >= keeping.checkpoint_every_s
        if keeping.checkpoint_dir is not None and due:
            trainer.keep(keeping.checkpoint_dir)
            kept = time.monotonic()
        if keeping.on_epoch is not None:
            keeping.on_epoch(record)
    return trainer.result()


class Trainer:
    """The state of a training between two epochs.

    The arguments are those of `fit`; ``frames`` are the features' on the device, where another training has put them there.
    """

    def __init__(
        self,
        data: FoldData,
        spec: HeadSpec,
        config: Settings,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        frames: Tensor | StreamedFrames | None = None,
    ) -> None:
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        packed = data.features
        # What does not fit is refused before a frame is copied to a device.
        check_fits(spec, config, recipe, data)
        self.frames, self.batch_norm = spec.sample_frames(config, recipe), spec.batch_norm
        self.most = spec.max_frames(config)  # what the module is made for; an utterance may be cut shorter
        seen = spec.seen_frames(config, recipe)
        # The normaliser sees the rows of the training side and no others; the tables that it makes are then
        # applied to all.
        self.normaliser, tables = measured(recipe.normalise, packed.frames, packed.offsets, data.train, data.speakers)
        check_speakers(recipe.normalise, tables[0], packed)
        self.store = FrameStore(packed.frames if frames is None else frames, packed.offsets, *tables, device, seen)
        # Training and evaluation have hops of their own: overlapping segments are more samples to learn from, and
        # in every epoch's evaluation they cost as much more.
        self.layout = plan(packed.offsets, data.train, self.frames, recipe.train_hop, seen)
        self.val_layout = plan(packed.offsets, data.val, self.frames, recipe.eval_hop, seen)
        self.test_layout = plan(packed.offsets, data.test, self.frames, recipe.eval_hop, seen)
        self.epochs = recipe.length(self.steps())
        self.parts = 1 if recipe.parts is None or why_whole(spec, config, recipe) is not None else recipe.parts
        # Weights have a stream of their own: what a network begins with does not depend on how many draws its
        # data took.
        seed_torch(_stream(seed, 0, "weights"), device)
        self.model = build_module(spec, config, packed.frames.shape[1], data.outputs, data.layers).to(device)
        self.average = copy.deepcopy(self.model) if recipe.averaging else None
        self.maker, self.class_weights = self._batches_of(recipe)
        self.optimiser = make_optimiser(recipe, self.model)
        self.graphed: GraphedSteps | None = None
        """What takes the steps on a GPU; None: they are launched one by one."""
        self.history: list[EpochRecord] = []
        self.keeper: Keeper[Prediction | None] = Keeper(recipe.selections)
        self.val_state: dict[str, Tensor] = {}
        self.fingerprint, self.former = self._fingerprints(spec, config)

    def _batches_of(self, recipe: Recipe) -> tuple[BatchMaker, Tensor]:
        """Return what makes batches with their targets, and the classes' weights (K,) on the device; none for dimensions."""
        data = self.data
        if not data.classes:  # no class weighs anything, by which a step knows what its targets are
            weights = torch.ones(0, device=self.device)
        else:
            weights = class_weights(recipe, data.labels[data.train], len(data.classes)).to(self.device)
        maker = BatchMaker(
            store=self.store,
            targets=targets_of(data).to(self.device),  # (n, K), of dimensions (n, T)
            recipe=recipe,
            frames=self.frames,
            parts=self.parts,
            layer_mix=self.model if isinstance(self.model, LayerMix) else None,
        )
        return maker, weights

    def _fingerprints(self, spec: HeadSpec, config: Settings) -> tuple[str, str]:
        """Return what this training's checkpoints are known by, and what those of the version before are."""
        # Whole utterances were masked over the batch's longest once: their checkpoints are of another training.
        more = ["masks within lengths"] if self.frames is None and self.recipe.time_masks else []
        # A recipe's summary is words: it is left out, but checkpoints of the version before hold it. They hold no parts, and
        # nothing of losses that only dimensions have.
        off = set() if self.parts > 1 else {"parts"}
        off |= set() if self.data.targets else {"rating_loss", "rating_mix"}
        off |= set() if self.data.targets and self.data.classes else {"rating_weight"}
        settings = {name: value for name, value in self.recipe.to_dict().items() if name not in off}
        settings = {name: value for name, value in settings.items() if _NEW_SETTINGS.get(name, ()) != value}
        now, before = (
            [spec.name, config.to_dict(), recipe, self.seed, self.epochs, list(self.data.classes), _FORMAT]
            for recipe in (settings | {"summary": ""}, settings)
        )
        return checkpoints.fingerprint(now, self.data, more), checkpoints.fingerprint(before, self.data, more)

    def use_graphs(self) -> None:
        """Let the steps be CUDA graphs where they can be; before a checkpoint is resumed."""
        if GraphedSteps.why_launched(self) is None:
            self.graphed = GraphedSteps(self)

    # One epoch.

    def run_epoch(self) -> EpochRecord:
        epoch = len(self.history) + 1
        seed_torch(_stream(self.seed, epoch, "dropout"), self.device)
        began = time.perf_counter()
        loss, rate = self.train_epoch(epoch)
        return self.close_epoch(epoch, loss, rate, time.perf_counter() - began)

    def close_epoch(self, epoch: int, loss: float, rate: float, train_s: float) -> EpochRecord:
        """Evaluate what an epoch has trained, select, and note it."""
        trained = time.perf_counter()
        # Looked at before they are used: weights that are no numbers predict some class all the same, and that
        # would be a score.
        model = self.model if self.average is None else self.average
        check_weights(model.state_dict(), epoch, self.data.features, self.data.train)
        val, test = (
            evaluate(model, self.store, layout, self.frames, rates=len(self.data.targets)) if len(layout) else None
            for layout in (self.val_layout, self.test_layout)
        )
        for side, found in (("test", test), ("val", val)):
            check_prediction(found, side, epoch, self.data.features, self.data.train)
        scores = side_scores("val", self.data, val) | side_scores("test", self.data, test)
        record = EpochRecord(
            epoch=epoch,
            loss=loss,
            learning_rate=rate,
            train_s=train_s,
            eval_s=time.perf_counter() - trained,
            temperature=self._temperature(val),
            **scores,
        )
        # Every epoch is evaluated once, on both sides, and each selection is a rule over that history: nothing
        # is evaluated for being chosen.
        self.history.append(record)
        if self.keeper.add(self.history, test).get("val") == epoch:
            self.val_state = self._state()
        return record

    def _temperature(self, val: Prediction | None) -> float | None:
        """Return the temperature of an epoch, fitted on the validation utterances; None where the recipe does not ask for it."""
        if not self.recipe.temperature or val is None:
            return None
        of_classes = val.utterance_probabilities[:, : len(self.data.classes)]
        return fit_temperature(of_classes, self.data.labels[val.utterance])

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Pass once over the training samples; return the mean loss and the last learning rate."""
        total, rate = torch.zeros((), device=self.device), 0.0
        self.model.train()
        for step, rate, batch in self.batches(epoch):
            if self.graphed is not None:
                loss = self.graphed.take(batch, rate)
            else:
                set_rate(self.optimiser, rate)
                loss = self.launch(batch)
            self.update_average(step)
            total += loss * len(batch)
        return self.mean_loss(epoch, total), rate

    def launch(self, batch: Batch) -> Tensor:
        """Take a step, operation by operation, and return its loss."""
        loss = training_loss(self.model, batch, self.class_weights, self.recipe, self.most)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
        self.optimiser.step()
        return loss.detach()

    def steps(self) -> int:
        """Return the steps of an epoch."""
        return -(-len(self.layout) // self.recipe.batch_size)

    def draws(self, epoch: int) -> Iterator[Draw]:
        """Yield which samples each step of an epoch takes; whoever reads one makes its batch before the next."""
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
            yield Draw(step=step, rate=rate, rows=rows, starts=starts, generator=generator)

    def batches(self, epoch: int) -> Iterator[tuple[int, float, Batch]]:
        """Yield the steps of an epoch: the number, counted over all epochs from 0, the learning rate and the batch."""
        for draw, material in self.maker.materials(self.draws(epoch)):
            yield draw.step, draw.rate, self.maker.finish(draw, material)

    def mean_loss(self, epoch: int, total: Tensor) -> float:
        """Return an epoch's loss per training sample.

        Raises:
            NotFiniteError: It is not finite.
        """
        mean = float(total) / len(self.layout)
        check_loss(mean, epoch, self.data.features, self.data.train)
        return mean

    def update_average(self, step: int) -> None:
        """Move the averaged weights and batch-norm statistics towards the present ones; faster in the first steps."""
        if self.average is None:
            return
        move_average(self.average, self.model, self.average_share(step))

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
            selections={
                name: Selection(epoch=epoch, test=self.keeper.kept[epoch])
                for name, epoch in self.keeper.chosen(self.history).items()
            },
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
        for epoch, prediction in self.keeper.kept.items():
            if prediction is not None:
                arrays = {key: torch.from_numpy(value) for key, value in vars(prediction).items()}
                tensors |= checkpoints.prefixed(f"epoch.{epoch}", arrays)
        header = {
            "fingerprint": self.fingerprint,
            "history": [asdict(record) for record in self.history],
            "kept": list(self.keeper.kept),
        }
        checkpoints.save(folder, tensors, header)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        found = checkpoints.load(folder)
        if found is None:
            return
        tensors, header = found
        if header.get("fingerprint") not in (self.fingerprint, self.former):
            raise checkpoints.ForeignCheckpointError(
                f"{folder}: its checkpoint belongs to another training; --again trains from the beginning, or take another folder"
            )
        try:
            self._take_over(tensors, header)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UnreadableError(
                f"{folder}: its checkpoint is of another version of tfser ({first_line(error)}); "
                "--again trains from the beginning"
            ) from error

    def _take_over(self, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        self.model.load_state_dict(checkpoints.part(tensors, "model"))
        checkpoints.restore_optimiser(self.optimiser, checkpoints.part(tensors, "optimiser"))
        if self.average is not None:
            self.average.load_state_dict(checkpoints.part(tensors, "average"))
        self.val_state = checkpoints.part(tensors, "val_state")
        self.history = [EpochRecord(**record) for record in header["history"]]
        for epoch in header["kept"]:
            arrays = {key: tensor.numpy() for key, tensor in checkpoints.part(tensors, f"epoch.{epoch}").items()}
            self.keeper.kept[epoch] = Prediction(**arrays) if arrays else None


def _stream(seed: int, epoch: int, purpose: str) -> int:
    """Return a seed of its own for each purpose of each epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{epoch}|{purpose}".encode()).digest()[:8], "little") >> 1
