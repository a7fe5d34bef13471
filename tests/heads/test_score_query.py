"""The one query of scores against plain arithmetic, and that nothing asks or writes scores beside it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads.results.scores import Spread, scores_of_runs, scores_of_seeds, selections_of, shown_selection
from tfser.heads.results.written import interval_text, range_text, score_text
from tfser.heads.training.baselines import SVM
from tfser.manifests.catalogue.build import create
from tfser.manifests.connections import Connection, open_memory

HEADS = Path(__file__).parents[2] / "heads"
UA = {("a", 0, 1): 0.5, ("a", 0, 2): 0.7, ("a", 1, 1): 0.4, ("b", 0, 1): 0.9}
AUDIT = {"a": "overridden", "b": "passed"}


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    """Two experiments: one of two folds and two seeds, of which one run is missing; one run, selected in two ways."""
    with contextlib.closing(open_memory()) as opened:
        create(opened)
        for (name, seed, fold), value in UA.items():
            run = f"{name}-f{fold}-s{seed}"
            opened.execute(
                "INSERT INTO runs BY NAME SELECT ? AS run_id, ? AS experiment, ?::INTEGER AS seed, ?::INTEGER AS fold, "
                "? AS audit, 'kept' AS speakers_kept, 1.5 AS seconds, 'toy' AS corpus, 'p' AS protocol",
                [run, name, seed, fold, AUDIT[name]],
            )
            for selection in ("last", "test-oracle") if name == "b" else ("last",):
                for level in ("utterance", "segment"):
                    opened.execute(
                        "INSERT INTO metrics BY NAME SELECT ? AS run_id, ?::INTEGER AS fold, ? AS selection, 7 AS epoch, "
                        "? AS level, unnest(['UA', 'WA']) AS metric, NULL AS class, unnest([?, ?]) AS value",
                        [run, fold, selection, level, value, value / 2],
                    )
            opened.execute(
                "INSERT INTO confusion BY NAME SELECT ? AS run_id, ?::INTEGER AS fold, 'last' AS selection, "
                "'utterance' AS level, 'x' AS label, unnest(['x', 'y']) AS predicted, unnest([3, 5]) AS count",
                [run, fold],
            )
        yield opened


def test_a_run_has_a_row_a_selection(connection: Connection) -> None:
    found = scores_of_runs(connection)
    assert [(of.experiment, of.selection, of.seed, of.fold, of.UA) for of in found] == [
        ("a", "last", 0, 1, 0.5),
        ("a", "last", 0, 2, 0.7),
        ("a", "last", 1, 1, 0.4),
        ("b", "last", 0, 1, 0.9),
        ("b", "test-oracle", 0, 1, 0.9),
    ]
    assert [(of.WA, of.WF1, of.n, of.hits, of.epoch) for of in found[:1]] == [(0.25, None, 8, 3, 7)]
    assert [of.marks for of in found] == ["‡", "‡", "‡", "", "†"]


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        ({"runs": ["b-f1-s0"]}, 2),
        ({"runs": []}, 0),
        ({"experiments": ["a"]}, 3),
        ({"experiments": ["a"], "seeds": [0]}, 2),
        ({"experiments": ["a"], "seeds": [0], "folds": (2,)}, 1),
        ({"selection": "test-oracle"}, 1),
        ({"selection": "val"}, 0),
        ({"segments": True}, 10),
    ],
)
def test_what_is_asked_for_narrows(connection: Connection, asked: dict[str, object], runs: int) -> None:
    assert len(scores_of_runs(connection, **asked)) == runs  # type: ignore[arg-type]


def test_seeds_are_means_over_their_folds(connection: Connection) -> None:
    found = scores_of_seeds(connection, experiments=["a"])
    assert [(of.seed, of.folds, of.UA, of.pooled_WA, of.audit, of.seconds) for of in found] == [
        (0, 2, pytest.approx(0.6), 3 / 8, "overridden", 3.0),
        (1, 1, 0.4, 3 / 8, "overridden", 1.5),
    ]
    assert [of.UA_std for of in found] == [pytest.approx(stdev([0.5, 0.7])), None]
    assert len(scores_of_seeds(connection, selection="test-oracle", segments=True)) == 2


def test_selections_are_listed_by_name(connection: Connection) -> None:
    assert selections_of(connection, ["a"]) == ["last"]
    assert selections_of(connection, ["a", "b"]) == ["last", "test-oracle"]


def test_a_head_that_is_fitted_at_once_stands_for_any_selection() -> None:
    assert shown_selection(SVM, "val", {"last"}) == "last"
    assert shown_selection(SVM, "val", {}) is None


@given(values=st.lists(st.floats(0, 1) | st.none(), max_size=6))
def test_a_spread_is_that_of_the_values_that_are_there(values: list[float | None]) -> None:
    there = [value for value in values if value is not None]
    found = Spread.of(values)
    assert found == Spread(mean(there) if there else None, stdev(there) if len(there) > 1 else None, len(there))
    assert found.columns("UA") == {"UA": found.mean, "UA_std": found.deviation}


@given(value=st.floats(0, 1), deviation=st.floats(0, 1) | st.none(), marks=st.sampled_from(["", "†", "‡§"]))
def test_a_score_is_written_with_its_marks_whatever_else_stands_there(value: float, deviation: float | None, marks: str) -> None:
    for text in (score_text(value, deviation, marks), range_text(value, value, marks)):
        assert text.endswith(marks)
        assert float(text.split(" ")[0].rstrip("†‡§")) == pytest.approx(100 * value, abs=0.05001)
    assert interval_text(value, None, None, marks) == score_text(value, None, marks)


def test_no_other_file_of_the_heads_asks_for_scores_or_writes_deviations() -> None:
    files = {path.relative_to(HEADS).as_posix(): path.read_text(encoding="utf-8") for path in HEADS.rglob("*.py")}
    asking = {name for name, text in files.items() if re.search(r"(FROM|JOIN) (metrics|fold_scores|scores)\b", text)}
    writing = {name for name, text in files.items() if re.search(r"± \{", text)}
    assert (asking - {name for name in asking if name.startswith("reports/")}, writing) == (
        {"results/scores.py"},
        {"results/written.py"},
    )
