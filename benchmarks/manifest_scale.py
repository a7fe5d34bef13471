"""How the catalogue and each audit grow: 10 k, 100 k and 1 M utterances in 10 folds, synthesised as rows, without audio.

Each size runs in a process of its own. Printed for each: the rows written, the catalogue built from nothing, opened, each audit
of `group-kfold:10` over a corpus with dialogues, sentences, copies, flags and two sample rates, and the peak of the process's
memory while it ran (Linux; elsewhere the peak of the process so far).

    python benchmarks/manifest_scale.py                        # all three
    python benchmarks/manifest_scale.py --utterances 10000 --format json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.near_duplicates import FINGERPRINTS, PAIRS
from tfser.manifests.catalogue.reading import ensure_protocol, open_catalogue, refresh
from tfser.manifests.display import Output, print_rows
from tfser.manifests.files import write_json

FOLDS = 10
PROTOCOL = f"group-kfold:{FOLDS}"

ROWS = """
SELECT 'scale' AS corpus, printf('u%08d', i) AS utterance_id, printf('s%04d/u%08d.wav', i // 200, i) AS path,
  printf('s%04d', i // 200) AS speaker, CASE WHEN i // 200 % 2 = 0 THEN 'F' ELSE 'M' END AS gender,
  printf('S%04d', i // 2000) AS session, printf('d%06d', i // 20) AS dialogue, NULL::VARCHAR AS scenario,
  printf('t%04d', i % 997) AS sentence, NULL::VARCHAR AS transcript,
  ['anger', 'happiness', 'neutral', 'sadness'][h % 4 + 1] AS label, NULL::VARCHAR AS raw_label, NULL::DOUBLE AS valence,
  NULL::DOUBLE AS arousal, NULL::DOUBLE AS dominance, NULL::DOUBLE AS start_s, NULL::DOUBLE AS end_s,
  0.5 + (h % 10007) / 1000 AS duration_s, CASE WHEN h % 50 = 0 THEN 8000 ELSE 16000 END AS sample_rate, NULL::VARCHAR AS split,
  CASE WHEN i % 1000 = 0 THEN 'the same' || (i // 2000) ELSE md5(i::VARCHAR) END AS content_hash, 0.9 AS peak,
  -20 - (h % 2003) / 100 AS rms_db, 0.0 AS clipped_share, CASE WHEN h % 100 = 0 THEN ['clipped'] ELSE []::VARCHAR[] END AS flags,
  100 AS size, 1 AS mtime_ns
FROM (SELECT i, (hash(i) % 1000003)::BIGINT AS h FROM range({n}) r(i))
"""


def make(cache: Cache, utterances: int) -> None:
    """Write a corpus's rows, fingerprints and near-duplicates (one in 500) as scans and searches do."""
    folder = cache.corpus("scale")
    folder.mkdir(parents=True)
    with duckdb.connect() as connection:
        rows = ROWS.format(n=utterances)

        def copy(query: str, name: str) -> None:
            connection.execute(f"COPY ({query}) TO '{folder / name}' (FORMAT parquet, COMPRESSION zstd)")

        copy(rows, "utterances.parquet")
        nothing = "NULL::VARCHAR"
        columns = ("corpus", "utterance_id", "path", "stage", "reason")
        copy(f"SELECT {', '.join(f'{nothing} AS {c}' for c in columns)} LIMIT 0", "skipped.parquet")
        copy(f"SELECT content_hash, 90 AS frames FROM read_parquet('{folder}/utterances.parquet')", FINGERPRINTS)
        copy(
            "SELECT md5(i::VARCHAR) AS content_hash, md5((i + 7919)::VARCHAR) AS other_hash, 0.9 AS similarity, "
            f"'copy' AS evidence, 0.0 AS offset_s, 2.0 AS overlap_s FROM range(1, {utterances - 7919}, 500) r(i)",
            PAIRS,
        )
    write_json(
        folder / "corpus.json",
        {"corpus": "scale", "adapter": "table", "root": "/", "options": {}, "default_protocol": PROTOCOL, "scanned_at": "2025"},
    )


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Return seconds and peak memory (MB) of one piece of work."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        clear.write_text("5")  # the peak starts anew
        fresh = True
    except OSError:
        fresh = False
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    if fresh:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1]) / 1000
    return {"seconds": round(seconds, 2), "peak_mb": round(peak), "result": result}


def run(utterances: int, folder: Path) -> list[dict[str, Any]]:
    """Return one record for each piece of work."""
    cache = Cache(folder / "cache")
    cache.make()
    lines = [{"what": "rows written", **measured(lambda: make(cache, utterances)), "found": ""}]
    lines.append({"what": "catalogue built", **measured(lambda: refresh(cache)), "found": ""})
    ensure_protocol(cache, "scale", PROTOCOL)

    def opened() -> None:
        with open_catalogue(cache):
            pass

    lines.append({"what": "catalogue opened", **measured(opened), "found": ""})
    with open_catalogue(cache) as connection:
        total = 0.0
        for audit in packaged_audits():
            work = measured(lambda audit=audit: run_audits(connection, protocol=PROTOCOL, corpus="scale", audits=[audit]))
            total += work["seconds"]
            found = [f for f in work["result"] if f.level != "ok"]
            shown = f"{found[0].level}, {sum(f.rows for f in found)} rows" if found else ""
            lines.append({"what": audit.name, **work, "found": shown})
        peak = max(line["peak_mb"] for line in lines[3:])
        lines.append({"what": "all audits", "seconds": round(total, 2), "peak_mb": peak, "found": ""})
    return [{"utterances": utterances, **{k: line[k] for k in ("what", "seconds", "peak_mb", "found")}} for line in lines]


def main() -> None:
    """Run each size in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--utterances", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to make the files; the system's temporary folder by default")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if len(options.utterances) == 1:
        with tempfile.TemporaryDirectory(prefix="manifest-scale-", dir=options.folder) as folder:
            rows = run(options.utterances[0], Path(folder))
    else:
        where = ["--folder", str(options.folder)] if options.folder else []
        for size in options.utterances:
            command = [sys.executable, __file__, "--utterances", str(size), "--format", "json", *where]
            rows += json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print_rows(rows, Output(options.format))


if __name__ == "__main__":
    main()
