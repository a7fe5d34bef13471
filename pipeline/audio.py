"""Audio files to samples: decoding, resampling, content hashes and facts that flag odd recordings.

What comes in: a file that libsndfile reads (wav, flac, ogg, mp3 and relatives) or, with the extra `[video]`, a video whose
sound is wanted (see `tfser.pipeline.video`), perhaps with a segment in seconds. What goes out: :class:`Audio`, mono float32
at the file's own rate, channels averaged. soundfile, soxr and PyAV are imported when they are first needed, so importing
this file is cheap.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import TfserError

KNOWN_SUFFIXES: frozenset[str] = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
"""Suffixes (lower case) of files that `decode` reads with libsndfile."""

VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4a", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".aac", ".wma", ".wmv"}
)
"""Suffixes of files that it reads with FFmpeg, if the extra `[video]` is installed."""

SILENT_RMS_DB = -60.0
"""At or below this RMS (dB of full scale) a recording is 'silent': 16-bit dither lies at -98, quiet speech at -45."""

CLIPPED_LEVEL = 0.999
"""A sample of at least this magnitude counts as clipped: 16-bit full scale is 0.99997, lossy copies end lower."""

CLIPPED_SHARE = 0.001
"""At or above this share of clipped samples a recording is 'clipped'; a single peak in a thousand is not."""

_UNKNOWN_LENGTH = 2**36 - 1
"""From here on a length is a placeholder of a file that was written as a stream (FLAC's count has 36 bits)."""

_BLOCK = 1 << 22

_POINTER_BYTES = 1024
"""A Git LFS pointer, which a clone without `git lfs` leaves in a file's place, is shorter than this."""

Samples = npt.NDArray[np.float32]


class AudioError(TfserError):
    """A recording cannot be used; the message is one line: the file and the reason."""


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
        flags: of 'silent', 'clipped' and 'damaged', those that apply.
    """

    duration_s: float
    sample_rate: int
    peak: float
    rms_db: float
    clipped_share: float
    flags: tuple[str, ...]


def decode(path: Path, start_s: float | None = None, end_s: float | None = None) -> Audio:
    """Read a file, or the part of it from ``start_s`` to ``end_s``, at its own rate, its channels averaged.

    Times are rounded to the nearest sample; a segment may end up to 10 ms after the file does (tables round), and is
    cut there. A wav that ends before its header says so is read as far as it goes, as libsndfile and others do.

    Raises:
        MissingExtraError: the file is a video, and PyAV is not installed.
        AudioError: the file is missing, unreadable, empty, truncated or of a kind that is not supported; the segment
            ends before it starts, lies outside the file or holds no sample; a sample is NaN or infinite.
    """
    start = _seconds(path, "start", start_s)
    end = _seconds(path, "end", end_s)
    if end is not None and end <= (start or 0.0):
        raise AudioError(f"{path}: the segment ends at {end:g} s, not after its start at {start or 0.0:g} s")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError(f"{path}: not a file")
    except OSError as error:
        raise AudioError(f"{path}: {_reason(error)}") from error
    if size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    if size < _POINTER_BYTES and path.read_bytes().startswith(b"version https://git-lfs"):
        raise AudioError(f"{path}: this is a pointer of Git LFS, not the recording; run `git lfs pull` in the corpus's folder")
    damaged = False
    if path.suffix.lower() in VIDEO_SUFFIXES:
        from tfser.pipeline import video

        samples, rate, damaged = video.read(path, start, end)
    else:
        samples, rate = _read(path, start, end)
    if not len(samples):
        raise AudioError(f"{path}: no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: some samples are NaN or infinite")
    return Audio(samples=samples, sample_rate=rate, damaged=damaged)


def _read(path: Path, start_s: float | None, end_s: float | None) -> tuple[Samples, int]:
    """Return (mono samples, rate) of the segment, with libsndfile's troubles as AudioErrors."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate, total = int(file.samplerate), int(file.frames)
            if rate <= 0:
                raise AudioError(f"{path}: the sample rate is {rate}")
            is_known = 0 <= total < _UNKNOWN_LENGTH
            first = 0 if start_s is None else round(start_s * rate)
            last = total if end_s is None else round(end_s * rate)
            if is_known and total and (first >= total or last > total + rate // 100):
                segment = f"the segment {first / rate:g} to {last / rate:g} s"
                raise AudioError(f"{path}: {segment} is outside the file of {total / rate:g} s")
            last = min(last, total)
            if first:
                file.seek(first)
            try:
                samples = _read_blocks(file, last - first)
            except soundfile.SoundFileError as error:
                if is_known:
                    raise
                raise AudioError(f"{path}: its header states no length; write the file again with one") from error
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise AudioError(f"{path}: cannot be decoded: {_reason(error)}") from error
    # An mp3 often states its length only roughly.
    if is_known and len(samples) < last - first and path.suffix.lower() != ".mp3":
        raise AudioError(f"{path}: truncated: {len(samples)} of {last - first} samples could be read")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64)
    return np.ascontiguousarray(mono, dtype=np.float32), rate


def _read_blocks(file: Any, wanted: int) -> Samples:
    """Return up to ``wanted`` samples of each channel, (n, channels), whatever length a header claims."""
    blocks: list[Samples] = []
    while wanted > 0:
        block: Samples = file.read(min(wanted, _BLOCK), dtype="float32", always_2d=True)
        blocks.append(block)
        if len(block) < min(wanted, _BLOCK):
            break
        wanted -= len(block)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.empty((0, file.channels), np.float32)


def resample(samples: Samples, rate: int, target: int = 16000) -> Samples:
    """Return mono ``samples`` (n,) at ``target`` Hz, (about n * target / rate,) float32, by soxr's "HQ" filter.

    At equal rates the samples come back as they are, not as a copy.

    Raises:
        AudioError: a rate is not above 0, or nothing is left.
    """
    if rate <= 0 or target <= 0:
        raise AudioError(f"cannot resample from {rate} to {target} Hz")
    if rate == target:
        return samples
    import soxr

    result = np.asarray(soxr.resample(samples, rate, target, quality="HQ"), dtype=np.float32)
    if not len(result):
        raise AudioError(f"{len(samples)} samples at {rate} Hz leave none at {target} Hz")
    return result


def content_hash(audio: Audio) -> str:
    """Return 32 hex digits of what is heard: the rate and the mono float32 samples, little-endian.

    The container does not count: a wav and its lossless flac have one hash.

    >>> content_hash(Audio(samples=np.zeros(4, np.float32), sample_rate=16000))
    '12b2790121441f389ea5ba8e3e1489a5'
    """
    digest = hashlib.blake2b(int(audio.sample_rate).to_bytes(8, "little"), digest_size=16)
    # Adding zero turns -0.0 into 0.0, which sound the same and which lossless codecs do not keep apart.
    digest.update(np.ascontiguousarray(audio.samples + np.float32(0), dtype="<f4").data)
    return digest.hexdigest()


def describe(audio: Audio) -> AudioFacts:
    """Return the facts of a recording; flags are 'silent', 'clipped' (see the constants above) and 'damaged'.

    >>> describe(Audio(samples=np.zeros(1600, np.float32), sample_rate=16000)).flags
    ('silent',)
    """
    magnitude = np.abs(audio.samples)
    power = float(np.mean(np.square(audio.samples, dtype=np.float64)))
    rms_db = 10 * math.log10(power) if power > 0 else -math.inf
    clipped_share = float(np.mean(magnitude >= CLIPPED_LEVEL))
    flags = []
    if rms_db <= SILENT_RMS_DB:
        flags.append("silent")
    if clipped_share >= CLIPPED_SHARE:
        flags.append("clipped")
    if audio.damaged:
        flags.append("damaged")
    return AudioFacts(
        duration_s=audio.duration_s,
        sample_rate=audio.sample_rate,
        peak=float(magnitude.max()),
        rms_db=rms_db,
        clipped_share=clipped_share,
        flags=tuple(flags),
    )


def _seconds(path: Path, which: str, value: float | None) -> float | None:
    """Return a segment's edge, None for the file's own; tables say "not a number" for a missing one."""
    if value is None or math.isnan(value):
        return None
    if value < 0 or math.isinf(value):
        raise AudioError(f"{path}: the segment's {which} is at {value:g} s")
    return value


def _reason(error: BaseException) -> str:
    """Return an exception's own words on one line, without the path that callers name already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(getattr(error, "error_string", None) or error).split())
    if text.startswith("File does not exist"):  # so libsndfile says of an mp3 without a single frame
        return "Format not recognised."
    return text or type(error).__name__
