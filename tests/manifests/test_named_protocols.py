"""The named protocols: counts on corpora made to the published sizes, and hashes that no machine changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import UsageError
from tfser.manifests.labels import LABEL_MAPS, LABELS, NO_EMOTION, normalise
from tfser.manifests.protocols.known import PROTOCOLS
from tfser.manifests.utterances import Utterance

IEMOCAP_LABELS = {"ang": "anger", "hap": "happiness", "exc": "excitement", "neu": "neutral", "sad": "sadness"}


def turn(name: str, label: str) -> Utterance:
    session, speaker = name[:5], name.rsplit("_", 1)[1][0]
    return Utterance(
        utterance_id=name,
        path=f"{name}.wav",
        speaker=session + speaker,
        session=session,
        dialogue=name.rsplit("_", 1)[0],
        scenario="improvised" if "impro" in name else "scripted",
        label=label,
    )


def counts(connection, spec: str) -> dict[str, int]:
    found = rows(connection, "SELECT label, count(*) AS n FROM assignments WHERE protocol = ? GROUP BY 1", [spec])
    return {row["label"]: row["n"] for row in found}


@pytest.mark.slow
def test_iemocap(shared: Path, cache, put_corpus, installed) -> None:
    """The real ids; of frustration, which the listing lacks, as many as the corpus has."""
    lines = (shared / "metadata" / "iemocap_utterances.tsv").read_text(encoding="utf-8").splitlines()[1:]
    turns = [turn(name, IEMOCAP_LABELS[label]) for name, label, *_ in (line.split("\t") for line in lines)]
    made_up = [turn(f"Ses0{1 + i % 5}F_impro99_{'FM'[i % 2]}{i:04d}", "frustration") for i in range(1849)]
    put_corpus(cache, turns + made_up, corpus="iemocap", adapter="iemocap")
    four = {"anger": 1103, "happiness": 1636, "neutral": 1708, "sadness": 1084}
    expected = {
        "iemocap4": four,
        "iemocap4-improvised": {"anger": 289, "happiness": 284, "neutral": 1099, "sadness": 608},
        "iemocap5": {**four, "frustration": 1849},
        "iemocap5-excitement": {**four, "happiness": 595, "excitement": 1041},
        "iemocap6": {**four, "happiness": 595, "excitement": 1041, "frustration": 1849},
    }
    names = [f"{name}-{by}" for name in expected for by in ("session", "speaker")]
    assert set(names) == {name for name in PROTOCOLS if name.startswith("iemocap")}
    catalogue = installed("iemocap", *names)
    for name, of in expected.items():
        for by, folds in (("session", 5), ("speaker", 10)):
            spec = f"{name}-{by}"
            assert counts(catalogue, spec) == of, spec
            (about,) = rows(catalogue, "SELECT * FROM protocols WHERE protocol = ?", [spec])
            assert (about["folds"], set(about["classes"])) == (folds, set(of)), spec
    sessions = rows(
        catalogue,
        "SELECT fold, count(*) AS n FROM folds WHERE protocol = 'iemocap4-session' AND role = 'test' GROUP BY 1 ORDER BY 1",
    )
    assert [row["n"] for row in sessions] == [1085, 1023, 1151, 1031, 1241]
    partners = rows(
        catalogue,
        "SELECT fold, count(DISTINCT speaker) AS n FROM fold_utterances WHERE protocol = 'iemocap4-improvised-speaker' "
        "AND role = 'test' GROUP BY 1",
    )
    assert [row["n"] for row in partners] == [1] * 10


def simple(name: str, speakers: int, each: int, labels: tuple[str, ...]) -> list[Utterance]:
    return [
        Utterance(utterance_id=f"{s}-{i}", path=f"{s}-{i}.wav", speaker=f"{s:02d}", label=labels[i % len(labels)])
        for s in range(1, speakers + 1)
        for i in range(each)
    ]


def test_casia_and_crema_d(cache, put_corpus, installed) -> None:
    six = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")
    put_corpus(cache, simple("casia", 4, 30, six), corpus="casia", adapter="casia")
    crema = simple("crema_d", 91, 12, ("anger", "disgust", "fear", "happiness", "neutral", "sadness"))
    put_corpus(cache, crema, corpus="crema", adapter="crema_d")
    assert counts(installed("casia", "casia6-speaker"), "casia6-speaker") == dict.fromkeys(six, 20)
    found = rows(
        installed("crema", "crema_d6-group5"),
        "SELECT fold, count(DISTINCT speaker) AS speakers FROM fold_utterances WHERE role = 'test' GROUP BY 1 ORDER BY 1",
    )
    assert [row["speakers"] for row in found] == [19, 18, 18, 18, 18]


def test_ravdess_takes_speech_only(cache, put_corpus, installed) -> None:
    labels = ("anger", "calm", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    spoken = simple("ravdess", 3, 16, labels)
    put_corpus(
        cache,
        [replace(u, extra={"vocal_channel": "speech" if i % 4 else "song"}) for i, u in enumerate(spoken)],
        corpus="ravdess",
        adapter="ravdess",
    )
    assert sum(counts(installed("ravdess", "ravdess8-speaker"), "ravdess8-speaker").values()) == 36
    put_corpus(cache, spoken, corpus="ravdess", adapter="ravdess")  # a copy that does not say what is sung
    with pytest.raises(UsageError, match=r"unknown column of utterances, of protocol ravdess8-speaker.*'vocal_channel'"):
        ensure_protocol(cache, "ravdess", "ravdess8-speaker")
    with open_catalogue(cache) as connection:  # and everything else still works
        assert {r["protocol"] for r in rows(connection, "FROM protocols")} == {"loso-speaker"}


def test_meld(cache, put_corpus, installed) -> None:
    labels = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    turns = [
        Utterance(
            utterance_id=f"{split}_dia{d}_utt{i}",
            path=f"{split}{d}{i}.mp4",
            speaker=("Ross", "Joey")[i % 2],
            dialogue=f"{split}_dia{d}",
            split=split,
            label=labels[i % 7],
            extra={"sentiment": ("negative", "neutral", "positive")[i % 3]},
        )
        for split in ("train", "val", "test")
        for d in range(3)
        for i in range(14)
    ]
    put_corpus(cache, turns, corpus="meld", adapter="meld")
    catalogue = installed("meld", "meld7-official", "meld3-official")
    assert counts(catalogue, "meld7-official") == dict.fromkeys(labels, 18)
    assert counts(catalogue, "meld3-official") == {"negative": 45, "neutral": 45, "positive": 36}
    found = rows(catalogue, "SELECT role, validation, count(*) AS n FROM folds WHERE protocol = 'meld3-official' GROUP BY ALL")
    assert {(r["role"], r["validation"], r["n"]) for r in found} == {(role, "split", 42) for role in ("train", "val", "test")}


def test_every_protocol_says_what_it_is() -> None:
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name and len(name) + len(protocol.summary) < 92, name
        assert set(protocol.labels or {}) <= set(LABELS) | {"negative", "positive"}, name
        assert not set(protocol.labels or {}) & NO_EMOTION
        assert protocol.keeps_apart or "leak" in protocol.summary or protocol.grouped_by == "split", name


def test_label_maps() -> None:
    for name, labels in LABEL_MAPS.items():
        assert all(normalise(label) == label and label in LABELS for label in labels), name
        assert len(set(labels.values())) == int(name[-1])
    high, low = (sorted(k for k, v in LABEL_MAPS["arousal2"].items() if v == side) for side in ("high", "low"))
    assert {"anger", "fear", "happiness", "surprise"} <= set(high)
    assert {"boredom", "disgust", "neutral", "sadness"} <= set(low)
    for label, quadrant in LABEL_MAPS["quadrants4"].items():
        assert quadrant == f"{LABEL_MAPS['arousal2'][label]}-{LABEL_MAPS['valence2'][label]}"


PINNED = {
    "cross:two:one@arousal2": "c88a510cdab5d472",
    "group-kfold:2:session": "47e9d2317bbcf2df",
    "group-kfold:3": "46cd9c11eb3f9bcf",
    "group-kfold:3/random-leaky:0.15": "a179069f5aaa88f4",
    "loco:one,two/speakers:1": "a5c3d3ba74871c68",
    "loco:one,two@quadrants4/random-leaky:0.2": "f1e4a4a13cdf29a7",
    "loso-session": "d2a0bd8bb6b034bc",
    "loso-speaker": "13f9c68a1f7514b9",
    "loso-speaker/speakers:2": "7cea05281adc5a0d",
    "loso-speaker@common4/next-group": "20179d0d79c13fc9",
    "mine.c37eec20": "70cb588a6839af33",
    "official-split": "0420681388f1f358",
    "random-kfold:4": "431028ee3ffa624c",
}
SCRIPT = Path(__file__).with_name("hashes.py")


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", pytest.param("4242", marks=pytest.mark.slow)])
def test_hashes_are_the_same_everywhere(tmp_path: Path, seed: str) -> None:
    """Whatever Python's own hashes, the locale and the folder are."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C" if seed == "0" else "C.UTF-8", "TZ": "Asia/Tokyo"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == PINNED
    assert max(Counter(found.values()).values()) == 1
