"""What an experiment was tested on and what it said there, out of the catalogue: the material of intervals and comparisons.

In goes the catalogue's view `test_predictions`; out come, for one selection and level, utterances with their true and predicted
classes seed by seed, and who said them. Seeds count only as a whole: those that were tested on the largest set of utterances
that a seed has. What was dropped is said.

Clusters, which intervals take as the independent units, are the speakers. Where the speaker of an utterance is unknown they are
sessions, else dialogues, else there are none and no interval. MELD's test split names its speakers: six say most of it, which the
degrees of freedom account for. Its dialogues cut across speakers; an interval over the one leaves out what utterances of the
other share, so ask for both and believe the wider one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfser.heads.statistics import Counts, count
from tfser.manifests.catalogue import Connection, rows
from tfser.manifests.errors import TfserError, UsageError, unknown

CLUSTERS = ("speaker", "session", "dialogue")
"""Columns of `utterances` that can be the clusters, in the order in which they are tried."""

Key = tuple[Any, ...]


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
    seeds: tuple[int, ...]
    dropped: tuple[int, ...]
    keys: tuple[Key, ...]
    folds: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[tuple[str, ...], ...]
    who: Mapping[str, tuple[str | None, ...]]

    def take(self, places: Sequence[int]) -> Outcome:
        """Return the same of some of the utterances, in the order given."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in places),
            folds=tuple(self.folds[i] for i in places),
            labels=tuple(self.labels[i] for i in places),
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


def read_outcome(connection: Connection, subject: Subject, *, selection: str = "last", level: str = "utterance") -> Outcome:
    """Read the test predictions of a subject.

    Raises:
        UsageError: It has none of this selection and level; the message lists those that it has.
    """
    found = connection.execute(
        "SELECT seed, corpus, utterance_id, segment, fold, label, predicted, speaker, session, dialogue FROM test_predictions "
        "WHERE experiment = ? AND selection = ? AND level = ? AND (?::VARCHAR IS NULL OR run_id = ?)",
        [subject.experiment, selection, level, subject.run_id, subject.run_id],
    ).fetchall()
    if not found:
        have = "SELECT DISTINCT selection, level FROM test_predictions WHERE experiment = ? ORDER BY 1, 2 DESC"
        known = [f"{row['selection']} ({row['level']})" for row in rows(connection, have, [subject.experiment])]
        raise UsageError(f"{subject.name} has no predictions of {selection} ({level}); it has: {', '.join(known) or 'none'}")
    several = len({row[:4] for row in found}) < len(found)  # tested in several folds: they are told apart
    of_seed: dict[int, dict[Key, Any]] = {}
    for seed, *row in found:
        of_seed.setdefault(seed, {})[tuple(row[: 4 if several else 3])] = row[3:]
    largest = max(of_seed.values(), key=len).keys()
    seeds = tuple(sorted(seed for seed, of in of_seed.items() if of.keys() == largest))
    keys = tuple(sorted(largest, key=lambda key: tuple((part is not None, part) for part in key)))
    first = [of_seed[seeds[0]][key] for key in keys]
    labels = tuple(row[1] for row in first)
    for seed in seeds:
        if any(of_seed[seed][key][1] != label for key, label in zip(keys, labels, strict=True)):
            raise TfserError(f"{subject.name}: its seeds {seeds[0]} and {seed} have other true labels; train one of them --again")
    audits = "SELECT DISTINCT audit FROM runs WHERE experiment = ? AND (?::VARCHAR IS NULL OR run_id = ?)"
    overridden = ("overridden",) in connection.execute(audits, [subject.experiment, subject.run_id, subject.run_id]).fetchall()
    return Outcome(
        subject=subject,
        selection=selection,
        level=level,
        audit="overridden" if overridden else "passed",
        seeds=seeds,
        dropped=tuple(sorted(of_seed.keys() - set(seeds))),
        keys=keys,
        folds=tuple(row[0] for row in first),
        labels=labels,
        predicted=tuple(tuple(of_seed[seed][key][2] for key in keys) for seed in seeds),
        who={name: tuple(row[3 + i] for row in first) for i, name in enumerate(CLUSTERS)},
    )


def choose_clusters(of: Outcome, asked: str | None = None) -> str:
    """Return the column that makes the clusters: the one that is asked for, or the first that is known for all.

    Raises:
        UsageError: It is unknown for some utterance, or all are.
    """
    if asked is not None and asked not in CLUSTERS:
        raise unknown("kind of clusters", asked, CLUSTERS)
    known = [name for name in CLUSTERS if None not in of.who[name]]
    if asked in known:
        return str(asked)
    missing = {name: sum(value is None for value in of.who[name]) for name in CLUSTERS}
    if asked is not None:
        raise UsageError(f"the {asked} of {missing[asked]:,} of the {len(of.keys):,} tested is unknown; clusters can be: "
                         f"{', '.join(known) or 'none'}")  # fmt: skip
    if not known:
        said = ", ".join(f"the {name} of {n:,}" for name, n in missing.items())
        raise UsageError(
            f"nothing to make clusters of, so no interval and no test: unknown are {said} of {len(of.keys):,} tested"
        )
    return known[0]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The counts of one experiment under one selection and level, by cluster; without counts where nothing makes clusters."""

    by: str | None
    counts: Counts | None
    seeds: tuple[int, ...]
    dropped: tuple[int, ...]


def pooled(
    connection: Connection,
    *,
    prefix: str = "",
    segments: bool = False,
    clusters: str | None = None,
    runs: Sequence[str] | None = None,
) -> dict[tuple[str, str, str], Pooled]:
    """Count the predictions of many experiments in SQL, by (experiment, selection, level); with `runs`, of these alone.

    Seeds that did not test the largest set are left out, and clusters chosen, as `read_outcome` and `choose_clusters` do.

    Raises:
        UsageError: There is no such kind of clusters.
    """
    if clusters is not None and clusters not in CLUSTERS:
        raise unknown("kind of clusters", clusters, CLUSTERS)
    which = "starts_with(experiment, ?) AND (level = 'utterance' OR ?) AND (?::VARCHAR[] IS NULL OR list_contains(?, run_id))"
    asked = [prefix, segments, runs, runs]
    sides: dict[tuple[str, str, str], dict[int, tuple[int, int]]] = {}
    for *key, seed, n, side in connection.execute(
        "SELECT experiment, selection, level, seed, count(*), bit_xor(hash(corpus, utterance_id, segment, fold, label)) "
        f"FROM test_predictions WHERE {which} GROUP BY ALL ORDER BY ALL",
        asked,
    ).fetchall():
        sides.setdefault((key[0], key[1], key[2]), {})[seed] = (n, side)
    choices = "".join(f"WHEN count({name}) = count(*) THEN '{name}' " for name in ([clusters] if clusters else CLUSTERS))
    counted = connection.execute(
        f"WITH known AS (SELECT experiment, selection, level, CASE {choices}END AS by_what FROM test_predictions "
        f"WHERE {which} GROUP BY ALL) "
        "SELECT t.experiment, t.selection, t.level, k.by_what, t.seed, "
        "t.corpus || '/' || CASE k.by_what WHEN 'speaker' THEN t.speaker WHEN 'session' THEN t.session ELSE t.dialogue END, "
        "t.label, t.predicted, count(*) FROM test_predictions t JOIN known k USING (experiment, selection, level) "
        "WHERE (?::VARCHAR[] IS NULL OR list_contains(?, t.run_id)) GROUP BY ALL ORDER BY ALL",
        [*asked, runs, runs],
    ).fetchall()
    cells: dict[tuple[str, str, str], list[Any]] = {}
    by: dict[tuple[str, str, str], str | None] = {}
    for *key, by_what, seed, cluster, label, predicted, n in counted:
        cells.setdefault((key[0], key[1], key[2]), []).append((seed, cluster, label, predicted, n))
        by[key[0], key[1], key[2]] = by_what
    return {key: _pool(cells[key], by[key], of) for key, of in sides.items()}


def _pool(cells: Sequence[Any], by: str | None, sides: Mapping[int, tuple[int, int]]) -> Pooled:
    import numpy as np

    largest = max(sides.values(), key=lambda side: side[0])
    seeds = tuple(sorted(seed for seed, side in sides.items() if side == largest))
    dropped = tuple(sorted(sides.keys() - set(seeds)))
    if by is None:
        return Pooled(by=None, counts=None, seeds=seeds, dropped=dropped)
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
    return Pooled(by=by, counts=found, seeds=seeds, dropped=dropped)
