"""A head's ablation table: the rows that its paper prints, trained over the same folds, ours beside the paper's.

A row is an experiment like any other (`HeadSpec.ablation` says which preset and settings); rows that are finished are found. The
table compares every row with the first one fold by fold, which removes what all rows find hard about a fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfser.heads import REFERENCE_HEADS, head
from tfser.heads.models.layer_mix import parameters
from tfser.heads.results.marks import of_runs
from tfser.heads.results.scores import RunScore, Spread, scores_of_runs
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.plan import check_is_tested
from tfser.heads.runs.request import Request
from tfser.heads.spec.head import AblationRow, HeadSpec
from tfser.heads.spec.selections import peeks
from tfser.heads.spec.settings import Settings
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import unknown

METRICS = ("UA", "WA", "WF1")


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
        for name in REFERENCE_HEADS
    ]


def compare(cache: Cache, table: Sequence[tuple[AblationRow, Experiment]], selection: str) -> list[dict[str, Any]]:
    """Return the table: each row's size and utterance-level scores over folds, the paper's, and its gain over the first row.

    Scores are shares of 1, the paper's too. `UA_gain` is the mean over the folds that both rows have of the difference in UA, in
    `UA_gain_std` its deviation over folds, in `folds_won` the number of them where this row is better.
    """
    found: list[dict[str, Any]] = []
    first: dict[int, float] = {}
    with open_catalogue(cache) as connection:
        for row, experiment in table:
            shown = experiment.spec.selection(selection)
            scores = scores_of_runs(
                connection,
                experiments=[experiment.name],
                seeds=[experiment.seed],
                folds=experiment.folds,
                selection=shown,
            )
            found.append(_row(row, experiment, shown, scores, first))
            first = first or {score.fold: score.UA for score in scores if score.UA is not None}
    return found


def _row(
    row: AblationRow, experiment: Experiment, shown: str, scores: Sequence[RunScore], first: Mapping[int, float]
) -> dict[str, Any]:
    """Return a row of the table; `first` are the UA of the table's first row by fold, empty while that row itself is made."""
    spec = experiment.spec
    # Fold by fold and not mean against mean: folds differ more than rows do, and a gain over the folds that
    # both have is free of that.
    UA = {score.fold: score.UA for score in scores if score.UA is not None}
    gains = [UA[fold] - first[fold] for fold in sorted(UA.keys() & first.keys())]
    spreads = {metric: Spread.of(getattr(score, metric) for score in scores) for metric in METRICS}
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
        "UA_gain": gain.mean,
        "UA_gain_std": gain.deviation,
        "folds_won": sum(gain > 0 for gain in gains) if first else None,
        "UA_by_fold": {str(fold): UA[fold] for fold in sorted(UA)},
        "paper": {name: round(value / 100, 6) for name, value in row.printed.items()},
        "seconds": sum(score.seconds for score in scores),
        "looked_at_test": peeks(shown),
        **of_runs(map(vars, scores)),
        "protocol": experiment.protocol,
    }


def _typical(experiment: Experiment) -> Settings:
    """Return the preset as the paper has it, settled."""
    spec = experiment.spec
    return spec.settled(spec.preset(experiment.preset), hop_s=0.02, longest=1, device="cpu")

