"""An epoch of TF-Mamba with whole batches and with batches in length-sorted parts, side by side in one process.

Utterances have the lengths of a real corpus (a table with a column of seconds, such as IEMOCAP's), frames are random. Both ways
train the same model on the same batches, epoch by epoch in turns, so that a busy neighbour hurts both alike. Prints the time of
each, their ratio, how many frames were computed for each valid one, and how far the losses of the epochs lie apart.

    python benchmarks/padding.py --lengths iemocap_utterances.tsv
    python benchmarks/padding.py --lengths iemocap_utterances.tsv --parts 2,3,4,6,8 --width 128 --share 0.1
    python benchmarks/padding.py --lengths iemocap_utterances.tsv --width 16 --hop 0.08 --epochs 1 --warm-up 0     # minutes
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfser.pipeline.resources.memory import keep_freed_memory
from tfser.pipeline.resources.threads import wait_passively

if TYPE_CHECKING:
    from tfser.heads.training.loop import Trainer


def main() -> None:
    """Print a row for each number of parts."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--lengths", type=Path, help="csv or tsv with a column of seconds; without it, lengths as IEMOCAP's are")
    options.add_argument("--column", default="duration_s")
    options.add_argument("--hop", type=float, default=0.02, help="seconds from one frame to the next")
    options.add_argument("--share", type=float, default=1.0, help="of the utterances that are trained on, drawn at random")
    options.add_argument("--width", type=int, default=128, help="of frames and network; the paper's is 1024")
    options.add_argument("--head", default="tf_mamba")
    options.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    options.add_argument("--parts", default="4", help="numbers, by commas; 1 (whole batches) is always measured")
    options.add_argument("--epochs", type=int, default=2, help="that are timed")
    options.add_argument("--warm-up", type=int, default=1, help="epochs before them; 0 where one is long enough")
    options.add_argument("--threads", type=int)
    options.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    wait_passively()
    keep_freed_memory()
    result = measure(chosen)
    if chosen.format == "json":
        print(json.dumps(result, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in result["about"].items()))
    print(f"{'parts':>5}{'epoch s':>10}{'CPU s':>9}{'ratio':>8}{'of CPU':>8}{'padding':>9}{'loss off':>11}")
    for row in result["rows"]:
        print(
            f"{row['parts']:>5}{row['epoch_s']:>10.2f}{row['cpu_s']:>9.2f}{row['ratio']:>8.2f}{row['cpu_ratio']:>8.2f}"
            f"{row['padding']:>9.2f}{row['loss_off']:>11.1e}"
        )


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Let the ways take turns, and sum up."""
    import torch

    from tfser.heads.training.parts import padding
    from tfser.pipeline.resources.devices import processor

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    lengths = frames_of(chosen)
    ways = [1, *(int(of) for of in chosen.parts.split(",") if int(of) > 1)]
    trainers = {parts: make_trainer(chosen, lengths, parts, device) for parts in ways}
    times: dict[int, list[tuple[float, float]]] = {parts: [] for parts in ways}
    losses: dict[int, list[float]] = {parts: [] for parts in ways}
    for epoch in range(1, chosen.epochs + chosen.warm_up + 1):
        for parts in ways if epoch % 2 else reversed(ways):
            began, cpu = time.perf_counter(), time.process_time()
            torch.manual_seed(epoch)
            loss, _ = trainers[parts].train_epoch(epoch)  # its mean waits for the device
            times[parts].append((time.perf_counter() - began, time.process_time() - cpu))
            losses[parts].append(loss)
    first = trainers[1].recipe
    rows = []
    for parts in ways:
        wall, cpu = (statistics.median(of[i] for of in times[parts][chosen.warm_up :]) for i in (0, 1))
        rows.append({"parts": parts, "epoch_s": wall, "cpu_s": cpu, "padding": padding(lengths, first.batch_size, parts)})
        rows[-1] |= {"ratio": rows[0]["epoch_s"] / wall, "cpu_ratio": rows[0]["cpu_s"] / max(cpu, 1e-9)}
        rows[-1]["loss_off"] = max(abs(a - b) / abs(b) for a, b in zip(losses[parts], losses[1], strict=True))
    about = {
        "head": chosen.head,
        "utterances": len(lengths),
        "frames": int(lengths.sum()),
        "width": chosen.width,
        "batch": first.batch_size,
        "precision": first.precision,
        "device": device,
        "processor": processor(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.system(),
    }
    return {"about": about, "rows": rows}


def frames_of(chosen: argparse.Namespace) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return how many frames each utterance has (n,), 20 seconds at most."""
    random = np.random.default_rng(0)
    if chosen.lengths is None:  # IEMOCAP's mean is 4.6 s, its longest 34 s
        seconds = np.exp(random.normal(1.3, 0.65, 5531))
    else:
        with chosen.lengths.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if chosen.lengths.suffix == ".tsv" else ","))
        seconds = np.array([float(row[chosen.column]) for row in rows])
    kept = random.permutation(len(seconds))[: max(2, round(chosen.share * len(seconds)))]
    return np.clip((seconds[kept] / chosen.hop).astype(np.int64), 1, round(20 / chosen.hop))


def make_trainer(chosen: argparse.Namespace, lengths: np.ndarray[Any, np.dtype[np.int64]], parts: int, device: str) -> Trainer:
    """Return a training of the head's default preset and recipe on random frames, the same for any number of parts."""
    import torch

    from tfser.heads import head
    from tfser.heads.spec.fold import FoldData
    from tfser.heads.spec.precision import settle_precision
    from tfser.heads.training.loop import Trainer
    from tfser.pipeline.shards.packed import PackedFeatures

    random = np.random.default_rng(1)
    n = len(lengths)
    frames = random.standard_normal((int(lengths.sum()), chosen.width), dtype=np.float32)
    features = PackedFeatures(
        frames=frames, offsets=np.concatenate([[0], np.cumsum(lengths)]), utterance_ids=tuple(f"u{i}" for i in range(n))
    )
    none = np.zeros(0, dtype=np.int64)
    labels = random.integers(0, 4, n)
    data = FoldData(features=features, labels=labels, classes=tuple("abcd"), train=np.arange(n), val=none, test=none)
    spec = head(chosen.head)
    recipe = settle_precision(replace(spec.recipe(), precision=chosen.precision, parts=parts), device)
    config = spec.settled(spec.preset(), hop_s=chosen.hop, longest=int(lengths.max()), device=device)
    return Trainer(data, spec, config, recipe, 0, torch.device(device))


if __name__ == "__main__":
    main()
