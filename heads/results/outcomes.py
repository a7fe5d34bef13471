"""What an experiment was tested on and what it said there, out of the catalogue: the material of intervals and comparisons.

In goes the catalogue's view `test_predictions`; out come, for one selection and level, utterances with their true and predicted
classes seed by seed, and who said them. Seeds count only as a whole: those that were tested on the largest set of utterances
that a seed has. What was dropped is said.

Clusters, which intervals take as the independent units, are the speakers, where those of the test side are known and new to the
head (`tfser.heads.results.marks`). Else there are none, and so no interval and no test, unless sessions or dialogues are asked
for: an interval over these is one of other sessions of the same voices. MELD's official split is such a case, six of its
speakers being heard on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfser.heads.results.intervals import Counts, count
from tfser.heads.results.marks import is_independent, of_runs
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError, unknown

CLUSTERS = ("speaker", "session", "dialogue")
"""Columns of `utterances` that can be the clusters; the first one unless another is asked for."""

Key = tuple[Any, ...]

SeedsOf = Mapping[tuple[str, str, str], tuple[tuple[int, ...], tuple[int, ...]]]
"""By experiment, selection and level: the seeds that count, and those that are dropped."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An experiment in the catalogue, or one run of it."""

    experiment: str
    run_id: str | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.run_id or self.experiment


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The test predictions of one subject: n utterances (or segments), S seeds.

    `keys` tell the n apart: corpus, utterance, segment, and the fold where an utterance is tested in several. `predicted` has a
    row a seed. `who` gives for each column of CLUSTERS the n values. `dropped` are the seeds that did not test them all.
    """

    subject: Subject
    selection: str
    level: str
    audit: str
    speakers_kept: str
    seeds: tuple[int, ...]
    dropped: tuple[int, ...]
    keys: tuple[Key, ...]
    folds: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[tuple[str, ...], ...]
    who: Mapping[str, tuple[str | None, ...]]

    def row(self) -> dict[str, str]:
        """Return what marks are made of (`tfser.heads.results.marks`)."""
        about = {"selection": self.selection, "audit": self.audit, "speakers_kept": self.speakers_kept}
        return about | {"experiment": self.subject.name}

    def take(self, places: Sequence[int]) -> Outcome:
        """Return the same of some of the utterances, in the order given; of ratings there are no labels."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in places),
            folds=tuple(self.folds[i] for i in places),
            labels=tuple(self.labels[i] for i in places) if self.labels else (),
            predicted=tuple(tuple(row[i] for i in places) for row in self.predicted),
            who={name: tuple(values[i] for i in places) for name, values in self.who.items()},
        )

    def clusters(self, by: str) -> tuple[str, ...]:
        """Return the cluster of each utterance; over several corpora it bears the corpus's name."""
        several = len({key[0] for key in self.keys}) > 1
        return tuple(f"{key[0]}/{name}" if several else str(name) for key, name in zip(self.keys, self.who[by], strict=True))

    def counts(self, clusters: Sequence[str], classes: Sequence[str]) -> Counts:
        """Count the predictions by cluster, all seeds."""
        return count(clusters, self.labels, self.predicted, classes)


def keyed_alike(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes whose keys have the same parts: with the fold in all of them, where one tested an utterance in several."""
    most = max(len(of.keys[0]) for of in outcomes)
    return [
        of
        if len(of.keys[0]) == most
        else replace(of, keys=tuple((*key, fold) for key, fold in zip(of.keys, of.folds, strict=True)))
        for of in outcomes
    ]


def find(connection: Connection, text: str) -> Subject:
    """Return the experiment or run that a text means: its whole id, or the beginning or a piece of one experiment's id.

    Raises:
        UsageError: There is none, or several.
    """
    if rows(connection, "SELECT 1 FROM runs WHERE experiment = ?", [text]):
        return Subject(experiment=text)
    of_run = rows(connection, "SELECT experiment FROM runs WHERE run_id = ?", [text])
    if of_run:
        return Subject(experiment=of_run[0]["experiment"], run_id=text)
    every = [row["experiment"] for row in rows(connection, "SELECT DISTINCT experiment FROM runs ORDER BY 1")]
    for found in ([e for e in every if e.startswith(text)], [e for e in every if text in e]):
        if len(found) == 1:
            return Subject(experiment=found[0])
        if found:
            raise UsageError(f"{text!r} may mean {len(found)} experiments; say more of one: {', '.join(found)}")
    raise unknown("experiment", text, every)


def targets_of(connection: Connection, subject: Subject) -> tuple[str, ...]:
    """Return the dimensions that an experiment learned; none of one on classes alone."""
    found = rows(connection, "SELECT any_value(targets) AS targets FROM runs WHERE experiment = ?", [subject.experiment])
    return tuple(found[0]["targets"] or ()) if found else ()


def learned_classes(connection: Connection, subject: Subject) -> bool:
    """Tell whether an experiment learned classes, alone or beside dimensions."""
    sql = "SELECT any_value(classes) AS classes, any_value(targets) AS targets FROM runs WHERE experiment = ?"
    found = rows(connection, sql, [subject.experiment])
    return bool(found and (found[0]["classes"] or not found[0]["targets"]))


def check_classes(connection: Connection, subject: Subject, what: str) -> None:
    """Refuse an experiment on dimensions where only classes mean something.

    Raises:
        UsageError: it is one; the line says what there is for it.
    """
    if (targets := targets_of(connection, subject)) and not learned_classes(connection, subject):
        raise UsageError(
            f"{subject.name} learned {', '.join(targets)} and no classes, and {what} is of classes; "
            "scores, compare, runs, report and predict know dimensions"
        )


def read_outcome(
    connection: Connection,
    subject: Subject,
    *,
    selection: str = "last",
    level: str = "utterance",
    only: Sequence[str] | None = None,
) -> Outcome:
    """Read the test predictions of a subject; of `only` these runs, if they are given.

    Raises:
        UsageError: It has none of this selection and level; the message lists those that it has.
    """
    predictions = connection.execute(
        "SELECT seed, corpus, utterance_id, segment, fold, label, predicted, speaker, session, dialogue FROM test_predictions "
        "WHERE experiment = ? AND selection = ? AND level = ? AND (?::VARCHAR IS NULL OR run_id = ?) "
        "AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id))",
        [subject.experiment, selection, level, subject.run_id, subject.run_id, only, only],
    ).fetchall()
    if not predictions:
        check_classes(connection, subject, "this")
        raise no_predictions(connection, subject, selection, level, "test_predictions")
    # A protocol may test an utterance in several folds (a session that stands in two test sides): its
    # predictions are then told apart by fold, since to pick one would be a choice.
    several = len({row[:4] for row in predictions}) < len(predictions)
    of_seed: dict[int, dict[Key, Any]] = {}
    for seed, *row in predictions:
        of_seed.setdefault(seed, {})[tuple(row[: 4 if several else 3])] = row[3:]
    seeds, keys = whole_seeds(of_seed)
    first = [of_seed[seeds[0]][key] for key in keys]
    labels = tuple(row[1] for row in first)
    # Labels can differ where the corpus was scanned anew between two seeds: neither of them is then known to be
    # right.
    for seed in seeds:
        if any(of_seed[seed][key][1] != label for key, label in zip(keys, labels, strict=True)):
            raise TfserError(f"{subject.name}: its seeds {seeds[0]} and {seed} have other true labels; train one of them --again")
    return Outcome(
        subject=subject,
        selection=selection,
        level=level,
        **standing_of(connection, subject),
        seeds=seeds,
        dropped=tuple(sorted(of_seed.keys() - set(seeds))),
        keys=keys,
        folds=tuple(row[0] for row in first),
        labels=labels,
        predicted=tuple(tuple(of_seed[seed][key][2] for key in keys) for seed in seeds),
        who={name: tuple(row[3 + i] for row in first) for i, name in enumerate(CLUSTERS)},
    )


def no_predictions(connection: Connection, subject: Subject, selection: str, level: str, view: str) -> UsageError:
    """Return the error of a subject without predictions of a selection and level; it names those that a view of them has."""
    stored = f"SELECT DISTINCT selection, level FROM {view} WHERE experiment = ? ORDER BY 1, 2 DESC"
    named = ", ".join(f"{row['selection']} ({row['level']})" for row in rows(connection, stored, [subject.experiment]))
    return UsageError(f"{subject.name} has no predictions of {selection} ({level}); it has: {named or 'none'}")


def whole_seeds(of_seed: Mapping[int, Mapping[Key, Any]]) -> tuple[tuple[int, ...], tuple[Key, ...]]:
    """Return the seeds that tested the largest set of utterances, and the keys of that set in their order.

    The other seeds are dropped, and named by whoever shows the scores: a mean over different utterances is no mean over seeds.
    """
    seeds, _ = _seeds({seed: (len(tested), tested.keys()) for seed, tested in of_seed.items()})
    return seeds, tuple(sorted(of_seed[seeds[0]], key=lambda key: tuple((part is not None, part) for part in key)))


def dropped_seeds(sides: Sequence[Outcome]) -> list[str]:
    """Return a line for each side some of whose seeds are left out."""
    return [
        f"{side.subject.name}: seeds {', '.join(map(str, side.dropped))} are left out: they did not test the same utterances"
        for side in sides
        if side.dropped
    ]


def not_pooled(dropped: Sequence[int]) -> list[str]:
    """Return the sentence that names dropped seeds; none where there are none."""
    return [f"seeds {', '.join(map(str, dropped))} are not pooled: they did not test the same utterances"] if dropped else []


def standing_of(connection: Connection, subject: Subject) -> dict[str, str]:
    """Return `audit` and `speakers_kept` of a subject: the worst of its runs."""
    runs = "SELECT DISTINCT audit, speakers_kept FROM runs WHERE experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?)"
    return of_runs(rows(connection, runs, [subject.experiment, subject.run_id, subject.run_id]))


def choose_clusters(sides: Sequence[Outcome], asked: str | None = None) -> str | None:
    """Return the column that makes the clusters of outcomes over the same utterances: the one that is asked for, or the speakers.

    None where nothing is asked for and speakers are no units: some are unknown, or heard in training on either side.

    Raises:
        UsageError: What is asked for is unknown for some utterance, or it is speakers that are not new to the heads.
    """
    if asked is not None and asked not in CLUSTERS:
        raise unknown("kind of clusters", asked, CLUSTERS)
    first = sides[0]
    named = [name for name in CLUSTERS if None not in first.who[name]]
    heard = [side for side in sides if not is_independent(side.row())]
    if asked is None:
        return "speaker" if "speaker" in named and not heard else None
    if asked not in named:
        missing = sum(value is None for value in first.who[asked])
        raise UsageError(f"the {asked} of {missing:,} of the {len(first.keys):,} tested is unknown; clusters can be: "
                         f"{', '.join(named) or 'none'}")  # fmt: skip
    if asked == "speaker" and heard:
        others = [f"--clusters {name}" for name in named if name != "speaker"]
        instead = f"; {' or '.join(others)} takes others as the units" if others else ""
        raise UsageError(
            f"{heard[0].subject.name}: its test speakers are not known to be new to it, so speakers are no units{instead}"
        )
    return asked


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The counts of one experiment, selection and level by cluster; where nothing makes clusters (`by` None), all in one.

    `folds` counts the folds whose predictions are there, in the seed with the most.
    """

    by: str | None
    counts: Counts
    seeds: tuple[int, ...]
    dropped: tuple[int, ...]
    folds: int


def pooled(
    connection: Connection,
    *,
    experiments: Sequence[str] | None = None,
    segments: bool = False,
    clusters: str | None = None,
    runs: Sequence[str] | None = None,
) -> dict[tuple[str, str, str], Pooled]:
    """Count the predictions of experiments (none named: all) in SQL, by (experiment, selection, level); with `runs`, of these.

    Seeds that did not test the largest set are left out, and clusters chosen, as `read_outcome` and `choose_clusters` do; what is
    asked for and not known, or speakers that are not new, gives no clusters.

    Raises:
        UsageError: There is no such kind of clusters.
    """
    if clusters is not None and clusters not in CLUSTERS:
        raise unknown("kind of clusters", clusters, CLUSTERS)
    # Two queries count, in the database: millions of predictions never become Python rows.
    asked = [experiments, experiments, segments, runs, runs]
    sides, folds = _sides(connection, asked)
    cells: dict[tuple[str, str, str], list[Any]] = {}
    by: dict[tuple[str, str, str], str | None] = {}
    for *key, by_what, seed, cluster, label, predicted, n in _counted(connection, clusters or "speaker", asked, runs):
        cells.setdefault((key[0], key[1], key[2]), []).append((seed, cluster, label, predicted, n))
        by[key[0], key[1], key[2]] = by_what
    return {key: _pool(cells[key], by[key], *_seeds(of), folds[key]) for key, of in sides.items()}


def seeds_that_count(connection: Connection, experiments: Sequence[str]) -> SeedsOf:
    """Return which seeds of some experiments tested the largest set of utterances, and which are dropped, as `pooled` does."""
    sides, _ = _sides(connection, [experiments, experiments, False, None, None])
    return {key: _seeds(of) for key, of in sides.items()}


_WANTED = (
    "(?::VARCHAR[] IS NULL OR list_contains(?, experiment)) AND (level = 'utterance' OR ?) "
    "AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id))"
)
_Sides = dict[tuple[str, str, str], dict[int, tuple[int, int]]]


def _sides(connection: Connection, asked: Sequence[Any]) -> tuple[_Sides, dict[tuple[str, str, str], int]]:
    """Return what each seed was tested on, by (experiment, selection, level), and how many folds the seed with the most has.

    A set of tested utterances is known by its size and the exclusive or of its rows' hashes, which needs no order and no list.
    """
    sides: _Sides = {}
    folds: dict[tuple[str, str, str], int] = {}
    for *key, seed, n, side, n_folds in connection.execute(
        "SELECT experiment, selection, level, seed, count(*), bit_xor(hash(corpus, utterance_id, segment, fold, label)), "
        f"count(DISTINCT fold) FROM test_predictions WHERE {_WANTED} GROUP BY ALL ORDER BY ALL",
        asked,
    ).fetchall():
        sides.setdefault((key[0], key[1], key[2]), {})[seed] = (n, side)
        folds[key[0], key[1], key[2]] = max(n_folds, folds.get((key[0], key[1], key[2]), 0))
    return sides, folds


def _seeds(sides: Mapping[int, tuple[int, Any]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the seeds that tested the largest set, and the others; each seed's set is its size and what tells it from others."""
    # Of sets of one size that of the lowest seed: in the order of the database it would be now one, now another.
    largest = max((sides[seed] for seed in sorted(sides)), key=lambda side: side[0])
    seeds = tuple(sorted(seed for seed, side in sides.items() if side == largest))
    return seeds, tuple(sorted(sides.keys() - set(seeds)))


def _counted(connection: Connection, name: str, asked: Sequence[Any], runs: Sequence[str] | None) -> list[tuple[Any, ...]]:
    """Return predictions counted by (experiment, selection, level, clusters' column, seed, cluster, label, predicted).

    Speakers are units only if all runs of the experiment kept them apart; what is asked for by name is taken at its word where
    it is known for every utterance.
    """
    allowed = "bool_and(speakers_kept = 'kept' AND audit <> 'overridden')" if name == "speaker" else "true"
    return connection.execute(
        f"WITH allowed AS (SELECT experiment, {allowed} AS units FROM runs "
        "WHERE ?::VARCHAR[] IS NULL OR list_contains(?, run_id) GROUP BY experiment), "
        "known AS (SELECT experiment, selection, level, "
        f"if(any_value(a.units) AND count({name}) = count(*), '{name}', NULL) AS by_what FROM test_predictions "
        f"JOIN allowed a USING (experiment) WHERE {_WANTED} GROUP BY ALL) "
        "SELECT t.experiment, t.selection, t.level, k.by_what, t.seed, "
        f"if(k.by_what IS NULL, 'all', t.corpus || '/' || t.{name}), "
        "t.label, t.predicted, count(*) FROM test_predictions t JOIN known k USING (experiment, selection, level) "
        "WHERE (?::VARCHAR[] IS NULL OR list_contains(?, t.run_id)) GROUP BY ALL ORDER BY ALL",
        [runs, runs, *asked, runs, runs],
    ).fetchall()


def _pool(cells: Sequence[Any], by: str | None, seeds: tuple[int, ...], dropped: tuple[int, ...], folds: int) -> Pooled:
    import numpy as np

    kept = [cell for cell in cells if cell[0] in seeds]
    who = tuple(sorted({cell[1] for cell in kept}))
    classes = tuple(sorted({name for cell in kept for name in cell[2:4]}))
    place = {name: i for i, name in enumerate(who)}
    number = {name: i for i, name in enumerate(classes)}
    hits, true, taken = (np.zeros((len(seeds), len(who), len(classes))) for _ in range(3))
    for seed, cluster, label, predicted, n in kept:
        s, g = seeds.index(seed), place[cluster]
        true[s, g, number[label]] += n
        taken[s, g, number[predicted]] += n
        hits[s, g, number[label]] += n * (label == predicted)
    found = Counts(clusters=who, classes=classes, hits=hits, true=true, predicted=taken)
    return Pooled(by=by, counts=found, seeds=seeds, dropped=dropped, folds=folds)
