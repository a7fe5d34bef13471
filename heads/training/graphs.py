"""Training steps as CUDA graphs: hundreds of kernels launched at once.

A step of a small head is hundreds of kernels of a few millionths of a second, and to launch them one by one takes longer than
they do: TF-Mamba's step at the paper's size took 20 ms on an H200, of which its arithmetic is a tenth (docs/log.md). What comes
in: a computation that reads its batch from tensors of its own, and whoever owns what it changes. What goes out: replays of it,
with the same arithmetic and so the same numbers, to rounding.

* `Graph` is one such computation: warmed up, captured, and everything that this changed put back.
* `GraphedSteps` takes the steps of one training: a graph for each shape of batch. Whole utterances are filled up with silence to
  one of `LENGTHS` lengths, which no head looks at. What cannot be captured is launched as ever; only speed tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.batches import BatchMaker
from tfser.heads.training.parts import Batch
from tfser.heads.training.samples import FrameStore, SamplePlan
from tfser.heads.training.step import training_loss

LENGTHS = 16
"""Different lengths that batches of whole utterances are filled up to: more cost a capture each, fewer cost frames."""

_WARM_UPS = 3  # steps before the first graph is captured: libraries choose their kernels in them
_MORE_WARM_UPS = 1  # before each further one of the same training: its shapes have kernels of their own


class Changed(Protocol):
    """Whose tensors a graph changes."""

    device: torch.device
    losses: Tensor
    """What a step writes last."""

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes."""


class Launching(Protocol):
    """A training whose steps can be taken one by one: what a `tfser.heads.training.loop.Trainer` is here."""

    device: torch.device
    recipe: Recipe
    model: nn.Module
    optimiser: torch.optim.Optimizer
    store: FrameStore
    layout: SamplePlan
    maker: BatchMaker
    class_weights: Tensor
    parts: int
    frames: int | None
    most: int | None

    def launch(self, batch: Batch) -> Tensor:
        """Take a step, operation by operation, and return its loss."""


class Graph:
    """A computation (a step of all jobs, of one, of a training) as one CUDA graph, which reads its batch from tensors of its own.

    Args:
        owner: whose tensors it changes.
        batch: what it reads at first; copied.
        compute: takes a step on such a batch.
        warm_ups: steps before it is captured.
        pool: memory that graphs have in common which never run at once; None: its own.

    Raises:
        OutOfMemoryError: There is too little memory.
        RuntimeError: The step cannot be captured, or what was captured does nothing. In either case nothing is changed.
    """

    def __init__(
        self,
        owner: Changed,
        batch: Mapping[str, Tensor],
        compute: Callable[[dict[str, Tensor]], None],
        warm_ups: int = _WARM_UPS,
        pool: Any = None,
    ) -> None:
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        # Warming up, capturing and trying out all train on the batch: whatever they change is put back, so that
        # a graph's first step is the first step.
        before = {id(tensor): tensor.detach().clone() for tensor in owner.state()}
        draws = _generator_state(owner.device)
        side = torch.cuda.Stream(owner.device)  # type: ignore[no-untyped-call]
        try:
            side.wait_stream(torch.cuda.current_stream(owner.device))
            with torch.cuda.stream(side):
                # cuBLAS, cuDNN and the optimiser allocate in their first calls, which a capture forbids. The last of them
                # runs where waiting for the device is an error: in a capture that would spoil the generator as well.
                for left in reversed(range(warm_ups)):
                    with _NeverWaiting(owner.device, left == 0):
                        compute(self.batch)
            torch.cuda.current_stream(owner.device).wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph) if pool is None else torch.cuda.graph(self.graph, pool=pool):
                compute(self.batch)
            # A graph that was captured on another device is empty, and its replays train nothing without a word.
            untouched = owner.losses.clone().fill_(-torch.inf)
            owner.losses.copy_(untouched)
            self.graph.replay()
            if torch.equal(owner.losses, untouched):
                raise RuntimeError("the captured graph does nothing")
        finally:
            torch.cuda.synchronize(owner.device)
            if draws is not None:
                torch.cuda.set_rng_state(draws, owner.device)
            with torch.no_grad():
                for tensor in owner.state():
                    if id(tensor) in before:
                        tensor.copy_(before[id(tensor)])
                    else:  # moments that an optimiser made in its first step
                        tensor.zero_()

    def replay(self, batch: Mapping[str, Tensor]) -> None:
        """Take a step."""
        for name, tensor in self.batch.items():
            tensor.copy_(batch[name])
        self.graph.replay()


class GraphedSteps:
    """The steps of one training, each by the graph of its shape.

    Args:
        trainer: A training on a GPU of which `why_launched` has nothing to say; its optimiser is made capturable.
    """

    def __init__(self, trainer: Launching) -> None:
        self.trainer, self.device = trainer, trainer.device
        self.losses = torch.zeros(1, device=self.device)
        self.graphs: dict[tuple[int, int], Graph] = {}
        self.pool: Any = None
        self.wanted = True
        self.longest = int(trainer.store.lengths[trainer.layout.utterance].max()) if len(trainer.layout) else 0
        self.unit = 8 * max(1, -(-self.longest // (8 * LENGTHS)))
        make_capturable(trainer.optimiser, self.device)

    @staticmethod
    def why_launched(trainer: Launching) -> str | None:
        """Return why a training's steps are launched one by one; None if they can be graphs."""
        if trainer.device.type != "cuda":
            return "only a GPU has graphs"
        if trainer.recipe.optimiser not in ("adam", "adamw"):
            return "its optimiser counts steps on the CPU"
        if trainer.maker.layer_mix is not None:
            return "a learned mix of layers is computed while batches are made"
        if trainer.parts > 1:
            return "batches in parts have too many shapes"
        return None

    def take(self, batch: Batch, rate: float) -> Tensor:
        """Take a step and return its loss."""
        set_rate(self.trainer.optimiser, rate)
        if not self.wanted:
            return self.trainer.launch(batch)
        filled = self._filled(batch)
        B, L = filled["samples"].shape[:2]
        graph = self.graphs.get((B, L)) or self._captured(filled)
        if graph is None:
            return self.trainer.launch(batch)
        graph.replay(filled)
        return self.losses[0].clone()

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes."""
        model, moments = self.trainer.model, self.trainer.optimiser.state.values()
        of_optimiser = [value for values in moments for value in values.values() if isinstance(value, Tensor)]
        return [*model.parameters(), *model.buffers(), *of_optimiser]

    def _captured(self, filled: dict[str, Tensor]) -> Graph | None:
        """Make the graph of a shape; None where none can be made, which is not tried again."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        warm_ups = _MORE_WARM_UPS if self.graphs else _WARM_UPS
        try:
            graph = Graph(self, filled, self._compute, warm_ups, self.pool)
        except RuntimeError:  # too little memory among them: launched one by one, a step takes less
            self.wanted = False
            self.graphs.clear()
            torch.cuda.empty_cache()
            return None
        B, L = filled["samples"].shape[:2]
        self.graphs[B, L] = graph
        return graph

    def _filled(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch at the next of the lengths that have graphs."""
        samples, lengths, targets = batch
        L = samples.shape[1]
        if self.trainer.frames is None:
            L = max(L, min(-(-L // self.unit) * self.unit, self.longest))
        return {"samples": nn.functional.pad(samples, (0, 0, 0, L - samples.shape[1])), "lengths": lengths, "targets": targets}

    def _compute(self, batch: dict[str, Tensor]) -> None:
        """Forward, backward, clipping and optimiser."""
        trainer, parameters = self.trainer, list(self.trainer.model.parameters())
        of = Batch((batch["samples"],), (batch["lengths"],), batch["targets"])
        loss = training_loss(trainer.model, of, trainer.class_weights, trainer.recipe, trainer.most)
        # Not backward(): what it adds up on leaves may run on other streams than a graph's.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        # A convolution's gradient may lie channels last: one kernel over all weights reads them as the weights lie.
        for parameter, gradient in zip(parameters, gradients, strict=True):
            alike = gradient.stride() == parameter.stride()
            parameter.grad = gradient if alike else torch.empty_like(parameter).copy_(gradient)
        if trainer.recipe.grad_clip:
            nn.utils.clip_grad_norm_(parameters, trainer.recipe.grad_clip)
        trainer.optimiser.step()
        self.losses[0].copy_(loss.detach())
        for parameter in parameters:
            parameter.grad = None  # a graph's memory, which the next graph writes over


class _NeverWaiting:
    """Within it, whatever waits for the device raises a RuntimeError, if it is asked for."""

    def __init__(self, device: torch.device, strict: bool) -> None:
        self.strict = strict and device.type == "cuda"

    def __enter__(self) -> None:
        if self.strict:
            torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        if self.strict:
            torch.cuda.set_sync_debug_mode("default")


def _generator_state(device: torch.device) -> Tensor | None:
    """Return where the device's generator is: what is drawn while a graph is made has to be drawn again."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step, where a graph reads it if there is one."""
    for group in optimiser.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate * group["own_rate"]
        elif group.get("present_rate") != rate:  # a graph reads it from where it lies; a launch for each step would add up
            group["lr"].fill_(rate * group["own_rate"])
            group["present_rate"] = rate


def make_capturable(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Let Adam or AdamW read its rate and count its steps on the device, in one kernel a group."""
    for group in optimiser.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["capturable"] = group["fused"] = True
        group["foreach"] = False
    optimiser._warned_capturable_if_run_uncaptured = True  # some steps are, and may be
