"""A corpus of one's own: tables as people write them."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import write_json
from tfser.pipeline.corpora import CORPORA, locate
from tfser.pipeline.corpora.base import Reading
from tfser.pipeline.corpora.table import READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan


@pytest.fixture
def root(tmp_path, write_wav) -> Path:
    for name in ("wav/a.wav", "wav/b.wav", "wav/deep/c.flac", "d.wav"):
        write_wav(tmp_path / "corpus" / name, 0.1, seed=len(name))
    return tmp_path / "corpus"


def table(root: Path, text: str | bytes, name: str = "t.csv", **options: Any) -> Reading:
    file = root / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read(root, {"table": str(file), **options})


def by_id(reading: Reading) -> dict[str, Any]:
    return {u.utterance_id: u for u in reading.utterances}


@pytest.mark.parametrize(
    "text",
    [
        "path,emotion,spk\nwav/a.wav,Happy,03\n",
        "\ufeffpath,emotion,spk\nwav/a.wav,Happy,03\n",
        "path;emotion;spk\r\nwav/a.wav;Happy;03\r\n",
        "path\temotion\tspk\nwav/a.wav\tHappy\t03\n",
        "path|emotion|spk\rwav/a.wav|Happy|03\r",
        " path , Emotion ,SPK \n wav/a.wav , Happy , 03 \n",
        '"path","emotion","spk"\n"wav/a.wav","Happy","03"\n',
        "\n\npath,emotion,spk\n\nwav/a.wav,Happy,03\n\n",
        "path,emotion,spk\nwav\\a.wav,Happy,03\n",
        "path,emotion,spk\n./wav/a.wav,Happy,03\n",
        "path,emotion,spk\nwav/a,Happy,03\n",
        "path,emotion,spk\na,Happy,03\n",
        '"path;emotion",emotion,spk,path\nx,Happy,03,wav/a.wav\n',
    ],
)
def test_ways_to_write_the_same(root, text):
    (u,) = table(root, text).utterances
    assert (u.utterance_id, u.path, u.label, u.raw_label, u.speaker) == ("wav/a", "wav/a.wav", "happiness", "Happy", "03")


def test_utf16_and_windows(root):
    text = "path\tlabel\nd\tÄrger\n"
    assert table(root, text.encode("utf-16")).utterances[0].label == "anger"
    assert table(root, text.encode("cp1252")).utterances[0].label == "anger"


def test_parquet(root):
    file = root / "t.parquet"
    pq.write_table(
        pa.table(
            {
                "path": ["wav/a.wav", "wav/b.wav"],
                "label": pa.array(["joy", None]).dictionary_encode(),
                "speaker": [3.0, 4.0],
                "when": pa.array([1, 2], pa.timestamp("ns")),
                "tags": [["x"], []],
                "age": pa.array([30, None], pa.int32()),
            }
        ),
        file,
    )
    a, b = read(root, {"table": str(file)}).utterances
    assert (a.label, a.speaker, b.label, b.speaker) == ("happiness", "3", None, "4")
    assert a.extra["tags"] == ["x"]
    assert a.extra["age"] == 30


def test_stems(root, write_wav):
    write_wav(root / "other" / "a.wav", 0.1)
    write_wav(root / "other" / "d.wav", 0.1)
    reading = table(root, "file,label\nc,x\na,x\nd,x\nother/a,x\nwav/deep/c,x\nnowhere/a,x\n")
    assert [u.path for u in reading.utterances] == ["wav/deep/c.flac", "d.wav", "other/a.wav", "nowhere/a"]
    assert [reason for *_, reason in reading.skipped] == [
        "row 2: 'a' may be other/a.wav or wav/a.wav; write the path with its folder and extension",
        "row 5 repeats row 1",
    ]


def test_absolute_paths(root, tmp_path, write_wav):
    inside, stem = root / "wav/a.wav", root / "wav/b"
    outside = write_wav(tmp_path / "elsewhere" / "z.wav", 0.1)
    reading = table(root, f"path\n{inside}\n{stem}\n{outside}\n../elsewhere/z.wav\n")
    assert [u.path for u in reading.utterances] == [
        "wav/a.wav",
        "wav/b.wav",
        outside.as_posix(),
        "../elsewhere/z.wav",
    ]


def test_missing_files_are_rows_and_listed(root, cache):
    (root / "t.csv").write_text("path,label\nwav/a.wav,x\nwav/gone.wav,x\n")
    found = locate(cache, "table", table=root / "t.csv", name="mine")
    report = scan(cache, found.reader, corpus="mine", root=found.root, options=found.options, how=ScanOptions(workers=1))
    assert report.utterances == 2
    assert [(s.utterance_id, s.stage) for s in report.skipped] == [("wav/gone", "scan")]


def test_chosen_columns(root):
    text = "Datei,Gefühl,Sprecher,label\na,Wut,007,ignored\n"
    chosen = {"path": "datei", "label": "Gefühl", "speaker": "SPRECHER"}
    (u,) = table(root, text, columns=chosen).utterances
    assert (u.path, u.label, u.speaker) == ("wav/a.wav", "anger", "007")  # 007 stays 007
    assert dict(u.extra) == {"label": "ignored"}
    with pytest.raises(UsageError, match=r"has no such column; it has Datei, Gefühl, Sprecher, label"):
        table(root, text, columns={"path": "file"})
    with pytest.raises(UsageError, match=r"'wave' is none of path, label"):
        table(root, text, columns={"wave": "Datei"})
    with pytest.raises(UsageError, match=r"no column looks like a path; name it with --column path=NAME"):
        table(root, text)


def test_unknown_columns_are_typed(root):
    text = (
        "path,age,score,agreed,day,zip,note,nothing\n"
        "a, 31 ,0.5,true,2020-01-31,01067, some words ,\n"
        "b,,1,false,2020-02-01,99999,x,\n"
    )
    a, b = table(root, text).utterances
    assert dict(a.extra) == {
        "age": 31,
        "score": 0.5,
        "agreed": True,
        "day": datetime.date(2020, 1, 31),
        "zip": "01067",  # a code, not a number
        "note": "some words",
        "nothing": None,
    }
    assert (b.extra["age"], b.extra["score"]) == (None, 1.0)


def test_columns_without_a_name_or_with_the_same(root):
    (u,) = table(root, ",path,x,X,x\n0,a,1,2,3\n").utterances
    assert dict(u.extra) == {"column_1": 0, "x": 1, "X_4": 2, "x_5": 3}


def scanned(cache, root, text, name="mine", **options):
    file = root / f"{name}.csv"
    file.write_text(text, encoding="utf-8")
    scan(cache, READER, corpus=name, root=root, options={"table": str(file), **options}, how=ScanOptions(workers=1))
    refresh(cache)


def test_own_columns_can_be_queried(root, cache):
    text = 'path,label,Corpus,PEAK,own_peak,it\'s "odd"\na,x,7,8,9,10\n'
    scanned(cache, root, text)
    with open_catalogue(cache) as connection:
        (row,) = rows(connection, "SELECT * FROM utterances")
    assert row["corpus"] == "mine"
    assert (row["own_Corpus"], row["own_PEAK"], row["own_own_peak"], row['it\'s "odd"']) == (7, 8, 9, 10)
    assert list(row)[:3] == ["corpus", "utterance_id", "path"]


def test_two_tables_with_columns_of_different_types(root, cache):
    scanned(cache, root, "path,age,size_cm,Ward\na,31,1,x\n", "one")
    scanned(cache, root, "path,age,size_cm,ward\nb,young,1.5,y\n", "two")
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT corpus, age, size_cm, ward FROM utterances ORDER BY corpus")
    assert [list(row.values()) for row in found] == [["one", "31", 1.0, "x"], ["two", "young", 1.5, "y"]]


@pytest.mark.few(3)
@pytest.mark.parametrize("other", [[{"x": 1}], [[1, 2]], [datetime.date(2020, 1, 1)], [True], ["text"], [None], [{}], [[]]])
def test_types_that_do_not_go_together(root, cache, other):
    for name, values in (("one", [1.5]), ("two", other)):
        pq.write_table(pa.table({"path": ["a"]}), root / f"{name}.parquet")
        reading = read(root, {"table": str(root / f"{name}.parquet")})
        (u,) = reading.utterances
        changed = replace(READER, read=lambda *_, u=u, v=values: Reading(utterances=[replace(u, extra={"own": v[0]})]))
        scan(cache, changed, corpus=name, root=root, how=ScanOptions(workers=1))
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT own FROM utterances ORDER BY corpus")
    assert len(found) == 2
    assert found[0]["own"] in (1.5, "1.5")


def test_segments(root):
    reading = table(
        root,
        "path,start,end,label\nd.wav,0,0.05,x\nd.wav,0.05,,y\nd.wav,00:01.5,0:00:02.5,z\nd.wav,5,4,x\nd.wav,-1,2,x\n"
        "d.wav,soon,2,x\nd.wav,,3,x\nd.wav,inf,,x\nd.wav,nan,nan,x\n",
    )
    assert [(u.utterance_id, u.start_s, u.end_s) for u in reading.utterances] == [
        ("d_0-0.05", 0.0, 0.05),
        ("d_0.05-end", 0.05, None),
        ("d_1.5-2.5", 1.5, 2.5),
        ("d_0-3", None, 3.0),
        ("d", None, None),
    ]
    assert [reason for *_, reason in reading.skipped] == [
        "row 4: the segment ends at 4 s and starts at 5 s",
        "row 5: start '-1' is before the beginning",
        "row 6: start 'soon' is no number",
        "row 8: start 'inf' is no number",
    ]


def test_segments_keep_all_their_digits(root):
    text = "path,start,end\nd.wav,1234.561,1235\nd.wav,1234.562,1235\nd.wav,0.1,00:01:01.1\nd.wav,1234.562,1234.561\n"
    reading = table(root, text)
    assert [u.utterance_id for u in reading.utterances] == ["d_1234.561-1235", "d_1234.562-1235", "d_0.1-61.1"]
    assert reading.skipped[0][2] == "row 4: the segment ends at 1234.561 s and starts at 1234.562 s"


@pytest.mark.parametrize("word", ["nan", "NaN", "N/A", "none", "NULL", "-", " na "])
@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_words_that_some_write_for_nothing_are_words(root, word, kind):
    columns = ("speaker", "session", "dialogue", "split", "gender", "label", "text")
    mark = {"csv": ",", "tsv": "\t"}.get(kind)
    file = root / f"t.{kind}"
    if mark is None:
        pq.write_table(pa.table({"path": ["a", "b"], **{name: [word, None] for name in columns}}), file)
    else:
        file.write_text(f"path{mark}{mark.join(columns)}\na{mark}{mark.join([word] * len(columns))}\nb{mark * len(columns)}\n")
    reading = read(root, {"table": str(file)})
    (u, nobody), text = reading.utterances, word.strip()
    assert (u.speaker, u.session, u.dialogue, u.split, u.gender, u.raw_label, u.transcript) == (text,) * 7
    assert u.label == text.casefold()
    assert (nobody.speaker, nobody.split, nobody.gender, nobody.label, nobody.raw_label, nobody.transcript) == (None,) * 6
    assert f"t.{kind}: the label {text!r} of 1 row is taken as a word like any other" in " ".join(reading.notes)


MELD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime,file\n"
    '1,Yes.,Ross,neutral,neutral,0,0,8,21,"00:16:16,059","00:16:21,731",wav/a.wav\n'
    '2,Yes.,Joey,joy,positive,0,1,8,21,"00:16:21,940","00:16:23,442",wav/b.wav\n'
    '3,What?,Ross,anger,negative,1,0,9,23,"00:36:40,364","00:36:42,824",d.wav\n'
)


def test_guessed_ids_that_recur_give_way_to_the_paths(root, cache):
    reading = table(root, MELD)
    assert [(u.utterance_id, u.dialogue, u.transcript, u.speaker) for u in reading.utterances] == [
        ("wav/a", "0", "Yes.", "Ross"),
        ("wav/b", "0", "Yes.", "Joey"),
        ("d", "1", "What?", "Ross"),
    ]
    assert [u.extra["Utterance_ID"] for u in reading.utterances] == ["0", "1", "0"]
    note, unnamed = reading.notes
    assert unnamed.endswith(f"t.csv: 1 audio file in {root} is in no row: wav/deep/c.flac")
    assert "the column Utterance_ID repeats itself, so the paths are the utterances' ids" in note
    report = scan(cache, READER, corpus="meld", root=root, options={"table": str(root / "t.csv")}, how=ScanOptions(workers=1))
    assert report.notes == (note, unnamed) and report.utterances == 3
    with pytest.raises(TfserError, match="rows 1 and 3 share the utterance id '0'"):  # chosen: taken at its word
        table(root, MELD, columns={"id": "Utterance_ID"})
    unique = table(root, MELD.replace("joy,positive,0,1", "joy,positive,0,2").replace("negative,1,0", "negative,1,3"))
    assert [u.utterance_id for u in unique.utterances] == ["0", "2", "3"] and unique.notes == [unnamed]
    bare = table(root, "utterance,file\nYes.,a\nYes.,b\n")  # the words, then, and no id
    assert [(u.utterance_id, u.transcript) for u in bare.utterances] == [("wav/a", "Yes."), ("wav/b", "Yes.")]
    segments = table(root, "id,start,end\nd,0,0.05\nd,0.05,0.1\n")
    assert [u.utterance_id for u in segments.utterances] == ["d_0-0.05", "d_0.05-0.1"]
    assert sum("repeats itself" in note for note in segments.notes) == 1


def test_text_is_read_without_threads(root, monkeypatch):
    from pyarrow import csv

    real, seen = csv.read_csv, []
    monkeypatch.setattr(csv, "read_csv", lambda *a, **k: seen.append(k["read_options"].use_threads) or real(*a, **k))
    table(root, "path\na\n")
    assert seen == [False]


def test_ratings_splits_and_genders(root):
    text = 'path;valence;act;split;sex\na;"2,5";n/a;DEV;female\nb;3.25;;evaluation;m\nd;x;;mine;divers\n'
    reading = table(root, text)
    a, b = reading.utterances
    assert (a.valence, a.arousal, a.split, a.gender) == (2.5, None, "val", "F")
    assert (b.valence, b.arousal, b.split, b.gender) == (3.25, None, "test", "M")
    assert reading.skipped == [(None, "d", "row 3: valence 'x' is no number")]


def test_ids_that_recur(root):
    with pytest.raises(TfserError, match=r"rows 1 and 3 share the utterance id 'u1' and are not the same; make the ids"):
        table(root, "id,path,label\nu1,a,x\nu2,b,x\nu1,b,y\n", columns={"id": "id"})
    with pytest.raises(TfserError, match="rows 1 and 3 share the utterance id 'u1'"):  # the paths would not do, either
        table(root, "id,path,label\nu1,a,x\nu2,b,x\nu1,b,y\n")
    # the same file, once in train and once in test, is no repetition
    with pytest.raises(TfserError, match="rows 1 and 2 share the utterance id 'wav/a'"):
        table(root, "path,label,split\na,x,train\na,x,test\n")
    with pytest.raises(TfserError, match="rows 1 and 2 share the utterance id 'wav/a'"):
        table(root, "path,label,rater\na,x,1\na,x,2\n")
    reading = table(root, "path,label,score\na,x,nan\na, x ,nan\nb,x,1\n")
    assert [u.utterance_id for u in reading.utterances] == ["wav/a", "wav/b"]
    assert reading.skipped == [("wav/a", "wav/a.wav", "row 2 repeats row 1")]


def test_quoted_newlines_and_quotes_in_ids(root, cache):
    text = 'id,path,label,text\n"it\'s ""one""",a,wütend,"two\nlines, really"\n情感/2,b,高兴 了,\n'
    reading = table(root, text)
    one, two = reading.utterances
    assert (one.utterance_id, one.transcript) == ('it\'s "one"', "two\nlines, really")
    assert (two.utterance_id, two.label) == ("情感/2", "高兴 了")
    scanned(cache, root, text.replace("label", "label,speaker").replace("wütend", "wütend,o'x").replace("了", "了,p"))
    name = ensure_protocol(cache, "mine", "loso-speaker@wütend,高兴 了")
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT utterance_id, label FROM folds WHERE protocol = ? AND role = 'test' ORDER BY 1", [name])
    assert found == [
        {"utterance_id": 'it\'s "one"', "label": "wütend"},
        {"utterance_id": "情感/2", "label": "高兴 了"},
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the table is empty"),
        (" \n\n", "the table is empty"),
        ("path,label\n", "no row makes an utterance"),
        ("path,label\n,x\n", "no row makes an utterance; row 1: no path"),
        ("path,label\na,x\nb,x,y\n", r"cannot be read as a table \(.*Expected 2 columns, got 3"),
    ],
)
def test_tables_without_utterances(root, text, error):
    with pytest.raises(TfserError, match=error):
        table(root, text)


def test_unreadable_parquet_and_missing_file(root):
    with pytest.raises(TfserError, match=r"t.parquet: cannot be read as a table"):
        table(root, b"PAR1 but no more", "t.parquet")
    with pytest.raises(UsageError, match=r"--table .*none.csv: no such file"):
        read(root, {"table": str(root / "none.csv")})
    with pytest.raises(UsageError, match=r"--delimiter '::': one character"):
        table(root, "path\na\n", delimiter="::")


def test_rows_without_path_are_listed(root):
    reading = table(root, "path,label\na,x\n,y\n")
    assert reading.skipped == [(None, None, "row 2: no path")]


def test_ids_stand_for_paths(root):
    (u,) = table(root, "utterance_id,label\na,x\n").utterances
    assert (u.utterance_id, u.path) == ("a", "wav/a.wav")


def test_table_without_labels_or_speakers(root, cache):
    scanned(cache, root, "path,speaker\na,1\nb,2\n")
    with open_catalogue(cache) as connection:  # no labels: no protocol can be made, and nothing breaks
        assert rows(connection, "SELECT count(*) AS n FROM utterances") == [{"n": 2}]
        assert rows(connection, "FROM protocols") == []
    with pytest.raises(TfserError, match="corpus mine has no labels; fill its column label and scan again"):
        ensure_protocol(cache, "mine", "loso-speaker")
    scanned(cache, root, "path,label\na,x\nb,y\n", "bare")
    with pytest.raises(TfserError, match="the column speaker has nothing; at least two groups are needed"):
        ensure_protocol(cache, "bare", "loso-speaker")


def test_names_that_are_taken(root, cache):
    (root / "emodb.csv").write_text("path\na\n")
    with pytest.raises(UsageError, match="emodb is the name of a corpus that tfser knows; give this one another with --name"):
        locate(cache, "table", table=root / "emodb.csv")
    assert locate(cache, "table", table=root / "emodb.csv", name="mine").corpus == "mine"
    with pytest.raises(UsageError, match="iemocap is the name"):
        locate(cache, "emodb", root=root, name="iemocap")


def test_a_table_is_remembered(root, cache):
    (root / "t.csv").write_text("file_of,emo,spk\na,x,03\n")
    found = locate(cache, "table", table=root / "t.csv", columns={"path": "file_of"}, name="mine")
    scan(cache, found.reader, corpus=found.corpus, root=found.root, options=found.options, how=ScanOptions(workers=1))
    assert locate(cache, "mine") == found
    assert locate(cache, "table", name="mine") == found
    with pytest.raises(UsageError, match="name the file with --table FILE, or one that was scanned: --corpus mine"):
        locate(cache, "table")


def test_a_copy_of_another_name_stays_where_it_was_scanned(tmp_path, cache, put_corpus, monkeypatch):
    home, mine = tmp_path / "corpora", tmp_path / "mine"
    for folder in (home / "emodb", home / "table", mine):
        folder.mkdir(parents=True)
    for name, adapter in (("emodb2", "emodb"), ("emodb", "emodb"), ("toy", "table")):
        put_corpus(cache, [], corpus=name, adapter=adapter)
        about = json.loads((cache.corpus(name) / "corpus.json").read_text())
        write_json(cache.corpus(name) / "corpus.json", about | {"root": str(mine), "options": {"table": "/t.csv"}})
    monkeypatch.setenv("TFSER_CORPORA", str(home))
    assert locate(cache, "emodb").root == home / "emodb"
    assert locate(cache, "emodb2").root == locate(cache, "emodb", name="emodb2").root == mine
    assert locate(cache, "toy").root == mine
    assert locate(cache, "emodb", name="emodb3").root == home / "emodb"  # never scanned: nothing to stay with
    mine.rename(tmp_path / "elsewhere")
    for name in ("emodb2", "toy"):
        with pytest.raises(UsageError, match=f"where is {name}.*{re.escape(str(mine))}, where it was at the last scan, is not"):
            locate(cache, name)
    monkeypatch.delenv("TFSER_CORPORA")
    with pytest.raises(UsageError, match=f"TFSER_CORPORA is not set and {re.escape(str(mine))}, where it was"):
        locate(cache, "emodb")


def test_each_known_corpus_is_named_once(cache, put_corpus):
    put_corpus(cache, [], corpus="emodb", adapter="emodb")
    with pytest.raises(UsageError, match=f"Known: {', '.join(sorted(CORPORA))}$"):
        locate(cache, "no-such-thing")
