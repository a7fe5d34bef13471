"""What all readers of sound share: a recording while it is decoded, the rates that recordings have, and why one cannot be
used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import TfserError

RATES_HZ = (1_000, 192_000)
"""Sample rates of recordings: below, no speech is left (4 kHz is a telephone's half); above, no recorder for speech goes."""

Samples = npt.NDArray[np.float32]


class AudioError(TfserError):
    """A recording cannot be used; the message is one line: the file, if there is one, and the reason."""

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        """The message without the file, for whoever names that already."""


class TooLongError(AudioError):
    """It is longer than an utterance may be."""


class Recording:
    """A recording while it is decoded.

    Attributes:
        sample_rate: known from the first block on.
        expected: samples to come, as far as the header can be believed; None where it says nothing.
        damaged: settled when the last block was taken.
    """

    def __init__(self) -> None:
        self.sample_rate = 0
        self.expected: int | None = None
        self.damaged = False


def check_rate(path: Path, rate: int) -> None:
    """Refuse sample rates that no recording has: a header of 1 Hz makes hours, and gigabytes, of a few bytes.

    Raises:
        AudioError: saying what the rate is.
    """
    low, high = RATES_HZ
    if not low <= rate <= high:
        raise AudioError(path, f"the sample rate is {rate:,} Hz; recordings of {low:,} to {high:,} Hz are read: resample it")
