"""What C libraries write to their own `stderr` while a file is decoded, kept off the terminal.

In: a block of code that decodes. Out: the same, in silence. Python's own standard error is never touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterator

_hush = threading.Lock()
_hushing = 0
_spoken: int | None = None


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep what C libraries write to their `stderr` off the terminal while a file is decoded.

    libmpg123 comments on every odd file there, into the middle of a progress bar, and libsndfile has no switch for it. What
    matters of that is checked here and told with the file's name. Only C's own stream is turned away, in the process and for the
    time that anybody decodes: Python's standard error, and its progress bars, are another and go on.
    """
    global _hushing, _spoken
    stream = _c_stderr()
    if stream is None:
        yield
        return
    with _hush:
        _hushing += 1
        if _hushing == 1:
            _spoken, stream.value = stream.value, _nowhere()
    try:
        yield
    finally:
        with _hush:
            _hushing -= 1
            if not _hushing:
                stream.value = _spoken


@functools.cache
def _c_stderr() -> ctypes.c_void_p | None:
    """Return the C library's variable `stderr`, where the system has one that can be set."""
    name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
    try:
        stream = ctypes.c_void_p.in_dll(ctypes.CDLL(None), name) if name is not None else None
    except (ValueError, OSError):
        return None
    return stream if stream is not None and _nowhere() is not None else None


@functools.cache
def _nowhere() -> int | None:
    """Return a C stream that forgets what is written to it; it stays open as long as the process lives."""
    fopen = ctypes.CDLL(None).fopen
    fopen.restype, fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    opened: int | None = fopen(os.devnull.encode(), b"w")
    return opened
