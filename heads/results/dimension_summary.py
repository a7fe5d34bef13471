"""The scores of a sweep whose target are dimensions: `summary` for ratings instead of classes.

In: a plan whose runs were trained, and the catalogue. Out: a row an experiment and dimension over its folds and seeds, of several
dimensions one of their mean besides; and, for files of runs, a row a run and dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfser.heads.results.dimension_tables import Row, runs_table
from tfser.heads.results.scores import shown_selection
from tfser.heads.results.summary import parameters_of
from tfser.heads.runs.in_turn import Failure
from tfser.heads.runs.plan import Entry, Plan
from tfser.heads.spec.selections import peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows


def dimension_summary(cache: Cache, plan: Plan, selection: str, failures: Sequence[Failure] = ()) -> list[Row]:
    """Return a row an experiment and dimension, in the order of the plan; an experiment without a finished run has one row."""
    table: list[Row] = []
    with open_catalogue(cache) as connection:
        for entry in plan.entries:
            shown = _shown(connection, entry, selection)
            found = runs_table(connection, [run.run_id for run in entry.runs], shown) if shown else []
            failed = sum(failure.run.experiment.name == entry.experiment.name for failure in failures)
            about = _about_entry(entry) | {"selection": shown or selection, "looked_at_test": peeks(shown or selection)}
            table += [row | about | {"failed": failed} for row in found or [{"runs": 0, "dimension": None}]]
    columns = dict.fromkeys(name for row in table for name in row)
    return [{name: row.get(name) for name in columns} for row in table]


def _shown(connection: Connection, entry: Entry, selection: str) -> str | None:
    ids = [run.run_id for run in entry.runs]
    have = rows(connection, "SELECT DISTINCT selection FROM dimension_scores WHERE list_contains(?, run_id)", [ids])
    return shown_selection(entry.experiment.spec, selection, {row["selection"] for row in have})


def _about_entry(entry: Entry) -> dict[str, Any]:
    experiment = entry.experiment
    return {
        "parameters": parameters_of(experiment),
        "of_runs": len(entry.runs),
        "reference": entry.reference,
        "head": experiment.spec.name,
        "preset": experiment.preset,
        "recipe": experiment.recipe_name,
        "feature_set": experiment.feature_set,
        "corpus": experiment.corpus,
        "protocol": experiment.protocol,
        "validation": experiment.validation,
        "targets": list(experiment.targets),
        "experiment": experiment.name,
    }


def dimension_runs(cache: Cache, plan: Plan, selection: str) -> list[Row]:
    """Return a row for each finished run of a plan and dimension."""
    table: list[Row] = []
    with open_catalogue(cache) as connection:
        for entry in plan.entries:
            shown = _shown(connection, entry, selection)
            scored = rows(
                connection,
                "SELECT * FROM dimension_scores WHERE list_contains(?, run_id) AND selection = ? AND level = 'utterance' "
                "ORDER BY seed, fold, dimension",
                [[run.run_id for run in entry.runs], shown],
            )
            about = {name: value for name, value in _about_entry(entry).items() if name not in ("of_runs", "targets")}
            table += [about | row | {"looked_at_test": peeks(row["selection"])} for row in scored]
    return table
