"""Augmentation of gathered batches (B, L, D), each drawn from its own generator; only in training, only as the recipe
says.

Everything random is drawn on the CPU, so the same seed gives the same draws on every device. Zero is the mean of a
normalised feature, so that masking writes zeros. Gain and tilt are in decibels of power: ln(10) / 10 per decibel in
natural-log energies, times what normalisation multiplied the feature by.

After SpecAugment (Park et al. 2019) for the masks, vocal-tract length perturbation (Jaitly and Hinton 2013) for the
warp, and mixup (Zhang et al. 2018; here the share is drawn evenly instead of from a beta distribution).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tfser.heads.spec.recipes import Recipe

_NATURAL_PER_DB = math.log(10) / 10


def changes_samples(recipe: Recipe) -> bool:
    """Tell whether a recipe augments samples at all, or joins them by mixup."""
    names = ("warp", "gain_db", "tilt_db", "time_masks", "band_masks", "mixup")
    return any(getattr(recipe, name) for name in names)


def augment(samples: Tensor, lengths: Tensor, unit: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return a batch with the recipe's warp, gain, tilt and masks, in this order; padding stays zero.

    Args:
        samples: (B, L, D) normalised frames.
        lengths: (B,) valid frames.
        unit: (B, 1, D) what one unit of the raw feature is worth after normalisation.
        recipe: Which and how much.
        generator: On the CPU.
    """
    B, L, D = samples.shape
    device = samples.device
    # The order is part of what a seed means. The warp comes first, since the others act on places of the warped
    # spectrum; masks come last, so that nothing is added to what they hide.
    if recipe.warp:
        samples = warp_bands(samples, 1 + recipe.warp * _even(B, generator, device))
    if recipe.gain_db:
        samples = samples + recipe.gain_db * _NATURAL_PER_DB * _even(B, generator, device)[:, None, None] * unit
    if recipe.tilt_db:
        line = torch.linspace(-1, 1, D, device=device)
        samples = samples + recipe.tilt_db * _NATURAL_PER_DB * _even(B, generator, device)[:, None, None] * line * unit
    for _ in range(recipe.time_masks):
        samples = samples.masked_fill(spans(B, L, recipe.time_mask_frames, generator, device, lengths)[:, :, None], 0.0)
    for _ in range(recipe.band_masks):
        samples = samples.masked_fill(spans(B, D, recipe.band_mask_bands, generator, device)[:, None, :], 0.0)
    # Gain and tilt have moved the padding off zero, and some heads read it.
    beyond = torch.arange(L, device=device) >= lengths[:, None]  # (B, L)
    return samples.masked_fill(beyond[:, :, None], 0.0)


def spans(
    B: int,
    size: int,
    longest: int,
    generator: torch.Generator,
    device: torch.device,
    lengths: Tensor | None = None,
) -> Tensor:
    """Draw for each sample one span of 0 to ``longest`` places that lies within its length: (B, size) bool.

    Args:
        B: samples.
        size: places of each.
        longest: places of a span; in a shorter sample, all that it has.
        generator: on the CPU.
        device: where the spans go.
        lengths: (B,) valid places; ``size`` each if left out. A span never wastes itself on padding, so that what is hidden of
            a sample does not depend on how long the others of its batch are.
    """
    most = min(longest, size)
    # Two draws a sample, whatever its length: so the draws that follow do not depend on who is in the batch.
    width = torch.randint(0, most + 1, (B,), generator=generator).to(device)
    place = torch.rand(B, generator=generator).to(device)
    within = torch.full((B,), size, device=device) if lengths is None else lengths  # never fetched: a device would be waited for
    width = width * (within.clamp(max=longest) + 1) // (most + 1)  # from 0 to the most that the sample has
    first = (place * (within - width + 1)).long()
    places = torch.arange(size, device=device)
    return (places >= first[:, None]) & (places < (first + width)[:, None])


def warp_bands(samples: Tensor, stretch: Tensor) -> Tensor:
    """Read band j of each sample at place j * stretch, by linear interpolation; beyond the last band, the last band.

    Args:
        samples: (B, L, D).
        stretch: (B,) above 1 moves the spectrum down, below 1 up.
    """
    B, L, D = samples.shape
    place = (torch.arange(D, device=samples.device) * stretch[:, None]).clamp(max=D - 1)  # (B, D)
    below = place.floor().long()
    share = (place - below)[:, None, :]  # (B, 1, D)
    first = samples.gather(2, below[:, None, :].expand(B, L, D))
    second = samples.gather(2, (below + 1).clamp(max=D - 1)[:, None, :].expand(B, L, D))
    return first + share * (second - first)


def mix(
    samples: Tensor, lengths: Tensor, targets: Tensor, most: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Let each sample give way to another one by a share from 0 to ``most``, and its target as well.

    Args:
        samples: (B, L, D), zero beyond their lengths.
        lengths: (B,); a mixed sample is as long as the longer of its two.
        targets: (B, K) class probabilities.
        most: The largest share.
        generator: On the CPU.
    """
    B = len(samples)
    share = (most * torch.rand(B, generator=generator)).to(samples.device)
    partner = torch.randperm(B, generator=generator).to(samples.device)
    mixed = samples + share[:, None, None] * (samples[partner] - samples)
    return mixed, torch.maximum(lengths, lengths[partner]), targets + share[:, None] * (targets[partner] - targets)


def _even(B: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw (B,) numbers evenly from -1 to 1."""
    return (2 * torch.rand(B, generator=generator) - 1).to(device)
