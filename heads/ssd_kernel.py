"""The fused SSD scan of the mamba-ssm package, if there is one.

Importing `mamba_ssm` runs its ``__init__``, which needs a compiled CUDA extension that the scan itself does not: the scan is
Triton, compiled when it first runs. So only the module that holds it is imported, and an installation without the
extension (built with MAMBA_SKIP_CUDA_BUILD=TRUE, see docs/methods.md) serves as well.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

_NEEDED = ("mamba_ssm", "triton", "einops")


def missing() -> str | None:
    """Return why the kernel cannot be imported, None if it can; says nothing of the device."""
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            return f"the package {name.replace('_', '-')} is not installed (pip install 'tfser[cuda]', see docs/methods.md)"
    try:
        _kernel()
    except Exception as error:  # whatever a half-built package does
        return f"mamba-ssm is installed but does not load ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return None


def fused_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
    """Scan as `tfser.heads.ssd.ssd` does, without D, by the fused kernel; same shapes.

    The kernel wants a power of 2 as the chunk.
    """
    y: Tensor = _kernel()(x, dt.float(), A.float(), B, C, chunk)
    return y


@cache
def _kernel() -> Callable[..., Any]:
    if "mamba_ssm" not in sys.modules:
        spec = importlib.util.find_spec("mamba_ssm")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("mamba_ssm is not a package")
        package = types.ModuleType("mamba_ssm")  # stands for the package without running its __init__
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["mamba_ssm"] = package
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    scan: Callable[..., Any] = mamba_chunk_scan_combined
    return scan
