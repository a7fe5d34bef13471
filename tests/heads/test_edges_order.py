"""Means do not depend on the order in which runs came into the catalogue, to the last digit."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

from tfser.heads.results.score_tables import table
from tfser.manifests.catalogue.build import create
from tfser.manifests.connections import open_memory

RUNS = [(seed, fold) for seed in (0, 1, 2) for fold in (1, 2, 3)]
VALUES = {run: 0.1 * (number + 1) / 1.7 for number, run in enumerate(RUNS)}


def scores(order: Sequence[tuple[int, int]]) -> list[object]:
    with contextlib.closing(open_memory()) as connection:
        create(connection)
        for seed, fold in order:
            run = f"x-{seed}-{fold}"
            connection.execute(
                "INSERT INTO runs BY NAME SELECT ? AS run_id, 'x' AS experiment, ?::INTEGER AS seed, ?::INTEGER AS fold, "
                "'passed' AS audit, 'kept' AS speakers_kept, ? AS seconds, 'toy' AS corpus, 'p' AS protocol",
                [run, seed, fold, 10 * VALUES[seed, fold]],
            )
            for metric in ("UA", "WA", "WF1", "macro_F1"):
                connection.execute(
                    "INSERT INTO metrics BY NAME SELECT ? AS run_id, ?::INTEGER AS fold, 'last' AS selection, "
                    "'utterance' AS level, ? AS metric, NULL AS class, ? AS value",
                    [run, fold, metric, VALUES[seed, fold]],
                )
            connection.execute(
                "INSERT INTO confusion BY NAME SELECT ? AS run_id, ?::INTEGER AS fold, 'last' AS selection, "
                "'utterance' AS level, unnest(['a', 'b', 'c']) AS label, 'a' AS predicted, unnest([3, 5, 7]) AS count",
                [run, fold],
            )
        found = [connection.execute("SELECT * FROM scores ORDER BY seed").fetchall()]
        return [*found, *(table(connection, by=by) for by in ("seed", "fold"))]


@pytest.mark.slow
def test_scores_are_the_same_whatever_came_first():
    first = scores(RUNS)
    assert first[0] and all(first)
    for order in (RUNS[::-1], RUNS[4:] + RUNS[:4], sorted(RUNS, key=lambda run: (run[1] * 7 + run[0] * 5) % 9)):
        assert scores(order) == first
