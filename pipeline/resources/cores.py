"""How many cores there are for this process: the one answer for threads that decode, copy and train."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many cores this process may use: those that it is bound to, where the system says so.

    In a container or under a scheduler these are fewer than the machine has, and threads beyond them only wait for each other.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
