"""Where a new speaker's score would lie, as tables, comparisons, JSON and SQL show it; and where nothing is said."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_runs as stored
from scipy import stats

from tfser.heads.commands.compare_table import print_comparison
from tfser.heads.commands.score_report import grouped
from tfser.heads.results.compare import compare
from tfser.heads.results.outcomes import find, read_outcome
from tfser.heads.results.score_tables import Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows

COLUMN = "new speaker's UA [95 %]"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = Cache(tmp_path_factory.mktemp("stored") / "cache")
    utterances = stored.make_utterances()
    stored.put_utterances(cache, utterances)
    both = ("last", "test-oracle")
    stored.put_experiment(cache, "mean_pool-a", utterances, right=0.85, seeds=(0, 1, 2), selections=both)
    stored.put_experiment(cache, "mean_pool-b", utterances, right=0.6, selections=both)
    return cache


def by_hand(scores: dict[Any, list[float]]) -> tuple[float, float]:
    x = np.arcsin(np.sqrt([np.mean(of) for of in scores.values()]))
    reach = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) * np.sqrt(1 + 1 / len(x))
    return float(np.sin(max(x.mean() - reach, 0)) ** 2), float(np.sin(min(x.mean() + reach, np.pi / 2)) ** 2)


@pytest.mark.few(1)
@pytest.mark.parametrize("metric", ["UA", "WA"])
def test_it_follows_from_the_speakers_scores(filled: Cache, metric: str) -> None:
    with open_catalogue(filled) as connection:
        (row,) = table(connection, Wanted(experiment="mean_pool-a", selection="last"))
        of_speaker: dict[Any, list[float]] = {}
        asked = (
            "SELECT speaker, UA, WA, n FROM speaker_scores WHERE experiment = 'mean_pool-a' AND selection = 'last' "
            "AND level = 'utterance'"
        )
        found = rows(connection, asked)
    for one in found:
        of_speaker.setdefault(one["speaker"], []).append(one[metric])
    assert len(of_speaker) == 8 and all(len(of) == 3 for of in of_speaker.values())
    ends = row[f"new_speaker_{metric}_low"], row[f"new_speaker_{metric}_high"]
    assert ends == pytest.approx(by_hand(of_speaker))
    assert ends[0] < row[f"pooled_{metric}_low"] and row[f"pooled_{metric}_high"] < ends[1]
    assert row["new_speaker_utterances"] == np.median([one["n"] for one in found])


def test_the_query_of_the_documents_gives_the_same(filled: Cache) -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    if not page.exists():
        pytest.skip("docs/ is not part of an installed package")
    (query,) = re.findall(r"```sql\n(WITH each AS .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    query = query.replace("EXPERIMENT", "mean_pool-a").replace("T * ", f"{stats.t.ppf(0.975, 7)} * ")
    with open_catalogue(filled) as connection:
        (by_sql,) = rows(connection, query)
        (row,) = table(connection, Wanted(experiment="mean_pool-a", selection="last"))
    assert (row["new_speaker_UA_low"], row["new_speaker_UA_high"]) == pytest.approx((by_sql["low"], by_sql["high"]))


def lines_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for group in grouped(found) for line in group.lines]


def test_the_table_shows_it_with_the_marks_of_its_row(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        found = table(connection, Wanted(experiment="mean_pool-a"))
    lines = lines_of(found)
    assert [row["selection"] for row in found] == ["last", "test-oracle"]
    for row, line, mark in zip(found, lines, ("", "†"), strict=True):
        low, high = (100 * row[f"new_speaker_UA_{end}"] for end in ("low", "high"))
        assert line[COLUMN] == f"{low:.0f} to {high:.0f}{mark}"


def test_a_comparison_says_it_of_both(filled: Cache) -> None:
    with open_catalogue(filled) as connection:
        subjects = [find(connection, name) for name in ("mean_pool-a", "mean_pool-b")]
        sides = [read_outcome(connection, subject, selection="test-oracle") for subject in subjects]
        of_table = {row["experiment"]: row for row in table(connection, Wanted(selection="test-oracle"))}
    found = compare(*sides, metric="WA")
    stored_form = json.loads(json.dumps(found.to_dict()))["new_speaker"]
    for letter, name in (("a", "mean_pool-a"), ("b", "mean_pool-b")):
        expected = of_table[name]["new_speaker_WA_low"], of_table[name]["new_speaker_WA_high"]
        assert (stored_form[letter]["low"], stored_form[letter]["high"]) == pytest.approx(expected)
        assert stored_form[letter]["clusters"] == 8 and stored_form[letter]["confidence"] == 0.95
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_comparison(found)
    (line,) = [line for line in text.getvalue().splitlines() if "of a new speaker" in line]
    low, high = (100 * stored_form["b"][end] for end in ("low", "high"))
    assert line.startswith("WA of a new speaker (95 %), measured on about 14 utterances: A ")
    assert line.endswith(f"†, B {low:.0f} to {high:.0f}†")


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "known"), [("session", {}), ("session", {"speaker": False})])
def test_of_clusters_that_are_no_speakers_nothing_is_said(cache: Cache, clusters: str | None, known: dict[str, bool]) -> None:
    utterances = stored.make_utterances(**known)
    stored.put_utterances(cache, utterances)
    for name in ("a", "b"):
        stored.put_experiment(cache, name, utterances, right=0.7)
    with open_catalogue(cache) as connection:
        found = table(connection, clusters=clusters)
        sides = [read_outcome(connection, find(connection, name)) for name in ("a", "b")]
    assert [row["clustered_by"] for row in found] == ["session", "session"]
    for row, line in zip(found, lines_of(found), strict=True):
        assert row["pooled_UA_low"] is not None and row["new_speaker_UA_low"] is None and row["new_speaker_utterances"] is None
        assert COLUMN not in line
    compared = compare(*sides, clusters=clusters)
    assert compared.new_speaker is None and compared.to_dict()["new_speaker"] is None
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_comparison(compared)
    assert "permutation test" in text.getvalue() and "new speaker" not in text.getvalue()
