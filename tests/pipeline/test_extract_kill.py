"""Killed at any moment: the cache stays readable, the next run finishes exactly what is missing, to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.reader import ShardReader
from tfser.pipeline.shards.rows import read_rows
from tfser.pipeline.verify import verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork and signals")

LOGMEL = feature_set("logmel")
COUNT = 9
DRIVER = """
import sys, time
from tfser.pipeline.extraction import audio_loading
from tfser.pipeline.extraction import new_shards
new_shards.ShardWriting.__init__.__kwdefaults__["shard_utterances"] = 2
real, pause = audio_loading.decode, float(sys.argv.pop(1))
def slowly(*args, **named):
    time.sleep(pause)
    return real(*args, **named)
audio_loading.decode = slowly
from tfser import cli
cli.main()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(COUNT):
        noise = 0.1 * np.random.default_rng(i).standard_normal(4000 + 1600 * i)
        soundfile.write(folder / f"u{i}.wav", noise, 16000)
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(COUNT)))
    return folder


@pytest.fixture
def cache(tmp_path: Path, root: Path) -> Cache:
    """A cache with the corpus indexed and nothing extracted."""
    cache = Cache(tmp_path / "cache")
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv"), "columns": {}, "delimiter": None})
    return cache


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, bytes]:
    """What an extraction that nothing disturbs gives."""
    cache = Cache(tmp_path_factory.mktemp("undisturbed") / "cache")
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    extract(cache, "c", LOGMEL, shard_utterances=2)
    return frames(cache)


def folder_of(cache: Cache) -> Path:
    return cache.feature_root / LOGMEL.folder / "c"


def frames(cache: Cache) -> dict[str, bytes]:
    found = {}
    for row in read_rows(folder_of(cache)).to_pylist():
        assert row["utterance_id"] not in found, "extracted twice"
        with ShardReader(folder_of(cache) / row["shard"]) as reader:
            found[row["utterance_id"]] = reader.frames_of(row["first_frame"], row["frames"]).tobytes()
    return found


def finished(cache: Cache) -> dict[str, tuple[int, int]]:
    """Inode and time of each file that counts."""
    files = []
    for rows in folder_of(cache).glob("[!.]*.rows.parquet"):
        stem = rows.name.removesuffix(".rows.parquet")
        files += list(folder_of(cache).glob(f"{stem}.*"))
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def check_readable(cache: Cache, whole: dict[str, bytes]) -> int:
    """Assert that what is there after a kill is right; return how many utterances that is."""
    there = frames(cache)
    assert there.items() <= whole.items()
    with open_catalogue(cache) as connection:
        (live,) = connection.execute("SELECT count(*) FROM features").fetchone() or (0,)
        assert live == len(there)
    for problem in verify(cache):
        assert problem.kind == "left over" and "a writer was killed" in problem.reason
    return len(there)


def check_finish(cache: Cache, whole: dict[str, bytes], format: Any = "hdf5") -> None:
    """Assert that the next run does what is missing, all of it and nothing else."""
    there, before = check_readable(cache, whole), finished(cache)
    report = extract(cache, "c", LOGMEL, shard_utterances=2, format=format)
    assert (report.before, report.extracted, report.repaired) == (there, COUNT - there, [])
    assert before.items() <= finished(cache).items()
    assert frames(cache) == whole
    left = [p.name for p in folder_of(cache).iterdir() if p.name not in finished(cache)]
    assert left == [] and not list(cache.feature_root.rglob(".*.tmp"))


def killed(target: Callable[..., None], *args: Any, after: float | None = None) -> bool:
    """Run a target in a process of its own, kill it after a time (or let it kill itself); return whether it was killed."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    if after is not None:
        time.sleep(after)
        process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _extract(root: Path, format: Any, workers: int) -> None:
    extract(Cache(root), "c", LOGMEL, shard_utterances=2, format=format, workers=workers)


def _die_at_step(root: Path, format: Any, step: int) -> None:
    """Extract, and die before the `step`-th call to the system that writes, or in the middle of it."""
    calls = 0

    def dying(real: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                if half is not None:
                    half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call

    pwritev = getattr(os, "pwritev", None)
    if pwritev is not None:
        os.pwritev = dying(pwritev, lambda file, buffers, at: pwritev(file, buffers[:1], at))  # type: ignore[assignment]
    os.fsync = dying(os.fsync)  # type: ignore[assignment]
    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    _extract(root, format, 1)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["hdf5", "parquet"])
def test_killed_at_every_step_of_the_first_shards(cache: Cache, whole: dict[str, bytes], format: Any) -> None:
    """Each run dies one step further into what it does than the one before managed from the same state."""
    step, done, kills = 1, 0, 0
    while killed(_die_at_step, cache.root, format, step):
        kills += 1
        before = finished(cache)
        there = check_readable(cache, whole) if step % 3 == 0 else len(frames(cache))
        assert there >= done and before.items() <= finished(cache).items()
        step, done = (step + 1 if there == done else 1), there
        assert kills < 100
    assert kills > 20
    check_finish(cache, whole, format)


def rounds(cache: Cache, whole: dict[str, bytes], seed: int, seconds: float) -> int:
    """Kill extractions at random moments until the time is up; return how many kills there were."""
    chance, kills, until = random.Random(seed), 0, time.monotonic() + seconds
    reach = 0.2
    while time.monotonic() < until or (kills < 3 and time.monotonic() < until + 60):
        format = chance.choice(["hdf5", "parquet"])
        before = finished(cache)
        start = time.monotonic()
        if killed(_extract, cache.root, format, chance.randint(1, 3), after=chance.uniform(0, reach)):
            kills += 1
            assert before.items() <= finished(cache).items()
            assert frames(cache).items() <= whole.items()
        else:
            reach = max(0.02, 0.7 * (time.monotonic() - start))
            check_finish(cache, whole)
            for file in folder_of(cache).iterdir():
                file.unlink()
    check_finish(cache, whole)
    assert verify(cache) == []
    return kills


@pytest.mark.slow
def test_killed_at_random_moments(cache: Cache, whole: dict[str, bytes]) -> None:
    assert rounds(cache, whole, seed=1, seconds=4) > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_many_random_moments(cache: Cache, whole: dict[str, bytes], seed: int) -> None:
    assert rounds(cache, whole, seed=seed, seconds=30) > 20


def _hear_ctrl_c() -> None:
    """Let a child react to SIGINT as in a terminal: what a shell starts in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(cache: Cache, pause: float) -> subprocess.Popen[str]:
    """Start `tfser extract` with small shards."""
    line = [sys.executable, "-c", DRIVER, str(pause), "extract", "--corpus", "c", "--cache", str(cache.root)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c)


def wait_for_shard(cache: Cache, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and not finished(cache):
        assert time.monotonic() < until
        time.sleep(0.005)
    assert finished(cache), "it ended by itself, with nothing done"


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_the_command_line_killed(cache: Cache, whole: dict[str, bytes], count: int) -> None:
    chance = random.Random(count)
    for _ in range(count):
        with start(cache, 0.02) as process:
            wait_for_shard(cache, process)
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
        check_finish(cache, whole)
        for file in folder_of(cache).iterdir():
            file.unlink()


def test_ctrl_c_keeps_what_was_finished(cache: Cache, whole: dict[str, bytes]) -> None:
    for pause in (0.25, 0.5, 1.0, 2.0):
        with start(cache, pause) as process:
            wait_for_shard(cache, process)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        if process.returncode:
            break
        for file in folder_of(cache).iterdir():  # it was done before the signal came: again, and slower
            file.unlink()
    assert process.returncode == 130, said
    assert "interrupted; what was finished is safe" in said
    assert "Traceback" not in said
    assert 2 <= check_readable(cache, whole) < COUNT
    check_finish(cache, whole)
    assert verify(cache) == []
