"""Protocols over several corpora: who trains and tests, and that nothing of two corpora is taken for one thing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.names import parse
from tfser.manifests.splits.choose import choose_protocol
from tfser.manifests.utterances import Utterance


def corpus(name: str, labels: tuple[str, ...] = ("anger", "neutral", "sadness"), speakers: int = 3) -> list[Utterance]:
    """Ids, speakers, sessions and dialogues are called the same in every corpus."""
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"{name}/s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"S{s}",
            dialogue=f"d{s}",
            label=labels[i % len(labels)],
        )
        for s in range(1, speakers + 1)
        for i in range(6)
    ]


def put(cache, put_corpus, name, utterances=None, hashes=None):
    utterances = corpus(name) if utterances is None else utterances
    own = {u.utterance_id: f"{name} {u.utterance_id}" for u in utterances}
    put_corpus(cache, utterances, corpus=name, hashes=own | (hashes or {}))


@pytest.fixture
def three(cache, put_corpus):
    put(cache, put_corpus, "a", corpus("a", ("anger", "neutral", "sadness")))
    put(cache, put_corpus, "b", corpus("b", ("anger", "neutral", "boredom")))
    put(cache, put_corpus, "c", corpus("c", ("neutral", "excitement", "anger"), speakers=2))
    return cache


def sides(connection, spec):
    found = rows(connection, "SELECT fold, role, corpus, count(*) AS n FROM folds WHERE protocol = ? GROUP BY ALL", [spec])
    return {(r["fold"], r["role"], r["corpus"]): r["n"] for r in found}


@pytest.mark.parametrize(
    ("text", "name", "over"),
    [
        ("cross:b:a", "cross:b:a", ("a", "b")),
        ("cross:b+a:c", "cross:a+b:c", ("a", "b", "c")),
        ("loco:c,b,a@common4/next-group", "loco:a,b,c@common4/next-group", ("a", "b", "c")),
        ("cross:x10:x9@anger,neutral/speakers:1", "cross:x10:x9@anger,neutral/speakers:1", ("x9", "x10")),
    ],
)
def test_names(text, name, over):
    assert (parse(text).name, parse(text).over) == (name, over)
    assert parse(name) == parse(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cross", "say what to train on and what to test on"),
        ("cross:a", "say what to train on"),
        ("cross:a:", "name the corpora"),
        ("cross:a:b:c", "say what to train on"),
        ("cross:a:a+b", "a cannot stand on both sides"),
        ("cross:a+a:b", "a stands there twice"),
        ("cross:a b:c", "use letters, digits"),
        ("loco", "name the corpora"),
        ("loco:a", "at least two"),
        ("cross:a:b/next-group", "has one fold only"),
    ],
)
def test_bad_names(text, error):
    with pytest.raises(UsageError, match=error):
        parse(text)


def test_cross(three, installed):
    catalogue = installed("a+b+c", "cross:a+b:c", "cross:a+b:c@common4", "cross:c:a/speakers:1")
    assert sides(catalogue, "cross:a+b:c") == {(1, "train", "a"): 12, (1, "train", "b"): 12, (1, "test", "c"): 8}
    assert sides(catalogue, "cross:a+b:c@common4") == {(1, "train", "a"): 18, (1, "train", "b"): 12, (1, "test", "c"): 12}
    assert sides(catalogue, "cross:c:a/speakers:1") == {(1, "train", "c"): 4, (1, "val", "c"): 4, (1, "test", "a"): 12}
    about = {(r["protocol"], r["corpus"]): r for r in rows(catalogue, "FROM protocols")}
    first = about["cross:a+b:c@common4", "a"]
    assert first["corpora"] == "a+b+c" and first["classes"] == ["anger", "happiness", "neutral", "sadness"]
    assert {k: v for k, v in first.items() if k != "corpus"} == {
        k: v for k, v in about["cross:a+b:c@common4", "c"].items() if k != "corpus"
    }  # one protocol, a row a corpus
    assert about["cross:a+b:c", "b"]["classes"] == ["anger", "neutral"]  # what all of them have


def test_leave_one_corpus_out(three, installed):
    spec = "loco:a,b,c@anger,neutral"
    catalogue = installed("a+b+c", spec, f"{spec}/next-group", f"{spec}/random-leaky:0.25")
    sizes = {"a": 12, "b": 12, "c": 8}
    expected = {
        (fold, "test" if corpus == tested else "train", corpus): n
        for fold, tested in enumerate("abc", 1)
        for corpus, n in sizes.items()
    }
    assert sides(catalogue, spec) == expected
    following = sides(catalogue, f"{spec}/next-group")
    assert {(f, c) for f, role, c in following if role == "val"} == {(1, "b"), (2, "c"), (3, "a")}
    random = sides(catalogue, f"{spec}/random-leaky:0.25")
    held = {c: random.get((f, "val", c), 0) for f, c in ((2, "a"), (3, "b"), (1, "c"))}
    assert sum(held.values()) == 8 and all(n < sizes[c] for c, n in held.items())  # a quarter of 32
    assert all(random.get((f, "val", c), 0) in (0, held[c]) for f in (1, 2, 3) for c in sizes)  # the same in every fold


def audits(connection, spec, corpora, *names):
    chosen = [a for a in packaged_audits() if not names or a.name in names]
    return {f.audit: f for f in run_audits(connection, protocol=spec, corpus=corpora, audits=chosen) if f.level != "ok"}


OVERLAPS = ("speaker_overlap", "session_overlap", "dialogue_overlap", "speaker_spelling", "utterance_in_two", "corpus_overlap")


@pytest.mark.slow
def test_the_same_name_in_two_corpora_is_two_speakers(three, installed):
    catalogue = installed("a+b+c", "cross:a+b:c", "loco:a,b,c/speakers:1", "cross:a+b:c/random-leaky:0.1")
    assert audits(catalogue, "cross:a+b:c", "a+b+c", *OVERLAPS, "duplicate_audio", "class_missing") == {}
    assert audits(catalogue, "loco:a,b,c/speakers:1", "a+b+c", *OVERLAPS, "validation_speakers") == {}
    assert set(audits(catalogue, "cross:a+b:c/random-leaky:0.1", "a+b+c", *OVERLAPS, "validation_speakers")) == {
        "validation_speakers"
    }
    held = rows(
        catalogue,
        "SELECT fold, list(DISTINCT corpus || '/' || speaker) AS who FROM fold_utterances "
        "WHERE protocol = 'loco:a,b,c/speakers:1' AND role = 'val' GROUP BY fold",
    )
    assert len(held) == 3 and all(len(row["who"]) == 1 for row in held)  # one speaker, not all who are called so
    assert rows(catalogue, "SELECT count(DISTINCT part) AS n FROM assignments WHERE protocol = 'loco:a,b,c/speakers:1'") == [
        {"n": 8}
    ]


def test_the_same_audio_in_two_corpora(cache, put_corpus, installed):
    put(cache, put_corpus, "a", hashes={"s1_0": "copied", "s2_0": "also", "s3_3": "also"})
    put(cache, put_corpus, "b", hashes={"s3_3": "copied"})
    found = audits(installed("a+b", "cross:a:b"), "cross:a:b", "a+b", *OVERLAPS, "duplicate_audio")
    assert set(found) == {"duplicate_audio"}
    assert (found["duplicate_audio"].level, found["duplicate_audio"].rows) == ("error", 1)
    (example,) = found["duplicate_audio"].examples
    assert (example["test_utterance"], example["other_role"], example["other_utterance"]) == ("s3_3", "train", "a/s1_0")


@pytest.mark.slow
def test_what_is_skipped_in_one_corpus_excuses_nothing_in_the_other(cache, put_corpus, put_features, installed):
    put_corpus(cache, corpus("a"), corpus="a")
    put_corpus(cache, corpus("b"), corpus="b", skipped=[("s1_0", "scan")])
    ids = [u.utterance_id for u in corpus("a")]
    put_features(cache, [i for i in ids if i != "s1_0"], corpus="a")
    put_features(cache, [i for i in ids if i != "s1_0"], corpus="b")
    name = ensure_protocol(cache, "a+b", "cross:a:b")
    with open_catalogue(cache) as connection:
        found = audits(connection, name, "a+b", "features_missing")
    assert found["features_missing"].rows == 1  # of a, not of b
    assert found["features_missing"].examples[0]["utterance_id"] == "s1_0"


def test_hashes_tell_corpora_apart(three, installed):
    specs = ("cross:a:b@anger,neutral", "cross:b:a@anger,neutral", "loco:a,b@anger,neutral", "loco:a,c@anger,neutral")
    catalogue = installed("a+b", *specs)
    found = {r["protocol"]: r["hash"] for r in rows(catalogue, "FROM protocols")}
    assert len(set(found.values())) == len(specs)


@pytest.mark.slow
def test_they_are_kept_and_come_back(three):
    assert choose_protocol(three, None, "cross:b+a:c") == ("a+b+c", "cross:a+b:c")
    assert choose_protocol(three, "a+b", "loco:b,a", labels="common4") == ("a+b", "loco:a,b@common4")
    three.catalogue.unlink()
    with open_catalogue(three) as connection:
        before = rows(connection, "SELECT protocol, corpus, hash FROM protocols WHERE corpora <> corpus ORDER BY ALL")
    assert {(r["protocol"], r["corpus"]) for r in before} == {
        *(("cross:a+b:c", c) for c in "abc"),
        *(("loco:a,b@common4", c) for c in "ab"),
    }
    (three.corpus("b") / "corpus.json").unlink()  # a corpus that went away takes its protocols along, and nothing else
    refresh(three)
    with open_catalogue(three) as connection:
        assert rows(connection, "SELECT protocol FROM protocols WHERE corpora <> corpus") == []
        assert rows(connection, "SELECT count(*) AS n FROM corpora") == [{"n": 2}]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("corpus_name", "spec", "error"),
    [
        ("a", "cross:a:b", "--corpus a: protocol cross:a:b is for a\\+b; leave --corpus out"),
        (None, "cross:a:d", "corpus d is not in .*, which holds a, b, c; run `tfser extract --corpus d` first"),
        (None, "cross:a:b@excitement,fear", "corpus a has none of its labels"),
        (None, "loso-speaker", "which corpus\\?"),
        ("a+b", "loso-speaker", "--corpus a\\+b: name one corpus; a protocol over several names them itself"),
    ],
)
def test_bad_requests(three, corpus_name, spec, error):
    with pytest.raises(UsageError if "labels" not in error else TfserError, match=error):
        choose_protocol(three, corpus_name, spec)


@pytest.mark.slow
def test_corpora_that_share_no_labels(cache, put_corpus):
    put(cache, put_corpus, "a", corpus("a", ("anger", "neutral")))
    put(cache, put_corpus, "b", corpus("b", ("fear", "neutral")))
    put(cache, put_corpus, "d", [replace(u, label=None) for u in corpus("d")])
    with pytest.raises(TfserError, match=r"the corpora share too few labels \(neutral\); say which classes with --labels"):
        choose_protocol(cache, None, "cross:a:b")
    with pytest.raises(TfserError, match="corpus d has no labels"):
        choose_protocol(cache, None, "cross:a:d")
    assert choose_protocol(cache, None, "cross:a:b", labels="arousal2")[1] == "cross:a:b@arousal2"
