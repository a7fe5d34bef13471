"""Metrics against scikit-learn, and what must hold for all of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from tfser.heads.spec.metrics import scores

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
def test_scores_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = scores(true, predicted, 5)
    present = np.unique(true)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recalls = recall_score(true, predicted, labels=range(5), average=None, zero_division=0)
        assert pytest.approx(accuracy_score(true, predicted)) == found.WA
        assert pytest.approx(recalls[present].mean()) == found.UA
        assert pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0)) == found.WF1
        assert found.macro_F1 == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    assert [found.recall[c] for c in present] == pytest.approx(list(recalls[present]))
    assert all(found.recall[c] is None for c in range(5) if c not in present)
    assert found.confusion == tuple(map(tuple, confusion_matrix(true, predicted, labels=range(5)).tolist()))


@given(PAIRS, st.permutations(range(5)))
def test_class_numbers_do_not_matter(pairs: list[tuple[int, int]], names: list[int]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    there = np.array(names)
    first, second = scores(true, predicted, 5), scores(there[true], there[predicted], 5)
    for name in ("WA", "UA", "WF1", "macro_F1"):
        assert getattr(first, name) == pytest.approx(getattr(second, name))


@given(PAIRS)
def test_order_does_not_matter_and_scores_are_shares(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = scores(true, predicted, 5)
    assert scores(true[::-1], predicted[::-1], 5) == found
    assert all(0 <= getattr(found, name) <= 1 for name in ("WA", "UA", "WF1", "macro_F1"))
    perfect = scores(true, true, 5)
    assert (perfect.WA, perfect.UA, perfect.WF1, perfect.macro_F1) == pytest.approx((1, 1, 1, 1))


def test_absent_class_is_left_out_of_ua() -> None:
    assert pytest.approx(0.75) == scores([0, 0, 1], [0, 2, 1], 3).UA


@pytest.mark.parametrize(
    ("true", "predicted", "named"),
    [([], [], "nothing to score"), ([0], [0, 1], "one length"), ([3], [0], "0 to 2"), ([0], [-1], "0 to 2")],
)
def test_what_cannot_be_scored_is_refused(true: list[int], predicted: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        scores(true, predicted, 3)
