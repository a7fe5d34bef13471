"""What `tfser train` prints when it is through: the scores of each fold, and over the folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfser.heads import lineages
from tfser.heads.experiment import Experiment
from tfser.heads.marks import explain_marks, mark
from tfser.heads.selections import ORDER_SQL, explain, peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue import open_catalogue, rows
from tfser.manifests.display import Output, percent, print_rows, say


def print_scores(store: Cache, experiments: Sequence[Experiment], format: Output) -> None:
    """Print the scores of each experiment's folds and, if there are several, over them; of several in csv or JSON in one list."""
    found = [_scores_of(store, experiment) for experiment in experiments]
    if format is not Output.table:
        several = len(experiments) > 1
        named = zip(experiments, found, strict=True)
        lines = [({"features": of.feature_set} if several else {}) | row for of, (folds, _) in named for row in folds]
        if experiments:
            print_rows(lines, format)
        return
    for experiment, (folds, over) in zip(experiments, found, strict=True):
        if len(experiments) > 1:
            print(f"features {experiment.feature_set}")
        _print_experiment(store, experiment, folds, over)


def _scores_of(store: Cache, experiment: Experiment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the scores of an experiment's folds, and those over them."""
    with open_catalogue(store) as connection:
        folds = rows(
            connection,
            "SELECT * FROM (SELECT r.run_id, r.fold, m.selection, m.level, any_value(m.epoch) AS epoch, "
            "max(value) FILTER (metric = 'WA') AS WA, max(value) FILTER (metric = 'UA') AS UA, "
            "max(value) FILTER (metric = 'WF1') AS WF1, max(value) FILTER (metric = 'macro_F1') AS macro_F1, "
            "any_value(r.seconds) AS seconds, any_value(r.audit) AS audit, "
            "any_value(r.speakers_kept) AS speakers_kept, any_value(r.protocol) AS protocol "
            "FROM runs r JOIN metrics m USING (run_id) WHERE r.experiment = ? AND r.seed = ? AND list_contains(?, r.fold) "
            "AND m.class IS NULL GROUP BY ALL) "
            f"ORDER BY fold, level DESC, {ORDER_SQL}",
            [experiment.name, experiment.seed, list(experiment.folds)],
        )
        over = rows(
            connection,
            "SELECT selection, level, folds, of_folds, UA, UA_std, WA, WA_std, WF1, macro_F1, pooled_UA, pooled_WA, seconds, "
            "audit, speakers_kept FROM scores WHERE experiment = ? AND seed = ? "
            f"ORDER BY level DESC, {ORDER_SQL}",
            [experiment.name, experiment.seed],
        )
    return [{**row, "looked_at_test": peeks(row["selection"])} for row in folds], over


def _print_experiment(
    store: Cache, experiment: Experiment, folds: Sequence[dict[str, Any]], over: Sequence[dict[str, Any]]
) -> None:
    # A head that sees utterances whole has one level, whatever is stored: the same scores twice would look like two results.
    if experiment.spec.sample_frames(experiment.config, experiment.recipe) is None:
        folds = [row for row in folds if row["level"] == "utterance"] or folds
        over = [row for row in over if row["level"] == "utterance"] or over
    shown = [_in_percent(row, "UA", "WA", "WF1", "macro_F1") for row in folds]
    columns = ["fold", "level", "selection", "epoch", "UA", "WA", "WF1", "macro_F1", "seconds"]
    if len(experiment.folds) == 1 or all(row["level"] == "segment" for row in folds):
        print_rows(shown, Output.table, columns)
    else:
        print_rows([row for row in shown if row["level"] == "utterance"], Output.table, columns)
        print()
    if over and over[0]["folds"] > 1:
        print(
            f"over {over[0]['folds']} of {over[0]['of_folds']} folds, in percent: mean and deviation over folds, "
            "and pooled over their utterances"
        )
        names = ("UA", "UA_std", "WA", "WA_std", "WF1", "macro_F1", "pooled_UA", "pooled_WA")
        kept = ("selection", "level", "folds", "of_folds", *names, "seconds")
        print_rows([_in_percent(row, *names) for row in over], Output.table, kept)
    for line in explain_marks(folds):
        say(line)
    say(explain(row["selection"] for row in folds))
    if lineage := lineages.explain(
        experiment.recipe_name, experiment.spec.recipes, [row["selection"] for row in folds]
    ):
        say(lineage)
    say(f"experiment {experiment.name}, in {store.runs}")
    say(f"predictions: tfser sql \"SELECT * FROM predictions WHERE run_id = '{folds[0]['run_id']}'\"")


def _in_percent(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a row with its scores as people read them, marks behind each but the deviations."""
    shown = percent(row, *names)
    marked = {name: text + ("" if name.endswith("_std") or not text else mark(row)) for name, text in shown.items()}
    return {**row, **marked, "seconds": round(row["seconds"], 1)}
