"""What a number is worth, at a glance: the marks that every table puts behind a score, and the sentences that explain them.

In goes a row of any table that says how its epoch was chosen (`selection`), what the audit of its folds said (`audit`) and
whether its test speakers are new to the head (`speakers_kept`, decided by `tfser.manifests.protocols.independence`). Out come
marks:

* † the epoch was chosen by looking at the test side;
* ‡ a fold was trained although its audit failed;
* § test speakers are, or may be, heard in training or validation.

Rows that bear ‡ or § have no interval and no p value over speakers: it would be taken for one of new speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfser.heads.spec.selections import peeks
from tfser.manifests.protocols.independence import NOT_INDEPENDENT, worst

TEST_SIDE, LEAK, HEARD = "†", "‡", "§"

IN_LATEX = {TEST_SIDE: r"$^{\dagger}$", LEAK: r"$^{\ddagger}$", HEARD: r"$^{\S}$"}
"""The marks as LaTeX writes them."""

Row = Mapping[str, Any]

_SHORT = {"broken": "test speakers in training", "unknown": "speakers unknown"}


_AUDITS = ("passed", "gaps", "overridden")
"""What `runs.audit` says, from the best to the worst."""


def mark(row: Row) -> str:
    """Return the marks of a row's numbers.

    >>> mark({"selection": "test-oracle", "audit": "passed", "speakers_kept": "broken"})
    '†§'
    """
    return (
        (TEST_SIDE if peeks(row["selection"]) else "")
        + (LEAK if row["audit"] == "overridden" else "")
        + (HEARD if row["speakers_kept"] != "kept" else "")
    )


def is_independent(row: Row) -> bool:
    """Tell whether a row's scores are of speakers that the head has not heard, so that speakers are units of an interval."""
    return bool(row["speakers_kept"] == "kept" and row["audit"] != "overridden")


def standing(row: Row) -> str:
    """Return what the audit said, and never that it passed alone where the scores are not of new speakers.

    >>> standing({"audit": "passed", "speakers_kept": "unknown"})
    'passed (speakers unknown)'
    """
    worth = _SHORT.get(row["speakers_kept"])
    return f"{row['audit']} ({worth})" if worth else str(row["audit"])


def of_runs(rows: Iterable[Row]) -> dict[str, str]:
    """Return `audit` and `speakers_kept` of several runs together: the worst of each; of none, nothing that is not so."""
    found = list(rows)
    return {
        "audit": max((row["audit"] for row in found), key=_AUDITS.index, default=_AUDITS[0]),
        "speakers_kept": worst(row["speakers_kept"] for row in found) if found else "kept",
    }


def explain_marks(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each mark that the rows bear; where it means two things, with the protocols of each."""
    lines = []
    if any(peeks(row["selection"]) for row in rows):
        lines.append(f"{TEST_SIDE} the epoch was chosen by looking at the test side: an upper bound, and no result")
    if any(row["audit"] == "overridden" for row in rows):
        lines.append(f"{LEAK} LEAKS ALLOWED: a fold was trained although its audit failed (--allow-leaks)")
    if any(row["audit"] == "gaps" for row in rows):
        lines.append("GAPS ALLOWED: a fold lacks something that its protocol has (--allow-gaps); see `tfser audit`")
    found = {kind: [row for row in rows if row["speakers_kept"] == kind] for kind in NOT_INDEPENDENT}
    several = all(found.values())
    for kind, words in NOT_INDEPENDENT.items():
        if found[kind]:
            named = dict.fromkeys(row["protocol"] for row in found[kind] if row.get("protocol")) if several else {}
            where = f"{', '.join(named)}: " if named else ""
            lines.append(f"{HEARD} {where}{words}; no interval over speakers")
    return lines
