"""Tables as other programs leave them: columns that nobody recognises, times and years that Python does not have, encodings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfser.manifests.catalogue.reading import ensure_protocol, refresh
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.splits.choose import choose_protocol
from tfser.pipeline.corpora.base import Reading, read_lines
from tfser.pipeline.corpora.table import READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan


@pytest.fixture
def root(tmp_path: Path, write_wav) -> Path:
    for i in range(4):
        write_wav(tmp_path / "corpus" / f"{i}.wav", 0.3, seed=i)
    return tmp_path / "corpus"


def table(root: Path, text: str | bytes) -> Reading:
    (root / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(root, {"table": str(root / "t.csv")})


@pytest.mark.parametrize(
    ("header", "label", "speaker"),
    [
        ("path,emotion_level,speakers", "emotion_level looks like it: --column label=emotion_level", "speakers looks like it"),
        ("path,Labels,actor_name", "Labels looks like it: --column label=Labels", "--column speaker=actor_name"),
        ("path,how,who", "how looks like it: --column label=how", "--column speaker=NAME (columns: path, how, who)"),
        ("path,label,spk", None, None),
    ],
)
def test_columns_that_look_like_it_are_named(root: Path, header: str, label: str | None, speaker: str | None) -> None:
    rows = [f"{i % 4}.wav,{('joy', 'rage')[i % 2]},p{i % 4}" for i in range(4)] + ["", "x.wav,joy,p1", "y.wav,rage,p2"]
    notes = " ".join(table(root, "\n".join([header, *rows]) + "\n").notes)
    for ours, hint in (("label", label), ("speaker", speaker)):
        assert (f"no column is taken for the {ours}" in notes) == (hint is not None)
        assert hint is None or hint in notes


def test_audio_that_no_row_names_is_counted(root: Path, write_wav) -> None:
    write_wav(root / "deep" / "x.wav", 0.1)
    write_wav(root.parent / "outside.wav", 0.1)
    reading = table(root, "path,label,speaker\n0.wav,joy,a\n1,joy,a\n2.wav,joy,b\n")
    assert reading.notes == [f"t.csv: 2 audio files in {root} are in no row: 3.wav, deep/x.wav"]
    deep = table(root, "path,label,speaker\ndeep/x.wav,joy,a\n")  # what lies beside it is not this table's
    assert deep.notes == []


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_lengths_of_time_in_parquet(root: Path, unit: str) -> None:
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    end = pa.array([2 * per + (per > 1) * per // 2, None], pa.int64()).cast(pa.duration(unit))
    pq.write_table(pa.table({"path": ["0.wav", "1.wav"], "end": end, "pause": end}), root / "t.parquet")
    one, two = read(root, {"table": str(root / "t.parquet")}).utterances
    assert (one.end_s, two.end_s) == (2.5 if per > 1 else 2.0, None)
    assert one.extra["pause"] == one.end_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0 days 00:00:01.898250", 1.89825),
        ("0 days 00:00:01.898250001", 1.898250001),
        ("1 days 00:00:01", 86401.0),
        ("1 day 01:00:00", 90000.0),
        ("0 days +00:00:02", 2.0),
        ("00:00:01,5", 1.5),
    ],
)
def test_times_as_pandas_writes_them(root: Path, text: str, seconds: float) -> None:
    (u,) = table(root, f'path,start\n0.wav,"{text}"\n').utterances
    assert u.start_s == pytest.approx(seconds, abs=1e-9)


def test_times_before_the_beginning_are_listed(root: Path) -> None:
    reading = table(root, "path,start\n0.wav,-1 days +23:59:59\n1.wav,\n")
    assert "'-1 days +23:59:59' is no number" in reading.skipped[0][2] and len(reading.utterances) == 1


HOSTILE: dict[str, Any] = {
    "date": pa.array([10**7, None], pa.int32()).cast(pa.date32()),
    "date64": pa.array([10**15 - 10**15 % 86400000, None], pa.int64()).cast(pa.date64()),
    "year": pa.array([10**18, None], pa.int64()).cast(pa.timestamp("us")),
    "zone": pa.array([10**15, None], pa.int64()).cast(pa.timestamp("us", "Mars/Olympus")),
    "zone_ns": pa.array([10**18, None], pa.int64()).cast(pa.timestamp("ns", "Mars/Olympus")),
    "clock": pa.array([1898250001, None], pa.int64()).cast(pa.time64("ns")),
    "dates": pa.array([[10**7], None], pa.list_(pa.int32())).cast(pa.list_(pa.date32())),
    "coded": pa.array([10**7, None], pa.int32()).cast(pa.date32()).dictionary_encode(),
    "inside": pa.StructArray.from_arrays([pa.array([10**18, None], pa.int64()).cast(pa.timestamp("us"))], ["a"]),
}


@pytest.mark.few(6)
@pytest.mark.parametrize("kind", sorted(HOSTILE))
@pytest.mark.parametrize("name", ["own", "label", "start"])
def test_times_that_python_does_not_have(root: Path, cache, kind: str, name: str) -> None:
    pq.write_table(pa.table({"path": ["0.wav", "1.wav"], name: HOSTILE[kind]}), root / "t.parquet")
    try:
        report = scan(
            cache, READER, corpus="t", root=root, options={"table": str(root / "t.parquet")}, how=ScanOptions(workers=1)
        )
    except TfserError as error:
        assert name == "start" and "no row makes an utterance; row 1: start " in str(error)
        return
    assert report.tally.given == 2
    refresh(cache)
    if name == "own":
        assert report.utterances == 2
        own = pq.read_table(cache.corpus("t") / "utterances.parquet")["own"].to_pylist()
        assert own[0] is not None and (own[1] is None or kind == "inside")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_marks_and_wide_letters(root: Path, encoding: str) -> None:
    text = "path,label,speaker,text\n0.wav,開心,说,打远一看\n1.wav,joy,b,\n"
    one, two = table(root, text.encode(encoding)).utterances
    assert (one.path, one.label, one.speaker, one.transcript, two.label) == ("0.wav", "開心", "说", "打远一看", "happiness")


def test_a_transcript_of_wide_letters_without_a_mark(tmp_path: Path) -> None:
    lines = [f"0001_{i:06d}\t打远一看，它们的确很是美丽，\t中立" for i in range(4)]
    (tmp_path / "0001.txt").write_bytes("\r\n".join(lines).encode("utf-16-le"))
    assert read_lines(tmp_path / "0001.txt") == lines
    (tmp_path / "odd.txt").write_bytes(b"one\0 stray zero byte in a long line of text\nand another\n")
    assert read_lines(tmp_path / "odd.txt")[1] == "and another"


def test_one_speaker_is_not_no_speakers(root: Path, cache) -> None:
    (root / "t.csv").write_text("path,label,speaker,split\n0.wav,joy,ann,first\n1.wav,rage,ann,second\n")
    scan(cache, READER, corpus="t", root=root, options={"table": str(root / "t.csv")}, how=ScanOptions(workers=1))
    with pytest.raises(
        UsageError, match=r"t has one speaker \(ann\), no sessions and a split that says first, second, which makes no folds"
    ):
        choose_protocol(cache, "t")
    assert ensure_protocol(cache, "t", "random-kfold:2")


@pytest.mark.parametrize("speaker", ["ann", ""])
def test_neither_several_speakers_nor_a_split(root: Path, cache, speaker: str) -> None:
    (root / "t.csv").write_text(f"path,label,speaker\n0.wav,joy,{speaker}\n1.wav,rage,{speaker}\n")
    scan(cache, READER, corpus="t", root=root, options={"table": str(root / "t.csv")}, how=ScanOptions(workers=1))
    who = "one speaker (ann)" if speaker else "no speakers"
    with pytest.raises(UsageError, match=rf"t has {re.escape(who)}, no sessions and no split, which makes no folds"):
        choose_protocol(cache, "t")


def test_a_table_without_paths_whose_ids_recur_says_what_is_missing(root: Path) -> None:
    with pytest.raises(UsageError, match=r"no column looks like a path, and Utterance_ID does not tell the rows apart"):
        table(root, "Utterance_ID,Emotion\n0,joy\n1,anger\n0,anger\n")
