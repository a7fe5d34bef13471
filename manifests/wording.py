"""Values in words: counts, percent, sizes, cells of a table; and as JSON can hold them. Nothing here prints.

In go numbers and values of the catalogue, out come texts. Whoever shows them to a terminal does so by `tfser.manifests.display`.
"""

from __future__ import annotations

import decimal
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of text
    "\u200b\u2028\u2029\ufeff\ud800-\udfff\U000e0000-\U000e007f]"  # line ends, what cannot be seen, halves of characters
)
"""What a terminal would obey, or nobody could see."""


def visible(text: str) -> str:
    r"""Return a text with whatever a terminal would obey, or nobody could see, as an escape.

    >>> print(visible("anger\x1b[2J\n\u202espeaker"))
    anger\x1b[2J\n\u202espeaker
    """
    return UNSAFE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code, short = ord(character), {"\n": r"\n", "\t": r"\t", "\r": r"\r"}.get(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def cell(value: Any, *, exact: bool = False) -> str:
    """Return a value as the text of a cell: numbers with six digits unless `exact`, lists by commas, maps as JSON.

    >>> cell(12345.6789), cell(0.25), cell(["a", "b"]), cell({"a": 0.5}), cell(None)
    ('12345.7', '0.25', 'a, b', '{"a": 0.5}', '')
    """
    if value is None:
        return ""
    if isinstance(value, float) and not exact:
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(v, exact=exact) for v in value)
    if isinstance(value, dict):
        return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; infinite and undefined numbers, which it cannot, become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def count(number: int, thing: str) -> str:
    """Return a number of things in words.

    >>> count(1, "utterance"), count(5531, "utterance")
    ('1 utterance', '5,531 utterances')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def of_classes(classes: Sequence[str]) -> str:
    """Return the classes of a table's heading in words: how many, and the first of many.

    >>> of_classes(["anger", "joy"]), of_classes([str(n) for n in range(200)])[:37]
    ('2 classes (anger, joy)', '200 classes (0, 1, 2, 3, 4, 5, 6, 7, ')
    """
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'} ({listed(classes, 20)})"


def short(number: float) -> str:
    """Return a large number for people, with three digits.

    >>> short(512), short(657_156), short(6_921_030_144)
    ('512', '657 k', '6.92 G')
    """
    unit = 0
    while abs(number) >= 999.5 and unit < 4:
        number, unit = number / 1000, unit + 1
    digits = 0 if not unit or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:.{digits}f} {' kMGT'[unit]}".rstrip()


def size(number: float) -> str:
    """Return a number of bytes for people.

    >>> size(512), size(34_452_728), size(999_960)
    ('512 B', '34.5 MB', '1.0 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.95:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} TB"


def listed(names: Sequence[str], most: int) -> str:
    """Return names by commas, the first few of many.

    >>> listed(["a", "b"], 2), listed(["a", "b", "c", "d"], 2)
    ('a, b', 'a, b and 2 more')
    """
    return ", ".join(names[:most]) + more(len(names) - most)


def ranges(numbers: Iterable[int], *, shortest: int = 2, between: str = ", ") -> str:
    """Return whole numbers in order, so many and more in a row as a range.

    >>> ranges([1, 2, 3, 5]), ranges([0, 1, 7, 8, 9], shortest=3, between=",")
    ('1-3, 5', '0,1,7-9')
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return between.join(f"{run[0]}-{run[-1]}" if len(run) >= shortest else between.join(map(str, run)) for run in runs)


def more(left: int, thing: str = "", *, brackets: bool = False) -> str:
    """Return what stands behind those that are named: how many are left; nothing if none is.

    >>> more(1200), more(1, "utterance", brackets=True), more(2, "utterance"), more(0)
    (' and 1,200 more', ' (and 1 more utterance)', ' and 2 more utterances', '')
    """
    if left <= 0:
        return ""
    words = f"and {left:,} more" + (f" {thing}{'' if left == 1 else 's'}" if thing else "")
    return f" ({words})" if brackets else f" {words}"
