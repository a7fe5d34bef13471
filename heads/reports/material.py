"""What a report is made of: which experiments, what they are called in its figures, what they predicted, and who is left out.

In goes an open catalogue and the experiments that somebody named (or none: all that are complete). Out come `Contender`s, each
with its row of `tfser heads.results.score_tables` (score, interval, marks) and its outcome (`heads.results.outcomes`), in
groups whose numbers compare: of one protocol, over the same classes. Nothing is trained, no audio and no features are opened.

Counts in = counts used + counts left out: an experiment that lacks folds is left out of a report that names none, one that is
named is shown and said to be incomplete; runs that are damaged or only begun are counted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfser.heads.reports.contender_names import contender_names
from tfser.heads.reports.figure_data import list_of, text_of
from tfser.heads.results.marks import mark
from tfser.heads.results.outcomes import Outcome, check_classes, find, read_outcome
from tfser.heads.results.score_tables import table
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.catalogue.run_files import run_folders
from tfser.manifests.errors import UsageError
from tfser.manifests.experiment_names import meant_by, names_of
from tfser.manifests.wording import count


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An experiment of a report.

    Attributes:
        experiment: its id.
        name: what it is called in figures and tables, unlike any other of the report.
        row: of the table of scores, under the report's selection.
        outcome: its predictions.
        key: of letters, digits and hyphens, for ids within a page.
        incomplete: what it lacks; empty: nothing.
    """

    experiment: str
    name: str
    row: Mapping[str, Any]
    outcome: Outcome
    key: str
    incomplete: str = ""

    @property
    def mark(self) -> str:
        """The marks of its numbers (`tfser.heads.results.marks`)."""
        return mark(self.row)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Its classes in the order of the head's outputs; those that occur where the run does not say."""
        given = tuple(self.row["classes"] or ())
        occurring = {*self.outcome.labels, *(name for of_seed in self.outcome.predicted for name in of_seed)}
        return given if occurring <= set(given) else tuple(sorted(occurring | set(given)))

    def source(self) -> str:
        """Return the FROM and WHERE of SQL that gives its predictions: one row an utterance and seed."""
        return source_of(self.outcome)


def source_of(outcome: Outcome) -> str:
    """Return the FROM and WHERE of SQL over the catalogue's views that gives an outcome's utterances, one row a seed."""
    experiment = text_of(outcome.subject.experiment)
    if outcome.selection == "last" and outcome.level == "utterance":
        return f"FROM result_predictions WHERE experiment = {experiment}"
    seeds = ", ".join(map(str, outcome.seeds))
    return (
        f"FROM test_predictions WHERE experiment = {experiment} AND selection = {text_of(outcome.selection)} "
        f"AND level = {text_of(outcome.level)} AND seed IN ({seeds})"
    )


@dataclass(frozen=True, kw_only=True)
class ContenderGroup:
    """Experiments whose numbers compare, the best first: of one protocol (whoever validates), over the same test utterances."""

    corpus: str
    protocols: tuple[str, ...]
    classes: tuple[str, ...]
    members: tuple[Contender, ...]

    @property
    def protocol(self) -> str:
        """The protocol, in the first of its spellings."""
        return self.protocols[0]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that a report says of experiments: those shown, in groups, and what was left out, each with its reason."""

    selection: str
    groups: tuple[ContenderGroup, ...]
    table: tuple[Mapping[str, Any], ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def members(self) -> tuple[Contender, ...]:
        """All experiments that are shown."""
        return tuple(member for group in self.groups for member in group.members)


def read_material(cache: Cache, connection: Connection, named: Sequence[str] = (), *, selection: str = "last") -> Material:
    """Choose the experiments of a report, and read what they predicted.

    Args:
        cache: the cache, for runs that are only begun.
        connection: its catalogue.
        named: ids, or enough of them, runs of them, or names that somebody gave; none: every complete experiment.
        selection: how the epoch was chosen; an experiment without it is left out, and said to be.

    Raises:
        UsageError: There is no experiment, none of that name, or none that can be shown.
    """
    meant = [find(connection, meant_by(cache, name)) for name in named]
    for subject in meant:
        check_classes(connection, subject, "this")
    every = table(connection)
    chosen = {row["experiment"]: row for row in every if row["selection"] == selection}
    asked = list(dict.fromkeys(subject.experiment for subject in meant))
    ids = asked or list(dict.fromkeys(row["experiment"] for row in every))
    left_out: list[tuple[str, str]] = []
    kept: list[str] = []
    # An experiment that lacks folds is left out of what was not named, since its mean is over easier or harder
    # folds than the others'; who names it wants to see it.
    for name in ids:
        if name not in chosen:
            left_out.append((name, f"has no predictions of the selection {selection}"))
        elif (lacking := _lacking(chosen[name])) and not asked:
            left_out.append((name, f"incomplete: {lacking}; name it to see it all the same"))
        else:
            kept.append(name)
    left_out += _unusable_runs(cache, connection)
    if not kept:
        raise _nothing(connection, ids, left_out)
    names = contender_names([chosen[name] for name in kept], _names_given(cache))
    members = [
        Contender(
            experiment=name,
            name=names[name],
            row=chosen[name],
            outcome=read_outcome(connection, find(connection, name), selection=selection),
            key=f"e{i + 1}",
            incomplete=_lacking(chosen[name]),
        )
        for i, name in enumerate(kept)
    ]
    shown = tuple(row for row in every if row["experiment"] in set(kept))
    return Material(selection=selection, groups=_grouped(members), table=shown, left_out=tuple(left_out))


def _names_given(cache: Cache) -> dict[str, str]:
    """Return what people call experiments, by id; of several names of one, the first by letters."""
    return {experiment: name for name, experiment in sorted(names_of(cache).items(), reverse=True)}


def _nothing(connection: Connection, ids: Sequence[str], left_out: Sequence[tuple[str, str]]) -> UsageError:
    """Return the error of a report without an experiment to show, with the way out."""
    rated = rows(connection, "SELECT DISTINCT experiment FROM runs WHERE len(targets) > 0")
    if rated and not ids:
        experiments = count(len(rated), "experiment")
        return UsageError(f"{experiments} here learned dimensions, and none classes: `tfser report` has their page")
    why = f": {left_out[0][0]} {left_out[0][1]}" if left_out else ": no finished run in this cache; `tfser train` makes one"
    return UsageError(f"nothing to report{why}")


def _lacking(row: Mapping[str, Any]) -> str:
    """Return what an experiment lacks, in words; nothing where it is complete or nobody knows of how many folds."""
    if row["of_folds"] and row["folds"] < row["of_folds"]:
        return f"{row['folds']} of {row['of_folds']} folds"
    return ""


def _unusable_runs(cache: Cache, connection: Connection) -> list[tuple[str, str]]:
    """Return the runs that the catalogue does without: damaged ones with the reason, and those that are only begun."""
    found = rows(connection, "SELECT path, reason FROM skipped WHERE stage = 'run' ORDER BY path, reason")
    damaged = [(str(row["path"]), str(row["reason"])) for row in found]
    there = {row["run_id"] for row in rows(connection, "SELECT run_id FROM runs")}
    named = " ".join(path for path, _ in damaged)
    begun = [
        folder.name
        for folder in run_folders(cache)
        if not folder.name.startswith(".") and folder.name not in there and folder.name not in named and folder.is_dir()
    ]
    return damaged + [(name, "only begun: its training is not finished") for name in begun]


def _grouped(members: Sequence[Contender]) -> tuple[ContenderGroup, ...]:
    groups: dict[tuple[Any, ...], list[Contender]] = {}
    for member in members:
        row, outcome = member.row, member.outcome
        key = (row["corpus"], _without_validation(row), tuple(row["classes"] or ()), outcome.keys, outcome.labels)
        groups.setdefault(key, []).append(member)
    return tuple(
        ContenderGroup(
            corpus=key[0],
            protocols=tuple(sorted({str(member.row["protocol"]) for member in of}, key=lambda name: (len(name), name))),
            classes=key[2],
            members=tuple(sorted(of, key=lambda m: (-(m.row["pooled_UA"] or 0.0), m.experiment))),
        )
        for key, of in groups.items()
    )


def _without_validation(row: Mapping[str, Any]) -> str:
    """Return a protocol's name without who validates: the test side, and so what is compared, is the same."""
    return str(row["protocol"]).removesuffix(f"/{row['validation']}")


def spoken(connection: Connection, experiments: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the catalogue knows of each utterance that experiments tested, by corpus and id: all its columns, and
    how far its raters agree."""
    utterances = rows(
        connection,
        "SELECT u.*, b.raters_agree FROM utterances u LEFT JOIN rater_bands b USING (corpus, utterance_id) "
        "SEMI JOIN (SELECT DISTINCT corpus, utterance_id FROM test_predictions "
        f"WHERE experiment IN {list_of(experiments)}) t USING (corpus, utterance_id)",
    )
    return {(row["corpus"], row["utterance_id"]): row for row in utterances}
