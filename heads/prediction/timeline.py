"""Long recordings, window by window, in bounded memory.

What comes in: a recording of any length. What goes out: for each window its start and end in seconds, the class
probabilities and the ratings.
A window is predicted as a file would be that held nothing else: its samples at the recording's own rate are cut out,
resampled and turned into frames alone, so `tfser predict` of that piece gives the same numbers (to the rounding of
batches). Windows begin at 0, `step`, 2 `step` ...; if samples are left over at the end, one more window ends at the last
sample. A recording that is shorter than a window is one window. Blocks of the file are decoded one after the other and
let go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfser.heads.prediction.answers import evaluated
from tfser.heads.prediction.fused import Voice
from tfser.heads.prediction.inputs import Speech
from tfser.heads.prediction.outputs import Floats, Outputs, mean_of
from tfser.heads.prediction.packing import heard_part
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.derived.joint_front_end import FrontEnds
from tfser.pipeline.features.engine import AudioRow, Compute, Samples
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.sound.audio import resample, stream
from tfser.pipeline.sound.recording import Recording

AT_ONCE = 32
"""Windows that are evaluated together."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is heard from `start_s` to `end_s` of a recording; `reason` says why there is no answer, where there is
    none."""

    speech: Speech
    start_s: float
    end_s: float
    outputs: Outputs
    members: Floats
    """(M, K + T); (0, K + T) where there is no answer."""
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a row."""
        row = {"input": self.speech.name, "start_s": round(self.start_s, 4), "end_s": round(self.end_s, 4)}
        return row | self.outputs.row(self.members) | {"reason": self.reason}

    def rttm(self, name: str) -> str:
        """Return it as a line of RTTM: the class where a diarisation has the speaker, its probability as the confidence.

        Args:
            name: of the recording, from `recording_names`.
        """
        mean = mean_of(self.members)
        label = "_".join(self.outputs.predicted(mean).split())
        confidence = max(self.outputs.shares(mean).values())
        return f"SPEAKER {name} 1 {self.start_s:.3f} {self.end_s - self.start_s:.3f} <NA> <NA> {label} {confidence:.4f} <NA>"


def recording_names(inputs: Sequence[str]) -> dict[str, str]:
    """Return what recordings are called in RTTM: their file's name without suffix, or as much more as tells them apart.

    Blanks part the fields, so those in a name are written as underscores.

    >>> recording_names(["x/a.wav", "x/b c.wav", "x/b c.flac", "y/a.wav"]).values()
    dict_values(['x/a.wav', 'b_c.wav', 'b_c.flac', 'y/a.wav'])
    """
    called: dict[str, str] = {}
    ways: tuple[Callable[[Path], str], ...] = (lambda path: path.stem, lambda path: path.name, str)
    for shorten in ways:
        short = {name: "_".join(shorten(Path(name)).split()) or "-" for name in inputs if name not in called}
        times = Counter([*short.values(), *called.values()])
        called |= {name: text for name, text in short.items() if times[text] == 1 or shorten is str}
    return {name: called[name] for name in inputs}


def check_windows(window_s: float, step_s: float, fronts: FrontEnds) -> None:
    """Refuse windows that make no frame, or leave gaps.

    Raises:
        UsageError: saying what is off.
    """
    if window_s < fronts.minimum_s:
        raise UsageError(f"--window {window_s:g}: shorter than one window of the features ({fronts.minimum_s * 1000:g} ms)")
    if not 0 < step_s <= window_s:
        raise UsageError(
            f"--step {step_s:g}: must be above 0 and no longer than the window ({window_s:g} s), or sound is left out"
        )


def cut(
    blocks: Iterable[Samples], recording: Recording, window_s: float, step_s: float
) -> Iterator[tuple[float, float, Samples]]:
    """Yield the windows of a stream as start, end (both in seconds) and samples at the recording's rate.

    At any time about a block and a window are held.
    """
    held = np.empty(0, np.float32)
    first = start = 0  # of what is held, and of the next window, in samples
    last_end = 0
    rate = size = step = 0
    for block in blocks:
        if not rate:
            rate = recording.sample_rate
            size, step = max(1, round(window_s * rate)), max(1, round(step_s * rate))
        held = np.concatenate([held, block])
        while start + size <= first + len(held):
            last_end = start + size
            yield start / rate, last_end / rate, held[start - first : last_end - first]
            start += step
        # The last window may reach back by its whole length.
        keep = max(first, min(start, first + len(held) - size))
        held, first = held[keep - first :].copy(), keep
    total = first + len(held)
    if total > last_end:
        begin = max(0, total - size)
        yield begin / rate, total / rate, held[begin - first :]


def windows(
    heads: Sequence[Voice],
    fronts: FrontEnds,
    speech: Speech,
    *,
    window_s: float,
    step_s: float,
    compute: Compute | None = None,
    advance: Advance | None = None,
) -> Iterator[Window]:
    """Predict a recording window by window.

    Args:
        heads: at least one.
        fronts: make the frames of their feature sets.
        speech: the recording; it need not be measured.
        window_s: length of a window in seconds.
        step_s: from one window's start to the next.
        compute: where.
        advance: called with 0 and the seconds that are new in each window.

    Raises:
        UsageError: a head normalises by speaker, and nothing says who speaks.
        TfserError: the recording cannot be read, at its beginning or where it breaks; what came before was yielded.
    """
    compute = compute or Compute()
    if any(of.needs_speakers for of in heads):
        raise UsageError(f"{heads[0].name} normalises by speaker: a window alone does not say what that is; it has no timeline")
    recording = Recording()
    blocks = stream(speech.path, speech.start_s, speech.end_s, recording, max_duration_s=math.inf)
    batch: list[tuple[float, float, Samples]] = []
    done = 0.0
    for window in cut(blocks, recording, window_s, step_s):
        if len(batch) == AT_ONCE:  # before the next one comes in: the last batch is there when the end is known
            yield from _answered(heads, fronts, speech, batch, recording.sample_rate, compute)
            if advance is not None:
                advance(0, batch[-1][1] - done)
            done, batch = batch[-1][1], []
        batch.append(window)
    if batch:
        speech = replace(speech, is_damaged=recording.damaged)
        yield from _answered(heads, fronts, speech, batch, recording.sample_rate, compute)
        if advance is not None:
            advance(0, batch[-1][1] - done)


def _answered(
    heads: Sequence[Voice],
    fronts: FrontEnds,
    speech: Speech,
    batch: Sequence[tuple[float, float, Samples]],
    rate: int,
    compute: Compute,
) -> Iterator[Window]:
    def load(row: AudioRow, rate_hz: int) -> Samples:
        samples = resample(batch[int(row.utterance_id)][2], rate, rate_hz)
        if len(samples) < fronts.minimum_s * rate_hz:
            raise TfserError(f"{len(samples) / rate_hz * 1000:.4g} ms, shorter than one window of the features")
        return samples

    found: dict[int, Floats] = {}
    with heard_part(fronts, [(speech.name, end - start) for start, end, _ in batch], load, compute) as heard:
        if heard.places:
            answered = evaluated(heads, heard.packed, compute.devices[0], ())
            found = {place: members for place, (members, _) in zip(heard.places, answered, strict=True)}
    outputs = heads[0].outputs
    for place, (start, end, _) in enumerate(batch):
        members = found.get(place, np.empty((0, outputs.width), np.float32))
        reason = heard.reasons.get(place)
        yield Window(speech=speech, start_s=start, end_s=end, outputs=outputs, members=members, reason=reason)
