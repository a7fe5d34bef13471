"""Tables of scores: a row an experiment over its folds and seeds with intervals; or a seed, fold, class, speaker, session.

In: the scores of runs and seeds (`tfser.heads.results.scores`), the catalogue's views of scores by part (`class_scores`,
`speaker_scores`, `session_scores`), and `Wanted`, which says of what. Out: rows with scores as shares of 1. Each row says what
its experiment is, under which protocol and classes it was tested, and what its numbers are worth (`audit`, `speakers_kept`,
`looked_at_test`), so that none misleads where it is copied to. `tfser.heads.commands.score_report` shows them to people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Annotated, Any, ClassVar, TypeVar

from tfser.heads.results.calibration import calibration
from tfser.heads.results.intervals import CONFIDENCE, FEW, METRICS, interval, new_speaker, seed_scores
from tfser.heads.results.marks import is_independent, of_runs
from tfser.heads.results.outcomes import Pooled, not_pooled, pooled
from tfser.heads.results.rater_scores import LabelMaps, by_agreement, rater_scores
from tfser.heads.results.scores import RunScore, SeedScore, Spread, scores_of_runs, scores_of_seeds, selections_of
from tfser.heads.spec.selections import ORDER_SQL, peeks
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError, unknown
from tfser.manifests.options import Option
from tfser.manifests.protocols.independence import NOT_INDEPENDENT
from tfser.manifests.protocols.protocol import JOINED_BY

BY = ("seed", "fold", "class", "speaker", "session", "calibration", "agreement", "raters")
"""What a table can have rows of, besides experiments."""

_NO_INTERVAL: dict[str, str] = {
    **{kind: f"no interval over speakers: {words}" for kind, words in NOT_INDEPENDENT.items()},
    "overridden": "no interval over speakers: a fold was trained although its audit failed",
}

SAID_BY_MARKS = frozenset(_NO_INTERVAL.values())
"""The notes that say what the explanation of a mark says already."""

_ORDER = f"experiment, level DESC, {ORDER_SQL}"
_WHICH = "list_contains(?, experiment) AND (level = 'utterance' OR ?) AND (?::VARCHAR IS NULL OR selection = ?)"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a table is of; None: whatever there is.

    `experiment` is the beginning of an id, or a piece of it; `protocol` and `features` may leave out what is chosen beyond a name
    (label map, validation, layer, storage); `corpus` is one of the corpora.
    """

    panel: ClassVar[str] = "Which runs"
    experiment: Annotated[str | None, Option("As the argument.", metavar="ID")] = None
    corpus: Annotated[str | None, Option("Only runs on this corpus.", metavar="NAME")] = None
    protocol: Annotated[str | None, Option("Only runs under this protocol.", metavar="NAME")] = None
    head: Annotated[str | None, Option("Only this head.", metavar="NAME")] = None
    features: Annotated[str | None, Option("Only runs on these features.", metavar="NAME")] = None
    selection: Annotated[str | None, Option("last, val, test-oracle ...; all if left out.", metavar="NAME")] = None
    segments: Annotated[bool, Option("Segment level, too.")] = False


@dataclass(frozen=True, kw_only=True)
class _Which:
    """What a table is of, settled: the arguments that the queries of scores have in common."""

    experiments: list[str]
    selection: str | None
    segments: bool

    def values(self) -> list[Any]:
        """Return the values of `_WHICH`."""
        return [self.experiments, self.segments, self.selection, self.selection]


def table(
    connection: Connection,
    wanted: Wanted | None = None,
    *,
    by: str | None = None,
    clusters: str | None = None,
    maps: LabelMaps | None = None,
) -> list[dict[str, Any]]:
    """Return a table of scores.

    Args:
        connection: the catalogue.
        wanted: of what; None: of all.
        by: one of BY; None gives a row an experiment.
        clusters: what intervals are over (CLUSTERS of heads.outcomes); the speakers if left out, where they are new to the head.
        maps: of a table by raters: the class of each label, by protocol (`rater_scores.label_maps`).

    Raises:
        UsageError: There is no such table, or no such clusters, or no run is what is wanted.
    """
    wanted = wanted or Wanted()
    experiments = about_experiments(connection)
    every = chosen_experiments(wanted, experiments)
    # Experiments on dimensions alone have tables of their own, and those on both stand in both.
    names = [name for name in every if experiments[name]["classes"] or not experiments[name]["targets"]]
    if every and not names:
        return []
    _check_selection(connection, wanted, names)
    wanted_runs = _Which(experiments=names, selection=wanted.selection, segments=wanted.segments)
    if by is None:
        scored = _experiments(connection, wanted_runs, experiments, clusters)
    elif by == "seed":
        scored = [dict(vars(score)) for score in scores_of_seeds(connection, **vars(wanted_runs))]
    elif by == "fold":
        scored = _by_fold(connection, wanted_runs)
    elif by in ("speaker", "session"):
        scored = _by_speaker_or_session(connection, by, wanted_runs)
    elif by == "class":
        scored = _by_class(connection, wanted_runs, clusters)
    elif by == "calibration":
        scored = calibration(connection, names, wanted.selection)
    elif by == "agreement":
        scored = by_agreement(connection, names, wanted.selection)
    elif by == "raters":
        scored = rater_scores(connection, names, maps or {}, wanted.selection)
    else:
        raise unknown("table of scores by", by, BY)
    told = {name: {key: value for key, value in of.items() if key != "targets"} for name, of in experiments.items()}
    return [{**row, **told[row["experiment"]], "looked_at_test": peeks(row["selection"])} for row in scored]


def about_experiments(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return what each experiment is and what its numbers are worth; namesakes say in what else they differ."""
    described = rows(
        connection,
        "SELECT experiment, any_value(head) AS head, any_value(preset) AS preset, any_value(recipe) AS recipe, "
        "any_value(corpus) AS corpus, any_value(protocol) AS protocol, any_value(validation) AS validation, "
        "any_value(classes) AS classes, any_value(targets) AS targets, any_value(feature_set) AS feature_set, "
        "list(DISTINCT audit) AS audits, list(DISTINCT speakers_kept) AS kept, any_value(config) AS config "
        "FROM runs GROUP BY experiment ORDER BY experiment",
    )
    experiments, configs = {}, {}
    for row in described:
        name, audits, kept, config = (row.pop(key) for key in ("experiment", "audits", "kept", "config"))
        standing = of_runs({"audit": audit, "speakers_kept": of} for audit in audits for of in kept)
        experiments[name] = {**row, "differs": None, **standing}
        configs[name] = flat(_named_sources(json.loads(config))) if config else {}
    namesakes: dict[str, list[str]] = {}
    for name, row in experiments.items():
        namesakes.setdefault(repr({**row, "audit": None, "speakers_kept": None}), []).append(name)
    for names in namesakes.values():
        keys = dict.fromkeys(key for name in names for key in configs[name])
        apart = [key for key in keys if len({repr(configs[name].get(key)) for name in names}) > 1]
        for name in names if len(names) > 1 else ():
            experiments[name]["differs"] = ", ".join(f"{_last(key)}={_brief(configs[name].get(key))}" for key in apart) or None
    return experiments


def _named_sources(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, of a fusion with its sources' names: which runs they were, by fold, is in each run."""
    sources = config.get("sources")
    return {**config, "sources": " & ".join(of["experiment"] for of in sources)} if sources else dict(config)


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return a configuration with its parts side by side, under names with dots.

    >>> flat({"head": "svm", "head_config": {"C": 1.0}})
    {'head': 'svm', 'head_config.C': 1.0}
    """
    parts: dict[str, Any] = {}
    for key, value in config.items():
        parts |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return parts


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _brief(value: Any) -> str:
    """Return a setting in a few letters; of hashes, enough of them to tell one from another."""
    text = str(value)
    return text[:6] if len(text) >= 12 and all(letter in "0123456789abcdef" for letter in text) else text


def chosen_experiments(wanted: Wanted, experiments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the experiments that are wanted.

    Raises:
        UsageError: a name is unknown, or no experiment is all of what is wanted.
    """
    names = list(experiments)
    if wanted.experiment:
        begin = [name for name in names if name.startswith(wanted.experiment)]
        names = begin or [name for name in names if wanted.experiment in name]
        if not names:
            raise unknown("experiment that begins with", wanted.experiment, list(experiments))
    for what, asked, column, ends in (
        ("corpus of these runs", wanted.corpus, "corpus", ""),
        ("protocol of these runs", wanted.protocol, "protocol", "@/"),
        ("head of these runs", wanted.head, "head", ""),
        ("features of these runs", wanted.features, "feature_set", "/+@"),
    ):
        if asked is None:
            continue
        every = dict.fromkeys(str(row[column]) for row in experiments.values())
        parts = {have: have.split(JOINED_BY) if column == "corpus" else () for have in every}
        fitting = [have for have in every if _is_or_begins(have, asked, ends) or asked in parts[have]]
        if not fitting:
            raise unknown(what, asked, list(every))
        exact = [name for name in names if experiments[name][column] == asked]
        names = exact or [name for name in names if experiments[name][column] in fitting]
    if experiments and not names:
        raise UsageError("no run is all of what is asked for: leave out one of the options")
    return names


def _is_or_begins(have: str, asked: str, ends: str) -> bool:
    """Tell whether a name is the one asked for, or that one with something chosen behind it."""
    return have == asked or any(have.startswith(f"{asked}{end}") for end in ends)


def _check_selection(connection: Connection, wanted: Wanted, names: Sequence[str]) -> None:
    """Refuse a selection that none of the runs has.

    Raises:
        UsageError: there is none.
    """
    known = selections_of(connection, names)
    if wanted.selection is not None and known and wanted.selection not in known:
        raise unknown("selection of these runs", wanted.selection, known)


def _experiments(
    connection: Connection, wanted: _Which, experiments: Mapping[str, Mapping[str, Any]], clusters: str | None
) -> list[dict[str, Any]]:
    """Return a row an experiment, selection and level: over all of its folds and seeds, and pooled with an interval."""
    of_seeds = _grouped(scores_of_seeds(connection, **vars(wanted)))
    counted = pooled(connection, experiments=wanted.experiments, segments=wanted.segments, clusters=clusters)
    table = []
    for key, scores in _grouped(scores_of_runs(connection, **vars(wanted))).items():
        experiment, selection, level = key
        seeds = of_seeds[key]
        row: dict[str, Any] = {
            "experiment": experiment,
            "selection": selection,
            "level": level,
            "epochs": seeds[0].epochs,
            "seeds": [seed.seed for seed in seeds],
            "folds": max(seed.folds for seed in seeds),
            "of_folds": seeds[0].of_folds,
            "UA_std_seeds": Spread.of(seed.UA for seed in seeds).deviation,
            "WA_std_seeds": Spread.of(seed.WA for seed in seeds).deviation,
            "seconds": sum(seed.seconds for seed in seeds),
            "runs": len(scores),
        }
        for metric in METRICS:
            spread = Spread.of(getattr(score, metric) for score in scores)
            row |= spread.columns(metric) | {f"{metric}_runs": spread.n}
        table.append(row | _pooled(counted.get(key), row, experiments[experiment]))
    return table


S = TypeVar("S", RunScore, SeedScore)


def _grouped(scores: Sequence[S]) -> dict[tuple[str, str, str], list[S]]:
    """Return scores by experiment, selection and level, in their order."""
    groups: dict[tuple[str, str, str], list[S]] = {}
    for score in scores:
        groups.setdefault((score.experiment, score.selection, score.level), []).append(score)
    return groups


def _pooled(counted: Pooled | None, row: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pooled scores with their intervals, and what there is to say about them; None: no prediction is there."""
    result: dict[str, Any] = {
        "pooled_seeds": list(counted.seeds) if counted else [],
        "pooled_folds": counted.folds if counted else 0,
        "clustered_by": counted.by if counted else None,
        "clusters": len(counted.counts.clusters) if counted and counted.by else None,
        "utterances": int(counted.counts.true[0].sum()) if counted else None,
    }
    for metric in METRICS:
        found = interval(counted.counts, metric) if counted else None
        result |= {
            f"pooled_{metric}": found.value if found else None,
            f"pooled_{metric}_low": found.low if found else None,
            f"pooled_{metric}_high": found.high if found else None,
            f"pooled_{metric}_df": found.df if found and counted and counted.by else None,
            f"pooled_{metric}_by_seed": list(seed_scores(counted.counts, metric)) if counted else None,
        }
    notes = _notes(counted, row, described, result["clusters"])
    return result | _new_speaker(counted) | {"confidence": CONFIDENCE, "notes": notes}


def _new_speaker(of: Pooled | None) -> dict[str, Any]:
    """Return where a further speaker's scores would lie; None where the clusters are not speakers."""
    result: dict[str, Any] = {"new_speaker_utterances": None}
    for metric in ("UA", "WA"):
        found = new_speaker(of.counts, metric) if of is not None and of.by == "speaker" else None
        if found is not None and found.low is not None:
            result["new_speaker_utterances"] = found.utterances
        ends = (found.low, found.high) if found else (None, None)
        result |= {f"new_speaker_{metric}_low": ends[0], f"new_speaker_{metric}_high": ends[1]}
    return result


def _notes(counted: Pooled | None, row: Mapping[str, Any], described: Mapping[str, Any], clusters: int | None) -> list[str]:
    """Return what there is to say about an experiment's row: what is missing of it, and what its interval is worth."""
    notes = [
        f"{metric} is of {row[f'{metric}_runs']} of its {row['runs']} runs: the others have none"
        for metric in METRICS
        if row[f"{metric}_runs"] != row["runs"]
    ]
    if counted is None or counted.folds != row["folds"]:
        folds = counted.folds if counted else 0
        notes.append(f"pooled scores are of {folds} of its {row['folds']} folds: the others have no predictions")
    if counted is None:
        return notes
    notes += not_pooled(counted.dropped)
    if counted.by is not None and clusters is not None:
        notes += [few(clusters, counted.by)] if clusters < FEW else []
    elif is_independent(described):
        notes.append("no interval: what it would be over is unknown for some of the utterances")
    else:
        notes.append(_NO_INTERVAL.get(described["speakers_kept"], _NO_INTERVAL["overridden"]))
    return notes


def few(n: int, by: str) -> str:
    """Return what is to be said of intervals over few clusters."""
    if n == 1:
        return f"no intervals: one {by} alone says nothing about others"
    return (
        f"only {n} {by}s: the intervals are wide, and right only if {by}s vary about normally, which {n} cannot show: "
        "rare bad ones are easily missed"
    )


def _by_fold(connection: Connection, which: _Which) -> list[dict[str, Any]]:
    """Return a row a fold: the means over the seeds, with deviations over them."""
    table = []
    for scores in _grouped(scores_of_runs(connection, **vars(which))).values():
        for fold in sorted({score.fold for score in scores}):
            of_fold = [score for score in scores if score.fold == fold]
            row = of_fold[0].columns("experiment", "selection", "level", "fold")
            row |= {"seeds": [score.seed for score in of_fold], "n": max(score.n for score in of_fold)}
            row |= {"hits": fmean(score.hits for score in of_fold)}
            for metric in METRICS:
                row |= Spread.of(getattr(score, metric) for score in of_fold).columns(metric)
            table.append(row)
    return table


def _by_speaker_or_session(connection: Connection, by: str, wanted: _Which) -> list[dict[str, Any]]:
    """Return a row a speaker or session: the means over the seeds, with deviations over them."""
    return rows(
        connection,
        f"SELECT experiment, selection, level, corpus, {by}, list(seed ORDER BY seed) AS seeds, max(n) AS n, "
        f"avg(hits ORDER BY seed) AS hits, {_over_seeds('UA', 'WA')}, any_value(n_by_class) AS n_by_class "
        f"FROM {by}_scores WHERE {_WHICH} "
        f"GROUP BY experiment, selection, level, corpus, {by} ORDER BY {_ORDER}, corpus, {by}",
        wanted.values(),
    )


def _over_seeds(*metrics: str) -> str:
    """Return SQL for means and deviations, added up in a fixed order: else their last digits differ from run to run."""
    return ", ".join(f"avg({m} ORDER BY seed) AS {m}, stddev_samp({m} ORDER BY seed) AS {m}_std" for m in metrics)


def _by_class(connection: Connection, wanted: _Which, clusters: str | None) -> list[dict[str, Any]]:
    """Return a row a class: the means over the seeds, with deviations over them, and an interval of the recall.

    Seeds that did not test the largest set of utterances are left out of all of it, as they are where scores are pooled.
    """
    of_seeds = rows(
        connection,
        "SELECT experiment, selection, level, class, seed, n, hits, predicted, recall, precision, F1 "
        f"FROM class_scores WHERE {_WHICH} ORDER BY {_ORDER}, class, seed",
        wanted.values(),
    )
    counted = pooled(connection, experiments=wanted.experiments, segments=wanted.segments, clusters=clusters)
    table = []
    for (*key, name), found in groupby(of_seeds, key=itemgetter("experiment", "selection", "level", "class")):
        of = counted.get((key[0], key[1], key[2]))
        scored = [row for row in found if of is None or row["seed"] in of.seeds]
        if not scored:  # a class that only seeds which are left out have met
            continue
        row = {column: scored[0][column] for column in ("experiment", "selection", "level", "class")}
        row |= {"seeds": [of_seed["seed"] for of_seed in scored], "n": max(of_seed["n"] for of_seed in scored)}
        row |= {column: fmean(of_seed[column] for of_seed in scored) for column in ("hits", "predicted")}
        for metric in ("recall", "precision", "F1"):
            row |= Spread.of(of_seed[metric] for of_seed in scored).columns(metric)
        recall = None
        if of is not None and of.by is not None and name in of.counts.classes and row["n"]:
            recall = interval(of.counts.only(name), "UA")
        row |= {
            "recall_low": recall.low if recall else None,
            "recall_high": recall.high if recall else None,
            "clusters": recall.clusters if recall else None,
            "notes": not_pooled(of.dropped) if of is not None else [],
        }
        table.append(row)
    return table


def whole_utterances(connection: Connection, names: Sequence[str]) -> set[str]:
    """Return the experiments whose heads see utterances as one segment each: their two levels are one and the same."""
    whole = rows(
        connection,
        "SELECT r.experiment FROM predictions p JOIN runs r USING (run_id) WHERE list_contains(?, r.experiment) "
        "AND p.level = 'segment' GROUP BY r.experiment HAVING max(p.segment) = 0",
        [list(names)],
    )
    return {row["experiment"] for row in whole}
