"""The scores of a sweep: one row a run, and one row an experiment over its folds and seeds.

In: a plan whose runs were trained, and the catalogue (`tfser.heads.results.scores`). Out: rows with scores as shares of 1, each
with what it is worth. A run that lacks the wanted selection has no scores, but for heads that are fitted at once, which have no
epochs to select from: theirs are `last`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.results.intervals import METRICS, interval
from tfser.heads.results.marks import of_runs
from tfser.heads.results.outcomes import Pooled, pooled
from tfser.heads.results.scores import RunScore, Spread, scores_of_runs, shown_selection, stored_scores
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.in_turn import Failure
from tfser.heads.runs.plan import Entry, Plan
from tfser.heads.spec.selections import BASE, check_name, peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue
from tfser.manifests.errors import UsageError


def check_selection(plan: Plan, selection: str) -> None:
    """Refuse a selection that none of the runs can have.

    Raises:
        UsageError: it is unknown, no recipe keeps it, or it wants validation utterances and nothing is held out to validate on.
    """
    check_name(selection)
    if not any(selection in (*BASE, *entry.experiment.recipe.selections) for entry in plan.entries):
        raise UsageError(f"--selection {selection}: no recipe here keeps it; add --set selections={selection}")
    if selection.startswith("val") and all(entry.experiment.validation == "none" for entry in plan.entries):
        raise UsageError(f"--selection {selection} needs validation utterances: add --validation next-group")


def _pooled_columns(counted: Pooled | None) -> dict[str, Any]:
    """Return the 95 % intervals of the pooled scores over speakers (`tfser.heads.results.intervals`), as columns.

    `pooled_UA` and `pooled_WA` with their bounds, what the clusters are, and how many; without clusters there are no bounds.
    Seeds that did not test the most utterances (`pooled_seeds` did) are left out of both. `pooled_folds` have predictions.
    """
    columns: dict[str, Any] = {}
    for metric in ("UA", "WA"):
        score = interval(counted.counts, metric) if counted else None
        columns |= {
            f"pooled_{metric}": score.value if score else None,
            f"pooled_{metric}_low": score.low if score else None,
            f"pooled_{metric}_high": score.high if score else None,
        }
    return columns | {
        "clustered_by": counted.by if counted else None,
        "clusters": len(counted.counts.clusters) if counted and counted.by else None,
        "pooled_seeds": list(counted.seeds) if counted else None,
        "pooled_folds": counted.folds if counted else 0,
    }


_OF_RUN = (
    "run_id", "experiment", "head", "preset", "recipe", "feature_set", "corpus", "protocol", "validation", "seed", "fold",
    "selection", "epoch", "epochs", *METRICS, "parameters", "seconds", "device", "device_name", "audit", "speakers_kept",
    "finished_at",
)  # fmt: skip
"""What a file of runs says of each."""


def shown_scores(connection: Connection, entries: Sequence[Entry], selection: str) -> dict[str, list[RunScore]]:
    """Return the scores of the entries' finished runs by experiment; runs without the selection are left out."""
    ids = [run.run_id for entry in entries for run in entry.runs]
    have: dict[str, dict[str, RunScore]] = {}
    for score in scores_of_runs(connection, runs=ids):
        have.setdefault(score.run_id, {})[score.selection] = score
    by_experiment: dict[str, list[RunScore]] = {entry.experiment.name: [] for entry in entries}
    for entry in entries:
        for run in entry.runs:
            of_run = have.get(run.run_id, {})
            shown = shown_selection(entry.experiment.spec, selection, of_run)
            if shown is not None:
                by_experiment[entry.experiment.name].append(of_run[shown])
    return by_experiment


def run_rows(connection: Connection, entries: Sequence[Entry], selection: str) -> list[dict[str, Any]]:
    """Return one row for each finished run of the entries, in their order.

    `looked_at_test`, `audit` and `speakers_kept` say what a number is worth; a run without the selection is left out.
    """
    found = shown_scores(connection, entries, selection)
    return [
        score.columns(*_OF_RUN) | {"reference": entry.reference, "looked_at_test": peeks(score.selection)}
        for entry in entries
        for score in found[entry.experiment.name]
    ]


def summary(cache: Cache, plan: Plan, selection: str, failures: Sequence[Failure] = ()) -> list[dict[str, Any]]:
    """Return one row an experiment.

    `UA`, `WA` and `WF1` are means over folds and seeds with their sample standard deviations (`UA_std` ...); the pooled scores
    are over all test utterances of a seed's folds, averaged over seeds. `runs` of `of_runs` have scores, `UA_runs` of these UA.
    """
    with open_catalogue(cache) as connection:
        found = shown_scores(connection, plan.entries, selection)
        tested = pooled(connection, runs=[score.run_id for scores in found.values() for score in scores])
    table = []
    for entry in plan.entries:
        scores = found[entry.experiment.name]
        shown = scores[0].selection if scores else selection
        pooled_columns = _pooled_columns(tested.get((entry.experiment.name, shown, "utterance")))
        failed = sum(failure.run.experiment.name == entry.experiment.name for failure in failures)
        table.append(_summary_of(entry, scores, shown, failed, pooled_columns))
    return table


def parameters_of(experiment: Experiment) -> int | None:
    """Return how many trainable numbers an experiment's head has; None where that is known once it is fitted."""
    from tfser.heads.models.layer_mix import parameters  # here, so that reports, which count none, need no torch

    return parameters(experiment.spec, experiment.config, experiment.dim, experiment.outputs, experiment.layers)


def _summary_of(
    entry: Entry, scores: Sequence[RunScore], shown: str, failed: int, pooled_columns: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of one experiment, whose runs that came to their end scored so under the selection that is shown."""
    experiment = entry.experiment
    spreads = {metric: Spread.of(getattr(score, metric) for score in scores) for metric in METRICS}
    # A finished run knows its parameters; before there is one, the network is built to be counted.
    counted = next((score.parameters for score in scores if score.parameters is not None), None)
    return {
        "head": experiment.spec.name,
        "preset": experiment.preset,
        "recipe": experiment.recipe_name,
        "features": experiment.feature_set,
        "parameters": parameters_of(experiment) if counted is None else counted,
        "seeds": entry.seeds,
        "folds": entry.folds,
        "of_folds": experiment.of_folds,
        "runs": len(scores),
        "of_runs": len(entry.runs),
        "failed": failed,
        **{
            name: value
            for metric, spread in spreads.items()
            for name, value in (spread.columns(metric) | {f"{metric}_runs": spread.n}).items()
        },
        **pooled_columns,
        "selection": shown,
        "looked_at_test": peeks(shown),
        **of_runs(map(vars, scores)),
        "reference": entry.reference,
        "corpus": experiment.corpus,
        "protocol": experiment.protocol,
        "validation": experiment.validation,
        "seconds": sum(score.seconds for score in scores),
        "experiment": experiment.name,
    }


def run_score(cache: Cache, entry: Entry, run_id: str, selection: str) -> RunScore | None:
    """Return a finished run's score from its own files, before any catalogue knows of it; None without any to show."""
    have = stored_scores(cache, run_id)
    shown = shown_selection(entry.experiment.spec, selection, have)
    return None if shown is None else have[shown]


def rows_of_plan(cache: Cache, plan: Plan, selection: str) -> list[dict[str, Any]]:
    """Return one row for each finished run of a plan, as `run_rows`."""
    with open_catalogue(cache) as connection:
        return run_rows(connection, plan.entries, selection)
