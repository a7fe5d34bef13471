"""Fusions (`tfser fuse`) on new audio: the mean of their members' probabilities, as the fusion's own rule has it.

What comes in: a run of the head `fusion`, or any other run. What goes out: `Voice`, one trained head or the mean of
several, which may listen to different feature sets. A fusion is refused where a member was trained again to other
predictions than those that it was made of. Nothing is trained, and nothing is weighed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfser.heads.prediction.outputs import Outputs
from tfser.heads.prediction.trained import TrainedHead, trained_head
from tfser.heads.results.fusion import HEAD, mean_of_probabilities, stale_sources
from tfser.heads.runs.store import finished
from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError
from tfser.pipeline.features.stored_set import StoredSet
from tfser.pipeline.shards.packed import PackedFeatures

if TYPE_CHECKING:
    from tfser.heads.spec.fold import Prediction


@dataclass(frozen=True, kw_only=True)
class FusedHead:
    """The mean of several heads' probabilities.

    Attributes:
        about: what the run says of itself (run.json).
        classes: K names.
        selection: of the members' weights.
        members: trained heads, or fusions of their own.
    """

    about: Mapping[str, Any]
    classes: tuple[str, ...]
    selection: str
    members: tuple[Voice, ...]

    @property
    def name(self) -> str:
        """The run's id."""
        return str(self.about["run_id"])

    def calibrated(self) -> FusedHead:
        """Return the fusion of its members, each at its own temperature.

        Raises:
            UsageError: the training of one fitted none.
        """
        return replace(self, members=tuple(member.calibrated() for member in self.members))

    @property
    def targets(self) -> tuple[str, ...]:
        """None: heads of dimensions are not fused (`tfser.heads.results.fusion`)."""
        return ()

    @property
    def outputs(self) -> Outputs:
        """What its K numbers are called: its members' ratings, if they have any, are not fused."""
        return Outputs(classes=self.classes)

    @property
    def needs_speakers(self) -> bool:
        """Whether a member has to know who speaks."""
        return any(member.needs_speakers for member in self.members)


Voice = TrainedHead | FusedHead
"""What gives an utterance class probabilities, ratings, or both."""


def voice(cache: Cache, run_id: str, *, selection: str = "last") -> Voice:
    """Return the trained head of a finished run, or the fusion that it is.

    Raises:
        UsageError: there is no such run, or a run keeps no weights of this selection.
        TfserError: weights are damaged, or a fusion's members have other predictions now.
    """
    about = finished(cache, run_id)
    if about is None or about["head"] != HEAD:
        return trained_head(cache, run_id, selection=selection)
    # The weights of a member are those of its last training: a fusion of an earlier one is no longer here.
    if stale := stale_sources(cache, about):
        raise TfserError(
            f"{run_id}: {', '.join(stale)} was trained again to other predictions since it was fused; run `tfser fuse` again"
        )
    members = tuple(voice(cache, source["run_id"], selection=selection) for source in about["config"]["sources"])
    return FusedHead(about=about, classes=tuple(about["classes"]), selection=selection, members=members)


def trained_in(of: Voice) -> Iterator[TrainedHead]:
    """Yield the trained heads of a voice."""
    if isinstance(of, TrainedHead):
        yield of
        return
    for member in of.members:
        yield from trained_in(member)


def told_apart(voices: Sequence[Voice]) -> tuple[Voice, ...]:
    """Return those whose probabilities are told one by one: the voices, or the members of the only one, a fusion."""
    only = voices[0]
    return only.members if len(voices) == 1 and isinstance(only, FusedHead) else tuple(voices)


def sets_of(voices: Sequence[Voice]) -> tuple[StoredSet, ...]:
    """Return the feature sets that voices listen to, each once."""
    heads = [head for of in voices for head in trained_in(of)]
    return tuple({head.features.fingerprint: head.features for head in heads}.values())


def predict_with(of: Voice, packed: Mapping[str, PackedFeatures], *, speakers: tuple[str, ...], device: str) -> Prediction:
    """Return what a voice says of all utterances of packed frames.

    Args:
        of: the voice.
        packed: the same n utterances in each feature set, by its fingerprint.
        speakers: (n,) who speaks.
        device: of networks; what is fitted at once computes on the CPU.

    Raises:
        UsageError: the features are of another width, or the speakers are needed and not given.
    """
    from tfser.heads.spec.fold import Prediction

    if isinstance(of, TrainedHead):
        where = "cpu" if of.is_fitted_at_once else device
        return of.predict(packed[of.features.fingerprint], speakers=speakers, device=where)
    found = [predict_with(member, packed, speakers=speakers, device=device) for member in of.members]
    mean = mean_of_probabilities([each.utterance_probabilities[:, : len(of.classes)] for each in found])
    number = np.arange(len(mean))
    # A fusion has no segments of its own: the mean of each utterance is its one segment, as in its stored runs.
    return Prediction(
        segment_utterance=number,
        segment_number=np.zeros(len(mean), dtype=np.int64),
        segment_probabilities=mean,
        utterance=number,
        utterance_probabilities=mean,
    )
