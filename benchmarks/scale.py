"""What a short utterance costs among thousands of others: scan, a second scan, extraction, catalogue, and memory.

In: how many utterances, one after the other; each is 0.2 s of noise of its own in a WAV file of 6 kB, in folders of a
thousand, with a speaker and a label in its name. Each step is a process of its own, `python -m tfser.cli`, as a user runs
it. Out: a row for each step and size with seconds by the clock and of the processor, microseconds of the processor an
utterance, and the most memory; then, for each step, the cost at the largest size over that at the smallest. A cost that is
flat is 1; below 1.2 it counts as flat here. A second scan has nothing to do: its bar is 5 s at 100,000 files.

    python benchmarks/scale.py --sizes 1000,10000
    python benchmarks/scale.py --sizes 1000,10000,100000 --folder DIR
    python benchmarks/scale.py --fingerprints 100000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, RATE = 0.2, 16000

FLAT = 1.2
"""Cost an utterance at the largest size over that at the smallest, up to which it is flat."""


def main() -> None:
    """Print what was measured."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", default="1000,10000", help="utterances, ascending, a list")
    options.add_argument("--folder", type=Path, help="where the files and caches go; a temporary folder if left out")
    options.add_argument("--fingerprints", type=int, help="search so many made-up fingerprints for near-duplicates instead")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    if chosen.fingerprints:
        print(json.dumps(search(chosen.fingerprints), indent=2))
        return
    sizes = [int(size) for size in chosen.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="tfser-scale-") as temporary:
        folder = chosen.folder or Path(temporary)
        rows = [row for size in sizes for row in measure(folder / str(size), size)]
    if chosen.format == "json":
        print(json.dumps(rows, indent=2))
        return
    print(f"{'step':<12}{'utterances':>12}{'clock s':>10}{'cpu s':>10}{'us each':>10}{'peak MB':>10}")
    for row in rows:
        numbers = f"{row['clock_s']:>10.2f}{row['cpu_s']:>10.2f}{row['us_each']:>10.0f}{row['peak_mb']:>10.0f}"
        print(f"{row['step']:<12}{row['utterances']:>12,}{numbers}")
    for step in dict.fromkeys(row["step"] for row in rows):
        mine = [row for row in rows if row["step"] == step]
        # The start of the program is no cost of an utterance: of few of them it would be all.
        start = next(row["cpu_s"] for row in rows if row["step"] == "nothing")
        each = [max(row["cpu_s"] - start, 0) / row["utterances"] for row in mine]
        if len(each) > 1 and each[0]:
            times = each[-1] / each[0]
            print(f"{step}: {times:.2f} times the cost an utterance, {'flat' if times <= FLAT else 'not flat'}")


def measure(folder: Path, size: int) -> list[dict[str, Any]]:
    """Take a corpus of a size through all steps."""
    audio, cache = folder / "audio", folder / "cache"
    made = make(audio, size)
    if made:
        print(f"{made:,} files written to {audio}", file=sys.stderr)
    here = ("--cache", str(cache))
    corpus = ("--corpus", "table", "--table", str(audio / "corpus.csv"))
    steps = {
        "nothing": ("corpora", "--format", "json"),
        "scan": ("scan", *corpus, *here),
        "scan again": ("scan", *corpus, *here),
        "extract": ("extract", *corpus, *here, "--features", "logmel"),
        "again": ("extract", *corpus, *here, "--features", "logmel"),
        "catalogue": ("sql", "SELECT count(*) FROM features", *here),
        "audit": ("audit", "--corpus", "corpus", *here),
    }
    return [{"step": name, "utterances": size, **run(words, size)} for name, words in steps.items()]


def make(folder: Path, size: int) -> int:
    """Write the files of a corpus that are not there, and the table of them; return how many were written."""
    generator = np.random.default_rng(0)
    written, lines = 0, ["path,label,speaker"]
    noise = (3000 * generator.standard_normal(1 << 20)).astype("<i2")
    for i in range(size):
        name = f"{i // 1000:04}/{i:07}.wav"
        lines.append(f"{name},{('anger', 'joy', 'neutral', 'sadness')[i % 4]},s{i // 100:05}")
        path = folder / name
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        first = int(generator.integers(0, len(noise) - 8000))
        # Its own number in its first samples: no two files hold the same sound.
        samples = noise[first : first + int(SECONDS * RATE)].copy()
        samples[:4] = np.frombuffer(np.int64(i).tobytes(), "<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
        written += 1
    table = folder / "corpus.csv"
    text = "\n".join(lines) + "\n"
    if not table.exists() or table.read_text(encoding="utf-8") != text:
        table.write_text(text, encoding="utf-8")
    return written


def run(words: tuple[str, ...], size: int) -> dict[str, Any]:
    """Run a command in a process of its own; return what it took."""
    began = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-m", "tfser.cli", *words], os.environ, file_actions=_quiet())
    _, status, used = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):  # an audit that finds something ends with 1
        raise SystemExit(f"tfser {' '.join(words)} ended with {code}")
    cpu = used.ru_utime + used.ru_stime
    return {"clock_s": seconds, "cpu_s": cpu, "us_each": cpu / size * 1e6, "peak_mb": used.ru_maxrss / 1024}


def search(count: int) -> dict[str, Any]:
    """Search fingerprints of two seconds for near-duplicates, one in a hundred of which is a copy of another with noise.

    Words of 20 ms follow each other as those of speech do: from one to the next some bits change, so that words recur.
    """
    from tfser.pipeline.copies.search import find_pairs

    generator = np.random.default_rng(0)
    words = 100
    bits = np.empty((count, words), np.uint32)
    for first in range(0, count, 1000):  # in parts: all flips at once would be more than the search itself takes
        part = bits[first : first + 1000]
        flips = generator.random((len(part), words, 32), dtype=np.float32) < 0.12
        part[:] = np.bitwise_xor.accumulate(np.packbits(flips, axis=-1).view(">u4")[..., 0].astype(np.uint32), axis=1)
    copies = generator.choice(count, count // 100, replace=False)
    for i in copies[: len(copies) // 2 * 2].reshape(-1, 2):
        noise = np.packbits(generator.random((words, 32)) < 0.03, axis=-1).view(">u4")[..., 0].astype(np.uint32)
        bits[i[1]] = bits[i[0]] ^ noise
    planted = {tuple(sorted(pair)) for pair in copies[: len(copies) // 2 * 2].reshape(-1, 2).tolist()}
    prints = list(bits)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    found = {(pair.a, pair.b) for pair in find_pairs(prints)}
    return {
        "fingerprints": count,
        "planted": len(planted),
        "found of them": len(planted & found),
        "others": len(found - planted),
        "clock_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "us_each": round((time.process_time() - cpu) / count * 1e6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "of which the search": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }


def _quiet() -> list[tuple[Any, ...]]:
    return [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_WRONLY, 0) for descriptor in (1, 2)]


if __name__ == "__main__":
    main()
