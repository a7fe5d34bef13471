"""The tables of a run beside one another: confusion counts and scores are computed again from the predictions.

What comes in: what run.json says, and the four tables with the catalogue's columns. What goes out: nothing, or a `DamagedError`
that names the file and its first difference. Every row must be there: each test utterance once under every selection, all of its
segments, all epochs, all scores and counts. So a changed bit in a run without seals is noticed where it changes a result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import DamagedError

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = npt.NDArray[np.int64]
Counted = Mapping[tuple[str, str], Numbers]
"""Counts (K, K) of true and predicted classes, by selection and level."""

_CLOSE, _BARELY = 1e-9, 1e-6
"""Scores that are computed again differ from those of the files by less than the first, shares that are stored by the second:
probabilities are float32."""


def check_agreement(folder: Path, run_json: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
    """Refuse a run whose files contradict one another, or lack rows.

    Raises:
        DamagedError: naming the file and what is wrong.
    """
    check_owner(folder, run_json, tables)
    history = _check_history(folder, run_json, tables["history"])
    if run_json.get("fold") == 0:  # trained on all labelled utterances, tested on none
        for name in ("predictions", "confusion", "metrics"):
            if tables[name].num_rows:
                raise DamagedError("has rows, of a run that was tested on nothing", at=folder / f"{name}.parquet")
        return
    counted, classes = _check_predictions(folder / "predictions.parquet", run_json, tables["predictions"])
    _check_confusion(folder / "confusion.parquet", tables["confusion"], counted, classes)
    _check_metrics(folder / "metrics.parquet", tables["metrics"], counted, classes, history)


def check_owner(folder: Path, run_json: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
    """Refuse tables with rows of another run or fold.

    Raises:
        DamagedError: naming the file.
    """
    for name, table in tables.items():
        for column, value in (("run_id", run_json.get("run_id")), ("fold", run_json.get("fold"))):
            if column in table.column_names and set(table[column].unique().to_pylist()) - {value}:
                other = "run" if column == "run_id" else "fold"
                raise DamagedError(f"has rows of another {other}", at=folder / f"{name}.parquet")


def check_epochs(path: Path, run_json: Mapping[str, Any], table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a history that has every epoch once, in order.

    Raises:
        DamagedError: it has not.
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    if [row["epoch"] for row in rows] != list(range(1, (run_json.get("epochs") or len(rows)) + 1)):
        raise DamagedError(f"{len(rows)} epochs of {run_json.get('epochs')} are there, or out of order", at=path)
    return rows


def _check_history(folder: Path, run_json: Mapping[str, Any], table: pa.Table) -> list[dict[str, Any]]:
    path = folder / "history.parquet"
    rows = check_epochs(path, run_json, table)
    for row in rows:
        for name, value in row.items():
            share = name.endswith(("_WA", "_UA", "_WF1"))
            if isinstance(value, float) and not (0 <= value <= 1 if share else math.isfinite(value)):
                raise DamagedError(f"{name} of epoch {row['epoch']} is {value}", at=path)
    return rows


def _check_predictions(path: Path, run_json: Mapping[str, Any], table: pa.Table) -> tuple[Counted, list[str]]:
    """Return the counts of true and predicted classes, and the K classes."""
    if not table.num_rows:
        raise DamagedError("has no rows", at=path)
    values, classes = _probabilities(path, run_json, table)
    label, predicted = (_codes(path, table, name, classes)[0] for name in ("label", "predicted"))
    selection, selections = _codes(path, table, "selection")
    level, levels = _codes(path, table, "level")
    if set(levels) - {"utterance", "segment"}:
        raise DamagedError(f"the level of a row is {levels[0]!r}", at=path)
    if (values[np.arange(len(values)), predicted] < values.max(axis=1)).any():
        raise DamagedError("a row's predicted class is not its most probable one", at=path)

    # Who was tested: the same utterances under every selection and at both levels, each with one label.
    who, people = _utterances(path, table)
    part = table["segment"].combine_chunks()
    if (np.asarray(part.is_valid()) != (np.array(levels)[level] == "segment")).any():
        raise DamagedError("a row has a segment's number and is none, or is one and has none", at=path)
    segment = part.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    true = np.full(people, -1)
    true[who] = label
    if (true[who] != label).any():
        raise DamagedError("an utterance has two true classes", at=path)
    K, counted = len(classes), dict[tuple[str, str], Numbers]()
    for s, e in sorted(set(zip(selection.tolist(), level.tolist(), strict=True))):
        rows = (selection == s) & (level == e)
        tested = np.bincount(who[rows], minlength=people)
        if not tested.all() or (levels[e] == "utterance" and (tested != 1).any()):
            raise DamagedError(f"{selections[s]}, {levels[e]}: not every one of {people} utterances is there once", at=path)
        # Numbers from 0 on, none twice: then the largest is one less than their number, and they add up to what they must.
        last, total = np.zeros(people, dtype=np.int64), np.zeros(people, dtype=np.int64)
        np.maximum.at(last, who[rows], segment[rows])
        np.add.at(total, who[rows], segment[rows])
        if (last != tested - 1).any() or (total != tested * (tested - 1) // 2).any():
            raise DamagedError(f"{selections[s]}: segments of an utterance are missing, or are there twice", at=path)
        counted[selections[s], levels[e]] = np.bincount(label[rows] * K + predicted[rows], minlength=K * K).reshape(K, K)
    if "last" not in selections or "utterance" not in levels or len(counted) != len(selections) * len(levels):
        raise DamagedError("a selection or a level is missing", at=path)
    return counted, classes


def _codes(path: Path, table: pa.Table, name: str, given: Sequence[str] | None = None) -> tuple[Numbers, list[str]]:
    """Return a column's values as numbers into a list: the one that is given, or that of the values."""
    column = table[name].combine_chunks()
    if column.null_count:
        raise DamagedError(f"{name} is empty in a row", at=path)
    encoded = column.dictionary_encode()
    found = encoded.dictionary.to_pylist()
    names = list(given) if given is not None else sorted(found)
    if odd := sorted(set(found) - set(names)):
        raise DamagedError(f"{name} is {odd[0]!r}, none of the classes {', '.join(names)}", at=path)
    numbers = np.array([names.index(of) for of in found], dtype=np.int64)
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)], names


def _probabilities(path: Path, run_json: Mapping[str, Any], table: pa.Table) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return the probabilities (n, K), which are numbers from 0 to 1 that add up to 1 in each row, and the K classes."""
    maps = table["probabilities"].combine_chunks()
    lengths = np.diff(maps.offsets.to_numpy())
    stated = run_json.get("classes")  # runs of early versions do not list them
    classes = list(stated) if isinstance(stated, list) and stated else maps.keys[: int(lengths[0])].to_pylist()
    K, start = len(classes), maps.offsets[0].as_py()
    if maps.null_count or not K or (lengths != K).any():
        raise DamagedError(f"a row has no probabilities of {K} classes", at=path)
    names = maps.keys[start : start + K * len(maps)].dictionary_encode()
    order = names.indices.to_numpy(zero_copy_only=False).reshape(-1, K)
    if (order != order[0]).any() or [names.dictionary[int(i)].as_py() for i in order[0]] != classes:
        raise DamagedError(f"the probabilities of a row are of other classes than {', '.join(map(str, classes))}", at=path)
    values = maps.items[start : start + K * len(maps)].to_numpy(zero_copy_only=False).reshape(-1, K)
    if not np.isfinite(values).all():
        raise DamagedError(f"{int((~np.isfinite(values)).any(axis=1).sum())} of its predictions are no numbers", at=path)
    if (values < -_BARELY).any() or (values > 1 + _BARELY).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
        raise DamagedError("the probabilities of a row do not add up to 1", at=path)
    return values, classes


def _utterances(path: Path, table: pa.Table) -> tuple[Numbers, int]:
    """Return for each row a number of its utterance, and how many there are."""
    pair = []
    for name in ("corpus", "utterance_id"):
        column = table[name].combine_chunks()
        if column.null_count:
            raise DamagedError(f"{name} is empty in a row", at=path)
        pair.append(column.dictionary_encode())
    numbers = [of.indices.to_numpy(zero_copy_only=False).astype(np.int64) for of in pair]
    _, who = np.unique(numbers[0] * len(pair[1].dictionary) + numbers[1], return_inverse=True)
    return who, int(who.max()) + 1


def _check_confusion(path: Path, table: pa.Table, counted: Counted, classes: Sequence[str]) -> None:
    stored = {(r["selection"], r["level"], r["label"], r["predicted"]): r["count"] for r in table.to_pylist()}
    wanted = {
        (*key, a, b): int(counts[i, j])
        for key, counts in counted.items()
        for i, a in enumerate(classes)
        for j, b in enumerate(classes)
    }
    if stored != wanted or table.num_rows != len(wanted):
        raise DamagedError(f"{_difference(stored, wanted)}", at=path)


def _check_metrics(
    path: Path,
    table: pa.Table,
    counted: Counted,
    classes: Sequence[str],
    history: Sequence[Mapping[str, Any]],
) -> None:
    rows = table.to_pylist()
    stored = {(r["selection"], r["level"], r["metric"], r["class"]): r["value"] for r in rows}
    # Nothing that is stored is believed: scores and counts follow from the predictions, which vouch for runs of
    # the versions that had no seals.
    wanted = {(*key, *name): value for key, counts in counted.items() for name, value in _scores(counts, classes).items()}
    close = stored.keys() == wanted.keys() and all(
        stored[key] is not None and abs(stored[key] - value) <= _CLOSE for key, value in wanted.items()
    )
    if not close or len(rows) != len(wanted):
        raise DamagedError(f"{_difference(stored, wanted)}", at=path)
    epochs = {(r["selection"], r["epoch"]) for r in rows}
    if len(epochs) != len({selection for selection, _ in epochs}):
        raise DamagedError("the rows of a selection are of several epochs", at=path)
    for selection, epoch in epochs:
        if epoch is None or not 1 <= epoch <= len(history) or (selection == "last" and epoch != len(history)):
            raise DamagedError(f"{selection} is of epoch {epoch}, and {len(history)} were trained", at=path)
        for name in ("WA", "UA"):
            then, now = history[epoch - 1][f"test_{name}"], wanted[selection, "utterance", name, None]
            if then is not None and abs(then - now) > _BARELY:
                raise DamagedError(f"{name} of {selection} is {now:.4f}, and {then:.4f} in history.parquet", at=path)


def _scores(counts: Numbers, classes: Sequence[str]) -> dict[tuple[str, str | None], float]:
    """Return the scores that stored counts must have: here in words of its own, as a second account of
    `tfser.heads.spec.metrics`."""
    total, weighted = int(counts.sum()), 0.0
    scores: dict[tuple[str, str | None], float] = {}
    recalls: list[float] = []
    parts: list[float] = []
    for k, name in enumerate(classes):
        true, said, hit = int(counts[k].sum()), int(counts[:, k].sum()), int(counts[k, k])
        f1 = 2 * hit / (true + said) if true + said else 0.0
        parts += [f1] if true + said else []
        weighted += f1 * true
        if true:
            recalls.append(hit / true)
            scores["recall", name] = hit / true
    scores["WA", None] = sum(int(counts[k, k]) for k in range(len(classes))) / total
    scores["UA", None] = sum(recalls) / len(recalls)
    scores["WF1", None] = weighted / total
    scores["macro_F1", None] = sum(parts) / len(parts)
    return scores


def _difference(stated: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> str:
    """Say in words what is the first difference of stored numbers from those of the predictions."""
    for key, value in wanted.items():
        if key not in stated:
            return f"lacks {', '.join(str(of) for of in key if of is not None)}"
        if stated[key] is None or abs(stated[key] - value) > _CLOSE:
            words = ", ".join(str(of) for of in key if of is not None)
            return f"says {stated[key]} of {words}, and by the predictions it is {value:.6g}"
    return "has a row too many"
