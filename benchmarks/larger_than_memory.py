"""A whole `tfser train` from features that are larger than this machine's memory: what it holds, reads and takes.

In: a folder, and how much to write. ``make`` scans a corpus of short noises, and writes a feature set of that many frames for it
through the package's own writer (seeded noise that repeats a few columns, a shift for each class, in float16). ``train`` asks the
system to forget the shards (unless ``--warm``), runs the command in a process of its own, and looks at that process and at the
disk ten times a second. Out: JSON of the folder's size and the machine's memory, and of each second's phase: seconds by the clock
and of the processor, the most that the process held of its own (RssAnon: what no file stands behind), bytes read from the disk.
Nothing is removed: the folder is the caller's.

    python benchmarks/larger_than_memory.py make /big/cache --utterances 5000 --frames 226 --layers 25
    python benchmarks/larger_than_memory.py train /big/cache -- --head mean_pool --fold 1 --epochs 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
from streaming import forget

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.stored import read_corpus
from tfser.pipeline.extraction.new_shards import Array, OpenShards, Row, ShardWriting, write_lacking
from tfser.pipeline.features.feature_set import Described

CLASSES = ("anger", "happiness", "neutral", "sadness")
CORPUS, NAME = "noises", "noise/all"
SPEAKERS = 10
NOISE_COLUMNS = 64
LEAST_FREE = 4 << 30
"""Bytes that stay free on the disk: whoever shares it goes on."""


def main() -> None:
    """Make the cache, or train on it."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = options.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the cache")
    making.add_argument("folder", type=Path)
    for name, value in (("utterances", 5000), ("frames", 226), ("layers", 25), ("dim", 1024)):
        making.add_argument(f"--{name}", type=int, default=value)
    training = commands.add_parser("train", help="run `tfser train` on it, and watch")
    training.add_argument("folder", type=Path)
    training.add_argument("--warm", action="store_true", help="leave the shards in the page cache")
    training.add_argument("rest", nargs="*", help="options of `tfser train`, after --")
    chosen = options.parse_args()
    print(json.dumps(make(chosen) if chosen.command == "make" else train(chosen), indent=2))


def make(chosen: argparse.Namespace) -> dict[str, Any]:
    """Write a corpus, scan it, and write its feature set; what is there already stays."""
    before = time.perf_counter()
    sounds = chosen.folder / "sounds"
    if not (chosen.folder / "corpora" / CORPUS).exists():
        write_sounds(sounds, chosen.utterances)
        table = ("--corpus", "table", "--name", CORPUS, "--root", str(sounds), "--table", str(sounds / "noises.csv"))
        subprocess.run(tfser(chosen.folder, "scan", *table), check=True)
    dim = chosen.layers * chosen.dim
    need = int(chosen.utterances * chosen.frames * dim * 2 * 1.05)
    if shutil.disk_usage(chosen.folder).free - need < LEAST_FREE:
        raise SystemExit(f"{need / 1e9:.1f} GB would leave less than {LEAST_FREE / 1e9:.1f} GB free")
    config = {
        "kind": "encoder",
        "algorithm": 1,
        "family": "noise",
        "layer": "all",
        "layers": chosen.layers,
        "precision": "float32",
    }
    target = Described(name=NAME, kind="noise", config=config, dim=dim, dtype="float16", hop_s=0.02)
    cache = Cache(chosen.folder)
    stored = read_corpus(cache, CORPUS).utterances.select(["utterance_id", "content_hash", "label"]).to_pylist()
    generator = np.random.default_rng(0)
    lengths = (chosen.frames * generator.uniform(0.5, 1.5, len(stored))).astype(int)
    rows = [{**row, "frames": int(n)} for row, n in zip(stored, lengths, strict=True)]
    write_lacking(cache, target, CORPUS, rows, lambda shards, row: frames_of(shards, row, dim), ShardWriting())
    seconds = time.perf_counter() - before
    size = int(lengths.sum()) * dim * 2
    return {"GB": round(size / 1e9, 2), "seconds": round(seconds, 1), "MB/s": round(size / 1e6 / seconds)}


def write_sounds(folder: Path, count: int) -> None:
    """Write a tenth of a second of noise for each utterance, and the table that says who speaks and in which class."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    lines = ["path,label,speaker"]
    for i in range(count):
        with wave.open(str(folder / f"u{i:05}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes((generator.standard_normal(1600) * 3000).astype("<i2").tobytes())
        lines.append(f"u{i:05}.wav,{CLASSES[i // SPEAKERS % len(CLASSES)]},s{i % SPEAKERS}")
    (folder / "noises.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def frames_of(shards: OpenShards, row: Row, dim: int) -> Array:
    """Return an utterance's frames (frames, dim) float16: noise that its name seeds, its class shifted."""
    generator = np.random.default_rng(int(row["utterance_id"][1:]))
    narrow = generator.standard_normal((row["frames"], NOISE_COLUMNS), dtype=np.float32)
    narrow[:, CLASSES.index(row["label"])] += 1
    # A few columns repeated: noise of the whole width would take longer to draw than to write and to train on.
    return np.tile(narrow.astype(np.float16), (1, -(-dim // NOISE_COLUMNS)))[:, :dim]


def train(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run `tfser train`, and look at it ten times a second until it ends."""
    shards = sorted(chosen.folder.glob("features/*/*/*.h5"))
    if not chosen.warm:
        forget(shards)
    asked = ("--corpus", CORPUS, "--features", NAME, *chosen.rest)
    samples: list[tuple[float, int, int, float]] = []
    before = time.perf_counter()
    process = subprocess.Popen(tfser(chosen.folder, "train", *asked))
    while process.poll() is None:
        found = looked_at(process.pid)
        if found is not None:
            samples.append((time.perf_counter() - before, *found))
        time.sleep(0.1)
    size = sum(path.stat().st_size for path in shards)
    most = max(held for _, held, _, _ in samples)
    seconds, _, read, cpu = samples[-1]
    return {
        "exit": process.returncode,
        "features, GB": round(size / 1e9, 2),
        "memory of the machine, GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 2),
        "page cache": "as it was" if chosen.warm else "cold",
        "seconds": round(seconds, 1),
        "processor, s": round(cpu, 1),
        "most memory of its own, GB": round(most / 1e9, 2),
        "read from the disk, GB": round(read / 1e9, 2),
        "MB/s from the disk": round(read / 1e6 / seconds),
        "each minute": [each(samples, at) for at in range(60, int(seconds) + 60, 60)],
    }


def each(samples: list[tuple[float, int, int, float]], until: int) -> dict[str, float]:
    """Return what a minute held at the most, and what was read and computed from the beginning until its end."""
    part = [sample for sample in samples if until - 60 <= sample[0] < until]
    last = part[-1]
    return {
        "s": round(last[0]),
        "own GB": round(max(held for _, held, _, _ in part) / 1e9, 2),
        "read GB": round(last[2] / 1e9, 2),
        "cpu s": round(last[3]),
    }


def looked_at(pid: int) -> tuple[int, int, float] | None:
    """Return a process's own memory, bytes read from the disk and seconds of the processor; None once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        read = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    own = next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")), 0)
    from_disk = next(int(line.split()[1]) for line in read if line.startswith("read_bytes"))
    return own, from_disk, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def tfser(folder: Path, command: str, *words: str) -> list[str]:
    """Return the command line of a `tfser` command on the cache in a folder."""
    return [sys.executable, "-m", "tfser.cli", command, "--cache", str(folder), *words]


if __name__ == "__main__":
    main()
