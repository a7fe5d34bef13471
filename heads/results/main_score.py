"""The one score that stands for a run in a line of progress: UA of classes, the mean CCC of dimensions; of both, UA.

In: a run's own files, or the catalogue. Out: `MainScore`, with its marks. What a table says of a run is `scores`' and
`dimension_tables`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfser.heads.results.marks import mark
from tfser.heads.results.scores import Spread, shown_selection
from tfser.heads.results.summary import run_score, shown_scores
from tfser.heads.results.written import number_text, score_text
from tfser.heads.runs.plan import Entry
from tfser.heads.runs.store import run_folder
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.files import read_json


@dataclass(frozen=True, kw_only=True)
class MainScore:
    """A run's UA as a share of 1, or its mean CCC (`name` says which); None: it has none."""

    run_id: str
    name: str
    value: float | None
    marks: str

    def text(self) -> str:
        """Return it as a line of progress has it.

        >>> MainScore(run_id="r", name="CCC", value=0.5, marks="§").text()
        'CCC 0.500§'
        """
        return f"{self.name} {spread_text(self.name, Spread.of([self.value]), self.marks, unit='%', empty='-')}"


def spread_text(name: str, spread: Spread, marks: str, *, unit: str = "", empty: str = "") -> str:
    """Return the mean and deviation of scores of one kind: UA in percent, CCC as it is."""
    if name == "UA":
        return score_text(spread.mean, spread.deviation, marks, unit=unit, empty=empty)
    return number_text(spread.mean, spread.deviation, marks, empty=empty)


def name_of(entry: Entry) -> str:
    """Return which score stands for the runs of an entry."""
    return "UA" if entry.experiment.classes else "CCC"


def main_score(cache: Cache, entry: Entry, run_id: str, selection: str) -> MainScore | None:
    """Return a finished run's score from its own files, before any catalogue knows of it; None without any to show."""
    if entry.experiment.classes:
        score = run_score(cache, entry, run_id, selection)
        return None if score is None else MainScore(run_id=run_id, name="UA", value=score.UA, marks=score.marks)
    import pyarrow.parquet as pq

    folder = run_folder(cache, run_id)
    stored = read_json(folder / "run.json")
    values: dict[str, list[float]] = {}
    for row in pq.read_table(folder / "metrics.parquet").to_pylist():
        if row["level"] == "utterance" and row["metric"] == "CCC":
            values.setdefault(row["selection"], []).append(row["value"])
    shown = shown_selection(entry.experiment.spec, selection, values)
    if shown is None:
        return None
    value = _mean(values[shown], len(entry.experiment.targets))
    return MainScore(run_id=run_id, name="CCC", value=value, marks=mark({**stored, "selection": shown}))


def main_scores(connection: Connection, entries: Sequence[Entry], selection: str) -> dict[str, list[MainScore]]:
    """Return the scores of the entries' finished runs by experiment; runs without the selection are left out."""
    classes = shown_scores(connection, [entry for entry in entries if entry.experiment.classes], selection)
    scored = {
        name: [MainScore(run_id=score.run_id, name="UA", value=score.UA, marks=score.marks) for score in scores]
        for name, scores in classes.items()
    }
    for entry in entries:
        if entry.experiment.classes:
            continue
        stored = rows(
            connection,
            "SELECT run_id, selection, any_value(audit) AS audit, any_value(speakers_kept) AS speakers_kept, "
            "list(CCC ORDER BY dimension) FILTER (CCC IS NOT NULL) AS values FROM dimension_scores "
            "WHERE list_contains(?, run_id) AND level = 'utterance' GROUP BY ALL ORDER BY ALL",
            [[run.run_id for run in entry.runs]],
        )
        have = {row["selection"] for row in stored}
        shown = shown_selection(entry.experiment.spec, selection, have)
        scored[entry.experiment.name] = [
            MainScore(
                run_id=row["run_id"], name="CCC", value=_mean(row["values"] or [], len(entry.experiment.targets)), marks=mark(row)
            )
            for row in stored
            if row["selection"] == shown
        ]
    return scored


def _mean(values: Sequence[float], wanted: int) -> float | None:
    """Return the mean over the dimensions; None where one of them has no score."""
    return sum(values) / wanted if len(values) == wanted else None
