"""The questions that docs/queries.md and the demo suggest: the numbers of `tfser scores`, whatever else there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import stored_runs as stored

from tfser.heads.results.score_tables import Wanted, table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.catalogue.views import TAKEN_FOR

PAGE = Path(__file__).parents[1] / "docs" / "queries.md"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Three experiments of other heads, selections, levels and seeds, one seed of which tested less."""
    cache = Cache(tmp_path_factory.mktemp("suggested") / "cache")
    utterances = stored.make_utterances(speakers=4)
    stored.put_utterances(cache, utterances)
    both = ("last", "test-oracle")
    stored.put_experiment(cache, "mean_pool-a", utterances, right=0.9, seeds=(0, 1), selections=both)
    stored.put_experiment(cache, "svm-b", utterances, right=0.5)
    stored.put_experiment(cache, "svm-c", utterances, right=0.6, seeds=(0,))
    stored.put_experiment(cache, "svm-c", utterances, right=0.6, seeds=(1,), only_folds=(1, 3))
    with open_catalogue(cache) as opened:
        yield opened


def suggested(column: str) -> str:
    """The page's query that gives a column."""
    if not PAGE.exists():
        pytest.skip("the pages are not part of an installed package")
    found = re.findall(r'^tfser sql "(.*)"$', PAGE.read_text(encoding="utf-8"), re.M)
    (query,) = [text for text in found if re.search(rf"\b{column}\b", text)]
    return query


@pytest.mark.slow
def test_the_page_s_accuracy_is_that_of_scores(connection: Connection) -> None:
    found = {row["experiment"]: row["pooled_WA"] for row in rows(connection, suggested("pooled_WA"))}
    shown = {row["experiment"]: row["pooled_WA"] for row in table(connection, Wanted(selection="last"))}
    assert len(found) == 3 and found == pytest.approx(shown)


def test_a_confusion_counts_each_utterance_of_a_seed_once(connection: Connection) -> None:
    assert suggested("result_confusion") == TAKEN_FOR
    counted: dict[str, int] = {}
    for row in rows(connection, TAKEN_FOR):
        counted[row["experiment"]] = counted.get(row["experiment"], 0) + row["n"]
    found = table(connection, Wanted(selection="last"))
    shown = {row["experiment"]: row["utterances"] * len(row["pooled_seeds"]) for row in found}
    assert counted == shown and len(set(shown.values())) == 2


def test_results_are_the_rows_of_scores(connection: Connection) -> None:
    found = {row["experiment"]: row for row in rows(connection, "SELECT * FROM results")}
    for row in table(connection, Wanted(selection="last")):
        of = found.pop(row["experiment"])
        for name in ("UA", "UA_std", "WA", "WA_std", "pooled_UA", "pooled_WA"):
            assert of[name] == pytest.approx(row[name]), name
        for name in ("head", "preset", "recipe", "feature_set", "corpus", "protocol", "validation", "classes", "seeds", "folds",
                     "of_folds", "audit", "speakers_kept"):  # fmt: skip
            assert of[name] == row[name], name
    assert not found
