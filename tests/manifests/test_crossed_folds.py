"""Folds that keep several columns apart at once: who tests, who trains, who is of neither side, and that audits find it so."""

from __future__ import annotations

import itertools

import pytest

from tfser.manifests.audits.run import run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.folds import install
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
        ("k = 2\nvalidation = 'next-group'\n", "validation: folds that keep several"),
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
