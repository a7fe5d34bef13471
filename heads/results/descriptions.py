"""What a run or an experiment is, and in what two of them differ.

What comes in: the catalogue. What goes out: rows for people and programs: experiments with their runs and scores, the
flat configuration of one, the settings in which two differ. Nothing is judged here; `tfser compare` tests differences of
scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.results.marks import of_runs
from tfser.heads.results.outcomes import Subject
from tfser.heads.results.score_tables import flat
from tfser.heads.runs.experiment import EVERYTHING
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.catalogue.views import WORST, WORST_AUDIT
from tfser.manifests.errors import UsageError

_RATED = (
    "WITH of_run AS (SELECT experiment, run_id, seed, fold, if(count(CCC) = count(*), avg(CCC ORDER BY dimension), NULL) AS CCC, "
    "any_value(audit) AS audit, any_value(speakers_kept) AS speakers_kept FROM dimension_scores "
    "WHERE selection = 'last' AND level = 'utterance' "
    "GROUP BY ALL) "
    f"SELECT experiment, avg(CCC ORDER BY seed, fold) AS CCC, {WORST_AUDIT} AS audit, {WORST.format('speakers_kept')} "
    "AS speakers_kept FROM of_run GROUP BY experiment"
)
"""The mean CCC of experiments on dimensions, over their dimensions, folds and seeds; a run that lacks one of them has none."""

_SELECT = (
    "SELECT r.experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe, "
    "any_value(corpus) AS corpus, any_value(protocol) AS protocol, any_value(feature_set) AS feature_set, "
    "list(DISTINCT seed ORDER BY seed) AS seeds, list(DISTINCT fold ORDER BY fold) AS folds, count(*) AS runs, "
    "max(finished_at) AS finished_at, sum(seconds) AS seconds FROM runs r GROUP BY r.experiment ORDER BY r.experiment"
)


def listed(connection: Connection, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row an experiment: its names, what it is, its runs, and the UA (of dimensions the CCC) of the last epoch.

    Args:
        connection: the catalogue.
        names: the experiment of each name that people gave.
    """
    called: dict[str, list[str]] = {}
    for name, experiment in sorted(names.items()):
        called.setdefault(experiment, []).append(name)
    scores = {row["experiment"]: row for row in rows(connection, "SELECT experiment, UA, audit, speakers_kept FROM results")}
    for row in rows(connection, _RATED):  # of one on both, beside its UA
        scores[row["experiment"]] = scores.get(row["experiment"], {}) | row
    experiments = []
    for row in rows(connection, _SELECT):
        folds = row.pop("folds")
        score = scores.get(row["experiment"], {})
        experiments.append(
            {"experiment": row["experiment"], "names": called.get(row["experiment"], [])}
            | row
            | {
                "folds": [fold for fold in folds if fold != EVERYTHING],
                "for_use": EVERYTHING in folds,
                "UA": score.get("UA"),
                "CCC": score.get("CCC"),
                "audit": score.get("audit"),
                "speakers_kept": score.get("speakers_kept"),
                "selection": "last",
            }
        )
    return experiments


def runs_of(connection: Connection, subject: Subject) -> list[dict[str, Any]]:
    """Return the rows of `runs` of an experiment or of one run, by fold and seed."""
    return rows(
        connection,
        "SELECT * FROM runs WHERE experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?) ORDER BY fold, seed",
        [subject.experiment, subject.run_id, subject.run_id],
    )


def described(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what runs of one experiment have in common: the configuration flat, and what their scores are worth."""
    first = runs[0]
    common = {key: first[key] for key in ("experiment", "parameters", "classes", "device_name")}
    return common | flat(json.loads(first["config"])) | of_runs(runs) | {"versions": json.loads(first["versions"] or "{}")}


def differences(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each thing in which two experiments or runs differ: what, and the value on either side.

    Raises:
        UsageError: one of them has no runs.
    """
    if not a or not b:
        raise UsageError("nothing to compare: one of the two has no finished run")
    sides = [_sides(of) for of in (a, b)]
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    return [
        {"what": key, "a": sides[0].get(key), "b": sides[1].get(key)} for key in keys if sides[0].get(key) != sides[1].get(key)
    ]


def _sides(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what can differ: the configuration, the versions, folds and seeds."""
    about = described(runs)
    versions = {f"versions.{name}": value for name, value in about.pop("versions").items()}
    folds = sorted({run["fold"] for run in runs})
    return about | {"folds": folds, "seeds": sorted({run["seed"] for run in runs})} | versions
