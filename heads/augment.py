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

from tfser.heads.recipes import Recipe

_NATURAL_PER_DB = math.log(10) / 10


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
    if recipe.warp:
        samples = warp_bands(samples, 1 + recipe.warp * _even(B, generator, device))
    if recipe.gain_db:
        samples = samples + recipe.gain_db * _NATURAL_PER_DB * _even(B, generator, device)[:, None, None] * unit
    if recipe.tilt_db:
        line = torch.linspace(-1, 1, D, device=device)
        samples = samples + recipe.tilt_db * _NATURAL_PER_DB * _even(B, generator, device)[:, None, None] * line * unit
    for _ in range(recipe.time_masks):
        samples = samples.masked_fill(spans(B, L, recipe.time_mask_frames, generator, device)[:, :, None], 0.0)
    for _ in range(recipe.band_masks):
        samples = samples.masked_fill(spans(B, D, recipe.band_mask_bands, generator, device)[:, None, :], 0.0)
    beyond = torch.arange(L, device=device) >= lengths[:, None]  # (B, L)
    return samples.masked_fill(beyond[:, :, None], 0.0)


def spans(B: int, size: int, longest: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw for each sample one span of 0 to ``longest`` places (at most ``size``) that lies within ``size``: (B,
    size) bool."""
    longest = min(longest, size)
    width = torch.randint(0, longest + 1, (B,), generator=generator)
    first = (torch.rand(B, generator=generator) * (size - width + 1)).long()
    places = torch.arange(size)
    return ((places >= first[:, None]) & (places < (first + width)[:, None])).to(device)


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
