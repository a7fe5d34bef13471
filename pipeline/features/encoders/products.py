"""x W^T + b, by the faster of torch's two libraries on a CPU.

torch multiplies float32 matrices on CPUs with MKL, which on AMD processors uses half of their vector width at best: oneDNN, which
torch also holds and uses for convolutions and for bfloat16, took 0.4 of MKL's time there for the products of WavLM-Large, and
agrees to rounding (1e-6). It is reached by the operator that torch's own compiler uses, and tried once: where it is
missing or differs, `torch.nn.functional.linear` does the work.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (..., out) of (..., in), a (out, in) weight and an (out,) bias. Without gradients."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_works():
        return _onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


class Linear(nn.Module):
    """A layer of `torch.nn` with the same weights, by `linear`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in)."""
        return linear(x, self.weight, self.bias)


def use_products(model: nn.Module) -> None:
    """Let `linear` do the work of every `torch.nn.Linear` of a model that is only read from now on."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Linear(child))


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operator: Any = torch.ops.mkldnn._linear_pointwise
    result: Tensor = operator(x, weight, bias, "none", [], "")
    return result


@functools.cache
def _onednn_works() -> bool:
    """Tell whether the operator is there and does what `torch.nn.functional.linear` does."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    x = torch.linspace(-1.0, 1.0, 3 * 16).view(1, 3, 16)
    weight, bias = torch.linspace(-2.0, 1.0, 8 * 16).view(8, 16), torch.linspace(0.0, 1.0, 8)
    try:
        with torch.inference_mode():
            return torch.allclose(_onednn(x, weight, bias), functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False
