"""What an experiment on dimensions was tested on and what it said there: `outcomes` for ratings instead of classes.

In goes the catalogue's view `test_ratings`; out come, for one selection and level, utterances with their true ratings and,
seed by seed, the predicted ones, and who said them. Seeds count only as a whole, and what makes clusters, as in `outcomes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.results.marks import of_runs
from tfser.heads.results.moments import Moments, gathered
from tfser.heads.results.outcomes import CLUSTERS, Key, Outcome, Subject
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.errors import TfserError, UsageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RatedOutcome:
    """The test predictions of one subject: n utterances (or segments), S seeds, T dimensions; `of` says which and whose.

    `true` (n, T) and `predicted` (S, n, T) are on 0..1, `error` (S, n, T) in points of the corpora's scales.
    """

    of: Outcome
    dimensions: tuple[str, ...]
    true: Floats
    predicted: Floats
    error: Floats

    def take(self, places: Sequence[int]) -> RatedOutcome:
        """Return the same of some of the utterances, in the order given."""
        at = list(places)
        of, true, predicted, error = self.of.take(at), self.true[at], self.predicted[:, at], self.error[:, at]
        return replace(self, of=of, true=true, predicted=predicted, error=error)

    def moments(self, clusters: Sequence[str]) -> Moments:
        """Return the sums of the predictions by cluster (n,), all seeds."""
        return gathered(clusters, self.dimensions, self.true, self.predicted, self.error)


def read_rated_outcome(
    connection: Connection,
    subject: Subject,
    *,
    selection: str = "last",
    level: str = "utterance",
    only: Sequence[str] | None = None,
) -> RatedOutcome:
    """Read the test predictions of a subject that learned dimensions; of `only` these runs, if they are given.

    Raises:
        UsageError: it has none of this selection and level; the message lists those that it has.
        TfserError: two of its seeds have other true ratings.
    """
    found = connection.execute(
        "SELECT seed, corpus, utterance_id, segment, fold, dimension, rating, predicted, error, speaker, session, dialogue "
        "FROM test_ratings WHERE experiment = ? AND selection = ? AND level = ? AND (?::VARCHAR IS NULL OR run_id = ?) "
        "AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id))",
        [subject.experiment, selection, level, subject.run_id, subject.run_id, only, only],
    ).fetchall()
    if not found:
        have = "SELECT DISTINCT selection, level FROM test_ratings WHERE experiment = ? ORDER BY 1, 2 DESC"
        known = [f"{row['selection']} ({row['level']})" for row in rows(connection, have, [subject.experiment])]
        raise UsageError(f"{subject.name} has no predictions of {selection} ({level}); it has: {', '.join(known) or 'none'}")
    there = {row[5] for row in found}
    dimensions = tuple(name for name in DIMENSIONS if name in there)
    # An utterance may be tested in several folds; then its predictions are told apart by fold.
    several = len({row[:4] + row[5:6] for row in found}) < len(found)
    of_seed: dict[int, dict[Key, dict[str, Any]]] = {}
    for seed, *row in found:
        key = tuple(row[: 4 if several else 3])
        of_seed.setdefault(seed, {}).setdefault(key, {})[row[4]] = (*row[5:8], row[3], *row[8:])
    largest = max(of_seed.values(), key=len).keys()
    seeds = tuple(sorted(seed for seed, of in of_seed.items() if of.keys() == largest))
    keys = tuple(sorted(largest, key=lambda key: tuple((part is not None, part) for part in key)))
    values = np.array(
        [[[of_seed[seed][key][name][:3] for name in dimensions] for key in keys] for seed in seeds], dtype=np.float64
    )  # (S, n, T, 3)
    if np.abs(values[..., 0] - values[0, ..., 0]).max() > 1e-9:
        raise TfserError(f"{subject.name}: its seeds have other true ratings; train them --again")
    first = [of_seed[seeds[0]][key][dimensions[0]] for key in keys]
    runs = "SELECT DISTINCT audit, speakers_kept FROM runs WHERE experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?)"
    of = Outcome(
        subject=subject,
        selection=selection,
        level=level,
        **of_runs(rows(connection, runs, [subject.experiment, subject.run_id, subject.run_id])),
        seeds=seeds,
        dropped=tuple(sorted(of_seed.keys() - set(seeds))),
        keys=keys,
        folds=tuple(row[3] for row in first),
        labels=(),
        predicted=(),
        who={name: tuple(row[4 + i] for row in first) for i, name in enumerate(CLUSTERS)},
    )
    return RatedOutcome(of=of, dimensions=dimensions, true=values[0, ..., 0], predicted=values[..., 1], error=values[..., 2])
