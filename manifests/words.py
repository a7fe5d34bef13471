"""Lists in words, for messages and notes: the first few, and how many more there are.

In: names, and how many are shown. Out: texts as "a, b and 3 more". Whoever needs them imports no terminal library for it.
"""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int) -> str:
    """Return names by commas, the first few of many.

    >>> listed(["a", "b"], 2), listed(["a", "b", "c", "d"], 2)
    ('a, b', 'a, b and 2 more')
    """
    return ", ".join(names[:most]) + more(len(names) - most)


def more(left: int, thing: str = "", *, brackets: bool = False) -> str:
    """Return what stands behind those that are named: how many are left; nothing if none is.

    >>> more(1200), more(1, "utterance", brackets=True), more(2, "utterance"), more(0)
    (' and 1,200 more', ' (and 1 more utterance)', ' and 2 more utterances', '')
    """
    if left <= 0:
        return ""
    words = f"and {left:,} more" + (f" {thing}{'' if left == 1 else 's'}" if thing else "")
    return f" ({words})" if brackets else f" {words}"
