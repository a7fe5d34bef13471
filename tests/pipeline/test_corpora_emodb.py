"""EmoDB's reader: on the real files where they are, and on names alone."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tfser.manifests.audits.run import run_audits
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora.base import audio_files, read_lines, read_text
from tfser.pipeline.corpora.emodb import READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan

COUNTS = {"anger": 127, "boredom": 81, "neutral": 79, "happiness": 71, "fear": 69, "sadness": 62, "disgust": 46}


@pytest.fixture(scope="module")
def emodb(shared):
    root = shared / "corpora" / "emodb"
    if not root.is_dir():
        pytest.skip(f"EmoDB is not here: {root}")
    return root


def test_counts(emodb):
    reading = read(emodb, {})
    assert Counter(u.label for u in reading.utterances) == COUNTS
    assert len(reading.utterances) == 535
    assert not reading.skipped
    assert {(u.speaker, u.gender) for u in reading.utterances} == {
        *((s, "M") for s in ("03", "10", "11", "12", "15")),
        *((s, "F") for s in ("08", "09", "13", "14", "16")),
    }
    assert len({u.sentence for u in reading.utterances}) == 10
    assert not [u for u in reading.utterances if u.speaker == "08" and u.label == "disgust"]


def test_listeners(emodb):
    by_id = {u.utterance_id: u for u in read(emodb, {}).utterances}
    assert dict(by_id["03a01Fa"].extra) == {"recognised_percent": 90.0, "natural_percent": 75.0}
    rated = [u for u in by_id.values() if u.extra["recognised_percent"] is not None]
    assert len(rated) > 500
    assert all(0 <= u.extra["recognised_percent"] <= 100 for u in rated)
    items = [line for line in read_lines(emodb / "erkennung.txt") if ".wav" in line]
    assert len(items) == 816  # those without audio are no utterances, and no error


def test_scan_protocol_and_audit(emodb, cache):
    report = scan(cache, READER, corpus="emodb", root=emodb, how=ScanOptions(workers=1))
    assert (report.utterances, report.decoded, report.skipped) == (535, 535, ())
    assert not scan(cache, READER, corpus="emodb", root=emodb, how=ScanOptions(workers=1)).decoded
    with open_catalogue(cache) as connection:
        folds = rows(
            connection,
            "SELECT fold, \"group\", count(*) AS n FROM assignments WHERE protocol = 'emodb7-speaker' GROUP BY ALL ORDER BY 1",
        )
        assert [row["group"] for row in folds] == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
        assert [row["n"] for row in folds] == [49, 58, 43, 38, 55, 35, 61, 69, 56, 71]
        findings = run_audits(connection, protocol="emodb7-speaker", corpus="emodb")
        assert not [f for f in findings if f.level == "error"]
        missing = [f for f in findings if f.audit == "class_missing"]
        assert {"role": "test", "class": "disgust"} in [e for f in missing for e in f.examples if f.fold == 2]
        assert {f.level for f in missing} == {"warning"}


def test_original_files(shared):
    root = shared / "corpora" / "emodb-original"
    if not root.is_dir():
        pytest.skip(f"EmoDB's original files are not here: {root}")
    reading = read(root, {})
    assert len(reading.utterances) == 7
    assert {u.speaker for u in reading.utterances} == {"03"}
    assert all(not u.extra for u in reading.utterances)  # no erkennung.txt, no such columns


def test_same_stem_and_foreign_files(tmp_path, write_wav):
    for name in ("03a01Fa.wav", "03a01Fa.flac", "16b10Wb.WAV", "hello.wav", "03a01Xa.wav", "._03a01Fa.wav"):
        write_wav(tmp_path / "wav" / name, 0.1)
    (tmp_path / "wav" / "notes.txt").write_text("x")
    reading = read(tmp_path, {})
    assert [(u.utterance_id, u.path) for u in reading.utterances] == [
        ("03a01Fa", "wav/03a01Fa.flac"),
        ("16b10Wb", "wav/16b10Wb.WAV"),
    ]
    assert [(name, path) for name, path, _ in reading.skipped] == [
        ("03a01Fa", "wav/03a01Fa.wav"),
        (None, "wav/03a01Xa.wav"),
        (None, "wav/hello.wav"),
    ]
    assert reading.skipped[0][2] == "the same utterance as wav/03a01Fa.flac"


def test_the_folder_of_the_files_itself(tmp_path, write_wav):
    write_wav(tmp_path / "03a01Fa.wav", 0.1)
    (only,) = read(tmp_path, {}).utterances
    assert only.path == "03a01Fa.wav"


def test_no_emodb(tmp_path, write_wav):
    write_wav(tmp_path / "wav" / "hello.wav", 0.1)
    with pytest.raises(TfserError, match="does not look like emodb: no audio file is named like"):
        read(tmp_path, {})


def test_links_that_go_round_are_followed_once(tmp_path, write_wav):
    write_wav(tmp_path / "a" / "one.wav", 0.1)
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    found = [p.relative_to(tmp_path).as_posix() for p in audio_files(tmp_path)]
    assert found == ["a/one.wav", "b/one.wav"]


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_file_names_that_are_no_text(tmp_path, cache, write_wav):
    write_wav(tmp_path / "wav" / "03a01Fa.wav", 0.1)
    write_wav(tmp_path / "wav" / "x.wav", 0.1).rename(os.fsdecode(os.fsencode(tmp_path / "wav") + b"/b\xe4se.wav"))
    report = scan(cache, READER, corpus="emodb", root=tmp_path, how=ScanOptions(workers=1))
    assert len(report.skipped) == 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbf\xc3\xa4", "ä"),
        ("ä".encode("utf-16"), "ä"),
        (b"\xe4\x85", "ä…"),
        (b"\xe4\x81", "ä\x81"),
        (b"", ""),
    ],
)
def test_side_files_in_any_encoding(tmp_path, data, text):
    (tmp_path / "x.txt").write_bytes(data)
    assert read_text(tmp_path / "x.txt") == text
