"""Finished runs in other people's trackers: MLflow and TensorBoard.

What comes in: a run or an experiment of a cache. What goes out: in MLflow one experiment for each of ours, with a parent
run for it and a child for each fold and seed; in TensorBoard a folder of events for each run. Each has the configuration,
the curves of training, and the test scores of every selection, those that looked at the test side marked as such. What
was written there before is found by the run's id and not written twice. The cache is only read.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfser.heads.results.intervals import METRICS
from tfser.heads.results.marks import standing
from tfser.heads.results.moments import RATED_METRICS
from tfser.heads.results.outcomes import find
from tfser.heads.results.scores import scores_of_runs
from tfser.heads.spec.selections import peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.experiment_names import meant_by

CURVES = (
    *("loss", "lr", "val_WA", "val_UA", "val_WF1", "val_loss", "val_CCC"),
    *("test_WA", "test_UA", "test_WF1", "test_loss", "test_CCC"),
)
ID, KIND = "tfser.run_id", "tfser.kind"
"""The tags by which a run of ours is known in MLflow."""


def finished_runs(cache: Cache, text: str) -> list[dict[str, Any]]:
    """Return what the runs of a text (a run, an experiment) say of themselves, with their curves and scores.

    Raises:
        UsageError: there is none of this name.
    """
    with open_catalogue(cache) as connection:
        subject = find(connection, meant_by(cache, text))
        where = "experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?)"
        key = [subject.experiment, subject.run_id, subject.run_id]
        stored = rows(connection, f"SELECT * FROM runs WHERE {where} ORDER BY seed, fold", key)
        of_run = f"run_id IN (SELECT run_id FROM runs WHERE {where})"
        history = rows(connection, f"SELECT * FROM history WHERE {of_run} ORDER BY run_id, epoch", key)
        scored = scores_of_runs(connection, runs=[row["run_id"] for row in stored])
        of_rated = f"SELECT * FROM dimension_scores WHERE level = 'utterance' AND {of_run} ORDER BY selection, dimension"
        rated = rows(connection, of_rated, key)
    # Each run takes its curves, and its scores by selection, of classes and of dimensions alike.
    for run in stored:
        run["history"] = [row for row in history if row["run_id"] == run["run_id"]]
        of_classes = [
            {**score.columns("selection", "epoch"), "metric": metric, "value": getattr(score, metric)}
            for score in sorted(scored, key=lambda score: score.selection)
            if score.run_id == run["run_id"]
            for metric in METRICS
        ]
        of_dimensions = [
            {"selection": row["selection"], "epoch": row["epoch"], "metric": f"{metric}/{row['dimension']}", "value": row[metric]}
            for row in rated
            if row["run_id"] == run["run_id"]
            for metric in RATED_METRICS
        ]
        run["scores"] = [row for row in (*of_classes, *of_dimensions) if row["value"] is not None]
    return stored


def parameters_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the whole configuration of a run as flat texts."""
    return {name: "none" if value is None else str(value) for name, value in _flat(json.loads(run["config"]))} | {
        "fold": str(run["fold"]),
        "seed": str(run["seed"]),
    }


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def score_name(row: Mapping[str, Any]) -> str:
    """Return what a test score is called: `last/UA`, `last/CCC/arousal`; one that was chosen on the test side says so.

    >>> score_name({"selection": "test-oracle", "metric": "UA"})
    'upper_bound/test-oracle/UA'
    """
    return f"{'upper_bound' if peeks(row['selection']) else 'test'}/{row['selection']}/{row['metric']}".replace(
        "test/last", "last"
    )


def _points(run: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield the points of a run's curves: name, epoch, value."""
    for row in run["history"]:
        for name in CURVES:
            value = row[name]
            if value is not None and math.isfinite(value):
                yield f"curve/{name}", row["epoch"], value


# -- TensorBoard --------------------------------------------------------------------------------------------------------------


def to_tensorboard(cache: Cache, runs: Sequence[Mapping[str, Any]], folder: Path) -> int:
    """Write a folder of events for each run that has none there yet; return how many were written.

    Raises:
        UsageError: TensorBoard is not installed.
        TfserError: the folder cannot be written.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard: pip install 'tfser[tensorboard]'")
    from torch.utils.tensorboard import SummaryWriter

    written = 0
    try:
        for run in runs:
            place = folder / run["experiment"] / f"f{run['fold']}-s{run['seed']}"
            if place.is_dir() and any(place.glob("events.*")):
                continue
            with SummaryWriter(str(place)) as writer:
                for name, epoch, value in _points(run):
                    writer.add_scalar(name, value, epoch)
                for row in run["scores"]:
                    writer.add_scalar(score_name(row), row["value"], row["epoch"])
                lines = [f"    {key}: {value}" for key, value in sorted(parameters_of(run).items())]
                about = f"{run['run_id']}, audit {standing(run)}\n\n" + "\n".join(lines)
                writer.add_text("configuration", about, 0)
            written += 1
    except OSError as error:
        raise TfserError(f"--tensorboard {folder}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    return written


# -- MLflow -------------------------------------------------------------------------------------------------------------------


def to_mlflow(cache: Cache, runs: Sequence[Mapping[str, Any]], uri: str) -> int:
    """Write runs below a parent for their experiment, those that are not there yet; return how many were written.

    Raises:
        UsageError: MLflow is not installed.
        TfserError: it refuses.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("--mlflow needs MLflow: pip install 'tfser[mlflow]'")
    if "://" not in uri or uri.startswith("file:"):  # a folder is what was asked for: MLflow 3 wants that said
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        written = 0
        # What is there already is told by the run's id in a tag, so that the same command may be given again
        # after more runs.
        for name in dict.fromkeys(run["experiment"] for run in runs):
            own = [run for run in runs if run["experiment"] == name]
            found = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if found is None else found.experiment_id
            parent = _parent(client, experiment, name, own[0])
            there = {of.data.tags.get(ID) for of in client.search_runs([experiment], max_results=5000)}
            for run in own:
                if run["run_id"] not in there:
                    _child(client, experiment, parent, run, cache.runs / run["run_id"])
                    written += 1
            client.set_terminated(parent)
    except TfserError:
        raise
    except Exception as error:  # whatever the store or the transport raises
        database = "; databases need all of MLflow: pip install mlflow" if "sqlite" in uri else ""
        raise TfserError(f"--mlflow {uri}: refused ({first_line(error)[:200]}){database}") from error
    return written


def _parent(client: Any, experiment: str, name: str, run: Mapping[str, Any]) -> str:
    """Return the run that stands for an experiment; it is made where there is none."""
    found = client.search_runs([experiment], filter_string=f"tags.`{KIND}` = 'experiment'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {KIND: "experiment", "mlflow.runName": name, "tfser.protocol_hash": str(run["protocol_hash"])}
    return str(client.create_run(experiment, tags=tags).info.run_id)


def _child(client: Any, experiment: str, parent: str, run: Mapping[str, Any], folder: Path) -> None:
    from mlflow.entities import Metric, Param

    tags = {
        KIND: "run",
        "mlflow.runName": f"fold {run['fold']}, seed {run['seed']}",
        "mlflow.parentRunId": parent,
        "tfser.audit": standing(run),
    }
    made = client.create_run(experiment, tags=tags).info.run_id
    # MLflow takes 100 parameters of 6,000 characters and 1,000 points at a time.
    parameters = [Param(key, value[:6000]) for key, value in sorted(parameters_of(run).items())]
    for first in range(0, len(parameters), 100):
        client.log_batch(made, params=parameters[first : first + 100])
    points = [*_points(run), *((score_name(row), row["epoch"], row["value"]) for row in run["scores"])]
    metrics = [Metric(name, value, 0, epoch) for name, epoch, value in points]
    for first in range(0, len(metrics), 1000):
        client.log_batch(made, metrics=metrics[first : first + 1000])
    for name in ("run.json", "predictions.parquet"):
        client.log_artifact(made, str(folder / name))
    client.set_terminated(made)
    client.set_tag(made, ID, run["run_id"])  # last: what has it is whole
