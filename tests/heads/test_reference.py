"""Reference heads: what scikit-learn gives on the same numbers, and that nothing of the test side is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_info, threadpool_limits

from tfser.heads import head
from tfser.heads.models.layer_mix import build_module
from tfser.heads.spec.fold import FitResult, FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training import baselines as reference
from tfser.heads.training.baselines import LogRegConfig, SVMConfig
from tfser.heads.training.cost import select
from tfser.heads.training.loop import Keeping, TrainedState, fit, predict
from tfser.heads.training.utterance_inputs import of_speakers, statistics
from tfser.manifests.errors import UsageError

BALANCED = Recipe(class_weights="balanced")


def train(
    fold: FoldData, config: Settings | None = None, recipe: Recipe | None = None, seed: int = 0, **keeping: Any
) -> FitResult:
    spec = head("svm" if isinstance(config, SVMConfig) else "logreg")
    recipe = recipe or spec.recipe()
    return fit(fold, spec=spec, config=config or LogRegConfig(), recipe=recipe, seed=seed, keeping=Keeping(**keeping))


def probabilities(result: FitResult) -> np.ndarray:
    test = result.selections["last"].test
    assert test is not None
    return test.utterance_probabilities


def inputs(fold: FoldData) -> np.ndarray:
    each = map(fold.features.of, range(len(fold.labels)))
    return np.stack([np.concatenate([u.mean(axis=0), u.std(axis=0)]) for u in each])


def uneven(fold: FoldData) -> FoldData:
    """The fold with eight, three and one training utterances of its classes."""
    labels = fold.labels.copy()
    labels[:12] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2]
    return replace(fold, labels=labels)


def test_statistics_are_those_of_numpy(fold: FoldData) -> None:
    np.testing.assert_allclose(statistics(fold.features), inputs(fold), atol=1e-6)


@pytest.mark.parametrize(("recipe", "weights"), [(None, None), (BALANCED, "balanced")])
def test_logreg_is_scikit_learn_s(fold: FoldData, recipe: Recipe | None, weights: str | None) -> None:
    fold = uneven(fold)
    x = inputs(fold)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=5000, class_weight=weights))
    model.fit(x[fold.train], fold.labels[fold.train])
    found = probabilities(train(fold, LogRegConfig(C=0.3), recipe))
    np.testing.assert_allclose(found, model.predict_proba(x[fold.test]), atol=2e-4)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize(("recipe", "weights"), [(None, None), (BALANCED, "balanced")])
def test_svm_is_scikit_learn_s_one_against_the_rest(
    fold: FoldData, kernel: str, recipe: Recipe | None, weights: str | None
) -> None:
    fold = uneven(fold)
    x = StandardScaler().fit(inputs(fold)[fold.train]).transform(inputs(fold))
    counts = np.bincount(fold.labels[fold.train])
    sample_weight = None if weights is None else (12 / (3 * counts))[fold.labels[fold.train]]
    # scikit-learn's linear kernel is not divided by the number of inputs: C is instead.
    C = 2.0 / x.shape[1] if kernel == "linear" else 2.0
    decisions = [
        SVC(C=C, kernel=kernel, gamma=1 / x.shape[1])
        .fit(x[fold.train], fold.labels[fold.train] == k, sample_weight=sample_weight)
        .decision_function(x[fold.test])
        for k in range(3)
    ]
    expected = torch.from_numpy(np.stack(decisions, axis=1)).softmax(dim=1).numpy()
    found = probabilities(train(fold, SVMConfig(C=2.0, kernel=kernel), recipe))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, atol=5e-3)  # libsvm stops at 1e-3


@pytest.mark.parametrize("config", [LogRegConfig(), SVMConfig(), SVMConfig(kernel="linear")])
def test_one_epoch_and_nothing_to_choose(fold: FoldData, config: Settings) -> None:
    seen = []
    result = train(fold, config, on_epoch=seen.append)
    assert seen == list(result.history) and [record.epoch for record in seen] == [1]
    assert set(result.selections) == set(result.states) == {"last"}
    record = result.history[0]
    assert record.val_UA is not None and record.test_UA == 1.0  # the classes are plainly different
    assert train(replace(fold, val=np.array([], dtype=np.int64)), config).history[0].val_UA is None
    np.testing.assert_array_equal(probabilities(train(fold, config, seed=7)), probabilities(result))


@pytest.mark.parametrize("config", [LogRegConfig(), SVMConfig()])
def test_the_test_and_validation_sides_are_not_measured(fold: FoldData, config: Settings) -> None:
    frames = fold.features.frames.copy()
    frames[fold.features.offsets[12] : fold.features.offsets[17]] *= 50.0  # validation, and the first test utterance
    other = replace(fold, features=replace(fold.features, frames=frames))
    np.testing.assert_array_equal(probabilities(train(other, config))[1:], probabilities(train(fold, config))[1:])


@pytest.mark.parametrize("config", [LogRegConfig(), SVMConfig(), SVMConfig(kernel="linear")])
def test_a_class_without_training_utterances_gets_nothing(fold: FoldData, config: Settings) -> None:
    labels = fold.labels.copy()
    labels[:12] = np.arange(12) % 2 * 2  # a and c
    found = probabilities(train(replace(fold, labels=labels), config))
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    two = replace(fold, labels=np.arange(22) % 2, classes=("a", "b"))
    assert probabilities(train(two, config)).shape == (6, 2)


def test_two_classes_are_the_binary_logistic_regression(fold: FoldData) -> None:
    two = replace(fold, labels=np.arange(22) % 2, classes=("a", "b"))
    x = inputs(two)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[two.train], two.labels[two.train])
    np.testing.assert_allclose(probabilities(train(two)), model.predict_proba(x[two.test]), atol=1e-5)


def test_a_single_class_is_refused(fold: FoldData) -> None:
    with pytest.raises(UsageError, match="two classes"):
        train(replace(fold, labels=np.zeros(22, dtype=np.int64)))


def test_too_many_utterances_for_a_kernel_matrix_are_refused(fold: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MOST_UTTERANCES", 11)
    with pytest.raises(UsageError, match=r"at most 11 training utterances, not 12; take --head logreg"):
        train(fold, SVMConfig())


def test_wide_features_are_fitted(fold: FoldData) -> None:
    """As of all layers of an encoder: more features than utterances, by far."""
    generator = np.random.default_rng(0)
    frames = np.repeat(fold.features.frames, 600, axis=1)  # 9600 wide
    frames += 0.1 * generator.standard_normal(frames.shape, dtype=np.float32)
    wide = replace(fold, features=replace(fold.features, frames=frames))
    for config in (LogRegConfig(), SVMConfig(), SVMConfig(kernel="linear")):
        assert train(wide, config).history[0].test_UA == 1.0


def test_states_of_something_else_are_refused(fold: FoldData) -> None:
    trained = TrainedState(
        state=train(fold).states["last"], spec=head("logreg"), config=LogRegConfig(), recipe=Recipe(), n_classes=3
    )
    with pytest.raises(UsageError, match="not a state of a reference head"):
        predict(replace(trained, state={}), fold.features)
    narrow = replace(fold.features, frames=fold.features.frames[:, :8])
    with pytest.raises(UsageError, match="16 wide, and these are 8 wide"):
        predict(trained, narrow)


@pytest.mark.parametrize("values", [{"C": 0.0}, {"C": float("inf")}, {"width": -1.0}, {"kernel": "cosine"}])
def test_senseless_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        SVMConfig(**values)  # type: ignore[arg-type]


def test_they_have_no_network_to_measure() -> None:
    assert not {"logreg", "svm"} & {spec.name for spec, _ in select()}
    with pytest.raises(UsageError, match="no network to measure"):
        select(["svm"])
    with pytest.raises(UsageError, match="no network"):
        build_module(head("logreg"), LogRegConfig(), 80, 4)


def test_a_fit_takes_the_threads_that_it_is_given(fold: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's choice by default: the numbers of the versions before, which depend on it, and so do names."""
    seen: list[int] = []
    fit_model = LogisticRegression.fit

    def noting(self: Any, *args: Any, **named: Any) -> Any:
        seen.append(max(of["num_threads"] for of in threadpool_info() if of["user_api"] == "blas"))
        return fit_model(self, *args, **named)

    monkeypatch.setattr(LogisticRegression, "fit", noting)
    with threadpool_limits(2, user_api="blas"):
        train(fold)
        train(fold, LogRegConfig(threads=1))
    assert seen == [2, 1]
    assert "threads" not in LogRegConfig().identity() and LogRegConfig(threads=1).identity()["threads"] == 1
    with pytest.raises(UsageError, match="threads=0"):
        LogRegConfig(threads=0)


@pytest.mark.parametrize("config", [LogRegConfig(), SVMConfig()])
def test_by_speaker_every_speaker_has_mean_0_and_deviation_1(fold: FoldData, config: Settings) -> None:
    """The same numbers as of a fold whose statistics were so; where nobody says who speaks, it is refused."""
    names = tuple(f"s{i % 4}" for i in range(len(fold.labels)))
    spec = head("svm" if isinstance(config, SVMConfig) else "logreg")
    found = train(replace(fold, speakers=names), config, spec.recipes["speaker"])
    scaled = inputs(fold).astype(np.float64)
    for name in set(names):
        rows = np.array(names) == name
        scaled[rows] = StandardScaler().fit_transform(scaled[rows])
    np.testing.assert_allclose(of_speakers(inputs(fold).astype(np.float64), names), scaled, atol=1e-6)
    state = found.states["last"]
    again = reference.predict(state, fold.features, fold.test, names)
    np.testing.assert_array_equal(again.utterance_probabilities, probabilities(found))
    with pytest.raises(UsageError, match="who speaks"):
        reference.predict(state, fold.features, fold.test)
    with pytest.raises(UsageError, match="who speaks"):
        train(replace(fold, speakers=None), config, spec.recipes["speaker"])
