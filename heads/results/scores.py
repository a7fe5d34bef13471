"""The one query of scores: whatever prints a score of a run, or of an experiment's seed, asks here.

In: the catalogue and what is wanted of it, or the files of a run that no catalogue knows of yet. Out: `RunScore`, one for each
finished run, selection and level, and `SeedScore`, one for each experiment, seed, selection and level over its folds. Scores are
shares of 1, and each value bears the marks that say what it is worth. `Spread` is the mean and the deviation of several.

It never decides what is shown where, and never writes a number for people (`tfser.heads.results.written`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import mean, stdev
from typing import Any

from tfser.heads.results.intervals import METRICS
from tfser.heads.results.marks import mark
from tfser.heads.runs.store import run_folder
from tfser.heads.spec.head import HeadSpec
from tfser.heads.spec.selections import ORDER_SQL
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.files import read_json


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """What one run scored under one selection, at the level of utterances or of segments."""

    run_id: str
    experiment: str
    head: str
    preset: str
    recipe: str
    feature_set: str
    corpus: str
    protocol: str
    validation: str
    seed: int
    fold: int
    of_folds: int | None
    """Folds of the protocol; None where the cache knows it no longer."""
    selection: str
    level: str
    epoch: int | None
    epochs: int | None
    n: int
    """Test utterances (segments)."""
    hits: int
    UA: float | None
    WA: float | None
    WF1: float | None
    macro_F1: float | None  # noqa: N815
    parameters: int | None
    seconds: float
    device: str
    device_name: str | None
    audit: str
    speakers_kept: str
    finished_at: str

    @property
    def marks(self) -> str:
        """The signs behind each number of the run (`tfser.heads.results.marks`)."""
        return mark(vars(self))

    def columns(self, *names: str) -> dict[str, Any]:
        """Return some of the values as the columns of a row."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class SeedScore:
    """What an experiment scored with one seed: the mean over its folds, and pooled over all of their test utterances.

    The fields are the columns of the catalogue's view `scores`.
    """

    experiment: str
    head: str
    preset: str
    recipe: str
    corpus: str
    protocol: str
    feature_set: str
    seed: int
    epochs: int | None
    selection: str
    level: str
    folds: int
    of_folds: int | None
    WA: float | None
    WA_std: float | None
    UA: float | None
    UA_std: float | None
    WF1: float | None
    macro_F1: float | None  # noqa: N815
    pooled_WA: float | None  # noqa: N815
    pooled_UA: float | None  # noqa: N815
    pooled_folds: int
    seconds: float
    audit: str
    speakers_kept: str


@dataclass(frozen=True)
class Spread:
    """The mean of several scores with their sample standard deviation: None of none, and no deviation of one."""

    mean: float | None
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Return the mean and deviation of the values that are there.

        >>> Spread.of([0.5, None, 0.7]).n, Spread.of([0.5]).deviation, Spread.of([]).mean
        (2, None, None)
        """
        there = [value for value in values if value is not None]
        return cls(mean(there) if there else None, stdev(there) if len(there) > 1 else None, len(there))

    def columns(self, name: str) -> dict[str, Any]:
        """Return the mean and the deviation as the columns `name` and `name_std`."""
        return {name: self.mean, f"{name}_std": self.deviation}


_OF_RUN = ", ".join(
    # Which run it is and how it was trained stands in `runs`, what it scored in the view `fold_scores`.
    f"s.{field.name}" if field.name in ("selection", "level", "epoch", "n", "hits", *METRICS) else f"r.{field.name}"
    for field in fields(RunScore)
    if field.name != "of_folds"
)
_OF_FOLDS = "(SELECT any_value(p.folds) FROM protocols p WHERE p.protocol = r.protocol AND p.corpora = r.corpus) AS of_folds"


def scores_of_runs(
    connection: Connection,
    *,
    runs: Sequence[str] | None = None,
    experiments: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    selection: str | None = None,
    segments: bool = False,
) -> list[RunScore]:
    """Return the scores of finished runs, ordered by experiment, level (utterances first), selection, seed and fold.

    Args:
        connection: the catalogue.
        runs: ids; None: of all runs. So with the names below.
        experiments: names.
        seeds: numbers.
        folds: numbers, from 1.
        selection: one of them; None: all that each run has.
        segments: segment level, too.
    """
    narrowed, values = _narrowed(selection, segments, run_id=runs, experiment=experiments, seed=seeds, fold=folds)
    scored = rows(
        connection,
        f"SELECT {_OF_RUN}, {_OF_FOLDS} FROM fold_scores s JOIN runs r USING (run_id) {narrowed.format('r.', 's.')} "
        f"ORDER BY experiment, level DESC, {ORDER_SQL}, seed, fold",
        values,
    )
    return [RunScore(**row) for row in scored]


def scores_of_seeds(
    connection: Connection,
    *,
    experiments: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    selection: str | None = None,
    segments: bool = False,
) -> list[SeedScore]:
    """Return the scores of experiments over the folds of each seed, in the order of `scores_of_runs`."""
    narrowed, values = _narrowed(selection, segments, experiment=experiments, seed=seeds)
    found = rows(
        connection,
        f"SELECT * FROM scores {narrowed.format('', '')} ORDER BY experiment, level DESC, {ORDER_SQL}, seed",
        values,
    )
    return [SeedScore(**row) for row in found]


def selections_of(connection: Connection, experiments: Sequence[str]) -> list[str]:
    """Return the selections that runs of these experiments have, by name."""
    asked = "SELECT DISTINCT selection FROM metrics JOIN runs USING (run_id) WHERE list_contains(?, experiment) ORDER BY ALL"
    return [row["selection"] for row in rows(connection, asked, [list(experiments)])]


def _narrowed(selection: str | None, segments: bool, **among: Sequence[Any] | None) -> tuple[str, list[Any]]:
    """Return the WHERE clause of what is wanted and its values; {0} stands before columns of runs, {1} before those of scores."""
    parts = [] if segments else ["{1}level = 'utterance'"]
    parts += ["{1}selection = ?"] if selection is not None else []
    values: list[Any] = [selection] if selection is not None else []
    for column, wanted in among.items():
        if wanted is not None:
            parts.append(f"list_contains(?, {{0}}{column})")
            values.append(list(wanted))
    return (f"WHERE {' AND '.join(parts)}" if parts else ""), values


def stored_scores(cache: Cache, run_id: str) -> dict[str, RunScore]:
    """Return a finished run's utterance-level scores by selection, out of its own files: before any catalogue knows of it."""
    import pyarrow.parquet as pq

    folder = run_folder(cache, run_id)
    # A run of an older version lacks columns that were added since, as the catalogue fills them.
    lacking = {"speakers_kept": "unknown", "device_name": None, "validation": "none"}
    about = {**lacking, **read_json(folder / "run.json")}
    of_run = {field.name: about.get(field.name) for field in fields(RunScore)}
    scored: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(folder / "metrics.parquet").to_pylist():
        if row["level"] == "utterance" and row["class"] is None:
            scored.setdefault(row["selection"], {"epoch": row["epoch"]})[row["metric"]] = row["value"]
    counted = pq.read_table(folder / "confusion.parquet").to_pylist()
    scores = {}
    for selection, values in scored.items():
        cells = [row for row in counted if row["selection"] == selection and row["level"] == "utterance"]
        n = sum(row["count"] for row in cells)
        hits = sum(row["count"] for row in cells if row["label"] == row["predicted"])
        scores[selection] = RunScore(
            **{**of_run, **dict.fromkeys(METRICS), **values, "selection": selection, "level": "utterance", "n": n, "hits": hits}
        )
    return scores


def shown_selection(spec: HeadSpec, selection: str, have: Container[str]) -> str | None:
    """Return the selection whose scores stand for a run in a table of `selection`; None: the run has none to show."""
    shown = spec.selection(selection)
    return shown if shown in have else None
