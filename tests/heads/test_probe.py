"""The probe: its docstring's formulas, the same numbers by either way to solve them, choices that see no test speaker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from tfser.heads.spec.fold import FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training import probe as module
from tfser.heads.training.probe import PROBE, ProbeConfig, by_layer, fit, predict
from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures

CLASSES = ("a", "b", "c")


def made(
    n: int = 60, dim: int = 4, layers: int = 1, speakers: int = 5, seed: int = 0, good: int = 0, apart: float = 2.0
) -> FoldData:
    """A fold of three classes that layer ``good`` tells apart; the last speaker is tested, the last but one validates."""
    rng = np.random.default_rng(seed)
    labels, speaker = np.arange(n) % 3, np.arange(n) // 3 % speakers
    lengths = rng.integers(2, 6, n)
    frames = rng.standard_normal((int(lengths.sum()), layers, dim))
    frames[:, good, :3] += apart * np.eye(3)[np.repeat(labels, lengths)]
    return FoldData(
        features=PackedFeatures(
            frames=frames.reshape(len(frames), -1).astype(np.float32),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            utterance_ids=tuple(f"u{i}" for i in range(n)),
        ),
        labels=labels,
        classes=CLASSES,
        train=np.flatnonzero(speaker < speakers - 2),
        val=np.flatnonzero(speaker == speakers - 2),
        test=np.flatnonzero(speaker == speakers - 1),
        speakers=tuple(f"s{s}" for s in speaker),
        layers=layers,
    )


@given(share=st.sampled_from([0.1, 0.5, 0.9]), seed=st.integers(0, 20))
def test_one_layer_is_the_discriminant_analysis_that_scikit_learn_has(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 3
    inputs = rng.standard_normal((40, 5)) + np.eye(3, 5)[labels]
    layer = module._fit_layer(inputs, labels, 3, (share,))
    scaled = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    within = scaled - np.stack([scaled[labels == k].mean(axis=0) for k in range(3)])[labels]
    covariance = within.T @ within / 40
    shrunk = (1 - share) * covariance + share * np.trace(covariance) / 5 * np.eye(5)

    class Shrunk:
        def fit(self, X: np.ndarray) -> Shrunk:
            self.covariance_ = shrunk
            return self

    known = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunk(), priors=[1 / 3] * 3).fit(scaled, labels)
    known.covariance_ = shrunk
    weight = np.linalg.solve(shrunk, known.means_.T)
    wanted = scaled @ weight - 0.5 * (known.means_.T * weight).sum(axis=0)
    np.testing.assert_allclose(layer.scores(inputs)[0], wanted, atol=1e-9)


@given(n=st.integers(12, 40), width=st.integers(2, 60), seed=st.integers(0, 5))
def test_both_ways_to_solve_it_agree(n: int, width: int, seed: int) -> None:
    """More inputs than utterances: in n dimensions. The same inputs, with the system written out in I dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    inputs = rng.standard_normal((n, width)) + labels[:, None]
    layer = module._fit_layer(inputs, labels, 3, (0.4, 0.8))
    scaled = (inputs - layer.mean) / layer.deviation
    centres = np.stack([scaled[labels == k].mean(axis=0) for k in range(3)])
    within = scaled - centres[labels]
    for weight, share in zip(layer.weight, (0.4, 0.8), strict=True):
        level = (within**2).sum() / n / width
        system = (1 - share) / n * within.T @ within + share * level * np.eye(width)
        np.testing.assert_allclose(weight, np.linalg.solve(system, centres.T).T, rtol=1e-6, atol=1e-8)


def test_the_layer_that_tells_classes_apart_is_found() -> None:
    data = made(layers=3, good=1, apart=3.0)
    result = fit(data, ProbeConfig(most_layers=1), Recipe())
    assert result.states["last"]["choice.layers"].tolist() == [1]
    test = result.selections["last"].test
    assert test is not None
    assert (test.utterance_probabilities.argmax(axis=1) == data.labels[data.test]).mean() > 0.8


def test_neither_labels_nor_features_of_the_other_sides_change_the_model() -> None:
    data = made(layers=2)
    rng = np.random.default_rng(1)
    others = np.concatenate([data.val, data.test])
    labels, frames = data.labels.copy(), data.features.frames.copy()
    labels[others] = rng.permutation(labels[others])
    for row in others:
        frames[data.features.offsets[row] : data.features.offsets[row + 1]] += 5
    changed = replace(data, labels=labels, features=replace(data.features, frames=frames))
    first, second = (fit(of, ProbeConfig(), Recipe()).states["last"] for of in (data, changed))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value.numpy(), second[name].numpy(), err_msg=name)


def test_without_speakers_nothing_is_chosen() -> None:
    state = fit(replace(made(layers=2), speakers=None), ProbeConfig(), Recipe()).states["last"]
    assert state["choice.layers"].tolist() == [0, 1] and set(state["choice.shrinkage"].tolist()) == {np.float32(0.7)}


def test_probabilities_mean_something() -> None:
    """The temperature is of speakers that were left out: nobody is sure of noise."""
    data = made(apart=0.0, dim=30)
    test = fit(data, ProbeConfig(), Recipe()).selections["last"].test
    assert test is not None
    assert test.utterance_probabilities.max() < 0.6


def test_a_class_without_training_utterances_has_no_probability() -> None:
    data = made()
    train = data.train[data.labels[data.train] != 2]
    test = fit(replace(data, train=train), ProbeConfig(), Recipe()).selections["last"].test
    assert test is not None
    assert (test.utterance_probabilities[:, 2] == 0).all()
    with pytest.raises(UsageError, match="two classes"):
        fit(replace(data, train=train[data.labels[train] == 0]), ProbeConfig(), Recipe())


def test_one_frame_an_utterance_is_taken_as_it_is() -> None:
    data = made()
    offsets = np.arange(len(data.labels) + 1)
    single = replace(
        data,
        features=PackedFeatures(
            frames=data.features.frames[offsets[:-1]], offsets=offsets, utterance_ids=data.features.utterance_ids
        ),
    )
    state = fit(single, ProbeConfig(), Recipe()).states["last"]
    assert state["model.weight"].shape[2] == 4
    assert len(predict(state, single.features, single.test).utterance) == len(single.test)
    assert len(predict(state, data.features, data.test).utterance) == len(data.test)  # of more frames: their mean
    with pytest.raises(UsageError, match="wide"):
        predict(fit(made(dim=5), ProbeConfig(), Recipe()).states["last"], data.features, data.test)


def test_means_and_deviations_of_a_layer_stand_together() -> None:
    flat = np.arange(8.0)[None]  # two layers, two features: means 0-3, deviations 4-7
    assert by_layer(flat, 4, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]


def test_weights_of_classes_are_not_offered() -> None:
    assert PROBE.recipe_settings == set()
    with pytest.raises(UsageError, match="shrinkage"):
        ProbeConfig(shrinkage=())


SPEAKER = PROBE.recipes["speaker"]


def shifted(data: FoldData, speaker: str, by: float, scale: float) -> FoldData:
    """The fold with every frame of one speaker louder, so to speak."""
    frames = data.features.frames.copy()
    for row in (i for i, name in enumerate(data.speakers or ()) if name == speaker):
        part = slice(data.features.offsets[row], data.features.offsets[row + 1])
        frames[part] = frames[part] * scale + by
    return replace(data, features=replace(data.features, frames=frames))


@pytest.mark.parametrize("config", [ProbeConfig(), ProbeConfig(quantiles=(0.1, 0.5, 0.9))])
def test_by_speaker_how_a_speaker_differs_from_others_does_not_matter(config: ProbeConfig) -> None:
    data = made(layers=2, good=1)
    other = shifted(data, "s4", by=3.0, scale=2.0)  # the tested one
    of, moved = (fit(each, config, SPEAKER).selections["last"].test for each in (data, other))
    assert of is not None and moved is not None
    np.testing.assert_allclose(of.utterance_probabilities, moved.utterance_probabilities, atol=1e-4)
    plain = [fit(each, config, PROBE.recipe()).selections["last"].test for each in (data, other)]
    assert not np.allclose(*(each.utterance_probabilities for each in plain if each is not None), atol=1e-2)


@pytest.mark.parametrize("recipe", [PROBE.recipe(), SPEAKER])
def test_quantiles_and_speakers_are_in_the_state(recipe: Recipe) -> None:
    """What was fitted predicts the same numbers again, of the whole fold and, by speaker, only where speakers are known."""
    data = made(layers=2, good=1)
    data = replace(data, test=data.test[2:])  # two that the fold leaves out are a part of their speaker all the same
    config = ProbeConfig(quantiles=(0.25, 0.75))
    found = fit(data, config, recipe)
    state, stored = found.states["last"], found.selections["last"].test
    assert stored is not None and state["model.weight"].shape[2] == 4 * 4
    again = predict(state, data.features, data.test, data.speakers)
    np.testing.assert_array_equal(again.utterance_probabilities, stored.utterance_probabilities)
    if recipe is SPEAKER:
        for speakers in (None, ("",) * len(data.labels)):
            with pytest.raises(UsageError, match="who speaks"):
                predict(state, data.features, data.test, speakers)
        with pytest.raises(UsageError, match="who speaks"):
            fit(replace(data, speakers=None), config, recipe)
    else:
        np.testing.assert_array_equal(
            predict(state, data.features, data.test).utterance_probabilities, stored.utterance_probabilities
        )


def test_quantiles_are_those_of_numpy() -> None:
    data = made(layers=2)
    found = module._inputs(data.features, np.arange(60), 2, True, (0.1, 0.5))
    of = data.features.of(7).astype(np.float64)
    np.testing.assert_allclose(found[7, 1, 8:], np.quantile(of[:, 4:], (0.1, 0.5), axis=0).ravel(), atol=1e-9)
    np.testing.assert_allclose(found[7, 0, :4], of[:, :4].mean(axis=0), atol=1e-6)
