"""What `tfser train` prints when it is through and dimensions were learned: the scores of each fold, and over the folds."""

from __future__ import annotations

from typing import Any

from tfser.heads.commands.dimension_report import print_dimensions
from tfser.heads.results.dimension_tables import Row, runs_table
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.written import number_text
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.one_fold import who_takes_part
from tfser.heads.spec.selections import ORDER_SQL, explain, peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.display import Output, print_rows, say, show, terminal_width


def dimension_rows(store: Cache, experiment: Experiment) -> list[Row]:
    """Return a row a fold, selection and dimension, each with the counts of who takes part."""
    ids = [experiment.run_id(fold) for fold in experiment.folds]
    with open_catalogue(store) as connection:
        scores = rows(
            connection,
            "SELECT d.*, r.protocol, r.seconds FROM dimension_scores d JOIN runs r USING (run_id) WHERE list_contains(?, run_id) "
            f"ORDER BY fold, level DESC, {ORDER_SQL}, dimension",
            [ids],
        )
        counts = who_takes_part(store, connection, experiment).to_dict()
    return [row | {"looked_at_test": peeks(row["selection"]), **counts} for row in scores]


def print_dimension_scores(store: Cache, experiment: Experiment) -> None:
    """Print the scores of an experiment's folds and, if there are several, over them."""
    scores = [row for row in dimension_rows(store, experiment) if row["level"] == "utterance"]
    if not scores:
        return
    print_rows([_line(row) for row in scores], Output.table)
    if len({row["fold"] for row in scores}) > 1:
        show("", "over the folds: mean ± deviation, and pooled over their utterances; these differ for CCC")
        ids = [experiment.run_id(fold) for fold in experiment.folds]
        with open_catalogue(store) as connection:
            over = [
                row | {"selection": selection}
                for selection in dict.fromkeys(row["selection"] for row in scores)
                for row in runs_table(connection, ids, selection)
            ]
        about: dict[str, Any] = {
            "head": experiment.spec.name, "preset": experiment.preset, "recipe": experiment.recipe_name,
            "feature_set": experiment.feature_set, "validation": experiment.validation, "corpus": experiment.corpus,
            "protocol": experiment.protocol, "targets": list(experiment.targets), "experiment": experiment.name,
        }  # fmt: skip
        print_dimensions([row | about for row in over], None, terminal_width())
    else:
        for line in explain_marks(scores):
            say(line)
    if not experiment.classes:  # else it was said above
        say(explain((row["selection"] for row in scores), by=experiment.chooses_by))
        say(f"experiment {experiment.name}, in {store.runs}")
    say(f"predictions: tfser sql \"SELECT * FROM rated_predictions WHERE run_id = '{scores[0]['run_id']}'\"")


def _line(row: Row) -> dict[str, Any]:
    signs = mark(row)
    return {
        "fold": row["fold"],
        "selection": row["selection"],
        "epoch": row["epoch"],
        "dimension": row["dimension"],
        "n": row["n"],
        "CCC": number_text(row["CCC"], None, signs, empty="-"),
        "pearson": number_text(row["pearson"], None, signs, empty="-"),
        "MAE": number_text(row["MAE"], None, signs),
        "scale": number_text(row["scale_shift"], digits=2),
        "shift": number_text(row["location_shift"], sign="+", digits=2),
    }
