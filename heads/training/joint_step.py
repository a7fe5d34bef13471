"""A step of several trainings at once: stacked weights, padded batches and, on a GPU, one CUDA graph.

What comes in: `Trainer`s of one head, configuration and recipe. What goes out: their epochs, trained together.
`tfser.heads.training.together` says what is kept the same, and how the ways of computing a step differ.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from tfser.heads.spec.fold import EpochRecord
from tfser.heads.training.loop import Trainer, training_loss
from tfser.manifests.errors import TfserError, first_line

_WARM_UPS = 3  # steps before a graph is captured: libraries choose their kernels in them


class Group:
    """Jobs whose weights lie in stacked tensors, trained an epoch at a time.

    Args:
        trainers: J of them, with an epoch left to train each.
        how: vmap or streams.
        graph: make a CUDA graph of the step; all batches have samples of the same length then.
        note: told if no graph could be made.
    """

    def __init__(self, trainers: list[Trainer], how: str, graph: bool, note: Callable[[str], None]) -> None:
        first = trainers[0]
        self.trainers, self.how, self.note = trainers, how, note
        self.recipe, self.most, self.device = first.recipe, first.most, first.device
        self.batch_norm = first.batch_norm
        self.size = max(-(-len(trainer.layout) // trainer.steps()) for trainer in trainers)  # of the padded batch
        self.class_weights = torch.stack([trainer.class_weights for trainer in trainers])  # (J, K)
        self.losses = torch.zeros(len(trainers), device=self.device)
        self.graph: Graph | None = None
        self.wants_graph = graph
        self.shape = _Loss(copy.deepcopy(first.model).to("meta").train(), self)
        self._stack()
        cuda = self.device.type == "cuda"
        self.streams = [torch.cuda.Stream(self.device) for _ in trainers] if cuda else []  # type: ignore[no-untyped-call]

    def _stack(self) -> None:
        """Put all weights, gradients and running statistics into stacked tensors, and let the models hold their parts."""
        models = [trainer.model for trainer in self.trainers]
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, _ in models[0].named_parameters():
                own = [model.get_parameter(name) for model in models]
                stacked = torch.stack([parameter.detach() for parameter in own])  # (J, ...)
                self.gradients[name] = torch.zeros_like(stacked)
                for parameter, part, gradient in zip(own, stacked, self.gradients[name], strict=True):
                    parameter.data, parameter.grad = part, gradient
                self.weights[name] = stacked.requires_grad_()
            for name, _ in models[0].named_buffers():
                self.buffers[name] = torch.stack([model.get_buffer(name) for model in models])
                path, _, leaf = name.rpartition(".")
                for model, part in zip(models, self.buffers[name], strict=True):
                    model.get_submodule(path)._buffers[leaf] = part
        self.averages = [_averaged(trainer) for trainer in self.trainers if trainer.average is not None]

    # One epoch.

    def run_epoch(self) -> list[EpochRecord | TfserError]:
        """Train one epoch of each job, then evaluate."""
        began = time.perf_counter()
        epochs = [len(trainer.history) + 1 for trainer in self.trainers]
        batches = [trainer.batches(epoch) for trainer, epoch in zip(self.trainers, epochs, strict=True)]
        totals = torch.zeros(len(self.trainers), device=self.device)
        rates = [0.0] * len(self.trainers)
        for trainer in self.trainers:
            trainer.model.train()
        for _ in range(min(trainer.steps() for trainer in self.trainers)):
            found = [next(of) for of in batches]
            for j, (trainer, (_, rate, _)) in enumerate(zip(self.trainers, found, strict=True)):
                rates[j] = rate
                set_rate(trainer.optimiser, rate)
            batch = self._pad([of for _, _, of in found])
            self._step(batch)
            totals += self.losses * batch["present"].sum(dim=1)
            self._update_averages([step for step, _, _ in found])
        for j, (trainer, rest) in enumerate(zip(self.trainers, batches, strict=True)):  # steps that not all have
            for step, rate, of in rest:
                rates[j] = rate
                totals[j] += self._step_alone(j, rate, of) * len(of[0])
                trainer.update_average(step)
        sums = totals.cpu()  # waits for the device
        train_s = (time.perf_counter() - began) / len(self.trainers)
        outcomes: list[EpochRecord | TfserError] = []
        for trainer, epoch, total, rate in zip(self.trainers, epochs, sums, rates, strict=True):
            try:
                outcomes.append(trainer.close_epoch(epoch, trainer.mean_loss(epoch, total), rate, train_s))
            except TfserError as error:
                outcomes.append(error)
        return outcomes

    def _pad(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
        """Stack batches, filled up with samples that are not there: (J, B, L, D), (J, B), (J, B, K), and (J, B) who is."""
        longest = max(samples.shape[1] for samples, _, _ in batches)
        parts: dict[str, list[Tensor]] = {"samples": [], "lengths": [], "targets": [], "present": []}
        for samples, lengths, targets in batches:
            short = self.size - len(samples)
            parts["samples"].append(functional.pad(samples, (0, 0, 0, longest - samples.shape[1], 0, short)))
            parts["lengths"].append(functional.pad(lengths, (0, short), value=1))  # of no frames at all, a mean is no number
            parts["targets"].append(functional.pad(targets, (0, 0, 0, short)))
            parts["present"].append(torch.arange(self.size, device=self.device) < len(samples))
        return {name: torch.stack(of) for name, of in parts.items()}

    # One step.

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Take a step of all jobs, and leave their losses in `losses`."""
        if self.wants_graph and self.graph is None:
            try:
                self.graph = Graph(self, batch)
            except RuntimeError as error:
                self.wants_graph, self.how = False, "vmap"
                reason = first_line(error)
                self.note(f"no CUDA graph could be made of a training step, so steps are launched one by one: {reason}")
        if self.graph is None:
            self.compute(batch)
        else:
            self.graph.replay(batch)

    def compute(self, batch: Mapping[str, Tensor]) -> None:
        """Forward, backward, clipping and optimiser of all jobs."""
        if self.how == "vmap":
            losses = self._losses(batch)
            self._differentiate(losses.sum(), list(self.weights.values()), list(self.gradients.values()))
            self.losses.copy_(losses.detach())
            for trainer in self.trainers:
                self._move(trainer)
            return
        for j, trainer in enumerate(self.trainers):
            with self._beside(j):
                of = {name: tensor[j] for name, tensor in batch.items()}
                loss = self.loss(trainer.model, **of, class_weights=self.class_weights[j])
                parameters = list(trainer.model.parameters())
                self._differentiate(loss, parameters, [_gradient(parameter) for parameter in parameters])
                self.losses[j].copy_(loss.detach())
                self._move(trainer)
        for stream in self.streams:
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def _losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return all jobs' losses (J,) as a function of the stacked weights."""

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], class_weights: Tensor, of: dict[str, Tensor]) -> Tensor:
            state = {f"model.{name}": tensor for name, tensor in (weights | buffers).items()}
            loss: Tensor = functional_call(self.shape, state, kwargs={**of, "class_weights": class_weights})
            return loss

        losses: Tensor = vmap(one, randomness="different")(self.weights, self.buffers, self.class_weights, dict(batch))
        return losses

    def loss(
        self, model: nn.Module, *, samples: Tensor, lengths: Tensor, targets: Tensor, present: Tensor, class_weights: Tensor
    ) -> Tensor:
        """Return one job's loss of a padded batch."""
        return training_loss(model, samples, lengths, targets, class_weights, self.recipe, self.most, present, self.batch_norm)

    @staticmethod
    def _differentiate(loss: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        # Not backward(): what it adds up on leaves may run on other streams than a graph's.
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(list(gradients), list(found))

    def _move(self, trainer: Trainer) -> None:
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), self.recipe.grad_clip)
        trainer.optimiser.step()

    def _step_alone(self, j: int, rate: float, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Take a step of one job as `fit` does, and return its loss."""
        trainer = self.trainers[j]
        set_rate(trainer.optimiser, rate)
        loss = training_loss(trainer.model, *batch, trainer.class_weights, self.recipe, self.most)
        parameters = list(trainer.model.parameters())
        self._differentiate(loss, parameters, [_gradient(parameter) for parameter in parameters])
        self._move(trainer)
        return loss.detach()

    def _update_averages(self, steps: Sequence[int]) -> None:
        """Do what `Trainer.update_average` does, in few operations a job."""
        if not self.averages:
            return
        with torch.no_grad():
            for trainer, step, (means, values, counts, steps_seen) in zip(self.trainers, steps, self.averages, strict=True):
                torch._foreach_lerp_(means, values, trainer.average_share(step))
                if counts:
                    torch._foreach_copy_(counts, steps_seen)

    @contextlib.contextmanager
    def _beside(self, j: int) -> Iterator[None]:
        """Work on the stream of job j, which begins where the present one is."""
        if not self.streams:
            yield
            return
        self.streams[j].wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.streams[j]):
            yield

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes."""
        of_optimisers = [
            value
            for trainer in self.trainers
            for values in trainer.optimiser.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        return [*self.weights.values(), *self.buffers.values(), *of_optimisers]


class _Loss(nn.Module):
    """A job's loss as a module, so that functional_call finds the head's weights whichever of its methods are called."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        super().__init__()
        self.model, self.of = model, group.loss

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the loss, a number."""
        return self.of(self.model, **batch)


class Graph:
    """A step of a group as one CUDA graph, which reads its batch from tensors of its own.

    Raises:
        RuntimeError: The step cannot be captured; nothing is changed then.
    """

    def __init__(self, group: Group, batch: Mapping[str, Tensor]) -> None:
        self.batch = {name: tensor.clone() for name, tensor in batch.items()}
        before = {id(tensor): tensor.detach().clone() for tensor in group.state()}
        side = torch.cuda.Stream(group.device)  # type: ignore[no-untyped-call]
        try:
            side.wait_stream(torch.cuda.current_stream(group.device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    group.compute(self.batch)
            torch.cuda.current_stream(group.device).wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                group.compute(self.batch)
        finally:
            torch.cuda.synchronize(group.device)
            with torch.no_grad():
                for tensor in group.state():
                    if id(tensor) in before:
                        tensor.copy_(before[id(tensor)])
                    else:  # moments that an optimiser made in its first step
                        tensor.zero_()

    def replay(self, batch: Mapping[str, Tensor]) -> None:
        """Take a step."""
        for name, tensor in self.batch.items():
            tensor.copy_(batch[name])
        self.graph.replay()


def _averaged(trainer: Trainer) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Return a trainer's averages and what they are of, first what moves by shares and then what is copied."""
    assert trainer.average is not None
    pairs = list(zip(trainer.average.state_dict().values(), trainer.model.state_dict().values(), strict=True))
    moved = [pair for pair in pairs if pair[0].is_floating_point()]
    copied = [pair for pair in pairs if not pair[0].is_floating_point()]
    return [a for a, _ in moved], [b for _, b in moved], [a for a, _ in copied], [b for _, b in copied]


def _gradient(parameter: nn.Parameter | Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a weight of a group has lost its part of the stacked gradients")
    return parameter.grad


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step, where a graph reads it if there is one."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):  # a graph reads it from where it lies
            group["lr"].fill_(rate * group["own_rate"])
        else:
            group["lr"] = rate * group["own_rate"]


def make_capturable(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Let Adam or AdamW read its rate and count its steps on the device, in one kernel a group."""
    for group in optimiser.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["capturable"] = group["fused"] = True
        group["foreach"] = False
    optimiser._warned_capturable_if_run_uncaptured = True  # some steps are, and may be
