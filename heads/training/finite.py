"""What leaves a head is numbers: probabilities, weights and features that are none are an error, never a result.

What comes in: a fold's data, and what an epoch or a fit gave. What goes out: nothing, or a `NotFiniteError` that names the
epoch, the utterance where it is the features' fault, and the way out. An argmax over values that are no numbers would take the
first class for everybody, silently.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.heads.spec.fold import Prediction
from tfser.heads.spec.recipes import Normalise
from tfser.manifests.errors import TfserError
from tfser.manifests.wording import more
from tfser.pipeline.shards.packed import PackedFeatures

Indices = npt.NDArray[np.int64]


class NotFiniteError(TfserError):
    """Features, weights or probabilities are no numbers, or infinite."""


def check_prediction(prediction: Prediction | None, side: str, epoch: int, features: PackedFeatures, train: Indices) -> None:
    """Refuse probabilities that are no numbers.

    Args:
        prediction: what was predicted, if anything.
        side: whose utterances these are: val or test.
        epoch: from 1.
        features: what was predicted from.
        train: rows of the training utterances.

    Raises:
        NotFiniteError: naming the epoch and the way out.
    """
    if prediction is None:
        return
    odd = ~np.isfinite(prediction.utterance_probabilities).all(axis=1)
    if not odd.any() and np.isfinite(prediction.segment_probabilities).all():
        return
    check_features(features, np.concatenate([train, prediction.utterance[odd]]))
    count, all_of = int(odd.sum()), len(prediction.utterance)
    raise NotFiniteError(
        f"after epoch {epoch}, the predictions of {count} of {all_of} {side} utterances are no numbers: lower lr, or set "
        "grad_clip; nothing of it counts as a result"
    )


def check_loss(mean: float, epoch: int, features: PackedFeatures, train: Indices) -> None:
    """Refuse a loss that is no number.

    Raises:
        NotFiniteError: naming the epoch and the way out.
    """
    if np.isfinite(mean):
        return
    check_features(features, train)
    raise NotFiniteError(f"the loss of epoch {epoch} is {mean}: lower lr, set grad_clip, or check the features")


def check_weights(state: Mapping[str, Tensor], epoch: int, features: PackedFeatures, train: Indices) -> None:
    """Refuse weights that are no numbers; one look at each tensor where it lies.

    Raises:
        NotFiniteError: naming the epoch and the way out.
    """
    floats = [tensor for tensor in state.values() if tensor.is_floating_point() and tensor.numel()]
    if not floats or bool(torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()):
        return
    check_features(features, train)
    raise NotFiniteError(
        f"after epoch {epoch}, weights of the head are no numbers: lower lr, or set grad_clip; nothing of it counts as a result"
    )


def check_features(features: PackedFeatures, rows: Indices) -> None:
    """Refuse features of utterances that are no numbers.

    Raises:
        NotFiniteError: naming the first such utterance.
    """
    odd = []
    for row in np.unique(rows):
        first, last = features.offsets[row], features.offsets[row + 1]
        # A sum is a number only if all its summands are: no array of answers is made.
        if not np.isfinite(features.frames[first:last].sum(dtype=np.float64)):
            odd.append(int(row))
    refuse_features(features, odd)


def check_speakers(mode: Normalise, means: npt.NDArray[np.float32], features: PackedFeatures) -> None:
    """Refuse features that are no numbers where frames are normalised by speaker: one utterance spoils all of its speaker's.

    Args:
        mode: of the normalisation; nothing is looked at in the others, where an utterance spoils itself alone.
        means: (n, D) of each utterance's speaker.
        features: of all n utterances.

    Raises:
        NotFiniteError: naming the first such utterance.
    """
    if mode == "speaker":
        check_features(features, np.flatnonzero(~np.isfinite(means).all(axis=1)))


def refuse_features(features: PackedFeatures, odd: list[int]) -> None:
    """Say which utterances have features that are no numbers, if any are given.

    Raises:
        NotFiniteError: if there are any.
    """
    if odd:
        others = more(len(odd) - 1, "utterance", brackets=True)
        raise NotFiniteError(
            f"utterance {features.utterance_ids[odd[0]]!r}{others}: its features are no numbers; `tfser cache verify` looks for "
            "damage, and `tfser cache rm --features NAME` lets them be extracted again"
        )
