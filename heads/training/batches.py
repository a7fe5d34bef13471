"""The training samples of a fold, batch by batch: gathered, augmented, mixed.

What comes in: which samples (rows of utterances, and where in them each begins) and a generator. What goes out: a `Batch` on
the device. Everything random is drawn from that generator alone, for the batch as a whole and in one order: so a batch in parts
is the same batch, and one that is gathered again after a kill is the same as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfser.heads.models.layer_mix import LayerMix
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.augment import augment, changes_samples, mix
from tfser.heads.training.parts import Batch, in_parts
from tfser.heads.training.samples import FrameStore


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

    def batch(self, rows: Tensor, starts: Tensor, generator: torch.Generator) -> Batch:
        """Gather and augment a batch of rows (B,) on the CPU, without waiting for the device: it computes the step before."""
        recipe = self.recipe
        cut = in_parts(self.store.lengths[rows.numpy()], self.parts) if self.parts > 1 else []
        # Targets follow the order of the parts, so that the loss can take the logits of all parts joined as they come.
        order = rows[torch.from_numpy(np.concatenate(cut))] if len(cut) > 1 else rows
        targets = self.targets[order.to(self.store.device, non_blocking=True)]
        # Without augmentation nothing is drawn, and no part has to be padded to the longest of another.
        if len(cut) > 1 and not changes_samples(self.recipe):
            read = [self._mixed(*self.store.gather(rows[part], starts[part], None)) for part in cut]
            return Batch(tuple(samples for samples, _ in read), tuple(lengths for _, lengths in read), targets)
        # What is drawn comes in this order: places and paces, then augmentation, then mixup. Another order is another training.
        starts, pace = self._places(rows, starts, generator)
        samples, lengths = self._mixed(*self.store.gather(rows, starts, self.frames, pace))
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

    def _places(self, rows: Tensor, starts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
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
