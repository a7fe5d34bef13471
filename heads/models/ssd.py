"""State-space duality (SSD): the scan of Mamba-2, which TF-Mamba runs over time in both of its domains.

For every head, with a state h of N x P numbers (Eq. 5 of the TF-Mamba paper; Dao and Gu 2024)::

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T        y_t = h_t^T C_t + D x_t

Letters: b samples, L frames, h heads, p numbers a head, g groups (h / g heads share a B and a C), n state width; c
chunks of q frames. The scan runs forward in time only.

Backends, all of the same values and gradients:

* ``reference``: the recurrence, step by step. The specification; slow.
* ``chunked``: matrix products in plain PyTorch, any length, any device. Inside a chunk it is masked attention, between
  chunks a recurrence over c states.
* ``mamba_ssm``: the fused Triton kernel of the mamba-ssm package, on a GPU where it is installed.

Decays are never differences of long cumulative sums in single precision, which lose what is small beside what is
large: see `_Decay`. They are computed in float32 or better under autocast as well.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from tfser.heads.models.ssd_kernel import fused_scan, missing
from tfser.manifests.errors import UsageError, unknown

Backend = Literal["reference", "chunked", "mamba_ssm"]
BACKENDS: tuple[Backend, ...] = ("reference", "chunked", "mamba_ssm")
CHUNK = 64
"""Most frames of a chunk: the fastest, or within noise of it, for state widths of 32 to 128 on CPUs (docs/log.md)."""


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    backend: Backend = "chunked",
    chunk: int = CHUNK,
) -> Tensor:
    """Scan b sequences of L frames.

    Args:
        x: (b, L, h, p) inputs. Their dtype is that of the matrix products and of the result.
        dt: (b, L, h) steps, 0 or more: softplus has been applied. A frame with dt = 0 leaves the state as it is.
        A: (h,) negative.
        B: (b, L, g, n) what writes to the state; g divides h.
        C: (b, L, g, n) what reads from it.
        D: (h,) what passes by the state; None: nothing.
        backend: One of `BACKENDS`; what a device has is said by `unavailable`.
        chunk: Most frames of a chunk; chunks are made as equal as they can be.

    Returns:
        (b, L, h, p)

    Raises:
        UsageError: The backend is not known, or cannot run where x lives.
    """
    # Autocast would round the decays to bfloat16, and exp of their sums over hundreds of frames multiplies that
    # error; the matrix products still run in x's dtype.
    with torch.autocast(x.device.type, enabled=False):
        dt, A = dt.to(_precise(dt)), A.to(_precise(A))
        B, C = B.to(x.dtype), C.to(x.dtype)
        # `chunked` stands first since it is what runs on any machine; the fused kernel is never taken in its
        # place in silence, because a run's name says which one computed it.
        if backend == "chunked":
            y = _chunked(x, dt, A, B, C, chunk)
        elif backend == "reference":
            y = _reference(x, dt, A, B, C)
        elif backend == "mamba_ssm":
            reason = unavailable(backend, x.device)
            if reason is not None:
                raise UsageError(f"scan=mamba_ssm cannot run here: {reason}; take scan=chunked")
            y = fused_scan(x, dt, A, B, C, CHUNK)
        else:
            raise unknown("scan", backend, BACKENDS)
        return y if D is None else torch.addcmul(y, x, D.to(x.dtype)[:, None])


def unavailable(backend: Backend, device: torch.device | str = "cpu") -> str | None:
    """Return why a backend cannot run on a device, None if it can."""
    if backend != "mamba_ssm":
        return None
    if torch.device(device).type != "cuda":
        return "its kernels need an NVIDIA GPU"
    return missing()


def choose_backend(device: torch.device | str) -> Backend:
    """Return the fastest backend that a device has."""
    return "chunked" if unavailable("mamba_ssm", device) else "mamba_ssm"


def _precise(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which decays are computed: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Eq. 5, one frame after another."""
    b, L, h, p = x.shape
    g, n = B.shape[2:]
    state = torch.zeros(b, h, n, p, dtype=_precise(x), device=x.device)
    outputs = []
    for t in range(L):
        B_t = B[:, t].repeat_interleave(h // g, dim=1)  # (b, h, n)
        C_t = C[:, t].repeat_interleave(h // g, dim=1)  # (b, h, n)
        write = B_t[..., None] * (dt[:, t, :, None] * x[:, t])[:, :, None]  # (b, h, n, p)
        state = (dt[:, t] * A).exp()[..., None, None] * state + write
        outputs.append((C_t[..., None] * state).sum(dim=2))  # (b, h, p)
    return torch.stack(outputs, dim=1).to(x.dtype)


def _chunked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    b, L, h, p = x.shape
    g, n = B.shape[2:]
    r = h // g  # heads of a group
    # Chunks as equal as they can be: 130 frames in chunks of 64 would compute 192, in three of 48 they compute
    # 144.
    c = -(-L // chunk)
    q = -(-L // c)  # equal chunks waste the least
    q = min(chunk, q + -q % 8)  # multiples of 8 suit the processors
    # The scan runs forward, so frames after the last one change nothing before them, whatever they hold; dt = 0
    # keeps them finite.
    if short := c * q - L:  # dt = 0 there: nothing decays, nothing is written
        x, B, C = (functional.pad(tensor, (0, 0, 0, 0, 0, short)) for tensor in (x, B, C))
        dt = functional.pad(dt, (0, 0, 0, short))
    a = (dt * A).view(b, c, q, h)
    xdt = (x * dt.to(x.dtype)[..., None]).view(b, c, q, h, p)
    B = B.view(b, c, q, g, n).transpose(2, 3)  # (b, c, g, q, n)
    C = C.view(b, c, q, g, n).transpose(2, 3)  # (b, c, g, q, n)

    # Inside a chunk: attention of C to B, decayed by what lies between. C B^T is shared by the heads of a group.
    scores = C @ B.transpose(-1, -2)  # (b, c, g, q, q)
    decay = _Decay.apply(a.transpose(2, 3)).view(b, c, g, r, q, q)  # type: ignore[no-untyped-call]
    mixing = (decay.to(x.dtype) * scores[:, :, :, None]).view(b, c, h, q, q)
    y: Tensor = (mixing @ xdt.transpose(2, 3)).transpose(2, 3)  # (b, c, q, h, p)
    if c == 1:
        return y.reshape(b, q, h, p)[:, :L]

    # What each chunk writes to the state, decayed to the chunk's end.
    begun = a.cumsum(dim=2)  # (b, c, q, h) log of the decay since the chunk's beginning, this frame's included
    after = functional.pad(a[:, :, 1:], (0, 0, 0, 1))
    left = after.flip(2).cumsum(dim=2).flip(2)  # the same to the chunk's end, this frame's not included
    ends = (xdt[:, :-1] * left[:, :-1].exp().to(x.dtype)[..., None]).view(b, c - 1, q, g, r * p)
    written = B[:, :-1].transpose(-1, -2) @ ends.transpose(2, 3)  # (b, c-1, g, n, r p)

    # The state before each chunk but the first: a recurrence over chunks.
    # The only loop is over c states, L / 64 of them: over all frames it would be as slow as the reference. It
    # adds up in the decays' precision, since a state carries what is small beside what is large.
    whole = begun[:, :-1, -1].exp().view(b, c - 1, g, r, 1).expand(-1, -1, -1, -1, p).reshape(b, c - 1, g, 1, r * p)
    state = written[:, 0].to(whole.dtype)
    states = [state]
    for i in range(1, c - 1):
        state = state * whole[:, i] + written[:, i]
        states.append(state)
    carried = C[:, 1:] @ torch.stack(states, dim=1).to(x.dtype)  # (b, c-1, g, q, r p)
    carried = carried.transpose(2, 3).reshape(b, c - 1, q, h, p) * begun[:, 1:].exp().to(x.dtype)[..., None]
    # Nothing was written before the first chunk; adding zeros there would cost another map of the size of y.
    first, others = y.split_with_sizes([1, c - 1], dim=1)
    y = torch.cat([first, others + carried], dim=1)
    return y.reshape(b, c * q, h, p)[:, :L]


class _Decay(torch.autograd.Function):
    """The decays between the frames of a chunk: (..., q) logs a -> (..., q, q), [t, s] = exp(a_{s+1} + ... + a_t) for s <= t,
    else 0.

    Forward, the sums are differences of cumulative sums in float64, each kept as the sum of two float32 numbers: exact to
    rounding, at the cost of float32. Backward, the gradient of a_k is the sum over the pairs s < k <= t: nothing is subtracted,
    so that where a frame lets nothing pass its gradient is zero, whatever the others' are.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        """Return the decays in a's dtype."""
        total = a.clamp(min=-1000).cumsum(dim=-1, dtype=torch.float64)  # exp(-1000) is 0 in any precision
        high = total.to(a.dtype)
        low = (total - high).to(a.dtype)
        between = high[..., :, None] - high[..., None, :]
        if a.dtype != torch.float64:
            between += low[..., :, None]
            between -= low[..., None, :]
        earlier = torch.ones(between.shape[-2:], dtype=a.dtype, device=a.device).tril()
        return between.mul_(earlier).exp_().mul_(earlier)  # before, lest later frames overflow; after, since exp(0) is 1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the decays for the backward pass."""
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of the logs."""
        (decay,) = ctx.saved_tensors
        # A sum of products and no difference of two sums: a frame with a large step lets nothing pass, and the
        # rounding of what stands on its other side would be larger than the gradient itself.
        across = (grad * decay).cumsum(dim=-1)  # [t, k]: pairs of t and any s up to k
        across.mul_(torch.ones(across.shape[-2:], dtype=grad.dtype, device=grad.device).tril(-1))  # k < t
        return functional.pad(across.sum(dim=-2)[..., :-1], (1, 0))  # what is between them depends on a_{k+1}
