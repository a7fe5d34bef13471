"""Databases in audformat, made by its own library: filewise and segmented, split, with raters, labels and misc tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.corpora import locate
from tfser.pipeline.corpora.audformat_db import read
from tfser.pipeline.scanning.scan import ScanOptions, scan

audformat = pytest.importorskip("audformat")

FILES = ["wav/a.wav", "wav/b.wav", "wav/c.wav", "wav/d.wav"]


class Builder:
    """Builds a database table by table, then saves it."""

    def __init__(self, root: Path, name: str = "toy") -> None:
        self.root = root
        self.db = audformat.Database(name, license="CC0-1.0")

    def scheme(self, name: str, *arguments: Any, **named: Any) -> Builder:
        self.db.schemes[name] = audformat.Scheme(*arguments, **named)
        return self

    def table(self, name: str, index: Any, split: str | None = None, **columns: tuple[str | None, list[Any]]) -> Builder:
        self.db[name] = audformat.Table(index, split_id=split)
        for column, (scheme, values) in columns.items():
            self.db[name][column] = audformat.Column(scheme_id=scheme)
            self.db[name][column].set(values)
        return self

    def misc(self, name: str, index: Any, **columns: tuple[str, list[Any]]) -> Builder:
        self.db[name] = audformat.MiscTable(index)
        for column, (scheme, values) in columns.items():
            self.db[name][column] = audformat.Column(scheme_id=scheme)
            self.db[name][column].set(values)
        return self

    def save(self, storage: str = "csv") -> Path:
        self.db.save(self.root, storage_format=storage)
        return self.root


def filewise(*files: str) -> Any:
    return audformat.filewise_index(list(files or FILES))


def emodb_like(root: Path, storage: str = "csv") -> Path:
    """Lay out a database as emodb's: misc table of speakers, transcription labels, gold standard in two parts."""
    import pandas as pd

    build = Builder(root, "emodb")
    build.scheme("age", "int").scheme("gender", labels=["female", "male"]).scheme("language", "str")
    build.misc(
        "speaker",
        pd.Index([3, 8], dtype="Int64", name="speaker"),
        age=("age", [31, 34]),
        gender=("gender", ["male", "female"]),
        language=("language", ["deu", "deu"]),
    )
    build.scheme("emotion", labels=["anger", "happiness", "sadness"]).scheme("confidence", "float", minimum=0, maximum=1)
    build.scheme("duration", "time").scheme("speaker", "int", labels="speaker")
    build.scheme("transcription", labels={"a01": "Der Lappen liegt auf dem Eisschrank.", "b10": "Die wird auf dem Platz sein."})
    build.table(
        "emotion",
        filewise(),
        emotion=("emotion", ["anger", "sadness", "happiness", "anger"]),
        sure=("confidence", [0.9, 1, None, 0.5]),
    )
    build.table("emotion.categories.train.gold_standard", filewise(*FILES[:2]), emotion=("emotion", ["anger", "sadness"]))
    build.table("emotion.categories.test.gold_standard", filewise(*FILES[2:]), emotion=("emotion", ["happiness", "anger"]))
    build.table(
        "files",
        filewise(),
        duration=("duration", [pd.Timedelta(seconds=s) for s in (0.1, 0.2, 0.3, 0.4)]),
        speaker=("speaker", [3, 3, 8, 8]),
        transcription=("transcription", ["a01", "b10", "a01", None]),
    )
    return build.save(storage)


@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_a_database_like_emodb(tmp_path, storage):
    reading = read(emodb_like(tmp_path, storage), {})
    assert not reading.skipped
    assert [(u.utterance_id, u.path, u.label, u.raw_label, u.speaker, u.gender, u.split) for u in reading.utterances] == [
        ("wav/a", "wav/a.wav", "anger", "anger", "3", "M", "train"),
        ("wav/b", "wav/b.wav", "sadness", "sadness", "3", "M", "train"),
        ("wav/c", "wav/c.wav", "happiness", "happiness", "8", "F", "test"),
        ("wav/d", "wav/d.wav", "anger", "anger", "8", "F", "test"),
    ]
    a, *_, d = reading.utterances
    assert (a.sentence, a.transcript) == ("a01", "Der Lappen liegt auf dem Eisschrank.")
    assert (d.sentence, d.transcript, d.start_s, d.end_s) == (None, None, None, None)
    assert dict(a.extra) == {"age": 31, "language": "deu", "sure": 0.9, "duration": 0.1}
    assert reading.notes == ["database emodb, licence CC0-1.0"]
    assert reading.columns == {
        "label": "emotion/emotion and emotion.categories.*.gold_standard/emotion",
        "speaker": "files/speaker",
        "transcript": "files/transcription",
    }


def test_scanned_and_queried(tmp_path, cache, write_wav):
    root = emodb_like(tmp_path / "db")
    for i, name in enumerate(FILES[:3]):
        write_wav(root / name, 0.1, seed=i)
    found = locate(cache, "audformat", root=root)
    assert found.corpus == "emodb-audformat"  # emodb is the name of another
    report = scan(cache, found.reader, corpus=found.corpus, root=found.root, options=found.options, how=ScanOptions(workers=1))
    assert (report.utterances, report.decoded, report.default_protocol) == (4, 3, "official-split")
    assert [(s.path, s.stage) for s in report.skipped] == [("wav/d.wav", "scan")]
    assert locate(cache, "emodb-audformat") == found
    assert not scan(
        cache, found.reader, corpus=found.corpus, root=found.root, options=found.options, how=ScanOptions(workers=1)
    ).changed
    refresh(cache)
    with open_catalogue(cache) as connection:
        sides = "SELECT role, count(*) AS n FROM folds WHERE protocol = 'official-split' GROUP BY ALL ORDER BY 1"
        assert rows(connection, sides) == [{"role": "test", "n": 2}, {"role": "train", "n": 2}]
        assert rows(connection, "SELECT age FROM utterances ORDER BY utterance_id LIMIT 1") == [{"age": 31}]


def test_segments_with_a_speaker_of_the_whole_file(tmp_path):
    index = audformat.segmented_index(
        ["long.wav", "long.wav", "other.wav", "other.wav"], ["0s", "1.5s", "0s", "2s"], ["1.5s", "2.25s", None, None]
    )
    build = Builder(tmp_path).scheme("emotion", labels={"W": "anger", "T": "sadness"})
    build.scheme("speaker", "str").scheme("r", "float")
    build.table("emotion.dev", index, emotion=("emotion", ["W", "T", None, "W"]), arousal=("r", [0.5, None, 1, 2]))
    build.table("files", filewise("long.wav", "other.wav", "third.wav"), speaker=("speaker", ["S1", "S2", "S3"]))
    reading = read(build.save(), {})
    assert [(u.utterance_id, u.start_s, u.end_s, u.label, u.raw_label, u.speaker, u.arousal) for u in reading.utterances] == [
        ("long_0-1.5", 0.0, 1.5, "anger", "W", "S1", 0.5),
        ("long_1.5-2.25", 1.5, 2.25, "sadness", "T", "S1", None),
        ("other", None, None, None, None, "S2", 1.0),
        ("other_2-end", 2.0, None, "anger", "W", "S2", 2.0),
    ]
    assert {u.split for u in reading.utterances} == {"val"}
    assert reading.skipped == [(None, "third.wav", "not in emotion.*")]


def test_splits_of_tables(tmp_path):
    build = Builder(tmp_path).scheme("emotion", labels=["anger", "fear"])
    build.db.splits["one"] = audformat.Split(audformat.define.SplitType.TRAIN)
    build.db.splits["two"] = audformat.Split(audformat.define.SplitType.TEST)
    build.table("x", filewise(*FILES[:2]), "one", emotion=("emotion", ["anger", "fear"]))
    build.table("y", filewise(*FILES[2:]), "two", emotion=("emotion", ["anger", "fear"]))
    assert [u.split for u in read(build.save(), {}).utterances] == ["train", "train", "test", "test"]


def rated(root: Path, gold: bool) -> Path:
    build = Builder(root).scheme("emotion", labels=["anger", "fear"]).scheme("speaker", "str")
    build.table("emotion.rater1", filewise(), emotion=("emotion", ["anger", "fear", "fear", None]))
    build.table("emotion.rater2", filewise(), emotion=("emotion", ["anger", "anger", "fear", "fear"]))
    if gold:
        build.table("emotion.gold_standard", filewise(), emotion=("emotion", ["anger", "fear", "fear", "fear"]))
    build.table("files", filewise(), speaker=("speaker", list("xxyy")))
    return build.save()


def test_the_gold_standard_stands_over_raters_who_do_not_agree(tmp_path):
    reading = read(rated(tmp_path, gold=True), {})
    assert [u.label for u in reading.utterances] == ["anger", "fear", "fear", "fear"]
    assert dict(reading.utterances[1].extra) == {"emotion (emotion.rater1)": "fear", "emotion (emotion.rater2)": "anger"}
    chosen = read(tmp_path, {"columns": {"label": "emotion.rater2/emotion"}})
    assert [u.label for u in chosen.utterances] == ["anger", "anger", "fear", "fear"]
    assert read(tmp_path, {"columns": {"label": "*.rater2/*"}}) == read(tmp_path, {"columns": {"label": "emotion.rater2"}})


def test_what_is_ambiguous_is_asked_for(tmp_path):
    rated(tmp_path, gold=False)
    with pytest.raises(
        UsageError,
        match=r"toy says the label in 2 places that do not agree: emotion.rater1/emotion, emotion.rater2/emotion; choose with "
        r"--column label=TABLE/COLUMN",
    ):
        read(tmp_path, {})
    with pytest.raises(UsageError, match=r"2 places that do not agree"):
        read(tmp_path, {"columns": {"label": "emotion"}})
    with pytest.raises(UsageError, match=r"--column label=x/y: toy has no such column; it has emotion.rater1/emotion, emotion"):
        read(tmp_path, {"columns": {"label": "x/y"}})
    with pytest.raises(UsageError, match=r"--column colour=x: 'colour' is none of label, speaker, session"):
        read(tmp_path, {"columns": {"colour": "x"}})


def test_no_emotion_and_two_kinds_of_rows(tmp_path):
    build = Builder(tmp_path / "none").scheme("mood", "str").table("t", filewise(), mood=("mood", list("abcd")))
    with pytest.raises(UsageError, match=r"no column looks like an emotion; name it with --column label=TABLE/COL.* t/mood"):
        read(build.save(), {})
    assert [u.label for u in read(tmp_path / "none", {"columns": {"label": "mood"}}).utterances] == list("abcd")
    build = Builder(tmp_path / "both").scheme("emotion", "str").table("whole", filewise("a.wav"), emotion=("emotion", ["fear"]))
    build.table("parts", audformat.segmented_index(["a.wav"], ["0s"], ["1s"]), emotion=("emotion", ["anger"]))
    with pytest.raises(UsageError, match="whole files have an emotion in whole, segments in parts; choose with --column label="):
        read(build.save(), {})
    assert [u.end_s for u in read(tmp_path / "both", {"columns": {"label": "parts"}}).utterances] == [1.0]


def test_genders_in_the_labels_of_speakers_and_words_of_other_alphabets(tmp_path):
    build = Builder(tmp_path).scheme("emotion", labels=["Wut", "高兴 了"])
    build.scheme("speaker", labels={"s1": {"gender": "female", "age": 30}, "s2": {"gender": "male"}})
    build.table("t", filewise(*FILES[:2]), emotion=("emotion", ["Wut", "高兴 了"]), speaker=("speaker", ["s1", "s2"]))
    one, two = read(build.save(), {}).utterances
    assert (one.label, one.gender, one.speaker, dict(one.extra)) == ("anger", "F", "s1", {"age": 30})
    assert (two.label, two.gender, dict(two.extra)) == ("高兴 了", "M", {})


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_pickled_tables_are_never_opened(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    root = emodb_like(tmp_path / "db")
    (root / "db.emotion.pkl").write_bytes(pickle.dumps(Bomb()))
    assert len(read(root, {}).utterances) == 4
    (root / "db.emotion.csv").unlink()
    with pytest.raises(TfserError, match=r"the table emotion is there neither .* save the database as csv or parquet"):
        read(root, {})
    header = (root / "db.yaml").read_text()
    (root / "db.yaml").write_text(header + "\nx: !!python/object/apply:pathlib.Path.touch [exploded]\n")
    with pytest.raises(TfserError, match=r"db.yaml: cannot be read as a header"):
        read(root, {})
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("db.yaml", "- a list", "names no database"),
        ("db.yaml", "name: [", "cannot be read as a header"),
        ("db.yaml", "name: toy", "db.yaml: audformat cannot read it"),
        ("db.yaml", b"\xff\xfe\x00", "cannot be read as a header"),
        ("db.files.csv", "", "audformat cannot read the table files"),
    ],
)
def test_damaged_databases(tmp_path, file, content, error):
    emodb_like(tmp_path)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TfserError, match=error):
        read(tmp_path, {})


def test_where_the_database_is_not(tmp_path, cache, monkeypatch):
    emodb_like(tmp_path / "emodb" / "1.4.1" / "abc")
    with pytest.raises(UsageError, match=r"there is no db.yaml, .*there is one in .*abc: name that folder with --root"):
        read(tmp_path / "emodb", {})
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match=r"nothing: there is no db.yaml, the header of an audformat database, in it$"):
        locate(cache, "audformat", root=tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"--corpus audformat: name the database's folder with --root FOLDER"):
        locate(cache, "audformat")
    with pytest.raises(UsageError, match="--delimiter go with --corpus table, not with audformat"):
        locate(cache, "audformat", root=tmp_path / "emodb" / "1.4.1" / "abc", delimiter=";")
    named = locate(cache, "audformat", root=tmp_path / "emodb" / "1.4.1" / "abc", name="mine", columns={"label": "emotion"})
    assert (named.corpus, named.options) == ("mine", {"columns": {"label": "emotion"}})
    monkeypatch.setitem(sys.modules, "audformat", None)
    with pytest.raises(UsageError, match=r"read with its library: pip install '\.\[audformat\]'"):
        read(tmp_path / "emodb" / "1.4.1" / "abc", {})


@pytest.mark.parametrize("storage", ["csv", "parquet"])
@pytest.mark.parametrize("has_labels", [True, False])
def test_words_that_some_write_for_nothing_are_words(tmp_path, storage, has_labels):
    words = ["none", "N/A", "null", None]
    build = Builder(tmp_path).scheme("emotion", **({"labels": words[:3]} if has_labels else {"dtype": "str"}))
    build.scheme("speaker", "str").scheme("score", "float")
    build.table(
        "emotion",
        filewise(),
        emotion=("emotion", words),
        speaker=("speaker", ["NA", "nan", None, "b"]),
        score=("score", [0.5, None, 1, None]),
    )
    reading = read(build.save(storage), {})
    assert not reading.skipped
    assert [u.raw_label for u in reading.utterances] == words
    assert [u.speaker for u in reading.utterances] == ["NA", "nan", None, "b"]
    assert [u.extra["score"] for u in reading.utterances] == [0.5, None, 1, None]
    assert "the label 'N/A' of 1 row is taken as a word like any other" in " ".join(reading.notes)
