"""Runs as they lie on disk, read whole: every file is what was written, and the files agree with one another.

What comes in: the folder of a run. What goes out: what the run says of itself and the rows of its tables, fit for the catalogue;
nothing for a run that is not finished. A finished run's `run.json` is sealed and lists the SHA-256 of each of its other files.
Runs of the versions before have neither; of those, and of all others too, the tables are compared: confusion counts and
scores are computed again from the predictions, and no row may be missing. Nothing here writes.

What was read and does not fit is a `DamagedError`; whatever could not be read, or is of a newer version, an `UnreadableError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfser.manifests import files, schema, seals
from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("history", "predictions", "metrics", "confusion")
"""Tables of a run, each one Parquet file of that name in the run's folder."""

AGAIN, BEFORE = ".again", ".before"
"""How the folders are called, after the run's id and hidden, in which a run is trained again, and the old one goes meanwhile."""

_CLOSE = 1e-6
"""Scores that are computed again differ from those of the files by less; probabilities are float32 and add up to 1 so."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A finished run: the content of run.json, and its tables with exactly the catalogue's columns."""

    about: dict[str, Any]
    tables: Mapping[str, pa.Table]


def place(folder: Path, name: str) -> str:
    """Return what the seal of a run's file is bound to; a run that is trained again is sealed for where it will lie."""
    return f"runs/{run_of(folder)}/{name}"


def run_of(folder: Path) -> str:
    """Return the id of the run that a folder is of, also where it is trained again beside the old one."""
    name = folder.name
    return name[1:].removesuffix(AGAIN).removesuffix(BEFORE) if name.startswith(".") else name


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of run.json.

    Raises:
        DamagedError: if it is not what was written, or describes no run or another one.
        UnreadableError: if it cannot be read now, or is missing (`MissingFileError`).
    """
    path = folder / "run.json"
    about = files.read_json(path, place=place(folder, "run.json"))
    if not isinstance(about, dict) or "status" not in about:
        raise DamagedError(f"{path}: it describes no run")
    if about.get("run_id", run_of(folder)) != run_of(folder):
        raise DamagedError(f"{path}: it describes the run {about['run_id']!r}")
    return about


def read_run(folder: Path, *, weights: bool = False) -> StoredRun | None:
    """Return a finished run that is whole; None where it is not finished.

    Args:
        folder: of the run.
        weights: look at its weights, too.

    Raises:
        DamagedError: if a file is missing or is not what was written, or they contradict one another.
        UnreadableError: if a file cannot be read now or understood, or run.json is missing (`MissingFileError`).
    """
    for last in (False, False, True):
        before = files.read_bytes(folder / "run.json")
        try:
            return _read(folder, weights)
        except DamagedError:
            # Exchanged for a new one while it was read: that is no damage.
            if last or files.read_bytes(folder / "run.json") == before:
                raise
    raise AssertionError  # the last round returns or raises


def damage(folder: Path, *, weights: bool = True) -> str | None:
    """Return in one line why a run is damaged; None for one that is whole or still at work.

    Raises:
        UnreadableError: if that cannot be told now, or run.json is missing (`MissingFileError`).
    """
    try:
        read_run(folder, weights=weights)
    except DamagedError as error:
        return shown(folder, error)
    return None


def shown(folder: Path, error: BaseException) -> str:
    """Return an error's line with the run's files called as in its folder."""
    return " ".join(str(error).split()).replace(f"{folder}/", "")


def problems(cache: Cache) -> Iterator[tuple[Path, TfserError]]:
    """Yield each folder below runs/ that is no whole run or one at work, with a `DamagedError`, or why it could not be looked at.

    What an exchange of runs left behind (killed, or at work now) is listed as damaged as well: nothing needs it.
    """
    for folder in sorted(cache.runs.glob("*")):
        if folder.name.startswith(".") and folder.name.endswith((AGAIN, BEFORE)):
            yield folder, DamagedError(
                f"{folder}: left by a training with --again that was killed, which goes on with the same command (or is at work now)"
            )
        elif not folder.name.startswith("."):
            try:
                if not folder.is_dir():
                    raise DamagedError(f"{folder}: no folder of a run")
                check_begun(folder)
                read_run(folder, weights=True)
            except MissingFileError:  # removed just now, or nothing is in it yet
                continue
            except TfserError as error:
                yield folder, error
            except OSError as error:
                yield folder, files.could_not_read(folder, error)


def check_begun(folder: Path) -> None:
    """Refuse a folder that holds results and no run.json.

    Raises:
        DamagedError: if there is no run.json, and anything else but temporary files and a checkpoint.
    """
    if not os.path.lexists(folder / "run.json"):
        left = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != "checkpoint")
        if left and not os.path.lexists(folder / "run.json"):  # still: it is written first
            raise DamagedError(f"{folder / 'run.json'}: is missing, beside {', '.join(left)}")


def _read(folder: Path, weights: bool) -> StoredRun | None:
    about = read_about(folder)
    if about["status"] != "finished":
        return None
    _check_values(folder, about)
    listed = about.get("files")
    digests: dict[str, str] = listed if isinstance(listed, dict) else {}
    tables = {name: _read_table(folder, name, digests) for name in TABLES}
    if weights:
        for name in digests.keys() - {f"{table}.parquet" for table in TABLES}:
            read_file(folder, name, digests)
    check_agreement(folder, about, tables)
    return StoredRun(about=about, tables=tables)


def read_file(folder: Path, name: str, digests: Mapping[str, str]) -> tuple[bytes, bool]:
    """Return the content of a file of a finished run, and whether it has a seal.

    Raises:
        DamagedError: if it is missing or not what was written.
        UnreadableError: if it cannot be read now.
    """
    path = folder / name
    try:
        content = files.read_bytes(path)
    except MissingFileError as error:
        files.read_bytes(folder / "run.json")  # gone as well: somebody removes the run
        raise DamagedError(f"{path}: is missing") from error
    if name in digests and hashlib.sha256(content).hexdigest() != digests[name]:
        raise DamagedError(f"{path}: its content is not what was written there")
    return content, seals.is_sealed(content, place(folder, name), str(path))


def _read_table(folder: Path, name: str, digests: Mapping[str, str]) -> pa.Table:
    """Return a table of a run with exactly the columns of the catalogue's; those that are younger than the run are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{name}.parquet"
    content, is_sealed = read_file(folder, path.name, digests)
    files.check_parquet(path, content)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise files.could_not_read(path, error) from error
    wanted = columns_of(name)
    if unknown := sorted(set(table.column_names) - set(wanted.names)):
        raise UnreadableError(f"{path}: has a column {unknown[0]!r} that this version of tfser does not know")
    arrays = []
    for field in wanted:
        if field.name not in table.column_names:
            arrays.append(pa.nulls(len(table), field.type))
            continue
        try:
            arrays.append(table[field.name].cast(field.type))
        except (pa.ArrowException, ValueError) as error:
            # What is sealed was written so, by another version; what is not may be anything.
            kind = UnreadableError if is_sealed else DamagedError
            raise kind(f"{path}: its column {field.name} does not hold {field.type} ({first_line(error)})") from error
    return pa.table(arrays, schema=wanted)


def columns_of(table: str) -> pa.Schema:
    """Return the Arrow schema of one of the catalogue's tables of runs."""
    import pyarrow as pa

    kinds = {
        "VARCHAR": pa.string(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "MAP(VARCHAR,DOUBLE)": pa.map_(pa.string(), pa.float64()),
    }
    columns = next(t.columns for t in schema.TABLES if t.name == table)
    return pa.schema([(name, kinds[kind]) for name, kind, _ in columns])


def row_of(about: Mapping[str, Any]) -> list[Any]:
    """Return a run's row of the catalogue's table; null where a column is younger than the run."""
    columns = next(t.columns for t in schema.TABLES if t.name == "runs")
    values = [about.get(name) for name, _, _ in columns]
    return [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]


def _check_values(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a run.json whose values do not fit the catalogue's columns."""
    most = {"INTEGER": 2**31, "BIGINT": 2**63}
    for name, kind, _ in next(t.columns for t in schema.TABLES if t.name == "runs"):
        value = about.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind == "VARCHAR":
            fits = isinstance(value, (str, dict, list))
        elif kind == "DOUBLE":
            fits = number and math.isfinite(value)
        else:
            fits = number and isinstance(value, int) and -most[kind] <= value < most[kind]
        if not fits:
            raise DamagedError(f"{folder / 'run.json'}: {name} is {str(value)[:40]}, which is out of range or no {kind}")


# What the files say of one another.


def check_agreement(folder: Path, about: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
    """Refuse a run whose files contradict one another, or lack rows.

    Raises:
        DamagedError: naming the file and what is wrong.
    """
    for name, table in tables.items():
        for column, value in (("run_id", about.get("run_id")), ("fold", about.get("fold"))):
            if column in table.column_names and set(table[column].unique().to_pylist()) - {value}:
                raise DamagedError(f"{folder / name}.parquet: has rows of another {'run' if column == 'run_id' else 'fold'}")
    history = _check_history(folder, about, tables["history"])
    counted, classes = _check_predictions(folder / "predictions.parquet", about, tables["predictions"])
    _check_confusion(folder / "confusion.parquet", tables["confusion"], counted, classes)
    _check_metrics(folder / "metrics.parquet", tables["metrics"], counted, classes, history)


def _check_history(folder: Path, about: Mapping[str, Any], table: pa.Table) -> list[dict[str, Any]]:
    path = folder / "history.parquet"
    rows: list[dict[str, Any]] = table.to_pylist()
    if [row["epoch"] for row in rows] != list(range(1, (about.get("epochs") or len(rows)) + 1)):
        raise DamagedError(f"{path}: {len(rows)} epochs of {about.get('epochs')} are there, or out of order")
    for row in rows:
        for name, value in row.items():
            share = name.endswith(("_WA", "_UA", "_WF1"))
            if isinstance(value, float) and not (0 <= value <= 1 if share else math.isfinite(value)):
                raise DamagedError(f"{path}: {name} of epoch {row['epoch']} is {value}")
    return rows


def _check_predictions(
    path: Path, about: Mapping[str, Any], table: pa.Table
) -> tuple[dict[tuple[str, str], Any], list[str]]:
    """Return the counts (K, K) of true and predicted classes by selection and level, and the K classes."""
    import numpy as np
    import pyarrow as pa

    def codes(name: str, known: Sequence[str] | None = None) -> tuple[Any, list[str]]:
        """Return a column's values as numbers into a list."""
        column = table[name].combine_chunks()
        if column.null_count:
            raise DamagedError(f"{path}: {name} is empty in a row")
        encoded = column.dictionary_encode()
        found = encoded.dictionary.to_pylist()
        names = list(known) if known is not None else sorted(found)
        if odd := sorted(set(found) - set(names)):
            raise DamagedError(f"{path}: {name} is {odd[0]!r}, none of the classes {', '.join(names)}")
        numbers = np.array([names.index(of) for of in found], dtype=np.int64)
        return numbers[encoded.indices.to_numpy(zero_copy_only=False)], names

    if not table.num_rows:
        raise DamagedError(f"{path}: has no rows")
    stated = about.get("classes")
    # Runs of early versions do not list their classes: then it is those of the probabilities.
    maps = table["probabilities"].combine_chunks()
    maps = maps.combine_chunks() if isinstance(maps, pa.ChunkedArray) else maps
    lengths = np.diff(maps.offsets.to_numpy())
    classes = list(stated) if isinstance(stated, list) and stated else maps.keys[: int(lengths[0])].to_pylist()
    K = len(classes)
    label, _ = codes("label", classes)
    predicted, _ = codes("predicted", classes)
    selection, selections = codes("selection")
    level, levels = codes("level")
    if set(levels) - {"utterance", "segment"}:
        raise DamagedError(f"{path}: the level of a row is {levels[0]!r}")

    # Probabilities: of every class, numbers from 0 to 1 that add up to 1, the largest that of the class that was predicted.
    if maps.null_count or (lengths != K).any():
        raise DamagedError(f"{path}: a row has no probabilities of {K} classes")
    start = maps.offsets[0].as_py()
    names = maps.keys[start : start + K * len(maps)].dictionary_encode()
    order = names.indices.to_numpy(zero_copy_only=False).reshape(-1, K)
    if (order != order[0]).any() or [names.dictionary[int(i)].as_py() for i in order[0]] != classes:
        raise DamagedError(f"{path}: the probabilities of a row are of other classes than {', '.join(classes)}")
    values = maps.items[start : start + K * len(maps)].to_numpy(zero_copy_only=False).reshape(-1, K)
    if not np.isfinite(values).all():
        raise DamagedError(f"{path}: {int((~np.isfinite(values)).any(axis=1).sum())} of its predictions are no numbers")
    if (values < -_CLOSE).any() or (values > 1 + _CLOSE).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        raise DamagedError(f"{path}: the probabilities of a row do not add up to 1")
    if (values[np.arange(len(values)), predicted] < values.max(axis=1)).any():
        raise DamagedError(f"{path}: a row's predicted class is not its most probable one")

    # Who was tested: the same utterances under every selection and at both levels, each once, with one label.
    who, people = _utterances(path, table)
    part = table["segment"].combine_chunks()
    at_segment = np.array(levels)[level] == "segment"
    if (np.asarray(part.is_valid()) != at_segment).any():
        raise DamagedError(f"{path}: a row has a segment's number and is none, or is one and has none")
    segment = part.fill_null(0).to_numpy(zero_copy_only=False)
    true: Any = np.full(people, -1)
    true[who] = label
    if (true[who] != label).any():
        raise DamagedError(f"{path}: an utterance has two true classes")
    counted: dict[tuple[str, str], Any] = {}
    for s, l in sorted(set(zip(selection.tolist(), level.tolist(), strict=True))):
        rows = (selection == s) & (level == l)
        tested = np.bincount(who[rows], minlength=people)
        if not tested.all() or (levels[l] == "utterance" and (tested != 1).any()):
            raise DamagedError(f"{path}: {selections[s]}, {levels[l]}: {people} utterances were tested, not all of them are there once")
        # Numbers from 0 on, none twice: then the largest is one less than their number, and they add up to what they must.
        last, total = np.zeros(people, dtype=np.int64), np.zeros(people, dtype=np.int64)
        np.maximum.at(last, who[rows], segment[rows])
        np.add.at(total, who[rows], segment[rows])
        if (last != tested - 1).any() or (total != tested * (tested - 1) // 2).any():
            raise DamagedError(f"{path}: {selections[s]}: segments of an utterance are missing, or are there twice")
        pairs = np.bincount(label[rows] * K + predicted[rows], minlength=K * K)
        counted[selections[s], levels[l]] = pairs.reshape(K, K)
    if "last" not in selections or len(counted) != len(selections) * len(levels) or "utterance" not in levels:
        raise DamagedError(f"{path}: a selection or a level is missing")
    return counted, classes


def _utterances(path: Path, table: pa.Table) -> tuple[Any, int]:
    """Return for each row a number of its utterance, and how many there are."""
    import numpy as np

    pair = []
    for name in ("corpus", "utterance_id"):
        column = table[name].combine_chunks()
        if column.null_count:
            raise DamagedError(f"{path}: {name} is empty in a row")
        pair.append(column.dictionary_encode())
    numbers = [of.indices.to_numpy(zero_copy_only=False).astype(np.int64) for of in pair]
    _, who = np.unique(numbers[0] * len(pair[1].dictionary) + numbers[1], return_inverse=True)
    return who, int(who.max()) + 1


def _check_confusion(path: Path, table: pa.Table, counted: Mapping[tuple[str, str], Any], classes: Sequence[str]) -> None:
    found = {(r["selection"], r["level"], r["label"], r["predicted"]): r["count"] for r in table.to_pylist()}
    wanted = {
        (*key, a, b): int(counts[i, j])
        for key, counts in counted.items()
        for i, a in enumerate(classes)
        for j, b in enumerate(classes)
    }
    if found != wanted or table.num_rows != len(wanted):
        raise DamagedError(f"{path}: {_difference(found, wanted)}")


def _check_metrics(
    path: Path,
    table: pa.Table,
    counted: Mapping[tuple[str, str], Any],
    classes: Sequence[str],
    history: Sequence[Mapping[str, Any]],
) -> None:
    rows = table.to_pylist()
    found = {(r["selection"], r["level"], r["metric"], r["class"]): r["value"] for r in rows}
    wanted = {(*key, *name): value for key, counts in counted.items() for name, value in _scores(counts, classes).items()}
    close = found.keys() == wanted.keys() and all(
        found[key] is not None and abs(found[key] - value) <= _CLOSE for key, value in wanted.items()
    )
    if not close or len(rows) != len(wanted):
        raise DamagedError(f"{path}: {_difference(found, wanted)}")
    epochs = {(r["selection"], r["epoch"]) for r in rows}
    if len(epochs) != len({selection for selection, _ in epochs}):
        raise DamagedError(f"{path}: the rows of a selection are of several epochs")
    for selection, epoch in epochs:
        if epoch is None or not 1 <= epoch <= len(history) or (selection == "last" and epoch != len(history)):
            raise DamagedError(f"{path}: {selection} is of epoch {epoch}, and {len(history)} were trained")
        for name in ("WA", "UA"):
            then, now = history[epoch - 1][f"test_{name}"], wanted[selection, "utterance", name, None]
            if then is not None and abs(then - now) > _CLOSE:
                raise DamagedError(f"{path}: {name} of {selection} is {now:.4f}, and {then:.4f} in history.parquet")


def _scores(counts: Any, classes: Sequence[str]) -> dict[tuple[str, str | None], float]:
    """Return the scores that stored counts must have: here in words of its own, as a second account of `tfser.heads.metrics`."""
    total, found = int(counts.sum()), {}
    recalls, parts, weighted = [], [], 0.0
    for k, name in enumerate(classes):
        true, said, hit = int(counts[k].sum()), int(counts[:, k].sum()), int(counts[k, k])
        f1 = 2 * hit / (true + said) if true + said else 0.0
        parts += [f1] if true + said else []
        weighted += f1 * true
        if true:
            recalls.append(hit / true)
            found["recall", name] = hit / true
    scores: dict[tuple[str, str | None], float] = {**found}
    scores["WA", None] = sum(int(counts[k, k]) for k in range(len(classes))) / total
    scores["UA", None] = sum(recalls) / len(recalls)
    scores["WF1", None] = weighted / total
    scores["macro_F1", None] = sum(parts) / len(parts)
    return scores


def _difference(found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    """Say in words what is the first difference of stored numbers from those of the predictions."""
    for key, value in wanted.items():
        if key not in found:
            return f"lacks {', '.join(str(of) for of in key if of is not None)}"
        if found[key] is None or abs(found[key] - value) > _CLOSE:
            words = ", ".join(str(of) for of in key if of is not None)
            return f"says {found[key]} of {words}, and by the predictions it is {value:.6g}"
    return "has a row too many"


def first_line(error: BaseException) -> str:
    """Return the head of a library's message."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())
