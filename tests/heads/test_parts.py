"""Length-sorted parts: the least padding, the same batch, loss and gradients, and no name of a run that changes without need."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tfser.heads import head
from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.models.speechformer import SpeechFormerConfig
from tfser.heads.models.tf_mamba import TFMambaConfig
from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.loop import Trainer, fit
from tfser.heads.training.parts import LEAST_GAIN, in_parts, padding, settle_parts, why_whole
from tfser.heads.training.step import training_loss
from tfser.pipeline.shards.packed import PackedFeatures

CPU = torch.device("cpu")
CONFIGS: dict[str, Any] = {
    "tf_mamba": TFMambaConfig(width=16, attention_heads=2, state=4, scan_heads=2, hidden=(8,), max_frames=60, scan="chunked"),
    "mean_pool": MeanPoolConfig(hidden=(8,)),
}


def uneven(n: int = 37, layers: int = 1) -> FoldData:
    """A fold of utterances of 1 to 60 frames."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, 61, n)
    features = PackedFeatures(
        frames=random.standard_normal((int(lengths.sum()), 6 * layers)).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        utterance_ids=tuple(f"u{i}" for i in range(n)),
    )
    rows = np.arange(n)
    test = rows[rows % 5 == 0]
    return FoldData(
        features=features,
        labels=random.integers(0, 3, n),
        classes=("a", "b", "c"),
        train=rows[rows % 5 != 0],
        val=np.zeros(0, np.int64),
        test=test,
        layers=layers,
    )


def trainer(name: str, recipe: Recipe, data: FoldData) -> Trainer:
    return Trainer(data, head(name), CONFIGS[name], recipe, 3, CPU)


def recipe_of(name: str, **changes: Any) -> Recipe:
    settings = {"epochs": 3, "warmup_epochs": 0, "batch_size": 12, "precision": "float32"}
    return replace(head(name).recipe(), **settings | changes)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 4))
def test_parts_hold_every_sample_once_and_need_the_fewest_frames(lengths: list[int], parts: int) -> None:
    found = in_parts(np.array(lengths), parts)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert 1 <= len(found) <= parts
    if len(found) == 1:
        assert found[0].tolist() == list(range(len(lengths)))  # a batch that stays whole keeps its order

    def frames(cut: list[list[int]]) -> int:
        return sum(len(part) * max(part) for part in cut)

    ordered, n = sorted(lengths), len(lengths)
    best = min(
        frames([ordered[a:b] for a, b in itertools.pairwise((0, *cuts, n))])
        for size in range(min(parts, n))
        for cuts in itertools.combinations(range(1, n), size)
    )
    assert frames([[lengths[i] for i in part] for part in found]) == best


def test_padding_is_that_of_dealt_batches() -> None:
    assert padding(np.full(100, 7), 32, 4) == 1.0
    uneven_lengths = np.arange(1, 1001)
    whole, four = (padding(uneven_lengths, 32, parts) for parts in (1, 4))
    assert 1.8 < whole < 2.1 and four < 1.35
    assert padding(uneven_lengths, 32, 4) == four


@pytest.mark.few(1)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "changes", [{}, {"time_masks": 1, "time_mask_frames": 5, "gain_db": 3.0}, {"label_smoothing": 0.1, "focal": 1.0}]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_the_whole_batch(name: str, changes: dict[str, Any], layers: int) -> None:
    data = uneven(layers=layers)
    whole, parted = (trainer(name, recipe_of(name, parts=parts, **changes), data) for parts in (1, 3))
    for (step, rate, one), (other_step, other_rate, other) in zip(whole.batches(1), parted.batches(1), strict=True):
        assert (step, rate, len(one)) == (other_step, other_rate, len(other))
        assert len(one.samples) == 1 and len(other.samples) == 3
        assert sum(of.shape[0] * of.shape[1] for of in other.samples) < 0.8 * one.samples[0].shape[0] * one.samples[0].shape[1]
        losses = []
        for of, batch in ((whole, one), (parted, other)):
            of.model.zero_grad()
            loss = training_loss(of.model, batch, of.class_weights, of.recipe, of.most)
            loss.backward()
            losses.append(float(loss.detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        largest = max(float(p.grad.abs().max()) for p in whole.model.parameters() if p.grad is not None)
        for (key, a), b in zip(whole.model.named_parameters(), parted.model.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), key
            if a.grad is not None and b.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, atol=1e-5 * largest, rtol=1e-4, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_in_parts_gives_the_same_history(name: str) -> None:
    data = uneven()
    results = [
        fit(data, spec=head(name), config=CONFIGS[name], recipe=recipe_of(name, parts=parts), seed=3) for parts in (None, 4)
    ]
    for one, other in zip(results[0].history, results[1].history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.learning_rate == other.learning_rate


@pytest.mark.parametrize(
    ("name", "config", "changes", "reason"),
    [
        ("tf_transformer", None, {}, "segments"),
        ("mean_pool", MeanPoolConfig(dropout=0.1), {}, "dropout"),
        ("speechformer", SpeechFormerConfig(dropout=0.0, hop_ms=20.0), {}, "dropout"),  # its classifier's
        ("mean_pool", None, {"mixup": 0.2}, "mixup"),
        ("mean_pool", None, {"slice_frames": 8}, "segments"),
        ("logreg", None, {}, "not trained in batches"),
    ],
)
def test_batches_stay_whole_where_parts_are_not_exact(name: str, config: Any, changes: dict[str, Any], reason: str) -> None:
    spec = head(name)
    config = config or spec.preset()
    recipe = replace(spec.recipe(), parts=4, **changes)
    assert reason in (why_whole(spec, config, recipe) or "")
    settled, said = settle_parts(spec, config, recipe, "cpu", np.arange(1, 900))
    assert settled.parts is None and said is not None and reason in said
    assert settle_parts(spec, config, replace(recipe, parts=None), "cpu", np.arange(1, 900)) == (settled, None)


def test_batch_norm_sees_the_whole_batch() -> None:
    recipe, config = replace(Recipe(), parts=4), SimpleNamespace(dropout=0.0)
    whole = SimpleNamespace(name="x", fit=None, batch_norm=True, sample_frames=lambda *_: None)
    assert "batch norm" in (why_whole(whole, config, recipe) or "")  # type: ignore[arg-type]


def test_parts_are_settled_by_device_and_lengths() -> None:
    spec, config, recipe = head("tf_mamba"), CONFIGS["tf_mamba"], recipe_of("tf_mamba")
    config = replace(config, max_frames=1000)
    varied, even = np.arange(1, 1000), np.full(500, 100)
    assert settle_parts(spec, config, recipe, "cpu", varied)[0].parts == 4
    assert settle_parts(spec, config, recipe, "cpu", even)[0].parts is None  # nothing to gain: the runs of before
    assert settle_parts(spec, replace(config, max_frames=5), recipe, "cpu", varied + 5)[0].parts is None  # all cut to one length
    assert settle_parts(spec, config, recipe, "cuda:1", varied)[0].parts is None  # not measured there
    assert settle_parts(spec, config, replace(recipe, parts=1), "cpu", varied)[0].parts is None
    assert settle_parts(spec, config, replace(recipe, parts=3), "cuda", varied)[0].parts == 3  # asked for
    stacked, said = settle_parts(spec, config, replace(recipe, parts=3), "cuda", varied, stacked=True)
    assert stacked.parts is None and "stacked" in (said or "")
    assert LEAST_GAIN > 1


def test_names_of_before_are_those_of_whole_batches() -> None:
    recipe = recipe_of("tf_mamba")
    assert "parts" not in recipe.identity()
    assert replace(recipe, parts=4).identity()["parts"] == 4
    data = uneven()
    before, whole, parted = (trainer("tf_mamba", replace(recipe, parts=parts), data).fingerprint for parts in (None, 1, 4))
    assert before == whole != parted  # a checkpoint goes on with the numbers that it began with
