"""A head's ablation table: the rows that its paper prints, trained over the same folds, ours beside the paper's.

A row is an experiment like any other (`HeadSpec.ablation` says which preset and settings); rows that are finished are found. The
table compares every row with the first one fold by fold, which removes what all rows find hard about a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tfser.heads import REFERENCE_HEADS, head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.results.marks import of_runs
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.plan import check_is_tested
from tfser.heads.runs.request import Request
from tfser.heads.spec.head import AblationRow, HeadSpec, count_parameters
from tfser.heads.spec.selections import peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import unknown

if TYPE_CHECKING:
    from tfser.heads.spec.settings import Settings

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


def reference_rows(request: Request) -> list[tuple[AblationRow, Request]]:
    """Return a row for each reference head, on the same features and folds, with its own defaults."""
    of = replace(request, preset=None, recipe=None, settings={}, width=None, epochs=None)
    return [
        (AblationRow(name=f"{name} (reference)", preset=head(name).default_preset), replace(of, head=name))
        for name in REFERENCE_HEADS
    ]


def compare(cache: Cache, table: Sequence[tuple[AblationRow, Experiment]], selection: str) -> list[dict[str, Any]]:
    """Return the table: each row's size and utterance-level scores over folds, the paper's, and its gain over the first row.

    Scores are shares of 1, the paper's too. `UA_gain` is the mean over the folds that both rows have of the difference in UA, in
    `UA_gain_std` its deviation over folds, in `folds_won` the number of them where this row is better.
    """
    found: list[dict[str, Any]] = []
    first: dict[int, float] = {}
    for row, experiment in table:
        shown = selection if experiment.spec.fit is None else "last"  # where there are no epochs, there is no choice
        by_fold = _fold_scores(cache, experiment, shown)
        values = {metric: [by_fold[fold][metric] for fold in sorted(by_fold)] for metric in METRICS}
        UA = {fold: scores["UA"] for fold, scores in by_fold.items()}
        first = first or UA
        gains = [UA[fold] - first[fold] for fold in sorted(UA.keys() & first.keys())]
        found.append(
            {
                "row": row.name,
                "preset": row.preset,
                "recipe": experiment.recipe_name,
                "experiment": experiment.name,
                "parameters": parameters(
                    experiment.spec, experiment.config, experiment.dim, len(experiment.classes), experiment.layers
                ),
                "parameters_typical": parameters(experiment.spec, _typical(experiment), experiment.spec.typical_dim, 4),
                "paper_parameters": None if row.parameters is None else round(row.parameters * 1e6),
                "selection": shown,
                "folds": len(by_fold),
                **{metric: mean(of) if of else None for metric, of in values.items()},
                **{f"{metric}_std": stdev(of) if len(of) > 1 else None for metric, of in values.items()},
                "UA_gain": mean(gains) if gains and UA is not first else None,
                "UA_gain_std": stdev(gains) if len(gains) > 1 and UA is not first else None,
                "folds_won": sum(gain > 0 for gain in gains) if UA is not first else None,
                "UA_by_fold": {str(fold): UA[fold] for fold in sorted(UA)},
                "paper": {name: round(value / 100, 6) for name, value in row.printed.items()},
                "seconds": sum(scores["seconds"] for scores in by_fold.values()),
                "looked_at_test": peeks(shown),
                **of_runs(by_fold.values()),
                "protocol": experiment.protocol,
            }
        )
    return found


def parameters(spec: HeadSpec, config: Settings, dim: int, n_classes: int, layers: int = 1) -> int | None:
    """Count the trainable parameters of a head for features of a width, without making them; None for one without a network."""
    import torch

    if spec.fit is not None:
        return None
    with torch.device("meta"):
        return count_parameters(build_module(spec, config, dim, n_classes, layers))


def _typical(experiment: Experiment) -> Settings:
    """Return the preset as the paper has it, settled."""
    spec = experiment.spec
    return spec.settled(spec.preset(experiment.preset), hop_s=0.02, longest=1, device="cpu")


def _fold_scores(cache: Cache, experiment: Experiment, selection: str) -> dict[int, dict[str, Any]]:
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT r.fold, any_value(r.seconds) AS seconds, any_value(r.audit) AS audit, "
            "any_value(r.speakers_kept) AS speakers_kept, "
            + ", ".join(f"max(m.value) FILTER (m.metric = '{metric}') AS {metric}" for metric in METRICS)
            + " FROM runs r JOIN metrics m USING (run_id) WHERE r.experiment = ? AND r.seed = ? AND m.selection = ? "
            "AND m.level = 'utterance' AND m.class IS NULL AND list_contains(?, r.fold) GROUP BY r.fold",
            [experiment.name, experiment.seed, selection, list(experiment.folds)],
        )
    return {row["fold"]: row for row in found}
