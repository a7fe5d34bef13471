"""Which layer of an encoder: scores by layer, the layer that validation speakers choose, and what that choice is worth.

In: the finished runs of a `tfser.heads.runs.layer_plan.LayerPlan`. Out: a row a layer, a row for what stands beside them, and one
of the chosen layer.

The best of the layers' test scores is no result: it was chosen by the test speakers. The choice here is nested. In each fold the
layer is the one whose head does best on that fold's validation speakers (mean over seeds; the lower layer of equals), and what
that head said of the fold's test speakers counts. The row `chosen` pools this over the folds, so its score is one of the
procedure "train on every layer, ask the validation speakers which" for new speakers. Which layer to take in the end, `best` says:
the one that does best on the validation speakers of all folds together.

Of classes, alone or beside dimensions, the score is UA; where dimensions alone are learned it is the mean CCC over them, and
columns are called after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import numpy as np

from tfser.heads.results.intervals import Interval, difference, interval
from tfser.heads.results.marks import of_runs
from tfser.heads.results.moments import rating_difference, rating_interval
from tfser.heads.results.outcomes import Outcome, Subject, choose_clusters, read_outcome
from tfser.heads.results.rating_outcomes import RatedOutcome, read_rated_outcome
from tfser.heads.results.scores import scores_of_runs
from tfser.heads.results.summary import check_selection
from tfser.heads.runs.layer_plan import LayerPlan, layer_entries
from tfser.heads.runs.plan import Entry
from tfser.heads.spec.head import Baseline
from tfser.heads.spec.selections import peeks
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, open_catalogue, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.feature_name import FeatureName

CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """What is known of the layers.

    Attributes:
        rows: one a layer, one for each of what stands beside them, and that of the choice, if there are validation speakers.
        chosen: by fold, the layer that its validation speakers chose.
        best: the layer that validation speakers of all folds together choose; None without any.
        gain: how much better the choice is than the last layer, with the interval's ends; None where it is not known.
        notes: what a reader has to know.
        metric: UA or CCC.
    """

    rows: tuple[dict[str, Any], ...]
    chosen: Mapping[int, int]
    best: int | None
    gain: tuple[float, float | None, float | None] | None
    notes: tuple[str, ...]
    metric: str = "UA"


@dataclass(frozen=True, kw_only=True)
class _Read:
    """The finished runs of one entry: their scores by (seed, fold), and its test predictions."""

    layer: int | None
    words: str
    entry: Entry
    selection: str
    scores: Mapping[tuple[int, int], Mapping[str, float | None]]
    outcome: Outcome
    rated: RatedOutcome | None = None
    """The predicted ratings, where dimensions alone are learned; `outcome` says whose."""

    @property
    def metrics(self) -> tuple[str, str]:
        """The score that chooses, and one beside it."""
        return ("UA", "WA") if self.rated is None else ("CCC", "pearson")

    def take(self, places: Sequence[int], seeds: Sequence[int]) -> _Read:
        """Return the same of some utterances and seeds, by their places."""
        outcome = self.outcome.take(places)
        predicted = tuple(outcome.predicted[i] for i in seeds) if self.rated is None else ()
        outcome = replace(outcome, seeds=tuple(outcome.seeds[i] for i in seeds), predicted=predicted)
        if self.rated is None:
            return replace(self, outcome=outcome)
        of = self.rated.take(places)
        at = list(seeds)
        return replace(self, outcome=outcome, rated=replace(of, of=outcome, predicted=of.predicted[at], error=of.error[at]))


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
        raise _nothing_trained(plan)
    chosen, best = _choice(layers)
    table = [_row(read, chosen, weights) for read in scores]
    gain = None
    if chosen:
        picked = _composite(layers, chosen)
        table.append(_row(picked, {}, {}) | {"layer": None, "chosen_in": len(chosen)})
        gain = _gain(picked, layers[max(layers)])
    else:
        notes.append("nobody validates, so no layer is chosen; the best of these test scores is not one for new speakers")
    metric = scores[0].metrics[0]
    return LayerScores(rows=tuple(table), chosen=chosen, best=best, gain=gain, notes=tuple(notes), metric=metric)


def _nothing_trained(plan: LayerPlan) -> UsageError:
    """Return the error of layers of which none is trained as asked: with which head and folds, and what trains or draws them."""
    of = plan.of
    encoder = FeatureName.parse(of.feature_set).encoder
    return UsageError(
        f"no layer of {encoder} has a finished run of {of.spec.name} on {of.protocol}; `tfser layers --features {encoder}` "
        "trains them, and its --output draws them, whatever head and protocol it was given (nothing is trained twice)"
    )


def _read(connection: Connection, layer: int | None, words: str, entry: Entry, selection: str) -> _Read | None:
    """Read one entry's finished runs; None where there is none."""
    shown = "last" if isinstance(entry.experiment.spec, Baseline) else selection
    runs, subject = [run.run_id for run in entry.runs], Subject(experiment=entry.experiment.name)
    rated = None
    if entry.experiment.classes:
        scored = [dict(vars(score)) for score in scores_of_runs(connection, runs=runs, selection=shown)]
        names = ("UA", "WA")
    else:
        scored, names = rows(connection, _RATED, [runs, shown, len(entry.experiment.targets)]), ("CCC", "pearson")
    if not scored:
        return None
    # The epoch's own validation score, out of the history: what chooses a layer must not have seen its test side.
    val = f"val_{names[0]}"
    epochs = rows(connection, f"SELECT run_id, epoch, {val} FROM history WHERE list_contains(?, run_id)", [runs])
    validated = {(row["run_id"], row["epoch"]): row[val] for row in epochs}
    # The entry's own runs alone: the cache may hold some that were not asked for.
    if entry.experiment.classes:
        outcome = read_outcome(connection, subject, selection=shown, only=runs)
    else:
        rated = read_rated_outcome(connection, subject, selection=shown, only=runs)
        outcome = rated.of
    return _Read(
        layer=layer,
        words=words,
        entry=entry,
        selection=shown,
        scores={
            (of["seed"], of["fold"]): {**{name: of[name] for name in names}, val: validated.get((of["run_id"], of["epoch"]))}
            for of in scored
        },
        outcome=outcome,
        rated=rated,
    )


_RATED = """
SELECT run_id, any_value(seed) AS seed, any_value(fold) AS fold, any_value(epoch) AS epoch,
  if(count(CCC) = $3, avg(CCC ORDER BY dimension), NULL) AS CCC,
  if(count(pearson) = $3, avg(pearson ORDER BY dimension), NULL) AS pearson
FROM dimension_scores WHERE list_contains($1, run_id) AND selection = $2 AND level = 'utterance' GROUP BY run_id ORDER BY run_id
"""
"""The mean over the dimensions of each run; null where one of them has none."""


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
        by_layer = {
            layer: [s[f"val_{read.metrics[0]}"] for (_, f), s in read.scores.items() if f == fold]
            for layer, read in layers.items()
        }
        if all(values and None not in values for values in by_layer.values()):
            scores[fold] = {layer: mean(float(value or 0) for value in values) for layer, values in by_layer.items()}
    if not scores:
        return {}, None
    chosen = {fold: min(by_layer, key=lambda layer: (-by_layer[layer], layer)) for fold, by_layer in scores.items()}
    over_all = {layer: mean(by_layer[layer] for by_layer in scores.values()) for layer in layers}
    return chosen, min(over_all, key=lambda layer: (-over_all[layer], layer))


def _composite(layers: Mapping[int, _Read], chosen: Mapping[int, int]) -> _Read:
    """Return what the chosen layers' heads said, each of the test side of its own folds."""
    first = layers[next(iter(chosen.values()))]
    seeds = sorted(set.intersection(*(set(layers[layer].outcome.seeds) for layer in chosen.values())))
    of_key: dict[tuple[Any, ...], tuple[_Read, int]] = {}
    scores: dict[tuple[int, int], Mapping[str, float | None]] = {}
    # Each fold's test side out of the layer that this fold's own validation speakers chose: the choice is nested.
    for fold, layer in chosen.items():
        read = layers[layer]
        of_key |= {key: (read, i) for i, key in enumerate(read.outcome.keys) if read.outcome.folds[i] == fold}
        scores |= {key: source for key, source in read.scores.items() if key[1] == fold and key[0] in seeds}
    # In the order of one layer's outcome, so that true labels and speakers stand where they stood.
    kept = first.take(
        [i for i, key in enumerate(first.outcome.keys) if key in of_key], [first.outcome.seeds.index(seed) for seed in seeds]
    )
    where = [of_key[key] for key in kept.outcome.keys]
    # One leak among the chosen layers is a leak of the composite.
    standing = of_runs(layers[layer].outcome.row() for layer in chosen.values())
    outcome = replace(
        kept.outcome,
        subject=Subject(experiment="chosen layer"),
        audit=standing["audit"],
        speakers_kept=standing["speakers_kept"],
    )
    picked = replace(kept, layer=None, words=CHOSEN, scores=scores, outcome=outcome)
    if kept.rated is None:
        predicted = tuple(
            tuple(source.outcome.predicted[source.outcome.seeds.index(seed)][i] for source, i in where) for seed in seeds
        )
        return replace(picked, outcome=replace(outcome, predicted=predicted))
    taken = {
        name: np.array(
            [[getattr(source.rated, name)[source.outcome.seeds.index(seed), i] for source, i in where] for seed in seeds]
        )
        for name in ("predicted", "error")
    }
    return replace(picked, rated=replace(kept.rated, of=outcome, predicted=taken["predicted"], error=taken["error"]))


def _row(read: _Read, chosen: Mapping[int, int], weights: Mapping[int, float]) -> dict[str, Any]:
    """Return an entry's row: means over folds and seeds, pooled scores with their intervals, and how often it was chosen."""
    # The composite of chosen layers has an outcome like any layer's own, so one row is made of both in one way.
    by = choose_clusters((read.outcome,))
    who = ("all",) * len(read.outcome.keys) if by is None else read.outcome.clusters(by)
    main, other = read.metrics
    values: dict[str, list[float]] = {
        name: [one for scores in read.scores.values() if (one := scores[name]) is not None]
        for name in (main, other, f"val_{main}")
    }
    experiment = read.entry.experiment
    row: dict[str, Any] = {
        "layer": read.layer,
        "what": read.words,
        "head": experiment.spec.name,
        "features": experiment.feature_set if read.words != CHOSEN else None,
        f"validation_{main}": mean(values[f"val_{main}"]) if values[f"val_{main}"] else None,
        main: mean(values[main]) if values[main] else None,
        f"{main}_std": stdev(values[main]) if len(values[main]) > 1 else None,
        other: mean(values[other]) if values[other] else None,
    }
    # Without clusters the pooled score stands alone: an interval over utterances would be too narrow.
    for metric in read.metrics:
        score = _pooled(read, who, metric)
        row |= {f"pooled_{metric}": score.value if score else None}
        row |= {f"pooled_{metric}_{end}": getattr(score, end) if score and by else None for end in ("low", "high")}
    # How often a layer is chosen says more than its score where layers are near each other.
    times = Counter(chosen.values())
    return row | {
        "clustered_by": by,
        "clusters": len(set(who)) if by else None,
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


def _pooled(read: _Read, who: Sequence[str], metric: str) -> Interval | None:
    """Return a score over all test utterances, with its interval over clusters; None where ratings have none."""
    if read.rated is not None:
        return rating_interval(read.rated.moments(who), metric)
    classes = tuple(sorted({*read.outcome.labels, *(name for row in read.outcome.predicted for name in row)}))
    return interval(read.outcome.counts(who, classes), metric)


def _gain(picked: _Read, last: _Read) -> tuple[float, float | None, float | None] | None:
    """Return how much better the choice is than the last layer, paired over speakers; None over other utterances."""
    a, b = picked.outcome, last.outcome
    if a.keys != b.keys or a.labels != b.labels:
        return None
    by = choose_clusters((a, b))
    who: Sequence[str] = ("all",) * len(a.keys) if by is None else a.clusters(by)
    if picked.rated is not None and last.rated is not None:
        gap = rating_difference(picked.rated.moments(who), last.rated.moments(who), "CCC")
        return None if gap is None else (gap.value, gap.low if by else None, gap.high if by else None)
    classes = tuple(sorted({*a.labels, *(name for of in (a, b) for row in of.predicted for name in row)}))
    found = difference(a.counts(who, classes), b.counts(who, classes), "UA")
    return found.value, found.low if by else None, found.high if by else None
