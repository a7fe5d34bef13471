"""Which few cases of a parametrised test stand for all: those that differ most.

In: the places of each case's values on their axes. Out: the places of the chosen cases. Nothing here knows pytest.
"""

from __future__ import annotations

from collections.abc import Sequence


def far_apart(cases: Sequence[tuple[int, ...]], n: int) -> set[int]:
    """Return the places of n cases, each with as many values as can be that none before it has; the first and the last are in.

    >>> sorted(far_apart([(0, 0), (0, 1), (1, 0), (1, 1)], 2))
    [0, 3]
    >>> sorted(far_apart([(0,), (1,), (2,), (3,), (4,)], 3))
    [0, 2, 4]
    """
    kept: list[int] = []
    seen: set[tuple[int, int]] = set()

    def worth(place: int) -> tuple[int, int]:
        new = sum((axis, value) not in seen for axis, value in enumerate(cases[place]))
        return new, min((abs(place - other) for other in kept), default=-place)

    while len(kept) < min(n, len(cases)):
        best = max((place for place in range(len(cases)) if place not in kept), key=worth)
        kept.append(best)
        seen |= set(enumerate(cases[best]))
    return set(kept)
