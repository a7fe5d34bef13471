"""Published scores beside ours: what others print for the same corpus and task, sorted by whether it may be compared.

In goes a corpus (as its reader is called), a protocol and the number of its classes, or the dimensions that are learned; out come
rows of `reference_numbers.csv`, which ships with the package, one a system, in three groups:

* `same protocol`: the same utterances are tested by heads that were trained on the same ones;
* `other protocol`: other folds, other utterances or other classes' sides; whether speakers are apart is said of each;
* `speakers shared`: test speakers are heard in training, so that the number is none of new speakers.

Every row of the file names where it was read; a number from memory is not in it. The audits' own verdict on a split stands over
what its publishers say. Nothing here says that two numbers compare: encoders, heads and the choice of epochs differ, and stand
beside each number.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tfser.manifests.protocols.listed import published_lists

GROUPS = ("same protocol", "other protocol", "speakers shared")
EXPLAINED = {
    "same protocol": "the same utterances tested by heads trained on the same ones",
    "other protocol": "other folds or utterances: no number of the same test",
    "speakers shared": "test speakers are heard in training: no number of new speakers",
}
"""What a group is, in words."""

METRICS = ("UA", "WA", "macro_F1")
"""The scores of a row that a table shows; the file has others, of other tasks."""

RATED_METRICS = ("CCC",)
"""The same of dimensions, a row a dimension; values are from -1 to 1."""

_SAME = {"iemocap4-session": "emobox:iemocap", "s3prl:iemocap": "emobox:iemocap"}
"""Protocols whose rows are those of a published list under another name (a test compares them)."""

_LIST_OF = {"EmoBox partition": "emobox"}
"""Whose split the file means by its name of a protocol."""


@dataclass(frozen=True, kw_only=True)
class ReferenceNumber:
    """One published figure, as the file has it; `value` is in `unit`: %, 0-1 or -1..1."""

    corpus: str
    task: str
    classes: int | None
    protocol: str
    speakers: str
    speakers_in_words: str
    encoder: str
    training: str
    metric: str
    value: float
    unit: str
    note: str
    source: str

    @property
    def share(self) -> float:
        """The value as a share of 1."""
        return self.value / 100 if self.unit == "%" else self.value


@functools.cache
def reference_numbers() -> tuple[ReferenceNumber, ...]:
    """Return all published figures, in the order of the file."""
    text = resources.files("tfser.heads.results").joinpath("reference_numbers.csv").read_text(encoding="utf-8")
    found = []
    for row in csv.DictReader(text.splitlines()):
        told: dict[str, Any] = {**row, "classes": int(row["classes"]) if row["classes"] else None, "value": float(row["value"])}
        found.append(ReferenceNumber(**told))
    return tuple(found)


def published_beside(corpus: str, protocol: str, classes: int | None = None) -> list[dict[str, Any]]:
    """Return the published rows of a corpus and of classification, best UA first within each of the GROUPS.

    Args:
        corpus: as its reader is called (`corpora.adapter`): emodb, crema_d, iemocap.
        protocol: ours, by its canonical name.
        classes: how many ours has; rows of another number are left out; None: all.

    Returns:
        Rows with group, encoder, training, UA, WA and macro_F1 (shares of 1, or None), protocol, speakers (kept, broken or
        unknown), speakers_in_words, classes, note and source.
    """
    systems: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number in reference_numbers():
        same_task = number.task == "categorical" and (classes is None or number.classes in (None, classes))
        if number.corpus != corpus or not same_task or number.metric not in METRICS:
            continue
        key = (number.protocol, number.encoder, number.training, number.note)
        row = systems.setdefault(
            key,
            {
                "group": _group(number, protocol),
                "encoder": number.encoder,
                "training": number.training,
                **dict.fromkeys(METRICS),
                "protocol": number.protocol,
                "classes": number.classes,
                "speakers": number.speakers,
                "speakers_in_words": number.speakers_in_words,
                "note": number.note,
                "source": number.source,
            },
        )
        row[number.metric] = number.share
    return sorted(systems.values(), key=lambda row: (GROUPS.index(row["group"]), -(row["UA"] or row["WA"] or 0), row["encoder"]))


def ratings_beside(corpus: str, protocol: str, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the published rows of a corpus and of some dimensions, best CCC first within each of the GROUPS.

    Args:
        corpus: as its reader is called (`corpora.adapter`).
        protocol: ours, by its canonical name.
        targets: dimensions.

    Returns:
        Rows as of `published_beside`, with dimension and CCC in the place of classes and their scores.
    """
    table = [
        {
            "group": _group(number, protocol),
            "dimension": number.task,
            "encoder": number.encoder,
            "training": number.training,
            "CCC": number.share,
            "protocol": number.protocol,
            "speakers": number.speakers,
            "speakers_in_words": number.speakers_in_words,
            "note": number.note,
            "source": number.source,
        }
        for number in reference_numbers()
        if number.corpus == corpus and number.task in targets and number.metric in RATED_METRICS
    ]
    order = [*targets]
    return sorted(table, key=lambda row: (GROUPS.index(row["group"]), order.index(row["dimension"]), -row["CCC"], row["encoder"]))


def _group(number: ReferenceNumber, protocol: str) -> str:
    """Return the group of a figure beside our protocol."""
    # Who validates changes neither what is tested nor, beyond its own part, what trains; nor does it what is learned.
    ours = protocol.partition("/")[0].partition("@rated:")[0]
    ours = _SAME.get(ours, ours)
    theirs = f"{_LIST_OF.get(number.protocol, '')}:{number.corpus}"
    if theirs in published_lists() and ours == theirs:
        return GROUPS[0]
    return GROUPS[2] if number.speakers == "broken" else GROUPS[1]


def beside_scores(table: Sequence[dict[str, Any]], readers: dict[str, str]) -> list[dict[str, Any]]:
    """Return the published rows beside each corpus, protocol and set of classes, or of dimensions, of a table of scores.

    Args:
        table: rows with corpus, protocol and classes (`score_tables.table`), or targets (`dimension_tables.dimension_table`).
        readers: what each corpus of the cache is read by (`corpora.adapter`), by its name there.
    """
    result: list[dict[str, Any]] = []
    for corpus, protocol, targets in dict.fromkeys(
        (row["corpus"], row["protocol"], tuple(row.get("targets") or ())) for row in table if row.get("targets")
    ):
        theirs = ratings_beside(readers.get(corpus, corpus), protocol, targets)
        result += [{"of": corpus, "beside": protocol, **row} for row in theirs]
    of_classes = [row for row in table if not row.get("targets")]
    asked = dict.fromkeys((row["corpus"], row["protocol"], len(row["classes"] or ())) for row in of_classes)
    for corpus, protocol, n in asked:
        theirs = published_beside(readers.get(corpus, corpus), protocol, n or None)
        result += [{"of": corpus, "beside": protocol, **row} for row in theirs]
    return result
