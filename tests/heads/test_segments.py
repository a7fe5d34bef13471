"""Segments: every frame covered, nothing dropped, nothing reached across utterances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads.training.samples import FrameStore, plan
from tfser.manifests.errors import UsageError

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def store(lengths: list[int], dim: int = 2) -> FrameStore:
    """Return frames whose first feature is the utterance's number and whose second the frame's."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frames = np.concatenate([np.stack([np.full(n, u), np.arange(n)], axis=1) for u, n in enumerate(lengths)])
    neutral = np.zeros((1, dim), np.float32), np.ones((1, dim), np.float32)
    return FrameStore(frames.astype(np.float32), offsets, *neutral, torch.device("cpu"))


@given(LENGTHS, st.integers(1, 24), st.data())
def test_every_frame_is_covered(lengths: list[int], frames: int, data: st.DataObject) -> None:
    hop = data.draw(st.none() | st.integers(1, frames))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.array(data.draw(st.permutations(range(len(lengths)))))
    laid = plan(offsets, rows, frames, hop)
    samples, valid = store(lengths).gather(torch.from_numpy(laid.utterance), torch.from_numpy(laid.start), frames)
    assert samples.shape == (len(laid), frames, 2)
    assert (valid == frames).all()
    assert (samples[:, :, 0] == torch.from_numpy(laid.utterance)[:, None]).all()
    for u, n in enumerate(lengths):
        mine = laid.utterance == u
        assert set(samples[torch.from_numpy(mine), :, 1].flatten().long().tolist()) == set(range(n))
        assert laid.number[mine].tolist() == list(range(mine.sum()))
        if n >= frames:
            assert laid.start[mine].max() == n - frames
            assert (samples[torch.from_numpy(mine)][:, :, 1].diff(dim=1) == 1).all()


@given(LENGTHS)
def test_whole_utterances_are_padded_with_zeros(lengths: list[int]) -> None:
    laid = plan(np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths)), None)
    samples, valid = store(lengths).gather(torch.from_numpy(laid.utterance), torch.from_numpy(laid.start), None)
    assert valid.tolist() == lengths
    assert samples.shape[1] == max(lengths)
    for u, n in enumerate(lengths):
        assert samples[u, :n, 1].tolist() == list(range(n))
        assert (samples[u, n:] == 0).all()


def test_last_segment_moves_back_and_short_utterances_repeat() -> None:
    laid = plan(np.array([0, 10, 13]), np.array([0, 1]), 4)
    assert laid.start.tolist() == [0, 4, 6, 0]
    samples, _ = store([10, 3]).gather(torch.tensor([1]), torch.tensor([0]), 4)
    assert samples[0, :, 1].tolist() == [0, 1, 2, 0]


def test_hops_beyond_the_segment_are_refused() -> None:
    with pytest.raises(UsageError, match="hop of 5"):
        plan(np.array([0, 10]), np.array([0]), 4, 5)


def test_pace_interpolates_between_frames() -> None:
    samples, _ = store([10]).gather(torch.tensor([0]), torch.tensor([1]), 4, torch.tensor([1.5]))
    assert samples[0, :, 1].tolist() == [1.0, 2.5, 4.0, 5.5]
