"""The fused SSD scan of the mamba-ssm package, if there is one.

Importing `mamba_ssm` runs its ``__init__``, which needs a compiled CUDA extension that the scan itself does not: the scan is
Triton, compiled when it first runs. So only the module that holds it is imported, and an installation without the
extension (built with MAMBA_SKIP_CUDA_BUILD=TRUE, see docs/methods.md) serves as well.

The kernel takes any length, widths, number of groups and strides, and knows no vmap. What comes with time as its fastest axis (a
convolution's output, transposed) is laid out anew once, where the kernel would read it scattered in every tile. Its products of
float32 matrices are TF32 on a GPU (Triton's `tl.dot`), whatever torch's switches say: about 1e-3. It takes decays for differences
of cumulative sums in float32: good to 1e-6 where they are of a size, to 1e-3 where one frame forgets all (dt |A| = 1e4) and
those beside it forget a thousandth.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tfser.heads.models.ssd_tuning import keep_choices
from tfser.manifests.errors import UsageError, first_line

_NEEDED = ("mamba_ssm", "triton", "einops")
_KEEP_TUNING = "TRITON_CACHE_AUTOTUNING"


@cache
def missing() -> str | None:
    """Return why the kernel cannot be imported, None if it can; says nothing of the device. Looked up once."""
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            return f"the package {name.replace('_', '-')} is not installed (pip install '.[cuda]', see docs/methods.md)"
    try:
        _kernel()
    except Exception as error:  # whatever a half-built package does
        return f"mamba-ssm is installed but does not load ({type(error).__name__}: {first_line(error)})"
    return None


def fused_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """Scan as `tfser.heads.models.ssd.ssd` does, without D, by the fused kernel; same shapes.

    The kernel wants a power of 2 as the chunk.

    Raises:
        UsageError: x is in float64, which the kernel does not know.
    """
    if x.dtype == torch.float64:
        raise UsageError("scan=mamba_ssm knows no float64; take scan=chunked")
    x, B, C = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (x, B, C))
    y: Tensor = _kernel()(x, dt.float(), A.float(), B, C, chunk)
    return y


@cache
def _kernel() -> Callable[..., Any]:
    if "mamba_ssm" in sys.modules:
        return _import()
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("mamba_ssm is not a package")
    package = types.ModuleType("mamba_ssm")  # stands for the package without running its __init__
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["mamba_ssm"] = package
    try:
        return _import()
    finally:
        sys.modules.pop("mamba_ssm", None)  # whoever wants the whole package gets it


def _import() -> Callable[..., Any]:
    """Import the module of the scan, with its tuning kept on disk: Triton asks for that while kernels are declared.

    Without it every process tries 110 configurations of 14 kernels again, a quarter of a minute, although all are compiled. What
    Triton does not keep, `tfser.heads.models.ssd_tuning` does.
    """
    asked = os.environ.get(_KEEP_TUNING)
    os.environ.setdefault(_KEEP_TUNING, "1")
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    finally:
        if asked is None:
            del os.environ[_KEEP_TUNING]
    if os.environ.get("TRITON_INTERPRET", "0") in ("", "0") and asked in (None, "1"):
        modules = [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton")]
        keep_choices([value for module in modules for value in vars(module).values()])
    scan: Callable[..., Any] = mamba_chunk_scan_combined
    return scan
