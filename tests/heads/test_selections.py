"""Which epoch is reported: each rule against its definition, and that nothing that may be chosen is thrown away."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads.spec.selections import BASE, ORDER_SQL, Keeper, Rule, explain, peeks
from tfser.manifests.errors import UsageError


@dataclass(frozen=True)
class Epoch:
    epoch: int
    test_WA: float | None = None  # noqa: N815
    test_UA: float | None = None  # noqa: N815
    test_loss: float | None = None
    val_WA: float | None = None  # noqa: N815
    val_UA: float | None = None  # noqa: N815
    val_WF1: float | None = None  # noqa: N815


def history(**columns: list[float]) -> list[Epoch]:
    return [
        Epoch(number, **dict(zip(columns, values, strict=True)))
        for number, values in enumerate(zip(*columns.values(), strict=True), start=1)
    ]


SHARES = st.integers(0, 20).map(lambda n: n / 20)
HISTORIES = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=30).map(
    lambda pairs: history(test_WA=[a for a, _ in pairs], test_UA=[b for _, b in pairs])
)


@given(HISTORIES)
def test_the_best_of_the_history_and_the_earliest_of_those(epochs: list[Epoch]) -> None:
    for name, score in (
        ("test-oracle", lambda e: e.test_UA),
        ("test-UA", lambda e: e.test_UA),
        ("test-WA", lambda e: e.test_WA),
        ("test-WA+UA", lambda e: e.test_WA + e.test_UA),
    ):
        chosen = Rule.parse(name).choose(epochs)
        values = [score(e) for e in epochs]
        assert chosen == 1 + values.index(max(values)), name


def test_loss_is_the_lowest() -> None:
    assert Rule.parse("test-loss").choose(history(test_loss=[0.9, 0.4, 0.5, 0.4])) == 2


def test_patience_is_early_stopping() -> None:
    epochs = history(test_loss=[5.0, 4.0, 4.5, 4.5, 3.0, 3.5, 3.5, 3.5, 1.0])
    chosen = {p: Rule.parse(f"test-loss-patience{p}").choose(epochs) for p in (1, 2, 3, 4)}
    assert chosen == {1: 2, 2: 2, 3: 5, 4: 9}


def top5_by_hand(epochs: list[Epoch]) -> int:
    """Counts as the published script does, with sets and a counter."""
    often: dict[int, int] = {}
    for score in ("test_WA", "test_UA"):
        highest = sorted({getattr(e, score) for e in epochs}, reverse=True)[:5]
        for e in epochs:
            often[e.epoch] = often.get(e.epoch, 0) + (getattr(e, score) in highest)
    five = sorted((e for e in often if often[e]), key=lambda e: (-often[e], e))[:5]
    return max(five, key=lambda e: (epochs[e - 1].test_WA + epochs[e - 1].test_UA, -e))  # type: ignore[operator]


@given(HISTORIES)
def test_top5_is_the_published_script_s(epochs: list[Epoch]) -> None:
    assert Rule.parse("test-top5").choose(epochs) == top5_by_hand(epochs)


def test_top5_prefers_what_stands_in_both_lists() -> None:
    """The highest sum belongs to epoch 6, which five epochs with both scores among the five highest leave no place for."""
    epochs = history(
        test_WA=[0.55, 0.56, 0.57, 0.58, 0.59, 1.0],
        test_UA=[0.59, 0.58, 0.575, 0.56, 0.55, 0.50],
    )
    assert Rule.parse("test-WA+UA").choose(epochs) == 6
    # WA: 1.0, 0.59, 0.58, 0.57, 0.56 are epochs 6, 5, 4, 3, 2; UA: epochs 1 to 5. Epochs 2 to 5 stand in both, 1 before 6 in one.
    assert Rule.parse("test-top5").choose(epochs) == 3


NAMES = ["test-WA", "test-WA+UA", "test-top5", "test-UA-patience2"]


@given(HISTORIES)
def test_what_a_rule_chooses_in_the_end_was_kept(epochs: list[Epoch]) -> None:
    keeper: Keeper[str] = Keeper(NAMES)
    for n in range(1, len(epochs) + 1):
        keeper.add(epochs[:n], f"predictions of {n}")
    chosen = keeper.chosen(epochs)
    assert list(chosen) == ["last", "test-oracle", *NAMES]
    for name, epoch in chosen.items():
        assert keeper.kept[epoch] == f"predictions of {epoch}", name
    assert len(keeper.kept) <= 1 + len(NAMES) + len(Rule.parse("test-top5").candidates(epochs))


def test_an_epoch_that_was_passed_over_may_be_chosen_in_the_end() -> None:
    """Epoch 1 has the highest sum, until five epochs with both scores among the five highest leave no place for it."""
    epochs = history(
        test_WA=[1.0, 0.56, 0.59, 0.59, 0.58, 0.57],
        test_UA=[0.5, 0.59, 0.58, 0.57, 0.56, 0.55],
    )
    keeper: Keeper[int] = Keeper(["test-top5"])
    chosen = [keeper.add(epochs[:n], n)["test-top5"] for n in range(1, 7)]
    assert chosen == [1, 1, 1, 1, 1, 3]
    assert keeper.kept[3] == 3


def test_a_side_without_utterances_has_no_selection() -> None:
    keeper: Keeper[None] = Keeper(("val-WF1", "test-WA"))
    epochs = [Epoch(1), Epoch(2)]
    keeper.add(epochs, None)
    assert keeper.chosen(epochs) == {"last": 2}


def test_what_looked_at_the_test_side_is_named_so() -> None:
    for name in (*BASE, "val-WA", "val-WF1", *NAMES):
        rule = None if name == "last" else Rule.parse(name)
        assert peeks(name) == (rule is not None and rule.side == "test")


@pytest.mark.parametrize(
    "name", ["best", "last", "test", "test-", "test-AUC", "train-UA", "test-WA+", "val-loss+UA", "val-UA-patience0", "TEST-WA"]
)
def test_unknown_selections_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown selection"):
        Rule.parse(name)


def test_explanations_call_an_upper_bound_one() -> None:
    said = explain(["last", "val", "val-WF1", "test-oracle", "test-WA", "last"])
    assert said == (
        "last: no epoch chosen. val: chosen on validation utterances, by UA. val-WF1: chosen on validation utterances. "
        "test-oracle, test-WA: chosen on the test fold, an upper bound and no result."
    )
    assert "upper bound" not in explain(["last", "val"])


def test_the_order_in_sql() -> None:
    names = ["test-WA", "val-WF1", "test-UA", "test-oracle", "last", "val"]
    values = ", ".join(f"('{name}')" for name in names)
    found = duckdb.sql(f"SELECT selection FROM (VALUES {values}) t(selection) ORDER BY {ORDER_SQL}").fetchall()
    assert [name for (name,) in found] == ["last", "val", "val-WF1", "test-oracle", "test-UA", "test-WA"]
