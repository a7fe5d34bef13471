"""The training samples of a fold, batch by batch: gathered, augmented, mixed.

What comes in: which samples (rows of utterances, and where in them each begins) and a generator. What goes out: a `Batch` on
the device. Everything random is drawn from that generator alone, for the batch as a whole and in one order: so a batch in parts
is the same batch, and one that is gathered again after a kill is the same as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.heads.models.layer_mix import LayerMix
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.ahead import read_ahead
from tfser.heads.training.augment import augment, changes_samples, mix
from tfser.heads.training.parts import Batch, in_parts
from tfser.heads.training.samples import FrameStore


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which samples a training step takes, and what else of it is random."""

    step: int
    """Counted over all epochs, from 0."""
    rate: float
    """The learning rate."""
    rows: Tensor
    """(B,) utterances, on the CPU."""
    starts: Tensor
    """(B,) the first frame of each sample, on the CPU."""
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class BatchMaterial:
    """What a batch is made of: its samples, before layers are mixed and anything is augmented."""

    cut: Sequence[npt.NDArray[np.int64]]
    """Which samples each part of the batch has; nothing where it is computed whole."""
    read: tuple[tuple[Tensor, Tensor], ...]
    """Samples (b, L, D) and lengths (b,) of each part that was gathered apart, or of all."""


@dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """What batches are made of."""

    store: FrameStore
    targets: Tensor
    """(n, K): one-hot classes of all utterances, on the device."""
    recipe: Recipe
    frames: int | None
    """Frames of a segment; None: whole utterances."""
    parts: int
    """Most parts that a batch is computed in."""
    layer_mix: LayerMix | None
    """The learned mix of the features' layers, where they have several."""

    def make(self, draw: Draw) -> Batch:
        """Gather and augment the batch of a draw, without waiting for the device: it computes the step before."""
        return self.finish(draw, self.gather(draw))

    def materials(self, draws: Iterator[Draw]) -> Iterator[tuple[Draw, BatchMaterial]]:
        """Yield what the batches of some draws are made of; frames on disk are read ahead, by a thread."""
        # A generator is drawn from in one order: places of a batch, what augments it, places of the next. Where something is
        # drawn once a batch is gathered, the next cannot be gathered before.
        gathered = ((draw, self.gather(draw)) for draw in draws)
        return read_ahead(gathered) if self.store.is_streamed and not changes_samples(self.recipe) else gathered

    def gather(self, draw: Draw) -> BatchMaterial:
        """Read the samples of a draw: in parts, where a batch is computed in parts and is not augmented."""
        rows, starts = draw.rows, draw.starts
        cut = in_parts(self.store.lengths[rows.numpy()], self.parts) if self.parts > 1 else []
        # Without augmentation nothing is drawn, and no part has to be padded to the longest of another.
        if len(cut) > 1 and not changes_samples(self.recipe):
            read = tuple(self.store.gather(rows[part], starts[part], None) for part in cut)
        else:
            # What is drawn comes in this order: places and paces, then augmentation, then mixup. Another is another training.
            starts, pace = self.places(rows, starts, draw.generator)
            read = (self.store.gather(rows, starts, self.frames, pace),)
        return BatchMaterial(cut=cut, read=read)

    def finish(self, draw: Draw, material: BatchMaterial) -> Batch:
        """Mix layers, augment and mix up what was gathered; the targets go beside it."""
        recipe, rows, generator, cut = self.recipe, draw.rows, draw.generator, material.cut
        # Targets follow the order of the parts, so that the loss can take the logits of all parts joined as they come.
        order = rows[torch.from_numpy(np.concatenate(cut))] if len(cut) > 1 else rows
        targets = self.targets[order.to(self.store.device, non_blocking=True)]
        if len(material.read) > 1:
            mixed = [self._mixed(*part) for part in material.read]
            return Batch(tuple(samples for samples, _ in mixed), tuple(lengths for _, lengths in mixed), targets)
        samples, lengths = self._mixed(*material.read[0])
        gain = self.store.gain(rows)
        gain = gain if self.layer_mix is None else self.layer_mix.mix(gain)
        samples = augment(samples, lengths, gain, recipe, generator)
        # Augmentation has drawn for the batch as a whole, as it does where there are no parts; only now is it cut.
        if len(cut) > 1:
            spans = [int(self.store.lengths[rows[part].numpy()].max()) for part in cut]
            parts = [torch.from_numpy(part).to(self.store.device, non_blocking=True) for part in cut]
            of_parts = tuple(samples[part, :span] for part, span in zip(parts, spans, strict=True))
            return Batch(of_parts, tuple(lengths[part] for part in parts), targets)
        if recipe.mixup:
            samples, lengths, targets = mix(samples, lengths, targets, recipe.mixup, generator)
        return Batch((samples,), (lengths,), targets)

    def _mixed(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples (B, L, M D) of several layers as their learned mix (B, L, D), and any others as they are."""
        return (samples if self.layer_mix is None else self.layer_mix.mix(samples)), lengths

    def places(self, rows: Tensor, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw where the samples begin (B,) and at which pace their frames are read (B,), as the recipe says."""
        recipe, L, B = self.recipe, self.frames, len(rows)
        if L is None or not (recipe.jitter or recipe.speed):
            return starts, None
        counts = torch.from_numpy(self.store.lengths[rows.numpy()])  # (B,) frames of the utterances
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


class JointMaker:
    """Makes the batches of J trainings by one gather, where a `BatchMaker` each would launch some forty operations a job.

    The numbers are those of the makers, to the bit. `why_apart` says when there is no joint way.

    Args:
        makers: J of them, on the same frames.
        size: B, samples of each batch; what a batch has less is filled with samples that are not there.
    """

    def __init__(self, makers: Sequence[BatchMaker], size: int) -> None:
        self.makers, self.size = makers, size
        self.store = FrameStore.joined([maker.store for maker in makers])
        self.targets = torch.cat([maker.targets for maker in makers])  # (J n, K)

    @staticmethod
    def why_apart(makers: Sequence[BatchMaker]) -> str | None:
        """Return why trainings have to gather their batches apart; None if one gather does."""
        first = makers[0].store
        if any(maker.store.frames is not first.frames for maker in makers):
            return "they do not share their frames"
        if any(not np.array_equal(maker.store.lengths, first.lengths) for maker in makers):
            return "their utterances are cut differently"
        if any(maker.store.shift.shape != first.shift.shape for maker in makers):
            return "they are normalised differently"
        if any(changes_samples(maker.recipe) or maker.layer_mix is not None for maker in makers):
            return "each augments or mixes with draws and weights of its own"
        return None

    def batch(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Return samples (J, B, L, D), lengths (J, B), targets (J, B, K) and present (J, B) of the next step of each."""
        J, B, n = len(self.makers), self.size, len(self.makers[0].store.lengths)
        # All that is drawn is drawn on the CPU, job by job, each from its own generator: there it costs no launches.
        rows, starts = torch.zeros(J, B, dtype=torch.long), torch.zeros(J, B, dtype=torch.long)
        paces = torch.ones(J, B)
        present = torch.zeros(J, B, dtype=torch.bool)
        for j, (maker, draw) in enumerate(zip(self.makers, draws, strict=True)):
            count = len(draw.rows)
            places, pace = maker.places(draw.rows, draw.starts, draw.generator)
            # Who is not there is stood in for by the first of the batch, which is no longer than its longest.
            rows[j] = j * n + draw.rows[0]
            rows[j, :count] = j * n + draw.rows
            starts[j, :count], present[j, :count] = places, True
            if pace is not None:
                paces[j, :count] = pace
        speed = paces.flatten() if self.makers[0].recipe.speed else None
        samples, lengths = self.store.gather(rows.flatten(), starts.flatten(), self.makers[0].frames, speed)
        on_device = (of.flatten().to(self.store.device, non_blocking=True) for of in (rows, present, ~present))
        utterances, there, away = on_device
        frames = {
            "samples": samples.masked_fill_(away[:, None, None], 0.0),
            "lengths": lengths.masked_fill(away, 1),  # of no frames at all, a mean is no number
            "targets": self.targets[utterances] * there[:, None],
            "present": there,
        }
        return {name: tensor.reshape(J, B, *tensor.shape[1:]) for name, tensor in frames.items()}
