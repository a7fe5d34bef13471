"""Augmentation: as drawn from the generator, and nothing unless the recipe says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.augment import augment, mix, spans, warp_bands

EVERYTHING = Recipe(time_masks=1, time_mask_frames=4, band_masks=1, band_mask_bands=3, gain_db=6, tilt_db=3, warp=0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([12, 7, 9])
    samples = torch.randn(3, 12, 8, generator=generator(1))
    return samples.masked_fill((torch.arange(12) >= lengths[:, None])[:, :, None], 0.0), lengths, torch.ones(3, 1, 8)


def test_a_plain_recipe_changes_nothing() -> None:
    samples, lengths, unit = inputs()
    assert torch.equal(augment(samples, lengths, unit, Recipe(), generator()), samples)


def test_the_same_generator_gives_the_same_and_padding_stays_zero() -> None:
    samples, lengths, unit = inputs()
    before = torch.random.get_rng_state()
    first = augment(samples, lengths, unit, EVERYTHING, generator())
    assert torch.equal(first, augment(samples, lengths, unit, EVERYTHING, generator()))
    assert not torch.equal(first, augment(samples, lengths, unit, EVERYTHING, generator(1)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first[1, 7:] == 0).all()
    assert (first[2, 9:] == 0).all()


def test_gain_adds_one_constant_of_at_most_so_many_decibels() -> None:
    samples, _, unit = inputs()
    changed = augment(samples, torch.full((3,), 12), 2 * unit, Recipe(gain_db=6), generator()) - samples
    assert torch.allclose(changed, changed[:, :1, :1].expand_as(changed), atol=1e-5)
    assert (changed.abs() <= 2 * 6 * math.log(10) / 10 + 1e-5).all()
    assert changed.abs().max() > 0


def test_tilt_leaves_the_middle() -> None:
    samples, _, unit = inputs()
    changed = augment(samples, torch.full((3,), 12), unit, Recipe(tilt_db=6), generator()) - samples
    assert torch.allclose(changed[:, :, 0], -changed[:, :, -1], atol=1e-5)


@pytest.mark.parametrize("longest", [0, 3, 50])
def test_spans_are_single_runs_within_the_limit(longest: int) -> None:
    found = spans(500, 20, longest, generator(), torch.device("cpu"))
    widths = found.sum(dim=1)
    assert int(widths.min()) == 0
    assert int(widths.max()) == min(longest, 20)
    runs = (found[:, 1:] & ~found[:, :-1]).sum(dim=1) + found[:, 0]
    assert int(runs.max()) <= 1


def test_warp_reads_between_bands() -> None:
    ramp = torch.arange(6.0).expand(2, 3, 6)
    warped = warp_bands(ramp, torch.tensor([1.0, 1.5]))
    assert torch.equal(warped[0], ramp[0])
    assert warped[1, 0].tolist() == [0.0, 1.5, 3.0, 4.5, 5.0, 5.0]


def test_mix_shares_samples_and_targets_alike() -> None:
    samples, lengths, _ = inputs()
    targets = torch.eye(3)
    mixed, longer, soft = mix(samples, lengths, targets, 0.5, generator())
    assert torch.allclose(soft.sum(dim=1), torch.ones(3))
    assert (soft.diagonal() >= 0.5).all()
    assert torch.allclose(mixed, torch.einsum("bc,cld->bld", soft, samples), atol=1e-6)
    assert (longer >= lengths).all()


def test_masks_write_zeros() -> None:
    samples, _, unit = inputs()
    recipe = replace(Recipe(), time_masks=2, time_mask_frames=6)
    changed = augment(samples, torch.full((3,), 12), unit, recipe, generator(3))
    assert ((changed == samples) | (changed == 0)).all()
    assert not torch.equal(changed, samples)


def test_time_masks_lie_within_each_sample_whatever_it_is_padded_to() -> None:
    """A short utterance beside a long one loses as much of itself as among its like."""
    recipe = replace(Recipe(), time_masks=1, time_mask_frames=6)
    B, short = 4000, 8
    lengths = torch.full((B,), short)
    samples = torch.ones(B, 1, 1).expand(B, short, 1)
    alone = augment(samples, lengths, torch.ones(B, 1, 1), recipe, generator())
    lengths = torch.cat([lengths, torch.tensor([200])])
    padded = torch.zeros(B + 1, 200, 1)
    padded[:-1, :short] = 1
    padded[-1] = 1
    beside = augment(padded, lengths, torch.ones(B + 1, 1, 1), recipe, generator())
    hidden = [float(1 - of[:B, :short].mean()) for of in (alone, beside)]
    assert hidden[0] == pytest.approx(3 / 8, abs=0.02)  # 0 to 6 of 8 frames, evenly
    assert hidden[1] == pytest.approx(hidden[0], abs=0.02)


def test_spans_fill_short_samples_evenly_and_full_ones_as_ever() -> None:
    lengths = torch.tensor([3] * 4000 + [20] * 4000)
    found = spans(8000, 20, 9, generator(), torch.device("cpu"), lengths)
    assert not found[:4000, 3:].any()
    for part, most in ((found[:4000], 3), (found[4000:], 9)):
        share = torch.bincount(part.sum(dim=1), minlength=most + 1) / len(part)
        assert len(share) == most + 1 and (share - 1 / (most + 1)).abs().max() < 0.08  # ten draws do not divide by four
    full, cpu = torch.full((500,), 20), torch.device("cpu")
    assert torch.equal(spans(500, 20, 9, generator(), cpu, full), spans(500, 20, 9, generator(), cpu))
