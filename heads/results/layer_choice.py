"""Which layer of an encoder: scores by layer, the layer that validation speakers choose, and what that choice is worth.

In: the finished runs of a `tfser.heads.runs.layer_plan.LayerPlan`. Out: a row a layer, a row for what stands beside them, and one
of the chosen layer.

The best of the layers' test scores is no result: it was chosen by the test speakers. The choice here is nested. In each fold the
layer is the one whose head does best on that fold's validation speakers (mean over seeds; the lower layer of equals), and what
that head said of the fold's test speakers counts. The row `chosen` pools this over the folds, so its score is one of the
procedure "train on every layer, ask the validation speakers which" for new speakers. Which layer to take in the end, `best` says:
the one that does best on the validation speakers of all folds together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from tfser.heads.results.intervals import METRICS, difference, interval
from tfser.heads.results.outcomes import Outcome, Subject, choose_clusters, read_outcome
from tfser.heads.results.scores import scores_of_runs
from tfser.heads.results.summary import check_selection
from tfser.heads.runs.layer_plan import LayerPlan, layer_entries
from tfser.heads.runs.plan import Entry
from tfser.heads.spec.head import Baseline
from tfser.heads.spec.selections import peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.errors import UsageError

CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """What is known of the layers.

    Attributes:
        rows: one a layer, one for each of what stands beside them, and that of the choice, if there are validation speakers.
        chosen: by fold, the layer that its validation speakers chose.
        best: the layer that validation speakers of all folds together choose; None without any.
        gain: how much better the choice is than the last layer, in UA, with the interval's ends; None where it is not known.
        notes: what a reader has to know.
    """

    rows: tuple[dict[str, Any], ...]
    chosen: Mapping[int, int]
    best: int | None
    gain: tuple[float, float | None, float | None] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """The finished runs of one entry: their scores by (seed, fold), and its test predictions."""

    layer: int | None
    words: str
    entry: Entry
    selection: str
    scores: Mapping[tuple[int, int], Mapping[str, float | None]]
    outcome: Outcome


def check_choice(plan: LayerPlan, selection: str) -> None:
    """Refuse a selection that chooses nothing honestly, or that a head of the plan does not have; before anything is trained.

    Raises:
        UsageError: if it is one.
    """
    if peeks(selection):
        raise UsageError(f"--selection {selection}: it looked at the test side, and a choice among layers would look once more")
    check_selection(plan.plan, selection)


def layer_scores(cache: Cache, plan: LayerPlan, selection: str = "last") -> LayerScores:
    """Read the scores of finished runs by layer, and choose.

    Args:
        cache: the cache.
        plan: what was trained; layers without a finished run are left out, and said.
        selection: whose scores, of networks: last, or val.

    Raises:
        UsageError: if the selection is off, see `check_choice`, or none of the layers is trained.
    """
    check_choice(plan, selection)
    scores: list[_Read] = []
    notes: list[str] = []
    with open_catalogue(cache) as connection:
        for layer, words, entry in layer_entries(plan):
            read = _read(connection, layer, words, entry, selection)
            if read is None:
                notes.append(f"{words} ({entry.experiment.feature_set}) has no finished run")
            else:
                scores.append(read)
        weights = _mix_weights(connection, plan)
    layers = {read.layer: read for read in scores if read.layer is not None}
    if not layers:
        raise UsageError("no layer has a finished run, so there is nothing to choose from")
    chosen, best = _choice(layers)
    table = [_row(read, chosen, weights) for read in scores]
    gain = None
    if chosen:
        picked = _composite(layers, chosen)
        table.append(_row(picked, {}, {}) | {"layer": None, "chosen_in": len(chosen)})
        gain = _gain(picked, layers[max(layers)])
    else:
        notes.append("nobody validates, so no layer is chosen; the best of these test scores is not one for new speakers")
    return LayerScores(rows=tuple(table), chosen=chosen, best=best, gain=gain, notes=tuple(notes))


def _read(connection: Connection, layer: int | None, words: str, entry: Entry, selection: str) -> _Read | None:
    """Read one entry's finished runs; None where there is none."""
    shown = "last" if isinstance(entry.experiment.spec, Baseline) else selection
    runs = [run.run_id for run in entry.runs]
    scored = scores_of_runs(connection, runs=runs, selection=shown)
    if not scored:
        return None
    epochs = rows(connection, "SELECT run_id, epoch, val_UA FROM history WHERE list_contains(?, run_id)", [runs])
    validated = {(row["run_id"], row["epoch"]): row["val_UA"] for row in epochs}
    return _Read(
        layer=layer,
        words=words,
        entry=entry,
        selection=shown,
        scores={
            (score.seed, score.fold): {**score.columns("UA", "WA"), "val_UA": validated.get((score.run_id, score.epoch))}
            for score in scored
        },
        outcome=_of_runs(read_outcome(connection, Subject(experiment=entry.experiment.name), selection=shown), entry),
    )


def _of_runs(outcome: Outcome, entry: Entry) -> Outcome:
    """Return what the entry's own seeds and folds predicted: the cache may hold runs that were not asked for."""
    seeds = [i for i, seed in enumerate(outcome.seeds) if seed in entry.seeds]
    of_folds = outcome.take([i for i, fold in enumerate(outcome.folds) if fold in entry.folds])
    return replace(
        of_folds,
        seeds=tuple(outcome.seeds[i] for i in seeds),
        predicted=tuple(of_folds.predicted[i] for i in seeds),
    )


def _mix_weights(connection: Connection, plan: LayerPlan) -> dict[int, float]:
    """Return the weight of each layer in the learned mix, mean over its runs."""
    if (entry := plan.others.get("learned mix")) is None:
        return {}
    import json

    found = rows(
        connection,
        "SELECT layer_weights FROM runs WHERE list_contains(?, run_id) AND layer_weights IS NOT NULL",
        [[run.run_id for run in entry.runs]],
    )
    weights = [json.loads(row["layer_weights"])["last"] for row in found]
    return {layer: mean(of) for layer, of in enumerate(zip(*weights, strict=True))}


def _choice(layers: Mapping[int, _Read]) -> tuple[dict[int, int], int | None]:
    """Return by fold the layer that validation chooses, and the one that it chooses over all folds.

    Only folds that every layer was trained in, with validation speakers, are asked: else a layer would win for want of others.
    """
    scores: dict[int, dict[int, float]] = {}
    folds = sorted({fold for read in layers.values() for _, fold in read.scores})
    for fold in folds:
        of = {layer: [s["val_UA"] for (_, f), s in read.scores.items() if f == fold] for layer, read in layers.items()}
        if all(values and None not in values for values in of.values()):
            scores[fold] = {layer: mean(float(value or 0) for value in values) for layer, values in of.items()}
    if not scores:
        return {}, None
    chosen = {fold: min(of, key=lambda layer: (-of[layer], layer)) for fold, of in scores.items()}
    over_all = {layer: mean(of[layer] for of in scores.values()) for layer in layers}
    return chosen, min(over_all, key=lambda layer: (-over_all[layer], layer))


def _composite(layers: Mapping[int, _Read], chosen: Mapping[int, int]) -> _Read:
    """Return what the chosen layers' heads said, each of the test side of its own folds."""
    first = layers[next(iter(chosen.values()))]
    seeds = sorted(set.intersection(*(set(layers[layer].outcome.seeds) for layer in chosen.values())))
    predictions: dict[tuple[Any, ...], tuple[str, ...]] = {}
    about: dict[tuple[Any, ...], int] = {}
    scores: dict[tuple[int, int], Mapping[str, float | None]] = {}
    for fold, layer in chosen.items():
        outcome = layers[layer].outcome
        places = [outcome.seeds.index(seed) for seed in seeds]
        for i, key in enumerate(outcome.keys):
            if outcome.folds[i] == fold:
                predictions[key] = tuple(outcome.predicted[place][i] for place in places)
                about[key] = i
        scores |= {key: of for key, of in layers[layer].scores.items() if key[1] == fold and key[0] in seeds}
    kept = first.outcome.take([i for i, key in enumerate(first.outcome.keys) if key in predictions])
    outcome = replace(
        kept,
        subject=Subject(experiment="chosen layer"),
        seeds=tuple(seeds),
        predicted=tuple(tuple(predictions[key][s] for key in kept.keys) for s in range(len(seeds))),
        audit="overridden" if any(layers[layer].outcome.audit == "overridden" for layer in chosen.values()) else kept.audit,
    )
    return _Read(layer=None, words=CHOSEN, entry=first.entry, selection=first.selection, scores=scores, outcome=outcome)


def _row(read: _Read, chosen: Mapping[int, int], weights: Mapping[int, float]) -> dict[str, Any]:
    """Return an entry's row: means over folds and seeds, pooled scores with their intervals, and how often it was chosen."""
    # The composite of chosen layers has an outcome like any layer's own, so one row is made of both in one way.
    by = choose_clusters((read.outcome,))
    who = ("all",) * len(read.outcome.keys) if by is None else read.outcome.clusters(by)
    classes = tuple(sorted({*read.outcome.labels, *(name for row in read.outcome.predicted for name in row)}))
    counts = read.outcome.counts(who, classes)
    values: dict[str, list[float]] = {
        name: [one for scores in read.scores.values() if (one := scores[name]) is not None] for name in ("UA", "WA", "val_UA")
    }
    experiment = read.entry.experiment
    row: dict[str, Any] = {
        "layer": read.layer,
        "what": read.words,
        "head": experiment.spec.name,
        "features": experiment.feature_set if read.words != CHOSEN else None,
        "validation_UA": mean(values["val_UA"]) if values["val_UA"] else None,
        "UA": mean(values["UA"]) if values["UA"] else None,
        "UA_std": stdev(values["UA"]) if len(values["UA"]) > 1 else None,
        "WA": mean(values["WA"]) if values["WA"] else None,
    }
    # Without clusters the pooled score stands alone: an interval over utterances would be too narrow.
    for metric in METRICS[:2]:
        score = interval(counts, metric)
        row |= {f"pooled_{metric}": score.value}
        row |= {f"pooled_{metric}_low": score.low if by else None, f"pooled_{metric}_high": score.high if by else None}
    times = Counter(chosen.values())
    return row | {
        "clustered_by": by,
        "clusters": len(counts.clusters) if by else None,
        "chosen_in": times[read.layer] if chosen and read.layer is not None else None,
        "mix_weight": weights.get(read.layer) if read.layer is not None else None,
        "runs": len(read.scores),
        "of_runs": len(read.entry.runs),
        "seeds": list(read.outcome.seeds),
        "selection": read.selection,
        "audit": read.outcome.audit,
        "speakers_kept": read.outcome.speakers_kept,
        "corpus": experiment.corpus,
        "protocol": experiment.protocol,
        "validation": experiment.validation,
        "experiment": experiment.name if read.words != CHOSEN else None,
    }


def _gain(picked: _Read, last: _Read) -> tuple[float, float | None, float | None] | None:
    """Return how much better the choice is than the last layer, paired over speakers; None over other utterances."""
    a, b = picked.outcome, last.outcome
    if a.keys != b.keys or a.labels != b.labels:
        return None
    by = choose_clusters((a, b))
    who: Sequence[str] = ("all",) * len(a.keys) if by is None else a.clusters(by)
    classes = tuple(sorted({*a.labels, *(name for of in (a, b) for row in of.predicted for name in row)}))
    found = difference(a.counts(who, classes), b.counts(who, classes), "UA")
    return found.value, found.low if by else None, found.high if by else None
