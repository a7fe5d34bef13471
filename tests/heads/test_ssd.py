"""The scan: the chunked form against the recurrence step by step, in values and in gradients.

Errors are relative to the largest number of each tensor of the float64 reference.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tfser.heads.ssd import BACKENDS, Backend, choose_backend, ssd, unavailable
from tfser.manifests.errors import UsageError

NAMES = ("x", "dt", "A", "B", "C", "D")
Inputs = tuple[Tensor, ...]
"""x (b, L, h, p), dt (b, L, h), A (h,), B (b, L, g, n), C (b, L, g, n), D (h,)"""

DECAYS = {  # exponents of 10 of dt |A|: of most frames, and of one frame in ten
    "as Mamba-2 begins": ((-3, 0), (-3, 0)),
    "none to speak of": ((-6, -5), (-6, -5)),
    "of all sizes": ((-6, 4), (-6, 4)),
    "total": ((3, 4), (3, 4)),
    "total at times, else slow": ((-4, -2), (3, 4)),
    "none at times, else total": ((3, 4), (-6, -5)),
}


def make(b: int, L: int, g: int, r: int, p: int, n: int, decays: str = "as Mamba-2 begins", seed: int = 0) -> Inputs:
    """Return float32 inputs: b samples, L frames, g groups of r heads, p numbers a head, states n wide."""
    generator = torch.Generator().manual_seed(seed)
    h = g * r

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=generator)

    most, some = DECAYS[decays]
    exponent = torch.where(uniform(0, 1, b, L, h) < 0.1, uniform(*some, b, L, h), uniform(*most, b, L, h))
    A = -(10 ** uniform(-1, 1, h))
    dt = 10**exponent / -A
    x, B, C, D = (torch.randn(*shape, generator=generator) for shape in ((b, L, h, p), (b, L, g, n), (b, L, g, n), (h,)))
    return x, dt, A, B, C, D


def run(inputs: Inputs, *, backend: Backend = "chunked", dtype: torch.dtype = torch.float64, chunk: int = 64) -> Inputs:
    """Return the output and the gradients of a fixed random sum of it, in float64."""
    leaves = tuple(tensor.to(dtype).requires_grad_() for tensor in inputs)
    y = ssd(*leaves, backend=backend, chunk=chunk)
    assert y.dtype == dtype
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(y, leaves, weights.to(dtype))
    return tuple(tensor.detach().double() for tensor in (y, *grads))


def errors(found: Inputs, expected: Inputs) -> dict[str, float]:
    """Return the largest error of the output and of each gradient; NaN where something is not finite."""
    relative = {}
    for name, mine, true in zip(("y", *NAMES), found, expected, strict=True):
        difference, scale = (mine - true).abs().max().item(), true.abs().max().item()
        relative[name] = difference / scale if scale else difference
    return relative


def assert_agree(found: Inputs, expected: Inputs, tolerance: float) -> None:
    wrong = {name: error for name, error in errors(found, expected).items() if not error <= tolerance}
    assert not wrong, f"more than {tolerance:g} off: {wrong}"


sizes = st.fixed_dictionaries(
    {
        "b": st.integers(1, 2),
        "L": st.integers(1, 400),
        "g": st.sampled_from((1, 2, 4)),
        "r": st.integers(1, 2),
        "p": st.integers(1, 9),
        "n": st.integers(16, 128),
        "decays": st.sampled_from(sorted(DECAYS)),
        "seed": st.integers(0, 2**31),
    }
)
chunks = st.sampled_from((1, 3, 16, 37, 64, 101, 128))


@settings(max_examples=12, deadline=None)
@given(size=sizes, chunk=chunks)
@example(size={"b": 2, "L": 400, "g": 2, "r": 2, "p": 3, "n": 32, "decays": "of all sizes", "seed": 1}, chunk=37)
@example(size={"b": 1, "L": 1, "g": 1, "r": 1, "p": 1, "n": 16, "decays": "as Mamba-2 begins", "seed": 2}, chunk=64)
def test_chunked_is_the_recurrence(size: dict[str, int], chunk: int) -> None:
    """In float64 to 1e-10 and in float32 to 1e-4; any length, any chunk, decays from none to total."""
    inputs = make(**size)  # type: ignore[arg-type]
    expected = run(inputs, backend="reference")
    assert all(tensor.isfinite().all() for tensor in expected)
    assert_agree(run(inputs, chunk=chunk), expected, 1e-10)
    assert_agree(run(inputs, chunk=chunk, dtype=torch.float32), expected, 1e-4)


@pytest.mark.parametrize("decays", sorted(DECAYS))
@pytest.mark.parametrize("L", [64, 65, 150])
def test_decays_of_any_size(decays: str, L: int) -> None:
    inputs = make(2, L, 2, 2, 4, 16, decays)
    expected = run(inputs, backend="reference")
    assert_agree(run(inputs), expected, 1e-10)
    assert_agree(run(inputs, dtype=torch.float32), expected, 1e-4)


