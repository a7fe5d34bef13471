"""Corpora declared by their tables of labels, and by more file names: each on a tiny tree of files called as theirs are."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tfser.manifests.annotations import Annotation
from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.corpora.label_tables import LABEL_TABLES
from tfser.pipeline.corpora.patterns import PATTERNS

Row = tuple[str, str | None, str | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Files of a corpus, its tables, and what they make: (id, speaker, label, split), what is listed, and its ratings."""

    audio: tuple[str, ...]
    rows: tuple[Row, ...]
    tables: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    ratings: tuple[Annotation, ...] = ()
    unused: int = 0


CONSENSUS = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
IMPROV = "MSP-IMPROV-S01A-F01-S-FM01"
TREES = {
    "msp_podcast": Tree(
        audio=("Audios/MSP-PODCAST_0001_0008.wav", "Audios/MSP-PODCAST_0002_0033.wav", "Audios/MSP-PODCAST_0009_0001.wav"),
        tables={
            "Labels/labels_consensus.csv": CONSENSUS
            + "MSP-PODCAST_0001_0008.wav,N,4.2,4.0,4.6,127,Male,Train\n"
            + "MSP-PODCAST_0002_0033.wav,X,2.2,4.0,4.6,Unknown,Female,Test2\n",
            "Labels/labels_detailed.csv": "FileName,EmoDetail\n"
            'MSP-PODCAST_0001_0008.wav,"WORKER1; Neutral; Concerned,Sad; A:4.000; V:5.000; D:6.000;"\n'
            'MSP-PODCAST_0001_0008.wav,"WORKER2; Other-Curious; A:3.000; V:4.000; D:4.000;"\n'
            "MSP-PODCAST_0002_0033.wav,WORKER3\n",
        },
        rows=(
            ("MSP-PODCAST_0001_0008", "127", "neutral", "train"),
            ("MSP-PODCAST_0002_0033", None, "undecided", None),
        ),
        skipped=("MSP-PODCAST_0009_0001",),
        ratings=(
            Annotation(utterance_id="MSP-PODCAST_0001_0008", rater="WORKER1", label="neutral", arousal=4, valence=5, dominance=6),
            Annotation(utterance_id="MSP-PODCAST_0001_0008", rater="WORKER2", label="other", arousal=3, valence=4, dominance=4),
        ),
        unused=1,
    ),
    "biic_podcast": Tree(
        audio=("wav/a_1.wav",),
        tables={"labels_consensus.csv": CONSENSUS + "a_1.wav,U,4,4,4,s1,F,Development\n"},
        rows=(("a_1", "s1", "surprise", "val"),),
    ),
    "msp_improv": Tree(
        audio=(f"Audio/session1/S01A/S/{IMPROV}.wav",),
        tables={
            "Evalution.txt": f"UTD{IMPROV[3:]}.avi; A; A:3.500000; V:2.000000; D:4.000000; N:3.0;\n"
            "student1; Angry; Frustrated; A:4.0; V:2.0; D:5.0; N:4.0;\nstudent2; Neutral; A:3.0; V:2.0; D:3.0; N:2.0;\n"
        },
        rows=((IMPROV, "F01", "anger", None),),
        ratings=(
            Annotation(utterance_id=IMPROV, rater="student1", label="anger", arousal=4, valence=2, dominance=5),
            Annotation(utterance_id=IMPROV, rater="student2", label="neutral", arousal=3, valence=2, dominance=3),
        ),
    ),
    "aibo": Tree(
        audio=("wav/Ohm_01_000_00.wav", "wav/Mont_03_120_01.wav"),
        tables={"labels/IS2009EmotionChallenge/chunk_labels_5cl_corpus.txt": "Ohm_01_000_00 N 0.63\nMont_03_120_01 E 0.9\n"},
        rows=(("Ohm_01_000_00", "Ohm_01", "neutral", "train"), ("Mont_03_120_01", "Mont_03", "emphatic", "test")),
    ),
    "emns": Tree(
        audio=("cleaned_wav/recorded_audio_0kxS3Qd.wav",),
        tables={
            "metadata.csv": "id|gender|utterance|emotion|audio_recording|user_id\n"
            "1|Female|No; never.|Sad|wavs/recorded_audio_0kxS3Qd.wav|3\n"
        },
        rows=(("recorded_audio_0kxS3Qd", "3", "sadness", None),),
    ),
    "nemo": Tree(
        audio=("samples/SB0_anger_1.wav",),
        tables={"data.tsv": "file_id\temotion\traw_text\tspeaker_id\tgender\nSB0_anger_1.wav\tanger\tTak.\tSB0\tfemale\n"},
        rows=(("SB0_anger_1", "SB0", "anger", None),),
    ),
    "dusha": Tree(
        audio=("crowd_train/wavs/ab12.wav",),
        tables={
            "crowd_train/raw_crowd_train.tsv": "hash_id\taudio_path\tannotator_emo\tannotator_id\tspeaker_emo\tsource_id\n"
            "ab12\twavs/ab12.wav\tangry\t7\tangry\ts9\nab12\twavs/ab12.wav\tneutral\t8\tangry\ts9\n"
        },
        rows=(("ab12", "s9", "anger", None),),
        ratings=(
            Annotation(utterance_id="ab12", rater="7", label="anger"),
            Annotation(utterance_id="ab12", rater="8", label="neutral"),
        ),
    ),
    "emozionalmente": Tree(
        audio=("audio/1234.wav",),
        tables={"metadata/samples.csv": "file_name,actor,emotion_expressed\n1234.wav,17,joy\n"},
        rows=(("1234", "17", "happiness", None),),
    ),
    "thai_ser": Tree(
        audio=("studio1-10/s001_clip_actor001_impro1_1.wav",),
        tables={
            "emotion_label.json": json.dumps({"s001_clip_actor001_impro1_1.flac": [{"majority_emo": "Angry", "agreement": 0.9}]})
        },
        rows=(("s001_clip_actor001_impro1_1", "actor001", "anger", None),),
    ),
    "emov_db": Tree(
        audio=("bea_Amused/amused_1-15_0003.wav", "josh_Sleepy/sleepiness_225_252_0225.wav", "readme/other.wav"),
        rows=(("bea_Amused_0003", "bea", "amusement", None), ("josh_Sleepy_0225", "josh", "sleepiness", None)),
        skipped=("readme/other.wav",),
    ),
    "mead": Tree(
        audio=("M003/audio/angry/level_1/001.m4a", "W009/audio/surprised/level_3/030.wav"),
        rows=(("M003_angry_level_1_001", "M003", "anger", None), ("W009_surprised_level_3_030", "W009", "surprise", None)),
    ),
    "asvp_esd": Tree(
        audio=("Audio/actor_106/03-01-01-01-01-106-02-02-04-11.wav", "Bonus/actor_150/03-02-04-01-87-150-03-01-00-14-08.wav"),
        rows=(
            ("03-01-01-01-01-106-02-02-04-11", "106", "boredom", None),
            ("03-02-04-01-87-150-03-01-00-14-08", "150", "sadness", None),
        ),
    ),
    "resd": Tree(
        audio=("test/01_happiness_anger/01_happiness_anger a_010.wav", "train/enthusiasm_fear_40/40_enthusiasm_fear_f_090.wav"),
        rows=(
            ("01_happiness_anger_a_010", None, "anger", "test"),
            ("40_enthusiasm_fear_f_090", None, "fear", "train"),
        ),
    ),
    "oreau": Tree(
        audio=("OréauFR_02/m/sessp/07a01Pa.wav", "OréauFR_02/f/sessn/24a07Na.wav"),
        rows=(("07a01Pa", "07", "fear", None), ("24a07Na", "24", "neutral", None)),
    ),
}


@pytest.fixture(scope="module")
def wav(tmp_path_factory, write_wav) -> Path:
    return write_wav(tmp_path_factory.mktemp("one") / "one.wav", 0.05)


def lay_out(root: Path, tree: Tree, wav: Path) -> Path:
    for name in tree.audio:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(wav, root / name)
    for name, text in tree.tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", TREES)
def test_a_tiny_tree_of_each(tmp_path, wav, name):
    tree = TREES[name]
    reading = CORPORA[name].read(lay_out(tmp_path, tree, wav), {})
    found = {(u.utterance_id, u.speaker, u.label, u.split) for u in reading.utterances}
    assert found == set(tree.rows) and len(reading.utterances) == len(tree.rows)
    assert all((tmp_path / u.path).is_file() for u in reading.utterances)
    assert tuple(name or path for name, path, _ in reading.skipped) == tree.skipped
    assert tuple(reading.annotations) == tree.ratings and len(reading.unused_ratings) == tree.unused


@pytest.mark.parametrize("name", sorted([*LABEL_TABLES, *list(PATTERNS)[11:]]))
def test_each_says_what_it_is_and_refuses_an_empty_folder(tmp_path, name):
    reader = CORPORA[name]
    assert name in TREES and reader.page.startswith("http") and reader.licence and reader.source and reader.summary
    with pytest.raises(TfserError, match=f"does not look like {name}"):
        reader.read(tmp_path, {})


def test_versions_of_msp_podcast_are_told_by_their_counts(tmp_path, wav):
    about = LABEL_TABLES["msp_podcast"].about
    assert about is not None
    assert "release 2.0" in str(about(264_705)) and "say which one" in str(about(7))
    lay_out(tmp_path, TREES["msp_podcast"], wav)
    reading = CORPORA["msp_podcast"].read(tmp_path, {})
    assert any("2 rows of labels" in note for note in reading.notes)
    by_id = {u.utterance_id: u for u in reading.utterances}
    assert by_id["MSP-PODCAST_0002_0033"].extra["partition"] == "Test2"
    assert (by_id["MSP-PODCAST_0001_0008"].arousal, by_id["MSP-PODCAST_0001_0008"].gender) == (4.2, "M")


def test_a_row_without_a_file_stays_and_one_that_repeats_is_listed(tmp_path, wav):
    lay_out(tmp_path, TREES["emozionalmente"], wav)
    table = tmp_path / "metadata" / "samples.csv"
    table.write_text(table.read_text() + "99.wav,3,fear\n1234.wav,17,anger\n", encoding="utf-8")
    reading = CORPORA["emozionalmente"].read(tmp_path, {})
    assert {u.utterance_id: u.path for u in reading.utterances} == {"1234": "audio/1234.wav", "99": "99.wav"}
    assert [reason for _, _, reason in reading.skipped] == ["row 3: labelled again; the first row stands"]


def test_a_second_recording_of_a_name_is_listed(tmp_path, wav):
    lay_out(tmp_path, TREES["emozionalmente"], wav)
    os.link(wav, tmp_path / "1234.flac")
    reading = CORPORA["emozionalmente"].read(tmp_path, {})
    assert [u.path for u in reading.utterances] == ["1234.flac"]
    assert reading.skipped == [("1234", "audio/1234.wav", "the same utterance as 1234.flac")]


def test_a_table_of_answers_without_files_is_listed_row_by_row(tmp_path, wav):
    lay_out(tmp_path, TREES["dusha"], wav)
    (tmp_path / "raw_podcast_test.tsv").write_text("annotator_emo\nangry\n", encoding="utf-8")
    assert CORPORA["dusha"].read(tmp_path, {}).unused_ratings[-1][2] == "row 1: no file or no answer"
