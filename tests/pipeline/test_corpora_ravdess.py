"""RAVDESS's reader: speech and song told apart, no performance counted twice, and what copies do to the folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora.ravdess import BOTH, READER, SONG, SPEECH, read


def performances(channel: str, actors: Iterable[int] = range(1, 25)) -> Iterator[tuple[str, str]]:
    """Yield actor and name, without the modality, of all performances of speech (01) or song (02)."""
    emotions = range(1, 9) if channel == "01" else range(1, 7)
    for actor, emotion, intensity, statement, repetition in product(actors, emotions, (1, 2), (1, 2), (1, 2)):
        if (emotion, intensity) != (1, 2) and (channel, actor) != ("02", 18):  # neutral is never strong; actor 18 does not sing
            yield f"{actor:02d}", f"{channel}-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"


def lay_out(root: Path, names: Iterable[str], wav: Path) -> Path:
    """Link one file under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(wav, root / name)
    return root


@pytest.fixture(scope="module")
def wav(tmp_path_factory, write_wav) -> Path:
    return write_wav(tmp_path_factory.mktemp("ravdess") / "one.wav", 0.05)


@pytest.fixture(scope="module")
def speech() -> list[str]:
    return [f"Actor_{actor}/03-{name}.wav" for actor, name in performances("01")]


@pytest.fixture(scope="module")
def song() -> list[str]:
    return [f"Actor_{actor}/03-{name}.wav" for actor, name in performances("02")]


def test_counts(tmp_path, wav, speech, song):
    reading = read(lay_out(tmp_path, speech + song, wav), {})
    channels = Counter(u.extra["vocal_channel"] for u in reading.utterances)
    assert channels == {"speech": 1440, "song": 1012}
    assert (reading.skipped, reading.notes) == ([], [])
    assert reading.expected is BOTH and BOTH.differences(reading.utterances) is None
    assert Counter(u.gender for u in reading.utterances) == {"M": 1248, "F": 1204}
    assert all((u.gender == "M") == (int(u.speaker) % 2 == 1) for u in reading.utterances)
    assert {u.label for u in reading.utterances if u.extra["vocal_channel"] == "song"} == {
        *("neutral", "calm", "happiness", "sadness", "anger", "fear")
    }


@pytest.mark.parametrize(("which", "expected"), [("speech", SPEECH), ("song", SONG)])
def test_one_archive_alone(tmp_path, wav, request, which, expected):
    reading = read(lay_out(tmp_path, request.getfixturevalue(which), wav), {})
    assert reading.expected is expected and expected.differences(reading.utterances) is None
    assert {u.extra["vocal_channel"] for u in reading.utterances} == {which}


def test_columns(tmp_path, wav):
    lay_out(tmp_path, ["audio_speech_actors_01-24/Actor_12/03-01-06-02-01-02-12.wav"], wav)
    (u,) = read(tmp_path, {}).utterances
    assert (u.utterance_id, u.speaker, u.gender, u.sentence) == ("03-01-06-02-01-02-12", "12", "F", "01")
    assert (u.label, u.raw_label, u.transcript) == ("fear", "fearful", "Kids are talking by the door")
    assert dict(u.extra) == {"vocal_channel": "speech", "modality": "audio-only", "intensity": "strong", "repetition": 2}


def test_a_performance_in_three_modalities_is_one_utterance(tmp_path, wav):
    spoken = [name for _, name in performances("01", (1,))]
    names = [f"Actor_01/03-{name}.wav" for name in spoken[:-2]]
    names += [f"Video_Speech_Actor_01/Actor_01/{modality}-{name}.mp4" for modality in ("01", "02") for name in spoken[:-1]]
    names.append(f"Video_Speech_Actor_01/Actor_01/02-{spoken[-1]}.mp4")
    reading = read(lay_out(tmp_path, names, wav), {})
    assert Counter(u.extra["modality"] for u in reading.utterances) == {"audio-only": 58, "audio-video": 1}
    assert reading.skipped == [
        (f"02-{spoken[-1]}", f"Video_Speech_Actor_01/Actor_01/02-{spoken[-1]}.mp4", "it has no sound: modality 02")
    ]
    assert reading.notes == [
        "58 audio-video and 59 video-only files are of performances that are read from another file; each is counted once"
    ]


def test_the_copy_inside_the_copy(tmp_path, wav, speech):
    names = speech[:60] + [f"audio_speech_actors_01-24/{name}" for name in speech[:60]]
    reading = read(lay_out(tmp_path, names, wav), {})
    assert [u.path for u in reading.utterances] == speech[:60]
    assert len(reading.skipped) == 60
    assert reading.skipped[0][2] == f"the same utterance as {speech[0]}"


def test_conversions_and_foreign_files(tmp_path, wav):
    good = "03-01-05-01-02-01-01"
    names = [f"a/{good}.wav", f"a/{good}.flac", f"b/01-{good[3:]}.mp4", f"b/01-{good[3:]}.wav", f"a/._{good}.wav", "a/intro.wav"]
    names += ["a/03-01-09-01-02-01-01.wav", "a/03-03-05-01-02-01-01.wav", "a/03-01-05-01-02-01-25.wav", "a/03-01-05-01-02-01.wav"]
    reading = read(lay_out(tmp_path, names, wav), {})
    assert [u.path for u in reading.utterances] == [f"a/{good}.flac"]
    assert Counter(reason.split(",")[0] for _, _, reason in reading.skipped) == {
        "the name is not seven fields of two digits": 5,
        f"the same utterance as a/{good}.flac": 1,
    }
    assert reading.notes[0].startswith("2 audio-video files are of performances")


def test_no_ravdess(tmp_path, write_wav):
    write_wav(tmp_path / "hello.wav", 0.1)
    with pytest.raises(TfserError, match=r"does not look like ravdess: .*Expected: ROOT/Actor_01"):
        read(tmp_path, {})
    write_wav(tmp_path / "02-01-05-01-02-01-01.wav", 0.1)
    with pytest.raises(TfserError, match="does not look like ravdess"):
        read(tmp_path, {})


def test_the_whole_line(tmp_path, cache, write_wav, write_video, whole_line):
    spoken = [(actor, name) for actor, name in performances("01", (1, 2, 3)) if name[6:14] == "01-01-01"]
    sung = [(actor, name) for actor, name in performances("02", (1, 2, 3)) if name[6:14] == "01-01-01"]
    for seed, (actor, name) in enumerate(spoken + sung):
        write_wav(tmp_path / f"Actor_{actor}" / f"03-{name}.wav", 0.05, seed)
    first = tmp_path / f"Actor_{spoken[0][0]}" / f"03-{spoken[0][1]}.wav"
    first.unlink()
    write_video(first.with_name(f"01-{spoken[0][1]}.mp4"), 0.1 * np.random.default_rng(99).standard_normal((2, 4800)), rate=48000)
    findings = whole_line(cache, READER, tmp_path)
    assert not [f for f in findings if f.level == "error"]
    with open_catalogue(cache) as connection:
        counts = rows(connection, "SELECT vocal_channel, count(*) AS n FROM utterances GROUP BY 1 ORDER BY 1")
        taking_part = rows(connection, "SELECT count(*) AS n FROM assignments WHERE protocol = ?", [READER.default_protocol])
    assert counts == [{"vocal_channel": "song", "n": 18}, {"vocal_channel": "speech", "n": 24}]
    assert taking_part == [{"n": 24}]
