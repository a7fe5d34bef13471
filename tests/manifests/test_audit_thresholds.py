"""Every audit at its threshold: just below it says nothing, or the lesser level; just above it says what it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.reading import Connection
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse

from ..conftest import memory_catalogue

AUDITS = {audit.name: audit for audit in packaged_audits()}
Row = dict[str, Any]

ELSEWHERE = {
    "corpus_overlap": "test_cross_corpus",
    "mix_of_other_fold": "test_layer_mix",
    "encoder_saw_corpus": "test_encoder_cards",
    "scale_left": "test_dimensions",
    "left_out_of_fold": "test_crossed_folds",
    **dict.fromkeys(("speaker_attribution", "split_labels", "split_twice", "split_unmatched"), "test_audit_splits"),
}
"""Audits of what one corpus and one protocol do not have."""


def rows(*cells: tuple[str, str, int], **columns: Any) -> list[Row]:
    """Return n rows of each (speaker, label, n), with further columns alike in all of them."""
    found: list[Row] = []
    for speaker, label, n in cells:
        found += [{"speaker": speaker, "label": label} | columns for _ in range(n)]
    return [{"utterance_id": f"u{i:05d}"} | row for i, row in enumerate(found)]


def changed(base: list[Row], *places: int, **columns: Any) -> list[Row]:
    return [row | columns if i in places else row for i, row in enumerate(base)]


def clean() -> list[Row]:
    """Four speakers in two sessions, with dialogues and sentences of their own; two classes."""
    return [
        row | {"session": f"S{int(row['speaker'][1]) // 2}", "dialogue": f"d{row['speaker']}", "sentence": f"{row['speaker']}{i}"}
        for i, row in enumerate(rows(*((f"s{s}", label, 4) for s in range(4) for label in ("anger", "neutral"))))
    ]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One border of an audit: rows on either side of it, and the levels that are found there (None: nothing)."""

    audit: str
    below: list[Row]
    above: list[Row]
    levels: tuple[str | None, str | None]
    spec: str = "loso-speaker"
    spec_above: str | None = None
    prepare: Callable[[Connection, bool], None] = field(default=lambda connection, above: None)


def two(share: int, of: int = 100) -> list[Row]:
    """Two speakers of two classes of whom `share` of 100 utterances of one class are long and loud, all others short and low."""
    loud = {"duration_s": 4.0, "rms_db": -10.0}
    return [
        row | (loud if row["label"] == "neutral" and i % of < share else {})
        for i, row in enumerate(
            rows(*((s, c, of) for s in ("s1", "s2") for c in ("anger", "neutral")), duration_s=1.0, rms_db=-30.0)
        )
    ]


def rates(percent: int) -> list[Row]:
    """Two classes whose shares of a second sample rate differ by so many hundredths."""
    high = {"anger": 500 + 5 * percent, "neutral": 500 - 5 * percent}
    base = rows(*((s, c, 1000) for s in ("s1", "s2") for c in ("anger", "neutral")))
    return [row | {"sample_rate": 16000 if i % 1000 < high[row["label"]] else 8000} for i, row in enumerate(base)]


def flagged(anger: tuple[int, int], neutral: tuple[int, int]) -> list[Row]:
    """Two classes of which (n, of) utterances are clipped."""
    found: list[Row] = []
    for label, (n, of) in (("anger", anger), ("neutral", neutral)):
        found += [{"speaker": f"s{i % 2}", "label": label, "flags": ["clipped"] if i < n else []} for i in range(of)]
    return [{"utterance_id": f"u{i:05d}"} | row for i, row in enumerate(found)]


def uneven(per_thousand: int) -> list[Row]:
    """Two speakers, one of whom is angry so often, the other as seldom."""
    p = per_thousand
    return rows(("s1", "anger", p), ("s1", "neutral", 1000 - p), ("s2", "anger", 1000 - p), ("s2", "neutral", p))


def one_class(n: int, others: int) -> list[Row]:
    """A speaker of one class, and others of both."""
    return rows(("s0", "anger", n), *((f"s{1 + i // 2}", ("anger", "neutral")[i % 2], others // 10) for i in range(10)))


def alike(similarity: float) -> Callable[[Connection, bool], None]:
    def put(connection: Connection, above: bool) -> None:
        value = similarity + (0.001 if above else -0.001)
        for a, b in (("u00000", "u00008"), ("u00008", "u00000")):
            connection.execute("INSERT INTO near_duplicates VALUES ('toy', ?, 'toy', ?, ?, 'copy', 0, 1)", [a, b, value])

    return put


def unread(places: int) -> Callable[[Connection, bool], None]:
    def put(connection: Connection, above: bool) -> None:
        connection.execute("UPDATE utterances SET content_hash = NULL WHERE utterance_id < ?", [f"u{places:05d}"])

    return put


def features(connection: Connection, above: bool) -> None:
    connection.execute("INSERT INTO feature_sets BY NAME SELECT 'logmel' AS feature_set, '{}' AS config")
    fewer = "WHERE utterance_id > 'u00000'" if above else ""
    held = f"SELECT 'logmel' AS feature_set, corpus, utterance_id FROM utterances {fewer}"
    connection.execute(f"INSERT INTO features BY NAME {held}")


def searched(connection: Connection, above: bool) -> None:
    fewer = "WHERE utterance_id > 'u00000'" if above else ""
    connection.execute(f"INSERT INTO fingerprints SELECT corpus, utterance_id, 90 FROM utterances {fewer}")


def published(connection: Connection, above: bool) -> None:
    connection.execute("UPDATE corpora SET expected_utterances = ?", [33 if above else 32])


def twice(connection: Connection, above: bool) -> None:
    if above:
        first = "FROM assignments WHERE utterance_id = 'u00000'"
        connection.execute(f"INSERT INTO assignments SELECT * REPLACE (2 AS fold) {first}")


def ratings(label: str, n: int, other: int) -> Callable[[Connection, bool], None]:
    """One rater who says one thing of so many utterances, one more above, and `other` things besides."""

    def put(connection: Connection, above: bool) -> None:
        row = "SELECT 'toy' AS corpus, 'u' || ? AS utterance_id, 'r' AS rater, ? AS label, TRUE AS counts"
        insert = f"INSERT INTO annotations BY NAME {row}"
        for i in range(n + above):
            connection.execute(insert, [i, label])
        for i in range(other):
            connection.execute(insert, [100 + i, "another"])

    return put


def values(connection: Connection, above: bool) -> None:
    """A rater's value at the end of IEMOCAP's scale, and beyond it."""
    connection.execute("UPDATE corpora SET adapter = 'iemocap'")
    row = "SELECT 'toy' AS corpus, 'u' AS utterance_id, 'r' AS rater, ? AS valence, FALSE AS counts"
    connection.execute(f"INSERT INTO annotations BY NAME {row}", [5.1 if above else 5.0])


NOTHING, INFO, WARNING, ERROR = None, "info", "warning", "error"
CASES = {
    "twenty ratings of one label": Case(
        audit="rater_constant", below=clean(), above=clean(), levels=(NOTHING, WARNING), prepare=ratings("anger", 19, 0)
    ),
    "twenty ratings of two labels": Case(
        audit="rater_constant", below=clean(), above=clean(), levels=(NOTHING, NOTHING), prepare=ratings("anger", 19, 1)
    ),
    "the end of a scale": Case(audit="rater_off_scale", below=clean(), above=clean(), levels=(NOTHING, WARNING), prepare=values),
    "one class is 95 % of a side": Case(
        audit="class_collapsed",
        below=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 57), ("neutral", 3)))),
        above=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 58), ("neutral", 3)))),
        levels=(NOTHING, WARNING),
    ),
    "ten of a class to train on": Case(
        audit="class_collapsed",
        below=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 90), ("neutral", 10)))),
        above=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 91), ("neutral", 9)))),
        levels=(NOTHING, WARNING),
    ),
    "a hundred to train on": Case(
        audit="class_collapsed",
        below=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 90), ("neutral", 9)))),
        above=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 91), ("neutral", 9)))),
        levels=(NOTHING, WARNING),
    ),
    "three of a class to test on": Case(
        audit="class_collapsed",
        below=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 17), ("neutral", 3)))),
        above=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 18), ("neutral", 2)))),
        levels=(NOTHING, INFO),
    ),
    "twenty to test on": Case(
        audit="class_collapsed",
        below=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 17), ("neutral", 2)))),
        above=rows(*((s, c, n) for s in ("s1", "s2") for c, n in (("anger", 18), ("neutral", 2)))),
        levels=(NOTHING, INFO),
    ),
    "a class that training lacks": Case(
        audit="class_missing",
        below=clean(),
        above=[row for row in clean() if row["speaker"] == "s0" or row["label"] == "anger"],
        levels=(NOTHING, ERROR),
    ),
    "total variation 0.2": Case(
        audit="label_shift",
        below=rows(("s1", "anger", 500), ("s1", "neutral", 500), ("s2", "anger", 699), ("s2", "neutral", 301)),
        above=rows(("s1", "anger", 500), ("s1", "neutral", 500), ("s2", "anger", 701), ("s2", "neutral", 299)),
        levels=(NOTHING, INFO),
    ),
    "total variation 0.3": Case(
        audit="label_shift",
        below=rows(("s1", "anger", 500), ("s1", "neutral", 500), ("s2", "anger", 799), ("s2", "neutral", 201)),
        above=rows(("s1", "anger", 500), ("s1", "neutral", 500), ("s2", "anger", 801), ("s2", "neutral", 199)),
        levels=(INFO, WARNING),
    ),
    "chance explains it in 1 of 1000": Case(  # the 99.9 % point with one degree of freedom is 10.83: 10.45, and 11.4
        audit="label_shift",
        below=rows(("s1", "anger", 33), ("s1", "neutral", 22), ("s2", "anger", 16), ("s2", "neutral", 39)),
        above=rows(("s1", "anger", 36), ("s1", "neutral", 24), ("s2", "anger", 17), ("s2", "neutral", 43)),
        levels=(NOTHING, WARNING),
    ),
    "0.15 of the way by length": Case(audit="duration_leak", below=two(14), above=two(16), levels=(NOTHING, INFO)),
    "0.3 of the way by length": Case(audit="duration_leak", below=two(29), above=two(31), levels=(INFO, WARNING)),
    "0.15 of the way by level": Case(audit="level_leak", below=two(14), above=two(16), levels=(NOTHING, INFO)),
    "0.3 of the way by level": Case(audit="level_leak", below=two(29), above=two(31), levels=(INFO, WARNING)),
    "V of 0.1 between rate and class": Case(audit="recording_leak", below=rates(9), above=rates(11), levels=(NOTHING, INFO)),
    "V of 0.3 between rate and class": Case(audit="recording_leak", below=rates(29), above=rates(31), levels=(INFO, WARNING)),
    "five flagged": Case(
        audit="flags_by_class", below=flagged((4, 80), (0, 80)), above=flagged((5, 80), (0, 80)), levels=(NOTHING, WARNING)
    ),
    "5 % flagged": Case(
        audit="flags_by_class", below=flagged((5, 101), (0, 80)), above=flagged((5, 100), (0, 80)), levels=(NOTHING, WARNING)
    ),
    "three times as often flagged": Case(
        audit="flags_by_class", below=flagged((8, 100), (3, 100)), above=flagged((9, 100), (3, 100)), levels=(NOTHING, WARNING)
    ),
    "0.15 of the uncertainty": Case(audit="speaker_confound", below=uneven(721), above=uneven(727), levels=(NOTHING, INFO)),
    "0.3 of the uncertainty": Case(audit="speaker_confound", below=uneven(808), above=uneven(813), levels=(INFO, WARNING)),
    "a speaker of one class holds 0.1": Case(
        audit="speaker_confound", below=one_class(11, 100), above=one_class(12, 100), levels=(NOTHING, WARNING)
    ),
    "ten utterances of one class": Case(
        audit="speaker_confound", below=one_class(9, 50), above=one_class(10, 50), levels=(NOTHING, WARNING)
    ),
    "0.9 alike on both sides": Case(
        audit="near_duplicates", below=clean(), above=clean(), levels=(WARNING, ERROR), prepare=alike(0.9)
    ),
    "0.9 alike under two speakers": Case(
        audit="near_duplicate_labels", below=clean(), above=clean(), levels=(INFO, WARNING), prepare=alike(0.9)
    ),
    "alike, and described otherwise": Case(
        audit="near_duplicate_labels",
        below=changed(clean(), 8, speaker="s0"),
        above=changed(clean(), 8, speaker="s0", label="neutral"),
        levels=(NOTHING, WARNING),
        spec="random-kfold:2",
        prepare=alike(0.95),
    ),
    "one utterance in a hundred cannot be read": Case(
        audit="audio_unreadable",
        below=rows(("s1", "anger", 51), ("s2", "neutral", 50)),
        above=rows(("s1", "anger", 50), ("s2", "neutral", 50)),
        levels=(INFO, WARNING),
        spec="random-kfold:2",
        prepare=unread(1),
    ),
    "all can be read": Case(
        audit="audio_unreadable",
        below=clean(),
        above=clean(),
        levels=(NOTHING, WARNING),
        prepare=lambda connection, above: unread(int(above))(connection, above),
    ),
    "none can be read": Case(
        audit="audio_unreadable",
        below=clean(),
        above=clean(),
        levels=(WARNING, ERROR),
        prepare=lambda connection, above: unread(31 + above)(connection, above),
    ),
    "one utterance of a speaker": Case(
        audit="speaker_overlap",
        below=clean(),
        above=changed(clean(), 0, speaker="s3"),
        levels=(NOTHING, ERROR),
        spec="loso-session",
    ),
    "one utterance of nobody": Case(
        audit="speaker_unknown", below=clean(), above=changed(clean(), 0, speaker="Unknown"), levels=(NOTHING, ERROR)
    ),
    "one utterance without a group": Case(
        audit="utterance_in_no_fold", below=clean(), above=changed(clean(), 0, speaker=None), levels=(NOTHING, ERROR)
    ),
    "one other spelling": Case(
        audit="speaker_spelling", below=clean(), above=changed(clean(), 0, speaker="S-02"), levels=(NOTHING, WARNING)
    ),
    "one utterance of a session": Case(
        audit="session_overlap",
        below=[row | {"session": row["speaker"]} for row in clean()],
        above=changed([row | {"session": row["speaker"]} for row in clean()], 0, session="s3"),
        levels=(NOTHING, WARNING),
    ),
    "one utterance of a dialogue": Case(
        audit="dialogue_overlap", below=clean(), above=changed(clean(), 0, dialogue="ds3"), levels=(NOTHING, WARNING)
    ),
    "one neighbour": Case(
        audit="neighbours_split", below=clean(), above=changed(clean(), 0, dialogue="ds3"), levels=(NOTHING, WARNING)
    ),
    "one sentence": Case(
        audit="sentence_overlap", below=clean(), above=changed(clean(), 0, sentence="s324"), levels=(NOTHING, INFO)
    ),
    "validation by chance": Case(
        audit="validation_speakers",
        below=clean(),
        above=clean(),
        levels=(NOTHING, WARNING),
        spec="loso-speaker/speakers:1",
        spec_above="loso-speaker/random-leaky:0.1",
    ),
    "one copy on the other side": Case(
        audit="duplicate_audio",
        below=changed(clean(), 0, 1, content_hash="same"),
        above=changed(clean(), 0, 8, content_hash="same"),
        levels=(NOTHING, ERROR),
    ),
    "one copy on any side": Case(
        audit="duplicates_in_corpus", below=clean(), above=changed(clean(), 0, 1, content_hash="same"), levels=(NOTHING, INFO)
    ),
    "a copy of another label": Case(
        audit="duplicates_in_corpus",
        below=changed(clean(), 0, 1, content_hash="same"),
        above=changed(clean(), 0, 4, content_hash="same"),
        levels=(INFO, WARNING),
    ),
    "a copy of another gender": Case(
        audit="duplicates_in_corpus",
        below=changed(clean(), 0, 1, content_hash="same", gender="F"),
        above=changed(changed(clean(), 0, 1, content_hash="same", gender="F"), 1, gender="M"),
        levels=(INFO, WARNING),
    ),
    "one utterance of another gender": Case(
        audit="speaker_genders",
        below=[row | {"gender": "F"} for row in clean()],
        above=changed([row | {"gender": "F"} for row in clean()], 0, gender="M"),
        levels=(NOTHING, WARNING),
    ),
    "one feature is missing": Case(
        audit="features_missing", below=clean(), above=clean(), levels=(NOTHING, ERROR), prepare=features
    ),
    "one utterance was not compared": Case(
        audit="near_duplicates_unsearched", below=clean(), above=clean(), levels=(NOTHING, INFO), prepare=searched
    ),
    "one utterance too few": Case(
        audit="published_counts", below=clean(), above=clean(), levels=(NOTHING, WARNING), prepare=published
    ),
    "one utterance in two folds": Case(
        audit="utterance_in_two", below=clean(), above=clean(), levels=(NOTHING, ERROR), prepare=twice
    ),
}


def levels(case: Case, above: bool) -> str | None:
    spec = (case.spec_above if above else None) or case.spec
    with memory_catalogue() as connection:
        connection.execute("INSERT INTO corpora BY NAME SELECT 'toy' AS corpus, 'table' AS adapter")
        found = case.above if above else case.below
        names = sorted({name for row in found for name in row} | {"content_hash"})
        values = ", ".join(f"unnest(?) AS {name}" for name in names)
        connection.execute(
            f"INSERT INTO utterances BY NAME SELECT 'toy' AS corpus, {values}",
            [[row.get(name, f"of {row['utterance_id']}" if name == "content_hash" else None) for row in found] for name in names],
        )
        install(connection, "toy", parse(spec))
        case.prepare(connection, above)
        findings = run_audits(connection, protocol=spec, corpus="toy", audits=[AUDITS[case.audit]])
    return findings[0].level if findings[0].level != "ok" else None  # the gravest comes first


@pytest.mark.parametrize("name", CASES)
def test_beyond_the_border(name):
    case = CASES[name]
    assert levels(case, above=True) == case.levels[1]


@pytest.mark.slow  # that no audit finds anything where nothing is amiss, `test_clean` in test_audits.py says fast
@pytest.mark.parametrize("name", CASES)
def test_within_the_border(name):
    case = CASES[name]
    assert levels(case, above=False) == case.levels[0]


def test_every_audit_has_a_border():
    assert {case.audit for case in CASES.values()} | ELSEWHERE.keys() == AUDITS.keys()
