"""What protocols make of rows: groups, folds, roles, hashes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.natural import natural_key
from tfser.manifests.protocols.dealing import deal
from tfser.manifests.utterances import Utterance


def corpus(speakers: int = 4, each: int = 6, labels: tuple[str, ...] = ("anger", "neutral", "sadness")) -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"Ses{s // 2}",
            label=labels[i % len(labels)],
        )
        for s in range(1, speakers + 1)
        for i in range(each)
    ]


def folds_of(cache, spec: str, name: str = "toy") -> dict[int, dict[str, set[str]]]:
    protocol = ensure_protocol(cache, name, spec)
    result: dict[int, dict[str, set[str]]] = {}
    with open_catalogue(cache) as connection:
        for row in rows(connection, "SELECT * FROM folds WHERE protocol = ? AND corpus = ?", [protocol, name]):
            result.setdefault(row["fold"], {}).setdefault(row["role"], set()).add(row["utterance_id"])
    return result


def about(cache, spec: str) -> dict[str, Any]:
    name = ensure_protocol(cache, "toy", spec)
    with open_catalogue(cache) as connection:
        return rows(connection, "SELECT * FROM protocols WHERE protocol = ?", [name])[0]


@given(st.lists(st.text(max_size=8), unique=True), st.randoms())
def test_natural_order_is_total(names, shuffler):
    again = list(names)
    shuffler.shuffle(again)
    assert sorted(names, key=natural_key) == sorted(again, key=natural_key)


def test_natural_order():
    given_ = ["s10", "S9", "s9", "s1a", "s1", "x²", "٣", "9", "10", "010", "", "s1b2", "s1b10"]
    assert sorted(given_, key=natural_key) == [
        "", "٣", "9", "010", "10", "s1", "s1a", "s1b2", "s1b10", "S9", "s9", "s10", "x²",
    ]  # fmt: skip


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=2, max_size=30), st.integers(2, 6), st.randoms())
def test_deal(groups, k, shuffler):
    if len(groups) < k:
        with pytest.raises(TfserError, match=f"cannot fill {k} folds"):
            deal(groups, k)
        return
    dealt = deal(groups, k)
    assert set(dealt) == set(groups)
    sizes = Counter(dict.fromkeys(range(1, k + 1), 0))
    for name, fold in dealt.items():
        sizes[fold] += groups[name]
    assert set(sizes) == set(range(1, k + 1))
    assert max(sizes.values()) - min(sizes.values()) <= max(groups.values())  # balanced
    items = list(groups.items())
    shuffler.shuffle(items)
    assert deal(dict(items), k) == dealt  # whatever the order


def test_fold_k_tests_the_kth_speaker(cache, put_corpus):
    put_corpus(cache, corpus(speakers=11))
    folds = folds_of(cache, "loso-speaker")
    assert [sorted(folds[k]["test"])[0].split("_")[0] for k in range(1, 12)] == [f"s{k}" for k in range(1, 12)]
    everything = {u.utterance_id for u in corpus(speakers=11)}
    assert all(of["train"] | of["test"] == everything and not of["train"] & of["test"] for of in folds.values())
    assert all("val" not in of for of in folds.values())  # never invented


@pytest.mark.few(1)
@pytest.mark.parametrize("spec", ["loso-speaker", "group-kfold:3", "random-kfold:4", "loso-session"])
def test_next_group_is_cyclic(cache, put_corpus, spec):
    put_corpus(cache, corpus(speakers=7))
    folds = folds_of(cache, f"{spec}/next-group")
    n = len(folds)
    assert n >= 3
    everything = {u.utterance_id for u in corpus(speakers=7)}
    for k, of in folds.items():
        assert of["val"] == folds[k % n + 1]["test"]
        assert of["train"] | of["val"] | of["test"] == everything
        assert sum(map(len, of.values())) == len(everything)


@pytest.mark.slow
def test_next_group_needs_three_folds(cache, put_corpus):
    put_corpus(cache, corpus(speakers=2))
    with pytest.raises(TfserError, match="next-group validation needs three folds, there are 2"):
        ensure_protocol(cache, "toy", "loso-speaker/next-group")


@pytest.mark.slow
def test_official_split(cache, put_corpus):
    splits = ["train", "train", "val", "test", None, "mine"]
    rows_ = [replace(u, split=splits[i % 6]) for i, u in enumerate(corpus())]
    put_corpus(cache, rows_)
    folds = folds_of(cache, "official-split")
    assert list(folds) == [1]
    assert {role: len(of) for role, of in folds[1].items()} == {"train": 8, "val": 4, "test": 4}
    assert about(cache, "official-split")["validation"] == "split"
    put_corpus(cache, [u for u in rows_ if u.split != "val"])
    assert {role: len(of) for role, of in folds_of(cache, "official-split")[1].items()} == {"train": 8, "test": 4}
    put_corpus(cache, [u for u in rows_ if u.split != "test"])
    with pytest.raises(TfserError, match="the column split must say train and test; it says None, mine, train, val"):
        ensure_protocol(cache, "toy", "official-split")


@pytest.mark.slow
def test_random_kfold(cache, put_corpus):
    put_corpus(cache, corpus())
    folds = folds_of(cache, "random-kfold:5")
    assert sorted(len(of["test"]) for of in folds.values()) == [4, 5, 5, 5, 5]
    assert len(set().union(*(of["test"] for of in folds.values()))) == 24
    with pytest.raises(TfserError, match="24 utterances cannot fill 1000 folds"):
        ensure_protocol(cache, "toy", "random-kfold:1000")


def test_null_speakers_are_in_no_fold(cache, put_corpus):
    put_corpus(cache, [replace(u, speaker=None if u.speaker == "s3" else u.speaker) for u in corpus()])
    folds = folds_of(cache, "loso-speaker")
    assert len(folds) == 3
    assert not any(name.startswith("s3") for of in folds.values() for role in of.values() for name in role)


@pytest.mark.slow
def test_too_few_groups(cache, put_corpus):
    put_corpus(cache, corpus(speakers=1))
    with pytest.raises(TfserError, match="the column speaker has s1; at least two groups are needed"):
        ensure_protocol(cache, "toy", "loso-speaker")
    put_corpus(cache, corpus(speakers=3))
    with pytest.raises(TfserError, match="3 groups cannot fill 5 folds; ask for at most 3"):
        ensure_protocol(cache, "toy", "group-kfold:5")


@pytest.mark.slow
def test_labels(cache, put_corpus):
    put_corpus(cache, corpus(labels=("neutral", "anger", "undecided")))
    assert about(cache, "loso-speaker")["classes"] == ["anger", "neutral"]  # who could not agree named no emotion
    mapped = about(cache, "loso-speaker@neg:anger+sadness,neutral,fear")
    assert mapped["classes"] == ["neg", "neutral", "fear"]  # as asked; the audit says that fear is missing
    with pytest.raises(TfserError, match=r"has none of its labels \(fear, joyous\); it has anger, neutral, undecided"):
        ensure_protocol(cache, "toy", "loso-speaker@fear,joyous")


def test_one_class_is_no_task(cache, put_corpus):
    put_corpus(cache, corpus(labels=("neutral", "undecided")), default_protocol="loso-speaker")
    with open_catalogue(cache) as connection:  # none can be made, and nothing breaks
        assert rows(connection, "FROM protocols") == []
        assert rows(connection, "SELECT count(*) AS n FROM utterances") == [{"n": 24}]
    with pytest.raises(TfserError, match=r"corpus toy has one class only \(neutral\); at least two are needed"):
        ensure_protocol(cache, "toy", "loso-speaker")


@pytest.mark.slow
def test_named_protocols_are_for_their_corpora(cache, put_corpus):
    put_corpus(cache, corpus())
    with pytest.raises(UsageError, match="emodb7-speaker is for emodb, not for toy"):
        ensure_protocol(cache, "toy", "emodb7-speaker")
    put_corpus(cache, corpus(), corpus="second-copy", adapter="emodb")
    assert ensure_protocol(cache, "second-copy", "emodb7-speaker")  # whatever its name in the cache
    with pytest.raises(UsageError, match="unknown corpus 'tony'; did you mean 'toy'"):
        ensure_protocol(cache, "tony", "loso-speaker")


SPECS = ("loso-speaker", "loso-speaker/next-group", "group-kfold:2", "random-kfold:3", "loso-speaker@anger,neutral")


def test_hashes_are_stable(cache, put_corpus, installed):
    put_corpus(cache, corpus())

    def hashes() -> dict[str, str]:
        found = rows(installed("toy", *SPECS), "SELECT protocol, hash FROM protocols")
        return {row["protocol"]: row["hash"] for row in found}

    before = hashes()
    assert len(set(before.values())) == len(before) == len(SPECS)  # validation is part of the split, too
    shuffled = corpus()
    random.Random(1).shuffle(shuffled)
    put_corpus(cache, shuffled)
    assert hashes() == before
    stored = about(cache, "loso-speaker")["hash"]  # the same in a file, and in one that is built anew
    cache.catalogue.unlink()
    assert stored == about(cache, "loso-speaker")["hash"] == before["loso-speaker"]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "change",
    [
        lambda u: replace(u, label="neutral" if u.label == "anger" else "anger"),
        lambda u: replace(u, speaker="s4"),
        lambda u: replace(u, utterance_id="other"),
    ],
)
def test_hashes_change_with_any_row(cache, put_corpus, change):
    put_corpus(cache, corpus())
    before = about(cache, "loso-speaker")["hash"]
    first, *rest = corpus()
    put_corpus(cache, [change(first), *rest])
    assert about(cache, "loso-speaker")["hash"] != before


@pytest.mark.slow
def test_protocols_asked_for_are_kept(cache, put_corpus):
    put_corpus(cache, corpus())
    spec = ensure_protocol(cache, "toy", "group-kfold:2@anger,o'brien:neutral")
    cache.catalogue.unlink()
    assert about(cache, spec)["folds"] == 2
    put_corpus(cache, corpus(speakers=1))  # it no longer fits: the cache still opens, and asking says why
    with open_catalogue(cache) as connection:
        assert rows(connection, "FROM protocols") == []
    with pytest.raises(TfserError, match="at least two groups"):
        ensure_protocol(cache, "toy", spec)
