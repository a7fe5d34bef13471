"""What heads that are fitted at once see of an utterance: the mean and the deviation over time of its frames, scaled.

In go packed features, and for `of_speakers` who speaks; out come arrays with a row an utterance, and the scaling as a part of
the head's state, so that a prediction measures with training's rule. Nothing is fitted to labels here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.heads.spec.fold import FoldData, Indices
from tfser.heads.training.finite import refuse_features
from tfser.heads.training.frame_sums import utterance_sums
from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures

Floats = npt.NDArray[np.float64]

_SMALLEST = 1e-9  # deviation of an input that says nothing


@np.errstate(invalid="ignore", over="ignore")  # of features that are no numbers: `finite_statistics` says so
def statistics(features: PackedFeatures, *, deviation: bool = True) -> Floats:
    """Return the mean and the standard deviation over time of each utterance's features: (n, 2 D), or the mean alone (n, D)."""
    sums, squares = utterance_sums(features.frames, features.offsets)
    counts = np.diff(features.offsets)[:, None]
    mean: Floats = sums / counts
    if not deviation:
        return mean
    return np.concatenate([mean, np.sqrt(np.maximum(squares / counts - mean**2, 0.0))], axis=1)


def finite_statistics(features: PackedFeatures, rows: Indices, *, deviation: bool) -> Floats:
    """Return `statistics`, refusing utterances among ``rows`` whose features are no numbers; they are sums, which say so."""
    inputs = statistics(features, deviation=deviation)
    odd = ~np.isfinite(inputs[rows]).all(axis=1)
    refuse_features(features, sorted(int(row) for row in rows[odd]))
    return inputs


def rows_seen(data: FoldData, by_speaker: bool) -> Indices:
    """Return the utterances whose inputs a fit looks at: those of this fold, not a broken one elsewhere in the corpus.

    By speaker they are all: one that the fold leaves out counts in the mean and deviation of its speaker's others.
    """
    return np.arange(len(data.labels)) if by_speaker else np.concatenate([data.train, data.val, data.test])


def fold_statistics(data: FoldData, by_speaker: bool = False) -> Floats:
    """Return the statistics of all utterances, refusing those of `rows_seen` whose features are no numbers."""
    return finite_statistics(data.features, rows_seen(data, by_speaker), deviation=bool((data.features.lengths > 1).any()))


def of_speakers(inputs: Floats, speakers: Sequence[str] | None) -> Floats:
    """Return inputs (n, ...) with each speaker's utterances at mean 0 and deviation 1 over all that are given of that speaker.

    What hardly differs between a speaker's utterances, as of a speaker with one alone, is 0.

    Raises:
        UsageError: Nothing says who speaks.
    """
    if speakers is None or not all(speakers):
        raise UsageError("recipe speaker needs to know who speaks in every utterance")
    result = np.zeros_like(inputs)
    names, speaker = np.unique(speakers, return_inverse=True)
    for number in range(len(names)):
        rows = speaker == number
        deviation = inputs[rows].std(axis=0)
        result[rows] = (inputs[rows] - inputs[rows].mean(axis=0)) / np.where(deviation < _SMALLEST, np.inf, deviation)
    return result


def inputs_of(state: Mapping[str, Tensor], features: PackedFeatures, rows: Indices) -> Floats:
    """Return the statistics (n, I) of utterances as the state of a reference head takes them; those of ``rows`` are numbers.

    Raises:
        UsageError: The state is not one of a reference head, or the features are of another width.
        NotFiniteError: Features of an utterance among ``rows`` are no numbers.
    """
    if "inputs.mean" not in state or "model.intercept" not in state:
        raise UsageError("this is not a state of a reference head")
    inputs, dim = len(state["inputs.mean"]), features.frames.shape[1]
    if inputs not in (dim, 2 * dim):
        raise UsageError(f"this state is of features {inputs // 2} wide, and these are {dim} wide")
    return finite_statistics(features, rows, deviation=inputs == 2 * dim)


def scale_inputs(inputs: Floats) -> tuple[Floats, dict[str, Tensor]]:
    """Return inputs (n, I) at mean 0 and deviation 1, and the state that measures others by the same rule."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(inputs)
    state = {"inputs.mean": torch.from_numpy(scaler.mean_), "inputs.deviation": torch.from_numpy(scaler.scale_)}
    return scaler.transform(inputs), state
