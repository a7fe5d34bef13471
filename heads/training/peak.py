"""The most memory that a piece of work takes, beyond what was held before it.

On a GPU torch's allocator counts exactly. On Linux the kernel keeps the high-water mark of a process's resident memory, which can
be put back to the present (`/proc/self/clear_refs`): with a resolution of pages, and some hundred kilobytes of counting error, so
what takes less than a megabyte on a CPU measures as little or nothing. Elsewhere nothing is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_RESET_HIGH_WATER = "5"  # see proc_pid_clear_refs(5)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Run the work once and return the most bytes that it held at a time on the device, beyond those held before.

    What torch and its libraries set up at the first call counts too: run the work before, if it should not. Garbage that is
    collected meanwhile may hide some of it: collect before.

    Returns:
        None where it cannot be measured.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    _return_freed_memory()
    started = _reset_high_water() if device.type == "cpu" else None
    work()
    ended = _high_water()
    return None if started is None or ended is None else max(0, ended - started)


def _return_freed_memory() -> None:
    """Hand freed blocks back to the kernel, where the C library can: else new work would fill them unseen."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water() -> int | None:
    """Put the high-water mark back to what is resident now and return it in bytes; None where the system does not."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_HIGH_WATER, encoding="ascii")
    except OSError:
        return None
    return _high_water()


def _high_water() -> int | None:
    """Return the most bytes that were resident since the mark was put back."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.M)
    return 1024 * int(found[1]) if found else None
