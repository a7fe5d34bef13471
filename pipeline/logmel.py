"""The log-Mel front-end: samples in, (frames, bands) out, in float64 and to the last bit the same every time.

The chain: pre-emphasis (the first sample kept as it is), frames of ``window_s`` every ``hop_s`` whose centres lie at
multiples of the hop (the signal is padded with zeros at both ends), a periodic Hamming window in the middle of an
``n_fft``-point FFT, power spectrum, triangular HTK-Mel filters without area normalisation, natural logarithm of at
least ``floor``. So n samples give ``1 + n // hop`` frames: the last centre is the last multiple of the hop that is not
after the end. With the default window of two hops every sample is heard by a frame, trailing ones too.

NumPy alone: no torch to import, and each frame is computed from its own samples by the same operations in the same
order, so neither the neighbours nor the number of threads can change a bit (see `_bands` on why no matrix product).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import UsageError

ALGORITHM = 1
"""Raised whenever the same configuration would give other numbers than before."""

Frames = npt.NDArray[np.float64]

_BLOCK = 256  # frames computed at once: their spectra stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """What the log-Mel numbers depend on; the defaults are those of the TF-Transformer paper.

    Attributes:
        sample_rate_hz: the rate that samples must have.
        preemphasis: a in y[i] = x[i] - a x[i - 1], 0 <= a < 1.
        window_s: length of the Hamming window in seconds.
        hop_s: from one frame's centre to the next, in seconds.
        n_fft: points of the FFT; the window lies in its middle.
        n_mels: number of Mel bands: the width of a frame.
        fmin_hz: where the lowest band begins.
        fmax_hz: where the highest band ends, at most half the sample rate.
        floor: the logarithm is taken of at least this power.

    Raises:
        UsageError: a value that cannot be, named with what is allowed.

    >>> config = LogMelConfig()
    >>> config.dim, config.minimum_samples, config.frames(16000)
    (80, 320, 101)
    >>> LogMelConfig(n_fft=256)
    Traceback (most recent call last):
    ...
    tfser.manifests.errors.UsageError: LogMelConfig: n_fft is 256; at least the window of 320 samples is wanted
    """

    sample_rate_hz: int = 16000
    preemphasis: float = 0.97
    window_s: float = 0.020
    hop_s: float = 0.010
    n_fft: int = 512
    n_mels: int = 80
    fmin_hz: float = 0.0
    fmax_hz: float = 8000.0
    floor: float = 1e-10

    def __post_init__(self) -> None:
        nyquist = self.sample_rate_hz / 2
        for field, is_allowed, wanted in (
            ("sample_rate_hz", _whole(self.sample_rate_hz) and self.sample_rate_hz > 0, "a whole number above 0"),
            ("preemphasis", 0 <= self.preemphasis < 1, "0 <= preemphasis < 1"),
            ("window_s", 0 < self.window_s < float("inf"), "a number of seconds above 0"),
            ("hop_s", 0 < self.hop_s < float("inf"), "a number of seconds above 0"),
            ("n_fft", _whole(self.n_fft) and self.n_fft > 0, "a whole number above 0"),
            ("n_mels", _whole(self.n_mels) and self.n_mels > 0, "a whole number above 0"),
            ("fmax_hz", 0 < self.fmax_hz <= nyquist, f"at most half the sample rate, {nyquist:g},"),
            ("fmin_hz", 0 <= self.fmin_hz < self.fmax_hz, f"0 <= fmin_hz < fmax_hz = {self.fmax_hz:g}"),
            ("floor", 0 < self.floor < float("inf"), "a power above 0"),
        ):
            if not is_allowed:
                raise UsageError(f"LogMelConfig: {field} is {getattr(self, field)!r}; {wanted} is wanted")
        for field, samples in (("window_s", self.window_samples), ("hop_s", self.hop_samples)):
            if samples < 1:
                raise UsageError(f"LogMelConfig: {field} is {getattr(self, field)!r}; at least one sample is wanted")
        if self.n_fft < self.window_samples:
            raise UsageError(
                f"LogMelConfig: n_fft is {self.n_fft}; at least the window of {self.window_samples} samples is wanted"
            )
        empty = int((mel_filters(self).sum(0) == 0).sum())
        if empty:
            raise UsageError(
                f"LogMelConfig: n_mels is {self.n_mels}; {empty} of these bands would lie between two FFT bins and be "
                "empty: fewer bands or a larger n_fft is wanted"
            )

    @property
    def window_samples(self) -> int:
        """Length of the window in samples."""
        return round(self.window_s * self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_s * self.sample_rate_hz)

    @property
    def minimum_samples(self) -> int:
        """The shortest utterance that is not skipped: one window."""
        return self.window_samples

    @property
    def dim(self) -> int:
        """Numbers in a frame."""
        return self.n_mels

    def frames(self, n_samples: int) -> int:
        """Return the number of frames that ``n_samples`` samples give (0 for none)."""
        return 1 + n_samples // self.hop_samples if n_samples > 0 else 0

    def describe(self) -> dict[str, Any]:
        """Return everything that changes the numbers, for fingerprints and records."""
        return {
            "kind": "logmel",
            "algorithm": ALGORITHM,
            **asdict(self),
            "preemphasis_first_sample": "kept",
            "framing": "centred, zero padding, 1 + n // hop frames",
            "window": "hamming, periodic, centred in n_fft",
            "spectrum": "power",
            "mel": "htk, triangles, not normalised",
            "log": "ln(max(x, floor))",
            "computed_in": "float64",
        }


class LogMel:
    """The front-end of a configuration, its window and filters computed once."""

    def __init__(self, config: LogMelConfig | None = None) -> None:
        self.config = config or LogMelConfig()
        size, length = self.config.n_fft, self.config.window_samples
        left = (size - length) // 2
        self._window = np.zeros(size)  # (n_fft,)
        self._window[left : left + length] = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / length)
        self._bands = _bands(mel_filters(self.config))

    def extract(self, samples: npt.NDArray[np.floating[Any]]) -> Frames:
        """Return the log-Mel frames of one utterance.

        Args:
            samples: (n,) mono at the configuration's rate, in [-1, 1].

        Returns:
            (frames, n_mels) float64, natural logarithm of power.

        Raises:
            UsageError: not one-dimensional, or shorter than ``minimum_samples``.
        """
        config = self.config
        if samples.ndim != 1:
            raise UsageError(f"log-Mel wants mono samples of the shape (n,), not {samples.shape}")
        if len(samples) < config.minimum_samples:
            raise UsageError(f"log-Mel wants {config.minimum_samples} samples (one window) or more, got {len(samples)}")
        half, n_frames = config.n_fft // 2, config.frames(len(samples))
        padded = np.zeros(len(samples) + 2 * half + config.n_fft)
        signal = padded[half : half + len(samples)]
        signal[:] = samples
        signal[1:] -= config.preemphasis * np.asarray(samples[:-1], np.float64)

        windows = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft)[:: config.hop_samples]
        out = np.empty((n_frames, config.n_mels))
        for start in range(0, n_frames, _BLOCK):
            stop = min(start + _BLOCK, n_frames)
            spectrum = np.fft.rfft(windows[start:stop] * self._window, axis=-1)  # (block, n_fft/2 + 1)
            power = spectrum.real**2 + spectrum.imag**2
            self._apply(np.ascontiguousarray(power.T), out[start:stop])
        np.maximum(out, config.floor, out=out)
        return np.log(out, out=out)

    def _apply(self, power: Frames, out: Frames) -> None:
        """Write the bands of ``power`` (bins, block) to ``out`` (block, n_mels)."""
        for band, (first, weights) in enumerate(self._bands):
            total = power[first] * weights[0]
            for i in range(1, len(weights)):
                total += power[first + i] * weights[i]
            out[:, band] = total


def mel_filters(config: LogMelConfig) -> Frames:
    """Return the (n_fft/2 + 1, n_mels) triangles: 1 at a band's centre, 0 at its neighbours' centres."""
    to_mel = 2595.0 * np.log10(1.0 + np.array([config.fmin_hz, config.fmax_hz]) / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(to_mel[0], to_mel[1], config.n_mels + 2) / 2595.0) - 1.0)  # Hz
    bins = np.linspace(0.0, config.sample_rate_hz / 2, config.n_fft // 2 + 1)[:, None]  # Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def _bands(filters: Frames) -> list[tuple[int, Frames]]:
    """Return (first bin, weights) of each band.

    A filter touches a few bins only, and a plain sum over them in a fixed order is the same on every machine and beside
    any neighbour; a BLAS product chooses its order by the shape and the number of threads.
    """
    bands = []
    for column in filters.T:
        touched = np.flatnonzero(column)
        bands.append((int(touched[0]), column[touched[0] : touched[-1] + 1].copy()))
    return bands


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
