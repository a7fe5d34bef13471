"""The tables of a run that learned dimensions: every predicted rating beside the true one, and the scores of each dimension.

In: a `RunOutcome` whose predictions are ratings on 0..1. Out: Arrow tables with the catalogue's columns. Ratings are stored
on the scale of the utterance's corpus, with the ends of that scale beside them. Tables of classes are empty: such a run has
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.heads.runs.outcome import RunOutcome
from tfser.heads.runs.target import unmapped
from tfser.heads.spec.dimension_metrics import DIMENSION_METRICS, dimension_scores
from tfser.manifests.catalogue.run_files import RATED, columns_of

if TYPE_CHECKING:
    import pyarrow as pa


def rating_tables(run: Mapping[str, Any], outcome: RunOutcome) -> dict[str, pa.Table]:
    """Return the tables of a run by their names; scores are computed from the predictions beside them."""
    import pyarrow as pa

    assert outcome.ratings is not None
    # Beside classes, who is not rated was predicted all the same; there is nothing to score it by, and no row.
    there: npt.NDArray[np.bool_] = np.asarray(np.isfinite(outcome.ratings).all(axis=1))
    K = len(outcome.classes)
    rated, metrics = list[pa.Table](), list[dict[str, Any]]()
    for selected in outcome.selections:
        at = selected.segment_utterance
        for level, every, outputs, counted in (
            ("utterance", np.arange(len(outcome.utterances)), selected.utterances, None),
            ("segment", at, selected.segments, selected.segment_number),
        ):
            rows, predicted = every[there[every]], outputs[there[every], K:]
            numbers = None if counted is None else counted[there[every]]
            if not len(rows):
                continue
            key = {"run_id": run["run_id"], "fold": run["fold"], "selection": selected.selection, "level": level}
            for dimension, table in _by_dimension(key, outcome, rows, predicted, numbers):
                rated.append(table)
                metrics += _metric_rows(key | {"epoch": selected.epoch}, dimension, table)
    history = [{"run_id": run["run_id"], **row} for row in outcome.history]
    schema = columns_of(RATED)
    return {
        "history": pa.Table.from_pylist(history, schema=columns_of("history")),
        "predictions": columns_of("predictions").empty_table(),
        "metrics": pa.Table.from_pylist(metrics, schema=columns_of("metrics")),
        "confusion": columns_of("confusion").empty_table(),
        RATED: pa.concat_tables(rated).cast(schema) if rated else schema.empty_table(),
    }


def _by_dimension(
    key: Mapping[str, Any],
    outcome: RunOutcome,
    rows: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.int64] | None,
) -> Iterator[tuple[str, pa.Table]]:
    """Yield a table of ratings for each dimension, on the scale of each utterance's corpus.

    Args:
        key: the run, fold, selection and level of all of them.
        outcome: of the run.
        rows: (m,) the utterance of each prediction.
        predicted: (m, T) ratings on 0..1.
        numbers: (m,) of segments; None at the level of utterances.
    """
    import pyarrow as pa

    assert outcome.ratings is not None
    corpora = [outcome.utterances[row][0] for row in rows]
    ends = {name: (low, high) for name, low, high in outcome.scales}
    true, answered = (unmapped(values, corpora, outcome.scales) for values in (outcome.ratings[rows], predicted))  # (m, T)
    for t, dimension in enumerate(outcome.targets):
        yield (
            dimension,
            pa.table(
                {
                    "run_id": [key["run_id"]] * len(rows),
                    "corpus": pa.array(corpora, pa.string()),
                    "fold": pa.array([key["fold"]] * len(rows), pa.int32()),
                    "utterance_id": pa.array([outcome.utterances[row][1] for row in rows], pa.string()),
                    "dimension": [dimension] * len(rows),
                    "rating": true[:, t],
                    "predicted": answered[:, t],
                    "low": pa.array([ends[name][0] for name in corpora], pa.float64()),
                    "high": pa.array([ends[name][1] for name in corpora], pa.float64()),
                    "selection": [key["selection"]] * len(rows),
                    "level": [key["level"]] * len(rows),
                    "segment": pa.nulls(len(rows), pa.int32()) if numbers is None else pa.array(numbers.astype(np.int32)),
                }
            ),
        )


def _metric_rows(key: Mapping[str, Any], dimension: str, rated: pa.Table) -> list[dict[str, Any]]:
    """Return a row for each score that a dimension has, from the stored ratings themselves."""
    true, predicted, low, high = (rated[name].to_numpy() for name in ("rating", "predicted", "low", "high"))
    width = high - low
    scores = dimension_scores((true - low) / width, (predicted - low) / width, np.abs(predicted - true))
    scored = ((name, getattr(scores, name)) for name in DIMENSION_METRICS)
    return [{**key, "metric": name, "class": dimension, "value": value} for name, value in scored if value is not None]
