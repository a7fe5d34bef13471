"""The log-Mel front-end: samples in, (frames, bands) out, in float64 and to the last bit the same every time.

The chain: pre-emphasis (the first sample kept as it is), frames of ``window_s`` every ``hop_s`` whose centres lie at
multiples of the hop (the signal is padded with zeros at both ends), a periodic Hamming window in the middle of an
``n_fft``-point FFT, power spectrum, triangular HTK-Mel filters without area normalisation, natural logarithm of at
least ``floor``. So n samples give ``1 + n // hop`` frames: the last centre is the last multiple of the hop that is not
after the end. With the default window of two hops every sample is heard by a frame, trailing ones too.

NumPy alone: no torch to import, and each frame is computed from its own samples by the same operations in the same
order, so neither its neighbours nor the number of threads can change a bit.
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
        # Each bound by itself first, then those that need others: the message names the field that is off.
        nyquist = self.sample_rate_hz / 2
        for field, is_allowed, wanted in (
            ("sample_rate_hz", _whole(self.sample_rate_hz) and self.sample_rate_hz > 0, "a whole number above 0"),
            ("preemphasis", 0 <= self.preemphasis < 1, "0 <= preemphasis < 1"),
            ("window_s", 0 < self.window_s < float("inf"), "a number of seconds above 0"),
            ("hop_s", 0 < self.hop_s < float("inf"), "a number of seconds above 0"),
            # Of an odd number of points the highest bin lies below half the sample rate, where the bands are not laid out.
            ("n_fft", _whole(self.n_fft) and self.n_fft > 0 and self.n_fft % 2 == 0, "an even number above 0"),
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
        # An empty band would be the floor's logarithm in every frame: a column that says nothing and looks like
        # a feature.
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
        length = self.config.window_samples
        self._window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / length)  # (window,)
        self._steps, self._place = _steps(mel_filters(self.config))

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
        # Zeros on both sides and the window in the middle of each frame: frame t stands for the sound around t
        # hops, and every sample is in a frame.
        n_frames, size, length = config.frames(len(samples)), config.n_fft, config.window_samples
        left = (size - length) // 2  # where the window begins in its frame
        padded = np.zeros(len(samples) + 2 * size)
        signal = padded[size // 2 : size // 2 + len(samples)]
        signal[:] = samples
        signal[1:] -= config.preemphasis * np.asarray(samples[:-1], np.float64)

        # In blocks, so that the spectrum of an hour is never in memory. By numpy: as fast as torch in float64 (3063 against 3282
        # times real time; docs/log.md), the same to 1.1e-11, and an extraction of frames loads no torch.
        frames = np.lib.stride_tricks.sliding_window_view(padded[left:], length)[:: config.hop_samples]
        windowed = np.zeros((min(_BLOCK, n_frames), size))
        out = np.empty((n_frames, config.n_mels))
        for start in range(0, n_frames, _BLOCK):
            block = min(_BLOCK, n_frames - start)
            np.multiply(frames[start : start + block], self._window, out=windowed[:block, left : left + length])
            spectrum = np.fft.rfft(windowed[:block], axis=-1)  # (block, n_fft/2 + 1)
            power = spectrum.real**2 + spectrum.imag**2
            out[start : start + block] = self._bands(np.ascontiguousarray(power.T)).T
        np.maximum(out, config.floor, out=out)
        return np.log(out, out=out)

    def _bands(self, power: Frames) -> Frames:
        """Return the (n_mels, block) bands of ``power`` (bins, block).

        A filter touches a few bins only. Step i adds the i-th bin of all filters that have one: nothing but
        element-wise products and sums in a fixed order, the same beside any neighbour and on any number of threads,
        where a BLAS product chooses its order by shape and threads.
        """
        total = np.zeros((self.config.n_mels, power.shape[1]))
        for bins, weights in self._steps:
            total[: len(bins)] += power[bins] * weights
        return total[self._place]


def mel_filters(config: LogMelConfig) -> Frames:
    """Return the (n_fft/2 + 1, n_mels) triangles: 1 at a band's centre, 0 at its neighbours' centres."""
    to_mel = 2595.0 * np.log10(1.0 + np.array([config.fmin_hz, config.fmax_hz]) / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(to_mel[0], to_mel[1], config.n_mels + 2) / 2595.0) - 1.0)  # Hz
    bins = np.linspace(0.0, config.sample_rate_hz / 2, config.n_fft // 2 + 1)[:, None]  # Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def _steps(filters: Frames) -> tuple[list[tuple[npt.NDArray[np.intp], Frames]], npt.NDArray[np.intp]]:
    """Return the (bins, weights) that each step adds, the widest filter first, and each band's place in it."""
    touched = [np.flatnonzero(column) for column in filters.T]
    order = sorted(range(len(touched)), key=lambda band: -len(touched[band]))
    steps = []
    for i in range(len(touched[order[0]])):
        bands = [band for band in order if len(touched[band]) > i]
        bins = np.array([touched[band][i] for band in bands])
        steps.append((bins, filters[bins, bands][:, None]))
    return steps, np.argsort(order)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
