"""Late fusion: the mean of several experiments' probabilities, utterance by utterance, stored as a result like a run.

What comes in: experiments with finished runs on one protocol. What goes out: a run of the head `fusion` for each fold and seed
that all of them have, with its predictions, metrics and sources: `tfser scores`, `compare` and the audits know it like any
other. Nothing is trained, and no weight is chosen: one could only be chosen by looking at somebody, so all count the same.

Marks are inherited: a fusion's audit is the worst of its sources', their findings are its findings, selections keep their names
(and so the mark of a test side that was looked at), and whether its test speakers are new is judged of the same rows. Its name
is made of its sources' names, and each run holds the digests of the predictions that it was made of: where a source was
trained again to other predictions, the fusion is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.results.marks import of_runs
from tfser.heads.results.outcomes import check_classes, find
from tfser.heads.results.scores import scores_of_runs
from tfser.heads.runs.experiment import EVERYTHING, METHOD_VERSION
from tfser.heads.runs.outcome import RunOutcome, Selected
from tfser.heads.runs.store import begin, digest, finish, peek, pick_up, run_folder, versions
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.catalogue.run_files import read_run
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.experiment_names import meant_by
from tfser.manifests.files import now
from tfser.pipeline.resources.devices import processor

HEAD, RULE = "fusion", "mean of probabilities"
_SAME = ("corpus", "protocol", "protocol_hash", "classes")
"""What all sources must have in common for their predictions to be of the same utterances under the same training sides."""

Row = Mapping[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class FusionPlan:
    """What is fused: the sources' experiments, and for each fold and seed of the fusion the run of each source.

    `selections` are those that every run has; `last` is one of them.
    """

    experiment: str
    selections: tuple[str, ...]
    sources: tuple[str, ...]
    runs: Mapping[tuple[int, int], tuple[Row, ...]]
    left_out: tuple[str, ...]
    """Folds and seeds that a source lacks, in words."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What became of a plan: how many runs were made now, and how many were there."""

    plan: FusionPlan
    made: int
    found: int


def _together(
    experiments: Sequence[str], stored: Sequence[Sequence[Row]]
) -> tuple[dict[tuple[int, int], tuple[Row, ...]], list[str]]:
    """Return the runs of all experiments by fold and seed, and in words the folds and seeds of which somebody lacks a run."""
    places = [{(row["fold"], row["seed"]): row for row in each} for each in stored]
    seeds = [sorted({seed for _, seed in each}) for each in places]
    several = [set(each) for each in seeds if len(each) > 1] or [set(seeds[0])]
    runs: dict[tuple[int, int], tuple[Row, ...]] = {}
    left_out: list[str] = []
    for fold in sorted({fold for each in places for fold, _ in each}):
        for seed in sorted(set.union(*several)):
            side = [each.get((fold, only[0] if len(only) == 1 else seed)) for each, only in zip(places, seeds, strict=True)]
            if lacking := [name for name, row in zip(experiments, side, strict=True) if row is None]:
                left_out.append(f"fold {fold}, seed {seed}: no run of {', '.join(lacking)}")
            else:
                runs[fold, seed] = tuple(row for row in side if row is not None)
    return runs, left_out


def _places(stored: Sequence[Row]) -> str:
    """Return in words which folds and seeds an experiment has.

    >>> _places([{"fold": 1, "seed": 0}, {"fold": 2, "seed": 0}])
    'folds 1, 2 of seed 0'
    """
    folds, seeds = (sorted({row[key] for row in stored}) for key in ("fold", "seed"))
    words = [f"{name}{'s' * (len(of) > 1)} {', '.join(map(str, of))}" for name, of in (("fold", folds), ("seed", seeds))]
    return " of ".join(words)


def plan_fusion(cache: Cache, names: Sequence[str]) -> FusionPlan:
    """Find the runs to fuse.

    A source of one seed (heads that are fitted at once have one) goes with every seed of the others.

    Raises:
        UsageError: fewer than two experiments are named, there is no such experiment, or they do not go together.
    """
    with open_catalogue(cache) as connection:
        subjects = [find(connection, meant_by(cache, name)) for name in names]
        if single := [each.run_id for each in subjects if each.run_id is not None]:
            raise UsageError(f"{single[0]} is a single run; name experiments, whose folds are fused one by one")
        for subject in subjects:
            check_classes(connection, subject, "a fusion")
        experiments = [each.experiment for each in subjects]
        if len(set(experiments)) < 2 or len(set(experiments)) < len(experiments):
            raise UsageError("a fusion needs two experiments or more, each named once")
        of_one = "SELECT * FROM runs WHERE experiment = ? ORDER BY seed, fold"
        trained = [rows(connection, of_one, [name]) for name in experiments]
        kept = [score.columns("run_id", "selection") for score in scores_of_runs(connection, experiments=experiments)]
    # A run on everything has no test side, so there is nothing to fuse of it.
    stored = [[row for row in each if row["fold"] != EVERYTHING] for each in trained]
    for name, each in zip(experiments, stored, strict=True):
        if not each:
            raise UsageError(f"{name} was trained on all utterances alone, and predicts nobody; train its folds (`--fold all`)")
    _check_alike(experiments, [each[0] for each in stored])
    _check_members(experiments, [each[0] for each in stored])
    # Fold by fold and seed by seed: a member must not have trained on whom the others test.
    runs, left_out = _together(experiments, stored)
    if not runs:
        have = "; ".join(f"{name} has {_places(each)}" for name, each in zip(experiments, stored, strict=True))
        raise UsageError(f"there is no fold and seed that all of these have a run of: {have}")
    # Only selections that every member has: half a mean would be another head in some folds.
    of_run: dict[str, set[str]] = {}
    for row in kept:
        of_run.setdefault(row["run_id"], set()).add(row["selection"])
    common = set.intersection(*(of_run[row["run_id"]] for each in runs.values() for row in each))
    # Named by its sources in any order: the same members asked for twice are one experiment.
    words = {"version": METHOD_VERSION, "rule": RULE, "sources": sorted(experiments)}
    return FusionPlan(
        experiment=f"{HEAD}-mean-{stored[0][0]['corpus']}-{digest(words)}",
        selections=tuple(sorted(common)),
        sources=tuple(experiments),
        runs=runs,
        left_out=tuple(left_out),
    )


def _check_members(experiments: Sequence[str], firsts: Sequence[Row]) -> None:
    """Refuse a fusion beside one of its own members, which would count more than the others.

    Raises:
        UsageError: one of the experiments is a fusion that has another of them in it.
    """
    for name, row in zip(experiments, firsts, strict=True):
        for source in json.loads(row["config"] or "{}").get("sources", []) if row["head"] == HEAD else []:
            if source["experiment"] in experiments:
                raise UsageError(f"{source['experiment']} is in {name} already, and would count twice; fuse single experiments")


def _check_alike(experiments: Sequence[str], firsts: Sequence[Row]) -> None:
    for name, row in zip(experiments[1:], firsts[1:], strict=True):
        for column in _SAME:
            if row[column] != firsts[0][column]:
                here, there = ("other rows" if column == "protocol_hash" else of[column] for of in (firsts[0], row))
                raise UsageError(
                    f"{experiments[0]} and {name} cannot be fused: {column} is {here} of one and {there} of the other; "
                    "train both under one protocol"
                )


def fuse(cache: Cache, plan: FusionPlan, *, again: bool = False) -> Fused:
    """Make the runs of a fusion that are not there, or whose sources have other predictions now.

    Raises:
        TfserError: sources were tested on different utterances, or cannot be read.
    """
    made = 0
    for (fold, seed), sources in plan.runs.items():
        run_id = f"{plan.experiment}-f{fold}-s{seed}"
        stored = {selection: [_read(cache, row, selection) for row in sources] for selection in plan.selections}
        digests = [{name: of[place].digest for name, of in stored.items()} for place in range(len(sources))]
        with cache.lock(f"runs/{run_id}"):
            done = peek(cache, run_id) or pick_up(cache, run_id, again=False, note=lambda _: None)
            now_there = {row["run_id"]: of for row, of in zip(sources, digests, strict=True)}
            # By name, not by place: the members in another order are the same fusion.
            is_stale = done is not None and {of["run_id"]: of["predictions"] for of in done["config"]["sources"]} != now_there
            if done is not None and not is_stale and not again:
                continue
            _average(stored["last"])  # before anything is begun: what does not go together leaves nothing behind
            about = _about(plan, run_id, fold, seed, sources, digests)
            folder = begin(cache, about, again=done is not None)
            _store(cache, about, stored, folder)
            made += 1
    return Fused(plan=plan, made=made, found=len(plan.runs) - made)


@dataclass(frozen=True, kw_only=True)
class _Predicted:
    """A source's predictions of one run: probabilities (U, K) and labels by utterance, in a fixed order."""

    run_id: str
    utterances: tuple[Key, ...]
    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    digest: str


def _read(cache: Cache, row: Row, selection: str) -> _Predicted:
    """Return the predictions of a run, once its files were compared with their digests.

    Raises:
        TfserError: it is not finished any more, or damaged.
    """
    run = read_run(run_folder(cache, row["run_id"]))
    if run is None:
        raise TfserError(f"{row['run_id']} is not finished; run the same command again")
    stored = [
        prediction
        for prediction in run.tables["predictions"].to_pylist()
        if prediction["selection"] == selection and prediction["level"] == "utterance"
    ]
    stored.sort(key=lambda prediction: (prediction["corpus"], prediction["utterance_id"]))
    by_class = [dict(prediction["probabilities"]) for prediction in stored]
    return _Predicted(
        run_id=row["run_id"],
        utterances=tuple((prediction["corpus"], prediction["utterance_id"]) for prediction in stored),
        labels=tuple(prediction["label"] for prediction in stored),
        probabilities=np.array([[prediction[name] for name in row["classes"]] for prediction in by_class], dtype=np.float64),
        digest=digest([[row["corpus"], row["utterance_id"], p] for row, p in zip(stored, by_class, strict=True)]),
    )


def _average(stored: Sequence[_Predicted]) -> npt.NDArray[np.float32]:
    """Return the mean of the sources' probabilities, (U, K).

    Raises:
        TfserError: the sources were tested on different utterances, or under different labels.
    """
    first = stored[0]
    for other in stored[1:]:
        if other.utterances != first.utterances:
            here, there = set(first.utterances), set(other.utterances)
            odd = sorted(here ^ there)[0][1]
            raise TfserError(
                f"{first.run_id} was tested on {len(here):,} utterances and {other.run_id} on {len(there):,}, "
                f"{len(here & there):,} of them the same ({odd} is one that is not); extract what is missing, and train again"
            )
        if other.labels != first.labels:
            raise TfserError(f"{first.run_id} and {other.run_id} were tested under other labels; train both again")
    return mean_of_probabilities([of.probabilities for of in stored])


def mean_of_probabilities(of: Sequence[npt.NDArray[np.floating[Any]]]) -> npt.NDArray[np.float32]:
    """Return the mean of several heads' probabilities, (U, K) each, summed in float64."""
    mean: npt.NDArray[np.float32] = np.mean([each.astype(np.float64) for each in of], axis=0).astype(np.float32)
    return mean


def stale_sources(cache: Cache, run_json: Row) -> list[str]:
    """Return the sources of a fused run that have other predictions now than those that it was made of.

    Args:
        cache: the cache.
        run_json: what the fused run says of itself.

    Raises:
        TfserError: a source is not finished any more, or damaged.
    """
    stored = []
    for source in run_json["config"]["sources"]:
        row = {"run_id": source["run_id"], "classes": run_json["classes"]}
        now_there = {selection: _read(cache, row, selection).digest for selection in source["predictions"]}
        if now_there != source["predictions"]:
            stored.append(str(source["run_id"]))
    return stored


def _store(cache: Cache, run_json: dict[str, Any], stored: Mapping[str, Sequence[_Predicted]], folder: Path) -> None:
    """Average and write the predictions of one run, by selection. Its one "epoch" is no training: it has no loss."""
    began = time.perf_counter()
    # All sources were checked to hold the same utterances and labels: those of the first stand for all.
    first = next(iter(stored.values()))[0]
    number = {name: k for k, name in enumerate(run_json["classes"])}
    count = len(first.utterances)
    means = {selection: _average(of) for selection, of in stored.items()}
    finish(
        cache,
        run_json | {"finished_at": now(), "seconds": time.perf_counter() - began},
        RunOutcome(
            classes=run_json["classes"],
            utterances=first.utterances,
            labels=np.array([number[name] for name in first.labels], dtype=np.int64),
            selections=[
                Selected(
                    selection=selection,
                    epoch=1,
                    utterances=mean,
                    segments=mean,
                    segment_utterance=np.arange(count),
                    segment_number=np.zeros(count, dtype=np.int64),
                )
                for selection, mean in means.items()
            ],
            history=[{"epoch": 1, "loss": None, "lr": 0.0}],
        ),
        folder=folder,
    )


def _about(
    plan: FusionPlan, run_id: str, fold: int, seed: int, sources: Sequence[Row], digests: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Return what a fused run says of itself: all columns of the table `runs` but those of its end."""
    first = sources[0]
    findings = [of for row in sources for of in json.loads(row["findings"] or "[]")]
    unique = {json.dumps(of, sort_keys=True): of for of in findings}
    return {
        "run_id": run_id,
        "experiment": plan.experiment,
        "head": HEAD,
        "preset": "mean",
        "recipe": "none",
        **{column: first[column] for column in ("corpus", "protocol", "protocol_hash", "validation", "classes")},
        "fold": fold,
        "seed": seed,
        "feature_set": " & ".join(dict.fromkeys(row["feature_set"] for row in sources)),
        "fingerprint": digest([row["fingerprint"] for row in sources]),
        "epochs": 1,
        "device": "cpu",
        "device_name": processor("cpu"),
        "parameters": sum(row["parameters"] or 0 for row in sources),
        "layer_weights": None,
        "utterances_cut": max(row["utterances_cut"] or 0 for row in sources),
        **of_runs(sources),
        "findings": list(unique.values()),
        "started_at": now(),
        "versions": versions(),
        "config": {
            "rule": RULE,
            "sources": [
                {"run_id": row["run_id"], "experiment": row["experiment"], "predictions": found}
                for row, found in zip(sources, digests, strict=True)
            ],
        },
    }
