"""Profiles of heads as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from tfser.heads.machine.cost import Profile
from tfser.manifests.display import Output, print_rows, say, show
from tfser.manifests.wording import count, short


def print_profiles(found: Sequence[Profile]) -> None:
    """Print profiles for people, under lines that say how they were measured."""
    of = found[0]
    show(
        f"{of.processor} ({of.device}), {count(of.threads, 'CPU thread')}, {of.precision}: "
        f"{count(of.batch_size, 'utterance')} of {count(of.frames, 'frame')}, {of.classes} classes"
        + "".join(f"; scan {scan}" for scan in sorted({one.config["scan"] for one in found if one.config.get("branches")}))
    )
    fed: dict[str, list[str]] = {}
    for one in found:
        fed.setdefault(f"{one.samples} x {one.sample_frames} x {one.width}", []).append(one.head)
    for shape, names in fed.items():
        show(f"  {', '.join(dict.fromkeys(names))}: {shape}")

    def megabytes(number: int | None) -> float | str:
        return "n/a" if number is None else _three(number / 1e6)

    rows = [
        {
            "head": one.head,
            "preset": one.preset,
            "parameters": f"{one.parameters:,}",
            "paper": "" if one.paper_parameters is None else f"{one.paper_parameters / 1e6:.2f} M",
            "MACs": short(one.macs),
            "ms": _three(one.latency_ms),
            "p90": _three(one.latency_p90_ms),
            "step_ms": _three(one.step_ms),
            "MB": megabytes(one.latency_peak_bytes),
            "step_MB": megabytes(one.step_peak_bytes),
        }
        for one in found
    ]
    columns = [name for name in rows[0] if name != "paper" or any(row["paper"] for row in rows)]
    print_rows(rows, Output.table, columns)
    say(f"MACs: multiply-accumulates per utterance. ms: forward pass, median and 90th percentile of {of.repeats}.")
    say("step: forward and backward. MB: the most memory that each holds beyond weights and frames.")


def _three(number: float) -> float:
    """Round to about three digits, and to whole numbers above that."""
    return round(number, 0 if number >= 100 else 1 if number >= 10 else 2)
