"""Who validates: each policy, what it takes from the training side, and that nothing but the rows decides it."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.validation import canonical_policy
from tfser.manifests.utterances import Utterance


def corpus(speakers: int = 6, each: int = 7) -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"s{s}_{i}.wav",
            speaker=f"s{s}",
            session=f"S{(s + 1) // 2}",
            label=("anger", "neutral")[i % 2],
            split=("train", "train", "test")[s % 3],
        )
        for s in range(1, speakers + 1)
        for i in range(each)
    ]


def folds_of(connection, spec: str) -> dict[int, dict[str, set[str]]]:
    found: dict[int, dict[str, set[str]]] = defaultdict(lambda: {"train": set(), "val": set(), "test": set()})
    for row in rows(connection, "SELECT * FROM folds WHERE protocol = ?", [spec]):
        found[row["fold"]][row["role"]].add(row["utterance_id"])
    return dict(found)


def speakers(ids: set[str]) -> set[str]:
    return {name.split("_")[0] for name in ids}


@given(st.integers(1, 10**6 - 1), st.integers(0, 3), st.from_regex(r"[0-9]{0,5}[1-9]", fullmatch=True), st.integers(0, 3))
def test_policies_have_one_spelling(n, zeros, digits, more):
    assert canonical_policy("speakers:" + "0" * min(zeros, 6 - len(str(n))) + str(n)) == f"speakers:{n}"
    for text in (f"random-leaky:.{digits}", f"random-leaky:0.{digits}{'0' * more}"):
        assert canonical_policy(text) == f"random-leaky:0.{digits}"
        assert canonical_policy(canonical_policy(text)) == canonical_policy(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("speakers", "say how many speakers"),
        ("speakers:0", "say how many speakers"),
        ("speakers:-1", "say how many speakers"),
        ("speakers:²", "say how many speakers"),
        ("random-leaky:0", "between 0 and 1"),
        ("random-leaky:0.0", "between 0 and 1"),
        ("random-leaky:1", "between 0 and 1"),
        ("random-leaky:1.5", "between 0 and 1"),
        ("random:0.2", "call it random-leaky:0.2"),
        ("random", "call it random-leaky:0.1"),
        ("speaker:1", "did you mean 'speakers:N'"),
        ("split", "unknown validation policy 'split'"),
        ("", "unknown validation policy ''"),
    ],
)
def test_bad_policies(text, error):
    with pytest.raises(UsageError, match=error):
        canonical_policy(text)


BASES = ("loso-speaker", "group-kfold:3", "loso-session", "official-split")


def test_held_out_speakers(cache, put_corpus, installed):
    put_corpus(cache, corpus())
    catalogue = installed("toy", *BASES, *(f"{base}/speakers:{n}" for base in BASES for n in (1, 2)))
    for base, n in ((base, n) for base in BASES for n in (1, 2)):
        plain, held = folds_of(catalogue, base), folds_of(catalogue, f"{base}/speakers:{n}")
        assert held and set(plain) == set(held)
        for k, of in held.items():
            assert of["test"] == plain[k]["test"]  # who is tested is the protocol's matter
            assert of["train"] | of["val"] == plain[k]["train"]
            assert len(speakers(of["val"])) == n
            assert not speakers(of["val"]) & (speakers(of["train"]) | speakers(of["test"]))
            ranked = sorted(speakers(plain[k]["train"]), key=lambda s: hashlib.md5(f"{k}\t{s}".encode()).hexdigest())
            assert speakers(of["val"]) == set(ranked[:n])  # as the module says


@pytest.mark.slow
def test_random_utterances(cache, put_corpus, installed):
    bases = ("loso-speaker", "random-kfold:4", "official-split")
    put_corpus(cache, corpus())
    catalogue = installed("toy", *bases, *(f"{base}/random-leaky:0.15" for base in bases))
    for base in bases:
        plain, held = folds_of(catalogue, base), folds_of(catalogue, f"{base}/random-leaky:0.15")
        may = {u.utterance_id for u in corpus() if base != "official-split" or u.split == "train"}
        chosen = set(sorted(may, key=lambda i: hashlib.md5(i.encode()).hexdigest())[: -(-len(may) * 15 // 100)])
        for k, of in held.items():
            assert of["test"] == plain[k]["test"]
            assert of["val"] == plain[k]["train"] & chosen
            assert of["train"] == plain[k]["train"] - chosen
        assert any(speakers(of["val"]) & speakers(of["train"]) for of in held.values())  # so the name


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("spec", "leaks"),
    [
        ("loso-speaker/random-leaky:0.3", True),
        ("loso-speaker/speakers:2", False),
        ("loso-session/next-group", False),
        ("random-kfold:3/next-group", True),
        ("loso-speaker", False),
    ],
)
def test_the_audit_warns_of_voices_that_training_knows(cache, put_corpus, installed, spec, leaks):
    put_corpus(cache, corpus())
    audits = [a for a in packaged_audits() if a.name in ("validation_speakers", "utterance_in_two", "utterance_in_no_fold")]
    findings = run_audits(installed("toy", spec), protocol=spec, corpus="toy", audits=audits)
    assert {f.audit: f.level for f in findings if f.level != "ok"} == ({"validation_speakers": "warning"} if leaks else {})


def test_a_class_that_only_the_held_out_speaker_has_is_missing_in_training(cache, put_corpus, installed):
    spec = "loso-speaker@anger,neutral,fear/speakers:1"
    put_corpus(cache, corpus())
    (held,) = speakers(folds_of(installed("toy", spec), spec)[2]["val"])
    put_corpus(cache, [replace(u, label="fear") if u.speaker == held and u.label == "anger" else u for u in corpus()])
    audits = [a for a in packaged_audits() if a.name == "class_missing"]
    missing = run_audits(installed("toy", spec), protocol=spec, corpus="toy", examples=20, audits=audits)
    assert ("error", {"role": "train", "class": "fear"}) in [(f.level, e) for f in missing if f.fold == 2 for e in f.examples]


@pytest.mark.parametrize(
    ("change", "spec", "error"),
    [
        (lambda u: u, "loso-speaker/speakers:5", r"fold 1 trains on 5 speakers that it does not test"),
        (lambda u: u, "random-kfold:3/speakers:1", r"fold 1 trains on 0 speakers that it does not test"),
        (lambda u: replace(u, speaker=None), "loso-session/speakers:1", r"42 utterances name no speaker \(s1_0\)"),
        (lambda u: replace(u, split="val" if u.speaker == "s1" else u.split), "official-split/speakers:1", "own val"),
        (lambda u: replace(u, split="val" if u.speaker == "s1" else u.split), "official-split/random-leaky:.1", "own val"),
    ],
)
def test_too_little_to_hold_out(cache, put_corpus, installed, change, spec, error):
    put_corpus(cache, [change(u) for u in corpus()])
    with pytest.raises(TfserError, match=error):
        installed("toy", spec)


def hashes(connection, specs: list[str]) -> list[Any]:
    found = {row["protocol"]: row["hash"] for row in rows(connection, "SELECT protocol, hash FROM protocols")}
    return [found[spec] for spec in specs]


@pytest.mark.slow
def test_hashes_cover_who_validates(cache, put_corpus, installed):
    specs = [f"loso-session{p}" for p in ("", "/speakers:1", "/speakers:2", "/random-leaky:0.1", "/next-group")]
    put_corpus(cache, corpus())
    before = hashes(installed("toy", *specs), specs)
    assert len(set(before)) == len(specs)
    shuffled = corpus()
    random.Random(3).shuffle(shuffled)
    put_corpus(cache, shuffled)
    assert hashes(installed("toy", *specs), specs) == before
    swapped = {"s1": "s2", "s2": "s1"}  # within a session: only who is held out changes
    put_corpus(cache, [replace(u, speaker=swapped.get(u.speaker or "", u.speaker)) for u in corpus()])
    after = hashes(installed("toy", *specs), specs)
    assert after[0] == before[0] and after[1] != before[1] and after[3:] == before[3:]


def test_other_rows_do_not_change_the_choice(cache, put_corpus, installed):
    """A speaker more in the corpus leaves a fold's held-out speaker, unless the new one comes first."""
    spec = "loso-speaker/speakers:1"
    put_corpus(cache, corpus())
    before = folds_of(installed("toy", spec), spec)
    put_corpus(cache, corpus(speakers=7))
    after = folds_of(installed("toy", spec), spec)
    assert all(speakers(after[k]["val"]) in (speakers(before[k]["val"]), {"s7"}) for k in before)


def test_one_row_an_utterance_is_stored(cache, put_corpus, installed):
    put_corpus(cache, corpus())
    specs = ("loso-speaker/speakers:1", "loso-speaker/random-leaky:0.2")
    catalogue = installed("toy", *specs)
    for spec in specs:
        assert rows(catalogue, "SELECT count(*) AS n FROM assignments WHERE protocol = ?", [spec]) == [{"n": 42}]
        assert rows(catalogue, "SELECT count(*) AS n FROM held_out WHERE protocol = ?", [spec]) == [{"n": 6}]


@pytest.mark.slow
def test_a_policy_survives_a_rebuild(cache, put_corpus):
    put_corpus(cache, corpus())
    spec = ensure_protocol(cache, "toy", "loso-speaker/speakers:01")
    cache.catalogue.unlink()
    with open_catalogue(cache) as connection:
        found = folds_of(connection, spec)
        assert rows(connection, "SELECT DISTINCT validation AS v FROM folds WHERE protocol = ?", [spec]) == [{"v": "speakers:1"}]
    assert all(len(speakers(of["val"])) == 1 for of in found.values())
