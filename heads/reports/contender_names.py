"""What the experiments of a report are called: their head, and as little else as tells each from the others.

In go rows of the table of scores, and the names that people gave; out come names, no two alike. A name that somebody gave stands
before the head. What all namesakes share is in none of their names, so that a
name is short enough for a figure; where nothing that can be said tells two apart, the end of their ids does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOLD_BY = ("preset", "recipe", "feature_set", "corpus", "protocol", "differs")
"""The columns that tell experiments apart, in the order in which they are asked."""

_DIGEST = re.compile(r".*-([0-9a-f]{10})")


def contender_names(experiments: Sequence[Mapping[str, Any]], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the name of each experiment by its id.

    Args:
        experiments: rows of the table of scores.
        given: by id, what somebody called an experiment (`tfser runs name`).

    >>> plain = {"head": "svm", "preset": "rbf", "feature_set": "logmel", "corpus": "c", "protocol": "p", "differs": None}
    >>> rows = [{"experiment": "a", "recipe": "r+lr=1+x=2", **plain}, {"experiment": "b", "recipe": "r+x=2", **plain}]
    >>> contender_names([*rows, {"experiment": "c", "recipe": "r", **plain, "head": "logreg"}])
    {'a': 'svm lr=1', 'b': 'svm r', 'c': 'logreg'}
    >>> contender_names([{"experiment": "a", "recipe": "r", **plain}, {"experiment": "b", "recipe": "r", **plain}], {"a": "mine"})
    {'a': 'mine (svm)', 'b': 'svm'}
    """
    names = {row["experiment"]: _called(str(row["head"]), (given or {}).get(row["experiment"])) for row in experiments}
    for column in _TOLD_BY:
        for namesakes in _namesakes(experiments, names):
            values = [str(row[column] or "") for row in namesakes]
            if len(set(values)) > 1:
                for row, words in zip(namesakes, _without_shared(values), strict=True):
                    names[row["experiment"]] = f"{names[row['experiment']]} {words}".strip()
    for namesakes in _namesakes(experiments, names):
        for row in namesakes:
            digest = _DIGEST.fullmatch(row["experiment"])
            names[row["experiment"]] += f" {digest[1] if digest else row['experiment']}"
    return names


def _called(head: str, given: str | None) -> str:
    """Return what an experiment is called before it is told from its namesakes."""
    if given is None:
        return head
    return given if head in given else f"{given} ({head})"


def _namesakes(experiments: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[list[Mapping[str, Any]]]:
    """Return the experiments that share a name, together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in experiments:
        groups.setdefault(names[row["experiment"]], []).append(row)
    return [members for members in groups.values() if len(members) > 1]


def _without_shared(values: Sequence[str]) -> list[str]:
    """Return texts of parts joined by `+` without the parts that all of them have; what is left with none keeps its first.

    Where that would make two alike which are not (parts in another order), they stay whole.
    """
    parts = [value.split("+") for value in values]
    shared = set(parts[0]).intersection(*parts[1:])
    shorter = ["+".join(part for part in of if part not in shared) or of[0] for of in parts]
    return shorter if len(set(shorter)) == len(set(values)) else list(values)
