"""MELD's reader: on the real tables with made-up clips, and on the variants that copies of the corpus come in."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tfser.manifests.audits.run import run_audits
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import LABELS
from tfser.pipeline.corpora.base import Reading
from tfser.pipeline.corpora.meld import FOLDERS, READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan
from tfser.pipeline.sound import video
from tfser.pipeline.sound.video import MissingExtraError

COUNTS = {
    "train": {"neutral": 4710, "happiness": 1743, "surprise": 1205, "anger": 1109, "sadness": 683, "disgust": 271, "fear": 268},
    "val": {"neutral": 470, "happiness": 163, "anger": 153, "surprise": 150, "sadness": 111, "fear": 40, "disgust": 22},
    "test": {"neutral": 1256, "happiness": 402, "anger": 345, "surprise": 281, "sadness": 208, "disgust": 68, "fear": 50},
}
HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


@pytest.fixture(scope="module")
def tables(shared) -> Path:
    folder = shared / "metadata" / "meld"
    if not folder.is_dir():
        pytest.skip(f"MELD's tables are not here: {folder}")
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tables, write_wav) -> Path:
    """A copy with a clip for every row but the two that the published archives lack, and with what else lies in those."""
    root = tmp_path_factory.mktemp("meld") / "MELD.Raw"
    clip = write_wav(root.parent / "clip.wav", 0.05)
    for split, folder in FOLDERS.items():
        (root / folder).mkdir(parents=True)
        shutil.copyfile(tables / f"{split}_sent_emo.csv", root / f"{split}_sent_emo.csv")
        with (tables / f"{split}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
            names = [f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}" for row in csv.DictReader(file)]
        for name in names:
            if (split, name) not in {("train", "dia125_utt3"), ("dev", "dia110_utt7")}:
                os.link(clip, root / folder / f"{name}.mp4")
        (root / folder / f"._{names[0]}.mp4").write_bytes(b"\x00\x05\x16\x07")
    for extra in ("final_videos_testdia0_utt0", "final_videos_testdia9999_utt0", "dia9999_utt1"):
        os.link(clip, root / FOLDERS["test"] / f"{extra}.mp4")
    (root / FOLDERS["test"] / "dia1_utt0.mp4").rename(root / FOLDERS["test"] / "final_videos_testdia1_utt0.mp4")
    return root


@pytest.fixture(scope="module")
def reading(tree) -> Reading:
    return read(tree, {})


def test_counts_of_the_official_split(reading):
    assert len(reading.utterances) == 13_708
    for split, counts in COUNTS.items():
        assert Counter(u.label for u in reading.utterances if u.split == split) == counts
    assert [sum(COUNTS[split].values()) for split in COUNTS] == [9989, 1109, 2610]
    assert {u.label for u in reading.utterances} < set(LABELS)
    assert {u.raw_label for u in reading.utterances} == set(EMOTIONS)
    assert READER.expected is not None and READER.expected.differences(reading.utterances) is None


def test_ids_and_dialogues_carry_the_split(reading):
    assert len({u.utterance_id for u in reading.utterances}) == 13_708
    bare: dict[str, set[str]] = {}
    for u in reading.utterances:
        bare.setdefault(u.split, set()).add(u.utterance_id.partition("_")[2])
    assert len(bare["train"] & bare["val"]) == 675
    assert len(bare["train"] & bare["test"]) == 1740
    assert len({u.dialogue for u in reading.utterances}) == 1432
    by_id = {u.utterance_id: u for u in reading.utterances}
    assert (by_id["dev_dia0_utt0"].split, by_id["dev_dia0_utt0"].dialogue) == ("val", "dev_dia0")


def test_columns(reading):
    u = next(u for u in reading.utterances if u.utterance_id == "train_dia0_utt0")
    assert (u.path, u.speaker, u.gender, u.label, u.raw_label) == (
        "train_splits/dia0_utt0.mp4",
        "Chandler",
        "M",
        "neutral",
        "neutral",
    )
    assert u.transcript == "also I was the point person on my company’s transition from the KL-5 to GR-6 system."
    assert dict(u.extra) == {
        "sentiment": "neutral",
        "season": 8,
        "episode": 21,
        "episode_start_s": 976.059,
        "episode_end_s": 981.731,
    }
    assert (u.start_s, u.end_s) == (None, None)  # the whole clip
    assert Counter(u.extra["sentiment"] for u in reading.utterances) == {"neutral": 6436, "negative": 4184, "positive": 3088}
    assert {u.extra["season"] for u in reading.utterances} == set(range(1, 10))
    assert all(u.extra["episode_end_s"] is not None for u in reading.utterances)


def test_speakers(reading):
    assert len({u.speaker for u in reading.utterances}) == 304
    test, train = ({u.speaker for u in reading.utterances if u.split == split} for split in ("test", "train"))
    assert (len(test), len(test & train)) == (100, 69)
    assert {"All", "Joey and Chandler", "Richard’s Date"} <= train
    assert {u.speaker for u in reading.utterances if u.gender} == {"Monica", "Phoebe", "Rachel", "Chandler", "Joey", "Ross"}


def test_what_is_missing_and_what_is_too_many(tree, reading):
    missing = [u for u in reading.utterances if not (tree / u.path).exists()]
    assert [(u.utterance_id, u.path) for u in missing] == [
        ("train_dia125_utt3", "train_splits/dia125_utt3.mp4"),
        ("dev_dia110_utt7", "dev_splits_complete/dia110_utt7.mp4"),
    ]
    assert [note for note in reading.notes if "no clip" in note] == [
        "2 of 13,708 utterances have no clip (train_dia125_utt3, dev_dia110_utt7); published copies lack train_dia125_utt3 "
        "and dev_dia110_utt7"
    ]
    assert {(name, Path(path).stem, reason) for name, path, reason in reading.skipped} == {
        ("test_dia0_utt0", "final_videos_testdia0_utt0", "the same utterance as output_repeated_splits_test/dia0_utt0.mp4"),
        ("test_dia9999_utt0", "final_videos_testdia9999_utt0", "no row in test_sent_emo.csv"),
        ("test_dia9999_utt1", "dia9999_utt1", "no row in test_sent_emo.csv"),
    }
    only = next(u for u in reading.utterances if u.utterance_id == "test_dia1_utt0")
    assert only.path == "output_repeated_splits_test/final_videos_testdia1_utt0.mp4"


@pytest.mark.slow
def test_the_official_split_passes_with_warnings(cache, put_corpus, reading):
    put_corpus(cache, reading.utterances, corpus="meld", adapter="meld")
    name = ensure_protocol(cache, "meld", "meld7-official")
    with open_catalogue(cache) as connection:
        counts = rows(connection, "SELECT role, count(*) AS n FROM folds WHERE protocol = ? GROUP BY ALL", [name])
        assert {row["role"]: row["n"] for row in counts} == {"train": 9989, "val": 1109, "test": 2610}
        findings = run_audits(connection, protocol=name, corpus="meld")
    assert not [f for f in findings if f.level == "error"]
    assert "speaker_overlap" in {f.audit for f in findings if f.level == "warning"}
    assert "dialogue_overlap" not in {f.audit for f in findings if f.level != "ok"}


# -- variants of copies --------------------------------------------------------------------------------------------------------


def line(dialogue: int, utterance: int, *, text: str = "Hi!", speaker: str = "Joey", emotion: str = "joy") -> str:
    quoted = text.replace('"', '""')
    times = f'"0:0{utterance}:12,500","0:0{utterance}:13,750"'
    return f'1,"{quoted}",{speaker},{emotion},positive,{dialogue},{utterance},4,7,{times}'


def write_table(path: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join((HEADER, *lines, "")).encode(encoding))


LAYOUTS = {
    "as published": ({s: f"MELD.Raw/{s}_sent_emo.csv" for s in FOLDERS}, {s: f"MELD.Raw/{f}" for s, f in FOLDERS.items()}),
    "unpacked each in its own": (
        {s: f"MELD.Raw/{s}/{s}_sent_emo.csv" for s in FOLDERS},
        {s: f"MELD.Raw/{s}/{f}" for s, f in FOLDERS.items()},
    ),
    "tables of the repository": ({s: f"data/MELD/{s}_sent_emo.csv" for s in FOLDERS}, dict(FOLDERS)),
    "other names, other case": (
        {s: f"{s.upper()}_Sent_Emo.CSV" for s in FOLDERS},
        {"train": "Audio/TRAIN", "dev": "Audio/Validation_clips", "test": "Audio/test_wav"},
    ),
    "in a folder that misleads": (
        {s: f"test copy/{s}_sent_emo.csv" for s in FOLDERS},
        {s: f"test copy/{f}/clips" for s, f in FOLDERS.items()},
    ),
}


@pytest.mark.parametrize("suffix", ["mp4", "MP4", "wav", "flac"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout, suffix):
    tables, folders = LAYOUTS[layout]
    for split in FOLDERS:
        write_table(tmp_path / tables[split], line(0, 0, speaker=split), line(0, 1))
        for i in range(2):
            clip = tmp_path / folders[split] / f"dia0_utt{i}.{suffix}"
            clip.parent.mkdir(parents=True, exist_ok=True)
            clip.touch()
            clip.with_name(f"._{clip.name}").touch()
    reading = read(tmp_path, {})
    assert (reading.skipped, reading.notes) == ([], [])
    assert [(u.utterance_id, u.speaker, u.path) for u in reading.utterances if u.utterance_id.endswith("utt0")] == [
        (f"{s}_dia0_utt0", s, f"{folders[s]}/dia0_utt0.{suffix}") for s in FOLDERS
    ]
    assert len(reading.utterances) == 6


def test_clips_named_by_their_split_in_one_folder(tmp_path):
    for split in FOLDERS:
        write_table(tmp_path / f"{split}_sent_emo.csv", line(3, 0))
    for name in ("train_dia3_utt0", "val_dia3_utt0", "test_dia3_utt0", "dia4_utt0", "soundtrack"):
        (tmp_path / f"{name}.wav").touch()
    reading = read(tmp_path, {})
    assert {u.utterance_id: u.path for u in reading.utterances} == {
        "train_dia3_utt0": "train_dia3_utt0.wav",
        "dev_dia3_utt0": "val_dia3_utt0.wav",
        "test_dia3_utt0": "test_dia3_utt0.wav",
    }
    assert {path: reason.split(",")[0] for _, path, reason in reading.skipped} == {
        "dia4_utt0.wav": "no folder above it says whether it is of train",
        "soundtrack.wav": "the name is not dialogue and utterance",
    }


def test_a_plain_name_goes_before_a_prefixed_one_of_any_kind(tmp_path):
    write_table(tmp_path / "test_sent_emo.csv", line(0, 0), line(0, 1))
    for name in ("a/final_videos_testdia0_utt0.wav", "test/dia0_utt0.mp4", "a/final_videos_testdia0_utt1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    reading = read(tmp_path, {})
    assert [u.path for u in reading.utterances] == ["test/dia0_utt0.mp4", "a/final_videos_testdia0_utt1.wav"]
    assert [(path, reason) for _, path, reason in reading.skipped] == [
        ("a/final_videos_testdia0_utt0.wav", "the same utterance as test/dia0_utt0.mp4")
    ]


def test_conversions_beside_the_videos(tmp_path):
    write_table(tmp_path / "train_sent_emo.csv", *(line(0, i) for i in range(3)))
    folder = tmp_path / "train_splits"
    for name in ("dia0_utt0.mp4", "dia0_utt0.wav", "dia0_utt0.flac", "dia0_utt1.mp4", "wav/dia0_utt1.flac", "dia0_utt2.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    reading = read(tmp_path, {})
    assert [u.path for u in reading.utterances] == [
        "train_splits/dia0_utt0.wav",
        "train_splits/wav/dia0_utt1.flac",
        "train_splits/dia0_utt2.mp4",
    ]
    assert not reading.skipped
    assert [note.partition(";")[0].partition("(")[0].strip() for note in reading.notes] == [
        "there is no dev_sent_emo.csv, so the split dev is left out",
        "there is no test_sent_emo.csv, so the split test is left out",
        "some clips are there in more than one kind of file",
        "not all clips are of one kind",
    ]
    assert "not: 1 .flac, 2 .mp4" in reading.notes[2].replace("these are ", "")


def test_a_split_without_its_table(tmp_path):
    write_table(tmp_path / "train_sent_emo.csv", line(0, 0))
    for split in ("train", "dev"):
        (tmp_path / FOLDERS[split]).mkdir()
        (tmp_path / FOLDERS[split] / "dia0_utt0.mp4").touch()
    reading = read(tmp_path, {})
    assert [u.utterance_id for u in reading.utterances] == ["train_dia0_utt0"]
    assert [(name, reason) for name, _, reason in reading.skipped] == [("dev_dia0_utt0", "there is no dev_sent_emo.csv")]


def test_several_tables_of_one_split(tmp_path):
    write_table(tmp_path / "train_sent_emo.csv", line(0, 0, speaker="Ross"))
    write_table(tmp_path / "data/MELD/train_sent_emo.csv", line(0, 0, speaker="Ross"))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "dia0_utt0.wav").touch()
    assert not [note for note in read(tmp_path, {}).notes if "differ" in note]
    write_table(tmp_path / "data/MELD/train_sent_emo.csv", line(0, 0, speaker="Gunther"))
    write_table(tmp_path / "data/MELD_Dyadic/train_sent_emo_dya.csv", line(0, 0, speaker="Nobody"))
    reading = read(tmp_path, {})
    assert [u.speaker for u in reading.utterances] == ["Ross"]
    assert reading.notes[0] == "train_sent_emo.csv and data/MELD/train_sent_emo.csv differ; the first is read"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_tables_in_any_encoding(tmp_path, encoding):
    text = "We’re going to Nestlé… “now” — ‘okay’?"
    speaker = "Richard’s Date"
    write_table(tmp_path / "test_sent_emo.csv", line(0, 0, text=text, speaker=speaker), encoding=encoding, end="\r\n")
    (tmp_path / "dia0_utt0.wav").touch()
    (u,) = read(tmp_path, {}).utterances
    assert (u.transcript, u.speaker, u.utterance_id) == (text, speaker, "test_dia0_utt0")


def test_stray_encodings_in_the_text(tmp_path):
    texts = {
        "You\u0092re \u0093in\u0094\u0085": "You’re “in”…",
        "Youâ€™re â€œinâ€\x9d, fiancÃ©e": "You’re “in”, fiancée",
        'He said, "no, no,\nno"': 'He said, "no, no, no"',
    }
    lines = [line(0, i, text=text, speaker="Richard\u0092s Date") for i, text in enumerate(texts)]
    write_table(tmp_path / "test_sent_emo.csv", *lines)
    for i in range(len(texts)):
        (tmp_path / f"dia0_utt{i}.wav").touch()
    reading = read(tmp_path, {})
    assert [u.transcript for u in reading.utterances] == list(texts.values())
    assert {u.speaker for u in reading.utterances} == {"Richard’s Date"}


def test_odd_rows(tmp_path):
    lines = [line(0, 0), line(0, 0, emotion="anger"), line(0, 1, emotion=""), line(0, 2, speaker="")]
    lines.append(lines[0].replace(",0,0,4,7,", ",,,4,7,"))
    lines.append(lines[0].replace(",0,0,4,7,", ",0.0,3.0,x,,").replace("0:00:12,500", "soon"))
    write_table(tmp_path / "test_sent_emo.csv", *lines)
    for i in range(4):
        (tmp_path / f"dia0_utt{i}.wav").touch()
    reading = read(tmp_path, {})
    assert [(u.utterance_id, u.label, u.speaker) for u in reading.utterances] == [
        ("test_dia0_utt0", "happiness", "Joey"),
        ("test_dia0_utt1", None, "Joey"),
        ("test_dia0_utt2", "happiness", None),
        ("test_dia0_utt3", "happiness", "Joey"),
    ]
    assert dict(reading.utterances[3].extra) | {"sentiment": None} == {
        "sentiment": None,
        "season": None,
        "episode": None,
        "episode_start_s": None,
        "episode_end_s": 13.75,
    }
    assert [(name, reason.partition(";")[0]) for name, _, reason in reading.skipped] == [
        ("test_dia0_utt0", "row 2: labelled a second time"),
        (None, "row 5: no number for dialogue or utterance"),
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train_sent_emo.csv", "no clip in it is named like dia0_utt0.mp4"),
        ("x.csv", "there is no train_sent_emo"),
        ("train_sent_emo_dya.csv", "there is no train_sent_emo"),
    ],
)
def test_no_meld(tmp_path, name, reason):
    write_table(tmp_path / name, line(0, 0))
    with pytest.raises(TfserError, match=rf"does not look like meld: {reason}.*Expected: ROOT/train_sent_emo"):
        read(tmp_path, {})


def small_copy(root: Path) -> dict[str, int]:
    """Write tables with all classes in each split; return the number of rows of each."""
    sizes = {"train": 14, "dev": 7, "test": 7}
    for split, size in sizes.items():
        lines = [line(i // 4, i % 4, emotion=EMOTIONS[i % 7], speaker=("Joey", "Monica")[i % 2]) for i in range(size)]
        write_table(root / f"{split}_sent_emo.csv", *lines)
    return sizes


def test_the_whole_line_with_videos(tmp_path, cache, write_video, whole_line):
    root = tmp_path / "MELD.Raw"
    rng = np.random.default_rng(0)
    for split, size in small_copy(root).items():
        for i in range(size):
            sound = 0.1 * rng.standard_normal((2, 1600))
            write_video(root / FOLDERS[split] / f"dia{i // 4}_utt{i % 4}.mp4", sound)
    folder = root / FOLDERS["train"]
    (folder / "dia0_utt0.mp4").unlink()
    (folder / "dia0_utt1.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")  # as train's dia125_utt3 is
    write_video(folder / "dia0_utt2.mp4", np.zeros((2, 1600)))
    write_video(folder / "dia0_utt3.mp4", 0.1 * rng.standard_normal((2, 32_000)))
    write_video(folder / "dia1_utt0.mp4", None)
    findings = whole_line(cache, READER, root)
    assert not [f for f in findings if f.level == "error"]
    assert "speaker_overlap" in {f.audit for f in findings if f.level == "warning"}
    with open_catalogue(cache) as connection:
        skipped = rows(connection, "SELECT utterance_id, stage, reason FROM skipped ORDER BY 1")
        flagged = rows(connection, "SELECT utterance_id, flags FROM utterances WHERE len(flags) > 0 ORDER BY 1")
        wrong = rows(
            connection,
            "SELECT utterance_id FROM utterances WHERE duration_s > episode_end_s - episode_start_s + 0.5 ORDER BY 1",
        )
    assert [(r["utterance_id"], r["stage"], r["reason"].partition(":")[0]) for r in skipped] == [
        ("train_dia0_utt0", "scan", "No such file or directory"),
        ("train_dia0_utt1", "scan", "cannot be decoded"),
        ("train_dia1_utt0", "scan", "there is no sound in it, only video"),
    ]
    assert [(r["utterance_id"], r["flags"]) for r in flagged] == [
        ("train_dia0_utt2", ["silent"]),
        ("train_dia0_utt3", ["long"]),
    ]
    assert [r["utterance_id"] for r in wrong] == ["train_dia0_utt3"]


def test_without_the_video_library(tmp_path, cache, write_wav, monkeypatch):
    monkeypatch.setattr(video, "is_installed", lambda: False)
    for split, size in small_copy(tmp_path).items():
        for i in range(size):
            path = tmp_path / FOLDERS[split] / f"dia{i // 4}_utt{i % 4}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"never opened")
    with pytest.raises(MissingExtraError, match=r"28 video files to read.*pip install '\.\[video\]'"):
        scan(cache, READER, corpus="meld", root=tmp_path, how=ScanOptions(workers=1))
    for seed, path in enumerate(sorted(tmp_path.rglob("*.mp4"))):
        write_wav(path.with_suffix(".wav"), 0.1, seed)
    report = scan(cache, READER, corpus="meld", root=tmp_path, how=ScanOptions(workers=1))
    assert (report.utterances, report.decoded, report.skipped) == (28, 28, ())
    assert "some clips are there in more than one kind of file" in report.notes[0]
