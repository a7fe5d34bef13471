"""Whether test speakers are new to the head, fold by fold, and what counts as one speaker."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import pytest

from tfser.manifests.protocols.independence import fold_independence, worst
from tfser.manifests.protocols.speakers import named, voice
from tfser.manifests.utterances import Utterance


def corpus(names: list[str | None], n: int = 8) -> list[Utterance]:
    """Utterances of the speakers in turn, two sessions, an own split: the last quarter tests."""
    rows = [(name, i) for i in range(n) for name in names]
    return [
        Utterance(
            utterance_id=f"u{k:03d}",
            path=f"u{k:03d}.wav",
            speaker=name,
            session="AB"[i % 2],
            label=("anger", "sadness")[i % 2],
            split="test" if 4 * k >= 3 * len(rows) else "val" if 2 * k >= len(rows) else "train",
        )
        for k, (name, i) in enumerate(rows)
    ]


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("names", "spec", "expected"),
    [
        (["s1", "s2"], "loso-speaker", ["kept", "kept"]),
        (["s1", "s2", "s3"], "loso-speaker/next-group", ["kept"] * 3),
        (["s1", "s2", "s3"], "loso-speaker/random-leaky:0.3", ["kept"] * 3),  # leaks from train to val, not to test
        (["s1", "s2", "s3", "s4"], "group-kfold:2/speakers:1", ["kept"] * 2),
        (["s1", "s2"], "random-kfold:2", ["broken"] * 2),
        (["s1", "s2"], "loso-session", ["broken"] * 2),
        (["s1", "s2"], "official-split", ["broken"]),
        ([None, "s2", "s3"], "random-kfold:2", ["broken"] * 2),  # what is known is worse than what is not
        ([None], "random-kfold:2", ["unknown"] * 2),
        ([None], "official-split", ["unknown"]),
        (["Unknown", "s1", "s2"], "loso-speaker", ["unknown"] * 3),  # a group of its own, and anybody
        (["01", "s2", "1"], "loso-speaker", ["unknown", "unknown", "kept"]),
    ],
)
def test_each_fold(cache, put_corpus, installed, names, spec, expected):
    put_corpus(cache, corpus(names))
    assert list(fold_independence(installed("toy", spec), spec, "toy").values()) == expected


def test_one_fold_and_none(cache, put_corpus, installed):
    rows = corpus(["s1", "s2", "s3"])
    rows += [Utterance(utterance_id="extra", path="x", speaker="s1", session="C", label="anger")]
    split = {u.utterance_id: "train" if u.speaker == "s3" else "test" for u in rows}
    put_corpus(cache, [replace(u, split=split[u.utterance_id]) for u in rows])
    connection = installed("toy", "official-split")
    assert fold_independence(connection, "official-split", "toy") == {1: "kept"}
    assert worst(fold_independence(connection, "nobody's", "toy").values()) == "unknown"  # there are no such rows
    assert fold_independence(connection, "nobody's", "toy") == {}


def test_a_speaker_who_only_validates_is_heard_too(cache, put_corpus, installed):
    rows = [
        Utterance(utterance_id=f"{s}{k}", path="x", speaker=speaker, split=s, label=("anger", "sadness")[k % 2])
        for s, speaker in (("train", "a"), ("val", "b"), ("test", "b"))
        for k in range(2)
    ]
    put_corpus(cache, rows)
    assert fold_independence(installed("toy", "official-split"), "official-split", "toy") == {1: "broken"}


def test_all_rows_are_judged_whatever_can_be_read(cache, put_corpus, installed):
    rows = corpus(["s1", "s2"])
    put_corpus(cache, rows, skipped=[(u.utterance_id, "scan") for u in rows], hashes={u.utterance_id: None for u in rows})
    assert fold_independence(installed("toy", "random-kfold:2"), "random-kfold:2", "toy") == {1: "broken", 2: "broken"}


def test_several_corpora(cache, put_corpus, installed):
    """The same name in two corpora is two people; and nobody without a name in one is heard in the other."""
    put_corpus(cache, corpus(["s1", "s2"]), corpus="one")
    put_corpus(cache, corpus([None]), corpus="two")
    spec = "cross:one:two"
    assert fold_independence(installed("one+two", spec), spec, "one+two") == {1: "kept"}
    both = "loco:one,two"
    assert fold_independence(installed("one+two", both), both, "one+two") == {1: "kept", 2: "kept"}


def test_the_worst():
    assert (worst(["kept", "unknown"]), worst(["unknown", "broken", "kept"]), worst([])) == ("unknown", "broken", "unknown")


def ask(expression: str, *values: str | None) -> list[str | None]:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT {expression} FROM (SELECT unnest(?) AS s)", [list(values)]).fetchall()
        return [row[0] for row in found]


@pytest.mark.parametrize(
    "spellings",
    [
        ("001", "01", "1", "1.0", " 1 "),
        ("Jos\u00e9", "Jose\u0301", "JOSÉ"),
        ("spk_1", "spk-1", "spk1", "SPK 01", "spk.1", "spk__1"),
        ("Ses01F", "ses1f", "Ses 01 F"),
        ("Mr. Geller", "mr geller", "Mr.Geller"),
        ("0", "000", "0.0"),
    ],
)
def test_spellings_of_one_name(spellings):
    assert len(set(ask(voice("s"), *spellings))) == 1


def test_names_that_are_two():
    different = ["1", "10", "100", "11", "1-1", "1_0", "1.5", "s1", "s10", "a1b", "ab1", "José", "Jose", "Nan Li", "all", "man"]
    assert len(set(ask(voice("s"), *different))) == len(different)


def test_who_is_nobody():
    nobody = ["", "Unknown", "unknown speaker", "speaker unknown", "unk", "n/a", "N/A", "nan", "None", "?", "--"]
    assert ask(named("s"), *nobody, None) == [None] * (len(nobody) + 1)
    assert ask(voice("s"), *nobody, None) == [None] * (len(nobody) + 1)
    people = ["Nana", "Noneman", "unknown soldier", "s1", "Man", "NA", "no", "All", " x "]
    assert ask(named("s"), *people) == people
