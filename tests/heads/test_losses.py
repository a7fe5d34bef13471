"""CMDT: what it pulls together, what it pushes apart, and what it does not look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.losses import class_weights, cmdt, cross_entropy, spectra, unit

SIZE = 24
PLAIN = Recipe(cmdt=0.1)


def batch(B: int = 6, L: int = 20, D: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, L, D, generator=generator), torch.full((B,), L)


def loss(frames: Tensor, labels: list[int], recipe: Recipe = PLAIN, lengths: Tensor | None = None) -> Tensor:
    lengths = torch.full((len(frames),), frames.shape[1]) if lengths is None else lengths
    return cmdt(frames, lengths, torch.tensor(labels), SIZE, recipe)


VARIANTS = [
    PLAIN,
    Recipe(cmdt_bins=None),
    Recipe(cmdt_bins=1, cmdt_temperature=1.0),
    Recipe(cmdt_similarity="magnitude"),
    Recipe(cmdt_axis="feature"),
]


@pytest.mark.parametrize("recipe", VARIANTS)
def test_a_scale_that_the_batch_shares_changes_nothing(recipe: Recipe) -> None:
    frames, _ = batch()
    labels = [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(loss(37.0 * frames, labels, recipe), loss(frames, labels, recipe), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", [PLAIN, Recipe(cmdt_bins=None), Recipe(cmdt_axis="feature")])
def test_zero_when_positives_coincide_and_negatives_are_opposite(recipe: Recipe) -> None:
    """log(1 + n exp(-2 / tau)) for n negatives, which goes to zero with tau."""
    frames, _ = batch(1, SIZE)
    pair = torch.cat([frames, frames, -frames, -frames])
    for tau, most in ((1.0, 0.3), (0.1, 1e-6), (0.01, 1e-6)):
        found = loss(pair, [0, 0, 1, 1], replace(recipe, cmdt_temperature=tau))
        expected = torch.log1p(2 * torch.exp(torch.tensor(-2 / tau)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert 0 <= found < most


@pytest.mark.parametrize("recipe", VARIANTS)
def test_never_below_zero_and_lower_where_classes_agree(recipe: Recipe) -> None:
    frames, _ = batch(4)
    frames[1], frames[3] = frames[0] + 0.1 * frames[1], frames[2] + 0.1 * frames[3]
    right, wrong = loss(frames, [0, 0, 1, 1], recipe), loss(frames, [0, 1, 0, 1], recipe)
    assert 0 <= right < wrong


def test_the_naive_reading_is_the_plain_cosine() -> None:
    """Parseval: over a whole transform of one real vector, Eq. 7 is the cosine of the vectors themselves."""
    u, v = torch.randn(2, 1, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(cmdt_axis="feature")
    lengths = torch.tensor([1])
    U, V = (unit(spectra(w, lengths, SIZE, recipe)) for w in (u, v))
    plain = functional.cosine_similarity(u[0], v[0])
    torch.testing.assert_close((U * V).sum(), plain[0], atol=1e-12, rtol=0)


def test_bins_are_those_of_a_fourier_transform() -> None:
    frames, lengths = batch(3)
    found = spectra(frames, lengths, SIZE, Recipe(cmdt_bins=None))  # (k, B, 2 D)
    expected = torch.fft.rfft(frames, n=SIZE, dim=1).transpose(0, 1)  # (k, B, D)
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], dim=-1), atol=1e-5, rtol=1e-4)
    assert spectra(frames, lengths, SIZE, PLAIN).shape == (8, 3, 10)
    assert spectra(frames, lengths, 6, PLAIN).shape == (4, 3, 10)  # there are no more bins


@pytest.mark.parametrize("recipe", VARIANTS)
def test_what_lies_beyond_the_length_is_not_looked_at(recipe: Recipe) -> None:
    frames, _ = batch()
    lengths = torch.tensor([20, 7, 20, 12, 1, 20])
    changed = frames.clone()
    for i, length in enumerate(lengths.tolist()):
        changed[i, length:] = 99.0
    labels = [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(loss(changed, labels, recipe, lengths), loss(frames, labels, recipe, lengths))
    padded = functional.pad(frames, (0, 0, 0, 4))  # a longer batch-mate changes nothing either
    torch.testing.assert_close(loss(padded, labels, recipe, lengths), loss(frames, labels, recipe, lengths))


def test_a_batch_of_one_class_costs_nothing() -> None:
    frames, _ = batch()
    frames.requires_grad_()
    found = loss(frames, [3] * 6)
    found.backward()
    assert found == 0 and frames.grad is not None and torch.isfinite(frames.grad).all()


def test_a_class_with_one_sample_is_no_anchor_but_a_negative() -> None:
    frames, _ = batch(3)
    alone = loss(frames, [0, 1, 2])
    assert alone == 0
    with_negative, without = loss(frames, [0, 0, 1]), loss(frames[:2], [0, 0])
    assert with_negative > without == 0
    frames[2].zero_()  # a vector of zeros has no direction, and no gradient of infinity
    frames.requires_grad_()
    found = loss(frames, [0, 0, 1])
    found.backward()
    assert frames.grad is not None and torch.isfinite(frames.grad).all() and found > 0


def test_a_shift_in_time_changes_the_complex_form_but_not_the_moduli() -> None:
    """Eq. 7 compares phases: a sequence against itself, moved, is no longer alike."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(1, SIZE, 16, generator=generator)
    other = torch.randn(1, SIZE, 16, generator=generator)
    moved = torch.cat([frames, frames.roll(3, dims=1), other, other.roll(3, dims=1)])
    still = torch.cat([frames, frames, other, other])
    labels = [0, 0, 1, 1]
    assert loss(moved, labels) > 2 * loss(still, labels) + 0.1
    magnitude = Recipe(cmdt_similarity="magnitude", cmdt_bins=None)
    torch.testing.assert_close(loss(moved, labels, magnitude), loss(still, labels, magnitude), atol=1e-4, rtol=1e-4)


def test_autocast_changes_nothing() -> None:
    frames, _ = batch()
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(frames, [0, 0, 1, 1, 2, 2])
    assert rough == loss(frames, [0, 0, 1, 1, 2, 2])


def test_training_with_it_pulls_classes_together() -> None:
    frames, _ = batch(8, SIZE)
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    frames.requires_grad_()
    optimiser = torch.optim.Adam([frames], lr=0.05)
    first = loss(frames, labels).item()
    for _ in range(100):
        optimiser.zero_grad()
        loss(frames, labels).backward()
        optimiser.step()
    assert loss(frames, labels).item() < 0.05 * first


def test_cross_entropy_is_torch_s_where_it_is_plain() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    targets = functional.one_hot(labels, 3).float()
    weights = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(cross_entropy(logits, targets, torch.ones(3), 0.0), functional.cross_entropy(logits, labels))
    torch.testing.assert_close(
        cross_entropy(logits, targets, weights, 0.0), functional.cross_entropy(logits, labels, weight=weights)
    )
    torch.testing.assert_close(
        cross_entropy(logits, targets, torch.ones(3), 0.1), functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def targets_of(labels: list[int], K: int = 3) -> Tensor:
    return functional.one_hot(torch.tensor(labels), K).float()


def test_focal_loss_with_gamma_0_is_cross_entropy() -> None:
    logits = 3 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    targets = targets_of([0, 1, 2, 2, 1, 0, 0, 0])
    weights = torch.tensor([0.5, 1.0, 2.0])
    for smoothing in (0.0, 0.1):
        plain = cross_entropy(logits, targets, weights, smoothing)
        assert torch.equal(cross_entropy(logits, targets, weights, smoothing, 0.0), plain)
        torch.testing.assert_close(cross_entropy(logits, targets, weights, smoothing, 1e-6), plain, rtol=1e-4, atol=1e-5)


def test_focal_loss_is_the_paper_s_equation() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    labels = [0, 1, 2, 0, 1]
    p = logits.softmax(dim=1)[range(5), labels]
    for gamma in (0.5, 2.0, 5.0):
        expected = (-((1 - p) ** gamma) * p.log()).mean()
        torch.testing.assert_close(cross_entropy(logits, targets_of(labels), torch.ones(3), 0.0, gamma), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_what_is_certain_has_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    found = cross_entropy(logits, targets_of([0, 0]), torch.ones(3), 0.1, gamma)
    found.backward()
    assert torch.isfinite(found) and logits.grad is not None and torch.isfinite(logits.grad).all()


LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("kind", ["none", "balanced", "inverse-sqrt", "effective"])
def test_class_weights_average_to_one_over_the_training_utterances(kind: str) -> None:
    weights = class_weights(Recipe(class_weights=kind), LABELS, 3)  # type: ignore[arg-type]
    assert weights[LABELS].mean() == pytest.approx(1.0, abs=1e-5)
    assert weights.dtype == torch.float32


def test_class_weights_lie_between_none_and_balanced() -> None:
    def ratio(**settings: Any) -> float:
        weights = class_weights(Recipe(**settings), LABELS, 3)
        return float(weights[2] / weights[0])

    assert ratio(class_weights="balanced") == pytest.approx(6.0)
    assert ratio(class_weights="inverse-sqrt") == pytest.approx(6**0.5)
    beta = 0.99
    by_hand = (1 - beta**60) / (1 - beta**10)
    assert ratio(class_weights="effective", class_beta=beta) == pytest.approx(by_hand, rel=1e-5)
    assert ratio(class_weights="effective", class_beta=0.999999) == pytest.approx(6.0, rel=1e-3)
    assert ratio(class_weights="effective", class_beta=1e-6) == pytest.approx(1.0, rel=1e-3)


def test_a_class_without_training_utterances_has_a_finite_weight() -> None:
    for kind in ("balanced", "inverse-sqrt", "effective"):
        assert torch.isfinite(class_weights(Recipe(class_weights=kind), LABELS, 4)).all()  # type: ignore[arg-type]
