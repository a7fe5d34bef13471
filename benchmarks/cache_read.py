"""How fast cached features are read, beside memcpy and beside one .npy file an utterance.

Makes random features shaped like a corpus of emotional speech (utterances of 0.6 to 30 s, shards as extraction cuts
them), in HDF5, in Parquet and as .npy files, and reads them in turn from the page cache, in interleaved rounds, so that
a busy neighbour hurts all alike. Medians over the rounds; the bar is 0.5 of memcpy, the goal 0.8.

    python benchmarks/cache_read.py                      # 0.25 GB each of float16 and float32, 80 and 1024 wide
    python benchmarks/cache_read.py --gb 1 --dim 1024 --rounds 9 --format json

"compared" is what a process pays that reads frames for the first time: a CRC-32 of every utterance (`--verify once`).

Like is compared with like: into fresh memory (whose pages the kernel has to provide, for memcpy too) and into an array
that was used before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfser.pipeline.extraction.new_shards import SHARD_BYTES, SHARD_UTTERANCES
from tfser.pipeline.shards.packed import FeatureRow, forget_compared, load_packed
from tfser.pipeline.shards.reader import ShardReader
from tfser.pipeline.shards.rows import read_rows, write_rows
from tfser.pipeline.shards.writer import ShardMember, write_shard


@dataclass(frozen=True, kw_only=True)
class Case:
    """Features to read: utterances of ``lengths`` frames, one after another in ``frames`` (sum of frames, dim)."""

    frames: np.ndarray
    lengths: np.ndarray

    @property
    def offsets(self) -> np.ndarray:
        """First frame of each utterance, and their sum."""
        return np.concatenate([[0], np.cumsum(self.lengths)])


def make_case(gb: float, dim: int, dtype: str, frames_per_s: int, seed: int) -> Case:
    """Return random features of about ``gb`` 10^9 bytes; lengths are log-normal, median 3.6 s, 0.6 to 30 s."""
    rng = np.random.default_rng(seed)
    wanted = max(int(gb * 1e9 / dim / np.dtype(dtype).itemsize), 30 * frames_per_s)
    lengths: list[int] = []
    while sum(lengths) < wanted:
        seconds = np.clip(rng.lognormal(np.log(3.6), 0.6, size=256), 0.6, 30.0)
        lengths.extend((seconds * frames_per_s).astype(int).tolist())
    total = np.cumsum(lengths)
    kept = np.array(lengths[: int(np.searchsorted(total, wanted)) + 1])
    frames = np.empty((int(kept.sum()), dim), dtype)
    for start in range(0, len(frames), 4096):
        block = frames[start : start + 4096]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    return Case(frames=frames, lengths=kept)


def write_case(case: Case, folder: Path) -> dict[str, list[FeatureRow]]:
    """Write the case in all formats; return the rows of each, in the order of the utterances."""
    offsets, dtype = case.offsets, str(case.frames.dtype)
    ids = [f"utterance_{i:06d}" for i in range(len(case.lengths))]
    shards = cut(case)
    for kind in ("hdf5", "parquet"):
        for shard, places in enumerate(shards):
            members = [
                ShardMember(utterance_id=ids[i], content_hash="", frames=case.frames[offsets[i] : offsets[i + 1]]) for i in places
            ]
            write_rows(write_shard(folder / kind, f"{shard:04d}", members, dtype=dtype, format=kind))
    (folder / "npy").mkdir()
    for i, name in enumerate(ids):
        np.save(folder / "npy" / f"{name}.npy", case.frames[offsets[i] : offsets[i + 1]])
    rows = {}
    for kind in ("hdf5", "parquet"):
        rows[kind] = [
            FeatureRow(
                utterance_id=row["utterance_id"],
                path=folder / kind / row["shard"],
                first_frame=row["first_frame"],
                frames=row["frames"],
                dim=row["dim"],
                checksum=row["checksum"],
            )
            for row in read_rows(folder / kind).to_pylist()
        ]
    rows["npy"] = [
        FeatureRow(utterance_id=name, path=folder / "npy" / f"{name}.npy", first_frame=0, frames=int(n), dim=0)
        for name, n in zip(ids, case.lengths, strict=True)
    ]
    return rows


def cut(case: Case) -> list[range]:
    """Return the utterances of each shard."""
    shards, start, held = [], 0, 0
    for i, length in enumerate(case.lengths):
        held += int(length) * case.frames.shape[1] * case.frames.itemsize
        if held >= SHARD_BYTES or i + 1 - start >= SHARD_UTTERANCES or i + 1 == len(case.lengths):
            shards.append(range(start, i + 1))
            start, held = i + 1, 0
    return shards


def load_npy(rows: list[FeatureRow], out: np.ndarray) -> None:
    """Read one .npy file an utterance into ``out``, the way most training scripts do."""
    at = 0
    for row in rows:
        frames = np.load(row.path)
        out[at : at + len(frames)] = frames
        at += len(frames)


def compared(rows: list[FeatureRow], out: np.ndarray) -> None:
    """Read everything as a process does that reads it first: each utterance is compared with its checksum."""
    forget_compared()
    load_packed(rows, out=out)


def visit(rows: list[FeatureRow], order: np.ndarray, out: np.ndarray) -> None:
    """Copy every utterance, one at a time and in random order, from the memory map to its own place of one batch."""
    readers = {path: ShardReader(path) for path in {row.path for row in rows}}
    try:
        for i in order:
            row = rows[i]
            out[: row.frames] = readers[row.path].frames_of(row.first_frame, row.frames)
    finally:
        for reader in readers.values():
            reader.close()


def visit_npy(rows: list[FeatureRow], order: np.ndarray, out: np.ndarray) -> None:
    """Do the same with one .npy file an utterance."""
    for i in order:
        frames = np.load(rows[i].path)
        out[: len(frames)] = frames


def visit_memory(case: Case, order: np.ndarray, out: np.ndarray) -> None:
    """Do the same from memory: the memcpy of the random-access pass."""
    offsets = case.offsets
    for i in order:
        out[: case.lengths[i]] = case.frames[offsets[i] : offsets[i + 1]]


def by_shard(case: Case, out: np.ndarray) -> None:
    """Copy a shard's worth at a time: C libraries copy more than the last cache holds with other instructions."""
    offsets = case.offsets
    for places in cut(case):
        a, b = offsets[places.start], offsets[places.stop]
        out[a:b] = case.frames[a:b]


def measure(case: Case, rows: dict[str, list[FeatureRow]], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Time every way of reading in ``rounds`` interleaved rounds; return one record for each."""
    order = np.random.default_rng(seed).permutation(len(case.lengths))
    shuffled = {kind: [those[i] for i in order] for kind, those in rows.items()}
    used, batch = case.frames.copy(), case.frames[: case.lengths.max()].copy()
    ways: dict[tuple[str, str], Callable[[], object]] = {
        ("all, fresh memory", "memcpy"): lambda: case.frames.copy(),
        ("all, fresh memory", "hdf5"): lambda: load_packed(rows["hdf5"], verify="never"),
        ("all, fresh memory", "parquet"): lambda: load_packed(rows["parquet"], verify="never"),
        ("all, fresh memory", "npy"): lambda: load_npy(rows["npy"], np.empty_like(case.frames)),
        ("all, used memory", "memcpy"): lambda: np.copyto(used, case.frames),
        ("all, used memory", "memcpy by shard"): lambda: by_shard(case, used),
        ("all, used memory", "hdf5"): lambda: load_packed(rows["hdf5"], out=used, verify="never"),
        ("all, used memory", "parquet"): lambda: load_packed(rows["parquet"], out=used, verify="never"),
        ("all, used memory", "hdf5 compared"): lambda: compared(rows["hdf5"], used),
        ("all, used memory", "parquet compared"): lambda: compared(rows["parquet"], used),
        ("all, used memory", "npy"): lambda: load_npy(rows["npy"], used),
        ("all in random order, used memory", "memcpy"): lambda: np.copyto(used, case.frames),
        ("all in random order, used memory", "hdf5"): lambda: load_packed(shuffled["hdf5"], out=used, verify="never"),
        ("all in random order, used memory", "parquet"): lambda: load_packed(shuffled["parquet"], out=used, verify="never"),
        ("all in random order, used memory", "npy"): lambda: load_npy(shuffled["npy"], used),
        ("one utterance at a time, random order", "memcpy"): lambda: visit_memory(case, order, batch),
        ("one utterance at a time, random order", "hdf5"): lambda: visit(rows["hdf5"], order, batch),
        ("one utterance at a time, random order", "parquet"): lambda: visit(rows["parquet"], order, batch),
        ("one utterance at a time, random order", "npy"): lambda: visit_npy(rows["npy"], order, batch),
    }
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way, read in ways.items():
            start = time.perf_counter()
            result = read()
            took = time.perf_counter() - start
            del result  # memory is given back outside the clock
            if round_:  # the first round warms the caches
                seconds[way].append(took)
    gb = case.frames.nbytes / 1e9
    speed = {way: gb / statistics.median(times) for way, times in seconds.items()}
    ratios = {
        way: statistics.median(a / b for a, b in zip(seconds[way[0], "memcpy"], times, strict=True))
        for way, times in seconds.items()
    }
    return [
        {"pass": way[0], "reader": way[1], "gb_per_s": round(speed[way], 2), "of_memcpy": round(ratios[way], 2)} for way in ways
    ]


def check(case: Case, rows: dict[str, list[FeatureRow]]) -> None:
    """Make sure that every format gives the frames that were written."""
    for kind in ("hdf5", "parquet"):
        if not np.array_equal(load_packed(rows[kind]).frames, case.frames):
            raise SystemExit(f"{kind}: what was read is not what was written")


def machine() -> dict[str, Any]:
    """Name the machine: a speed means nothing without it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    about = report["machine"]
    lines = [f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['system']}"]
    for case in report["cases"]:
        lines += [
            "",
            f"{case['gb']} GB of {case['dtype']}, {case['dim']} wide, {case['utterances']} utterances, "
            f"medians of {report['rounds']} rounds; bar 0.5, goal 0.8 of memcpy (hdf5)",
            f"{'pass':40}{'reader':17}{'GB/s':>8}{'of memcpy':>12}",
        ]
        for row in case["results"]:
            lines.append(f"{row['pass']:40}{row['reader']:17}{row['gb_per_s']:8.2f}{row['of_memcpy']:12.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--gb", type=float, default=0.25, help="size of each case in 10^9 bytes")
    parser.add_argument("--dim", type=int, nargs="*", default=[80, 1024], help="up to 128 at 100 frames/s, else 50")
    parser.add_argument("--dtype", nargs="*", default=["float16", "float32"], choices=["float16", "float32"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to make the files; the system's temporary folder by default")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "seed": options.seed, "cases": []}
    for dim in options.dim:
        for dtype in options.dtype:
            case = make_case(options.gb, dim, dtype, 100 if dim <= 128 else 50, options.seed)
            folder = Path(tempfile.mkdtemp(prefix="cache-read-", dir=options.folder))
            try:
                rows = write_case(case, folder)
                check(case, rows)
                results = measure(case, rows, options.rounds, options.seed)
            finally:
                shutil.rmtree(folder)
            size = round(case.frames.nbytes / 1e9, 3)
            about = {"gb": size, "dtype": dtype, "dim": dim, "utterances": len(case.lengths)}
            report["cases"].append({**about, "results": results})
    print(json.dumps(report, indent=2) if options.format == "json" else table(report))


if __name__ == "__main__":
    main()
