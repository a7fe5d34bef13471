"""Profiles of heads as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from tfser.heads.commands.columns import fitted
from tfser.heads.results.published import FIG_3
from tfser.heads.training.cost import Profile
from tfser.manifests.display import Output, print_rows, say, show, terminal_width
from tfser.manifests.wording import count, short

_MAY_GO = ("p90", "MB", "step_MB")
"""Columns that a narrow terminal can do without, the first one first."""


def print_profiles(profiles: Sequence[Profile]) -> None:
    """Print profiles for people, under lines that say how they were measured."""
    first = profiles[0]
    scans = sorted({profile.config["scan"] for profile in profiles if profile.config.get("branches")})
    show(
        f"{first.processor} ({first.device}), {count(first.threads, 'CPU thread')}, {first.precision}: "
        f"{count(first.batch_size, 'utterance')} of {count(first.frames, 'frame')}, {first.classes} classes"
        + "".join(f"; scan {scan}" for scan in scans)
    )
    # Heads of segments are measured on more and shorter samples of the same sound: what each was fed stands
    # above the table, since times are of that.
    fed: dict[str, list[str]] = {}
    for profile in profiles:
        fed.setdefault(f"{profile.samples} x {profile.sample_frames} x {profile.width}", []).append(profile.head)
    for shape, names in fed.items():
        show(f"  {', '.join(dict.fromkeys(names))}: {shape}")

    def megabytes(number: int | None) -> float | str:
        return "n/a" if number is None else _three(number / 1e6)

    rows = [
        {
            "head": profile.head,
            "preset": profile.preset,
            "parameters": f"{profile.parameters:,}",
            "paper": "" if profile.paper_parameters is None else f"{profile.paper_parameters / 1e6:.2f} M",
            "MACs": short(profile.macs),
            "ms": _three(profile.latency_ms),
            "p90": _three(profile.latency_p90_ms),
            "step_ms": _three(profile.step_ms),
            "MB": megabytes(profile.latency_peak_bytes),
            "step_MB": megabytes(profile.step_peak_bytes),
        }
        for profile in profiles
    ]
    columns = [name for name in rows[0] if name != "paper" or any(row["paper"] for row in rows)]
    lines, narrow = fitted([{name: row[name] for name in columns} for row in rows], terminal_width(), _MAY_GO)
    print_rows(lines, Output.table)
    for line in (*narrow, *notes_of_papers(profiles)):
        say(line)
    say(f"MACs: multiply-accumulates per utterance. ms: forward pass, median and 90th percentile of {first.repeats}.")
    say("step: forward and backward. MB: the most memory that each holds beyond weights and frames.")
    for line in figure_3(profiles):
        say(line)


def notes_of_papers(profiles: Sequence[Profile]) -> list[str]:
    """Return what is printed of heads beside which no count stands, heads of one note in one line."""
    heads: dict[str, dict[str, None]] = {}
    for profile in profiles:
        if profile.paper_note is not None:
            heads.setdefault(profile.paper_note, {})[profile.head] = None
    return [f"{', '.join(names)}: {note}" for note, names in heads.items()]


def figure_3(profiles: Sequence[Profile]) -> list[str]:
    """Return what TF-Mamba's text on its Fig. 3 says of ShiftFormer, with ours, where both were measured at one width."""
    both = (("tf_mamba", "full"), ("shiftformer", "full"))
    shown = {profile.head: profile for profile in profiles if (profile.head, profile.preset) in both}
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
