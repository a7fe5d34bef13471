"""Every claim about a GPU in one call: what is proven, what failed, what was not reached.

Sections (benchmarks/gpu_sections.py) run one after the other, the most valuable first, each in a process of its own under a limit
of time. One that fails or is too slow stops no other. Each result is a line of JSON in `results.jsonl` as soon as it is known,
with the device and the size that it was taken at; the summary at the end names every claim of every section. Without a GPU the
same sections run at toy size on the CPU, which shows that they run and nothing else.

    python benchmarks/gpu_check.py                       # all; results in ./gpu_check_out, or in $OUT
    python benchmarks/gpu_check.py --only stacking,latency --toy

Exit code: 0 where every section came to its end and no claim failed, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

_PATIENCE = 20  # toy sections show that they run, on whatever machine: so many times their limits are theirs


@dataclass(frozen=True, kw_only=True)
class Section:
    """A process of the check: its limit in seconds, and the claims that it looks at, in their order."""

    name: str
    limit_s: int
    claims: tuple[str, ...]


SECTIONS = (
    Section(
        name="tests",
        limit_s=125,
        claims=(
            "every CUDA test passes",
            "fit on the device is fit on the CPU",
        ),
    ),
    Section(
        name="ssd",
        limit_s=75,
        claims=(
            "fused scan agrees in values, bfloat16",
            "fused scan agrees in gradients, bfloat16",
            "fused scan agrees in values, float32",
            "fused scan agrees in gradients, float32",
            "fused scan beats chunked",
            "tuning the fused scan pays",
            "compiled scan agrees",
        ),
    ),
    Section(
        name="mamba_step",
        limit_s=35,
        claims=("TF-Mamba's step in bfloat16", "a graph of TF-Mamba's step gains", "an epoch in parts, or as graphs"),
    ),
    Section(
        name="transformer",
        limit_s=60,
        claims=("protocol, plain", "protocol, graph", "protocol, streams", "protocol, vmap"),
    ),
    Section(
        name="stacking",
        limit_s=45,
        claims=("stacking mean_pool gains 2 times", "stacking tf_mamba gains 2 times"),
    ),
    Section(
        name="extraction",
        limit_s=70,
        claims=("WavLM-Large, times real time", "near the bare model", "batches pad little", "out of memory is halved"),
    ),
    Section(name="epoch", limit_s=25, claims=("an epoch from the cache beats in-loop",)),
    Section(name="resident", limit_s=15, claims=("features lie on the device once", "no wait in a training step")),
    Section(name="latency", limit_s=25, claims=("inference of TF-Mamba, fused against chunked",)),
)
"""475 seconds at most: under eight minutes with every start."""


def main() -> None:
    """Run the sections and sum up."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--only", help="names of sections, by commas")
    options.add_argument("--toy", action="store_true", help="toy sizes on the CPU, whatever there is")
    options.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu_check_out"))
    chosen = options.parse_args()
    if not chosen.toy:
        import torch

        chosen.toy = not torch.cuda.is_available()
    names = chosen.only.split(",") if chosen.only else [section.name for section in SECTIONS]
    if unknown := set(names) - {section.name for section in SECTIONS}:
        options.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(section.name for section in SECTIONS)}")
    sections = [section for section in SECTIONS if section.name in names]
    chosen.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with (chosen.out / "results.jsonl").open("w", encoding="utf-8") as file:
        for section in sections:
            for row in run(section, chosen.toy, chosen.out):
                results.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(line(row), flush=True)
    text = summary(sections, results)
    (chosen.out / "summary.txt").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if any(row["outcome"] in ("failed", "stopped") for row in results) else 0)


def run(section: Section, toy: bool, out: Path) -> Any:
    """Yield a section's results as they come; last of all, how it ended if that was not well."""
    began = time.monotonic()
    command = [sys.executable, str(HERE / "gpu_sections.py"), section.name, *(["--toy"] if toy else [])]
    with (out / f"{section.name}.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        seen: set[str] = set()
        ended = "stopped at its limit of time"
        limit_s = section.limit_s * (_PATIENCE if toy else 1)
        while (left := began + limit_s - time.monotonic()) > 0:
            try:
                text = lines.get(timeout=left)
            except queue.Empty:
                break
            if text is None:
                code = process.wait()
                ended = "" if code == 0 else f"ended with exit code {code}"
                break
            if text.startswith("{"):
                row = json.loads(text)
                seen.add(row["claim"])
                yield {"section": section.name, **row, "seconds": round(time.monotonic() - began, 1)}
        if process.poll() is None:
            os.killpg(process.pid, 9)  # the section and whatever it has started
            process.wait()
    missing = [claim for claim in section.claims if claim not in seen]
    if ended:
        reason = f"{ended}; see {section.name}.txt" + (f"; not reached: {', '.join(missing)}" if missing else "")
        yield {"section": section.name, "claim": "the section runs", "outcome": "stopped", "said": reason}


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        lines.put(text)
    lines.put(None)


def line(row: dict[str, Any]) -> str:
    """Return a result in words."""
    value = "" if row.get("value") is None else f" {row['value']:.4g} {row.get('unit', '')}".rstrip()
    bar = "" if row.get("bar") is None else f" (bar {row['bar']:g})"
    about = "; ".join(str(row[key]) for key in ("said", "size", "device") if row.get(key))
    return f"{row['outcome']:<12} {row['section']}: {row['claim']}{value}{bar}" + (f"; {about}" if about else "")


def summary(sections: Sequence[Section], results: Sequence[dict[str, Any]]) -> str:
    """Return every claim under proven, failed, measured (no bar), left out (with the reason) or not reached."""
    found: dict[str, list[str]] = {name: [] for name in ("proven", "failed", "measured", "left out", "stopped", "not reached")}
    for section in sections:
        mine = {row["claim"]: row for row in results if row["section"] == section.name}
        for claim in section.claims:
            row = mine.pop(claim, None)
            if row is None:
                found["not reached"].append(f"{section.name}: {claim}")
            else:
                found[row["outcome"]].append(line(row)[13:])
        for row in mine.values():
            found[row["outcome"]].append(line(row)[13:])
    parts = [f"{name} ({len(rows)})\n" + "".join(f"  {row}\n" for row in rows) for name, rows in found.items() if rows]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
