"""Profiles of heads as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from tfser.heads.results.published import FIG_3
from tfser.heads.training.cost import Profile
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
    # Heads of segments are measured on more and shorter samples of the same sound: what each was fed stands
    # above the table, since times are of that.
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
    for line in figure_3(found):
        say(line)


def figure_3(found: Sequence[Profile]) -> list[str]:
    """Return what TF-Mamba's text on its Fig. 3 says of ShiftFormer, with ours, where both were measured at one width."""
    shown = {one.head: one for one in found if (one.head, one.preset) in (("tf_mamba", "full"), ("shiftformer", "full"))}
    if len(shown) < 2 or shown["tf_mamba"].width != shown["shiftformer"].width:
        return []
    theirs, own = shown["shiftformer"], shown["tf_mamba"]
    parameters, latency = theirs.parameters / own.parameters, theirs.latency_ms / own.latency_ms
    return [
        f"TF-Mamba's Fig. 3, in words: ShiftFormer has {FIG_3['latency']} x its latency, here {latency:.2f} x; "
        f"{FIG_3['parameters']} x its parameters, here {parameters:.2f} x"
    ]


def _three(number: float) -> float:
    """Round to about three digits, and to whole numbers above that."""
    return round(number, 0 if number >= 100 else 1 if number >= 10 else 2)
