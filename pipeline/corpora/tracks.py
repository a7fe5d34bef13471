"""Control tracks of the synthetic voices: loudness, pitch and formants as functions of time, in steps of `FRAME_S`.

What comes in and goes out: arrays (T,) of one number a step. `synthesis` puts them together; nothing here makes sound.
"""

from __future__ import annotations

import numpy as np

from tfser.pipeline.corpora.voices import OFF, Array

FRAME_S = 0.005
"""The step, in seconds."""


def linear(db: float) -> float:
    """Return a level in dB as an amplitude; silence is 0."""
    return 0.0 if db == OFF else float(10 ** (db / 20))


def bump(t: Array, attack_s: float, release_s: float) -> Array:
    """Return a peak of height 1 at t = 0 with half-cosine sides; its area is half of attack + release."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(np.where(t < 0, t / attack_s, t / release_s), -1, 1))


def smooth(track: Array, width_s: float) -> Array:
    """Return the track under a Hann window of that width: coarticulation, and no clicks."""
    n = max(1, round(width_s / FRAME_S)) | 1
    window = np.hanning(n + 2)
    smooth: Array = np.convolve(np.pad(track, n // 2 + 1, mode="edge"), window / window.sum(), mode="valid")
    return smooth


def wander(rng: np.random.Generator, T: int, knot_s: float) -> Array:
    """Return slow noise of unit variance at its knots, one knot each `knot_s`."""
    knots = int(T * FRAME_S / knot_s) + 2
    noise: Array = np.interp(np.arange(T) * FRAME_S / knot_s, np.arange(knots), rng.normal(0, 1, knots))
    return noise
