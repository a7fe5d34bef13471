"""The sound of video files (mp4, m4a, mov, mkv, flv and relatives), read through PyAV: the extra `tfser[video]`.

What comes in: a file whose suffix says that it is a container of FFmpeg's. What goes out: mono float32 samples at the stream's
own rate. The channels are averaged here, as they are for wav files: FFmpeg's own mono mix is sqrt(2) louder than their mean.
No resampler of FFmpeg's takes part either, so the same file gives the same samples, and the same content hash, every time.

A file that breaks off, or holds packets that cannot be decoded, is read as far as it goes, as other players do, and is
flagged `damaged`. Segments are cut out of what is decoded from the file's beginning: compressed sound cannot be sought exactly.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfser.manifests.errors import TfserError
from tfser.pipeline.sound.recording import AudioError, Recording, Samples, check_rate

SHORTFALL_S = 0.25
"""A stream that ends this much before it says so is damaged; encoders round to frames of up to 0.05 s."""


class MissingExtraError(TfserError):
    """What all of a kind needs is not installed, as PyAV for video files: nothing that is wrong with one file."""


def is_installed() -> bool:
    """Tell whether video files can be read."""
    return importlib.util.find_spec("av") is not None


def need(what: str) -> None:
    """Check that video files can be read, before the first of many is.

    Args:
        what: is to be read, as the error's subject.

    Raises:
        MissingExtraError: if PyAV is not installed.
    """
    if not is_installed():
        raise MissingExtraError(f"{what}: the sound of video files is read with PyAV: pip install '.[video]'")


def stream(path: Path, start_s: float | None, end_s: float | None, recording: Recording) -> Iterator[Samples]:
    """Yield the mono blocks of the segment; `recording` is told their rate, and in the end whether the file is damaged.

    Raises:
        MissingExtraError: if PyAV is not installed.
        AudioError: if the file holds no sound or cannot be decoded, or the segment lies outside of it.
    """
    need(str(path))
    import av

    count = 0  # samples of the file that were decoded, those before the segment with them
    try:
        # The prefix keeps a name with a colon from being taken for a protocol.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(path, "there is no sound in it, only video")
            stream = container.streams.audio[0]
            stated_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            for block in _decode(path, container, stream, end_s, recording):
                rate = recording.sample_rate
                first = max(0, round((start_s or 0.0) * rate) - count)
                last = len(block) if end_s is None else round(end_s * rate) - count
                count += len(block)
                if first < last and first < len(block):
                    yield block[first:last]
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise AudioError(path, f"cannot be decoded: {_reason(error)}") from error
    rate = recording.sample_rate
    if not count:
        return
    total_s = count / rate
    if end_s is None and stated_s - total_s > SHORTFALL_S:
        recording.damaged = True
    first = round((start_s or 0.0) * rate)
    last = count if end_s is None else round(end_s * rate)
    if first >= count or last > count + rate // 100:
        raise AudioError(path, f"the segment {first / rate:g} to {last / rate:g} s is outside the file of {total_s:g} s")


def _decode(path: Path, container: Any, stream: Any, end_s: float | None, recording: Recording) -> Iterator[Samples]:
    """Yield the mono samples of each frame up to the end of the segment; tell whether something was in the way."""
    import av

    rate, count = 0, 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):  # the file breaks off
            packet, recording.damaged = None, True
        try:
            # At the end, a packet of nothing hands out what the decoder has held back.
            frames = stream.decode(packet) if packet is not None and packet.size else stream.decode(None)
        except av.EOFError:
            frames = []
        except (av.FFmpegError, OSError):
            frames, recording.damaged = [], True
        if packet is not None and packet.is_corrupt:
            recording.damaged = True
        for frame in frames:
            if rate not in (0, frame.sample_rate):
                raise AudioError(path, f"the sample rate changes from {rate} to {frame.sample_rate} Hz; convert it first")
            if not rate:
                rate = recording.sample_rate = frame.sample_rate
                check_rate(path, rate)
            block = _mono(frame)
            count += len(block)
            yield block
        if packet is None or not packet.size or (end_s is not None and rate and count > round(end_s * rate)):
            return


def _mono(frame: Any) -> Samples:
    """Return the mean of a frame's channels, (n,) float32, full scale 1."""
    values = frame.to_ndarray()  # (channels, n), or (1, n * channels) where the format interleaves them
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if np.issubdtype(values.dtype, np.unsignedinteger):
        half = 1 << (8 * values.dtype.itemsize - 1)
        values = (values.astype(np.float64) - half) / half
    elif np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.float64) / (1 << (8 * values.dtype.itemsize - 1))
    with np.errstate(all="ignore"):  # floats that overflow are told from others by those who ask
        mono: Samples = values[0] if len(values) == 1 else values.mean(axis=0, dtype=np.float64)
        return np.ascontiguousarray(mono, dtype=np.float32)


def _reason(error: BaseException) -> str:
    """Return an exception's own words on one line, without the path that callers name already."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__
