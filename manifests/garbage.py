"""How often the interpreter looks for garbage: seldom, while a command makes many objects that live as long as it does.

Nothing comes in or goes out. A page's figures are some hundred thousand objects, and to go through all of them again and again
takes a twentieth of the time that it takes to draw them. Garbage in circles is still found, later.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 200_000
"""Objects that are made before it is looked for: those of about ten figures, some tens of megabytes."""


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Within, garbage is looked for after so many new objects as a page's figures are, and afterwards as it was before.

    What was made within is old at the end: it is gone through with all that is old, not at once.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _YOUNG), *before[1:])
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.set_threshold(*before)
