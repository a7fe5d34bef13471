"""Which precision a recipe's `auto` stands for on a device.

bfloat16 saves up to half of a training step where the hardware multiplies it, and costs time where it is emulated. A run stores
what it was trained in, never `auto`, so that its numbers can be had again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfser.heads.spec.recipes import Recipe

_NATIVE = {"amx_bf16", "avx512_bf16"}
"""Flags of x86 processors that multiply bfloat16, as Linux names them."""


def settle_precision(recipe: Recipe, device: str) -> Recipe:
    """Return the recipe with `auto` replaced by what the device (`cpu`, `cuda`, `cuda:1` ...) is good at."""
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision="bfloat16" if has_native_bfloat16(device) else "float32")


def has_native_bfloat16(device: str) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware; where that cannot be told, no."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
    cpu = Path("/proc/cpuinfo")
    return device == "cpu" and cpu.exists() and bool(_NATIVE & set(cpu.read_text(encoding="utf-8").split()))
