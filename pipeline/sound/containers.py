"""What the header of an audio file promises, against what the file holds: decoders read what is there and say nothing.

In comes a file; out goes :class:`Promise`: whether the file ends before its header says (a download or a copy that broke off),
and what a decoder has to be told where the header says too little (a recorder that was cut off before it wrote the length) or
too much for the decoder to open it. Only headers are read, and of Ogg the last page. FLAC says how many samples it has, which
the decoder counts itself; it needs nothing here.

A length that stands for "unknown" (streams: FFmpeg, sox and arecord write their largest numbers) promises nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

_CHUNKS = 4096
"""Chunks that are looked at, at most: a file of nothing but empty chunks is no recording."""

_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the largest page."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a header says of the file's length.

    Attributes:
        is_short: the file ends before its header says, or the header says that there is nothing where there are samples.
        patch: bytes that a decoder has to read in place of the header's own, by their place; mostly none.
    """

    is_short: bool = False
    patch: Mapping[int, bytes] = field(default_factory=dict)


class Patched(io.RawIOBase):
    """A file that is read with other bytes at a few places, as decoders want it: readable and seekable, never written."""

    def __init__(self, path: Path, patch: Mapping[int, bytes]) -> None:
        self._file = path.open("rb")
        self._patch = patch

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, and return the new place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes came."""
        start = self._file.tell()
        count = self._file.readinto(buffer)
        view = memoryview(buffer).cast("B")
        for place, content in self._patch.items():
            for at in range(max(place, start), min(place + len(content), start + count)):
                view[at - start] = content[at - place]
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def promise(path: Path) -> Promise:
    """Return what the header of a file says of its length; nothing for kinds that are not known here.

    Raises:
        OSError: if it cannot be read.
    """
    # By the first bytes and not by the name: corpora hold wav files called .mp3, and the other way about.
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
            return _wav(file, size, head)
        if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            return _aiff(file, size)
        if head[:4] in (b".snd", b"dns."):
            return _au(head, size)
        if head[:4] == b"riff":
            return _w64(file, size)
        if head[:4] == b"caff":
            return _caf(file, size)
        if head[:4] == b"OggS":
            return _ogg(file, size)
        return _mp3(file, size)


def _wav(file: BinaryIO, size: int, head: bytes) -> Promise:
    order: Literal["little", "big"] = "big" if head[:4] == b"RIFX" else "little"
    at, long_size = 12, None
    for _ in range(_CHUNKS):
        file.seek(at)
        name, length = _chunk(file.read(8), order)
        if name == b"ds64":  # lengths that 32 bits do not hold: of the file, then of the samples
            long_size = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            stated = long_size if length == 0xFFFFFFFF and long_size is not None else length
            present = size - at - 8
            # Recorders that were switched off leave a length of zero before the sound: it is patched in memory,
            # and the file is listed as damaged and read.
            if length == 0 and present > 0 and not _is_chunk(file, at + 8, size, order):
                whole = min(present, 0xFFFFFFFE).to_bytes(4, order)
                return Promise(is_short=True, patch={4: min(size - 8, 0xFFFFFFFE).to_bytes(4, order), at + 4: whole})
            return Promise(is_short=stated > present and (stated != length or not _is_unknown(stated)))
        elif not name:
            break
        at += 8 + length + length % 2
    return Promise()


def _aiff(file: BinaryIO, size: int) -> Promise:
    at = 12
    for _ in range(_CHUNKS):
        file.seek(at)
        name, length = _chunk(file.read(8), "big")
        if name == b"SSND":
            there = size - at - 8
            if length == 0:  # libsndfile reads on to the end by itself
                return Promise(is_short=there > 8 and not _is_chunk(file, at + 8, size, "big"))
            return Promise(is_short=length > there and not _is_unknown(length))
        if not name:
            break
        at += 8 + length + length % 2
    return Promise()


def _au(head: bytes, size: int) -> Promise:
    order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
    offset, stated = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    there = size - offset
    if stated == 0 and there > 0:
        return Promise(is_short=True, patch={8: min(there, 0xFFFFFFFE).to_bytes(4, order)})
    return Promise(is_short=stated > there and not _is_unknown(stated))


def _w64(file: BinaryIO, size: int) -> Promise:
    at = 40  # after `riff`, its length and `wave`: names have 16 bytes, lengths 8, and count their own 24
    for _ in range(_CHUNKS):
        file.seek(at)
        header = file.read(24)
        length = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            if length <= 24:
                return Promise(is_short=size > at + 24)
            return Promise(is_short=at + length > size)
        if len(header) < 24 or length < 24:
            break
        at += length + -length % 8
    return Promise()


def _caf(file: BinaryIO, size: int) -> Promise:
    at = 8
    for _ in range(_CHUNKS):
        file.seek(at)
        header = file.read(12)
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:4] == b"data":
            there = size - at - 12
            if length == -1:  # to the end of the file, as the format has it
                return Promise()
            if length > there or (length == 0 and there > 4):
                return Promise(is_short=True, patch={at + 4: there.to_bytes(8, "big")})
            return Promise()
        if len(header) < 12 or length < 0:
            break
        at += 12 + length
    return Promise()


def _ogg(file: BinaryIO, size: int) -> Promise:
    """The last page has to be whole, and to say that it is the last."""
    start = max(0, size - 2 * _OGG_PAGE)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return Promise()
    header = tail[at : at + 27]
    if len(header) < 27:
        return Promise(is_short=True)
    lengths = tail[at + 27 : at + 27 + header[26]]
    is_whole = len(lengths) == header[26] and at + 27 + len(lengths) + sum(lengths) <= len(tail)
    return Promise(is_short=not is_whole or not header[5] & 4)


def _mp3(file: BinaryIO, size: int) -> Promise:
    """The first frame of most files holds no sound but how many bytes there are: Xing's header (`Info` at a fixed bit rate)."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":  # a length of four times seven bits
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(192)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return Promise()
    at = max(frame[:44].find(b"Xing"), frame[:44].find(b"Info"))
    if at < 0:
        return Promise()
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if not flags & 2:
        return Promise()
    place = at + 8 + (4 if flags & 1 else 0)
    stated = int.from_bytes(frame[place : place + 4], "big")
    # Some writers count this frame and some do not, and editors of tags are off by a little: a frame has at most 2881 bytes.
    return Promise(is_short=stated > size - start + 2881)


def _chunk(header: bytes, order: Literal["little", "big"]) -> tuple[bytes, int]:
    """Return name and length of a chunk; no name where the file ends, or what stands there is none."""
    name = header[:4]
    if len(header) < 8 or not all(32 <= byte < 127 for byte in name):
        return b"", 0
    return name, int.from_bytes(header[4:], order)


def _is_chunk(file: BinaryIO, at: int, size: int, order: Literal["little", "big"]) -> bool:
    """Tell whether another chunk stands at a place, rather than samples."""
    file.seek(at)
    name, length = _chunk(file.read(8), order)
    return bool(name) and at + 8 + length <= size


def _is_unknown(length: int) -> bool:
    """Tell whether a length is what writers of streams put where they cannot come back: all bits, or about the half of it."""
    return length >= 0xFFFFFF00 or 0x7FFFF000 <= length <= 0x80000FFF
