"""How long a training takes with threads that spin while they wait, with threads that sleep, and with one thread.

Runs `tfser train` in processes of their own, in turns, each with the runs in a folder of its own, so that each trains from the
beginning. Prints wall and processor seconds of each (start of the program included), the load before and after, and whether the
UA of the fold is the same. On an idle machine this shows what sleeping costs, on a shared one what it saves.

    python benchmarks/waiting.py --cache CACHE --corpus emodb --features logmel --head mean_pool --fold 1
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfser.pipeline.resources.cores import cores
from tfser.pipeline.resources.threads import PASSIVE

WAYS: dict[str, dict[str, str]] = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "library's default": {},
    "sleeping": dict(PASSIVE),
    "one thread": {**PASSIVE, "OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Print a row a way."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--ways", default="library's default,sleeping", help=f"of {', '.join(WAYS)}, by commas")
    chosen, words = options.parse_known_args()
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in chosen.ways.split(",")}
    scores: dict[str, str] = {}
    before = os.getloadavg()[0]
    for number in range(chosen.rounds):
        for way in times if number % 2 == 0 else reversed(times):
            with tempfile.TemporaryDirectory() as runs:
                wall, cpu, scores[way] = train(WAYS[way], chosen.cache, Path(runs), words)
            times[way].append((wall, cpu))
    print(f"{cores()} cores, load {before:.1f} before and {os.getloadavg()[0]:.1f} after, {' '.join(words)}")
    for way, found in times.items():
        wall, cpu = (statistics.median(of[i] for of in found) for i in (0, 1))
        print(f"{way:<20}{wall:>8.1f} s{cpu:>8.1f} s of processor time   UA {scores[way]}")


def train(variables: dict[str, str], cache: Path, runs: Path, words: list[str]) -> tuple[float, float, str]:
    """Return the wall and processor seconds of a training, and its score."""
    clean = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    if variables.keys().isdisjoint(PASSIVE):
        program = "import torch; from tfser.cli import main; main()"  # loaded before the program can say anything
    else:
        program = "from tfser.cli import main; main()"
    places = ["train", "--cache", str(cache), "--runs", str(runs)]
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'tfser'; {program}", *places]
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = clean | variables
    done = subprocess.run([*command, *words, "--format", "json"], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    row = json.loads(done.stdout)[0]
    return wall, cpu, str(next((row[key] for key in ("UA", "pooled_UA", "mean_UA") if row.get(key) is not None), row))


if __name__ == "__main__":
    main()
