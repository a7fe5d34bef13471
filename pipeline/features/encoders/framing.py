"""From samples to frames by arithmetic: how many frames n samples make, how long files are cut, and how the parts are joined.

Convolutional encoders (wav2vec 2.0, HuBERT, WavLM) see files up to `chunk` samples whole. A longer one is cut into the least
number of windows of nearly equal length, neighbours sharing `overlap` samples; each frame is taken from the window in which
it lies deepest. Whisper sees consecutive windows of its one length (30 s), as its training did. Windows begin at multiples of
the hop, so that frame t of a file always stands for the same samples, wherever it was computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Framing(Protocol):
    """Counts, cuts and joins."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""

    @property
    def minimum_samples(self) -> int:
        """Samples that make the first frame; shorter audio has none."""

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of that many samples, whole or cut and joined."""

    def windows(self, n_samples: int) -> list[tuple[int, int]]:
        """Return the (start, stop) of the pieces to encode, in samples."""

    def stitch(self, pieces: Sequence[npt.NDArray[Any]], n_samples: int) -> npt.NDArray[Any]:
        """Return the (frames(n_samples), dim) frames of a file, of the (T_i, dim) frames of its windows."""

    def computed(self, n_samples: int) -> int:
        """Return the samples that the encoder computes for a piece of that many."""

    def describe(self) -> dict[str, Any]:
        """Return what the fingerprint has to know."""


@dataclass(frozen=True, kw_only=True)
class ConvFraming:
    """Frames of a stack of convolutions without padding. Kernels and strides in samples of their input, the rest in samples.

    >>> framing = ConvFraming(kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2), chunk=640_000, overlap=64_000)
    >>> framing.hop, framing.minimum_samples, framing.frames(16_000), framing.windows(1_000_000)
    (320, 400, 49, [(0, 531840), (467840, 1000000)])
    """

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    chunk: int
    overlap: int

    def __post_init__(self) -> None:
        if not self.minimum_samples <= self.overlap:
            raise ValueError(f"windows must share at least {self.minimum_samples} samples")
        if self.chunk < 2 * self.overlap + self.hop:
            raise ValueError(f"a window of {self.chunk} samples must be longer than twice what two share ({self.overlap})")

    @property
    def hop(self) -> int:
        """The product of the strides."""
        return math.prod(self.strides)

    @property
    def minimum_samples(self) -> int:
        """The receptive field of one frame."""
        field, jump = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field += (kernel - 1) * jump
            jump *= stride
        return field

    def frames(self, n_samples: int) -> int:
        """Return floor((n - receptive field) / hop) + 1, which is what the convolutions do one after the other."""
        return max(0, (n_samples - self.minimum_samples) // self.hop + 1)

    def windows(self, n_samples: int) -> list[tuple[int, int]]:
        """Return one window up to `chunk`, else the least number of nearly equal ones."""
        if n_samples <= self.chunk:
            return [(0, n_samples)]
        # Windows of nearly equal length instead of full ones and a rest: a rest of a second would be seen with
        # no context.
        new = n_samples - self.overlap  # samples that are not shared with the window before
        count = math.ceil(new / (self.chunk - self.overlap - self.hop))
        starts = [i * new // count // self.hop * self.hop for i in range(count)]
        return [(a, b + self.overlap) for a, b in itertools.pairwise(starts)] + [(starts[-1], n_samples)]

    def stitch(self, pieces: Sequence[npt.NDArray[Any]], n_samples: int) -> npt.NDArray[Any]:
        """Return the frames of the file: from the middle of what two windows share on, the later one's."""
        windows = self.windows(n_samples)
        if len(windows) == 1:
            return pieces[0]
        starts = [start // self.hop for start, _ in windows]
        middle = math.ceil((self.overlap - self.minimum_samples) / (2 * self.hop))
        cuts = [0, *(start + middle for start in starts[1:]), self.frames(n_samples)]
        parts = [
            piece[cut - start : end - start] for piece, start, cut, end in zip(pieces, starts, cuts[:-1], cuts[1:], strict=True)
        ]
        return np.concatenate(parts)

    def computed(self, n_samples: int) -> int:
        """Return the samples themselves: nothing is padded but to the longest of a batch."""
        return n_samples

    def describe(self) -> dict[str, Any]:
        """Return the chunk, the overlap, and how they are used."""
        return {
            "chunk_samples": self.chunk,
            "overlap_samples": self.overlap,
            "rule": "longer files in equal windows, each frame from the window in which it lies deepest",
        }


@dataclass(frozen=True, kw_only=True)
class WindowFraming:
    """Frames of an encoder with windows of one length, Whisper: filled with silence, or cut to what there is. In samples.

    A frame stands for `hop` samples; the frames of a file are those that stand for any of its samples.

    >>> framing = WindowFraming(window=480_000, hop=320)
    >>> framing.frames(16_001), framing.windows(500_000), framing.computed(16_001)
    (51, [(0, 480000), (480000, 500000)], 480000)
    >>> WindowFraming(window=480_000, hop=320, is_filled=False).computed(16_001)
    16320
    """

    window: int
    hop: int
    is_filled: bool = True
    """Whether every window is computed in its whole length, as in training; else in that of its own frames."""

    @property
    def minimum_samples(self) -> int:
        """One hop: 20 ms."""
        return self.hop

    def frames(self, n_samples: int) -> int:
        """Return ceil(n / hop)."""
        return -(-n_samples // self.hop)

    def windows(self, n_samples: int) -> list[tuple[int, int]]:
        """Return consecutive windows that share nothing."""
        return [(start, min(start + self.window, n_samples)) for start in range(0, max(n_samples, 1), self.window)]

    def stitch(self, pieces: Sequence[npt.NDArray[Any]], n_samples: int) -> npt.NDArray[Any]:
        """Return the frames one after the other."""
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def computed(self, n_samples: int) -> int:
        """Return the whole window, however short the piece; of one that is not filled, whole frames."""
        return self.window if self.is_filled else min(self.frames(n_samples) * self.hop, self.window)

    def describe(self) -> dict[str, Any]:
        """Return the window and how it is used."""
        if not self.is_filled:
            return {
                "window_samples": self.window,
                "rule": "its own length in whole hops, the positions cut to it; longer files in consecutive windows",
            }
        return {
            "window_samples": self.window,
            "rule": "filled with silence and trimmed to ceil(samples / hop) frames; longer files in consecutive windows",
        }
