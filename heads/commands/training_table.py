"""What `tfser train` prints when it is through: the scores of each fold, and over the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.commands.columns import fitted, side_by_side
from tfser.heads.commands.dimension_training import dimension_rows, print_dimension_scores
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.scores import scores_of_runs, scores_of_seeds
from tfser.heads.results.written import score_text
from tfser.heads.runs.experiment import EVERYTHING, Experiment
from tfser.heads.runs.one_fold import who_takes_part
from tfser.heads.spec import lineages
from tfser.heads.spec.selections import explain, peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.display import Output, print_rows, say, show, terminal_width


def print_scores(store: Cache, experiments: Sequence[Experiment], format: Output) -> None:
    """Print the scores of each experiment's folds and, if there are several, over them; of several in csv or JSON in one list."""
    if experiments and not experiments[0].classes:
        _print_dimensions(store, experiments, format)
        return
    scores = [_scores_of(store, experiment) for experiment in experiments]
    if format is not Output.table:
        several = len(experiments) > 1
        named = zip(experiments, scores, strict=True)
        lines = [({"features": of.feature_set} if several else {}) | row for of, (folds, _) in named for row in folds]
        rated = [{"features": of.feature_set} | row for of in experiments if of.targets for row in dimension_rows(store, of)]
        if experiments:
            print_rows(side_by_side(lines, rated), format)
        return
    for experiment, (folds, over) in zip(experiments, scores, strict=True):
        if len(experiments) > 1:
            show(f"features {experiment.feature_set}")
        _print_experiment(store, experiment, folds, over)
        if experiment.targets:
            show("", "and the dimensions beside the classes:")
            print_dimension_scores(store, experiment)


def _print_dimensions(store: Cache, experiments: Sequence[Experiment], format: Output) -> None:
    """Print the same of experiments on dimensions."""
    if format is not Output.table:
        print_rows([{"features": of.feature_set} | row for of in experiments for row in dimension_rows(store, of)], format)
        return
    for experiment in experiments:
        if len(experiments) > 1:
            show(f"features {experiment.feature_set}")
        print_dimension_scores(store, experiment)


def print_for_use(store: Cache, experiments: Sequence[Experiment], format: Output) -> None:
    """Print the runs that were trained on all labelled utterances, and which cross-validated experiment vouches for each."""
    names = [experiment.run_id(EVERYTHING) for experiment in experiments]
    with open_catalogue(store) as connection:
        stored = rows(
            connection,
            "SELECT run_id, experiment, feature_set, epochs, round(seconds, 1) AS seconds FROM runs "
            "WHERE list_contains(?, run_id) ORDER BY run_id",
            [names],
        )
        tested = scores_of_seeds(connection, experiments=[experiment.name for experiment in experiments], selection="last")
    for row in stored:
        row["tested_folds"] = max((score.folds for score in tested if score.experiment == row["experiment"]), default=0)
    print_rows(stored, format, ["run_id", "experiment", "feature_set", "epochs", "seconds", "tested_folds"])
    for row in stored:
        if not row["tested_folds"]:
            say(
                f"nothing vouches for {row['run_id']}: no fold of its configuration is tested; the same command with --fold all "
                "cross-validates it"
            )
    say("trained on all labelled utterances: these weights have no test scores; those of their experiment's folds stand for them")


def _scores_of(store: Cache, experiment: Experiment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the scores of an experiment's folds, each with the counts of who takes part, and those over the folds."""
    with open_catalogue(store) as connection:
        folds = scores_of_runs(
            connection, experiments=[experiment.name], seeds=[experiment.seed], folds=experiment.folds, segments=True
        )
        over = scores_of_seeds(connection, experiments=[experiment.name], seeds=[experiment.seed], segments=True)
        counts = who_takes_part(store, connection, experiment).to_dict()
    rows = [score.columns(*_OF_FOLD) | {"looked_at_test": peeks(score.selection), **counts} for score in folds]
    # A fold's line after another, each with its selections.
    rows.sort(key=lambda row: row["fold"])
    return rows, [dict(vars(score)) for score in over]


_OF_FOLD = (
    "run_id", "fold", "selection", "level", "epoch", "WA", "UA", "WF1", "macro_F1", "seconds", "audit", "speakers_kept",
    "protocol",
)  # fmt: skip
"""What csv and JSON say of each fold, before the counts of who takes part."""

_MAY_GO = ("level", "seconds", "macro F1", "WF1", "folds", "epoch", "pooled WA", "selection")
"""Columns that a narrow terminal can do without, the first one first."""


def _print_experiment(
    store: Cache, experiment: Experiment, folds: Sequence[dict[str, Any]], over: Sequence[dict[str, Any]]
) -> None:
    if not _has_segments(experiment, folds):  # its segments are its utterances: one line says both
        folds, over = _utterances(folds), _utterances(over)
    shown = [
        {name: row[name] for name in ("fold", "level", "selection", "epoch")}
        | {**_in_percent(row, "UA", "WA", "WF1"), **_renamed(_in_percent(row, "macro_F1")), "seconds": round(row["seconds"], 1)}
        for row in folds
    ]
    one_fold = len(experiment.folds) == 1 or all(row["level"] == "segment" for row in folds)
    _print_fitted(shown if one_fold else _utterances(shown))
    if over and over[0]["folds"] > 1:
        show(
            "",
            f"over {over[0]['folds']} of {over[0]['of_folds']} folds, in percent: mean ± deviation over folds, and pooled over",
            "their utterances",
        )
        _print_fitted(
            [
                {"level": row["level"], "selection": row["selection"], "UA": _spread(row, "UA"), "WA": _spread(row, "WA")}
                | _renamed(_in_percent(row, "WF1", "macro_F1", "pooled_UA", "pooled_WA"))
                | {"seconds": round(row["seconds"], 1)}
                for row in over
            ]
        )
    for line in explain_marks(folds):
        say(line)
    say(explain((row["selection"] for row in folds), by=experiment.chooses_by))
    if lineage := lineages.explain(experiment.recipe_name, experiment.spec.recipes, [row["selection"] for row in folds]):
        say(lineage)
    say(f"experiment {experiment.name}, in {store.runs}")
    say(f"predictions: tfser sql \"SELECT * FROM predictions WHERE run_id = '{folds[0]['run_id']}'\"")


def _has_segments(experiment: Experiment, folds: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the segments of a head are parts of utterances, or the utterances themselves."""
    cuts = experiment.spec.sample_frames(experiment.config, experiment.recipe) is not None
    return cuts or all(row["level"] == "segment" for row in folds)


def _utterances(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in lines if row["level"] == "utterance"]


def _in_percent(row: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Return a row's scores as people read them, with its marks behind each."""
    return {name: score_text(row[name], None, mark(row)) for name in names}


def _spread(row: Mapping[str, Any], metric: str) -> str:
    return score_text(row[metric], row[f"{metric}_std"], mark(row))


def _renamed(values: Mapping[str, str]) -> dict[str, str]:
    """Return columns as a heading writes them: in words, which may stand below one another."""
    return {name.replace("_", " "): value for name, value in values.items()}


def _print_fitted(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print a table that fits the terminal, with what had to go said below."""
    shown, notes = fitted(lines, terminal_width(), _MAY_GO)
    print_rows(shown, Output.table)
    show(*notes)
