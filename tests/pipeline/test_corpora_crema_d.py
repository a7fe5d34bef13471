"""CREMA-D's reader: all names, the crowd's votes, the actors, and the known bad files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora.crema_d import READER, SENTENCES, read
from tfser.pipeline.scanning.scan import ScanOptions, scan

ACTORS = range(1001, 1092)
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def all_names() -> list[str]:
    """Make up 7,442 names: each sentence in each emotion once, the first at three levels; some left out, as in the corpus."""
    names = []
    for actor in ACTORS:
        for sentence in SENTENCES:
            for emotion in EMOTIONS:
                levels = ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",)
                names += [f"{actor}_{sentence}_{emotion}_{level}" for level in levels]
    for emotion, surplus in (("NEU", 5), *((e, 3) for e in EMOTIONS if e != "NEU")):
        for name in [n for n in names if f"_{emotion}_" in n and "_WSI_" in n][:surplus]:
            names.remove(name)
    return names


def lay_out(root: Path, names: Iterable[str], wav: Path) -> Path:
    """Link one file under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(wav, root / name)
    return root


def write_demographics(root: Path, actors: Iterable[int] = ACTORS) -> None:
    """Write the actors' table: 48 men first, then women."""
    lines = ['"ActorID","Age","Sex","Race","Ethnicity"']
    lines += [f'{a},{20 + a % 40},"{"Male" if a < 1049 else "Female"}","Asian","Not Hispanic"' for a in actors]
    root.mkdir(parents=True, exist_ok=True)
    (root / "VideoDemographics.csv").write_text("\n".join(lines) + "\n")


def write_summary(folder: Path, rows: Iterable[str]) -> None:
    header = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summaryTable.csv").write_text("\n".join([header, *rows]) + "\n")


def write_votes(folder: Path, rows: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote","meanEmoResp"'
    (folder / "tabulatedVotes.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture(scope="module")
def wav(tmp_path_factory, write_wav) -> Path:
    return write_wav(tmp_path_factory.mktemp("crema") / "one.wav", 0.05)


def test_counts(tmp_path, wav):
    lay_out(tmp_path, (f"AudioWAV/{name}.wav" for name in all_names()), wav)
    write_demographics(tmp_path)
    reading = read(tmp_path, {})
    assert len(reading.utterances) == 7442
    assert Counter(u.label for u in reading.utterances) == {
        **dict.fromkeys(("anger", "disgust", "fear", "happiness", "sadness"), 1271),
        "neutral": 1087,
    }
    assert len({u.speaker for u in reading.utterances}) == 91
    assert Counter(gender for _, gender in {(u.speaker, u.gender) for u in reading.utterances}) == {"M": 48, "F": 43}
    assert len({u.sentence for u in reading.utterances}) == 12
    assert (reading.skipped, reading.notes) == ([], [])
    assert READER.expected is not None and READER.expected.differences(reading.utterances) is None


def test_columns_without_side_tables(tmp_path, wav):
    (u,) = read(lay_out(tmp_path, ["AudioWAV/1087_IWL_ANG_XX.wav"], wav), {}).utterances
    assert (u.utterance_id, u.speaker, u.gender, u.sentence) == ("1087_IWL_ANG_XX", "1087", None, "IWL")
    assert (u.label, u.raw_label, u.transcript) == ("anger", "ANG", "I would like a new alarm clock.")
    assert dict(u.extra) == {"level": "unspecified"}


@pytest.mark.parametrize("where", ["processedResults", "data/InfoAndStats/processedResults", "."])
def test_what_the_crowd_perceived(tmp_path, wav, where):
    lay_out(tmp_path, (f"AudioWAV/{name}.wav" for name in ("1001_IEO_ANG_MD", "1001_ITH_ANG_XX", "1002_DFA_SAD_XX")), wav)
    write_summary(
        tmp_path / where,
        [
            '"1","1001_IEO_ANG_MD","A:D","37.2:58.6","A","45.5","A","44.2"',
            '"2","1001_ITH_ANG_XX","A:D:N","39.00:89.00:83.67","S","80","D","29.8"',
            '"3","1091_WSI_SAD_XX","N","1","N","1","N","1"',
        ],
    )
    write_demographics(tmp_path, [1001])
    first, second, third = read(tmp_path, {}).utterances
    assert dict(first.extra) == {
        **{"level": "medium", "age": 21, "race": "Asian", "ethnicity": "Not Hispanic"},
        **{"crowd_voice": "anger:disgust", "crowd_voice_level": None},
        **{"crowd_face": "anger", "crowd_face_level": 45.5, "crowd_multimodal": "anger", "crowd_multimodal_level": 44.2},
    }
    assert (first.label, first.gender) == ("anger", "M")  # the intended one stays the label
    ways = ("crowd_voice", "crowd_face", "crowd_multimodal")
    assert [second.extra[way] for way in ways] == ["anger:disgust:neutral", "sadness", "disgust"]
    assert dict(third.extra) == {"level": "unspecified", "age": None, "race": None, "ethnicity": None}
    assert third.gender is None


def test_every_vote(tmp_path, wav):
    lay_out(tmp_path, ["AudioWAV/1001_IEO_ANG_MD.wav"], wav)
    votes = [
        '"100009",5,5,0,0,1,1,"1001_IEO_ANG_MD",12,0.416666666666667,"A:D",50.58',
        '"200009",1,0,0,8,0,1,"1001_IEO_ANG_MD",10,0.8,"H",50.58',
        '"300009",9,0,0,0,0,1,"1001_IEO_ANG_MD",10,0.9,"A",50.58',
        '"400009",9,0,0,0,0,1,"1001_IEO_ANG_MD",10,0.9,"S",50.58',
    ]
    write_votes(tmp_path / "processedResults", votes)
    (u,) = read(tmp_path, {}).utterances
    assert dict(u.extra) == {
        "level": "medium",
        **{"crowd_voice": "anger:disgust", "crowd_voice_votes": 12, "crowd_voice_agreement": pytest.approx(5 / 12)},
        **{"crowd_face": "happiness", "crowd_face_votes": 10, "crowd_face_agreement": 0.8},
        **{"crowd_multimodal": "anger", "crowd_multimodal_votes": 10, "crowd_multimodal_agreement": 0.9},
    }
    write_summary(tmp_path / "processedResults", ['"1","1001_IEO_ANG_MD","D","58.6","A","45.5","A","44.2"'])
    (u,) = read(tmp_path, {}).utterances
    assert (u.extra["crowd_voice"], u.extra["crowd_voice_level"], u.extra["crowd_voice_votes"]) == ("disgust", 58.6, 12)


@pytest.mark.parametrize("name", ["1040_ITH_SAD_X", "1040_ITH_SAD_XX", "1040_ith_sad_xx"])
def test_the_id_of_the_misnamed_file(tmp_path, wav, name):
    lay_out(tmp_path, [f"AudioWAV/{name}.wav"], wav)
    write_summary(tmp_path, ['"1","1040_ITH_SAD_X","S","58.6","A","45.5","A","44.2"'])
    (u,) = read(tmp_path, {}).utterances
    assert (u.utterance_id, u.extra["level"], u.extra["crowd_voice"]) == ("1040_ITH_SAD_XX", "unspecified", "sadness")


def test_other_kinds_of_files_and_folders(tmp_path, wav):
    names = [f"CREMA-D/{folder}/1001_DFA_ANG_XX.{end}" for folder, end in (("AudioMP3", "mp3"), ("VideoFlash", "flv"))]
    names += ["CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav", "copy/nested/AudioWAV/1001_DFA_ANG_XX.wav", "CREMA-D/AudioWAV/readme.wav"]
    names += ["CREMA-D/AudioMP3/1001_DFA_HAP_XX.mp3", "CREMA-D/AudioMP3/1001_DFA_JOY_XX.mp3", "CREMA-D/._1001_DFA_ANG_XX.wav"]
    reading = read(lay_out(tmp_path, names, wav), {})
    assert [u.path for u in reading.utterances] == [
        "CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav",
        "CREMA-D/AudioMP3/1001_DFA_HAP_XX.mp3",
    ]
    assert sorted(path for _, path, _ in reading.skipped) == [
        "CREMA-D/AudioMP3/1001_DFA_JOY_XX.mp3",
        "CREMA-D/AudioWAV/readme.wav",
        "copy/nested/AudioWAV/1001_DFA_ANG_XX.wav",
    ]
    assert reading.notes == ["clips are there in more than one kind of file; these are not read: 1 .flv, 1 .mp3"]


def test_the_folder_of_the_files_itself(tmp_path, wav):
    (u,) = read(lay_out(tmp_path, ["1001_DFA_ANG_XX.wav"], wav), {}).utterances
    assert u.path == "1001_DFA_ANG_XX.wav"


def test_no_crema_d(tmp_path, write_wav):
    write_wav(tmp_path / "hello.wav", 0.1)
    with pytest.raises(TfserError, match=r"does not look like crema_d: .*Expected: ROOT/AudioWAV"):
        read(tmp_path, {})


def test_pointers_of_git_lfs_say_what_they_are(tmp_path, cache):
    (tmp_path / "AudioWAV").mkdir()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_text(pointer)
    report = scan(cache, READER, corpus="crema_d", root=tmp_path, how=ScanOptions(workers=1))
    assert [s.reason for s in report.skipped] == [
        "this is a pointer of Git LFS, not the recording; run `git lfs pull` in the corpus's folder"
    ]


def test_the_whole_line_with_the_silent_clip(tmp_path, cache, write_wav, whole_line):
    folder = tmp_path / "AudioWAV"
    for seed, (actor, emotion) in enumerate((a, e) for a in range(1071, 1083) for e in EMOTIONS):
        write_wav(folder / f"{actor}_MTI_{emotion}_XX.wav", 0.05, seed)
    soundfile.write(folder / "1076_MTI_SAD_XX.wav", np.zeros(800), 16000)
    write_demographics(tmp_path)
    findings = whole_line(cache, READER, tmp_path)
    assert not [f for f in findings if f.level == "error"]
    with open_catalogue(cache) as connection:
        flagged = rows(connection, "SELECT utterance_id, label, flags FROM utterances WHERE len(flags) > 0")
    assert flagged == [{"utterance_id": "1076_MTI_SAD_XX", "label": "sadness", "flags": ["silent"]}]
