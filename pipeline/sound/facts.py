"""Samples and what they are like: resampling, the content hash, and the facts that flag odd recordings.

In: mono float32 samples, whole (`Audio`) or block by block. Out: the same at another rate, 32 hex digits of what is heard, and
`AudioFacts`. Nothing here opens a file; soxr is imported when it is first needed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfser.pipeline.sound.recording import AudioError, Samples

SILENT_RMS_DB = -60.0
"""At or below this RMS (dB of full scale) a recording is 'silent': 16-bit dither lies at -98, quiet speech at -45."""

CLIPPED_LEVEL = 0.999
"""A sample of at least this magnitude counts as clipped: 16-bit full scale is 0.99997, lossy copies end lower."""

CLIPPED_SHARE = 0.001
"""At or above this share of clipped samples a recording is 'clipped'; a single peak in a thousand is not."""

FULL_SCALES = 16.0
"""Beyond so many times full scale (24 dB) samples are no loud recording but integers that were stored as floats, which
programs do write: 'overscale'. It is read as it is, since dividing by a guess would be worse."""

BLOCK = 1 << 22
"""Samples, of all channels together, that are decoded at once: 16 MB."""


@dataclass(frozen=True, kw_only=True)
class Audio:
    """Decoded sound: ``samples`` (n,) float32 mono in [-1, 1], n > 0, ``sample_rate`` of them a second.

    ``damaged`` says that the file held more which could not be decoded.
    """

    samples: Samples
    sample_rate: int
    damaged: bool = False

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class AudioFacts:
    """What a recording is like.

    Attributes:
        duration_s: length in seconds.
        sample_rate: samples a second.
        peak: largest magnitude.
        rms_db: root mean square in dB of full scale (a square wave of magnitude 1 has 0); -inf for digital silence.
        clipped_share: share of samples at full scale.
        flags: of 'silent', 'clipped', 'overscale' and 'damaged', those that apply.
    """

    duration_s: float
    sample_rate: int
    peak: float
    rms_db: float
    clipped_share: float
    flags: tuple[str, ...]


def resample(samples: Samples, rate: int, target: int = 16000) -> Samples:
    """Return mono ``samples`` (n,) at ``target`` Hz, (about n * target / rate,) float32, by soxr's "HQ" filter.

    At equal rates the samples come back as they are, not as a copy.

    Raises:
        AudioError: a rate is not above 0, or nothing is left.
    """
    if rate <= 0 or target <= 0:
        raise AudioError(None, f"cannot resample from {rate} to {target} Hz")
    if rate == target:
        return samples
    import soxr

    result = np.asarray(soxr.resample(samples, rate, target, quality="HQ"), dtype=np.float32)
    if not len(result):
        raise AudioError(None, f"{len(samples)} samples at {rate} Hz leave none at {target} Hz")
    return result


def content_hash(audio: Audio) -> str:
    """Return 32 hex digits of what is heard: the rate and the mono float32 samples, little-endian.

    The container does not count: a wav and its lossless flac have one hash.

    >>> content_hash(Audio(samples=np.zeros(4, np.float32), sample_rate=16000))
    '12b2790121441f389ea5ba8e3e1489a5'
    """
    digest = new_digest(audio.sample_rate)
    take_in(digest, audio.samples)
    return str(digest.hexdigest())


def new_digest(rate: int) -> Any:
    """Return the content hash of a recording at a rate, before its first sample."""
    return hashlib.blake2b(int(rate).to_bytes(8, "little"), digest_size=16)


def take_in(digest: Any, samples: Samples) -> None:
    """Let a content hash go on with samples (n,)."""
    for start in range(0, len(samples), BLOCK):
        # Adding zero turns -0.0 into 0.0, which sound the same and which lossless codecs do not keep apart.
        digest.update(np.ascontiguousarray(samples[start : start + BLOCK] + np.float32(0), dtype="<f4").data)


def describe(audio: Audio) -> AudioFacts:
    """Return the facts of a recording; for flags see the constants above.

    >>> describe(Audio(samples=np.zeros(1600, np.float32), sample_rate=16000)).flags
    ('silent',)
    """
    facts = FactsSoFar()
    for start in range(0, len(audio.samples), BLOCK):
        facts.add(audio.samples[start : start + BLOCK])
    return facts.settled(audio.sample_rate, audio.damaged)


class FactsSoFar:
    """What is known of the samples so far."""

    def __init__(self) -> None:
        self._count = self._clipped = 0
        self._peak = self._energy = 0.0

    def add(self, samples: Samples) -> None:
        """Take in a block."""
        magnitude = np.abs(samples)
        self._count += len(samples)
        self._peak = max(self._peak, float(magnitude.max()))
        self._clipped += int(np.count_nonzero(magnitude >= CLIPPED_LEVEL))
        self._energy += float(np.sum(np.square(samples, dtype=np.float64)))

    def settled(self, rate: int, damaged: bool) -> AudioFacts:
        """Return the facts of all blocks."""
        power = self._energy / self._count
        rms_db = 10 * math.log10(power) if power > 0 else -math.inf
        clipped_share = self._clipped / self._count
        is_overscale = self._peak > FULL_SCALES
        flags = []
        if rms_db <= SILENT_RMS_DB:
            flags.append("silent")
        if clipped_share >= CLIPPED_SHARE and not is_overscale:  # of integers nearly all are beyond 1: that clips nothing
            flags.append("clipped")
        if is_overscale:
            flags.append("overscale")
        if damaged:
            flags.append("damaged")
        return AudioFacts(
            duration_s=self._count / rate,
            sample_rate=rate,
            peak=self._peak,
            rms_db=rms_db,
            clipped_share=clipped_share,
            flags=tuple(flags),
        )
