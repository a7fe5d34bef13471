"""Dealing whole groups into folds: of about the same size, or with the same shares of each stratum.

What comes in: how many utterances each group has, of each stratum where there are some. What goes out: the fold of each group,
from 1 on. The same groups are always dealt alike.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from tfser.manifests.errors import TfserError
from tfser.manifests.natural import natural_key


def deal(groups: Mapping[str, int], k: int) -> dict[str, int]:
    """Deal whole groups into k folds of about the same number of utterances; largest first, to the emptiest fold.

    >>> deal({"a": 5, "b": 3, "c": 2, "d": 1}, 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1}

    Raises:
        TfserError: if there are fewer groups than folds.
    """
    if len(groups) < k:
        raise TfserError(f"{len(groups)} groups cannot fill {k} folds; ask for at most {len(groups)}")
    result: dict[str, int] = {}
    emptiest = [(0, fold) for fold in range(1, k + 1)]
    for name in sorted(groups, key=lambda g: (-groups[g], natural_key(g))):
        size, fold = emptiest[0]
        heapq.heapreplace(emptiest, (size + groups[name], fold))
        result[name] = fold
    return result


def deal_strata(groups: Mapping[str, Mapping[str, int]], k: int) -> dict[str, int]:
    """Deal whole groups into k folds such that each stratum is spread over them as evenly as whole groups allow.

    Largest group first, each to the fold where the squared shares of all strata add up to least; of equals, to the smallest one.

    >>> deal_strata({"a": {"low": 4}, "b": {"high": 4}, "c": {"low": 3}, "d": {"high": 3}}, 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1}

    Args:
        groups: how many utterances each has of each stratum.
        k: how many folds.

    Raises:
        TfserError: if there are fewer groups than folds.
    """
    if len(groups) < k:
        raise TfserError(f"{len(groups)} groups cannot fill {k} folds; ask for at most {len(groups)}")
    totals: dict[str, int] = {}
    for counts in groups.values():
        for stratum, n in counts.items():
            totals[stratum] = totals.get(stratum, 0) + n
    filled: list[dict[str, int]] = [{} for _ in range(k)]
    result: dict[str, int] = {}
    for name in sorted(groups, key=lambda g: (-sum(groups[g].values()), natural_key(g))):

        def cost(fold: int, counts: Mapping[str, int] = groups[name]) -> tuple[float, int, int]:
            there = filled[fold]
            added = sum(((there.get(s, 0) + n) ** 2 - there.get(s, 0) ** 2) / totals[s] ** 2 for s, n in counts.items())
            return round(added, 12), sum(there.values()), fold

        fold = min(range(k), key=cost)
        for stratum, n in groups[name].items():
            filled[fold][stratum] = filled[fold].get(stratum, 0) + n
        result[name] = fold + 1
    return result
