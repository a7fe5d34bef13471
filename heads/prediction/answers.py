"""From measured speech to class probabilities, by one trained head or by several.

What comes in: trained heads, what makes the frames of their feature sets, and speech. What goes out: a `SpokenAnswer` for
each piece that could be heard, and an `Unusable` for each that could not. Frames are computed once, however many heads look
at them, and are let go with their part (`tfser.heads.prediction.companies`). Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfser.heads.prediction.companies import Familiar, Part, parts
from tfser.heads.prediction.fused import FusedHead, Voice, predict_with, told_apart
from tfser.heads.prediction.inputs import Speech, Unusable
from tfser.heads.prediction.packing import heard_part
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.derived.joint_front_end import FrontEnds
from tfser.pipeline.features.engine import AudioRow, Compute, Samples
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.shards.packed import PackedFeatures
from tfser.pipeline.sound.audio import decode, resample
from tfser.pipeline.sound.video import MissingExtraError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SpokenAnswer:
    """What one or several heads say of a piece of speech.

    Attributes:
        speech: the piece.
        classes: K names.
        probabilities: (K,) float32; of several heads their mean.
        members: (M, K) those of each head; of one fusion those of each of its members.
        segments: (S, K) of the segments, of the first head.
        seen: train, val or test: on which side of the head's training the very same sound was (of several heads: train,
            if it was of any); None: on none.
    """

    speech: Speech
    classes: tuple[str, ...]
    probabilities: Floats
    members: Floats
    segments: Floats
    seen: str | None = None
    scale: tuple[float, float] | None = None
    """Of heads of dimensions: the ends of their scale. The probabilities are then ratings on 0..1 of the dimensions that
    `classes` names, and nothing is predicted but these."""

    @property
    def predicted(self) -> str:
        """The class of the largest probability."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def agreement(self) -> float:
        """The share of the heads whose own class this is."""
        return float((self.members.argmax(axis=1) == self.probabilities.argmax()).mean())

    @property
    def spread(self) -> float:
        """The standard deviation over the heads of the predicted class's probability; 0 of one head."""
        return float(self.members[:, int(self.probabilities.argmax())].astype(np.float64).std())

    def shares(self) -> dict[str, float]:
        """Return the probabilities by class."""
        return {name: float(value) for name, value in zip(self.classes, self.probabilities, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return it as a row: the input, what is predicted, and the probabilities by class."""
        piece = self.speech
        row: dict[str, Any] = {"input": piece.name}
        if piece.utterance_id is not None:
            row |= {"corpus": piece.corpus, "utterance_id": piece.utterance_id, "label": piece.label}
        if self.scale is not None:
            row |= {"seconds": round(piece.duration_s, 3), "ratings": on_scale(self.classes, self.probabilities, self.scale)}
            if len(self.members) > 1:
                width = self.scale[1] - self.scale[0]
                spread = self.members.astype(np.float64).std(axis=0) * width
                row["spread"] = {name: float(value) for name, value in zip(self.classes, spread, strict=True)}
            return row | {"seen": self.seen}
        row |= {"seconds": round(piece.duration_s, 3), "predicted": self.predicted, "probabilities": self.shares()}
        if len(self.members) > 1:
            row |= {"agreement": self.agreement, "spread": self.spread}
        return row | {"seen": self.seen}


def on_scale(names: Sequence[str], shares: Floats, scale: tuple[float, float]) -> dict[str, float]:
    """Return ratings (T,) on 0..1 by dimension, on a scale.

    >>> on_scale(["valence"], np.array([0.25], np.float32), (1.0, 5.0))
    {'valence': 2.0}
    """
    low, high = scale
    return {name: low + float(value) * (high - low) for name, value in zip(names, shares, strict=True)}


def check_together(heads: Sequence[Voice]) -> None:
    """Refuse heads that cannot answer together.

    Raises:
        UsageError: if they tell other classes apart, rate other dimensions, or on another scale.
    """
    first = heads[0]
    for other in heads[1:]:
        if (other.classes, other.targets, other.scale) != (first.classes, first.targets, first.scale):
            what = "dimensions or another scale" if first.targets or other.targets else "classes"
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
            classes=heads[0].classes,
            probabilities=mean_of(members),
            members=members,
            segments=segments,
            seen=known.roles.get(piece.content_hash),
            scale=heads[0].scale if heads[0].targets else None,
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
    """Return for each utterance what each head says (M, K), and what the first one says of its segments (S, K).

    Of one fusion it is what each of its members says; it has no segments but the utterance.
    """
    apart = told_apart(heads)
    found = [predict_with(of, packed, speakers=speakers, device=device) for of in apart]
    first, number = found[0], np.arange(len(found[0].utterance_probabilities))
    members = [np.stack([of.utterance_probabilities[i] for of in found]) for i in number]
    if isinstance(heads[0], FusedHead):
        return [(of, mean_of(of)[None]) for of in members]
    starts = np.searchsorted(first.segment_utterance, number)
    stops = np.searchsorted(first.segment_utterance, number, side="right")
    return [(members[i], first.segment_probabilities[starts[i] : stops[i]]) for i in number]


def mean_of(members: Floats) -> Floats:
    """Return the mean over heads (K,); of one head, its own bits."""
    mean: Floats = members[0] if len(members) == 1 else members.astype(np.float64).mean(axis=0).astype(np.float32)
    return mean
