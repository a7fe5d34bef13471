"""The frames of pieces of audio that are evaluated together, packed for heads: in memory, or beyond a bound in a file.

What comes in: front-ends and audio. What goes out: frames in each feature set as one array, in the order of the pieces, and
why other pieces have none. A whole test fold is evaluated together, since its numbers depend on who is beside whom
(`tfser.heads.prediction.companies`), and all layers of an encoder make that large: what is larger than `IN_MEMORY` is computed
bit by bit, kept in a temporary file without a name, and read from there a batch at a time. The array is the same either way,
and so are the numbers that come of it. Nothing is left behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np

from tfser.manifests.errors import CannotWriteError, TfserError
from tfser.pipeline.derived.joint_front_end import FrontEnds
from tfser.pipeline.features.engine import AudioRow, Compute, Frames
from tfser.pipeline.front_end import LoadAt
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.shards.packed import PackedFeatures

Piece = tuple[str, float]
"""What a piece of audio is called, and its length in seconds."""

IN_MEMORY = 256 * 2**20
"""Bytes of frames that are computed before they are put away."""


@dataclass(frozen=True, kw_only=True)
class HeardPart:
    """What became of pieces of audio.

    Attributes:
        packed: the frames of those that could be heard, by the fingerprint of the feature set; empty if none could.
        places: which pieces these are, ascending.
        reasons: why the others have no frames, by place.
    """

    packed: Mapping[str, PackedFeatures]
    places: Sequence[int]
    reasons: Mapping[int, str]


@contextmanager
def heard_part(
    fronts: FrontEnds, pieces: Sequence[Piece], load: LoadAt, compute: Compute, advance: Advance | None = None
) -> Iterator[HeardPart]:
    """Yield the frames of pieces of audio; where they lie in a file, it is gone afterwards.

    Args:
        fronts: what makes them.
        pieces: what is heard.
        load: returns the samples of a row, whose `utterance_id` is the piece's place, at a rate.
        compute: where.
        advance: called with a count and seconds.

    Raises:
        TfserError: what stops all of them, such as weights that do not load, or a disk without room for the file.
        CannotWriteError: the file cannot be written.
    """
    chunks = _chunks(fronts, pieces)
    is_large = len(chunks) > 1
    if is_large:
        _check_room(sum(fronts.bytes_for(seconds) for _, seconds in pieces))
    with ExitStack() as stack:
        kept = [_Kept(stack.enter_context(tempfile.TemporaryFile(prefix="tfser-")) if is_large else None) for _ in fronts.of]
        places: list[int] = []
        reasons: dict[int, str] = {}
        # Chunk by chunk in the order of the pieces: they come in any order only within what is in memory.
        for chunk in chunks:
            heard, lost = _heard(fronts, pieces, chunk, load, compute, advance)
            reasons |= lost
            for place in sorted(heard):
                places.append(place)
                for of, frames in zip(kept, heard.pop(place), strict=True):
                    of.add(frames)
        names = tuple(pieces[place][0] for place in places)
        packed = {front.stored.fingerprint: of.packed(names) for front, of in zip(fronts.of, kept, strict=True) if names}
        yield HeardPart(packed=packed, places=places, reasons=reasons)


def _chunks(fronts: FrontEnds, pieces: Sequence[Piece]) -> list[range]:
    """Return which pieces are computed at once: in order, as many as stay within the bound, one at least."""
    begins, size = [0], 0
    for place, (_, seconds) in enumerate(pieces):
        need = fronts.bytes_for(seconds)
        if place > begins[-1] and size + need > IN_MEMORY:
            begins.append(place)
            size = 0
        size += need
    return [range(start, stop) for start, stop in zip(begins, [*begins[1:], len(pieces)], strict=True)]


def _check_room(need: int) -> None:
    """Refuse what the temporary folder has no room for, before hours of an encoder's time are spent.

    Raises:
        TfserError: saying how much it takes.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < need:
        raise TfserError(
            f"{folder}: {need / 1e9:,.1f} GB of frames are evaluated together, and {free / 1e9:,.1f} GB are free; let TMPDIR "
            "name a larger folder, or predict fewer files"
        )


def _heard(
    fronts: FrontEnds, pieces: Sequence[Piece], chunk: range, load: LoadAt, compute: Compute, advance: Advance | None
) -> tuple[dict[int, tuple[Frames, ...]], dict[int, str]]:
    """Return the frames of some of the pieces as the cache would hold them, by place, and why others have none."""
    todo = [
        AudioRow(utterance_id=str(i), path="", start_s=None, end_s=None, content_hash="", duration_s=pieces[i][1]) for i in chunk
    ]
    heard: dict[int, tuple[Frames, ...]] = {}
    reasons: dict[int, str] = {}
    for row, found in fronts.hear(todo, load, compute):
        place = int(row.utterance_id)
        if isinstance(found, str):
            reasons[place] = found
        else:
            heard[place] = found
        if advance is not None:
            advance(1, row.duration_s)
    return heard, reasons


class _Kept:
    """The frames of one feature set, one utterance after another, in memory or in a file."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file, self._frames = file, list[Frames]()
        self._counts, self._dim, self._dtype = list[int](), 0, np.dtype(np.float32)

    def add(self, frames: Frames) -> None:
        """Put an utterance's frames (t, dim) behind the others."""
        self._counts.append(len(frames))
        self._dim, self._dtype = frames.shape[1], frames.dtype
        if self._file is None:
            self._frames.append(frames)
            return
        try:
            self._file.write(np.ascontiguousarray(frames).data.cast("B"))
        except OSError as error:
            raise CannotWriteError(
                f"{tempfile.gettempdir()}: cannot be written ({(error.strerror or str(error)).lower()}); let TMPDIR name another "
                "folder"
            ) from error

    def packed(self, names: tuple[str, ...]) -> PackedFeatures:
        """Return all of them as one array, under the names of their utterances."""
        offsets = np.zeros(len(self._counts) + 1, np.int64)
        np.cumsum(self._counts, out=offsets[1:])
        if self._file is None:
            return PackedFeatures(frames=np.concatenate(self._frames), offsets=offsets, utterance_ids=names)
        self._file.flush()
        # Writable, since torch takes no other array without a copy of it; nobody writes.
        frames = np.memmap(self._file, dtype=self._dtype, mode="r+", shape=(int(offsets[-1]), self._dim))
        return PackedFeatures(frames=frames, offsets=offsets, utterance_ids=names)
