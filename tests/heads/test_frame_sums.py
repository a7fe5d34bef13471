"""Sums of frames: the same bits whatever the threads and blocks, of those who are wanted alone, and kept for who shares them."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads.spec.recipes import Normalise
from tfser.heads.training import frame_sums
from tfser.heads.training.frame_sums import KeptSums, RunningTotal, are_kept, sums_in_parts, utterance_sums
from tfser.heads.training.normalise import Normaliser, measured
from tfser.manifests.errors import UsageError

SMALLEST_DEVIATION = 1e-3


def in_one_go(frames: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return sums and squares as the plain use of NumPy gives them, of all frames at once."""
    wide = frames.astype(np.float64)
    return np.add.reduceat(wide, offsets[:-1], axis=0), np.add.reduceat(wide * wide, offsets[:-1], axis=0)


def fitted_in_one_go(
    mode: Normalise, frames: npt.NDArray[Any], offsets: npt.NDArray[np.int64], train: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return mean and deviation as `Normaliser.fit` has them, from tables of all utterances."""
    sums, squares = in_one_go(frames, offsets)
    counts = np.diff(offsets)[train, None]
    centre = sums[train].sum(axis=0) / counts.sum()
    if mode == "train":
        variance = squares[train].sum(axis=0) / counts.sum() - centre**2
    else:
        centre, variance = np.zeros(len(centre)), (squares[train] - sums[train] ** 2 / counts).sum(axis=0) / counts.sum()
    deviation = np.maximum(np.sqrt(np.maximum(variance, 0.0)), SMALLEST_DEVIATION)
    return centre.astype(np.float32), deviation.astype(np.float32)


def bits(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes of an array: 0.0 and -0.0 differ in them."""
    return values.tobytes()


@st.composite
def corpora(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw frames of either dtype, where utterances begin (many of one frame, some beyond 128), and a training side."""
    lengths = draw(st.lists(st.sampled_from([1, 1, 2, 7, 8, 9, 10, 17, 65, 129, 130, 300]), min_size=1, max_size=12))
    dim = draw(st.sampled_from([1, 2, 3, 8, 17, 64, 513]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offsets = np.cumsum([0, *lengths])
    frames = generator.standard_normal((int(offsets[-1]), dim)) * 10.0 ** generator.integers(-3, 4, dim)
    train = generator.permutation(len(lengths))[: draw(st.integers(1, len(lengths)))]
    train = np.sort(train) if draw(st.booleans()) else train
    return frames.astype(draw(st.sampled_from([np.float16, np.float32]))), offsets, train


@given(corpora(), st.sampled_from([1, 7, 100, 5000]), st.booleans())
def test_the_bits_do_not_depend_on_threads_blocks_or_parts(corpus: Any, cached: int, in_parts: bool) -> None:
    frames, offsets, train = corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_sums, "_CACHED_VALUES", cached)
        patch.setattr(frame_sums, "_READ_VALUES", 10 * cached)
        patch.setattr(frame_sums, "_WORTH_THREADS", 1)
        patch.setattr(frame_sums, "cores", lambda: 3)
        if in_parts and frames.shape[1] > 1:
            patch.setattr(frame_sums, "_MOST_KEPT", 0)
        for one, other in zip(utterance_sums(frames, offsets), in_one_go(frames, offsets), strict=True):
            assert bits(one) == bits(other)
        modes: tuple[Normalise, ...] = ("train", "utterance-mean")
        for mode in modes:
            expected = fitted_in_one_go(mode, frames, offsets, train)
            for kept in (KeptSums(0), KeptSums(), KeptSums(sys.maxsize)):
                with kept.used():
                    fitted = Normaliser.fit(mode, frames, offsets, train)
                assert (bits(fitted.mean), bits(fitted.deviation)) == tuple(bits(values) for values in expected)


@pytest.mark.parametrize("dim", [1024, 25600])
def test_wide_frames_in_threads_have_the_same_bits(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sums, "_WORTH_THREADS", 1)
    monkeypatch.setattr(frame_sums, "cores", lambda: 2)
    offsets = np.cumsum([0, 1, 40, 3])
    frames = np.random.default_rng(2).standard_normal((44, dim)).astype(np.float16)
    for one, other in zip(utterance_sums(frames, offsets), in_one_go(frames, offsets), strict=True):
        assert bits(one) == bits(other)


class Watched:
    """Frames that note which of them are read, and by how many threads."""

    def __init__(self, frames: npt.NDArray[Any]) -> None:
        self.array, self.shape, self.read, self.threads = frames, frames.shape, np.zeros(len(frames), int), set[int]()

    def __getitem__(self, wanted: slice) -> npt.NDArray[Any]:
        self.read[wanted] += 1
        self.threads.add(threading.get_ident())
        return self.array[wanted]


@pytest.mark.parametrize("mode", ["train", "utterance-mean"])
def test_only_the_training_side_is_read_unless_other_runs_want_the_rest(mode: Normalise) -> None:
    offsets, train = np.array([0, 3, 4, 9, 10]), np.array([0, 2])
    frames: Any = Watched(np.random.default_rng(1).standard_normal((10, 3)))
    Normaliser.fit(mode, frames, offsets, train)
    assert frames.read.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 0]
    frames = Watched(frames.array)
    with KeptSums().used():
        for fold in (train, np.array([1, 3])):
            Normaliser.fit(mode, frames, offsets, fold)
    assert frames.read.tolist() == [1] * 10
    frames = Watched(frames.array)
    with KeptSums(0).used():  # they would be too many to keep
        Normaliser.fit(mode, frames, offsets, train)
    assert frames.read.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("mode", ["train", "utterance", "utterance-mean", "speaker", "none"])
def test_a_training_reads_no_frame_twice(mode: Normalise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sums, "_MOST_KEPT", 0)  # nothing is kept for later runs
    frames: Any = Watched(np.random.default_rng(1).standard_normal((10, 3)))
    offsets, train, speakers = np.array([0, 3, 4, 9, 10]), np.array([0, 2]), ("a", "b", "a", "b")
    normaliser, tables = measured(mode, frames, offsets, train, speakers)
    assert frames.read.max(initial=0) == (0 if mode == "none" else 1)
    alone = Normaliser.fit(mode, frames, offsets, train)
    assert bits(alone.mean) == bits(normaliser.mean) and bits(alone.deviation) == bits(normaliser.deviation)
    for one, other in zip(tables, alone.tables(frames, offsets, speakers), strict=True):
        assert bits(one) == bits(other)


def test_several_threads_read_and_an_error_of_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sums, "_WORTH_THREADS", 1)
    monkeypatch.setattr(frame_sums, "_READ_VALUES", 1)
    monkeypatch.setattr(frame_sums, "cores", lambda: 2)
    frames: Any = Watched(np.ones((40, 3), np.float32))
    offsets = np.arange(0, 44, 4)
    utterance_sums(frames, offsets)
    assert frames.threads and threading.get_ident() not in frames.threads

    class Failing(Watched):
        def __getitem__(self, wanted: slice) -> npt.NDArray[Any]:
            if wanted.start >= 12:
                raise OSError("the disk is gone")
            return super().__getitem__(wanted)

    failing: Any = Failing(frames.array)
    with pytest.raises(OSError, match="the disk is gone"):
        utterance_sums(failing, offsets)
    assert failing.read.sum() == 12


def test_what_is_no_number_says_nothing_on_the_way(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(frame_sums, "_WORTH_THREADS", 1)
    monkeypatch.setattr(frame_sums, "_READ_VALUES", 1)
    frames = np.array([[np.inf, np.nan], [-np.inf, 1], [1, 1], [2, 2]], np.float32)
    sums, squares = utterance_sums(frames, np.array([0, 2, 4]))
    assert np.isnan(sums[0]).all() and squares[0, 0] == np.inf and sums[1].tolist() == [3, 3]
    assert not recwarn.list


def test_parts_are_of_the_rows_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sums, "_MOST_KEPT", 0)
    frames, offsets = np.arange(20, dtype=np.float32).reshape(10, 2), np.array([0, 1, 4, 6, 10])
    rows = np.array([3, 0, 1])
    parts = list(sums_in_parts(frames, offsets, rows))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 1), (1, 3)]
    np.testing.assert_array_equal(np.concatenate([sums for _, (sums, _) in parts]), in_one_go(frames, offsets)[0][rows])


def test_a_running_total_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        _ = RunningTotal().total


def test_utterances_without_frames_are_named() -> None:
    with pytest.raises(UsageError, match="number 1 "):
        utterance_sums(np.ones((3, 2)), np.array([0, 2, 2, 3]))


def test_sums_are_kept_for_the_runs_of_one_trainer_and_nobody_else() -> None:
    frames, offsets = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 2, 6])
    kept = KeptSums()
    first = utterance_sums(frames, offsets)
    with kept.used():
        assert not are_kept(frames, offsets)
        once = utterance_sums(frames, offsets)
        assert utterance_sums(frames, offsets) is once is not first and are_kept(frames, offsets)
        other = utterance_sums(frames.copy(), offsets)  # equal, and not the same
        assert other is not once and (other[0] == once[0]).all()
        assert utterance_sums(frames, offsets) is not once  # only the last ones are kept
    frames += 1
    assert (utterance_sums(frames, offsets)[0] != once[0]).all()  # outside, nothing is remembered
    with kept.used():
        del frames
        assert kept.get(np.zeros((6, 2), np.float32), offsets) is None
