"""A corpus of one's own: awkward tables. Every way of writing cells, paths of other machines, long files, many rows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError
from tfser.manifests.labels import normalise
from tfser.pipeline.corpora.base import Reading
from tfser.pipeline.corpora.table import READER, read
from tfser.pipeline.scanning.scan import ScanOptions, scan
from tfser.pipeline.sound.audio import decode

LETTERS = st.characters(categories=["L", "N", "P", "S"], include_characters=" \n\"',;|\t")


@pytest.fixture
def root(tmp_path, write_wav) -> Path:
    for name in ("wav/a.wav", "wav/b.wav", "other/b.wav", "d.wav"):
        write_wav(tmp_path / "corpus" / name, 0.1, seed=len(name))
    return tmp_path / "corpus"


def table(root: Path, text: str | bytes, **options: Any) -> Reading:
    file = root / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read(root, {"table": str(file), **options})


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(st.text(LETTERS, max_size=8), st.text(LETTERS, max_size=12)), min_size=1, max_size=5),
    mark=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_program_writes_is_read_as_it_was(tmp_path, cells, mark, encoding, ending, quoting):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=mark, lineterminator=ending, quoting=quoting)
    writer.writerow(["file", "label", "text", "mine"])
    for i, (label, text) in enumerate(cells):
        writer.writerow([f"w{i}.wav", label, text, f"x{text}"])
    (tmp_path / "t.csv").write_bytes(out.getvalue().encode(encoding))
    reading = read(tmp_path, {"table": str(tmp_path / "t.csv")})
    assert not reading.skipped
    for i, (u, (label, text)) in enumerate(zip(reading.utterances, cells, strict=True)):
        raw = label.strip() or None
        assert (u.path, u.raw_label, u.label) == (f"w{i}.wav", raw, normalise(raw))
        assert u.transcript == (text.strip() or None)
        assert u.extra["mine"] == f"x{text}".strip()


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\npath;label\nd.wav;joy\n",
        "sep=;\r\npath;label\r\nd.wav;joy\r\n",
        '\ufeff"path";"label"\n"d.wav";"joy"\n',
        "\ufeffsep=\t\npath\tlabel\nd.wav\tjoy\n",
        "path;label;\nd.wav;joy;\n",  # a mark behind the last cell
        "label;path\njoy;d.wav",  # no line end
        "path,label\n\nd.wav,joy\n\n\n",
        "\u00a0path , label\u00a0\nd.wav\u00a0,\u3000joy\n",  # blanks of other kinds
        "PATH,LABEL\nD.WAV,joy\nd.wav,joy\n",
    ],
)
def test_more_ways_to_write_the_same(root, text):
    reading = table(root, text)
    assert [(u.path, u.label) for u in reading.utterances][-1] == ("d.wav", "happiness")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (r"C:\data\corpus\wav\a.wav", "wav/a.wav"),
        (r"C:\data\corpus\wav\a", "wav/a.wav"),
        ("D:/x/other/b.wav", "other/b.wav"),
        (r"\\server\share\wav\b.wav", "wav/b.wav"),
        ("/Users/somebody/corpus/wav/b.wav", "wav/b.wav"),
        ("/Users/somebody/d.wav", "d.wav"),
        (r".\wav\a.wav", "wav/a.wav"),
        (r"wav\\a.wav", "wav/a.wav"),
        (r"C:\gone\b.wav", "C:/gone/b.wav"),  # two are called so, neither is gone/b.wav: not guessed
        ("/gone/c.wav", "/gone/c.wav"),
        ("gone/wav/a.wav", "gone/wav/a.wav"),  # a path below the root is meant as it is
    ],
)
def test_paths_of_another_machine(root, path, found):
    reading = table(root, f"path,label\n{path},x\n")
    (u,) = reading.utterances
    assert u.path == found
    moved = (path[1:2] == ":" or path.startswith(("/", "\\\\"))) and (root / found).is_file()
    assert sum("1 full paths are not there as written" in note for note in reading.notes) == moved


def test_a_file_that_is_called_with_a_backslash_is_meant_as_it_is(root):
    (root / "we\\ird.wav").write_bytes((root / "d.wav").read_bytes())
    (u,) = table(root, "path,label\nwe\\ird.wav,x\n").utterances
    assert u.path == "we\\ird.wav"


def test_decimal_commas(root):
    text = (
        "path;start;end;valence;score;thousands;mixed;date\nd.wav;0,01;0,05;2,5;0,25;1,234;1,5;1,2,3\n"
        "d.wav;0,05;0,1;3;-1,5;5,678;x;4,5,6\n"
    )
    one, two = table(root, text).utterances
    assert (one.start_s, one.end_s, one.valence, one.utterance_id) == (0.01, 0.05, 2.5, "d_0.01-0.05")
    assert (two.start_s, two.end_s, two.valence) == (0.05, 0.1, 3.0)
    assert dict(one.extra) == {"score": 0.25, "thousands": "1,234", "mixed": "1,5", "date": "1,2,3"}
    assert two.extra["score"] == -1.5


def test_empty_cells_of_every_kind(root):
    text = (
        "path,label,speaker,start,end,valence,age,note\nd.wav,,,,NaN,n/a,,\nwav/a.wav, , ,nan,-,-,7,nan\n"
        "wav/b.wav,joy,S1,,,1,nan,\n"
    )
    reading = table(root, text)
    assert not reading.skipped
    one, two, three = reading.utterances
    assert (one.label, one.speaker, one.start_s, one.end_s, one.valence) == (None,) * 5
    assert (two.label, two.speaker, two.start_s, two.end_s, two.valence) == (None,) * 5
    assert (three.label, three.speaker, three.valence) == ("happiness", "S1", 1.0)
    assert one.extra["age"] is None and two.extra["age"] == 7


def test_a_row_with_too_many_cells_is_named(root):
    with pytest.raises(TfserError, match=r"t.csv: cannot be read as a table \(.*Row #3: Expected 2 columns, got 3: d.wav,a,b"):
        table(root, "path,label\nd.wav,x\nd.wav,a,b\n")


@pytest.fixture(scope="module")
def long_files(tmp_path_factory) -> Path:
    """Two recordings of 20 s in which the level tells the second."""
    folder = tmp_path_factory.mktemp("long")
    noise = np.random.default_rng(0).standard_normal(20 * 8000)
    for i, name in enumerate(("one.wav", "zwei ü.wav")):
        steps = np.repeat(np.arange(1, 21) / 100, 8000)
        soundfile.write(folder / name, np.clip(noise * steps / (i + 1), -1, 1), 8000, subtype="PCM_16")
    return folder


def test_segments_of_long_files(long_files, cache):
    lines = ["file;begin;end;emotion;speaker"]
    for name in ("one.wav", "zwei ü.wav"):
        lines += [f'"{name}";00:00:{s:02d}.000;0:{s + 1:02d};Sehr  Wütend;{s % 3}' for s in range(20)]
    lines += ["one.wav;19,5;;joy;1", "one.wav;19,5;25;joy;2", "one.wav;20;21;joy;1", "one.wav;30;;joy;1"]
    (long_files / "t.csv").write_text("\n".join(lines), encoding="cp1252")
    options = {"table": str(long_files / "t.csv")}
    report = scan(cache, READER, corpus="long", root=long_files, options=options, how=ScanOptions(workers=1))
    assert (report.utterances, report.decoded) == (44, 41)
    assert [s.utterance_id for s in report.skipped] == ["one_19.5-25", "one_20-21", "one_30-end"]  # behind the end
    refresh(cache)
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT * FROM utterances WHERE content_hash IS NOT NULL ORDER BY path, start_s, end_s")
    assert len({row["content_hash"] for row in found}) == len(found) == 41
    assert all(row["duration_s"] == pytest.approx(1.0) for row in found if row["label"] == "sehr wütend")
    assert [row["duration_s"] for row in found if row["label"] == "happiness"] == [pytest.approx(0.5)]
    levels = [row["rms_db"] for row in found if row["path"] == "one.wav" and row["label"] != "happiness"]
    assert levels == sorted(levels) and len(levels) == 20
    third = decode(long_files / "one.wav", 2.0, 3.0)
    assert third.samples.std() == pytest.approx(10 ** (levels[2] / 20), rel=0.01)


@pytest.mark.slow
def test_twenty_thousand_rows_over_few_files(long_files, monkeypatch):
    n = 20_000
    lines = ["file,start,end,label,speaker,words,age"]
    for i in range(n):
        label = "joy" if i % 2 else "Wut"
        lines.append(f'one.wav,{i / 1000:.3f},{(i + 500) / 1000:.3f},{label},S{i % 40},"a, {i}",{i % 80}')
    lines.append(lines[7])
    (long_files / "big.csv").write_text("\n".join(lines))
    looked: list[Path] = []
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked.append(path) or real(path))
    reading = read(long_files, {"table": str(long_files / "big.csv")})
    assert len(looked) < 10  # a file is looked for once, not once a row
    assert len(reading.utterances) == n
    assert Counter(u.label for u in reading.utterances) == {"happiness": n / 2, "anger": n / 2}
    assert reading.utterances[12_345].utterance_id == "one_12.345-12.845"
    assert reading.utterances[12_345].transcript == "a, 12345"
    assert reading.skipped == [("one_0.006-0.506", "one.wav", f"row {n + 1} repeats row 7")]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hours=st.integers(0, 99),
    minutes=st.integers(0, 59),
    seconds=st.integers(0, 59),
    thousandths=st.integers(0, 999),
    comma=st.booleans(),
    long=st.booleans(),
)
def test_clock_times(tmp_path, hours, minutes, seconds, thousandths, comma, long):
    assume(long or not hours)
    text = f"{minutes:02d}:{seconds:02d}{',' if comma else '.'}{thousandths:03d}"
    text = f"{hours:02d}:{text}" if long else text
    (tmp_path / "clock.csv").write_text(f'path;start\nx.wav;"{text}"\n')
    (u,) = read(tmp_path, {"table": str(tmp_path / "clock.csv")}).utterances
    assert u.start_s == pytest.approx(hours * 3600 + minutes * 60 + seconds + thousandths / 1000)
