"""Runs on disk: what was asked and what came out, so that every number can be traced and computed again.

What comes in: what is known of a run, its predictions, history and weights. What goes out: a folder `runs/<run_id>/` of the
cache:

* `run.json`: configuration, versions, audit outcome, status, and the SHA-256 of every other file. It is written twice, first
  with the status `running`, and last of all with `finished`: a run counts from then on.
* `predictions.parquet`: every test utterance and segment, under every selection.
* `rated_predictions.parquet`: instead of these, or beside them, of a run that learned dimensions
  (`tfser.heads.runs.rating_tables`).
* `metrics.parquet`, `confusion.parquet`, `history.parquet`.
* `model.safetensors`: the last epoch's weights with their normalisation; `model-val.safetensors`: those of the validated epoch.
* `checkpoint/`: while it is unfinished.

All are sealed (`tfser.manifests.seals`). A run that is trained again is trained in a hidden folder beside the old one, and the
two are exchanged at the end: whatever ends the training before, the old run is whole. No finished run is ever written over: one
that is damaged is moved to `removed/`, and one that cannot be read now is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser import __version__
from tfser.heads.runs.outcome import RunOutcome
from tfser.heads.runs.rating_tables import rating_tables
from tfser.heads.spec.metrics import Scores, scores
from tfser.manifests.cache import AGAIN, BEFORE, Cache
from tfser.manifests.catalogue.run_files import (
    RATED,
    check_begun,
    columns_of,
    place,
    read_about,
    read_file,
    read_run,
)
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError
from tfser.manifests.files import could_not_read, fsync_path, read_bytes, sweep, write_bytes, write_json, write_table
from tfser.manifests.seals import EMPTY, KEY, sealed

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "duckdb", "h5py", "pyarrow", "soundfile", "soxr")


COMPUTING = ("mamba-ssm", "triton")
"""Libraries that compute where they are installed, and are not required."""


def versions() -> dict[str, str]:
    """Return the versions of tfser, Python, the libraries and the system, and the CPU threads that torch uses."""
    import torch

    found = {"tfser": __version__, "python": platform.python_version(), "system": platform.platform()}
    return found | _of_libraries() | {"threads": str(torch.get_num_threads())}


@functools.cache
def _of_libraries() -> dict[str, str]:
    """Return their versions, out of the metadata of packages, which take longer to read than a small run to store."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    for name in COMPUTING:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def digest(value: Any) -> str:
    """Return 10 hexadecimal digits over a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_folder(cache: Cache, run_id: str) -> Path:
    """Return the folder of a run."""
    return cache.runs / run_id


def finished(cache: Cache, run_id: str) -> dict[str, Any] | None:
    """Return what a finished run says of itself, once every file of it was looked at; None where there is none.

    Raises:
        DamagedError: if something lies there that is not what was written.
        UnreadableError: if a file of it cannot be read now.
    """
    folder = run_folder(cache, run_id)
    if not os.path.lexists(folder):
        return None
    try:
        check_begun(folder)
        found = read_run(folder, weights=True)
    except MissingFileError:  # only begun, or removed just now
        return None
    except OSError as error:
        raise could_not_read(folder, error) from error
    return None if found is None else found.about


def peek(cache: Cache, run_id: str) -> dict[str, Any] | None:
    """Return what a finished run says of itself if it is whole and nothing is left to do there; needs no lock."""
    with contextlib.suppress(TfserError):
        if not any(os.path.lexists(of) for of in (*_beside(cache, run_id), run_folder(cache, run_id) / "checkpoint")):
            return finished(cache, run_id)
    return None


def pick_up(cache: Cache, run_id: str, *, again: bool, note: Callable[[str], None]) -> dict[str, Any] | None:
    """Return what a finished run says of itself, or None where it is to be trained. The caller holds its lock.

    What a killed process left to be done is done first. A damaged run is moved to `removed/`, which `note` is told.

    Args:
        cache: the cache.
        run_id: of the run.
        again: train it whatever is there; but one whose new training came to its end is found.
        note: told in a sentence what was moved.

    Raises:
        UnreadableError: if something is there that cannot be read now, and is not to be trained again.
    """
    if _go_on_with_exchange(cache, run_id, note):
        return finished(cache, run_id)
    if again:
        return None
    folder = run_folder(cache, run_id)
    try:
        run = finished(cache, run_id)
    except DamagedError as error:
        note(f"{error}; the run is moved to {cache.put_away(folder)} and trained again")
        return None
    except UnreadableError as error:
        raise UnreadableError(
            f"{error}; the run may be whole, so it is not trained over: let it be read, or take --again, which keeps it in "
            f"{cache.root / 'removed'}"
        ) from error
    if run is not None:
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # killed after run.json was written
    return run


def begin(cache: Cache, run: Mapping[str, Any], *, again: bool = False, note: Callable[[str], None] | None = None) -> Path:
    """Make a run's folder and note what is about to be trained; return the folder. The caller holds the run's lock.

    Args:
        cache: the cache.
        run: what is known before training: the columns of the table `runs`.
        again: train beside what was trained of it so far; `finish` exchanges the two.
        note: told what is set aside.
    """
    folder = _beside(cache, run["run_id"])[0] if again else run_folder(cache, run["run_id"])
    sweep(folder)
    sweep(folder / "checkpoint")
    if again and not _goes_on(folder, run):
        moved = cache.put_away(folder)
        if note is not None:
            note(f"a training with --again was begun by another version or is damaged; it is moved to {moved}")
    write_json(folder / "run.json", {**run, "status": "running"}, place=place(folder, "run.json"))
    return folder


def _goes_on(folder: Path, run: Mapping[str, Any]) -> bool:
    """Tell whether a run that is to be trained again was begun so before by this version, or not at all."""
    if not os.path.lexists(folder):
        return True
    with contextlib.suppress(MissingFileError):
        try:
            before = read_about(folder)
        except DamagedError:
            return False
        return bool(before["status"] == "running" and before.get("versions") == run.get("versions"))
    return not (folder / "checkpoint").exists()


def finish(
    cache: Cache,
    run: Mapping[str, Any],
    outcome: RunOutcome,
    *,
    folder: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the results of a run and, last, that it is finished; return what it says of itself.

    Args:
        cache: the cache.
        run: all columns of the table `runs`.
        outcome: what the training came to.
        folder: what `begin` gave; the run's own if left out. Another one takes the run's place at the end.
        note: told if something is set aside then.

    Raises:
        TfserError: if probabilities are no numbers; nothing is written then.
    """
    for selected in outcome.selections:
        if not (np.isfinite(selected.utterances).all() and np.isfinite(selected.segments).all()):
            raise TfserError(f"{run['run_id']}: the predictions of {selected.selection} are no numbers; nothing is stored")
    folder = folder or run_folder(cache, run["run_id"])
    tables = _tables(run, outcome)
    for table in tables:
        write_table(folder / f"{table}.parquet", tables[table], place=place(folder, f"{table}.parquet"))
    # run.json is written last of all: until then the folder is a training that was begun, whatever else lies in it, and the
    # digests that it holds are of files that are on the disk already, read back as they lie there.
    files = [*(f"{table}.parquet" for table in tables), *sorted(path.name for path in folder.glob("model*.safetensors"))]
    digests = {file: hashlib.sha256(read_bytes(folder / file)).hexdigest() for file in files}
    done = {**run, "classes": list(outcome.classes), "files": digests, "status": "finished"}
    write_json(folder / "run.json", done, place=place(folder, "run.json"))
    # Only now may the checkpoint go: a kill before this line leaves a training that goes on, one after it a finished run.
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    if folder != run_folder(cache, run["run_id"]):
        _go_on_with_exchange(cache, run["run_id"], note or (lambda _: None))
    return done


def _tables(run: Mapping[str, Any], outcome: RunOutcome) -> dict[str, pa.Table]:
    """Return the tables of a run by their names; scores and confusion counts are computed from the predictions beside them."""
    if not outcome.targets:
        return _class_tables(run, outcome)
    rated = rating_tables(run, outcome)
    if not outcome.classes:
        return rated
    # Of both: the tables of classes, and beside them the ratings; scores of both stand in one table.
    import pyarrow as pa

    tables = _class_tables(run, outcome)
    return tables | {RATED: rated[RATED], "metrics": pa.concat_tables([tables["metrics"], rated["metrics"]])}


def _class_tables(run: Mapping[str, Any], outcome: RunOutcome) -> dict[str, pa.Table]:
    """Return the tables of a run on classes; of dimensions beside them nothing."""
    import pyarrow as pa

    K = len(outcome.classes)
    classes, labels, utterances = outcome.classes, outcome.labels, outcome.utterances
    predictions, metrics, confusion = [], [], []
    for selected in outcome.selections:
        at = selected.segment_utterance
        for level, truth, probabilities, names, numbers in (
            ("utterance", labels, selected.utterances[:, :K], utterances, None),
            ("segment", labels[at], selected.segments[:, :K], [utterances[u] for u in at], selected.segment_number),
        ):
            key = {"run_id": run["run_id"], "fold": run["fold"], "selection": selected.selection, "level": level}
            predictions.append(_prediction_table(key, classes, names, truth, probabilities, numbers))
            scored = scores(truth, probabilities.argmax(axis=1), len(classes))
            metrics += _metric_rows(key | {"epoch": selected.epoch}, scored, classes)
            # Zeros too: a confusion matrix is K x K rows whatever was predicted, so that sums over folds need no joins.
            confusion += [
                key | {"label": a, "predicted": b, "count": scored.confusion[i][j]}
                for i, a in enumerate(classes)
                for j, b in enumerate(classes)
            ]
    history = [{"run_id": run["run_id"], **row} for row in outcome.history]
    return {
        "history": pa.Table.from_pylist(history, schema=columns_of("history")),
        # A run on all labelled utterances was tested on none.
        "predictions": pa.concat_tables(predictions) if predictions else columns_of("predictions").empty_table(),
        "metrics": pa.Table.from_pylist(metrics, schema=columns_of("metrics")),
        "confusion": pa.Table.from_pylist(confusion, schema=columns_of("confusion")),
    }


# A run that is trained again.


def _beside(cache: Cache, run_id: str) -> tuple[Path, Path]:
    """Return the hidden folders in which a run is trained again, and in which the old one lies for a moment."""
    return cache.runs / f".{run_id}{AGAIN}", cache.runs / f".{run_id}{BEFORE}"


def _go_on_with_exchange(cache: Cache, run_id: str, note: Callable[[str], None]) -> bool:
    """Put a run that was trained again, and is finished, in the place of the old one; return whether there was one.

    Two renames, the old one away and the new one into its place; whichever a kill leaves undone is done by the next who comes.
    """
    # Every state that a kill can leave is told from which of the three folders are there and whether the new
    # one is finished; nothing has to be remembered elsewhere.
    live = run_folder(cache, run_id)
    new, old = _beside(cache, run_id)
    done = False
    with contextlib.suppress(TfserError):  # none, or damaged: `begin` sees to it
        done = read_run(new, weights=True) is not None
    if not done:
        if old.is_dir() and os.path.lexists(live):  # the exchange was through but for this
            shutil.rmtree(old, ignore_errors=True)
        elif old.is_dir():
            old.rename(live)
        return False
    try:
        shutil.rmtree(new / "checkpoint", ignore_errors=True)
        if os.path.lexists(live):
            try:
                finished(cache, run_id)
            except TfserError as error:  # nobody knows what it is worth: it is kept
                note(f"{error}; it is moved to {cache.put_away(live)}, and the run that was trained again takes its place")
            else:
                shutil.rmtree(old, ignore_errors=True)
                live.rename(old)
        new.rename(live)
        fsync_path(cache.runs)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise TfserError(f"{live}: cannot be exchanged for {new} ({error.strerror}); the same command goes on") from error
    return True


# Weights.


def save_model(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write trained weights with their normalisation as safetensors, sealed; run.json beside it says what they are of."""
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={KEY: EMPTY})
    write_bytes(path, sealed(content, place(path.parent, path.name)))


def read_model(cache: Cache, run: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the weights that a finished run keeps in a file.

    Raises:
        DamagedError: if it is missing or not what was written.
        UnreadableError: if it cannot be read now.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = run_folder(cache, run["run_id"])
    content, is_sealed = read_file(folder, name, run.get("files") or {})
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        kind = UnreadableError if is_sealed else DamagedError  # what is sealed was written so, by another version
        raise kind(f"holds no weights ({error})", at=folder / name) from error


def _prediction_table(
    key: Mapping[str, Any],
    classes: Sequence[str],
    names: Sequence[tuple[str, str]],
    truth: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    numbers: npt.NDArray[np.int64] | None,
) -> pa.Table:
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


def _metric_rows(key: Mapping[str, Any], scores: Scores, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {**key, "metric": name, "class": None, "value": getattr(scores, name)} for name in ("WA", "UA", "WF1", "macro_F1")
    ]
    rows += [
        {**key, "metric": "recall", "class": name, "value": value}
        for name, value in zip(classes, scores.recall, strict=True)
        if value is not None
    ]
    return rows
