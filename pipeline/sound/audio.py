"""Audio files to samples: decoding, resampling, content hashes and facts that flag odd recordings.

What comes in: a file that libsndfile reads (wav, flac, ogg, mp3 and relatives) or, with the extra `[video]`, a video whose
sound is wanted (see `tfser.pipeline.sound.video`), perhaps with a segment in seconds. What goes out: :class:`Audio`, mono float32
at the file's own rate, channels averaged. soundfile, soxr and PyAV are imported when they are first needed, so importing
this file is cheap.

A file is decoded in blocks: `survey` takes its hash and its facts without ever holding all of it, `decode` puts the blocks one
after another. What ends before its header says (see `tfser.pipeline.sound.containers`), or cannot be decoded to its end, is read
as far as it goes, as players do, and is flagged `damaged`. What no recording can be, such as a rate of 1 Hz, a sample of 1e38 or
hours of sound for one utterance, is refused before it takes memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfser.pipeline.sound import video
from tfser.pipeline.sound.containers import Patched, promise
from tfser.pipeline.sound.recording import AudioError, Recording, Samples, TooLongError, check_rate

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

FULL_SCALES = 16.0
"""Beyond so many times full scale (24 dB) samples are no loud recording but integers that were stored as floats, which
programs do write: 'overscale'. It is read as it is, since dividing by a guess would be worse."""

ABSURD = 2.0**31
"""No sample is beyond the full scale of 32-bit integers, the widest that audio is stored in: such a file is refused."""


MAX_DURATION_S = 1800.0
"""The longest utterance unless another limit is asked for: half an hour, at the highest rate 1.4 GB of samples."""

_UNKNOWN_LENGTH = 2**36 - 1
"""From here on a length is a placeholder of a file that was written as a stream (FLAC's count has 36 bits)."""

_BLOCK = 1 << 22
"""Samples, of all channels together, that are decoded at once: 16 MB."""

_SLACK_S = 0.01
"""So much later than its file a segment may end, and is cut there: tables round."""

_POINTER_BYTES = 1024
"""A Git LFS pointer, which a clone without `git lfs` leaves in a file's place, is shorter than this."""


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


def decode(
    path: Path, start_s: float | None = None, end_s: float | None = None, *, max_duration_s: float = math.inf
) -> Audio:
    """Read a file, or the part of it from ``start_s`` to ``end_s``, at its own rate, its channels averaged.

    Times are rounded to the nearest sample; a segment may end up to 10 ms after the file does (tables round), and is
    cut there. A file that ends before its header says so is read as far as it goes, and is `damaged`.

    Raises:
        MissingExtraError: the file is a video, and PyAV is not installed.
        TooLongError: there is more than ``max_duration_s`` of it.
        AudioError: the file is missing, unreadable, empty or of a kind that is not supported; the segment ends before it
            starts, lies outside the file or holds no sample; its rate or its samples are no recording's.
    """
    recording = Recording()
    whole: Samples | None = None
    loose: list[Samples] = []
    filled = 0
    for block in stream(path, start_s, end_s, recording, max_duration_s=max_duration_s):
        # Where the length is known, blocks go to their place at once: a long file takes its memory once, not twice.
        if whole is None and recording.expected is not None and len(block) < recording.expected:
            whole = np.empty(recording.expected, np.float32)
        if whole is not None and not loose and filled + len(block) <= len(whole):
            whole[filled : filled + len(block)] = block
            filled += len(block)
        else:
            loose.append(block)
    parts = loose if whole is None else [whole[:filled], *loose]
    samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Audio(samples=samples, sample_rate=recording.sample_rate, damaged=recording.damaged)


def survey(
    path: Path, start_s: float | None = None, end_s: float | None = None, *, max_duration_s: float = math.inf
) -> tuple[AudioFacts, str]:
    """Return the facts and the content hash of a recording, which is never held as a whole.

    Raises:
        MissingExtraError: as `decode` does.
        AudioError: likewise.
    """
    recording, facts, digest = Recording(), _Facts(), None
    for block in stream(path, start_s, end_s, recording, max_duration_s=max_duration_s):
        digest = digest or _digest(recording.sample_rate)
        _update(digest, block)
        facts.add(block)
    assert digest is not None  # a recording without samples is an error
    return facts.settled(recording.sample_rate, recording.damaged), str(digest.hexdigest())


def stream(
    path: Path, start_s: float | None, end_s: float | None, recording: Recording, *, max_duration_s: float = math.inf
) -> Iterator[Samples]:
    """Yield the mono blocks (n,) of a file or of a part of it, n > 0, at least one; `recording` is filled on the way.

    Raises:
        MissingExtraError: as `decode` does.
        AudioError: likewise, before the first block or at any later one.
    """
    start = _seconds(path, "start", start_s)
    end = _seconds(path, "end", end_s)
    if end is not None and end <= (start or 0.0):
        raise AudioError(f"{path}: the segment ends at {end:g} s, not after its start at {start or 0.0:g} s")
    _check_file(path)
    count = 0
    for block in _decoded(path, start, end, recording, max_duration_s):
        if not len(block):
            continue
        top = float(max(block.max(), -block.min()))
        if not math.isfinite(top):
            raise AudioError(f"{path}: some samples are NaN or infinite")
        if top > ABSURD:
            raise AudioError(f"{path}: samples up to {top:.2g}, where full scale is 1: the numbers are no recording")
        count += len(block)
        if count > max_duration_s * recording.sample_rate:
            raise _too_long(path, None, max_duration_s)
        yield block
    if not count:
        raise AudioError(f"{path}: no samples" + (": none of its sound can be decoded" if recording.damaged else ""))


def _check_file(path: Path) -> None:
    """Refuse what is no file with something in it, before a decoder says less clearly what it is.

    Raises:
        AudioError: what is there instead.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError(f"{path}: not a file")
        if size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)")
        if size < _POINTER_BYTES and path.read_bytes().startswith(b"version https://git-lfs"):
            raise AudioError(
                f"{path}: this is a pointer of Git LFS, not the recording; run `git lfs pull` in the corpus's folder"
            )
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise AudioError(f"{path}: {_reason(error)}") from error


def _decoded(
    path: Path, start_s: float | None, end_s: float | None, recording: Recording, max_duration_s: float
) -> Iterator[Samples]:
    """Yield blocks as libsndfile or FFmpeg decode them."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return video.stream(path, start_s, end_s, recording)
    return _read(path, start_s, end_s, recording, max_duration_s)


def _read(
    path: Path, start_s: float | None, end_s: float | None, recording: Recording, max_duration_s: float
) -> Iterator[Samples]:
    """Yield the mono blocks of the segment, with libsndfile's troubles as AudioErrors."""
    import soundfile

    try:
        promised = promise(path)
        is_mp3 = path.suffix.lower() == ".mp3"
        with contextlib.ExitStack() as opened:
            opened.enter_context(_hushed())
            source = opened.enter_context(Patched(path, promised.patch)) if promised.patch else path
            file = opened.enter_context(soundfile.SoundFile(source))
            rate, total = int(file.samplerate), int(file.frames)
            check_rate(path, rate)
            recording.sample_rate = rate
            is_known = 0 <= total < _UNKNOWN_LENGTH
            first = 0 if start_s is None else round(start_s * rate)
            wanted = total if end_s is None else round(end_s * rate)
            if is_known and total and (first >= total or wanted > total + round(_SLACK_S * rate)):
                segment = f"the segment {first / rate:g} to {wanted / rate:g} s"
                cut = ", which is cut off" if promised.is_short else ""
                raise AudioError(f"{path}: {segment} is outside the file of {total / rate:g} s{cut}")
            last = min(wanted, total)
            if is_known and last - first > max_duration_s * rate:
                raise _too_long(path, (last - first) / rate, max_duration_s)
            recording.expected = last - first if is_known else None
            if first:
                file.seek(first)
            count = yield from _read_blocks(path, file, last - first, is_known, recording)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise AudioError(f"{path}: cannot be decoded: {_reason(error)}") from error
    # A segment that is whole is whole, however much of the file is not. An mp3 often states its length only roughly.
    ends_early = is_known and count < last - first and not is_mp3
    if ends_early or (promised.is_short and (end_s is None or count < wanted - first)):
        recording.damaged = True


def _read_blocks(
    path: Path, file: Any, wanted: int, is_known: bool, recording: Recording
) -> Generator[Samples, None, int]:
    """Yield mono blocks of up to ``wanted`` samples, whatever length a header claims; return how many samples came."""
    import soundfile

    size = max(1, _BLOCK // file.channels)
    count = 0
    while count < wanted:
        block = np.empty((min(wanted - count, size), file.channels), np.float32)
        before = file.tell()
        try:
            block = file.read(out=block)
        except soundfile.SoundFileError as error:
            if not is_known:
                raise AudioError(f"{path}: its header states no length; write the file again with one") from error
            # What was decoded before the damage stands in the block; libsndfile knows how much that is.
            block = block[: max(0, file.tell() - before)]
            if not count and not len(block):
                raise
            recording.damaged = True
        if len(block):
            yield _mono(block)
        count += len(block)
        if recording.damaged or not len(block):
            break
    return count


def _mono(block: Samples) -> Samples:
    """Return the mean of the channels of (n, channels); values that overflow are told from others by those who ask."""
    if block.shape[1] == 1:
        return np.ascontiguousarray(block[:, 0])
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(block.mean(axis=1, dtype=np.float64), dtype=np.float32)


def _too_long(path: Path, duration_s: float | None, most_s: float) -> TooLongError:
    length = f"{duration_s:,.0f} s" if duration_s is not None else "more"
    return TooLongError(
        f"{path}: {length} of sound for one utterance, and {most_s:,.0f} s is the most; cut it up (columns start and end of a "
        "table), or allow more with --max-duration"
    )


# -- the decoder's own notes --------------------------------------------------------------------------------------------------

_hush = threading.Lock()
_hushing = 0
_spoken: int | None = None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep what C libraries write to their `stderr` off the terminal while a file is decoded.

    libmpg123 comments on every odd file there, into the middle of a progress bar, and libsndfile has no switch for it. What
    matters of that is checked here and told with the file's name. Only C's own stream is turned away, in the process and for the
    time that anybody decodes: Python's standard error, and its progress bars, are another and go on.
    """
    global _hushing, _spoken
    stream = _c_stderr()
    if stream is None:
        yield
        return
    with _hush:
        _hushing += 1
        if _hushing == 1:
            _spoken, stream.value = stream.value, _nowhere()
    try:
        yield
    finally:
        with _hush:
            _hushing -= 1
            if not _hushing:
                stream.value = _spoken


@functools.cache
def _c_stderr() -> ctypes.c_void_p | None:
    """Return the C library's variable `stderr`, where the system has one that can be set."""
    name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
    try:
        stream = ctypes.c_void_p.in_dll(ctypes.CDLL(None), name) if name is not None else None
    except (ValueError, OSError):
        return None
    return stream if stream is not None and _nowhere() is not None else None


@functools.cache
def _nowhere() -> int | None:
    """Return a C stream that forgets what is written to it; it stays open as long as the process lives."""
    fopen = ctypes.CDLL(None).fopen
    fopen.restype, fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    opened: int | None = fopen(os.devnull.encode(), b"w")
    return opened


# -- samples -------------------------------------------------------------------------------------------------------------------


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
    digest = _digest(audio.sample_rate)
    _update(digest, audio.samples)
    return str(digest.hexdigest())


def _digest(rate: int) -> Any:
    return hashlib.blake2b(int(rate).to_bytes(8, "little"), digest_size=16)


def _update(digest: Any, samples: Samples) -> None:
    for start in range(0, len(samples), _BLOCK):
        # Adding zero turns -0.0 into 0.0, which sound the same and which lossless codecs do not keep apart.
        digest.update(np.ascontiguousarray(samples[start : start + _BLOCK] + np.float32(0), dtype="<f4").data)


def describe(audio: Audio) -> AudioFacts:
    """Return the facts of a recording; for flags see the constants above.

    >>> describe(Audio(samples=np.zeros(1600, np.float32), sample_rate=16000)).flags
    ('silent',)
    """
    facts = _Facts()
    for start in range(0, len(audio.samples), _BLOCK):
        facts.add(audio.samples[start : start + _BLOCK])
    return facts.settled(audio.sample_rate, audio.damaged)


class _Facts:
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
