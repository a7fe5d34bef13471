"""What stands in corpus folders and is no recording: links in circles, pipes, sockets, devices, folders without permission."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.pipeline.corpora import CORPORA
from tfser.pipeline.corpora.base import Reading, read_lines, read_text
from tfser.pipeline.scanning.scan import ScanReport, scan

RATE = 16000


def sound(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(3200), RATE)
    return path


def run(cache: Cache, name: str, root: Path, **options: Any) -> ScanReport:
    return scan(cache, CORPORA[name], corpus=name, root=root, options=options)


def reasons(report: ScanReport) -> dict[str | None, str]:
    return {s.path: s.reason for s in report.skipped}


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    root = tmp_path / "emodb"
    for i, name in enumerate(("03a01Fa", "03a01Wa", "08a02Fa")):
        sound(root / "wav" / f"{name}.wav", i)
    return root


@pytest.fixture
def no_permission(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Folders called `secret` cannot be read, whoever runs the tests."""
    real = os.scandir

    def refuse(path: Any = ".") -> Any:
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    yield


def test_a_link_that_leads_to_itself_stops_nobody(cache: Cache, emodb: Path) -> None:
    (emodb / "wav" / "loop").symlink_to("loop")
    (emodb / "wav" / "08a02Wa.wav").symlink_to("08a02Wa.wav")
    (emodb / "wav" / "up").symlink_to(emodb / "wav", target_is_directory=True)
    (emodb / "wav" / "10a01Fa.wav").symlink_to("not-there.wav")
    report = run(cache, "emodb", emodb)
    listed = reasons(report)
    assert report.utterances == 5 and report.decoded == 3
    assert "symbolic links" in listed["loop"] and "symbolic links" in listed["wav/08a02Wa.wav"]
    assert "No such file" in listed["wav/10a01Fa.wav"] and len(listed) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with pipes among its files")
def test_pipes_sockets_and_devices_are_listed(cache: Cache, emodb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(emodb / "wav" / "08a02Wa.wav")
    (emodb / "wav" / "10a01Fa.wav").symlink_to("/dev/zero")
    monkeypatch.chdir(emodb / "wav")  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("10a01Wa.wav")
        report = run(cache, "emodb", emodb)
    listed = reasons(report)
    assert (report.utterances, report.decoded, len(listed)) == (6, 3, 3)
    assert set(listed.values()) == {"not a file"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with pipes among its files")
def test_a_pipe_in_the_place_of_transcripts_keeps_nobody_waiting(cache: Cache, tmp_path: Path) -> None:
    root = tmp_path / "esd"
    sound(root / "0011" / "Angry" / "0011_000351.wav")
    os.mkfifo(root / "0011" / "0011.txt")
    assert run(cache, "esd", root).decoded == 1
    sound(tmp_path / "crema" / "1001_DFA_ANG_XX.wav")
    os.mkfifo(tmp_path / "crema" / "VideoDemographics.csv")
    report = run(cache, "crema_d", tmp_path / "crema")
    assert report.decoded == 1 and reasons(report) == {"VideoDemographics.csv": "not a file but a pipe, a socket or a device"}


@pytest.mark.usefixtures("no_permission")
@pytest.mark.parametrize(
    ("corpus", "file"),
    [("emodb", "wav/03a01Fa.wav"), ("tess", "OAF_angry/OAF_back_angry.wav"), ("crema_d", "x/1001_DFA_ANG_XX.wav")],
)
def test_a_folder_that_cannot_be_read_is_listed_and_the_rest_goes_on(
    cache: Cache, tmp_path: Path, corpus: str, file: str
) -> None:
    sound(tmp_path / "root" / file)
    folder = (tmp_path / "root" / file).parent / "secret"
    folder.mkdir()
    report = run(cache, corpus, tmp_path / "root")
    assert report.decoded == 1
    (reason,) = (reason for path, reason in reasons(report).items() if path and path.endswith("secret"))
    assert reason == "this folder cannot be read: Permission denied"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a system with devices among its files")
def test_a_device_in_a_table_is_no_file_of_its_name(cache: Cache, tmp_path: Path) -> None:
    sound(tmp_path / "root" / "zero.wav")
    (tmp_path / "root" / "t.csv").write_text("path\n/dev/zero\nzero.wav\n")
    report = run(cache, "table", tmp_path / "root", table=str(tmp_path / "root" / "t.csv"))
    assert (report.utterances, report.decoded) == (2, 1) and reasons(report) == {"/dev/zero": "not a file"}
    # Of its columns alone: nobody looked for a file of the device's name.
    assert len(report.notes) == 2 and all("t.csv: no column is taken for" in note for note in report.notes)


# -- transcripts -------------------------------------------------------------------------------------------------------------

CHINESE = "0001_000351\t打远一看，它们的确很是美丽\t生气\r\n0001_000352\t他的心里 很高兴 生气\r\n0001_000353 我们走吧 快乐\r\n"


def esd(root: Path, content: bytes) -> Reading:
    for number in ("000351", "000352", "000353"):
        sound(root / "0001" / "Angry" / f"0001_{number}.wav")
    (root / "0001" / "0001.txt").write_bytes(content)
    return CORPORA["esd"].read(root, {})


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8", "gb18030"])
def test_transcripts_with_a_mark_or_without(tmp_path: Path, encoding: str) -> None:
    reading = esd(tmp_path, CHINESE.encode(encoding))
    assert [u.transcript for u in reading.utterances] == ["打远一看，它们的确很是美丽", "他的心里 很高兴", "我们走吧"]
    assert not reading.notes


def test_a_file_that_holds_no_transcript_is_said(tmp_path: Path) -> None:
    reading = esd(tmp_path, b"nothing of the kind\n")
    assert [u.transcript for u in reading.utterances] == [None] * 3
    assert any("no transcript could be read in 1 of the files" in note and "0001/0001.txt" in note for note in reading.notes)


def test_text_without_zero_bytes_is_what_it_was(tmp_path: Path) -> None:
    for text, encoding in (("über", "utf-8"), ("über!", "cp1252"), ("生气", "utf-8")):
        (tmp_path / "a.txt").write_bytes(text.encode(encoding))
        assert read_text(tmp_path / "a.txt") == text
        assert read_lines(tmp_path / "a.txt") == [text]
