"""A head's ablation table as people read it: ours beside the paper's, reference heads below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.written import number_text, score_text
from tfser.heads.runs.experiment import Experiment
from tfser.manifests.display import Output, print_rows, say
from tfser.manifests.wording import count


def print_ablation(experiment: Experiment, table: Sequence[dict[str, Any]], format: Output) -> None:
    """Print the rows of `tfser.heads.results.ablation.compare`; `experiment` is that of the first."""
    if format is not Output.table:
        print_rows(table, format)
        return
    # Of a paper's numbers those of this corpus; where it printed none of it, all, so that a reader sees what
    # there is.
    printed = list(dict.fromkeys(name for row in table for name in row["paper"]))
    shown = [name for name in printed if name.startswith(experiment.corpus)] or printed
    lines = []
    for row in table:
        marks = mark(row)
        lines.append(
            {
                "row": row["row"],
                "parameters": "" if row["parameters"] is None else f"{row['parameters']:,}",
                "paper's size": _millions(row["parameters_typical"]),
                "paper": _millions(row["paper_parameters"]),
                **_scores(row, marks),
                "won": "" if row["folds_won"] is None else f"{row['folds_won']}/{row['folds']}",
                **{f"paper {name}": score_text(row["paper"].get(name)) for name in shown},
            }
        )
    print_rows(lines, format)
    spec = experiment.spec
    say(
        f"{experiment.corpus}, {experiment.feature_set}, {experiment.protocol}, seed {experiment.seed}, "
        f"selection {table[0]['selection']}, {count(table[0]['folds'], 'fold')}: mean and deviation over folds, "
        f"{'in percent' if 'UA' in table[0] else 'of ' + ', '.join(experiment.targets)}; "
        "gain: over the first row, fold by fold"
    )
    say(f"paper's size: ours at a width of {spec.typical_dim} and 4 classes, beside those of the paper ({spec.source})")
    for line in explain_marks([row for row in table if row["folds"]]):
        say(line)


def _scores(row: Mapping[str, Any], marks: str) -> dict[str, str]:
    """Return a row's scores and what it gains: UA in percent; of dimensions alone CCC, as it is."""
    if "UA" in row:
        return {
            "UA": score_text(row["UA"], row["UA_std"], marks),
            "WA": score_text(row["WA"], row["WA_std"], marks),
            "WF1": score_text(row["WF1"], None, marks),
            "UA gain": score_text(row["UA_gain"], row["UA_gain_std"], marks),
        }
    return {
        "CCC": number_text(row["CCC"], row["CCC_std"], marks),
        "pearson": number_text(row["pearson"], row["pearson_std"], marks),
        "MAE": number_text(row["MAE"], None, marks),
        "CCC gain": number_text(row["CCC_gain"], row["CCC_gain_std"], marks),
    }


def _millions(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:.2f} M"
