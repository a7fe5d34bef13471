"""Audio and targets that are off, by the command line: one clear line each, the rest goes on, nothing is left half written."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfser.heads.prediction.folder import left_of, new_folder
from tfser.heads.prediction.inputs import measured, named_inputs, standard_input
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.in_turn import run_here
from tfser.heads.runs.plan import entry_of, make_plan
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import refresh
from tfser.manifests.errors import CannotWriteError, UsageError

from ..conftest import fill_with_tones, run


class OneRun:
    """A cache with one run of the quickest head, and the folder of its audio."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.audio = Cache(folder / "cache"), folder / "audio"
        fill_with_tones(self.cache, self.audio, each=(2, 2, 2), noise=0.3, seconds=0.3)
        experiment = resolve(self.cache, Request(head="logreg", folds="1", device="cpu"))
        plan = make_plan(self.cache, [entry_of(experiment)])
        assert run_here(self.cache, plan.runs, plan.findings, tell=lambda event: None) == []
        refresh(self.cache)
        self.run_id = experiment.run_id(1)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> OneRun:
    return OneRun(tmp_path_factory.mktemp("one"))


@pytest.mark.slow
def test_every_kind_of_recording_is_heard_or_listed_with_its_reason(one: OneRun, tmp_path: Path) -> None:
    """Depths, rates, channels and containers are heard; what is no sound is told, and counts add up."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(8000)
    for name, samples, rate, subtype in (
        ("24bit.wav", noise, 16000, "PCM_24"),
        ("float.wav", noise, 16000, "FLOAT"),
        ("stereo.wav", np.stack([noise, -noise / 2], axis=1), 16000, "PCM_16"),
        ("8k.wav", noise, 8000, "PCM_16"),
        ("192k.wav", np.repeat(noise, 6), 192000, "PCM_16"),
        ("x.flac", noise, 16000, "PCM_16"),
        ("x.mp3", np.repeat(noise, 2), 32000, "MPEG_LAYER_III"),
        ("nan.wav", np.where(np.arange(8000) == 99, np.nan, noise), 16000, "FLOAT"),
        ("none.wav", np.empty(0), 16000, "PCM_16"),
        ("one.wav", noise[:1], 16000, "PCM_16"),
    ):
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
    (tmp_path / "text.wav").write_text("no sound")
    whole = (tmp_path / "24bit.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    done = run("predict", one.run_id, tmp_path, "--cache", one.cache.root, "--format", "json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    heard = {Path(row["input"]).name for row in said["predictions"]}
    reasons = {Path(row["input"]).name: row["reason"] for row in said["unusable"]}
    assert heard == {"24bit.wav", "cut.wav", "float.wav", "stereo.wav", "8k.wav", "192k.wav", "x.flac", "x.mp3"}
    assert said["damaged"] == [str(tmp_path / "cut.wav")] and "damaged, and heard as far as they go" in done.stderr
    assert set(reasons) == {"nan.wav", "none.wav", "one.wav", "text.wav", "empty.wav", "loop.wav"}
    assert "NaN" in reasons["nan.wav"] and "no samples" in reasons["none.wav"] and "shorter than one window" in reasons["one.wav"]
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert said["inputs"] == 14 == said["predicted"] + len(said["unusable"])
    words = ("predict", one.run_id, tmp_path / "cut.wav", tmp_path / "x.flac", tmp_path / "x.mp3", "--timeline")
    done = run(*words, "--format", "rttm", "--cache", one.cache.root)
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"cut", "x.flac", "x.mp3"}  # who says what is told apart
    assert "damaged, and heard as far as they go" in done.stderr


def test_what_lies_behind_links_is_heard_or_listed(tmp_path: Path) -> None:
    """A folder of links to folders was once walked past without a word."""
    (tmp_path / "disk" / "day1").mkdir(parents=True)
    soundfile.write(tmp_path / "disk" / "day1" / "a.wav", np.zeros(8000), 16000)
    asked = tmp_path / "asked"
    asked.mkdir()
    (asked / "day1").symlink_to(tmp_path / "disk" / "day1")
    (asked / "loop").symlink_to(asked / "loop")
    (asked / "back").symlink_to(asked)
    usable, lost = measured(named_inputs([str(asked)]))
    assert [piece.name for piece in usable] == [str(asked / "day1" / "a.wav")]
    assert [(of.name, "Too many levels" in of.reason) for of in lost] == [(str(asked / "loop"), True)]


def test_where_there_is_no_audio(one: OneRun, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for word, message in ((tmp_path, "holds no audio file (1 others)"), (tmp_path / "loop.wav", "none of 1 input")):
        done = run("predict", one.run_id, word, "--cache", one.cache.root)
        assert done.exit_code in (1, 2) and message in done.stderr and "Traceback" not in done.output
    outside = os.path.relpath(one.audio / "a" / "anger0.wav", Path.cwd())
    assert run("predict", one.run_id, outside, "--cache", one.cache.root).exit_code == 0


@pytest.mark.parametrize("where", ["file", "full", "link", "missing", "read-only"])
def test_targets_that_cannot_be(one: OneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Exit code 1 or 2, one line, and nothing beside the target."""
    targets = {"file": tmp_path / "file", "missing": tmp_path / "no" / "where", "read-only": Path("/proc/model")}
    target = targets.get(where, tmp_path / "model")
    if where == "file":
        target.write_text("mine")
    elif where == "link":
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    elif where == "full":
        monkeypatch.setattr("tfser.heads.prediction.export.write_description", _full)
    before = sorted(tmp_path.iterdir())
    done = run("export", one.run_id, target, "--cache", one.cache.root)
    assert done.exit_code in (1, 2) and len(done.stderr.strip().splitlines()) == 1 and str(target) in done.stderr
    assert "Traceback" not in done.output and sorted(tmp_path.iterdir()) == before
    assert where != "file" or target.read_text() == "mine"


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_an_output_that_fails_midway_leaves_what_was_there(one: OneRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine\n")
    monkeypatch.setattr("tfser.heads.commands.predicting._write", _full)
    done = run("predict", one.run_id, one.audio, "--cache", one.cache.root, "--output", out)
    assert done.exit_code != 0 and out.read_text() == "mine\n" and list(tmp_path.iterdir()) == [out]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "m") as aside:
        (aside / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CannotWriteError, match="no space left"), new_folder(tmp_path / "m"):
        _full()
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_another_process_writes_meanwhile_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by another process meanwhile"), new_folder(tmp_path / "m"):
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "theirs").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "m", tmp_path / "m" / "theirs"]


def test_what_a_killed_export_left_is_named_and_kept(one: OneRun, tmp_path: Path) -> None:
    left = tmp_path / ".m.4711-0a1b2c3d.tmp"
    left.mkdir()
    assert left_of(tmp_path / "m") == [left] and left_of(tmp_path / "other") == []
    done = run("export", one.run_id, tmp_path / "m", "--cache", one.cache.root)
    assert done.exit_code == 0 and left.name in done.stderr and left.is_dir()


class Parted(io.BytesIO):
    """A pipe that hands on a few bytes at a time, and parts samples."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3)


def test_standard_input_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = (1000 * np.random.default_rng(0).standard_normal(500)).astype("<i2")
    with standard_input(["-"], 16000, Parted(samples.tobytes())) as path:
        assert path is not None
        np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], samples)
    assert not path.exists()
    with standard_input(["-"], None, Parted(b"any bytes")) as path:
        assert path is not None and path.read_bytes() == b"any bytes"
    odd = Parted(samples.tobytes()[:-1])
    with pytest.raises(UsageError, match="999 bytes are no whole number"), standard_input(["-"], 8000, odd):
        pass
    monkeypatch.setattr("tfser.heads.prediction.inputs._MOST_RAW", 100)
    with pytest.raises(UsageError, match="write them to files"), standard_input(["-"], 8000, Parted(samples.tobytes())):
        pass
    monkeypatch.setattr("shutil.copyfileobj", _full)
    with pytest.raises(CannotWriteError, match=r"no space left on device.*TMPDIR"), standard_input(["-"], None, Parted(b"x")):
        pass


def test_a_recording_that_is_too_long_says_what_takes_it(one: OneRun, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.tile(0.1 * np.random.default_rng(0).standard_normal(8000), 4), 16000)
    words = ("predict", one.run_id, tmp_path / "long.wav", "--cache", one.cache.root)
    refused = run(*words, "--max-duration", 1)
    assert refused.exit_code == 1 and "longer than 1 s; --timeline takes any length" in refused.stderr
    assert run(*words, "--timeline", "--window", 60).stdout.count("long.wav") == 1  # one window, as long as there is sound


@pytest.mark.slow
def test_control_c_ends_in_one_line(one: OneRun, tmp_path: Path) -> None:
    """Sent as soon as standard input is waited for: code 130, no traceback, no output."""
    words = [sys.executable, "-m", "tfser.cli", "predict", one.run_id, "-", "--cache", str(one.cache.root)]
    words += ["--output", str(tmp_path / "out.csv")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=_hears_interrupts)
    assert process.stdin is not None
    process.stdin.write("RIFF")
    process.stdin.flush()
    for _ in range(600):
        if _sleeps(process.pid):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and len(err.strip().splitlines()) <= 1 and not out
    assert list(tmp_path.iterdir()) == []


def _hears_interrupts() -> None:
    """Undo what a shell's background jobs inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _sleeps(pid: int) -> bool:
    """Tell whether a process has imported what it needs and waits in a read."""
    status = Path(f"/proc/{pid}/syscall")
    try:
        return status.read_text().startswith("0 0x0 ")  # read(0, ...)
    except OSError:
        return False


def test_a_folder_of_pickles_alone_and_one_of_nothing(one: OneRun, tmp_path: Path) -> None:
    for name in ("model.ckpt", "heads.joblib", "x.pkl"):
        (tmp_path / "pickles").mkdir(exist_ok=True)
        (tmp_path / "pickles" / name).write_bytes(b"\x80\x04")
    (tmp_path / "nothing").mkdir()
    for folder, message in (("pickles", "pickles can run code"), ("nothing", "no exported model")):
        done = run("predict", tmp_path / folder, one.audio)
        assert done.exit_code == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
        shutil.rmtree(tmp_path / folder)
