"""How long the report page takes from 100 stored runs, how large it is, and whether it is the same to the byte when repeated.

Makes a cache of ten experiments over ten folds (chance predictions of made-up probabilities, no training), or takes one, and runs
`tfser report` in processes of their own: wall and processor seconds of the whole program, its start included. With --profile it
prints where the time goes instead. On a machine that others use, read the processor seconds. A round before, which is not
counted, compiles the modules, as happens once after an installation.

    python benchmarks/report_time.py
    python benchmarks/report_time.py --cache CACHE --profile
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import importlib.util
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh
from tfser.pipeline.resources.cores import cores

SPEAKERS, EACH, EXPERIMENTS = 10, 52, 10
"""About as many utterances as EmoDB has; ten folds of ten experiments are 100 runs."""


def main() -> None:
    """Print a line a run of the program."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cache", type=Path, help="a cache with runs; one is made if left out")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--profile", action="store_true", help="where the time goes, in this process")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(chosen.cache or made(Path(folder) / "cache").root)
        refresh(cache)
        with open_catalogue(cache) as connection:
            runs = connection.execute("SELECT count(*), count(DISTINCT experiment) FROM runs").fetchone()
        assert runs is not None
        print(f"{cores()} cores, load {os.getloadavg()[0]:.1f}; {runs[0]} runs of {runs[1]} experiments")
        if chosen.profile:
            profile(cache, Path(folder) / "report.html")
            return
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        written(cache, Path(folder) / "report.html", environment, told=False)
        digests = [written(cache, Path(folder) / "report.html", environment) for _ in range(chosen.rounds)]
        print("the same bytes each time" if len(set(digests)) == 1 else f"NOT the same bytes: {digests}")


def made(root: Path) -> Cache:
    """Return a cache of 100 finished runs, stored as training stores them."""
    stored = stored_runs()
    cache = Cache(root)
    utterances = [replace(of, gender="FM"[int(str(of.speaker)) % 2], transcript="words that somebody reads")
                  for of in stored.make_utterances(speakers=SPEAKERS, each=EACH)]  # fmt: skip
    stored.put_utterances(cache, utterances)
    for i in range(EXPERIMENTS):
        stored.put_experiment(cache, f"mean_pool-{i}", utterances, right=0.6 + i / 30, selections=("last", "val", "test-oracle"))
    return cache


def stored_runs() -> ModuleType:
    """Return the tests' module that stores runs without training."""
    spec = importlib.util.spec_from_file_location("stored_runs", Path(__file__).parents[1] / "tests" / "stored_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(cache: Cache, target: Path, environment: Mapping[str, str], told: bool = True) -> str:
    """Write the page by the program, print what it took unless it is not to be told, and return the digest of its bytes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-m", "tfser.cli", "report", "--cache", str(cache.root), "--output", str(target)]
    subprocess.run(words, check=True, capture_output=True, env=dict(environment))
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    content = target.read_bytes()
    if told:
        print(f"{wall:.1f} s, {cpu:.1f} s of a processor, {len(content) / 1e6:.2f} MB")
    return hashlib.sha256(content).hexdigest()


def profile(cache: Cache, target: Path) -> None:
    """Print which functions the time goes to, imports included."""
    measured = cProfile.Profile()
    measured.enable()
    from tfser.heads.commands.report import report_here

    report_here(cache, target)
    measured.disable()
    pstats.Stats(measured).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
