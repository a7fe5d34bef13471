"""Reading ahead: what a loop takes next is made in a thread while it works on what it has.

What comes in: an iterator. What goes out: its items, in its order, two of them made before they are asked for. Whatever
the iterator draws, it draws in the same order as without a thread, since one thread alone runs it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 1
"""Items that wait to be taken, at most; one more is being made. Batches of all layers have hundreds of megabytes each."""


@dataclass(frozen=True)
class _Ended:
    """What comes after the last item: nothing, or the error that ended the iterator."""

    error: BaseException | None = None


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator that a thread runs; an error of the iterator comes where its item would have.

    Whoever stops early and closes this has the thread ended before that returns.
    """
    # Bounded, so that the thread stays an item ahead and never holds an epoch in memory.
    made: queue.Queue[_Item[T] | _Ended] = queue.Queue(DEPTH)
    leaving = threading.Event()

    def put(item: _Item[T] | _Ended) -> bool:
        """Hand on an item when there is room; return whether somebody still wants it."""
        # Not for ever: whoever waits for room would never notice that the reader has gone.
        while not leaving.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for value in items:
                if not put(_Item(value)):
                    return
            put(_Ended())
        except BaseException as error:  # it is raised again where the items are taken
            put(_Ended(error))

    thread = threading.Thread(target=make, name="tfser reading ahead", daemon=True)
    thread.start()
    try:
        while isinstance(got := made.get(), _Item):
            yield got.value
        if got.error is not None:
            raise got.error
    finally:
        # Joined before this returns: no thread reads a shard that the caller closes next.
        leaving.set()
        thread.join()
