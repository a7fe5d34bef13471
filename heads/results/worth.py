"""What a published split is worth: its score, less the score on the same test utterances where every speaker is kept apart.

In goes a protocol of the catalogue, or a split that others publish as files; out come the protocols to train (`WorthPlan`), and,
when they are trained, the difference with its interval over speakers (`Worth`).

The clean split is drawn so: all utterances of the published one, whole speakers dealt into K folds, with K the published number
of utterances over that of its test side, rounded, so that a head trains on as many. In the first draw the largest speaker goes to
the emptiest fold first (as `group-kfold:K` does); in draw d the speakers go there in the order of the MD5 of `d TAB speaker`.
Where the published split validates, the same share of the training side is held out (`random-leaky`). Each utterance that the
published split tests is then scored twice, by heads that have and have not heard its speaker.

Nothing is trained here, and no interval is given to the published score by itself: its test speakers are not new.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfser.heads.results.exchanges import Permutation, permutation_test
from tfser.heads.results.intervals import (
    METRICS,
    Interval,
    cluster_scores,
    count,
    difference,
    interval,
    seed_scores,
)
from tfser.heads.results.outcomes import Key, Outcome
from tfser.manifests.audits.matching import Matched
from tfser.manifests.catalogue.reading import Connection, rows
from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.manifests.protocols.dealing import deal
from tfser.manifests.protocols.folds import is_rated
from tfser.manifests.protocols.own import OwnProtocol, parse_own
from tfser.manifests.protocols.speakers import named

ROLES = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCell:
    """One utterance in one fold of the published split: its side, class, the corpus's own label, and who speaks."""

    fold: int
    role: str
    utterance: str
    label: str
    said: str
    speaker: str


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many utterances a fold has on each side, on average over the folds, and how many of its test speakers train."""

    folds: int
    train: float
    val: float
    test: float
    shared: int
    speakers: int
    """Test speakers that train or validate in a fold that tests them, and test speakers in all; each counted once."""


@dataclass(frozen=True, kw_only=True)
class WorthPlan:
    """The two arms: protocols by name, with the definitions of those that are the user's own, and their sizes."""

    corpus: str
    called: str
    published: tuple[tuple[str, OwnProtocol | None], ...]
    clean: tuple[tuple[str, OwnProtocol], ...]
    sizes: tuple[Sizes, Sizes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Worth:
    """The outcome; scores are shares of 1, the difference is the published split's minus the clean one's."""

    plan: WorthPlan
    head: str
    features: str
    metric: str
    selection: str
    utterances: int
    published: float
    clean: Interval
    difference: Interval
    permutation: Permutation
    by_draw: tuple[float, ...]
    speakers: tuple[tuple[str, int, float, float], ...]
    """Of each speaker that has a score: the test utterances, and the score on the published and on the clean split."""
    dimensions: tuple[str, ...] = ()
    """Over the mean of which the scores are, where ratings are measured; then they are no shares."""

    def written(self, value: float, sign: str = "") -> str:
        """Return a score or a difference of two as people read it: in percent, but for ratings."""
        return f"{value:{sign}.3f}" if self.dimensions else f"{100 * value:{sign}.1f}"

    def ends(self, of: Interval) -> str:
        """Return an interval's ends in brackets, behind a space; nothing where there are none."""
        return "" if of.low is None or of.high is None else f" [{self.written(of.low)}, {self.written(of.high)}]"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        published, clean = (dict(vars(sizes)) for sizes in self.plan.sizes)
        return {
            "split": self.plan.called,
            "corpus": self.plan.corpus,
            "head": self.head,
            "features": self.features,
            "metric": self.metric,
            **({"targets": list(self.dimensions)} if self.dimensions else {}),
            "selection": self.selection,
            "utterances": self.utterances,
            "worth": self.difference.to_dict(),
            "p_permutation": self.permutation.p,
            "published": {"value": self.published, "protocols": [name for name, _ in self.plan.published], **published},
            "clean": {
                **self.clean.to_dict(),
                "protocols": [name for name, _ in self.plan.clean],
                "by_draw": list(self.by_draw),
                **clean,
            },
            "speakers": [
                {"speaker": name, "n": n, "published": a, "clean": b, "difference": a - b} for name, n, a, b in self.speakers
            ],
            "notes": list(self.plan.notes),
        }


def cells_of(connection: Connection, protocol: str, corpus: str, label_column: str) -> list[SplitCell]:
    """Return who is where in a protocol, or in the foreign split that stands in its place (`audits.seen.audited`).

    Raises:
        TfserError: if some of its utterances name no speaker: nobody could be kept apart for sure.
    """
    column = '"' + label_column.replace('"', '""') + '"'
    cells = rows(
        connection,
        f"SELECT DISTINCT f.fold, f.role, f.utterance_id, f.label, u.{column}::VARCHAR AS said, {named('u.speaker')} AS speaker "
        "FROM folds f JOIN utterances u ON u.corpus = f.corpus AND u.utterance_id = f.utterance_id "
        "WHERE f.protocol = ? AND f.corpus = ? AND u.content_hash IS NOT NULL ORDER BY ALL",
        [protocol, corpus],
    )
    if nameless := {row["utterance_id"] for row in cells if row["speaker"] is None}:
        raise TfserError(
            f"{protocol}: {len(nameless):,} of its utterances name no speaker ({min(nameless)}), so nobody can "
            "be kept apart for sure; fill the column speaker and scan again"
        )
    return [
        SplitCell(
            fold=row["fold"],
            role=row["role"],
            utterance=row["utterance_id"],
            label=row["label"],
            said=row["said"],
            speaker=row["speaker"],
        )
        for row in cells
    ]


def of_ratings(connection: Connection, cells: Sequence[SplitCell], corpus: str, targets: Sequence[str]) -> list[SplitCell]:
    """Return the cells of utterances that are rated for all of some dimensions, without their classes, which play no part.

    Raises:
        TfserError: if none is.
    """
    found = rows(connection, f"SELECT utterance_id FROM utterances WHERE corpus = ? AND {is_rated(targets)}", [corpus])
    there = {row["utterance_id"] for row in found}
    if not (kept := [replace(cell, label="", said="") for cell in cells if cell.utterance in there]):
        raise TfserError(f"none of the split's utterances of {corpus} is rated for {' and '.join(targets)}")
    return kept


def sizes_of(cells: Sequence[SplitCell]) -> Sizes:
    """Count the sides of a split's folds."""
    folds = sorted({cell.fold for cell in cells})
    n = {role: sum(cell.role == role for cell in cells) / len(folds) for role in ROLES}
    tested = {(cell.fold, cell.speaker) for cell in cells if cell.role == "test"}
    heard = {(cell.fold, cell.speaker) for cell in cells if cell.role != "test"}
    # A speaker whom several folds test is one speaker all the same: of EmoDB's ten, ten are heard, not fifty.
    shared = {speaker for _, speaker in tested & heard}
    return Sizes(folds=len(folds), **n, shared=len(shared), speakers=len({speaker for _, speaker in tested}))


def own_of_split(cells: Sequence[SplitCell], called: str, corpus: str) -> list[OwnProtocol]:
    """Return protocols that are a foreign split: one where every utterance is tested once and trains otherwise, else one a fold.

    Raises:
        UsageError: if an utterance stands on two sides of a fold, a fold lacks a side, or one label has two words in the files.
    """
    # A protocol maps labels of the corpus to classes, so each label has to mean one class throughout the files.
    words: dict[str, set[str]] = {}
    for cell in cells:
        words.setdefault(cell.said, set()).add(cell.label)
    if several := {label: names for label, names in sorted(words.items()) if len(names) > 1}:
        label, names = next(iter(several.items()))
        raise UsageError(
            f"{called}: what {corpus} calls {label} is called {' and '.join(sorted(names))} in the files; mend their labels, or "
            "leave the column out"
        )
    # Who stands on two sides would be trained on and tested: files that say so are refused, not mended.
    folds = sorted({cell.fold for cell in cells})
    sides: dict[int, dict[str, set[str]]] = {k: {role: set() for role in ROLES} for k in folds}
    for cell in cells:
        sides[cell.fold][cell.role].add(cell.utterance)
    for fold, members in sides.items():
        for a, b in (("train", "test"), ("val", "test"), ("train", "val")):
            if both := members[a] & members[b]:
                raise UsageError(
                    f"{called}: {len(both)} utterances stand in {a} and in {b} of fold {fold} ({min(both)}); `tfser audit` lists "
                    "them"
                )
        if missing := [role for role in ("train", "test") if not members[role]]:
            raise UsageError(f"{called}: fold {fold} has no {missing[0]} side that is in {corpus}")
    # Where every utterance is tested once and trains otherwise the files are a cross-validation: one protocol with its folds, so
    # that scores are pooled over them. Anything else is a protocol a fold.
    everyone = {cell.utterance for cell in cells}
    tests = [members["test"] for members in sides.values()]
    once = len(folds) > 1 and sum(map(len, tests)) == len(everyone) == len(set().union(*tests))
    if once and all(members["train"] == everyone - members["test"] for members in sides.values()):
        return [_own(called, cells, corpus, {"folds": [sorted(members) for members in tests]}, apart=())]
    return [
        _own(f"{called}-fold{fold}", cells, corpus, {"sides": {r: sorted(members[r]) for r in ROLES if members[r]}}, apart=())
        for fold, members in sides.items()
    ]


def clean_splits(cells: Sequence[SplitCell], called: str, corpus: str, draws: int) -> tuple[list[OwnProtocol], list[str]]:
    """Return the speaker-clean split of the same utterances, once a draw, and notes on what is not alike.

    Raises:
        TfserError: if there are fewer than two speakers.
    """
    speaker_of = {cell.utterance: cell.speaker for cell in cells}
    spoken: dict[str, int] = {}
    for speaker in speaker_of.values():
        spoken[speaker] = spoken.get(speaker, 0) + 1
    if len(spoken) < 2:
        raise TfserError(f"{called}: one speaker alone ({', '.join(spoken)}) cannot be kept apart from others")
    sizes = sizes_of(cells)
    total = sizes.train + sizes.val + sizes.test
    wanted = max(2, round(total / sizes.test))
    k = min(wanted, len(spoken))
    notes = []
    if k < wanted:
        notes.append(
            f"{len(spoken)} speakers make at most {k} folds, where sides of the published sizes would need {wanted}: the clean "
            "heads train on fewer utterances, and part of the difference may be that"
        )
    share = sizes.val / (sizes.train + sizes.val)
    policy = "none" if not sizes.val else f"random-leaky:{min(max(share, 0.0001), 0.9999):.4f}"
    splits = []
    for draw in range(1, draws + 1):
        of = _dealt(spoken, k, draw)
        folds = [sorted(name for name, speaker in speaker_of.items() if of[speaker] == fold) for fold in range(1, k + 1)]
        name = f"clean-{called}-draw{draw}"
        splits.append(_own(name, cells, corpus, {"folds": folds}, apart=("speaker",), validation=policy))
    return splits, notes


def _dealt(spoken: Mapping[str, int], k: int, draw: int) -> dict[str, int]:
    """Return the fold of each speaker in one draw."""
    if draw == 1:
        return deal(spoken, k)
    filled = dict.fromkeys(range(1, k + 1), 0)
    result = {}
    for speaker in sorted(spoken, key=lambda name: (hashlib.md5(f"{draw}\t{name}".encode()).hexdigest(), name)):
        fold = min(filled, key=lambda number: (filled[number], number))
        filled[fold] += spoken[speaker]
        result[speaker] = fold
    return result


def _own(
    name: str,
    cells: Iterable[SplitCell],
    corpus: str,
    groups: Mapping[str, Any],
    *,
    apart: Sequence[str],
    validation: str = "none",
) -> OwnProtocol:
    """Return a protocol of lists of utterances, as if it had been read from a file."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "split"
    classes: dict[str, set[str]] = {}
    for cell in cells:
        if cell.label:  # of ratings there are no classes
            classes.setdefault(cell.label, set()).add(cell.said)
    keys: list[tuple[str, Any]] = [
        ("name", slug),
        ("summary", f"made by `tfser worth`: {name}"),
        ("corpus", corpus),
        ("grouped_by", "utterance_id"),
        ("others", "leave-out"),
        ("keeps_apart", list(apart)),
        *([("validation", validation)] if validation != "none" else []),
        *([("folds", groups["folds"])] if "folds" in groups else []),
    ]
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys)
    labels = "".join(f"{json.dumps(c)} = {json.dumps(sorted(words))}\n" for c, words in sorted(classes.items()))
    text += f"[labels]\n{labels}" if labels else ""
    if "sides" in groups:
        text += "[sides]\n" + "".join(f"{role} = {json.dumps(names)}\n" for role, names in groups["sides"].items())
    return parse_own(text, name)


def measure(
    plan: WorthPlan, published: Sequence[Outcome], clean: Sequence[Outcome], *, head: str, features: str, metric: str
) -> Worth:
    """Return what the published split is worth, of the predictions of both arms.

    Args:
        plan: what was trained.
        published: the predictions on each of the plan's published protocols.
        clean: those on each draw of the clean one.
        head: what was trained, in words.
        features: on which.
        metric: one of METRICS.

    Raises:
        UsageError: there is no such score.
        TfserError: the clean splits did not test what the published one did.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    where, speakers, places = both_arms(plan, published, clean)
    labels = [label for outcome in published for label in outcome.labels]
    seeds = min(len(outcome.seeds) for outcome in published)
    heard = [[name for outcome in published for name in outcome.predicted[s]] for s in range(seeds)]
    apart = [[row[at[key]] for key in where] for outcome, at in zip(clean, places, strict=True) for row in outcome.predicted]
    classes = tuple(sorted({*labels, *(name for row in (*heard, *apart) for name in row)}))
    # Both arms are counted by the same speakers, so that the difference is of pairs: a speaker's own ease cancels out.
    a, b = count(speakers, labels, heard, classes), count(speakers, labels, apart, classes)
    of_a, of_b, n = cluster_scores(a, metric), cluster_scores(b, metric), a.true[0].sum(axis=1)
    gap = difference(a, b, metric)
    return Worth(
        plan=plan,
        head=head,
        features=features,
        metric=metric,
        selection=published[0].selection,
        utterances=len(where),
        published=interval(a, metric).value,
        clean=interval(b, metric),
        difference=gap,
        permutation=permutation_test(a, b, metric),
        by_draw=by_draw(clean, seed_scores(b, metric)),
        speakers=tuple((name, int(n[i]), float(of_a[i]), float(of_b[i])) for i, name in enumerate(a.clusters)),
    )


def both_arms(
    plan: WorthPlan, published: Sequence[Outcome], clean: Sequence[Outcome]
) -> tuple[list[Key], list[str], list[dict[Key, int]]]:
    """Return which utterances are scored, who says each, and where each draw of the clean arm has them.

    The published arm says which they are, over all of its protocols, as (corpus, utterance); each draw of the clean one has to
    have tested all of them.

    Raises:
        TfserError: it has not.
    """
    where = [key[:2] for outcome in published for key in outcome.keys]
    speakers = [name for outcome in published for name in outcome.clusters("speaker")]
    places = [{key[:2]: i for i, key in enumerate(outcome.keys)} for outcome in clean]
    if lost := [key for key in where if any(key not in at for at in places)]:
        raise TfserError(f"{len(lost)} test utterances of {plan.called} have no clean prediction ({lost[0][1]}); train --again")
    return where, speakers, places


def by_draw(clean: Sequence[Outcome], scores: Sequence[float | None]) -> tuple[float, ...]:
    """Return each draw's score, the mean of its seeds' `scores`; draws in which a seed has none are left out."""
    means, start = [], 0
    for outcome in clean:
        of_seeds = scores[start : (start := start + len(outcome.seeds))]
        if None not in of_seeds:
            means.append(float(np.mean([value for value in of_seeds if value is not None])))
    return tuple(means)


def in_one_line(of: Worth) -> str:
    """Return the answer: "this split is worth +23.8 points of UA [14.3, 33.3]"."""
    gap, points = of.difference, "of" if of.dimensions else "points of"
    return f"this split is worth {of.written(gap.value, '+')} {points} {of.metric}{of.ends(gap)}"


def method(worth: Worth) -> str:
    """Return how the number was made, in a sentence or two."""
    published, clean = worth.plan.sizes
    draws = len(worth.plan.clean)
    return (
        f"{worth.head} on {worth.features}, trained on the split and on {clean.folds} folds of whole speakers over the same "
        f"utterances{f', drawn {draws} times' if draws > 1 else ''} (on average {published.train:,.0f} and "
        f"{clean.train:,.0f} to train on); "
        f"both scored on the same {worth.utterances:,} test utterances; "
        f"interval over {worth.difference.clusters} speakers, jackknife "
        f"with Student's t; p = {worth.permutation.p:.3g}, whole speakers exchanged"
    )


def matched_note(matched: Matched) -> str:
    """Return what became of the rows of a split's files."""
    lost = matched.unknown + matched.ambiguous
    return f"{matched.matched:,} of {matched.rows:,} rows of the split are utterances here" + (
        f"; {matched.unknown:,} are none and {matched.ambiguous:,} could be several" if lost else ""
    )
