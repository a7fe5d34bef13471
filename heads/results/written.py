"""How a score is written for people: in percent, with one decimal, its deviation, its interval, and its marks behind it.

In: shares of 1 (`tfser.heads.results.scores`) and the marks of their row. Out: texts as "62.1 ± 3.4†". Every table, note and
line of progress writes its scores here, so that none forgets the marks or rounds in another way.
"""

from __future__ import annotations


def score_text(
    value: float | None,
    deviation: float | None = None,
    marks: str = "",
    *,
    sign: str = "",
    unit: str = "",
    empty: str = "",
    scale: float = 100,
) -> str:
    """Return a score, or the difference of two, with its deviation and marks.

    >>> score_text(0.621, 0.034, "†"), score_text(0.5), score_text(None, empty="-"), score_text(0.014, sign="+", unit="%")
    ('62.1 ± 3.4†', '50.0', '-', '+1.4%')

    Args:
        value: a share; None: there is none, which is written as `empty`.
        deviation: the sample standard deviation over folds and seeds; None: of one score there is none.
        marks: what the number is worth (`tfser.heads.results.marks`).
        sign: "+" for differences.
        unit: between the number and its marks.
        empty: what stands for no score.
        scale: 1 for a value that is in percent already.
    """
    if value is None:
        return empty
    spread = "" if deviation is None else f" ± {scale * deviation:.1f}"
    return f"{scale * value:{sign}.1f}{spread}{unit}{marks}"


def interval_text(value: float | None, low: float | None, high: float | None, marks: str = "", *, sign: str = "") -> str:
    """Return a score with its interval; without bounds, the score alone.

    >>> interval_text(0.621, 0.58, 0.66, "§"), interval_text(0.621, None, None), interval_text(0.02, -0.01, 0.05, sign="+")
    ('62.1§ [58.0, 66.0]', '62.1', '+2.0 [-1.0, +5.0]')
    """
    text = score_text(value, None, marks, sign=sign)
    return text if low is None or high is None else f"{text} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def range_text(low: float | None, high: float | None, marks: str = "", *, digits: int = 1) -> str:
    """Return two bounds; nothing where they are not known.

    >>> range_text(0.58, 0.66), range_text(0.58, 0.66, "†", digits=0), range_text(None, None)
    ('58.0 to 66.0', '58 to 66†', '')
    """
    return "" if low is None or high is None else f"{100 * low:.{digits}f} to {100 * high:.{digits}f}{marks}"


def number_text(
    value: float | None, deviation: float | None = None, marks: str = "", *, sign: str = "", empty: str = "", digits: int = 3
) -> str:
    """Return a score that is no share, with its deviation and marks.

    >>> number_text(0.4567, 0.02, "†"), number_text(None, empty="-"), number_text(0.1, sign="+")
    ('0.457 ± 0.020†', '-', '+0.100')
    """
    if value is None:
        return empty
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{value:{sign}.{digits}f}{spread}{marks}"


def bounds_text(value: float | None, low: float | None, high: float | None, marks: str = "", *, sign: str = "") -> str:
    """Return a score with its interval; without bounds, the score alone.

    >>> bounds_text(0.46, 0.4, 0.52), bounds_text(0.46, None, None, "§")
    ('0.460 [0.400, 0.520]', '0.460§')
    """
    text = number_text(value, None, marks, sign=sign)
    return text if low is None or high is None else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"
