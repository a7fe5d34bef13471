"""Runs on disk: what was asked, what came out, so that every number can be traced and computed again.

runs/<run_id>/run.json              configuration, versions, audit outcome, status; written last, so a run counts
when it says so runs/<run_id>/predictions.parquet   every test utterance and segment, under every selection
runs/<run_id>/metrics.parquet, confusion.parquet, history.parquet runs/<run_id>/model.safetensors     the last
epoch's weights (model-val: those of the validated epoch) with their normalisation runs/<run_id>/checkpoint/
while it is unfinished
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser import __version__
from tfser.heads.metrics import Scores, scores
from tfser.manifests.build import damage
from tfser.manifests.cache import Cache
from tfser.manifests.files import aside, read_json, write_json, write_table

if TYPE_CHECKING:
    from torch import Tensor

LIBRARIES = ("torch", "numpy", "duckdb", "h5py", "pyarrow", "soundfile", "soxr")


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The test predictions of one selection: U utterances and S segments of them, K classes.

    `epoch` counts from 1. `segment_utterance` (S,) says which utterance (0 to U - 1) a segment belongs to,
    `segment_number` (S,) which of its segments it is.
    """

    selection: str
    epoch: int
    utterances: npt.NDArray[np.float32]  # (U, K)
    segments: npt.NDArray[np.float32]  # (S, K)
    segment_utterance: npt.NDArray[np.int64]
    segment_number: npt.NDArray[np.int64]


def versions() -> dict[str, str]:
    """Return the versions of tfser, Python, the libraries and the system, and the CPU threads that torch uses."""
    import torch

    found = {"tfser": __version__, "python": platform.python_version(), "system": platform.platform()}
    return found | {name: metadata.version(name) for name in LIBRARIES} | {"threads": str(torch.get_num_threads())}


def digest(value: Any) -> str:
    """Return 10 hexadecimal digits over a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_folder(cache: Cache, run_id: str) -> Path:
    """Return the folder of a run."""
    return cache.runs / run_id


def finished(cache: Cache, run_id: str) -> dict[str, Any] | None:
    """Return what a finished run says of itself; None where there is none, or where its files are damaged."""
    folder = run_folder(cache, run_id)
    path = folder / "run.json"
    if not path.exists() or damage(folder) is not None:
        return None
    about: dict[str, Any] = read_json(path)
    return about if about["status"] == "finished" else None


def begin(cache: Cache, about: Mapping[str, Any], *, again: bool = False) -> Path:
    """Make a run's folder and note what is about to be trained; return the folder.

    Args:
        cache: the cache.
        about: what is known before training: the columns of the table `runs`.
        again: forget what was trained of it so far.
    """
    folder = run_folder(cache, about["run_id"])
    if again and folder.exists():
        shutil.rmtree(folder)
    write_json(folder / "run.json", {**about, "status": "running"})
    return folder


def finish(
    cache: Cache,
    about: Mapping[str, Any],
    *,
    classes: Sequence[str],
    utterances: Sequence[tuple[str, str]],
    labels: npt.NDArray[np.int64],
    selections: Sequence[Selected],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the results of a run and, last, that it is finished; return what it says of itself.

    Args:
        cache: the cache.
        about: all columns of the table `runs`.
        classes: names, in the order of the head's outputs.
        utterances: corpus and id of the U test utterances.
        labels: (U,) their true class numbers.
        selections: predictions, one set a selection.
        history: one mapping an epoch.
    """
    import pyarrow as pa

    folder = run_folder(cache, about["run_id"])
    run_id, fold = about["run_id"], about["fold"]
    predictions, metrics, confusion = [], [], []
    for of in selections:
        for level, truth, probabilities, names, numbers in (
            ("utterance", labels, of.utterances, utterances, None),
            (
                "segment",
                labels[of.segment_utterance],
                of.segments,
                [utterances[u] for u in of.segment_utterance],
                of.segment_number,
            ),
        ):
            key = {"run_id": run_id, "fold": fold, "selection": of.selection, "level": level}
            predictions.append(_prediction_table(key, classes, names, truth, probabilities, numbers))
            found = scores(truth, probabilities.argmax(axis=1), len(classes))
            metrics += _metric_rows(key | {"epoch": of.epoch}, found, classes)
            confusion += [
                key | {"label": a, "predicted": b, "count": found.confusion[i][j]}
                for i, a in enumerate(classes)
                for j, b in enumerate(classes)
            ]
    write_table(folder / "predictions.parquet", pa.concat_tables(predictions))
    write_table(folder / "metrics.parquet", pa.Table.from_pylist(metrics, schema=_schema("metrics")))
    write_table(folder / "confusion.parquet", pa.Table.from_pylist(confusion, schema=_schema("confusion")))
    rows = [{"run_id": run_id, **row} for row in history]
    write_table(folder / "history.parquet", pa.Table.from_pylist(rows, schema=_schema("history")))
    done = {**about, "classes": list(classes), "status": "finished"}
    write_json(folder / "run.json", done)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return done


def save_model(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write trained weights with their normalisation as safetensors; run.json beside it says what they are of."""
    from safetensors.torch import save_file

    with aside(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)


def _prediction_table(
    key: Mapping[str, Any],
    classes: Sequence[str],
    names: Sequence[tuple[str, str]],
    truth: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.int64] | None,
) -> Any:
    import pyarrow as pa

    n, k = probabilities.shape
    map_array = pa.MapArray.from_arrays(
        pa.array(np.arange(0, n * k + 1, k, dtype=np.int32)),
        pa.array(list(classes) * n, pa.string()),
        pa.array(probabilities.astype(np.float64).ravel()),
    )
    return pa.table(
        {
            "run_id": [key["run_id"]] * n,
            "corpus": pa.array([corpus for corpus, _ in names], pa.string()),
            "fold": pa.array([key["fold"]] * n, pa.int32()),
            "utterance_id": pa.array([utterance_id for _, utterance_id in names], pa.string()),
            "label": [classes[i] for i in truth],
            "predicted": [classes[i] for i in probabilities.argmax(axis=1)],
            "probabilities": map_array,
            "selection": [key["selection"]] * n,
            "level": [key["level"]] * n,
            "segment": pa.nulls(n, pa.int32()) if numbers is None else pa.array(numbers.astype(np.int32)),
        }
    )


def _metric_rows(key: Mapping[str, Any], found: Scores, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {**key, "metric": name, "class": None, "value": getattr(found, name)} for name in ("WA", "UA", "WF1", "macro_F1")
    ]
    rows += [
        {**key, "metric": "recall", "class": name, "value": value}
        for name, value in zip(classes, found.recall, strict=True)
        if value is not None
    ]
    return rows


def _schema(table: str) -> Any:
    """Return the Arrow schema of one of the catalogue's tables."""
    import pyarrow as pa

    from tfser.manifests import schema

    kinds = {"VARCHAR": pa.string(), "INTEGER": pa.int32(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}
    columns = next(t.columns for t in schema.TABLES if t.name == table)
    return pa.schema([(name, kinds[kind]) for name, kind, _ in columns])
