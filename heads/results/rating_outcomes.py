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

from tfser.heads.results.moments import Moments, gathered
from tfser.heads.results.outcomes import CLUSTERS, Key, Outcome, Subject, no_predictions, standing_of, whole_seeds
from tfser.manifests.catalogue.reading import Connection
from tfser.manifests.dimensions import DIMENSIONS
from tfser.manifests.errors import TfserError

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
    ratings = connection.execute(
        "SELECT seed, corpus, utterance_id, segment, fold, dimension, rating, predicted, error, speaker, session, dialogue "
        "FROM test_ratings WHERE experiment = ? AND selection = ? AND level = ? AND (?::VARCHAR IS NULL OR run_id = ?) "
        "AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id))",
        [subject.experiment, selection, level, subject.run_id, subject.run_id, only, only],
    ).fetchall()
    if not ratings:
        raise no_predictions(connection, subject, selection, level, "test_ratings")
    learned = {row[5] for row in ratings}
    dimensions = tuple(name for name in DIMENSIONS if name in learned)
    of_seed = _by_seed(ratings)
    seeds, keys = whole_seeds(of_seed)
    values = np.array(
        [[[of_seed[seed][key][name][:3] for name in dimensions] for key in keys] for seed in seeds], dtype=np.float64
    )  # (S, n, T, 3)
    if np.abs(values[..., 0] - values[0, ..., 0]).max() > 1e-9:
        raise TfserError(f"{subject.name}: its seeds have other true ratings; train them --again")
    first = [of_seed[seeds[0]][key][dimensions[0]] for key in keys]
    of = Outcome(
        subject=subject,
        selection=selection,
        level=level,
        **standing_of(connection, subject),
        seeds=seeds,
        dropped=tuple(sorted(of_seed.keys() - set(seeds))),
        keys=keys,
        folds=tuple(row[3] for row in first),
        labels=(),
        predicted=(),
        who={name: tuple(row[4 + i] for row in first) for i, name in enumerate(CLUSTERS)},
    )
    return RatedOutcome(of=of, dimensions=dimensions, true=values[0, ..., 0], predicted=values[..., 1], error=values[..., 2])


def _by_seed(ratings: Sequence[tuple[Any, ...]]) -> dict[int, dict[Key, dict[str, Any]]]:
    """Return rows of `test_ratings` by seed, utterance and dimension: rating, prediction, error, fold, and who said it."""
    # An utterance may be tested in several folds; then its predictions are told apart by fold.
    several = len({row[:4] + row[5:6] for row in ratings}) < len(ratings)
    of_seed: dict[int, dict[Key, dict[str, Any]]] = {}
    for seed, *row in ratings:
        key = tuple(row[: 4 if several else 3])
        of_seed.setdefault(seed, {}).setdefault(key, {})[row[4]] = (*row[5:8], row[3], *row[8:])
    return of_seed
