"""How the threads of numerical libraries wait for each other, settled before the libraries are loaded.

A parallel loop ends when its last thread does. By default the others spin until then, and until the next loop begins: the fastest
way on a machine of one's own. On a shared one a thread that spins takes the core that the last thread, or a neighbour, is waiting
for, and every loop takes as long as the scheduler's slice. Threads that sleep instead cost little where nobody else computes, and
are several times faster where somebody does (docs/log.md).

In: nothing. Out: environment variables of this process, which libraries read once, when they are loaded. Only a program that owns
its process asks for it (the command line, the processes of a sweep), never an importer's; what the user has set is left alone.
"""

from __future__ import annotations

import os
import sys

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""OpenMP's word for it, those by which GNU's and LLVM's (or Intel's) OpenMP are told exactly, and OpenBLAS's: threads without
work spin for 2^4 cycles instead of 2^26."""


def wait_passively() -> bool:
    """Let the threads of libraries that are loaded from now on sleep while they wait; return whether anything was set.

    Nothing is done where the user has set any of the variables, or where torch, which reads them, is loaded already. No number
    depends on it: work is dealt to threads by their number alone.
    """
    if "torch" in sys.modules or any(name in os.environ for name in PASSIVE):
        return False
    os.environ.update(PASSIVE)
    return True
