"""A disk that is really full: each command that writes ends in one line, leaves nothing half-written, and goes on with room.

The disk is a small file system in memory, which takes the rights to mount one; whoever has none sees these tests skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import read_corpus
from tfser.pipeline.extraction.new_shards import AS_USUAL, write_lacking
from tfser.pipeline.features.feature_set import Described

from .conftest import fill_with_tones, run

DISK_BYTES = 24 << 20
RUNS = "--head", "logreg", "--features", "logmel", "--corpus", "toy"


@dataclass(frozen=True)
class Made:
    """What is there before a command: a cache with everything in it, one that was only scanned, a store, the sounds."""

    cache: Path
    scanned: Path
    store: Path
    sounds: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    there = Made(cache=folder / "cache", scanned=folder / "scanned", store=folder / "store", sounds=folder / "sounds")
    cache = Cache(there.cache)
    fill_with_tones(cache, there.sounds)
    shutil.copytree(there.cache / "corpora", there.scanned / "corpora")
    rows = read_corpus(cache, "toy").utterances.select(["utterance_id", "content_hash"]).to_pylist()
    config = {"kind": "encoder", "family": "noise", "layer": "all", "layers": 2}
    stack = Described(name="noise/all", kind="noise", config=config, dim=8, dtype="float32", hop_s=0.02)
    frames = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    write_lacking(cache, stack, "toy", [{**row, "frames": 20} for row in rows], lambda shards, row: frames, AS_USUAL)
    assert run("train", *RUNS, "--cache", there.cache).exit_code == 0
    assert run("cache", "push", f"file://{there.store}", "--cache", there.cache).exit_code == 0
    return there


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder whose disk holds `DISK_BYTES`."""
    folder = tmp_path_factory.mktemp("disk")
    mount = shutil.which("mount")
    if os.name != "posix" or os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small disk takes the rights to")
    if subprocess.run([mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def in_cache(*words: str) -> Callable[[Made, Path], list[object]]:
    """Return what makes a command on the cache that lies on the small disk."""
    return lambda made, disk: [*words, "--cache", disk / "cache"]


def to_output(name: str, *words: str) -> Callable[[Made, Path], list[object]]:
    """Return what makes a command that writes one file onto the small disk, from a cache elsewhere."""
    return lambda made, disk: [*words, "--cache", made.cache, "--output", disk / name]


def scan(made: Made, disk: Path) -> list[object]:
    table = ("--corpus", "table", "--root", made.sounds, "--table", made.sounds / "toy.csv")
    return ["scan", *table, "--name", "toy", "--cache", disk / "cache"]


COMMANDS: dict[str, tuple[str | None, Callable[[Made, Path], list[object]]]] = {
    "scan": (None, scan),
    "extract": ("scanned", in_cache("extract", "--corpus", "toy", "--features", "logmel")),
    "collapse": ("cache", in_cache("cache", "collapse", "--features", "noise/all", "--layer", "1")),
    "train": ("cache", in_cache("train", *RUNS, "--fold", "3", "--seed", "1")),
    "train-network": ("cache", in_cache("train", "--head", "mean_pool", "--features", "logmel", "--fold", "3", "--epochs", "2")),
    "push": (None, lambda made, disk: ["cache", "push", f"file://{disk / 'store'}", "--cache", made.cache]),
    "pull": (None, lambda made, disk: ["cache", "pull", f"file://{made.store}", "--cache", disk / "cache"]),
    "report": (None, to_output("report.html", "report")),
    "sql": (None, to_output("rows.csv", "sql", "SELECT * FROM utterances, range(200)", "--format", "csv")),
    "sql-parquet": (None, to_output("rows.parquet", "sql", "SELECT * FROM utterances, range(200)", "--format", "parquet")),
    "plot": (None, to_output("figure.pdf", "plot", "confusion")),
    "protocol-export": (None, to_output("split.csv", "protocol", "export", "loso-speaker", "--corpus", "toy")),
}
"""What lies on the disk before, if anything, and what is typed."""

INDEXES = ("catalogue", "locks/")
"""What may be there or not: an index that the next command makes anew, and locks."""


def fill(disk: Path, made: Made, before: str | None) -> None:
    """Empty the disk, and put on it what lies there before a command."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if before is not None:
        # Without its catalogue, an old file of which would give its room to the command that replaces it.
        shutil.copytree(getattr(made, before), disk / "cache", ignore=shutil.ignore_patterns("catalogue*"))


def contents(disk: Path) -> dict[str, int]:
    """Return the files below a folder with their sizes, but for indexes."""
    found = {path.relative_to(disk).as_posix(): path.stat().st_size for path in disk.rglob("*") if path.is_file()}
    return {name: size for name, size in found.items() if not name.removeprefix("cache/").startswith(INDEXES)}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, share: float, made: Made, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, command = COMMANDS[name]
    words = command(made, disk)
    # What others have taken meanwhile is not known before: the check that comes first must not be all that there is.
    monkeypatch.setattr("tfser.pipeline.extraction.new_shards.check_room", lambda *args: DISK_BYTES)
    monkeypatch.setattr("tfser.pipeline.extraction.extract._check_disk", lambda *args: None)
    fill(disk, made, before)
    at_first = contents(disk)
    done = run(*words)
    assert done.exit_code == 0, done.output
    whole = contents(disk)
    new = {path for path in whole if path not in at_first}
    assert new

    fill(disk, made, before)
    room = int(share * sum(whole[path] for path in new))
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)
    failed = run(*words)
    assert_one_line(failed)
    left = contents(disk)
    assert not [path for path in left if path.endswith(".tmp") or ".tmp." in path], left
    # Whatever has the name of something new is whole, but for two files that are written once at first and again at the end;
    # of objects in a store the commit decides, which comes last.
    halves = [path for path in new & left.keys() if left[path] < whole[path] and "/objects/" not in path]
    assert not [path for path in halves if not path.endswith(("run.json", "protocols.json"))], halves

    ballast.unlink()
    again = run(*words)
    assert again.exit_code == 0, again.output
    after = contents(disk)
    assert after.keys() == whole.keys()
    if (disk / "cache").exists():
        assert run("cache", "verify", "--cache", disk / "cache").exit_code == 0
    if name == "push":  # nothing that was left counts as an object
        monkeypatch.setenv("TFSER_CACHE", str(disk / "pulled"))
        ended = run("cache", "pull", f"file://{disk / 'store'}")
        assert ended.exit_code == 0, ended.output


def assert_one_line(result: Any) -> None:
    """Look at the end of a command: exit code 1, and one last line that says what to do."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("tfser: ")]
    assert len(lines) == 1 and result.stderr.splitlines()[-1] == lines[0], result.stderr
    assert "make room" in lines[0] or "name another file" in lines[0]
