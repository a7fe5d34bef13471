"""Audits of what is in the sides: classes, lengths, levels, rates, flags, speakers, turns, counts, copies; planted or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.audits.run import Finding, packaged_audits, run_audits
from tfser.manifests.catalogue.near_duplicates import FINGERPRINTS, PAIRS, read_near_duplicates
from tfser.manifests.files import read_json, write_json, write_table
from tfser.manifests.utterances import Utterance

from ..conftest import memory_catalogue

AUDITS = {audit.name: audit for audit in packaged_audits()}
CLASSES = ("anger", "neutral", "sadness")


def corpus(n: int = 20) -> list[Utterance]:
    """Four speakers of n utterances, classes in turn."""
    return [
        Utterance(utterance_id=f"s{s}_{i:03d}", path=f"s{s}/{i}.wav", speaker=f"s{s}", dialogue=f"d{s}", label=CLASSES[i % 3])
        for s in range(1, 5)
        for i in range(n)
    ]


@pytest.fixture
def ask(cache, put_corpus, installed):
    """Return a function that audits a corpus with one audit: (audit, utterances, spec, columns to overwrite) -> findings."""

    def audit(
        name: str, utterances: list[Utterance], spec: str = "loso-speaker", *, columns: dict[str, list[Any]] | None = None
    ) -> list[Finding]:
        put_corpus(cache, utterances)
        path = cache.corpus("toy") / "utterances.parquet"
        table = pq.read_table(path)
        for column, values in (columns or {}).items():
            table = table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))
        write_table(path, table)
        found = run_audits(installed("toy", spec), protocol=spec, corpus="toy", audits=[AUDITS[name]])
        return [f for f in found if f.level != "ok"]

    return audit


@pytest.mark.slow
def test_collapsed_and_rare_classes(ask):
    assert ask("class_collapsed", corpus(40)) == []
    rare = [replace(u, label="anger" if u.utterance_id in ("s1_000", "s2_000") else "neutral") for u in corpus(40)]
    found = ask("class_collapsed", rare)
    assert {(f.fold, f.level) for f in found} == {(k, "warning") for k in (1, 2, 3, 4)} | {(1, "info"), (2, "info")}
    (third,) = [f for f in found if f.fold == 3]
    assert [(e["role"], e["class"], e["utterances"]) for e in third.examples] == [
        ("test", "neutral", 40),
        ("train", "anger", 2),
        ("train", "neutral", 118),
    ]


@pytest.mark.slow
def test_label_shift(ask):
    assert ask("label_shift", corpus(30)) == []
    shifted = [replace(u, label="anger") if u.speaker == "s1" and u.label == "neutral" else u for u in corpus(60)]
    (found,) = [f for f in ask("label_shift", shifted) if f.fold == 1]
    # s1: 40, 0, 20 of 60; the others 60, 60, 60 of 180
    assert (found.level, found.examples[0]) == (
        "warning",
        {
            "total_variation": 0.333,
            "cramers_v": pytest.approx(0.365, abs=1e-3),
            "class": "neutral",
            "share_in_test": 0.0,
            "share_in_train": 0.333,
        },
    )
    few = [replace(u, label="anger") if u.speaker == "s1" and u.label == "neutral" else u for u in corpus(6)]
    assert ask("label_shift", few) == []  # as large, but chance


def test_effect_sizes_agree_with_numpy(ask):
    rng = np.random.default_rng(3)
    labels = [CLASSES[int(rng.choice(3, p=[0.7, 0.2, 0.1] if u.speaker == "s2" else [0.2, 0.3, 0.5]))] for u in corpus(50)]
    rows = [replace(u, label=label) for u, label in zip(corpus(50), labels, strict=True)]
    (found,) = [f for f in ask("label_shift", rows) if f.fold == 2]
    counts = np.array([[sum(r.label == c and (r.speaker == "s2") == t for r in rows) for c in CLASSES] for t in (False, True)])
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    v = np.sqrt(((counts - expected) ** 2 / expected).sum() / counts.sum())
    variation = np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).sum() / 2
    assert found.examples[0]["cramers_v"] == pytest.approx(v, abs=1e-3)
    assert found.examples[0]["total_variation"] == pytest.approx(variation, abs=1e-3)


def nearest_mean_ua(rows: list[Utterance], x: np.ndarray) -> float:
    """What the .sql computes, in plain words."""
    hits: dict[str, list[bool]] = {}
    for speaker in sorted({r.speaker for r in rows}):
        train = [(r.label, v) for r, v in zip(rows, x, strict=True) if r.speaker != speaker]
        means = {c: np.mean([v for label, v in train if label == c]) for c in {label for label, _ in train}}
        for r, v in zip(rows, x, strict=True):
            if r.speaker == speaker:
                hits.setdefault(r.label, []).append(min(means, key=lambda c, v=v: abs(means[c] - v)) == r.label)
    return float(np.mean([np.mean(of) for of in hits.values()]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), [("duration_leak", "duration_s"), ("level_leak", "rms_db")])
def test_length_and_level_leaks(ask, name, column):
    rng = np.random.default_rng(0)
    rows = corpus(30)
    even = rng.uniform(1, 3, len(rows))
    assert ask(name, rows, columns={column: even.tolist()}) == []
    leaky = np.exp(rng.normal([CLASSES.index(r.label) * 0.5 for r in rows], 0.3))
    x = leaky if column == "duration_s" else 20 * np.log10(leaky)
    (found,) = ask(name, rows, columns={column: x.tolist()})
    ua = nearest_mean_ua(rows, np.log(x) if column == "duration_s" else x)
    shown = found.examples[0]
    assert (found.level, found.fold, shown["chance"], shown["test_utterances"]) == ("warning", None, 0.333, 120)
    assert shown["UA_from_length" if column == "duration_s" else "UA_from_level"] == pytest.approx(ua, abs=1e-3)
    assert ask(name, rows, columns={column: [None] * len(rows)}) == []
    assert ask(name, rows, columns={column: [2.0] * len(rows)}) == []
    nothing = float("-inf") if column == "rms_db" else 0.0  # silence, and no sound at all
    assert ask(name, rows, columns={column: [nothing] * len(rows)}) == []


def test_leaks_are_judged_on_the_test_side_of_an_official_split(ask):
    rows = [replace(u, split="test" if u.speaker == "s4" else "train") for u in corpus(30)]
    lengths = [1.0 + CLASSES.index(r.label) if r.split == "train" else 1.0 for r in rows]
    assert ask("duration_leak", rows, "official-split", columns={"duration_s": lengths}) == []  # of no use on the test side
    lengths = [1.0 + CLASSES.index(r.label) for r in rows]
    (found,) = ask("duration_leak", rows, "official-split", columns={"duration_s": lengths})
    assert (found.examples[0]["UA_from_length"], found.examples[0]["test_utterances"]) == (1.0, 30)


@pytest.mark.slow
def test_recording_conditions(ask):
    rows = corpus(30)
    rates = [16000 if i % 2 else 8000 for i in range(len(rows))]
    assert ask("recording_leak", rows, columns={"sample_rate": rates}) == []
    rates = [8000 if r.label == "anger" else 16000 for r in rows]
    (found,) = ask("recording_leak", rows, columns={"sample_rate": rates})
    assert (found.level, found.examples[0]) == ("warning", {"cramers_v": 0.996, "sample_rates": [8000, 16000]})
    rates = [8000 if r.label == "anger" and i % 4 == 0 else 16000 for i, r in enumerate(rows)]
    assert [f.level for f in ask("recording_leak", rows, columns={"sample_rate": rates})] == ["warning"]


@pytest.mark.slow
def test_flags_by_class(ask):
    rows = corpus(30)
    everywhere = [["clipped"] if i % 4 == 0 else [] for i in range(len(rows))]
    assert ask("flags_by_class", rows, columns={"flags": everywhere}) == []
    clipped = [["clipped", "long"] if r.label == "anger" and i % 2 else [] for i, r in enumerate(rows)]
    (found,) = ask("flags_by_class", rows, columns={"flags": clipped})
    assert (found.rows, {e["flag"] for e in found.examples}) == (2, {"clipped", "long"})
    assert found.examples[0] == {"flag": "clipped", "class": "anger", "utterances": 20, "share": 0.5, "share_elsewhere": 0.0}


@pytest.mark.slow
def test_speakers_of_one_class(ask):
    assert ask("speaker_confound", corpus(30)) == []
    own = {"s1": "anger", "s2": "anger", "s3": "neutral", "s4": "sadness"}
    (found,) = ask("speaker_confound", [replace(u, label=own[u.speaker or ""]) for u in corpus(30)])
    shown = found.examples[0]
    assert (found.level, shown["speakers_of_one_class"], shown["their_utterances"]) == ("warning", 4, 120)
    assert 0.95 < shown["uncertainty_removed"] <= 1
    few = [replace(u, speaker=f"p{i}") for i, u in enumerate(corpus(30))]  # a speaker an utterance says nothing
    assert ask("speaker_confound", few, "random-kfold:3") == []


@pytest.mark.slow
def test_neighbours(ask):
    rows = [replace(u, dialogue=f"d{i // 10}") for i, u in enumerate(corpus(20))]
    assert ask("neighbours_split", rows) == []  # dialogues of one speaker each
    talk = [replace(u, dialogue="d", utterance_id=f"{u.speaker}_{i}") for i, u in enumerate(corpus(2))]
    (first, *_) = found = ask("neighbours_split", talk)  # s1_0 s1_1 s2_2 s2_3 s3_4 ...: turns by number
    assert [(f.fold, f.level) for f in found] == [(k, "warning") for k in (1, 2, 3, 4)]
    assert first.examples == ({"test_utterances": 1, "share_of_test": 0.5, "example": "s1_1", "beside": "s2_2"},)
    assert found[1].examples[0]["test_utterances"] == 2
    timed = [replace(u, extra={"turn_start_s": float(-i)}) for i, u in enumerate(talk[:4])]  # told backwards
    backwards = ask("neighbours_split", timed, "random-kfold:2")
    assert all(f.examples[0]["beside"] in ("s1_0", "s1_1", "s2_2", "s2_3") for f in backwards)
    by_dialogue = [replace(u, dialogue=f"d{i % 4}") for i, u in enumerate(corpus(20))]
    assert ask("neighbours_split", by_dialogue, "group-kfold:2:dialogue") == []


def test_published_counts(cache, put_corpus, installed):
    put_corpus(cache, corpus(5))
    about = cache.corpus("toy") / "corpus.json"
    for published, expected in ((20, []), (21, [{"utterances": 20, "readable": 20, "published": 21}]), (None, [])):
        write_json(about, {**read_json(about), "expected": {"utterances": published}})
        found = run_audits(
            installed("toy", "loso-speaker"), protocol="loso-speaker", corpus="toy", audits=[AUDITS["published_counts"]]
        )
        assert [dict(e) for f in found for e in f.examples] == expected


def test_published_counts_are_of_what_can_be_read(cache, put_corpus, installed):
    rows = corpus(5)
    put_corpus(cache, rows, hashes={rows[0].utterance_id: None}, skipped=[(rows[1].utterance_id, "scan")])
    about = cache.corpus("toy") / "corpus.json"
    write_json(about, {**read_json(about), "expected": {"utterances": 20}})
    connection = installed("toy", "loso-speaker")
    connection.execute("INSERT INTO skipped VALUES ('toy', ?, NULL, 'scan', 'planted')", [rows[1].utterance_id])
    found = run_audits(connection, protocol="loso-speaker", corpus="toy", audits=[AUDITS["published_counts"]])
    assert [dict(e) for f in found for e in f.examples] == [{"utterances": 20, "readable": 18, "published": 20}]


def put_pairs(folder, hashes: list[str], pairs: list[tuple[str, str]]) -> None:
    write_table(folder / FINGERPRINTS, pa.table({"content_hash": hashes, "frames": [90] * len(hashes)}))
    rows = {
        "content_hash": [a for a, _ in pairs],
        "other_hash": [b for _, b in pairs],
        "similarity": [0.93] * len(pairs),
        "evidence": ["excerpt"] * len(pairs),
        "offset_s": [0.2] * len(pairs),
        "overlap_s": [1.5] * len(pairs),
    }
    write_table(folder / PAIRS, pa.table(rows))


def test_near_duplicates(cache, put_corpus, installed):
    rows = corpus(5)
    put_corpus(cache, rows)
    put_corpus(cache, rows, corpus="other", hashes={r.utterance_id: f"other {r.utterance_id}" for r in rows})
    hashes = [f"hash of {r.utterance_id}" for r in rows]
    pairs = [(hashes[0], hashes[1]), (hashes[0], hashes[5]), (hashes[2], "gone"), ("other s1_000", hashes[3])]
    put_pairs(cache.corpus("toy"), hashes[:-1], pairs)
    connection = installed("toy", "loso-speaker")
    read_near_duplicates(cache, connection, cache.corpora(), lambda corpus, path, error: pytest.fail(str(error)))
    assert connection.execute("SELECT count(*) FROM near_duplicates").fetchone() == (6,)  # both ways; what is gone is gone
    found = run_audits(
        connection,
        protocol="loso-speaker",
        corpus="toy",
        audits=[AUDITS["near_duplicates"], AUDITS["near_duplicates_unsearched"]],
    )
    copy = {"other_role": "train", "similarity": 0.93, "evidence": "excerpt"}
    assert [(f.fold, f.level, f.examples) for f in found] == [
        (1, "error", ({"test_utterance": "s1_000", "other_utterance": "s2_000", **copy},)),
        (2, "error", ({"test_utterance": "s2_000", "other_utterance": "s1_000", **copy},)),
        (None, "info", ({"utterances": 1, "example": "s4_004"},)),
    ]


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.integers(10, 900), min_size=18, max_size=36, unique=True), st.permutations(CLASSES))
def test_the_trivial_classifier_agrees_with_plain_words(hundredths, classes):
    """Whatever the lengths are, its UA is that of the same thing in plain words; every speaker has every class."""

    rows = [
        Utterance(utterance_id=f"u{i}", path="x", speaker=f"s{i % 3}", label=classes[i // 3 % 3]) for i in range(len(hundredths))
    ]
    lengths = np.array(hundredths) / 100
    with memory_catalogue() as connection:
        connection.execute("INSERT INTO corpora BY NAME SELECT 'toy' AS corpus")
        for row, x in zip(rows, lengths, strict=True):
            connection.execute(
                "INSERT INTO utterances BY NAME "
                "SELECT 'toy' AS corpus, ? AS utterance_id, ? AS speaker, ? AS label, ? AS duration_s",
                [row.utterance_id, row.speaker, row.label, float(x)],
            )
        connection.execute(
            "INSERT INTO protocols BY NAME "
            "SELECT 'p' AS protocol, 'toy' AS corpus, 'toy' AS corpora, 3 AS folds, 'none' AS validation"
        )
        connection.execute(
            "INSERT INTO assignments BY NAME SELECT 'p' AS protocol, corpus, utterance_id, label, "
            "speaker[2:]::INTEGER + 1 AS fold FROM utterances"
        )
        border = "gain >= 0.15"
        assert AUDITS["duration_leak"].query.count(border) == 1  # without it, whatever is found is shown
        text = AUDITS["duration_leak"].query.replace(border, "gain > -9")
        found = run_audits(
            connection, protocol="p", corpus="toy", audits=[replace(AUDITS["duration_leak"], query=text)], examples=1
        )
    (finding,) = found
    assert finding.examples[0]["UA_from_length"] == pytest.approx(nearest_mean_ua(rows, np.log(lengths)), abs=1e-3)
