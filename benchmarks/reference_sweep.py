"""What a sweep of reference heads takes a run, and where: as before, now, and with logistic regression fitted by one thread.

Each way runs `tfser sweep --head logreg,svm` over all folds in a process of its own and a folder of its own, in turns. Prints
wall and processor seconds a run, start of the program apart from the rest, the seconds inside of scikit-learn's fits, and whether
the stored predictions are the same to the bit.

    python benchmarks/reference_sweep.py --cache CACHE --corpus emodb --features logmel
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tfser.pipeline.resources.threads import PASSIVE

PROGRAM = """
import json, sys, time
began, used = time.perf_counter(), time.process_time()
import torch, sklearn.linear_model, sklearn.svm
from tfser.heads.training import baselines, normalise
start = time.perf_counter() - began, time.process_time() - used
if sys.argv.pop(1) == "before":
    normalise._MOST_KEPT = -1
spent = [0.0, 0.0]
def timed(function):
    def call(*args, **named):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return function(*args, **named)
        finally:
            spent[0] += time.perf_counter() - wall
            spent[1] += time.process_time() - cpu
    return call
baselines._fit_logreg, baselines._fit_svm = timed(baselines._fit_logreg), timed(baselines._fit_svm)
from tfser.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
whole = time.perf_counter() - began, time.process_time() - used
print(json.dumps({"start": start, "fits": spent, "whole": whole}), file=sys.stderr)
"""


def main() -> None:
    """Print a row a way."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--heads", default="logreg,svm")
    chosen, words = options.parse_known_args()
    digests: dict[str, str] = {}
    print(f"load {os.getloadavg()[0]:.1f}; seconds a run, by the clock / of processor time")
    for number in range(chosen.rounds):
        ways = ("before", "now", "one thread")
        for way in ways if number % 2 == 0 else reversed(ways):
            with tempfile.TemporaryDirectory() as folder:
                places = ["sweep", "--cache", str(chosen.cache), "--runs", folder, "--head", chosen.heads]
                more = ["--set", "logreg.threads=1"] if way == "one thread" else []
                command = [sys.executable, "-c", PROGRAM, way, *places, *words, *more, "--format", "json"]
                quiet = {name: value for name, value in os.environ.items() if name not in PASSIVE}
                environment = quiet if way == "before" else quiet | PASSIVE
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                found = json.loads(done.stderr.splitlines()[-1])
                files = sorted(Path(folder).rglob("predictions.parquet"))
                digests[way] = hashlib.sha256(b"".join(stored(file) for file in files)).hexdigest()
            start, fits, whole = (found[name] for name in ("start", "fits", "whole"))
            ours = [(w - s - f) / len(files) for w, s, f in zip(whole, start, fits, strict=True)]
            fit = [of / len(files) for of in fits]
            print(
                f"{way:<12}{len(files):>4} runs   start {start[0]:6.1f} / {start[1]:4.1f} (once)   "
                f"fits {fit[0]:6.2f} / {fit[1]:5.2f}   all else {ours[0]:6.2f} / {ours[1]:5.2f}",
                flush=True,
            )
    print("now as before, to the bit" if digests["now"] == digests["before"] else "predictions differ from before")


def stored(file: Path) -> bytes:
    """Return what a run predicted, as bytes."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, partitioning=None).select(["utterance_id", "level", "probabilities"])
    return json.dumps(table.to_pylist(), default=str).encode()


if __name__ == "__main__":
    main()
