"""From measured speech to class probabilities and ratings, by one trained head or by several.

What comes in: trained heads, what makes the frames of their feature sets, and speech. What goes out: a `SpokenAnswer` for
each piece that could be heard, and an `Unusable` for each that could not. Frames are computed once, however many heads look
at them, and are let go with their part (`tfser.heads.prediction.companies`). Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfser.heads.prediction.companies import Familiar, Part, parts
from tfser.heads.prediction.fused import FusedHead, Voice, predict_with, told_apart
from tfser.heads.prediction.inputs import Speech, Unusable
from tfser.heads.prediction.outputs import Floats, Outputs, mean_of
from tfser.heads.prediction.packing import heard_part
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.derived.joint_front_end import FrontEnds
from tfser.pipeline.features.engine import AudioRow, Compute, Samples
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.shards.packed import PackedFeatures
from tfser.pipeline.sound.audio import decode, resample
from tfser.pipeline.sound.video import MissingExtraError


@dataclass(frozen=True, kw_only=True)
class SpokenAnswer:
    """What one or several heads say of a piece of speech.

    Attributes:
        speech: the piece.
        outputs: what K + T numbers are called.
        members: (M, K + T) float32 of each head; of one fusion those of each of its members.
        segments: (S, K + T) of the segments, of the first head.
        seen: train, val or test: on which side of the head's training the very same sound was (of several heads: train,
            if it was of any); None: on none.
    """

    speech: Speech
    outputs: Outputs
    members: Floats
    segments: Floats
    seen: str | None = None

    def shares(self) -> dict[str, float]:
        """Return the probabilities by class; of several heads their mean."""
        return self.outputs.shares(mean_of(self.members))

    def to_dict(self) -> dict[str, Any]:
        """Return it as a row: the input, what is predicted, and the probabilities by class, the ratings by dimension."""
        piece = self.speech
        row: dict[str, Any] = {"input": piece.name}
        if piece.utterance_id is not None:
            row |= {"corpus": piece.corpus, "utterance_id": piece.utterance_id, "label": piece.label}
        row |= {"seconds": round(piece.duration_s, 3)}
        return row | self.outputs.row(self.members) | self.outputs.disagreement(self.members) | {"seen": self.seen}


def check_together(heads: Sequence[Voice]) -> None:
    """Refuse heads that cannot answer together.

    Raises:
        UsageError: if they tell other classes apart, rate other dimensions, or on another scale.
    """
    first = heads[0]
    for other in heads[1:]:
        if other.outputs != first.outputs:
            what = "classes" if other.classes != first.classes else "dimensions or another scale"
            raise UsageError(f"{other.name} and {first.name} have other {what}: they cannot answer together")


def answers(
    heads: Sequence[Voice],
    fronts: FrontEnds,
    speech: Sequence[Speech],
    *,
    known: Familiar | None = None,
    compute: Compute | None = None,
    advance: Advance | None = None,
) -> Iterator[SpokenAnswer | Unusable]:
    """Predict measured speech, part by part.

    Args:
        heads: at least one.
        fronts: make the frames of their feature sets.
        speech: with lengths and hashes.
        known: what the first head was tested and trained on.
        compute: where; the heads compute on its first device.
        advance: called with a count and seconds as pieces are heard.

    Raises:
        UsageError: the heads cannot answer together, or it has to be known who speaks and is not.
        TfserError: the encoder cannot be loaded.
    """
    check_together(heads)
    known, compute = known or Familiar(), compute or Compute()
    by_speaker = any(of.needs_speakers for of in heads)
    for part in parts(speech, known, fronts, by_speaker=by_speaker):
        if by_speaker and not all(part.speakers):
            raise UsageError(
                f"{heads[0].name} normalises by speaker, and nothing says who speaks in {part.speech[0].name}: name the "
                "speaker of all inputs with --speaker, or train with --set normalise=train"
            )
        yield from _of_part(heads, fronts, part, known, compute, advance)


def _of_part(
    heads: Sequence[Voice],
    fronts: FrontEnds,
    part: Part,
    known: Familiar,
    compute: Compute,
    advance: Advance | None,
) -> Iterator[SpokenAnswer | Unusable]:
    def load(row: AudioRow, rate_hz: int) -> Samples:
        return samples_of(part.speech[int(row.utterance_id)], rate_hz)

    pieces = [(piece.name, piece.duration_s) for piece in part.speech]
    with heard_part(fronts, pieces, load, compute, advance) as heard:
        for place, reason in sorted(heard.reasons.items()):
            yield Unusable(name=part.speech[place].name, reason=reason)
        if not heard.places:
            return
        speakers = tuple(part.speakers[place] or "" for place in heard.places)
        found = evaluated(heads, heard.packed, compute.devices[0], speakers)
    for place, (members, segments) in zip(heard.places, found, strict=True):
        piece = part.speech[place]
        yield SpokenAnswer(
            speech=piece,
            outputs=heads[0].outputs,
            members=members,
            segments=segments,
            seen=known.roles.get(piece.content_hash),
        )


def samples_of(piece: Speech, rate: int) -> Samples:
    """Return the (n,) mono samples of a piece at a rate.

    Raises:
        TfserError: it cannot be read; the text is the reason without the path.
    """
    try:
        audio = decode(piece.path, piece.start_s, piece.end_s, max_duration_s=piece.duration_s + 1.0)
    except MissingExtraError:
        raise
    except TfserError as error:
        raise TfserError(str(error).removeprefix(f"{piece.path}: ")) from error
    return resample(audio.samples, audio.sample_rate, rate)


def evaluated(
    heads: Sequence[Voice], packed: Mapping[str, PackedFeatures], device: str, speakers: tuple[str, ...]
) -> list[tuple[Floats, Floats]]:
    """Return for each utterance what each head says (M, K + T), and what the first one says of its segments (S, K + T).

    Of one fusion it is what each of its members says of the classes; it has no segments but the utterance.
    """
    apart = told_apart(heads)
    found = [predict_with(of, packed, speakers=speakers, device=device) for of in apart]
    first, number = found[0], np.arange(len(found[0].utterance_probabilities))
    # Of a fusion its classes alone: the ratings that one of its members has beside them are no part of it.
    width = heads[0].outputs.width
    members = [np.stack([of.utterance_probabilities[i, :width] for of in found]) for i in number]
    if isinstance(heads[0], FusedHead):
        return [(of, mean_of(of)[None]) for of in members]
    starts = np.searchsorted(first.segment_utterance, number)
    stops = np.searchsorted(first.segment_utterance, number, side="right")
    return [(members[i], first.segment_probabilities[starts[i] : stops[i]]) for i in number]
