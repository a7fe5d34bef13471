"""Folds that keep several columns apart at once: who tests, who trains, who is of neither side, and that audits find it so."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.dealing import deal_strata
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.protocols.own import keep_own, parse_own
from tfser.manifests.splits.show import describe, headline
from tfser.manifests.utterances import Utterance

TEXT = 'name = "both"\ngrouped_by = ["speaker", "sentence"]\n'


def acted() -> list[Utterance]:
    """Six speakers say six sentences in two emotions; one of them says nothing that has a sentence's name."""
    found = [
        Utterance(utterance_id=f"s{s}t{t}{label[0]}", path="x.wav", speaker=f"s{s}", sentence=f"t{t}", label=label)
        for s, t, label in itertools.product(range(6), range(6), ("anger", "fear"))
    ]
    return [*found, Utterance(utterance_id="odd", path="odd.wav", speaker="s0", label="anger")]


def test_a_fold_shares_neither_speaker_nor_sentence(cache: Cache, put_corpus) -> None:
    put_corpus(cache, acted())
    own = parse_own(TEXT + "k = [3, 2]\n", "both.toml")
    protocol = own.protocol
    keep_own(cache, own)
    ensure_protocol(cache, "toy", protocol.name)
    assert protocol.keeps_apart == ("speaker", "sentence")
    with open_catalogue(cache) as connection:
        about = describe(connection, protocol.name, "toy")
        sides = rows(
            connection,
            "SELECT f.fold, f.role, u.speaker, u.sentence, f.utterance_id FROM folds f "
            f"JOIN utterances u USING (corpus, utterance_id) WHERE f.protocol = '{protocol.name}'",
        )
        out = rows(connection, f"SELECT * FROM left_out WHERE protocol = '{protocol.name}'")
        findings = {f.audit: f for f in run_audits(connection, protocol=protocol.name, corpus="toy")}
    assert (about["folds"], about["grouped_by"]) == (6, "speaker+sentence")
    assert (about["in_no_fold"], about["speakers_kept"]) == (1, "kept")
    for fold in range(1, 7):
        test = [row for row in sides if (row["fold"], row["role"]) == (fold, "test")]
        train = [row for row in sides if (row["fold"], row["role"]) == (fold, "train")]
        left = [row for row in out if row["fold"] == fold]
        # Two of six speakers by three of six sentences, in two emotions; trained is what shares neither.
        assert (len(test), len(train), len(left)) == (12, 24, 36)
        for column in ("speaker", "sentence"):
            assert not {row[column] for row in test} & {row[column] for row in train}
        assert {row["reason"] for row in left} == {"of the tested speaker", "of the tested sentence"}
        assert not {row["utterance_id"] for row in left} & {row["utterance_id"] for row in test + train}
    assert sorted(row["utterance_id"] for row in sides if row["role"] == "test") == sorted(
        u.utterance_id for u in acted() if u.sentence
    ), "everybody is tested once"
    assert {findings[name].level for name in ("speaker_overlap", "sentence_overlap")} == {"ok"}
    assert (findings["left_out_of_fold"].level, findings["left_out_of_fold"].rows) == ("info", 2)
    assert any("left out of single folds: 216 places" in line for line in headline(about))


def test_the_next_part_of_every_column_validates(cache: Cache, put_corpus, installed) -> None:
    put_corpus(cache, acted())
    connection = installed("toy")
    protocol = parse_own(TEXT + "k = 3\nvalidation = 'next-part'\n", "both.toml").protocol
    install(connection, "toy", protocol)
    sides = rows(
        connection,
        "SELECT f.fold, f.role, u.speaker, u.sentence, f.utterance_id FROM folds f "
        f"JOIN utterances u USING (corpus, utterance_id) WHERE f.protocol = '{protocol.name}'",
    )
    out = rows(connection, f"SELECT * FROM left_out WHERE protocol = '{protocol.name}'")
    for fold in range(1, 10):
        of_fold = [row for row in sides if row["fold"] == fold]
        members = {role: [row for row in of_fold if row["role"] == role] for role in ("train", "val", "test")}
        # A third of speakers by a third of sentences, in two emotions; of nine cells one tests, one validates, one trains.
        assert [len(members[role]) for role in ("train", "val", "test")] == [8, 8, 8]
        for one, other in itertools.combinations(members.values(), 2):
            for column in ("speaker", "sentence"):
                assert not {row[column] for row in one} & {row[column] for row in other}
        reasons = {row["reason"] for row in out if row["fold"] == fold}
        assert {"of the tested speaker", "of the tested sentence", "of the validating speaker"} <= reasons
    validated = [row["utterance_id"] for row in sides if row["role"] == "val"]
    assert sorted(validated) == sorted(u.utterance_id for u in acted() if u.sentence), "everybody validates once"
    with pytest.raises(TfserError, match="needs three parts of each column; sentence has two"):
        install(connection, "toy", parse_own(TEXT + "k = [3, 2]\nvalidation = 'next-part'\n", "both.toml").protocol)
    with pytest.raises(UsageError, match="next-part is of folds that keep several columns apart"):
        install(connection, "toy", parse("group-kfold:3/next-part"))


def test_a_part_a_value_and_one_k_for_all(cache: Cache, put_corpus, installed) -> None:
    put_corpus(cache, acted())
    connection = installed("toy")
    for k, folds in (("", 36), ("k = 2\n", 4)):
        protocol = parse_own(TEXT + k, "both.toml").protocol
        install(connection, "toy", protocol)
        assert describe(connection, protocol.name, "toy")["folds"] == folds
    with pytest.raises(TfserError, match="column sentence: 6 groups cannot fill 7 folds"):
        install(connection, "toy", parse_own(TEXT + "k = [2, 7]\n", "both.toml").protocol)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("k = [3]\n", "k: is a whole number from 2, or a list of 2"),
        ("k = [3, 1]\n", "k: is a whole number"),
        ("k = 2\nvalidation = 'next-group'\n", "validation: folds that keep several columns apart at once validate by next-part"),
        ('folds = [["a"], ["b"]]\n', "several columns go with k alone"),
    ],
)
def test_what_makes_no_sense(more: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_own(TEXT + more, "both.toml")


@pytest.mark.parametrize("columns", ['["speaker"]', '["speaker", "speaker"]', '["speaker", "label"]', "[1, 2]"])
def test_columns_that_cannot_be_kept_apart(columns: str) -> None:
    with pytest.raises(UsageError, match="grouped_by: "):
        parse_own(f'name = "both"\ngrouped_by = {columns}\n', "both.toml")


def test_strata_are_spread_and_groups_stay_whole(cache: Cache, put_corpus, installed) -> None:
    """Twelve speakers, of whom each says one emotion and is rated about alike: by size alone, a fold may get one alone."""
    said = [
        Utterance(
            utterance_id=f"s{s}u{i}",
            path="x.wav",
            speaker=f"s{s:02d}",
            label="anger" if s % 2 else "fear",
            arousal=1.0 + s // 3 + i / 100,
            valence=2.0 if i % 2 else None,
        )
        for s in range(12)
        for i in range(4 + s % 3)
    ]
    put_corpus(cache, said)
    connection = installed("toy")
    for name in ("stratified-kfold:3", "stratified-kfold:3@rated:arousal"):
        install(connection, "toy", parse(name))
        found = rows(
            connection,
            "SELECT a.fold, count(DISTINCT u.speaker) AS speakers, count_if(u.label = 'anger') AS anger, count(*) AS n, "
            "count_if(u.arousal < 2) AS low, count_if(u.arousal >= 4) AS high FROM assignments a "
            f"JOIN utterances u USING (corpus, utterance_id) WHERE protocol = '{name}' GROUP BY fold ORDER BY fold",
        )
        assert sum(row["speakers"] for row in found) == 12, "no speaker stands in two folds"
        column = "low" if "rated" in name else "anger"
        shares = [row[column] / sum(of[column] for of in found) for row in found]
        assert max(shares) - min(shares) < 0.15, (name, found)
        assert parse(name).keeps_apart == ("speaker",)
        shown = describe(connection, name, "toy")["counts"]
        assert [row["all"] for row in shown if row["role"] == "test"] == [row["n"] for row in found]
        assert None not in shown[0], "a protocol over ratings has no classes to count"
    install(connection, "toy", parse("stratified-kfold:2@rated:arousal+valence"))  # valence is constant: one stratum
    with pytest.raises(TfserError, match="12 groups cannot fill 13 folds"):
        install(connection, "toy", parse("stratified-kfold:13"))
    assert set(deal_strata({str(i): {"a": 1} for i in range(5)}, 5).values()) == set(range(1, 6)), "no fold is left empty"


def talked() -> list[Utterance]:
    """Three dialogues of s0 and s1, three of s2 and s3, turn about."""
    rows = []
    for d, t in itertools.product(range(6), range(12)):
        speaker = f"s{t % 2 + 2 * (d > 2)}"
        label = "fear" if t % 3 else "anger"
        rows.append(Utterance(utterance_id=f"d{d}_{t:02d}", path="x.wav", speaker=speaker, dialogue=f"d{d}", label=label))
    return rows


def test_who_is_left_out_of_a_fold_is_on_no_side_for_any_audit(cache: Cache, put_corpus, installed) -> None:
    spelt = [u if u.utterance_id != "d1_01" else replace(u, speaker="S1", label="joy") for u in talked()]
    put_corpus(cache, spelt)
    connection = installed("toy")
    text = 'name = "both"\ngrouped_by = ["speaker", "dialogue"]\nk = 2\nlabels = "anger,fear,happiness"\n'
    protocol = parse_own(text, "both.toml").protocol
    install(connection, "toy", protocol)
    only = [
        a for a in packaged_audits() if a.name in ("neighbours_split", "class_missing", "class_collapsed", "speaker_spelling")
    ]
    findings = run_audits(connection, protocol=protocol.name, corpus="toy", audits=only)
    assert {f.level for f in findings if f.audit == "neighbours_split"} == {"ok"}, "the other half of a dialogue is left out"
    assert not [row for f in findings for row in f.examples if row.get("role") == "out"]
    by_fold = {
        row["fold"]
        for row in rows(
            connection,
            "SELECT DISTINCT f.fold FROM folds f JOIN folds o USING (protocol, fold) "
            "JOIN utterances u ON u.utterance_id = f.utterance_id JOIN utterances v ON v.utterance_id = o.utterance_id "
            "WHERE f.role = 'test' AND o.role = 'train' AND lower(u.speaker) = lower(v.speaker)",
        )
    }
    assert {f.fold for f in findings if f.audit == "speaker_spelling" and f.level != "ok"} == by_fold
