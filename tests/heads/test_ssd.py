"""The scan: the chunked form against the recurrence step by step, in values and in gradients.

Errors are relative to the largest number of each tensor of the float64 reference.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tfser.heads.models.ssd import BACKENDS, Backend, _Decay, choose_backend, ssd, unavailable
from tfser.heads.models.ssd_kernel import missing
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


def sizes(longest: int, states: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "b": st.integers(1, 2),
            "L": st.integers(1, longest),
            "g": st.sampled_from((1, 2, 4)),
            "r": st.integers(1, 2),
            "p": st.integers(1, 9),
            "n": st.integers(16, states),
            "decays": st.sampled_from(sorted(DECAYS)),
            "seed": st.integers(0, 2**31),
        }
    )


chunks = st.sampled_from((1, 3, 16, 37, 64, 101, 128))


@settings(max_examples=8)
@given(size=sizes(100, 32), chunk=chunks)
@example(size={"b": 2, "L": 150, "g": 2, "r": 2, "p": 3, "n": 16, "decays": "of all sizes", "seed": 1}, chunk=37)
@example(size={"b": 1, "L": 1, "g": 1, "r": 1, "p": 1, "n": 16, "decays": "as Mamba-2 begins", "seed": 2}, chunk=64)
def test_chunked_is_the_recurrence(size: dict[str, Any], chunk: int) -> None:
    """In float64 to 1e-10 and in float32 to 1e-4; any length, any chunk, decays from none to total."""
    agrees_with_the_recurrence(size, chunk)


@pytest.mark.slow
@settings(max_examples=30)
@given(size=sizes(400, 128), chunk=chunks)
@example(size={"b": 2, "L": 400, "g": 2, "r": 2, "p": 3, "n": 32, "decays": "of all sizes", "seed": 1}, chunk=37)
def test_chunked_is_the_recurrence_at_every_length(size: dict[str, Any], chunk: int) -> None:
    agrees_with_the_recurrence(size, chunk)


def agrees_with_the_recurrence(size: dict[str, Any], chunk: int) -> None:
    inputs = make(**size)
    expected = run(inputs, backend="reference")
    assert all(tensor.isfinite().all() for tensor in expected)
    assert_agree(run(inputs, chunk=chunk), expected, 1e-10)
    assert_agree(run(inputs, chunk=chunk, dtype=torch.float32), expected, 1e-4)


@pytest.mark.few(6)
@pytest.mark.parametrize("decays", sorted(DECAYS))
@pytest.mark.parametrize("L", [64, 65, 150])
def test_decays_of_any_size(decays: str, L: int) -> None:
    inputs = make(2, L, 2, 2, 4, 16, decays)
    expected = run(inputs, backend="reference")
    assert_agree(run(inputs), expected, 1e-10)
    assert_agree(run(inputs, dtype=torch.float32), expected, 1e-4)


def test_one_decay_hides_none_of_those_beside_it() -> None:
    """One frame that forgets all, among frames that forget a thousandth each: decays by differences of float32
    cumulative sums (the usual way, and `naive` here) lose the thousandths, and gradients by differences of row and column
    sums give the first frame what is left over of the others'."""
    inputs = make(1, 60, 1, 2, 4, 16, "none to speak of")
    dt, A = torch.full((1, 60, 2), 1e-3), torch.tensor([-1.0, -2.0])
    dt[:, 10] = 1e4
    inputs = (inputs[0], dt, A, *inputs[3:])
    expected = run(inputs, backend="reference")
    assert_agree(run(inputs, dtype=torch.float32), expected, 1e-5)

    def naive(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        total = (dt * A).cumsum(dim=1).transpose(1, 2)  # (b, h, L)
        later = torch.ones(60, 60, dtype=torch.bool).triu(1)
        decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()  # (b, h, L, L)
        mixing = decay * (C.transpose(1, 2) @ B.permute(0, 2, 3, 1))  # (b, h, L, L)
        return (mixing @ (x * dt[..., None]).transpose(1, 2)).transpose(1, 2) + x * D[:, None]

    leaves = tuple(tensor.clone().requires_grad_() for tensor in inputs)
    weights = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = naive(*leaves)
    lost = errors((y.detach().double(), *(g.double() for g in torch.autograd.grad(y, leaves, weights.float()))), expected)
    assert lost["A"] > 1e-2, "this case no longer shows what it is here for"


@pytest.mark.parametrize("decay", [1e6, 1e30])
def test_a_frame_may_forget_everything(decay: float) -> None:
    """The decays after it are as exact as ever."""
    x, dt, A, B, C, D = make(1, 100, 1, 2, 3, 16)
    dt[:, 40] = decay
    x[:, 40] = 0
    expected = run((x, dt, A, B, C, D), backend="reference")
    assert_agree(run((x, dt, A, B, C, D)), expected, 1e-10)
    assert_agree(run((x, dt, A, B, C, D), dtype=torch.float32), expected, 1e-4)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("A", [-1e10, -1e30])
def test_a_head_may_remember_nothing(A: float, backend: Backend) -> None:
    x, dt, _, B, C, D = (tensor.requires_grad_() for tensor in make(1, 100, 1, 2, 3, 16))
    y = ssd(x, dt, torch.tensor([A, A]), B, C, D, backend=backend)
    torch.testing.assert_close(y, x * (dt * (B * C).sum(dim=-1) + D)[..., None])
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.square().sum(), (x, dt, B, C, D)))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_later_frames_change_nothing_before_them(backend: Backend) -> None:
    x, dt, A, B, C, D = make(2, 150, 2, 2, 4, 16)
    length = 70
    others = make(2, 150, 2, 2, 4, 16, "of all sizes", seed=7)
    pairs = zip((x, dt, B, C), (others[0], others[1], others[3], others[4]), strict=True)
    mixed = [torch.cat([mine[:, :length], 1e3 * theirs[:, length:]], dim=1) for mine, theirs in pairs]
    expected = ssd(x, dt, A, B, C, D, backend=backend)[:, :length]
    torch.testing.assert_close(ssd(mixed[0], mixed[1], A, mixed[2], mixed[3], D, backend=backend)[:, :length], expected)
    leaves = [tensor.requires_grad_() for tensor in mixed]
    y = ssd(leaves[0], leaves[1], A, leaves[2], leaves[3], D, backend=backend)
    for grad in torch.autograd.grad(y[:, :length].square().sum(), leaves):
        assert (grad[:, length:] == 0).all()


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_frames_without_a_step_carry_the_state(backend: Backend) -> None:
    x, dt, A, B, C, D = (tensor.double() for tensor in make(2, 90, 1, 3, 4, 16))
    at, more = 33, 50
    filled = [torch.cat([t[:, :at], torch.randn_like(t[:, :more]), t[:, at:]], dim=1) for t in (x, dt, B, C)]
    filled[1][:, at : at + more] = 0
    y = ssd(filled[0], filled[1], A, filled[2], filled[3], D, backend=backend)
    y = torch.cat([y[:, :at], y[:, at + more :]], dim=1)
    torch.testing.assert_close(y, ssd(x, dt, A, B, C, D, backend=backend), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_batch_mates_change_nothing(backend: Backend) -> None:
    x, dt, A, B, C, D = make(3, 100, 2, 1, 4, 16, "of all sizes")
    together = ssd(x, dt, A, B, C, D, backend=backend)
    for i in range(3):
        alone = ssd(x[i : i + 1], dt[i : i + 1], A, B[i : i + 1], C[i : i + 1], D, backend=backend)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_views_into_one_tensor_do(backend: Backend) -> None:
    """The head splits one projection into x, B and C: no tensor is contiguous."""
    h, p, g, n = 4, 6, 2, 16
    _, dt, A, _, _, _ = make(2, 75, g, h // g, p, n)
    joint = torch.randn(2, 75, h * p + 2 * g * n)
    x, B, C = joint.split_with_sizes((h * p, g * n, g * n), dim=-1)
    x, B, C = x.unflatten(-1, (h, p)), B.unflatten(-1, (g, n)), C.unflatten(-1, (g, n))
    found = ssd(x, dt.transpose(0, 1).contiguous().transpose(0, 1), A, B, C, backend=backend)
    torch.testing.assert_close(found, ssd(x.contiguous(), dt, A, B.contiguous(), C.contiguous(), backend=backend))


@pytest.mark.parametrize("L", [60, 150])
def test_half_precision_leaves_decays_alone(L: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast x, B and C come in bfloat16: values and gradients within its rounding, the decays in float32."""
    seen = []

    def apply(logs: Tensor) -> Tensor:
        seen.append(logs.dtype)
        decays: Tensor = true_apply(logs)
        return decays

    true_apply = _Decay.apply
    monkeypatch.setattr(_Decay, "apply", apply)
    x, dt, A, B, C, D = make(2, L, 1, 4, 8, 32)
    dt[:, 0] = 50 / -A
    dt[:, 1:] = 0.01 / -A
    expected = run((x, dt, A, B, C, D), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        leaves = tuple(tensor.clone().requires_grad_() for tensor in (x, dt, A, B, C, D))
        half = [leaves[i].to(torch.bfloat16) for i in (0, 3, 4)]
        y = ssd(half[0], leaves[1], leaves[2], half[1], half[2], leaves[5])
        assert y.dtype == torch.bfloat16
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(y, leaves, weights.to(y.dtype))
    assert [grad.dtype for grad in grads] == [torch.float32] * 6
    assert seen == [torch.float32]
    assert_agree((y.detach().double(), *(grad.double() for grad in grads)), expected, 0.02)


def test_autocast_changes_nothing_of_single_precision() -> None:
    inputs = make(1, 100, 1, 2, 4, 16)
    expected = ssd(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssd(*inputs), expected)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_vmap_stacks_scans(backend: Backend) -> None:
    """Folds are trained side by side by mapping over a leading dimension: values and gradients are each one's own."""
    stacked = tuple(torch.stack(tensors) for tensors in zip(*(make(2, 70, 2, 2, 3, 16, seed=i) for i in range(3)), strict=True))
    scan = partial(ssd, backend=backend, chunk=16)

    def loss(*inputs: Tensor) -> Tensor:
        return scan(*inputs).square().sum()

    grad = torch.func.grad(loss, argnums=tuple(range(6)))
    found = (torch.func.vmap(scan)(*stacked), *torch.func.vmap(grad)(*stacked))
    alone = [(scan(*inputs), *grad(*inputs)) for inputs in zip(*stacked, strict=True)]
    for mine, theirs in zip(found, (torch.stack(tensors) for tensors in zip(*alone, strict=True)), strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("argument", range(6))
def test_vmap_over_one_input(argument: int) -> None:
    inputs = make(1, 40, 1, 2, 3, 16)
    two = torch.stack([inputs[argument], 2 * inputs[argument]])
    dims = tuple(0 if i == argument else None for i in range(6))
    found = torch.func.vmap(partial(ssd, chunk=16), in_dims=dims)(*inputs[:argument], two, *inputs[argument + 1 :])
    for mine, changed in zip(found, two, strict=True):
        torch.testing.assert_close(mine, ssd(*inputs[:argument], changed, *inputs[argument + 1 :], chunk=16))


def test_without_d_nothing_passes_by() -> None:
    x, dt, A, B, C, _ = make(1, 20, 1, 2, 3, 16)
    torch.testing.assert_close(ssd(x, dt, A, B, C), ssd(x, dt, A, B, C, torch.zeros(2)))


def test_an_unknown_backend_is_refused() -> None:
    expected = r"^unknown scan 'chunky'; did you mean 'chunked'\? Known: chunked, mamba_ssm, reference$"
    with pytest.raises(UsageError, match=expected):
        ssd(*make(1, 5, 1, 1, 2, 16), backend="chunky")  # type: ignore[arg-type]


def test_the_fused_kernel_is_refused_without_a_gpu() -> None:
    with pytest.raises(UsageError, match=r"^scan=mamba_ssm cannot run here: .*GPU; take scan=chunked$"):
        ssd(*make(1, 5, 1, 1, 2, 16), backend="mamba_ssm")


def test_the_processor_has_the_chunked_form() -> None:
    assert choose_backend("cpu") == "chunked"
    assert [backend for backend in BACKENDS if unavailable(backend) is None] == ["reference", "chunked"]


@pytest.fixture
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each kernel have its smallest configuration: any is right, and to compile and try all for each width takes minutes."""

    def size(config: Any) -> int:  # the largest ones have no room for float32
        return math.prod(value for name, value in config.kwargs.items() if name.startswith("BLOCK")) * config.num_stages

    if missing() is None:
        for module in [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton")]:
            for kernel in vars(module).values():
                if hasattr(kernel, "base_fn") and hasattr(kernel, "configs"):
                    monkeypatch.setattr(kernel, "configs", [min(kernel.configs, key=size)])


@pytest.mark.gpu
@pytest.mark.usefixtures("untuned")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("size", [(4, 326, 1, 16, 64, 64), (2, 130, 2, 2, 12, 32), (1, 1, 1, 2, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gpu_agrees(backend: Backend, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    """With the recurrence in float64: the fused kernel multiplies float32 as TF32; bfloat16 keeps 8 bits."""
    if (reason := unavailable(backend, "cuda")) is not None:
        pytest.skip(f"{backend}: {reason}")
    inputs = tuple(tensor.to(dtype) if i in (0, 3, 4) else tensor for i, tensor in enumerate(make(*size)))
    expected = run(inputs, backend="reference")
    leaves = tuple(tensor.cuda().requires_grad_() for tensor in inputs)
    y = ssd(*leaves, backend=backend)
    assert y.dtype == dtype
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(y, leaves, weights.to(y))
    found = tuple(tensor.detach().double().cpu() for tensor in (y, *grads))
    tolerance = 0.05 if dtype == torch.bfloat16 else 0.01 if backend == "mamba_ssm" else 1e-4
    assert_agree(found, expected, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_gpu_takes_the_fused_kernel_if_it_is_there() -> None:
    assert choose_backend("cuda") == ("chunked" if unavailable("mamba_ssm", "cuda") else "mamba_ssm")
