"""Several feature sets of the same new audio: those of a joined set, side by side, or those of several heads.

What comes in: front-ends, each of one feature set. What goes out: for each piece of audio the frames of all of them, or
the reason why one has none (`FrontEnds`); and for a set that was joined in the cache
(`tfser.pipeline.derived.join`) its frames by the very rule that joined the stored ones (`JointFrontEnd`). Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfser.manifests.errors import TfserError
from tfser.pipeline.derived.join import apart, joined_config, side_by_side
from tfser.pipeline.features.engine import AudioRow, Compute, Frames
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.front_end import FrontEnd, LoadAt, check_same

Heard = tuple[Frames, ...] | str
"""The frames of a piece of audio in each feature set, or the reason why there are none."""


@dataclass(frozen=True, kw_only=True)
class FrontEnds:
    """What makes the frames of one or several feature sets."""

    of: tuple[FrontEnd, ...]

    @property
    def minimum_s(self) -> float:
        """The shortest audio that makes a frame in all of them."""
        return max(front.minimum_s for front in self.of)

    def bytes_for(self, duration_s: float) -> int:
        """Return about how many bytes the frames of so many seconds take."""
        return sum(front.bytes_for(duration_s) for front in self.of)

    def hear(self, rows: Sequence[AudioRow], load: LoadAt, compute: Compute) -> Iterator[tuple[AudioRow, Heard]]:
        """Yield each row with its frames in every set, or the first reason why one has none, in any order.

        The audio is decoded once for each set: their rates may differ, and what is quick to compute comes first.

        Raises:
            TfserError: what stops all of them, such as weights that do not load.
        """
        waiting: dict[str, dict[int, Frames]] = {row.utterance_id: {} for row in rows}
        quick_first = sorted(range(len(self.of)), key=lambda place: len(self.of[place].stored.encoders))
        left = list(rows)
        for place in quick_first:
            is_last, lost = place == quick_first[-1], set()
            for row, frames in self.of[place].hear(left, load, compute):
                if isinstance(frames, str):
                    lost.add(row.utterance_id)
                    yield row, frames
                    continue
                waiting[row.utterance_id][place] = frames
                if is_last:
                    of_row = waiting.pop(row.utterance_id)
                    yield row, tuple(of_row[i] for i in range(len(self.of)))
            left = [row for row in left if row.utterance_id not in lost]


@dataclass(frozen=True, kw_only=True)
class JointFrontEnd(FrontEnd):
    """The front-end of a joined feature set: those of its parts, and the rule that puts them side by side."""

    parts: FrontEnds

    def hear(self, rows: Sequence[AudioRow], load: LoadAt, compute: Compute) -> Iterator[tuple[AudioRow, Frames | str]]:
        """Yield each row with its frames, or the reason why there are none."""
        sets = [part.stored for part in self.parts.of]
        described = [_described(of) for of in sets]
        for row, heard in self.parts.hear(rows, load, compute):
            if isinstance(heard, str):
                yield row, heard
                continue
            try:
                if too_far := apart(described, [len(frames) for frames in heard]):
                    raise TfserError(too_far)
                yield row, self.as_stored(side_by_side(heard, [of.hop_s for of in sets]))
            except TfserError as error:
                yield row, str(error)


def joint_front_end(stored: StoredSet, parts: Sequence[FrontEnd]) -> JointFrontEnd:
    """Return what computes a joined feature set, with exactly its fingerprint.

    Args:
        stored: the joined set.
        parts: what computes its parts, in their order.

    Raises:
        TfserError: the rule or a part is another one than when the set was joined.
    """
    check_same(stored, joined_config([_described(part.stored) for part in parts]))
    first = parts[0]
    together = FrontEnds(of=tuple(parts))
    return JointFrontEnd(
        stored=stored,
        sample_rate_hz=first.sample_rate_hz,
        minimum_s=together.minimum_s,
        frames=first.frames,
        parts=together,
    )


def _described(part: StoredSet) -> dict[str, object]:
    """Return a part as a row of the table `feature_sets` describes it."""
    return {"feature_set": part.name, **part.to_dict()}
