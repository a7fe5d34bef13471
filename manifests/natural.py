"""The order in which people count: speaker 9 before speaker 10."""

from __future__ import annotations

import re


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that takes digits as numbers.

    >>> sorted(["s10", "s9", "S1"], key=natural_key)
    ['S1', 's9', 's10']
    """
    parts = re.findall(r"\d+|\D+", text)
    key = ((0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts)
    return (*key, (-1, 0, text))  # at last as written, so that `S1` and `s1` have an order, too
