"""Training from frames that stay on disk against the same training from memory: speed, and memory held.

In: how many utterances, how long and how wide, made of seeded noise and written as shards to a temporary folder, sorted by
class. Both ways train the same head on the same fold, alternately, each in this process; the shards are read once before,
so that they lie in the system's page cache. Out: seconds of an epoch of each, streamed speed over resident (the bar is 0.8)
by the clock, and by processor time of all that a training does, whether the losses are the same to the bit, and what the
process holds of its own.

With ``--cold`` the system is asked to forget the shards before each streamed epoch (posix_fadvise), so that they come from
the disk.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --utterances 2000 --dim 3584 --head mean_pool --cold
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.shards.streamed import stream_packed
from tfser.pipeline.shards.writer import ShardMember, write_shard

BAR = 0.8
"""Streamed speed over resident, from a warm page cache."""

CLASSES = ("a", "b", "c", "d")


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in (("utterances", 400), ("frames", 300), ("dim", 512), ("epochs", 1), ("rounds", 3), ("threads", 1)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--layers", type=int, default=1, help="layers that a frame holds side by side, of --dim numbers in all")
    options.add_argument("--head", default="tf_transformer")
    options.add_argument("--cold", action="store_true", help="streamed epochs from the disk instead of the page cache")
    options.add_argument("--no-resident", action="store_true", help="only streamed, for frames that do not fit into memory")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory(prefix="tfser-streaming-") as folder:
        result = measure(chosen, make(Path(folder), chosen))
    if chosen.format == "json":
        print(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        print(f"{key:<36}{value}")


def make(folder: Path, chosen: argparse.Namespace) -> list[FeatureRow]:
    """Write float16 noise, utterances sorted by class, as shards of about 64 MB; return their rows in that order."""
    generator = np.random.default_rng(0)
    most = max(1, (64 << 20) // (chosen.frames * chosen.dim * 2))
    rows: list[FeatureRow] = []
    for first in range(0, chosen.utterances, most):
        members = []
        for i in range(first, min(first + most, chosen.utterances)):
            n = int(chosen.frames * generator.uniform(0.5, 1.5))
            frames = generator.standard_normal((n, min(chosen.dim, 64)), dtype=np.float32)
            frames[:, : len(CLASSES)] += np.eye(len(CLASSES))[i * len(CLASSES) // chosen.utterances]
            # Wide frames repeat a few columns: noise of their whole width would take longer to draw than to train on.
            wide = np.tile(frames, (1, -(-chosen.dim // frames.shape[1])))[:, : chosen.dim].astype(np.float16)
            members.append(ShardMember(utterance_id=f"u{i:07}", content_hash=f"{i:064x}", frames=wide))
        file = write_shard(folder, f"s{first:07}", members, dtype="float16", format="hdf5")
        columns = zip(file.utterance_ids, file.first_frames, file.frames, file.checksums, strict=True)
        rows += [
            FeatureRow(utterance_id=name, path=file.path, first_frame=at, frames=n, dim=file.dim, checksum=checksum)
            for name, at, n, checksum in columns
        ]
    return rows


def measure(chosen: argparse.Namespace, rows: Sequence[FeatureRow]) -> dict[str, Any]:
    """Train both ways, alternately."""
    ways = {"streamed": stream_packed} | ({} if chosen.no_resident else {"resident": load_packed})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    losses: set[float] = set()
    held = dict.fromkeys(ways, 0)
    for path in {row.path for row in rows} if not chosen.cold else ():  # the page cache is warm for both
        path.read_bytes()
    for _ in range(chosen.rounds):
        for name, read in ways.items():
            if chosen.cold and name == "streamed":
                forget({row.path for row in rows})
            before, cpu = own_memory(), time.process_time()
            with watched() as most:
                epochs = train(chosen, read(rows))
            worked[name].append(time.process_time() - cpu)
            seconds[name] += [record.train_s for record in epochs]
            losses.add(epochs[-1].loss)
            held[name] = max(held[name], most[0] - before)
    found = {name: statistics.median(of) for name, of in seconds.items()}
    size = sum(row.frames for row in rows) * chosen.dim * 2
    result: dict[str, Any] = {"head": chosen.head, "frames": f"{size / 1e9:.2f} GB"}
    result["page cache"] = "cold" if chosen.cold else "warm"
    for name, value in found.items():
        result[f"{name}: epoch, median s"] = round(value, 3)
        result[f"{name}: all epochs, s"] = [round(of, 3) for of in seconds[name]]
        result[f"{name}: processor, s a training"] = [round(of, 3) for of in worked[name]]
        result[f"{name}: memory of its own"] = f"{held[name] / 1e9:.2f} GB"
    if not chosen.no_resident:
        ratio = found["resident"] / found["streamed"]
        result["streamed speed over resident"] = f"{ratio:.2f} (bar {BAR}: {'holds' if ratio >= BAR else 'missed'})"
        least = min(worked["resident"]) / min(worked["streamed"])
        result["the same by processor time"] = f"{least:.2f} (the least of each: on a busy machine the clock says little)"
        result["same losses to the bit"] = len(losses) == 1
    return result


def train(chosen: argparse.Namespace, features: Any) -> Sequence[Any]:
    """Train a head for some epochs on three quarters of the utterances; return its history."""
    from tfser.heads import head
    from tfser.heads.spec.fold import FoldData
    from tfser.heads.training.loop import fit

    spec = head(chosen.head)
    n = len(features)
    places = np.random.default_rng(1).permutation(n)
    train, val, test = (np.sort(of) for of in np.split(places, [n * 3 // 4, n * 7 // 8]))
    labels = np.arange(n) * len(CLASSES) // n
    data = FoldData(features=features, labels=labels, classes=CLASSES, train=train, val=val, test=test, layers=chosen.layers)
    config = spec.settled(spec.preset(), hop_s=0.02, longest=int(features.lengths.max()), device="cpu")
    recipe = replace(spec.recipe(), epochs=chosen.epochs, steps=None, warmup_epochs=0.0, precision="float32")
    return fit(data, spec=spec, config=config, recipe=recipe, seed=0).history


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """Look at what the process holds of its own, twenty times a second; the most goes into the list that is yielded."""
    most, done = [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], own_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def own_memory() -> int:
    """Return the bytes that the process holds and no file stands behind; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def forget(paths: Iterable[Path]) -> None:
    """Ask the system to drop what it holds of files."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


if __name__ == "__main__":
    main()
