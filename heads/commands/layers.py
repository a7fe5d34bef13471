"""`tfser layers`: which layer of an encoder, by training on each, and asking validation speakers.

What is trained is planned by `tfser.heads.runs.layer_plan`, what comes out is read by `tfser.heads.results.layer_choice`, and
drawn by `tfser.heads.reports.layers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tfser.heads.commands.columns import fitted
from tfser.heads.commands.sweep_table import failure_lines, print_table
from tfser.heads.reports.layers import layers_figure
from tfser.heads.reports.style import as_bytes, house_style
from tfser.heads.results.layer_choice import LayerScores, check_choice, layer_scores
from tfser.heads.results.marks import explain_marks, mark
from tfser.heads.results.score_tables import few
from tfser.heads.results.written import bounds_text, interval_text, number_text, score_text
from tfser.heads.runs.layer_plan import LayerPlan, plan_layers
from tfser.heads.runs.request import LayerRequest
from tfser.heads.runs.running import RunningMany
from tfser.manifests.cache import Cache
from tfser.manifests.commands.printing import PrintingTables
from tfser.manifests.display import Output, TableOutput, print_rows, say, terminal_width
from tfser.manifests.errors import UsageError
from tfser.manifests.options import Option
from tfser.manifests.outputs import check_output, writing

_KINDS = (".png", ".svg", ".pdf")

_MAY_GO = ("WA", "pearson", "mix weight", "validation UA", "validation CCC", "UA", "CCC")
"""Columns that a narrow terminal can do without, the first one first."""


def layers(
    *,
    request: LayerRequest,
    selection: Annotated[
        str, Option("Whose scores, of a head that is trained by epochs: last or val.", panel="Output and cache")
    ] = "last",
    output: Annotated[
        Path | None, Option("Draw the scores there: a .png, .svg or .pdf file.", metavar="FILE", panel="Output and cache")
    ] = None,
    running: RunningMany,
    printing: PrintingTables,
) -> None:
    """Score every layer of an encoder, and let validation speakers choose one, fold by fold. Exits with 1 if a run failed.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold.

    Example:
        tfser layers --features whisper-base/all
        tfser layers --features whisper-base --head mean_pool --seeds 0-1 --output layers.pdf
        tfser layers --features whisper-base/all --target arousal,valence
    """
    if output is not None and output.suffix.casefold() not in _KINDS:
        raise UsageError(f"--output {output}: name a file that ends in {', '.join(_KINDS)}")
    check_output(output)
    running.prepare(request.device)
    if not show_layers(running.store(printing.cache), request, running, printing.format, selection=selection, output=output):
        raise typer.Exit(1)


def show_layers(
    store: Cache,
    request: LayerRequest,
    running: RunningMany,
    format: TableOutput,
    *,
    selection: str = "last",
    output: Path | None = None,
) -> bool:
    """Train on every layer, print what came out and draw it if asked; return whether no run failed.

    Raises:
        UsageError: if the request is off; nothing is trained then.
        TfserError: if an audit forbids a fold.
    """
    from tfser.heads.commands.sweeps import run_plan

    plan = plan_layers(store, request)
    check_choice(plan, selection)
    failures = run_plan(store, plan.plan, running, selection)
    found = layer_scores(store, plan, selection)
    _print(found, plan, format)
    if output is not None:
        _draw(output, found.rows)
        say(f"drawn in {output}")
    for line in failure_lines(failures):
        say(line)
    return not failures


def _print(scores: LayerScores, plan: LayerPlan, format: TableOutput) -> None:
    """Print the table, and in words what was chosen, what that is worth, and how it is to be read."""
    if format in (TableOutput.json, TableOutput.csv):
        print_rows(scores.rows, Output(format.value))
        return
    lines, narrow = [_line(row) for row in scores.rows], list[str]()
    if format is TableOutput.table:
        lines, narrow = fitted(lines, terminal_width(), _MAY_GO)
    print_table(lines, format)
    for note in (*narrow, *_words(scores, plan), *explain_marks(scores.rows)):
        say(note)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as people read it: UA in percent with one decimal, CCC with three, and marks."""
    if "pooled_CCC" in row:
        return _rated_line(row)
    signs, low, high = mark(row), row["pooled_UA_low"], row["pooled_UA_high"]
    return {
        "layer": row["what"] if row["layer"] is None else str(row["layer"]),
        "head": row["head"],
        "validation UA": _percent(row["validation_UA"]),
        "chosen": "" if row["chosen_in"] is None else f"{row['chosen_in']}×" if row["layer"] is not None else "",
        "UA": score_text(row["UA"], row["UA_std"]),
        "WA": _percent(row["WA"]),
        "pooled UA": f"{_percent(row['pooled_UA'])}{signs}",
        "95 %": "" if low is None else f"{_percent(low)} to {_percent(high)}",
        "mix weight": "" if row["mix_weight"] is None else f"{row['mix_weight']:.2f}",
    }


def _rated_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of dimensions."""
    return {
        "layer": row["what"] if row["layer"] is None else str(row["layer"]),
        "head": row["head"],
        "validation CCC": number_text(row["validation_CCC"]),
        "chosen": f"{row['chosen_in']}×" if row["chosen_in"] is not None and row["layer"] is not None else "",
        "CCC": number_text(row["CCC"], row["CCC_std"]),
        "pearson": number_text(row["pearson"]),
        "pooled CCC [95 %]": bounds_text(row["pooled_CCC"], row["pooled_CCC_low"], row["pooled_CCC_high"], mark(row)),
        "mix weight": "" if row["mix_weight"] is None else f"{row['mix_weight']:.2f}",
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _words(scores: LayerScores, plan: LayerPlan) -> list[str]:
    """Return what was found, a sentence a line."""
    experiment, lines = plan.of, list(scores.notes)
    if scores.best is not None:
        folds = f"all {len(scores.chosen)} folds" if len(scores.chosen) > 1 else "the one fold"
        lines.append(
            f"layer {scores.best} does best on the validation speakers of {folds} ({experiment.validation}): "
            f"--features {plan.layers[scores.best].experiment.feature_set}"
        )
        lines.append(
            "the score of `chosen` is honest: the layer of each fold was chosen by speakers that it does not test; "
            "the best layer's own score was picked by looking"
        )
    if scores.gain is not None:
        value, low, high = scores.gain
        last = max(plan.layers)
        if scores.metric == "UA":
            gained = f"UA {interval_text(value, low, high, sign='+')} points"
        else:
            gained = f"{scores.metric} {bounds_text(value, low, high, sign='+')}"
        lines.append(f"chosen against the last layer ({last}), the same speakers: {gained}")
    first = scores.rows[0]
    where = f"{experiment.protocol} on {experiment.corpus}"
    if (clusters := first["clusters"]) == 1:
        lines.append(f"{few(1, first['clustered_by'])}; {where}")
    elif clusters:
        lines.append(f"95 %: over {clusters} {first['clustered_by']}s; {where}")
    return lines


def _draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with house_style():
        content = as_bytes(layers_figure(rows), path.suffix.casefold().removeprefix("."))
    with writing(path) as file:
        file.write(content)
