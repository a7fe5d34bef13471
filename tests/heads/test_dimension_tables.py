"""Tables of dimensions: what they say where a fold has no CCC."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from tfser.heads.results import ablation, descriptions
from tfser.heads.results.dimension_tables import MEAN, without_score


def test_a_mean_over_folds_says_how_many_runs_it_is_of() -> None:
    """A fold whose test speaker has one utterance has no CCC, and the mean is over the others."""
    rows = [
        {"dimension": "valence", "runs": 4, "CCC_runs": 3},
        {"dimension": "arousal", "runs": 4, "CCC_runs": 4},
        {"dimension": MEAN, "runs": 4, "CCC_runs": 3},
    ]
    (said,) = without_score(rows)
    assert said.startswith("CCC of valence over folds is of 3 of 4 runs: ")
    assert without_score(rows[1:2]) == []


def test_a_mean_over_dimensions_is_none_where_one_has_no_score() -> None:
    """A run without a CCC of valence counted with its arousal alone, which is another score."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE dimension_scores AS SELECT 'e' AS experiment, 'r' || fold AS run_id, 0 AS seed, fold, dimension, CCC, "
            "'passed' AS audit, 'kept' AS speakers_kept, 'last' AS selection, 'utterance' AS level FROM (VALUES "
            "(1, 'arousal', 0.8), (1, 'valence', 0.4), (2, 'arousal', 0.9), (2, 'valence', NULL)) AS t(fold, dimension, CCC)"
        )
        assert connection.execute(descriptions._RATED).fetchall() == [("e", pytest.approx(0.6), "passed", "kept")]


def test_no_row_takes_the_place_of_a_first_row_without_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says "gain: over the first row"; gains over the second one stood there where the first had not been trained."""
    spec = SimpleNamespace(selection=lambda name: name)
    table: list[Any] = [(name, SimpleNamespace(spec=spec, classes=("a",), UA=UA)) for name, UA in (("x", None), ("y", 0.5))]
    monkeypatch.setattr(ablation, "open_catalogue", contextlib.nullcontext)
    monkeypatch.setattr(ablation, "_of_folds", lambda _, of, shown: [{"fold": 1, "UA": of.UA}])
    monkeypatch.setattr(ablation, "_row", lambda row, of, shown, scores, first: {"row": row, "over": dict(first)})
    found = ablation.compare(None, [*table, table[1]], "last")  # type: ignore[arg-type]
    assert [row["over"] for row in found] == [{}, {}, {}]
    assert ablation.compare(None, [table[1], table[1]], "last")[1]["over"] == {1: 0.5}  # type: ignore[arg-type]
