"""Audio files to samples: decoding, whole or block by block.

What comes in: a file that libsndfile reads (wav, flac, ogg, mp3 and relatives) or, with the extra `[video]`, a video whose
sound is wanted (see `tfser.pipeline.sound.video`), perhaps with a segment in seconds. What goes out: `Audio`, mono float32 at the
file's own rate, channels averaged, or its facts and content hash (`tfser.pipeline.sound.facts`). soundfile and PyAV are imported
when they are first needed, so importing this file is cheap.

A file is decoded in blocks: `survey` takes its hash and its facts without ever holding all of it, `decode` puts the blocks one
after another. What ends before its header says (see `tfser.pipeline.sound.containers`), or cannot be decoded to its end, is read
as far as it goes, as players do, and is flagged `damaged`. What no recording can be, such as a rate of 1 Hz, a sample of 1e38 or
hours of sound for one utterance, is refused before it takes memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfser.pipeline.sound import video
from tfser.pipeline.sound.containers import Patched, promise
from tfser.pipeline.sound.facts import BLOCK, Audio, AudioFacts, FactsSoFar, content_hash, describe, new_digest, resample, take_in
from tfser.pipeline.sound.hushed import hushed
from tfser.pipeline.sound.recording import AudioError, Recording, Samples, TooLongError, check_rate

__all__ = ["Audio", "AudioFacts", "content_hash", "decode", "describe", "resample", "survey"]

KNOWN_SUFFIXES: frozenset[str] = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
"""Suffixes (lower case) of files that `decode` reads with libsndfile."""

VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4a", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".aac", ".wma", ".wmv"}
)
"""Suffixes of files that it reads with FFmpeg, if the extra `[video]` is installed."""

ABSURD = 2.0**31
"""No sample is beyond the full scale of 32-bit integers, the widest that audio is stored in: such a file is refused."""


MAX_DURATION_S = 1800.0
"""The longest utterance unless another limit is asked for: half an hour, at the highest rate 1.4 GB of samples."""

_UNKNOWN_LENGTH = 2**36 - 1
"""From here on a length is a placeholder of a file that was written as a stream (FLAC's count has 36 bits)."""

_SLACK_S = 0.01
"""So much later than its file a segment may end, and is cut there: tables round."""

_POINTER_BYTES = 1024
"""A Git LFS pointer, which a clone without `git lfs` leaves in a file's place, is shorter than this."""


def decode(path: Path, start_s: float | None = None, end_s: float | None = None, *, max_duration_s: float = math.inf) -> Audio:
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
    recording, facts, digest = Recording(), FactsSoFar(), None
    for block in stream(path, start_s, end_s, recording, max_duration_s=max_duration_s):
        digest = digest or new_digest(recording.sample_rate)
        take_in(digest, block)
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
        raise AudioError(path, f"the segment ends at {end:g} s, not after its start at {start or 0.0:g} s")
    _check_file(path)
    count = 0
    for block in _decoded(path, start, end, recording, max_duration_s):
        if not len(block):
            continue
        # Each block is looked at as it comes: a file that is no recording (floats of 1e30, not-a-number) is
        # found in its first second.
        top = float(max(block.max(), -block.min()))
        if not math.isfinite(top):
            raise AudioError(path, "some samples are NaN or infinite")
        if top > ABSURD:
            raise AudioError(path, f"samples up to {top:.2g}, where full scale is 1: the numbers are no recording")
        count += len(block)
        if count > max_duration_s * recording.sample_rate:
            raise _too_long(path, None, max_duration_s)
        yield block
    if not count:
        raise AudioError(path, "no samples" + (": none of its sound can be decoded" if recording.damaged else ""))


def _check_file(path: Path) -> None:
    """Refuse what is no file with something in it, before a decoder says less clearly what it is.

    Raises:
        AudioError: what is there instead.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError(path, "not a file")
        if size == 0:
            raise AudioError(path, "the file is empty (0 bytes)")
        if size < _POINTER_BYTES and path.read_bytes().startswith(b"version https://git-lfs"):
            raise AudioError(path, "this is a pointer of Git LFS, not the recording; run `git lfs pull` in the corpus's folder")
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise AudioError(path, f"{_reason(error)}") from error


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
        # libsndfile reads a cut file to its end without a word: what the header promises is read beforehand,
        # and compared with what came.
        promised = promise(path)
        is_mp3 = path.suffix.lower() == ".mp3"
        with contextlib.ExitStack() as opened:
            opened.enter_context(hushed())
            source = opened.enter_context(Patched(path, promised.patch)) if promised.patch else path
            file = opened.enter_context(soundfile.SoundFile(source))
            rate, total = int(file.samplerate), int(file.frames)
            check_rate(path, rate)
            recording.sample_rate = rate
            is_known = 0 <= total < _UNKNOWN_LENGTH
            first = 0 if start_s is None else round(start_s * rate)
            wanted = total if end_s is None else round(end_s * rate)
            # A little beyond the end is rounding of a table's seconds, more is another file.
            if is_known and total and (first >= total or wanted > total + round(_SLACK_S * rate)):
                segment = f"the segment {first / rate:g} to {wanted / rate:g} s"
                cut = ", which is cut off" if promised.is_short else ""
                raise AudioError(path, f"{segment} is outside the file of {total / rate:g} s{cut}")
            last = min(wanted, total)
            if is_known and last - first > max_duration_s * rate:
                raise _too_long(path, (last - first) / rate, max_duration_s)
            recording.expected = last - first if is_known else None
            if first:
                file.seek(first)
            count = yield from _read_blocks(path, file, last - first, is_known, recording)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise AudioError(path, f"cannot be decoded: {_reason(error)}") from error
    # A segment that is whole is whole, however much of the file is not. An mp3 often states its length only roughly.
    ends_early = is_known and count < last - first and not is_mp3
    if ends_early or (promised.is_short and (end_s is None or count < wanted - first)):
        recording.damaged = True


def _read_blocks(path: Path, file: Any, wanted: int, is_known: bool, recording: Recording) -> Generator[Samples, None, int]:
    """Yield mono blocks of up to ``wanted`` samples, whatever length a header claims; return how many samples came."""
    import soundfile

    size = max(1, BLOCK // file.channels)
    count = 0
    while count < wanted:
        block = np.empty((min(wanted - count, size), file.channels), np.float32)
        before = file.tell()
        try:
            block = file.read(out=block)
        except soundfile.SoundFileError as error:
            if not is_known:
                raise AudioError(path, "its header states no length; write the file again with one") from error
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
        path,
        f"{length} of sound for one utterance, and {most_s:,.0f} s is the most; cut it up (columns start and end of a "
        "table), or allow more with --max-duration",
    )


def _seconds(path: Path, side: str, value: float | None) -> float | None:
    """Return a segment's edge, None for the file's own; tables say "not a number" for a missing one."""
    if value is None or math.isnan(value):
        return None
    if value < 0 or math.isinf(value):
        raise AudioError(path, f"the segment's {side} is at {value:g} s")
    return value


def _reason(error: BaseException) -> str:
    """Return an exception's own words on one line, without the path that callers name already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(getattr(error, "error_string", None) or error).split())
    if text.startswith("File does not exist"):  # so libsndfile says of an mp3 without a single frame
        return "Format not recognised."
    return text or type(error).__name__
