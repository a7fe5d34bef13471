"""What follows from single ratings: votes, distributions, agreement (against `krippendorff` and by Fleiss' own table), audits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import duckdb
import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.annotations import Annotation, annotation_table
from tfser.manifests.catalogue.build import create
from tfser.manifests.catalogue.filling import insert


@cache
def _empty() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    create(connection)
    return connection


def catalogue(ratings: Sequence[Annotation]) -> duckdb.DuckDBPyConnection:
    """Return a catalogue that holds these ratings and nothing else; it is one for all tests, since making one costs most."""
    connection = _empty()
    connection.execute("DELETE FROM annotations")
    insert(connection, "annotations", annotation_table("toy", ratings))
    return connection


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found = connection.execute(query)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def agreement(ratings: Sequence[Annotation], target: str) -> dict[str, Any]:
    return next(iter(rows(catalogue(ratings), f"FROM rater_agreement WHERE target = '{target}'")), {})


@settings(max_examples=8)
@given(st.lists(st.lists(st.sampled_from(["anger", "sadness", "neutral", None]), min_size=4, max_size=4), min_size=2, max_size=8))
def test_alpha_of_labels_is_krippendorffs(table: list[list[str | None]]) -> None:
    ratings = [
        Annotation(utterance_id=f"u{u}", rater=f"r{r}", label=label)
        for u, row in enumerate(table)
        for r, label in enumerate(row)
        if label is not None
    ]
    shared = {label for row in table if sum(x is not None for x in row) > 1 for label in row} - {None}
    found = agreement(ratings, "label").get("alpha") if ratings else None
    if len(shared) < 2:
        assert found is None  # who says one thing always cannot be told from chance
        return
    codes = {"anger": 0, "sadness": 1, "neutral": 2}
    by_rater = [[np.nan if row[r] is None else codes[str(row[r])] for row in table] for r in range(4)]
    assert found == pytest.approx(krippendorff.alpha(by_rater, level_of_measurement="nominal"), abs=1e-9)


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_alpha_of_values_is_krippendorffs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 6, (3, 7)).astype(float)
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    ratings = [Annotation(utterance_id=f"u{u}", rater=f"r{r}", valence=values[r, u]) for r, u in np.argwhere(~np.isnan(values))]
    shared = values[:, (~np.isnan(values)).sum(axis=0) > 1]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return
    expected = krippendorff.alpha(values, level_of_measurement="interval")
    assert agreement(ratings, "valence")["alpha"] == pytest.approx(expected, abs=1e-9)


def test_kappa_is_that_of_fleiss_example() -> None:
    """Ten subjects, fourteen raters, five categories: kappa 0.210 (the worked example that textbooks give for Fleiss 1971)."""
    counts = [
        *((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1)),
        *((7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)),
    ]
    ratings = [
        Annotation(utterance_id=f"u{u}", label="abcde"[c])
        for u, row in enumerate(counts)
        for c, n in enumerate(row)
        for _ in range(n)
    ]
    found = agreement(ratings, "label")
    assert found["kappa"] == pytest.approx(0.2099, abs=1e-4)
    assert (found["utterances"], found["ratings"], found["raters"], found["left_out"]) == (10, 140, None, 0)


def test_distribution_majority_and_entropy() -> None:
    ratings = [
        *(Annotation(utterance_id="a", rater=r, label="anger") for r in "xyz"),
        Annotation(utterance_id="a", rater="w", label="sadness"),
        *(Annotation(utterance_id="tie", rater=r, label=label) for r, label in (("x", "anger"), ("y", "fear"))),
        # One who says two things has one vote, and is no part of agreement.
        *(Annotation(utterance_id="two", rater="x", label=label) for label in ("anger", "fear")),
        *(Annotation(utterance_id="two", rater=r, label="fear") for r in "yz"),
        Annotation(utterance_id="two", rater="actor", label="calm", setting="self", counts=False),
        *(Annotation(utterance_id="alone", label="calm") for _ in range(1)),
    ]
    connection = catalogue(ratings)
    found = {row["utterance_id"]: row for row in rows(connection, "FROM label_distributions")}
    assert found["a"]["distribution"] == {"anger": 0.75, "sadness": 0.25}
    assert (found["a"]["majority"], found["a"]["majority_share"], found["a"]["agreement"]) == ("anger", 0.75, 0.5)
    assert found["a"]["entropy"] == pytest.approx(0.8113, abs=1e-4)
    assert (found["tie"]["majority"], found["tie"]["entropy"], found["tie"]["agreement"]) == (None, 1.0, 0.0)
    assert found["two"]["distribution"] == pytest.approx({"anger": 1 / 6, "fear": 5 / 6})
    assert (found["two"]["raters"], found["two"]["agreement"]) == (3, 1.0)
    assert (found["alone"]["raters"], found["alone"]["agreement"], found["alone"]["entropy"]) == (1, None, 0.0)
    whole = next(iter(rows(connection, "FROM rater_agreement WHERE target = 'label'")))
    assert (whole["ratings"], whole["utterances"], whole["left_out"]) == (11, 3, 3)
    named = {row["rater"]: row for row in rows(connection, "FROM raters")}
    assert sorted(named) == ["w", "x", "y", "z"]
    assert (named["x"]["utterances"], named["x"]["label_ratings"], named["x"]["usual_label"]) == (3, 4, "anger")
