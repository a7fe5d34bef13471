"""The figure of epochs: how the runs of an experiment went, which epochs were chosen, and what looking at the test side is worth.

In goes a contender (`tfser.heads.reports.material`); out comes `FigureData`: what runs stored of each epoch, and the SQL that
gives it. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfser.heads.reports.figure_data import FigureData, Numbers, percent_of, text_of
from tfser.heads.reports.material import Contender
from tfser.heads.results.marks import explain_marks
from tfser.heads.spec.selections import ORDER_SQL, peeks
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError


def curves(connection: Connection, contender: Contender) -> FigureData:
    """Return the UA of every fold and seed after each epoch, which epochs each selection took, and what looking is worth.

    Raises:
        UsageError: The head is fitted at once: there are no epochs, or the history of its runs has no UA.
    """
    scores = (
        f"FROM fold_scores\nWHERE experiment = {text_of(contender.experiment)} AND level = 'utterance' "
        "AND selection IN ('last', 'val', 'test-oracle')\n"
    )
    history_sql, history = _history(connection, contender)
    chosen_sql = f"SELECT seed, fold, selection, epoch, UA {scores}ORDER BY {ORDER_SQL}, seed, fold"
    chosen = rows(connection, chosen_sql)
    gaps_sql = (
        f"SELECT selection, avg(UA ORDER BY seed, fold) AS UA, count(*) AS runs {scores}GROUP BY selection ORDER BY {ORDER_SQL}"
    )
    # The gap is between means over the same runs: what looking at the test fold would have been worth.
    gaps = rows(connection, gaps_sql)
    reading, gap = _gap_in_words(gaps)
    return FigureData(
        kind="curves",
        title=f"Epoch by epoch: {contender.name}{contender.mark}",
        reading=reading,
        numbers=(
            Numbers(
                title="UA after each epoch",
                sql=history_sql,
                rows=tuple(history),
                checked=("seed", "fold", "epoch", "test_UA", "val_UA", "loss"),
            ),
            Numbers(
                title="chosen epochs", sql=chosen_sql, rows=tuple(chosen), checked=("seed", "fold", "selection", "epoch", "UA")
            ),
            Numbers(title="means over folds and seeds", sql=gaps_sql, rows=tuple(gaps), checked=("selection", "UA", "runs")),
        ),
        notes=tuple(explain_marks([*({**contender.row, "selection": row["selection"]} for row in gaps)])),
        details={"gap": gap},
    )


def _history(connection: Connection, contender: Contender) -> tuple[str, list[dict[str, Any]]]:
    """Return the epochs of an experiment's runs, and the SQL that gives them.

    Raises:
        UsageError: They are too few for a curve.
    """
    sql = (
        "SELECT r.seed, r.fold, h.epoch, h.test_UA, h.val_UA, h.loss\n"
        f"FROM history h JOIN runs r USING (run_id) WHERE r.experiment = {text_of(contender.experiment)}\n"
        "ORDER BY r.seed, r.fold, h.epoch"
    )
    epochs = rows(connection, sql)
    # Runs of before the columns have epochs without UA: they are no curve, and no zero.
    scored = [row for row in epochs if row["test_UA"] is not None or row["val_UA"] is not None]
    if len({row["epoch"] for row in scored}) < 2:
        raise UsageError(
            f"{contender.experiment}: no epochs to draw: the head is fitted at once, or its runs kept no UA by epoch"
        )
    return sql, epochs


def _gap_in_words(gaps: Sequence[Mapping[str, Any]]) -> tuple[str, float | None]:
    """Say what each selection scores on average, and return by how many points looking at the test fold is above `last`."""
    value = {row["selection"]: row["UA"] for row in gaps}
    gap = None if None in (value.get("last"), value.get("test-oracle")) else 100 * (value["test-oracle"] - value["last"])
    said = ", ".join(f"{row['selection']}{'†' if peeks(row['selection']) else ''} {percent_of(row['UA'])} %" for row in gaps)
    reading = f"Mean UA over folds and seeds: {said}."
    if gap is not None:
        reading += f" Choosing the epoch on the test fold adds {gap:.1f} points that no new speaker would see."
    return reading, gap


def mean_curve(found: Sequence[Mapping[str, Any]], column: str) -> tuple[list[int], list[float]]:
    """Return epochs and the mean over folds and seeds of a column; epochs that not all of them have are left out."""
    by_epoch: dict[int, list[float]] = {}
    for row in found:
        if row[column] is not None:
            by_epoch.setdefault(row["epoch"], []).append(row[column])
    most = max((len(values) for values in by_epoch.values()), default=0)
    kept = {epoch: float(np.mean(values)) for epoch, values in sorted(by_epoch.items()) if len(values) == most}
    return list(kept), list(kept.values())
