"""Normalisation: what each mode measures, and on whom."""

from __future__ import annotations

import numpy as np
import pytest

from tfser.heads.spec.recipes import Normalise
from tfser.heads.training.normalise import Normaliser
from tfser.manifests.errors import UsageError

from .conftest import make_features

TRAIN = np.array([0, 2])
SPEAKERS = ("x", "y", "x", "y")


def applied(mode: Normalise) -> tuple[list[np.ndarray], Normaliser]:
    packed = make_features([7, 4, 9, 5], 3)
    packed.frames[:] = packed.frames * 3 + 5
    fitted = Normaliser.fit(mode, packed.frames, packed.offsets, TRAIN)
    shift, scale = fitted.tables(packed.frames, packed.offsets, SPEAKERS)
    shift, scale = (np.broadcast_to(table, (4, 3)) for table in (shift, scale))
    cut = [packed.frames[a:b] for a, b in zip(packed.offsets, packed.offsets[1:], strict=False)]
    return [(x - shift[u]) * scale[u] for u, x in enumerate(cut)], fitted


def is_standard(frames: np.ndarray) -> bool:
    return bool(np.allclose(frames.mean(axis=0), 0, atol=1e-4) and np.allclose(frames.std(axis=0), 1, atol=1e-4))


def test_train_measures_the_training_side_only() -> None:
    frames, fitted = applied("train")
    assert is_standard(np.concatenate([frames[0], frames[2]]))
    assert not is_standard(np.concatenate(frames))
    assert fitted.mean.shape == fitted.deviation.shape == (3,)


def test_utterance_measures_each_utterance() -> None:
    assert all(is_standard(x) for x in applied("utterance")[0])


def test_utterance_mean_keeps_the_deviations_apart() -> None:
    frames, _ = applied("utterance-mean")
    assert all(np.allclose(x.mean(axis=0), 0, atol=1e-4) for x in frames)
    assert is_standard(np.concatenate([frames[0], frames[2]]))
    assert not is_standard(frames[1])


def test_speaker_measures_all_of_a_speaker() -> None:
    frames, _ = applied("speaker")
    assert is_standard(np.concatenate([frames[1], frames[3]]))


def test_none_changes_nothing() -> None:
    assert np.allclose(np.concatenate(applied("none")[0]), make_features([7, 4, 9, 5], 3).frames * 3 + 5)


def test_speaker_needs_speakers() -> None:
    packed = make_features([3, 3], 2)
    fitted = Normaliser.fit("speaker", packed.frames, packed.offsets, np.array([0]))
    for speakers in (None, ("x", "")):
        with pytest.raises(UsageError, match="speaker"):
            fitted.tables(packed.frames, packed.offsets, speakers)


@pytest.mark.parametrize("mode", ["train", "utterance", "utterance-mean", "speaker"])
def test_a_feature_that_hardly_moves_is_not_blown_up(mode: Normalise) -> None:
    """Deviations of 0, of just below and just above a thousandth, and of one: the first two count as a thousandth."""
    deviations = np.array([0.0, 0.9e-3, 1.2e-3, 1.0])
    swing = np.tile([1.0, -1.0], 8)[:, None]  # of deviation 1 in every utterance, whoever speaks
    frames = (swing * deviations).astype(np.float32)
    offsets = np.array([0, 4, 8, 12, 16])
    fitted = Normaliser.fit(mode, frames, offsets, TRAIN)
    _, scale = fitted.tables(frames, offsets, SPEAKERS)
    expected = 1 / np.array([1e-3, 1e-3, 1.2e-3, 1.0])
    np.testing.assert_allclose(scale, np.broadcast_to(expected, scale.shape), rtol=1e-3)
