"""A full training step of TF-Mamba at the paper's size: forward, cross-entropy and CMDT, backward, clipping, AdamW.

Batch 32, 326 frames of 1024, 4 classes, the preset `full`; sizes are options. In one process and interleaved rounds, so that a
busy neighbour hurts all variants alike: on a CPU the portable scan in float32 and bfloat16; on a GPU the fused kernel of
mamba-ssm (where it is installed), the portable scan, and the portable scan compiled. Says how much of the machine's measured
matrix rate each reaches (multiply-accumulates of matrix products, forward and backward, over the rate of one large product in
the same precision), and how far loss and gradients lie from the portable scan's in float32.

    python benchmarks/head_step.py
    python benchmarks/head_step.py --batch-size 8 --threads 1 --format json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tfser.heads.models.layer_mix import build_module
from tfser.pipeline.resources.memory import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of computing the step."""

    scan: str
    precision: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return f"{'compiled ' if self.compiled else ''}{self.scan} {self.precision}"


def main() -> None:
    """Print a row a variant."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in (("batch-size", 32), ("frames", 326), ("width", 1024), ("classes", 4), ("rounds", 5)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--threads", type=int)
    options.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    options.add_argument("--no-keep-memory", action="store_true", help="let the C library return freed memory, as by default")
    options.add_argument("--format", choices=("table", "json"), default="table")
    chosen = options.parse_args()
    if not chosen.no_keep_memory:
        keep_freed_memory()
    result = measure(chosen)
    if chosen.format == "json":
        print(json.dumps(result, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print(f"{'variant':<28}{'ms':>9}{'min':>9}{'utt/s':>9}{'of rate':>9}{'peak MB':>9}{'loss off':>10}{'grad off':>10}")
    for row in result["rows"]:
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}"
        print(
            f"{row['variant']:<28}{row['ms']:>9.1f}{row['min_ms']:>9.1f}{row['utterances_per_s']:>9.1f}{row['share']:>9.2f}"
            f"{peak:>9}{row['loss_off']:>10.1e}{row['gradient_off']:>10.1e}"
        )


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run all variants that the machine has."""
    import torch
    from torch import nn

    from tfser.heads import head
    from tfser.heads.models.ssd import unavailable
    from tfser.heads.training.cost import count_macs
    from tfser.heads.training.losses import cmdt
    from tfser.heads.training.peak import peak_bytes
    from tfser.pipeline.resources.devices import processor

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    spec = head("tf_mamba")
    recipe = spec.recipe()
    B, L, D = chosen.batch_size, chosen.frames, chosen.width
    config = spec.settled(spec.preset(), hop_s=0.02, longest=L, device=device)
    torch.manual_seed(0)
    frames, lengths = torch.randn(B, L, D, device=device), torch.full((B,), L, device=device)
    labels = torch.arange(B, device=device) % chosen.classes
    first = build_module(spec, replace(config, scan="chunked"), D, chosen.classes)
    macs = count_macs(first, torch.randn(1, L, D), torch.full((1,), L))

    variants = [Variant(scan="chunked", precision="float32"), Variant(scan="chunked", precision="bfloat16")]
    if device != "cpu":
        variants.append(Variant(scan="chunked", precision="bfloat16", compiled=True))
    reason = unavailable("mamba_ssm", device)
    if reason is None:
        variants += [Variant(scan="mamba_ssm", precision=precision) for precision in ("float32", "bfloat16")]

    def steps_of(variant: Variant) -> tuple[Callable[[], float], nn.Module]:
        model = build_module(spec, replace(config, scan=variant.scan), D, chosen.classes).to(device)
        model.load_state_dict(copy.deepcopy(first.state_dict()))
        encode = torch.compile(model.encode) if variant.compiled else model.encode
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.0)  # all its work, and the same weights after it

        def step() -> float:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=variant.precision == "bfloat16"):
                M = encode(frames, lengths)
                logits = model.classify(M, lengths)
            loss = nn.functional.cross_entropy(logits.float(), labels) + recipe.cmdt * cmdt(M, lengths, labels, L, recipe)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
            optimiser.step()
            return float(loss.detach())

        return step, model

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    made = {variant: steps_of(variant) for variant in variants}
    losses = {variant: step() for variant, (step, _) in made.items()}
    exact = [p.grad.float().clone() for p in made[variants[0]][1].parameters()]
    largest = max(float(gradient.abs().max()) for gradient in exact)
    off = {
        variant: max(float((p.grad.float() - e).abs().max()) for p, e in zip(model.parameters(), exact, strict=True)) / largest
        for variant, (_, model) in made.items()
    }
    times: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for _ in range(chosen.rounds):
        for variant, (step, _) in made.items():
            wait()
            began = time.perf_counter()
            step()
            wait()
            times[variant].append(time.perf_counter() - began)
    rates = {precision: matrix_rate(device, precision) for precision in {v.precision for v in variants}}
    rows = []
    for variant, (step, _) in made.items():
        seconds = statistics.median(times[variant])
        rows.append(
            {
                "variant": variant.name,
                "ms": 1000 * seconds,
                "min_ms": 1000 * min(times[variant]),
                "utterances_per_s": B / seconds,
                "tflop_per_s": 6e-12 * macs * B / seconds,
                "share": 6 * macs * B / seconds / rates[variant.precision],
                "peak_bytes": peak_bytes(step, torch.device(device)),
                "loss_off": abs(losses[variant] / losses[variants[0]] - 1),
                "gradient_off": off[variant],
            }
        )
    machine = {
        "processor": processor(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": f"{B} x {L} x {D}",
        "macs_per_utterance": macs,
        **{f"matrix_tflop_per_s_{name}": round(rate / 1e12, 3) for name, rate in rates.items()},
        "mamba_ssm": reason or "available",
        "memory_kept": not chosen.no_keep_memory and device == "cpu",
    }
    return {"machine": machine, "rows": rows}


def matrix_rate(device: str, precision: str) -> float:
    """Return the floating-point operations a second of one large product of matrices, the best of several."""
    import torch

    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


if __name__ == "__main__":
    main()
