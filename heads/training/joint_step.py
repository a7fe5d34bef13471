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
from tfser.heads.training.batches import Draw, JointMaker
from tfser.heads.training.graphs import Graph, set_rate
from tfser.heads.training.loop import Trainer
from tfser.heads.training.parts import Batch
from tfser.heads.training.step import training_loss
from tfser.manifests.errors import TfserError, first_line

Padded = dict[str, Tensor] | list[dict[str, Tensor]]
"""The batches of J jobs: one stack of samples (J, B, L, D), lengths (J, B), targets (J, B, K) and present (J, B); or, of jobs
that are computed apart, the same for each, at its own length."""


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
        makers = [trainer.maker for trainer in trainers]
        self.maker = JointMaker(makers, self.size) if JointMaker.why_apart(makers) is None else None
        self.class_weights = torch.stack([trainer.class_weights for trainer in trainers])  # (J, K)
        self.losses = torch.zeros(len(trainers), device=self.device)
        self.graph: Graph | None = None
        self.graphs_of_one: dict[int, Graph] = {}
        self.wants_graph = self.wants_graph_of_one = graph
        self.shape = _Loss(copy.deepcopy(first.model).to("meta").train(), self)
        for module in self.shape.modules():
            if hasattr(module, "as_products"):
                module.as_products = True  # type: ignore[assignment]  # only `vmap` computes with this module
        self._stack()
        cuda = self.device.type == "cuda"
        self.streams = [torch.cuda.Stream(self.device) for _ in trainers] if cuda else []  # type: ignore[no-untyped-call]

    def _stack(self) -> None:
        """Put all weights, gradients and running statistics into stacked tensors, and let the models hold their parts."""
        models = [trainer.model for trainer in self.trainers]
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        # Views and not copies: each trainer's model, optimiser and checkpoints work on their own part as if
        # they were alone.
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

    # One epoch.

    def run_epoch(self) -> list[EpochRecord | TfserError]:
        """Train one epoch of each job, then evaluate."""
        began = time.perf_counter()
        # Each trainer draws its own batches, so a job sees the samples, in the order, that it would see alone.
        epochs = [len(trainer.history) + 1 for trainer in self.trainers]
        draws = [trainer.draws(epoch) for trainer, epoch in zip(self.trainers, epochs, strict=True)]
        totals = torch.zeros(len(self.trainers), device=self.device)
        rates = [0.0] * len(self.trainers)
        for trainer in self.trainers:
            trainer.model.train()
        # Only steps that all jobs have are taken together: with a job that is through, every operation would go
        # over fewer jobs, and a graph would have to be made anew for each length.
        for _ in range(min(trainer.steps() for trainer in self.trainers)):
            drawn = [next(of) for of in draws]
            for j, (trainer, draw) in enumerate(zip(self.trainers, drawn, strict=True)):
                rates[j] = draw.rate
                set_rate(trainer.optimiser, draw.rate)
            self._step(self._read(drawn))
            sizes = torch.tensor([float(len(draw.rows)) for draw in drawn])
            totals += self.losses * sizes.to(self.device, non_blocking=True)
            for trainer, draw in zip(self.trainers, drawn, strict=True):
                trainer.update_average(draw.step)
        # What larger folds have left is done one by one: folds differ by few steps, and each costs a launch of
        # its own.
        for j, (trainer, rest) in enumerate(zip(self.trainers, draws, strict=True)):  # steps that not all have
            for draw in rest:
                rates[j] = draw.rate
                totals[j] += self._step_alone(j, draw.rate, trainer.maker.make(draw)) * len(draw.rows)
                trainer.update_average(draw.step)
        # The one wait of an epoch: a loss that is fetched after each step would empty the device's queue each
        # time.
        sums = totals.cpu()  # waits for the device
        train_s = (time.perf_counter() - began) / len(self.trainers)
        outcomes: list[EpochRecord | TfserError] = []
        for trainer, epoch, total, rate in zip(self.trainers, epochs, sums, rates, strict=True):
            try:
                outcomes.append(trainer.close_epoch(epoch, trainer.mean_loss(epoch, total), rate, train_s))
            except TfserError as error:
                outcomes.append(error)
        return outcomes

    def _read(self, draws: Sequence[Draw]) -> Padded:
        """Make the batches of a step: by one gather where all jobs read the same frames and share one length."""
        if self.maker is not None and (self.how == "vmap" or self.wants_graph):
            return self.maker.batch(draws)
        return self._pad([trainer.maker.make(draw) for trainer, draw in zip(self.trainers, draws, strict=True)])

    def _pad(self, batches: Sequence[Batch]) -> Padded:
        """Bring batches to one size with samples that are not there.

        What is computed as one operation, or by one graph, has one length as well; jobs that are computed apart keep their own:
        the longest utterance of ten batches is half again as long as that of one.
        """
        if self.how == "streams" and not self.wants_graph:
            return [self._filled(batch, batch.samples[0].shape[1]) for batch in batches]
        longest = max(batch.samples[0].shape[1] for batch in batches)
        filled = [self._filled(batch, longest) for batch in batches]
        return {name: torch.stack([of[name] for of in filled]) for name in filled[0]}

    def _filled(self, batch: Batch, length: int) -> dict[str, Tensor]:
        """Return a batch of B samples of so many frames: samples, lengths, targets, and who of them is there."""
        samples, lengths, targets = batch
        short = self.size - len(samples)
        return {
            "samples": functional.pad(samples, (0, 0, 0, length - samples.shape[1], 0, short)),
            "lengths": functional.pad(lengths, (0, short), value=1),  # of no frames at all, a mean is no number
            "targets": functional.pad(targets, (0, 0, 0, short)),
            "present": torch.arange(self.size, device=self.device) < len(samples),
        }

    # One step.

    def _step(self, batch: Padded) -> None:
        """Take a step of all jobs, and leave their losses in `losses`."""
        # Captured at the first real batch, whose shapes all others have; where it cannot be, what was launched
        # as one operation is slower than a stream a job.
        if self.wants_graph and self.graph is None and isinstance(batch, dict):
            self.graph = self._graph(batch, self.compute)
            if self.graph is None:
                self.wants_graph = self.wants_graph_of_one = False
                self.how = "streams"
        if self.graph is None:
            self.compute(batch)
        elif isinstance(batch, dict):
            self.graph.replay(batch)

    def _graph(self, batch: dict[str, Tensor], compute: Callable[[dict[str, Tensor]], None]) -> Graph | None:
        """Make a graph of a computation; where none can be made, say so: what goes on without it takes a stream a job.

        Raises:
            OutOfMemoryError: It does not fit into memory: that is no reason to compute it in another way.
        """
        try:
            return Graph(self, batch, compute)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = first_line(error)
            self.note(f"no CUDA graph could be made of a training step, so steps are launched one by one: {reason}")
            return None

    def compute(self, batch: Padded) -> None:
        """Forward, backward, clipping and optimiser of all jobs."""
        if self.how == "vmap" and isinstance(batch, dict):
            losses = self._losses(batch)
            self._differentiate(losses.sum(), list(self.weights.values()), list(self.gradients.values()))
            self.losses.copy_(losses.detach())
            for trainer in self.trainers:
                self._move(trainer)
            return
        for j in range(len(self.trainers)):
            with self._beside(j):
                of = {name: tensor[j] for name, tensor in batch.items()} if isinstance(batch, dict) else batch[j]
                self.compute_one(j, of)
        for stream in self.streams:
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def compute_one(self, j: int, batch: Mapping[str, Tensor]) -> None:
        """Forward, backward, clipping and optimiser of job j."""
        trainer = self.trainers[j]
        loss = self.loss(trainer.model, **batch, class_weights=self.class_weights[j])
        parameters = list(trainer.model.parameters())
        self._differentiate(loss, parameters, [_gradient(parameter) for parameter in parameters])
        self.losses[j].copy_(loss.detach())
        self._move(trainer)

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
        batch = Batch((samples,), (lengths,), targets)
        return training_loss(model, batch, class_weights, self.recipe, self.most, present, self.batch_norm)

    @staticmethod
    def _differentiate(loss: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        # Not backward(): what it adds up on leaves may run on other streams than a graph's.
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(list(gradients), list(found))

    def _move(self, trainer: Trainer) -> None:
        if self.recipe.grad_clip:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), self.recipe.grad_clip)
        trainer.optimiser.step()

    def _step_alone(self, j: int, rate: float, batch: Batch) -> Tensor:
        """Take a step of one job as `fit` does, and return its loss. Where steps are graphs, so is this one."""
        trainer = self.trainers[j]
        set_rate(trainer.optimiser, rate)
        if self.wants_graph_of_one:
            filled = self._filled(batch, batch.samples[0].shape[1])
            if j not in self.graphs_of_one:
                made = self._graph(filled, lambda of: self.compute_one(j, of))
                self.wants_graph_of_one = made is not None
                self.graphs_of_one |= {} if made is None else {j: made}
            if j in self.graphs_of_one:
                self.graphs_of_one[j].replay(filled)
                return self.losses[j].clone()
        loss = training_loss(trainer.model, batch, trainer.class_weights, self.recipe, self.most)
        parameters = list(trainer.model.parameters())
        self._differentiate(loss, parameters, [_gradient(parameter) for parameter in parameters])
        self._move(trainer)
        return loss.detach()

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


def _gradient(parameter: nn.Parameter | Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a weight of a group has lost its part of the stacked gradients")
    return parameter.grad
