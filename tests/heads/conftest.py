"""Small data for heads: few utterances of two plainly different classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tfser.heads.spec.fold import FoldData
from tfser.pipeline.shards.packed import PackedFeatures


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and tests run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_features(lengths: list[int], dim: int, seed: int = 0) -> PackedFeatures:
    """Return packed noise: utterances of the given lengths."""
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frames = generator.standard_normal((int(offsets[-1]), dim)).astype(np.float32)
    return PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(f"u{i}" for i in range(len(lengths))))


@pytest.fixture
def fold() -> FoldData:
    return make_fold()


def rated(fold: FoldData) -> FoldData:
    """Return a fold whose class number is the arousal, and whose utterance's place the valence, on 0..1."""
    n = len(fold.labels)
    ratings = np.stack([np.arange(n) / n, fold.labels / 4 + 0.2], axis=1).astype(np.float32)
    return replace(fold, classes=(), targets=("valence", "arousal"), ratings=ratings)


def make_fold() -> FoldData:
    """12 training, 4 validation and 6 test utterances of 3 classes; the class shows in some features' means."""
    n, dim = 22, 16
    lengths = [9 + 7 * (i % 5) for i in range(n)]
    features = make_features(lengths, dim)
    labels = np.arange(n) % 3
    for i in range(n):
        features.frames[features.offsets[i] : features.offsets[i + 1], labels[i] * 5 : labels[i] * 5 + 5] += 0.5
    return FoldData(
        features=features,
        labels=labels,
        classes=("a", "b", "c"),
        train=np.arange(12),
        val=np.arange(12, 16),
        test=np.arange(16, n),
        speakers=tuple(f"s{i // 4}" for i in range(n)),
    )
