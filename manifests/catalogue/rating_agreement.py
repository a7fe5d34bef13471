"""The ratings of a run on dimensions beside its other tables: scores are computed again from the ratings.

The same for dimensions as `run_agreement` is for classes: what comes in is what run.json says and the run's tables with the
catalogue's columns; what goes out is nothing, or a `DamagedError` that names the file and what is wrong with it. Every row
must be there: each rated test utterance once under every selection and dimension, all epochs, all scores. What a run on both says
of classes, `run_agreement` looks at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfser.manifests.catalogue.run_agreement import check_epochs, check_owner
from tfser.manifests.dimensions import DIMENSION_SCORES
from tfser.manifests.errors import DamagedError

if TYPE_CHECKING:
    import pyarrow as pa

_CLOSE, _BARELY = 1e-6, 1e-9
"""Scores that are computed again differ from those of the file by less than the first; a rating may lie beyond its scale's end by
the second, which is rounding."""


def check_ratings(folder: Path, run_json: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
    """Refuse a run on dimensions whose files contradict one another, or lack rows.

    Raises:
        DamagedError: naming the file and what is wrong.
    """
    check_owner(folder, run_json, tables)
    of_both = bool(run_json.get("classes"))
    for name in ("predictions", "confusion"):
        if tables[name].num_rows and not of_both:
            raise DamagedError("has rows, of a run that learned no classes", at=folder / f"{name}.parquet")
    epochs = check_epochs(folder / "history.parquet", run_json, tables["history"])
    rated, path = tables["rated_predictions"], folder / "rated_predictions.parquet"
    if run_json.get("fold") == 0:
        if rated.num_rows or tables["metrics"].num_rows:
            raise DamagedError("has rows, of a run that was tested on nothing", at=path)
        return
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    if rated.num_rows or not of_both:  # of both, none of the test utterances may be rated
        groups = _checked(path, rated, run_json["targets"])
    scored = [row for row in tables["metrics"].to_pylist() if not of_both or row["metric"] in DIMENSION_SCORES]
    _check_scores(folder / "metrics.parquet", scored, groups, len(epochs))


def _checked(path: Path, table: pa.Table, targets: Sequence[str]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Return the rows by selection, level and dimension, after a look at each.

    Raises:
        DamagedError: a rating is none, or a row is missing or there twice.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        numbers = [row[name] for name in ("rating", "predicted", "low", "high")]
        if any(value is None or not math.isfinite(value) for value in numbers) or not row["low"] < row["high"]:
            raise DamagedError(f"a rating of {row['utterance_id']} is no number", at=path)
        if not row["low"] - _BARELY <= row["predicted"] <= row["high"] + _BARELY:
            raise DamagedError(f"{row['utterance_id']} is predicted beyond its scale", at=path)
        groups.setdefault((row["selection"], row["level"], row["dimension"]), []).append(row)
    selections = {selection for selection, _, _ in groups}
    wanted = {(s, level, dimension) for s in selections for level in ("utterance", "segment") for dimension in targets}
    if "last" not in selections or set(groups) != wanted:
        raise DamagedError("a selection, a level or a dimension is missing", at=path)
    people = {(row["corpus"], row["utterance_id"]) for row in groups["last", "utterance", targets[0]]}
    for (selection, level, dimension), rows in groups.items():
        who = [(row["corpus"], row["utterance_id"]) for row in rows]
        each = {(*of, row["segment"]) for of, row in zip(who, rows, strict=True)}
        if set(who) != people or len(each) != len(rows) or (level == "utterance" and len(rows) != len(people)):
            raise DamagedError(f"{selection}, {level}, {dimension}: not every utterance is there once", at=path)
    return groups


def _check_scores(
    path: Path,
    stored: Sequence[Mapping[str, Any]],
    groups: Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]],
    epochs: int,
) -> None:
    """Compare the stored scores with those of the ratings.

    Raises:
        DamagedError: naming the first difference.
    """
    values = {(row["selection"], row["level"], row["class"], row["metric"]): row["value"] for row in stored}
    wanted = {(*key, name): value for key, rows in groups.items() for name, value in _scores(rows).items()}
    if values.keys() != wanted.keys() or len(stored) != len(wanted):
        raise DamagedError("lacks a score, or has one too many", at=path)
    for key, value in wanted.items():
        if values[key] is None or abs(values[key] - value) > _CLOSE * max(1.0, abs(value)):
            raise DamagedError(f"says {values[key]} of {', '.join(key)}, and by the predictions it is {value:.6g}", at=path)
    for row in stored:
        if row["epoch"] is None or not 1 <= row["epoch"] <= epochs:
            raise DamagedError(f"{row['selection']} is of epoch {row['epoch']}, and {epochs} were trained", at=path)


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the scores that stored ratings must have: a second account of `tfser.heads.spec.dimension_metrics`, in other
    words."""
    ends = [(row["low"], row["high"] - row["low"]) for row in rows]
    true = np.array([(row["rating"] - low) / width for row, (low, width) in zip(rows, ends, strict=True)])
    predicted = np.array([(row["predicted"] - low) / width for row, (low, width) in zip(rows, ends, strict=True)])
    error = {"MAE": float(np.mean([abs(row["predicted"] - row["rating"]) for row in rows]))}
    squares = true.var() + predicted.var() + (true.mean() - predicted.mean()) ** 2
    if squares < 1e-9 or len(rows) < 2:
        return error
    if true.var() < 1e-9 or predicted.var() < 1e-9:
        return error | {"CCC": 0.0}
    shared = float(np.mean((true - true.mean()) * (predicted - predicted.mean())))
    spreads = float(true.std() * predicted.std())
    return error | {
        "CCC": 2 * shared / float(squares),
        "pearson": max(-1.0, min(1.0, shared / spreads)),
        "scale_shift": float(predicted.std() / true.std()),
        "location_shift": float(predicted.mean() - true.mean()) / math.sqrt(spreads),
    }
