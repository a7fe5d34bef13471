"""The scan alone, forward and backward: ours step by step, chunked and compiled, transformers' Mamba-2, and the fused kernel.

Batch 32, 326 frames, 32 heads of 64, states 64 wide; sizes are options. In one process and interleaved rounds, so that a busy
neighbour hurts all alike; ratios are medians over the rounds. The scan step by step keeps a state for each frame for the
backward pass (18 GB at these sizes), so it goes through the batch in slices, which is faster than all at once.

    python benchmarks/ssd.py
    python benchmarks/ssd.py --threads 1 --batch-size 8 --ways chunked transformers --format json

On a CPU in float32, with these bars: chunked at least 8 times as fast as step by step, and 1.4 times as fast as transformers'
path in plain PyTorch (the function that its Mamba-2 falls back to without kernels, at our chunk: 256, its default, is slower).
On a GPU the fused kernel of mamba-ssm against the portable scan, plain and compiled, in float32 and bfloat16; shares are of
the rate of one large bfloat16 product. ``off`` is the largest difference in the output or any gradient from the first row,
as a share of the largest number of that tensor.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tfser.pipeline.resources.memory import keep_freed_memory

KEPT = "--no-keep-memory" not in sys.argv and keep_freed_memory()  # before torch is imported

import torch
import transformers
from head_step import matrix_rate
from torch import Tensor

from tfser.heads.models.ssd import CHUNK, ssd, unavailable
from tfser.pipeline.resources.devices import processor

Scan = Callable[..., Tensor]
Run = Callable[[], list[Tensor]]
Key = tuple[str, torch.dtype]
WAYS = {
    "cpu": ("reference", "chunked", "transformers", "compiled"),
    "cuda": ("chunked", "compiled", "mamba_ssm"),
}


def main() -> None:
    """Print a row a way of computing the scan."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    sizes = {"batch-size": 32, "frames": 326, "heads": 32, "head-width": 64, "groups": 1, "state": 64}
    for name, value in {**sizes, "rounds": 7, "slice": 4}.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--threads", type=int)
    options.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    options.add_argument("--ways", nargs="+", choices=sorted({way for ways in WAYS.values() for way in ways}))
    options.add_argument("--no-keep-memory", action="store_true", help="let the C library return freed memory, as by default")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    result = measure(chosen)
    print(json.dumps(result, indent=2) if chosen.format == "json" else table(result))


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run every way that the device has."""
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.device(device).type
    load = os.getloadavg()[0]
    scans, left_out = find_scans(chosen.ways or WAYS[kind], device)
    dtypes = (torch.float32,) if kind == "cpu" else (torch.float32, torch.bfloat16)
    runs: dict[Key, Run] = {}
    for dtype in dtypes:
        inputs, weights = make(chosen, device, dtype)
        for way, scan in scans.items():
            size = chosen.slice if way == "reference" else chosen.batch_size
            runs[way, dtype] = partial(step, scan, inputs, weights, size)

    off = warm_up(runs, left_out)
    wall, busy = clock({key: runs[key] for key in off}, chosen.rounds, kind)
    rate = matrix_rate(device, "float32" if kind == "cpu" else "bfloat16")
    rows = [
        {
            "way": key[0],
            "precision": str(key[1]).removeprefix("torch."),
            "ms": 1000 * statistics.median(times),
            "min_ms": 1000 * min(times),
            "cpu_ms": 1000 * statistics.median(busy[key]),
            "times_chunked": ratio(times, wall.get(("chunked", key[1]))),
            "share": 6 * macs(chosen) / statistics.median(times) / rate,
            "off": off[key],
        }
        for key, times in wall.items()
    ]
    machine = {
        "processor": processor(device),
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "memory_kept": KEPT,
        "matrix_tflop_per_s": round(rate / 1e12, 3),
    }
    about = {name: getattr(chosen, name) for name in ("batch_size", "frames", "heads", "head_width", "groups", "state", "rounds")}
    bars = {}
    for way, bar in (("reference", 8.0), ("transformers", 1.4)):
        found_ratio = next((row["times_chunked"] for row in rows if row["way"] == way), None)
        if found_ratio is not None:
            bars[way] = {"times_chunked": found_ratio, "bar": bar}
    return {"machine": machine, "sizes": about, "rows": rows, "left_out": left_out, "bars": bars}


def warm_up(runs: dict[Key, Run], left_out: dict[str, str]) -> dict[Key, float]:
    """Compile and tune what wants to be; return how far each lies from the first. What fails is added to ``left_out``."""
    off: dict[Key, float] = {}
    exact: list[Tensor] = []
    for key, run in runs.items():
        try:
            run()
            found = run()
        except Exception as error:  # a compiler that is not there
            left_out[key[0]] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        exact = exact or found
        off[key] = max(float((a.double() - b.double()).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))
    return off


def clock(runs: dict[Key, Run], rounds: int, kind: str) -> tuple[dict[Key, list[float]], dict[Key, list[float]]]:
    """Return the seconds of each run in each round: of the clock, and of the processor."""
    steps = 1 if kind == "cpu" else 10
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    wall: dict[Key, list[float]] = {key: [] for key in runs}
    busy: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            wait()
            began, worked = time.perf_counter(), time.process_time()
            for _ in range(steps):
                run()
            wait()
            wall[key].append((time.perf_counter() - began) / steps)
            busy[key].append((time.process_time() - worked) / steps)
    return wall, busy


def find_scans(ways: Sequence[str], device: str) -> tuple[dict[str, Scan], dict[str, str]]:
    """Return the scans that can run on a device, and why the others cannot."""
    scans: dict[str, Scan] = {}
    left_out = {}
    for way in ways:
        if way == "compiled":
            scans[way] = torch.compile(partial(ssd, chunk=CHUNK), dynamic=False)
        elif way == "transformers":
            try:
                from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
            except ImportError as error:
                left_out[way] = str(error)
            else:
                scans[way] = partial(plain_mamba2, inspect.unwrap(mamba2_chunk_scan))  # never a kernel
        elif (reason := unavailable(way, device)) is not None:  # type: ignore[arg-type]
            left_out[way] = reason
        else:
            scans[way] = partial(ssd, backend=way, chunk=CHUNK)
    return scans, left_out


def plain_mamba2(scan: Scan, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan as transformers' Mamba-2 block does between its convolution and its norm; dt has had its softplus."""
    return scan(x, dt, A, B, C, CHUNK, D=D)


def make(chosen: argparse.Namespace, device: str, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the six inputs, with steps and decays as Mamba-2 begins, and weights for the sum of the output."""
    b, L, h, p, g, n = (getattr(chosen, name) for name in ("batch_size", "frames", "heads", "head_width", "groups", "state"))
    random = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(b, L, h, p, generator=random) for _ in range(2))
    B, C = (torch.randn(b, L, g, n, generator=random) for _ in range(2))
    dt = torch.empty(b, L, h).uniform_(math.log(1e-3), math.log(1e-1), generator=random).exp()
    A = -torch.empty(h).uniform_(1, 16, generator=random)
    D = torch.randn(h, generator=random)
    x, B, C, weights = (tensor.to(device, dtype) for tensor in (x, B, C, weights))
    return (x, dt.to(device), A.to(device), B, C, D.to(device)), weights


def step(scan: Scan, inputs: tuple[Tensor, ...], weights: Tensor, size: int) -> list[Tensor]:
    """Return the output and the gradients of its weighted sum, ``size`` samples of the batch at a time."""
    parts = []
    for first in range(0, len(weights), size):
        of = slice(first, first + size)
        leaves = [(tensor[of] if tensor.dim() > 1 else tensor).detach().requires_grad_() for tensor in inputs]
        y = scan(*leaves)
        parts.append([y.detach(), *torch.autograd.grad(y, leaves, weights[of])])
    if len(parts) == 1:
        return parts[0]
    all_of = zip(*parts, strict=True)
    return [torch.cat(tensors) if tensors[0].dim() > 1 else torch.stack(tensors).sum(dim=0) for tensors in all_of]


def macs(chosen: argparse.Namespace) -> int:
    """Return the multiply-accumulates of the chunked form's matrix products, forward."""
    frames = chosen.batch_size * chosen.frames
    inside = min(CHUNK, chosen.frames) * (chosen.groups * chosen.state + chosen.heads * chosen.head_width)
    states = 2 * chosen.state * chosen.heads * chosen.head_width
    return int(frames * (inside + states))


def ratio(times: list[float], others: list[float] | None) -> float | None:
    """Return how many times as long as others something takes, in the middle round; None: there is nothing to compare with."""
    return None if others is None else statistics.median(a / b for a, b in zip(times, others, strict=True))


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = [
        ", ".join(f"{key} {value}" for key, value in result["machine"].items()),
        ", ".join(f"{key} {value}" for key, value in result["sizes"].items()),
        f"{'way':<14}{'precision':<11}{'ms':>9}{'min':>9}{'cpu ms':>9}{'x chunked':>11}{'of rate':>9}{'off':>10}",
    ]
    for row in result["rows"]:
        times = "" if row["times_chunked"] is None else f"{row['times_chunked']:.2f}"
        lines.append(
            f"{row['way']:<14}{row['precision']:<11}{row['ms']:>9.1f}{row['min_ms']:>9.1f}{row['cpu_ms']:>9.1f}{times:>11}"
            f"{row['share']:>9.3f}{row['off']:>10.1e}"
        )
    lines += [f"{way} left out: {reason}" for way, reason in result["left_out"].items()]
    for way, bar in result["bars"].items():
        word = "meets" if bar["times_chunked"] >= bar["bar"] else "misses"
        lines.append(f"chunked is {bar['times_chunked']:.1f} x as fast as {way}: {word} the bar of {bar['bar']:g}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
