"""Where the frames of a training are held: in memory, or in their shards, from which they are streamed.

What comes in: how many bytes the frames are, the device, and what was asked for. What goes out: why they are streamed, or that
they are not. Either way a training gives the same numbers (`tfser.pipeline.shards.streamed`), so nothing here is in a run's name.
Nothing here reads a frame.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tfser.manifests.wording import size

SHARE = 0.5
"""Of the memory that this process may use: features that are larger are streamed. The other half is for what training makes
of them, and for the system's own copy of the file."""

FREE_SHARE = 0.8
"""Of the memory that is free now, the system's copies of files included: beyond it, features are streamed."""

GPU_SHARE = 0.6
"""Of a GPU's free memory: the rest is for weights, activations and their gradients."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What was asked of where frames are held."""

    stream: bool | None = None
    """Always, never, or (None) where they do not fit."""
    processes: int = 1
    """How many trainings hold features at once on this machine."""

    def why_streamed(self, need: int, device: str) -> str | None:
        """Return why frames of so many bytes are streamed for a training on a device, for people; None if they are held."""
        if self.stream is not None:
            return "as asked for" if self.stream else None
        total, free = memory_limit(), free_memory()
        if total is not None and need > SHARE * total / self.processes:
            among = f", of which {self.processes} trainings share half" if self.processes > 1 else ""
            return f"their {size(need)} are more than {SHARE:.0%} of {size(total)} of memory{among}"
        if free is not None and need > FREE_SHARE * free:
            return f"their {size(need)} are more than {FREE_SHARE:.0%} of the {size(free)} of memory that are free"
        if device.startswith("cuda"):
            import torch

            spare = torch.cuda.mem_get_info(torch.device(device))[0]
            if need > GPU_SHARE * spare / self.processes:
                return f"their {size(need)} are more than {GPU_SHARE:.0%} of the {size(spare)} that are free on {device}"
        return None


AS_IT_FITS = Holding()


def memory_limit(groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that this process may use: the machine's, or what its container or job is allowed.

    None where the system does not say.
    """
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        return None
    # A job's group may lie anywhere below, and each group above it has a limit, too; in a container the first is its own.
    own = groups
    for part in ("", *_own_group().strip("/").split("/")):
        own /= part
        for name in ("memory.max", "memory.limit_in_bytes", "memory/memory.limit_in_bytes"):
            try:
                text = (own / name).read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                continue
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def _own_group() -> str:
    """Return the path of this process's control group below the root of all, or nothing."""
    try:
        found = re.search(r"^0::(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.M)
    except OSError:
        return ""
    return found[1] if found else ""


def free_memory(info: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes of memory that programs can have now without anything being swapped; None where nobody says."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", info.read_text(encoding="ascii"), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
