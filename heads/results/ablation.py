"""A head's ablation table: the rows that its paper prints, trained over the same folds, ours beside the paper's.

A row is an experiment like any other (`HeadSpec.ablation` says which preset and settings); rows that are finished are found. The
table compares every row with the first one fold by fold, which removes what all rows find hard about a fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfser.heads import DIMENSION_REFERENCES, REFERENCE_HEADS, head
from tfser.heads.models.layer_mix import parameters
from tfser.heads.results.marks import of_runs
from tfser.heads.results.scores import Spread, scores_of_runs
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.plan import check_is_tested
from tfser.heads.runs.request import Request
from tfser.heads.spec.head import AblationRow, HeadSpec
from tfser.heads.spec.selections import peeks
from tfser.heads.spec.settings import Settings
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.errors import unknown

METRICS = ("UA", "WA", "WF1")
"""Of classes, alone or beside dimensions; the first is what a row gains."""

RATED = ("CCC", "pearson", "MAE")
"""Of dimensions alone, each the mean over them."""


def plan_rows(spec: HeadSpec, request: Request, presets: Sequence[str] = ()) -> list[tuple[AblationRow, Request]]:
    """Return the rows of a head's table with what is to be trained for each; a head without a table has a row a preset.

    Args:
        spec: the head.
        request: what all rows share.
        presets: only rows of these; none: all.

    Raises:
        UsageError: There is no such preset, or no fold is tested.
    """
    check_is_tested(request.folds)
    table = spec.ablation or tuple(AblationRow(name=preset, preset=preset) for preset in spec.presets)
    for preset in presets:
        if preset not in spec.presets:
            raise unknown(f"preset of {spec.name}", preset, list(spec.presets))
    return [
        (row, replace(request, preset=row.preset, settings={**request.settings, **row.settings}))
        for row in table
        if not presets or row.preset in presets
    ]


def reference_rows(request: Request, functionals: str | None = None) -> list[tuple[AblationRow, Request]]:
    """Return a row for each reference head, with its own defaults: on the same features and folds, or on the functionals."""
    of = replace(request, preset=None, recipe=None, settings={}, width=None, epochs=None)
    of = of if functionals is None else replace(of, features=functionals)
    on = "" if functionals is None else f" on {functionals}"
    return [
        (AblationRow(name=f"{name}{on} (reference)", preset=head(name).default_preset), replace(of, head=name))
        for name in (REFERENCE_HEADS if request.learns_classes else DIMENSION_REFERENCES)
    ]


def compare(cache: Cache, table: Sequence[tuple[AblationRow, Experiment]], selection: str) -> list[dict[str, Any]]:
    """Return the table: each row's size and utterance-level scores over folds, the paper's, and its gain over the first row.

    Scores are shares of 1, the paper's too. `UA_gain` is the mean over the folds that both rows have of the difference in UA, in
    `UA_gain_std` its deviation over folds, in `folds_won` the number of them where this row is better. Where dimensions alone are
    learned, CCC, pearson and MAE (means over them) stand in the place of UA, WA and WF1.
    """
    lines: list[dict[str, Any]] = []
    first: dict[int, float] | None = None
    with open_catalogue(cache) as connection:
        for row, experiment in table:
            shown = experiment.spec.selection(selection)
            scores = _of_folds(connection, experiment, shown)
            main = (METRICS if experiment.classes else RATED)[0]
            lines.append(_row(row, experiment, shown, scores, first or {}))
            if first is None:  # a first row without scores is no row to gain over, and none takes its place
                first = {score["fold"]: score[main] for score in scores if score[main] is not None}
    return lines


def _of_folds(connection: Connection, experiment: Experiment, selection: str) -> list[dict[str, Any]]:
    """Return a row a fold: its scores, seconds and standing."""
    if experiment.classes:
        scores = scores_of_runs(
            connection,
            experiments=[experiment.name],
            seeds=[experiment.seed],
            folds=experiment.folds,
            selection=selection,
        )
        return [dict(vars(score)) for score in scores]
    means = ", ".join(f"if(count(d.{name}) = $5, avg(d.{name} ORDER BY d.dimension), NULL) AS {name}" for name in RATED)
    asked = [experiment.name, experiment.seed, list(experiment.folds), selection, len(experiment.targets)]
    return rows(
        connection,
        f"SELECT d.fold, d.selection, {means}, any_value(r.seconds) AS seconds, any_value(d.audit) AS audit, "
        "any_value(d.speakers_kept) AS speakers_kept FROM dimension_scores d JOIN runs r USING (run_id) WHERE d.experiment = $1 "
        "AND d.seed = $2 AND list_contains($3, d.fold) AND d.selection = $4 AND d.level = 'utterance' "
        "GROUP BY d.fold, d.selection ORDER BY d.fold",
        asked,
    )


def _row(
    row: AblationRow,
    experiment: Experiment,
    shown: str,
    scores: Sequence[Mapping[str, Any]],
    first: Mapping[int, float],
) -> dict[str, Any]:
    """Return a row of the table; `first` are the main scores of its first row by fold, empty while that row itself is made."""
    spec = experiment.spec
    # Fold by fold and not mean against mean: folds differ more than rows do, and a gain over the folds that
    # both have is free of that.
    metrics = METRICS if experiment.classes else RATED
    main = metrics[0]
    by_fold = {score["fold"]: score[main] for score in scores if score[main] is not None}
    gains = [by_fold[fold] - first[fold] for fold in sorted(by_fold.keys() & first.keys())]
    spreads = {metric: Spread.of(score[metric] for score in scores) for metric in metrics}
    gain = Spread.of(gains)
    return {
        "row": row.name,
        "preset": row.preset,
        "recipe": experiment.recipe_name,
        "experiment": experiment.name,
        "parameters": parameters(spec, experiment.config, experiment.dim, experiment.outputs, experiment.layers),
        "parameters_typical": parameters(spec, _typical(experiment), spec.typical_dim, 4),
        "paper_parameters": None if row.parameters is None else round(row.parameters * 1e6),
        "selection": shown,
        "folds": len(scores),
        **{metric: spread.mean for metric, spread in spreads.items()},
        **{f"{metric}_std": spread.deviation for metric, spread in spreads.items()},
        f"{main}_gain": gain.mean,
        f"{main}_gain_std": gain.deviation,
        "folds_won": sum(gain > 0 for gain in gains) if first else None,
        f"{main}_by_fold": {str(fold): by_fold[fold] for fold in sorted(by_fold)},
        "paper": {name: round(value / 100, 6) for name, value in row.printed.items()},
        "seconds": sum(score["seconds"] for score in scores),
        "looked_at_test": peeks(shown),
        **of_runs(scores),
        "protocol": experiment.protocol,
    }


def _typical(experiment: Experiment) -> Settings:
    """Return the preset as the paper has it, settled."""
    spec = experiment.spec
    return spec.settled(spec.preset(experiment.preset), hop_s=0.02, longest=1, device="cpu")
