"""The scores of a sweep: one row a run, and one row an experiment over its folds and seeds.

All numbers come from what the runs stored, through the catalogue, so that anyone can compute them again by SQL. Scores are of
utterances and shares of 1. A run that lacks the wanted selection has no scores, but for heads that are fitted at once, which
have no epochs to select from: theirs are `last`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from statistics import mean, stdev
from typing import Any

from tfser.heads.results.ablation import parameters
from tfser.heads.results.intervals import METRICS, interval
from tfser.heads.results.marks import mark, of_runs
from tfser.heads.results.outcomes import pooled
from tfser.heads.runs.in_turn import Failure
from tfser.heads.runs.plan import Entry, Plan
from tfser.heads.runs.store import run_folder
from tfser.heads.spec.selections import BASE, check_name, peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.files import read_json


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


def pooled_interval(connection: Connection, runs: Sequence[str], selection: str) -> dict[str, Any]:
    """Return the 95 % intervals of the pooled scores over speakers (`tfser.heads.results.intervals`), as columns.

    `pooled_UA` and `pooled_WA` with their bounds, what the clusters are, and how many; without clusters there are no bounds.
    Seeds that did not test the most utterances (`pooled_seeds` did) are left out of both. `pooled_folds` have predictions.

    Args:
        connection: the catalogue.
        runs: ids of an experiment's runs, all folds and seeds.
        selection: whose predictions.
    """
    found = [of for key, of in pooled(connection, runs=runs).items() if key[1:] == (selection, "utterance")] if runs else []
    of = found[0] if found else None
    columns: dict[str, Any] = {}
    for metric in ("UA", "WA"):
        score = interval(of.counts, metric) if of else None
        columns |= {
            f"pooled_{metric}": score.value if score else None,
            f"pooled_{metric}_low": score.low if score else None,
            f"pooled_{metric}_high": score.high if score else None,
        }
    return columns | {
        "clustered_by": of.by if of else None,
        "clusters": len(of.counts.clusters) if of and of.by else None,
        "pooled_seeds": list(of.seeds) if of else None,
        "pooled_folds": of.folds if of else 0,
    }


def run_rows(connection: Connection, entries: Sequence[Entry], selection: str) -> list[dict[str, Any]]:
    """Return one row for each finished run of the entries, in their order.

    `looked_at_test`, `audit` and `speakers_kept` say what a number is worth; a run without the selection is left out.
    """
    place = {run.run_id: (i, entry) for i, (entry, run) in enumerate((e, run) for e in entries for run in e.runs)}
    found = rows(
        connection,
        "SELECT r.run_id, r.experiment, r.head, r.preset, r.recipe, r.feature_set, r.corpus, r.protocol, r.validation, r.seed, "
        "r.fold, m.selection, any_value(m.epoch) AS epoch, r.epochs, "
        + ", ".join(f"max(m.value) FILTER (m.metric = '{metric}') AS {metric}" for metric in METRICS)
        + ", r.parameters, r.seconds, r.device, r.device_name, r.audit, r.speakers_kept, r.finished_at "
        "FROM runs r JOIN metrics m USING (run_id) "
        "WHERE list_contains(?, r.run_id) AND m.level = 'utterance' AND m.class IS NULL GROUP BY ALL",
        [list(place)],
    )
    of_run: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found:
        of_run.setdefault(row["run_id"], {})[row["selection"]] = row
    chosen = []
    for run_id, (_, entry) in place.items():
        of = of_run.get(run_id, {})
        shown = _stands_for(entry, selection, of)
        if shown is not None:
            chosen.append(of[shown] | {"reference": entry.reference, "looked_at_test": peeks(shown)})
    return chosen


def _stands_for(entry: Entry, selection: str, have: Container[str]) -> str | None:
    """Return the selection whose scores are shown of a run, out of those that it has."""
    at_once = entry.reference or entry.experiment.spec.fit is not None
    return next((name for name in (selection, *(("last",) if at_once else ())) if name in have), None)


def summary(cache: Cache, plan: Plan, selection: str, failures: Sequence[Failure] = ()) -> list[dict[str, Any]]:
    """Return one row an experiment.

    `UA`, `WA` and `WF1` are means over folds and seeds with their sample standard deviations (`UA_std` ...); the pooled scores
    are over all test utterances of a seed's folds, averaged over seeds. `runs` of `of_runs` have scores, `UA_runs` of these UA.
    """
    table = []
    with open_catalogue(cache) as connection:
        for entry in plan.entries:
            of, found = entry.experiment, run_rows(connection, [entry], selection)
            ids = [row["run_id"] for row in found]
            shown = found[0]["selection"] if found else selection
            values = {metric: [row[metric] for row in found if row[metric] is not None] for metric in METRICS}
            known = [row["parameters"] for row in found if row["parameters"] is not None]
            table.append(
                {
                    "head": of.spec.name,
                    "preset": of.preset,
                    "recipe": of.recipe_name,
                    "features": of.feature_set,
                    "parameters": known[0] if known else parameters(of.spec, of.config, of.dim, len(of.classes), of.layers),
                    "seeds": entry.seeds,
                    "folds": entry.folds,
                    "of_folds": of.of_folds,
                    "runs": len(found),
                    "of_runs": len(entry.runs),
                    "failed": sum(failure.run.experiment.name == of.name for failure in failures),
                    **{
                        name: value
                        for metric, of_metric in values.items()
                        for name, value in (
                            (metric, mean(of_metric) if of_metric else None),
                            (f"{metric}_std", stdev(of_metric) if len(of_metric) > 1 else None),
                            (f"{metric}_runs", len(of_metric)),
                        )
                    },
                    **pooled_interval(connection, ids, shown),
                    "selection": shown,
                    "looked_at_test": peeks(shown),
                    **of_runs(found),
                    "reference": entry.reference,
                    "corpus": of.corpus,
                    "protocol": of.protocol,
                    "validation": of.validation,
                    "seconds": sum(row["seconds"] for row in found),
                    "experiment": of.name,
                }
            )
    return table


def run_score(cache: Cache, entry: Entry, run_id: str, selection: str) -> tuple[float, str] | None:
    """Return a finished run's UA from its own files, before any catalogue knows of it, and its marks; None without any."""
    import pyarrow.parquet as pq

    folder = run_folder(cache, run_id)
    found = {
        row["selection"]: float(row["value"])
        for row in pq.read_table(folder / "metrics.parquet").to_pylist()
        if row["metric"] == "UA" and row["level"] == "utterance" and row["class"] is None
    }
    shown = _stands_for(entry, selection, found)
    if shown is None:
        return None
    about = read_json(folder / "run.json")
    standing = {"audit": about["audit"], "speakers_kept": about.get("speakers_kept", "unknown")}
    return found[shown], mark({"selection": shown, **standing})


def rows_of_plan(cache: Cache, plan: Plan, selection: str) -> list[dict[str, Any]]:
    """Return one row for each finished run of a plan, as `run_rows`."""
    with open_catalogue(cache) as connection:
        return run_rows(connection, plan.entries, selection)
