"""CASIA's reader: the part of 1,200, the whole of 9,600, and the ways in which copies name the files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora.casia import EMOTIONS, GENDERS, READER, WHOLE, read

SPEAKERS = ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")
WORDS = ("angry", "fear", "happy", "neutral", "sad", "surprise")


def lay_out(root: Path, names: Iterable[str], wav: Path) -> Path:
    """Link one file under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(wav, root / name)
    return root


@pytest.fixture(scope="module")
def wav(tmp_path_factory, write_wav) -> Path:
    return write_wav(tmp_path_factory.mktemp("casia") / "one.wav", 0.05)


def part(pattern: str = "{speaker}/{emotion}/{number}.wav", numbers: Iterable[int] = range(201, 251)) -> list[str]:
    numbers = list(numbers)
    return [pattern.format(speaker=s, emotion=e, number=n) for s in SPEAKERS for e in WORDS for n in numbers]


def test_the_part_that_circulates(tmp_path, wav):
    reading = read(lay_out(tmp_path, part(), wav), {})
    assert len(reading.utterances) == 1200
    assert Counter(u.label for u in reading.utterances) == dict.fromkeys(EMOTIONS, 200)
    assert Counter(u.speaker for u in reading.utterances) == dict.fromkeys(GENDERS, 300)
    assert Counter(u.gender for u in reading.utterances) == {"F": 600, "M": 600}
    assert Counter(u.sentence for u in reading.utterances) == {str(n): 24 for n in range(201, 251)}
    assert (reading.skipped, reading.notes) == ([], [])
    assert READER.expected is not None and READER.expected.differences(reading.utterances) is None
    u = next(u for u in reading.utterances if u.path == "ZhaoZuoxiang/sad/201.wav")
    assert (u.utterance_id, u.speaker, u.gender, u.sentence, u.label, u.raw_label, dict(u.extra)) == (
        *("zhaozuoxiang_sad_201", "zhaozuoxiang", "M", "201", "sadness", "sad"),
        {"parallel": True},
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "{speaker}/{emotion}/{number}.wav",
        "CASIA database/{speaker}/{emotion}/{number}.WAV",
        "{emotion}/{number}-{emotion}-{speaker}.wav",
        "{emotion}/{speaker}_{number}.wav",
        "相同文本300/{speaker}/{emotion}/{number}.wav",
        "all/相同文本300_{speaker}_{emotion}_{number}.wav",
        "{speaker} - {emotion} - {number}.flac",
    ],
)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_variants_give_the_same_ids(tmp_path, wav, pattern, case):
    names = [case(name) for name in part(pattern, (201, 202))]
    reading = read(lay_out(tmp_path, names, wav), {})
    assert not reading.skipped
    assert {u.utterance_id for u in reading.utterances} == {
        f"{s.lower()}_{e}_{n}" for s in SPEAKERS for e in WORDS for n in (201, 202)
    }
    assert all(u.extra["parallel"] for u in reading.utterances)
    assert {u.sentence for u in reading.utterances} == {"201", "202"}


@pytest.mark.slow
def test_the_whole_corpus_with_its_two_kinds_of_sentences(tmp_path, wav):
    family_last = dict(zip(SPEAKERS, ("Chang.Liu", "Zhe.Wang", "Quanyin.Zhao", "Zuoxiang.Zhao"), strict=True))
    own = [
        f"不同文本100/{family_last[s]}/{'normal' if e == 'neutral' else e}/{n:03d}.wav"
        for s in SPEAKERS
        for e in WORDS
        for n in range(1, 101)
    ]
    names = part("相同文本300/{speaker}/{emotion}/{number}.wav", range(1, 301)) + own
    reading = read(lay_out(tmp_path, names, wav), {})
    assert len(reading.utterances) == 9600
    assert len({u.utterance_id for u in reading.utterances}) == 9600
    assert Counter((u.label, u.extra["parallel"]) for u in reading.utterances) == {
        (label, parallel): 1200 if parallel else 400 for label in EMOTIONS for parallel in (True, False)
    }
    assert {u.speaker for u in reading.utterances} == set(GENDERS)
    by_path = {u.path: u for u in reading.utterances}
    same, other = by_path["相同文本300/liuchanhg/neutral/1.wav"], by_path["不同文本100/Chang.Liu/normal/001.wav"]
    assert (same.utterance_id, same.sentence) == ("liuchanhg_neutral_001", "001")
    assert (other.utterance_id, other.sentence) == ("liuchanhg_neutral_own001", "neutral001")
    assert reading.expected is WHOLE and WHOLE.differences(reading.utterances) is None


def test_numbers_behind_the_parallel_ones(tmp_path, wav):
    reading = read(lay_out(tmp_path, ["wangzhe/fear/300.wav", "wangzhe/fear/301.wav"], wav), {})
    assert [(u.utterance_id, u.sentence) for u in reading.utterances] == [
        ("wangzhe_fear_300", "300"),
        ("wangzhe_fear_own301", "fear301"),
    ]


@pytest.mark.parametrize("inner", ["wangzhe", "wangzhe/angry"])
def test_a_part_as_the_root(tmp_path, wav, inner):
    lay_out(tmp_path, ["wangzhe/angry/201.wav", "wangzhe/angry/202.wav"], wav)
    assert [u.utterance_id for u in read(tmp_path / inner, {}).utterances] == ["wangzhe_angry_201", "wangzhe_angry_202"]


def test_files_that_are_none_of_it(tmp_path, wav):
    names = ["wangzhe/angry/201.wav", "copy/wangzhe/angry/201.wav", "wangzhe/201.wav", "somebody/angry/201.wav"]
    names += ["wangzhe/angry/intro.wav", "wangzhe/angry/201_2.wav", "wangzhe/angry/._201.wav"]
    reading = read(lay_out(tmp_path / "happy" / "x", names, wav), {})  # a folder above the root is nobody's emotion
    assert [(u.utterance_id, u.path) for u in reading.utterances] == [("wangzhe_angry_201", "copy/wangzhe/angry/201.wav")]
    assert {path: reason.split(",")[0] for _, path, reason in reading.skipped} == {
        "wangzhe/angry/201.wav": "the same utterance as copy/wangzhe/angry/201.wav",
        "wangzhe/201.wav": "neither the name nor a folder says its emotion",
        "somebody/angry/201.wav": "neither the name nor a folder says its speaker",
        "wangzhe/angry/intro.wav": "neither the name nor a folder says its number",
        "wangzhe/angry/201_2.wav": "neither the name nor a folder says its number",
    }


def test_no_casia(tmp_path, write_wav):
    write_wav(tmp_path / "hello.wav", 0.1)
    with pytest.raises(TfserError, match=r"does not look like casia: .*Expected: ROOT/liuchanhg/angry/201.wav"):
        read(tmp_path, {})


@pytest.mark.slow  # RAVDESS, CREMA-D and MELD go the same way in a fast test each
def test_the_whole_line(tmp_path, cache, write_wav, whole_line):
    for seed, name in enumerate(part(numbers=(201, 202))):
        write_wav(tmp_path / name, 0.05, seed)
    findings = whole_line(cache, READER, tmp_path)
    assert not [f for f in findings if f.level == "error"]
    assert "sentence_overlap" in {f.audit for f in findings if f.level == "info"}
