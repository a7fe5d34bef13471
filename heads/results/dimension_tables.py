"""Tables of scores of dimensions: a row an experiment and dimension, with intervals over speakers; or a seed, fold,
speaker, session.

In: the catalogue's views `dimension_scores` and `test_ratings`, and `Wanted`, which says of what. Out: rows with CCC,
pearson and MAE (in points of the corpus's scale) as means over folds and seeds and pooled over all test utterances, which
differ more than they do for UA: CCC punishes a shift between folds only when they are pooled. Of several dimensions there
is a row `mean` besides. CCC comes apart into correlation, scale shift and location shift
(`tfser.heads.spec.dimension_metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfser.heads.results.intervals import CONFIDENCE, FEW
from tfser.heads.results.moments import RATED_METRICS, Moments, cluster_scores, rating_interval, score, seed_scores
from tfser.heads.results.outcomes import CLUSTERS, Subject, choose_clusters, not_pooled
from tfser.heads.results.rating_outcomes import RatedOutcome, read_rated_outcome
from tfser.heads.results.score_tables import Wanted, about_experiments, chosen_experiments, few
from tfser.heads.results.scores import Spread
from tfser.heads.spec.selections import ORDER_SQL, peeks
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import UsageError, unknown

BY = ("seed", "fold", "speaker", "session")
"""What a table of dimensions can have rows of, besides experiments."""

MEAN = "mean"
"""What stands for a dimension in the row over all of an experiment's."""

Row = dict[str, Any]


def dimension_table(
    connection: Connection, wanted: Wanted | None = None, *, by: str | None = None, clusters: str | None = None
) -> list[Row]:
    """Return a table of scores of dimensions; no rows where no experiment that is wanted learned any.

    Args:
        connection: the catalogue.
        wanted: of what; None: of all.
        by: one of BY; None gives a row an experiment and dimension.
        clusters: what intervals are over; the speakers if left out, where they are new to the head.

    Raises:
        UsageError: there is no such table of dimensions, or no run is what is wanted.
    """
    wanted = wanted or Wanted()
    if clusters is not None and clusters not in CLUSTERS:
        raise unknown("kind of clusters", clusters, CLUSTERS)
    experiments = about_experiments(connection)
    names = [name for name in chosen_experiments(wanted, experiments) if experiments[name]["targets"]]
    if not names:
        return []
    if by is not None and by not in BY:
        raise UsageError(f"--by {by}: of classes alone; of dimensions there is {', '.join(BY)}")
    table: list[Row] = []
    for scored in _of_folds(connection, names, wanted):
        first = scored[0]
        subject = Subject(experiment=first["experiment"])
        key = {name: first[name] for name in ("experiment", "selection", "level")}
        if by == "fold":
            part = _by_fold(scored)
        else:
            outcome = read_rated_outcome(connection, subject, selection=first["selection"], level=first["level"])
            part = _parts(outcome, by) if by else _pooled(outcome, scored, clusters)
            folds = {"folds": len({row["fold"] for row in scored}), "of_folds": first["of_folds"]}
            part = [row | ({} if by in ("speaker", "session") else folds) for row in part]
        table += [key | row | experiments[first["experiment"]] | {"looked_at_test": peeks(first["selection"])} for row in part]
    return table


def table_beside(
    connection: Connection, scores: Sequence[Row], wanted: Wanted, *, by: str | None = None, clusters: str | None = None
) -> list[Row]:
    """Return the rows of dimensions that go beside those of classes, `scores`; none where only classes have such a table."""
    return dimension_table(connection, wanted, by=by, clusters=clusters) if not scores or by in (None, *BY) else []


def runs_table(connection: Connection, runs: Sequence[str], selection: str) -> list[Row]:
    """Return a row a dimension, and one of their mean, over some runs of one experiment, utterance level."""
    wanted = Wanted(selection=selection)
    names = [row["experiment"] for row in rows(connection, _EXPERIMENTS, [list(runs)])]
    table: list[Row] = []
    for scored in _of_folds(connection, names, wanted, runs):
        subject = Subject(experiment=scored[0]["experiment"])
        outcome = read_rated_outcome(connection, subject, selection=selection, only=runs)
        folds = {"folds": len({row["fold"] for row in scored}), "of_folds": scored[0]["of_folds"], "level": "utterance"}
        standing = {"audit": outcome.of.audit, "speakers_kept": outcome.of.speakers_kept, "differs": None}
        table += [row | folds | standing for row in _pooled(outcome, scored, None)]
    return table


_EXPERIMENTS = "SELECT DISTINCT experiment FROM runs WHERE list_contains(?, run_id) ORDER BY 1"


def _of_folds(connection: Connection, names: Sequence[str], wanted: Wanted, runs: Sequence[str] | None = None) -> list[list[Row]]:
    """Return the rows of `dimension_scores` by experiment, selection and level; of `runs` alone, if they are given."""
    scores = rows(
        connection,
        "SELECT d.*, (SELECT any_value(p.folds) FROM protocols p JOIN runs r ON p.protocol = r.protocol AND p.corpora = r.corpus "
        "WHERE r.run_id = d.run_id) AS of_folds, (SELECT r.seconds FROM runs r WHERE r.run_id = d.run_id) AS seconds "
        "FROM dimension_scores d WHERE list_contains(?, experiment) AND (level = 'utterance' OR ?) "
        "AND (?::VARCHAR IS NULL OR selection = ?) AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id)) "
        f"ORDER BY experiment, level DESC, {ORDER_SQL}, dimension, seed, fold",
        [list(names), wanted.segments, wanted.selection, wanted.selection, runs, runs],
    )
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in scores:
        groups.setdefault((row["experiment"], row["selection"], row["level"]), []).append(row)
    if wanted.selection is not None and not groups:
        have = "SELECT DISTINCT selection FROM dimension_scores WHERE list_contains(?, experiment) ORDER BY 1"
        known = [row["selection"] for row in rows(connection, have, [list(names)])]
        raise unknown("selection of these runs", wanted.selection, known)
    return list(groups.values())


def _pooled(outcome: RatedOutcome, scored: Sequence[Row], clusters: str | None) -> list[Row]:
    """Return a row a dimension, and one of their mean: over folds and seeds, and pooled with intervals."""
    by = _clusters(outcome, clusters)
    who = ("all",) * len(outcome.of.keys) if by is None else outcome.of.clusters(by)
    moments = outcome.moments(who)
    found = []
    for name in outcome.dimensions:
        of = [row for row in scored if row["dimension"] == name]
        found.append({"dimension": name} | _over_folds(of) | _of_moments(moments.only(name), by))
    if len(outcome.dimensions) > 1:
        means = [_mean_of(run) for run in _runs(scored)]
        found.append({"dimension": MEAN} | _over_folds(means) | _of_moments(moments, by))
    notes = not_pooled(outcome.of.dropped)
    if by is None:
        notes.append("no interval over speakers: they are not known to be new to the head")
    elif len(moments.clusters) < FEW:
        notes.append(few(len(moments.clusters), by))
    notes += without_score(found)
    seeds = sorted({row["seed"] for row in scored})
    seconds = sum(run[0]["seconds"] for run in _runs(scored))
    common = {"seeds": seeds, "utterances": len(outcome.of.keys), "seconds": seconds, "confidence": CONFIDENCE, "notes": notes}
    return [row | common for row in found]


def without_score(found: Sequence[Row]) -> list[str]:
    """Return a sentence for each dimension whose mean over folds leaves runs out that have no CCC.

    >>> without_score([{"dimension": "valence", "runs": 5, "CCC_runs": 4}])
    ['CCC of valence over folds is of 4 of 5 runs: the others tested one utterance alone, or ratings that are all alike']
    """
    return [
        f"CCC of {row['dimension']} over folds is of {row['CCC_runs']} of {row['runs']} runs: the others tested one utterance "
        "alone, or ratings that are all alike"
        for row in found
        if row["dimension"] != MEAN and row["CCC_runs"] < row["runs"]
    ]


def _clusters(outcome: RatedOutcome, asked: str | None) -> str | None:
    """Return what makes clusters; None where what is asked for is not known, as the tables of classes have it."""
    try:
        return choose_clusters([outcome.of], asked)
    except UsageError:
        return None


def _runs(scored: Sequence[Row]) -> list[list[Row]]:
    """Return the rows run by run, each with all of its dimensions."""
    groups: dict[str, list[Row]] = {}
    for row in scored:
        groups.setdefault(row["run_id"], []).append(row)
    return list(groups.values())


def _mean_of(run: Sequence[Row]) -> Row:
    """Return a run's scores over its dimensions; None where one of them has none."""
    values = {metric: [row[metric] for row in run] for metric in RATED_METRICS}
    means = {metric: None if None in of else sum(of) / len(of) for metric, of in values.items()}
    return {**run[0], **means, "dimension": MEAN, "scale_shift": None, "location_shift": None}


def _over_folds(scored: Sequence[Row]) -> Row:
    """Return the means over folds and seeds with their deviations, and of how many runs CCC is."""
    row: Row = {"runs": len(scored)}
    for metric in RATED_METRICS:
        spread = Spread.of(of[metric] for of in scored)
        row |= spread.columns(metric) | {f"{metric}_runs": spread.n}
    return row


def _of_moments(moments: Moments, by: str | None) -> Row:
    """Return the pooled scores with their intervals, and what CCC is made of where that is one dimension's."""
    row: Row = {"clustered_by": by, "clusters": len(moments.clusters) if by else None}
    for metric in RATED_METRICS:
        found = rating_interval(moments, metric)
        row |= {f"pooled_{metric}": found.value if found else None}
        row |= {f"pooled_{metric}_by_seed": list(seed_scores(moments, metric))}
        row |= {f"pooled_{metric}_{end}": getattr(found, end) if found and by else None for end in ("low", "high", "df")}
    single = len(moments.dimensions) == 1
    return row | {shift: score(moments, shift) if single else None for shift in ("scale_shift", "location_shift")}


def _parts(outcome: RatedOutcome, by: str) -> list[Row]:
    """Return a row a seed, or a speaker or session, and dimension."""
    if by == "seed":
        moments = outcome.moments(("all",) * len(outcome.of.keys))
        return [
            {"seed": seed, "dimension": name, "n": len(outcome.of.keys)}
            | {metric: seed_scores(moments.only(name), metric)[i] for metric in (*RATED_METRICS, "scale_shift", "location_shift")}
            for i, seed in enumerate(outcome.of.seeds)
            for name in outcome.dimensions
        ]
    known = [i for i, name in enumerate(outcome.of.who[by]) if name is not None]
    if not known:
        return []
    part = outcome.take(known)
    moments = part.moments(part.of.clusters(by))
    metrics = (*RATED_METRICS, "scale_shift", "location_shift")
    table: list[Row] = []
    for name in outcome.dimensions:
        of = moments.only(name)
        values = {metric: cluster_scores(of, metric) for metric in metrics}
        table += [
            {by: who, "dimension": name, "n": int(of.sizes[g, 0]), "seeds": list(outcome.of.seeds)}
            | {metric: values[metric][g] for metric in metrics}
            for g, who in enumerate(of.clusters)
        ]
    return table


def _by_fold(scored: Sequence[Row]) -> list[Row]:
    """Return a row a fold and dimension: means over the seeds."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for entry in scored:
        groups.setdefault((entry["fold"], entry["dimension"]), []).append(entry)
    table = []
    for (fold, dimension), of in sorted(groups.items()):
        row: Row = {"fold": fold, "dimension": dimension, "seeds": [each["seed"] for each in of], "n": max(e["n"] for e in of)}
        for metric in (*RATED_METRICS, "scale_shift", "location_shift"):
            row |= Spread.of(each[metric] for each in of).columns(metric)
        table.append(row)
    return table
