"""The MFCC front-end: mel-frequency cepstral coefficients, samples in, (frames, coefficients) out, in float64.

What it is: the log-Mel frames of `tfser.pipeline.features.logmel`, with that front-end's framing, window and filters, and over
the bands of each frame a discrete cosine transform (Davis and Mermelstein 1980; type II, orthonormal, as librosa and torchaudio
have it with ``norm="ortho"``): with M bands m_0 ... m_(M-1), coefficient k is

    c_k = s_k sum over i of m_i cos(pi k (2 i + 1) / (2 M)),     s_0 = sqrt(1 / M),  s_k = sqrt(2 / M)

for k = 0 ... n_mfcc - 1. Coefficient 0 is kept: it is the frame's level. There is no liftering, there are no differences over
time, and nothing is normalised. CA-MSER (Zou et al. 2022) takes 40 coefficients every 10 ms, as this does by default; it has
them of librosa: of 128 bands by a window of 128 ms, in decibels, cut 80 below the highest.

The sum runs over the bands in their order, number by number, so neither a frame's neighbours nor threads can change a bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError
from tfser.pipeline.features.logmel import Frames, LogMel, LogMelConfig

ALGORITHM = 1
"""Raised whenever the same configuration would give other numbers than before."""


@dataclass(frozen=True, kw_only=True)
class MFCCConfig(LogMelConfig):
    """What the coefficients depend on: the settings of the log-Mel frames, and how many coefficients are kept.

    Attributes:
        n_mfcc: coefficients, from 0 on: the width of a frame; at most ``n_mels``.

    Raises:
        UsageError: a value that cannot be, named with what is allowed.

    >>> MFCCConfig().dim, MFCCConfig(n_mfcc=13).frames(16000)
    (40, 101)
    >>> MFCCConfig(n_mfcc=81)
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: MFCCConfig: n_mfcc is 81; a whole number from 1 to n_mels = 80 is wanted
    """

    n_mfcc: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n_mfcc, int) or not 1 <= self.n_mfcc <= self.n_mels:
            raise UsageError(f"MFCCConfig: n_mfcc is {self.n_mfcc!r}; a whole number from 1 to n_mels = {self.n_mels} is wanted")

    @property
    def dim(self) -> int:
        """Numbers in a frame."""
        return self.n_mfcc

    def describe(self) -> dict[str, Any]:
        """Return everything that changes the numbers, for fingerprints and records."""
        return super().describe() | {
            "kind": "mfcc",
            "algorithm_mfcc": ALGORITHM,
            "transform": "DCT-II, orthonormal, coefficient 0 kept, no lifter",
        }


class MFCC:
    """The front-end of a configuration, its log-Mel front-end and its cosines computed once."""

    def __init__(self, config: MFCCConfig | None = None) -> None:
        self.config = config or MFCCConfig()
        self._bands = LogMel(self.config)
        self._cosines = cosines(self.config.n_mels, self.config.n_mfcc)  # (n_mels, n_mfcc)

    def extract(self, samples: npt.NDArray[np.floating[Any]]) -> Frames:
        """Return the coefficients of one utterance.

        Args:
            samples: (n,) mono at the configuration's rate, in [-1, 1].

        Returns:
            (frames, n_mfcc) float64.

        Raises:
            UsageError: not one-dimensional, or shorter than one window.
        """
        bands = self._bands.extract(samples)  # (frames, n_mels)
        out = np.zeros((len(bands), self.config.n_mfcc))
        for band, weights in zip(bands.T, self._cosines, strict=True):
            out += band[:, None] * weights
        return out


def cosines(bands: int, coefficients: int) -> Frames:
    """Return the matrix (bands, coefficients) of the orthonormal DCT-II's first coefficients.

    >>> bool(np.allclose(cosines(6, 6) @ cosines(6, 6).T, np.eye(6)))
    True
    """
    number = np.arange(coefficients)
    angles = np.pi * number * (2 * np.arange(bands)[:, None] + 1) / (2 * bands)  # (bands, coefficients)
    return np.cos(angles) * np.where(number == 0, np.sqrt(1 / bands), np.sqrt(2 / bands))
