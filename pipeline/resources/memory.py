"""The process that computes: its threads, and whether it keeps freed blocks of memory.

By default glibc hands every large block back to the kernel when it is freed and asks for it anew when the next step needs
it. Each fresh page then costs a fault, and on a CPU these faults can take longer than the arithmetic. With kept blocks a
training step of TF-Transformer took 0.88 (float32) and 0.73 (bfloat16) of the time on one machine, and its convolutions a
quarter on another. The price is that the process keeps the most that it ever used.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

from tfser.manifests.options import Option

# The parameters' numbers, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_KEEP_BYTES = 2**31 - 1  # mallopt takes a C int: the most that can be asked for
_GROW_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a process computes; nothing of it changes numbers by more than the rounding of its threads' sums."""

    panel: ClassVar[str] = "Running"
    threads: Annotated[
        int | None, Option("CPU threads; torch's choice if left out, with --jobs the cores shared.", minimum=1)
    ] = None
    keep_memory: Annotated[bool, Option("On Linux CPUs: keep freed memory: faster, for more memory.")] = True

    def prepare(self, device: str) -> bool:
        """Set up this process, before torch allocates anything; return whether freed memory is kept."""
        kept = self.keep_memory and not device.startswith("cuda") and keep_freed_memory()
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return kept


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory instead of returning it to the kernel, for the rest of the process.

    Call it before torch allocates, in a command that trains; a library never calls it for its importer.

    Returns:
        Whether it took: False on anything but Linux with glibc, where nothing is changed.
    """
    if why_not() is not None:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP_BYTES), (_M_TOP_PAD, _GROW_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def why_not() -> str | None:
    """Return why freed memory cannot be kept on this system, None if it can; changes nothing."""
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}, not Linux"
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return "the C library is not glibc"
        _ = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):  # musl knows neither the name nor the function
        return "the C library is not glibc"
    return None
