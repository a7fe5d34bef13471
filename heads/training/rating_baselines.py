"""Reference heads of dimensions: ridge regression and support vector regression on the mean and deviation of an utterance's
frames.

They stand for `logreg` and `svm` (`tfser.heads.training.baselines`, whose inputs and scaling they share) where ratings are
learned instead of classes:

* **ridge**: linear regression with an L2 penalty, in closed form. The penalty is ``alpha`` times the number of inputs, so that it
  means the same at every feature width: with alpha = 1, what the inputs explain and what they do not start out alike. Not tuned.
* **svr**: epsilon-insensitive regression (Drucker et al., NIPS 1996), one machine a dimension, on ratings scaled to deviation 1;
  the kernels are those of `svm`. C = 1 and epsilon = 0.1 are scikit-learn's defaults, not tuned.

Both are deterministic: the seed changes nothing. Neither minimises 1 - CCC: their predictions are drawn towards the mean (a scale
shift below 1), which `tfser scores` shows. Predictions are cut to the scale. What is saved are plain tensors, and what `predict`
computes from them in float64 is what the run stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from tfser.heads.spec.fold import FitResult, FoldData, Indices, Prediction
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import ABOVE_0, AT_LEAST_0, Settings
from tfser.heads.training.baselines import (
    MOST_UTTERANCES,
    ONCE,
    Kernel,
    as_tensors,
    kernel_of,
    machines,
    one_epoch,
    outputs,
    reference_head,
)
from tfser.heads.training.utterance_inputs import Floats, fold_statistics, inputs_of, scale_inputs
from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures


@dataclass(frozen=True, kw_only=True)
class RidgeConfig(Settings):
    """Ridge regression.

    Raises:
        UsageError: alpha is not positive.
    """

    alpha: Annotated[float, ABOVE_0] = 1.0
    """Strength of the L2 penalty, times the number of inputs."""


@dataclass(frozen=True, kw_only=True)
class SVRConfig(Settings):
    """Support vector regression.

    Raises:
        UsageError: A number is out of its range, or the kernel is unknown.
    """

    C: Annotated[float, ABOVE_0] = 1.0
    """Largest weight of a training utterance."""
    epsilon: Annotated[float, AT_LEAST_0] = 0.1
    """Errors below it cost nothing, in deviations of the training ratings."""
    kernel: Kernel = "rbf"
    """The similarity of two utterances: of their distance (rbf), or their inner product (linear)."""
    width: Annotated[float, ABOVE_0] = 1.0
    """Of the rbf kernel: how fast it falls with the squared distance per input."""


def fit(data: FoldData, config: RidgeConfig | SVRConfig, recipe: Recipe) -> FitResult:
    """Fit a reference head to a fold's training utterances.

    Returns:
        One "epoch" and one selection, ``last``: there is nothing to choose.

    Raises:
        UsageError: The fold has classes instead of ratings, or more utterances than a kernel matrix has room for.
        NotFiniteError: Features of an utterance are no numbers.
    """
    began = time.perf_counter()
    if data.ratings is None:
        raise UsageError("ridge and svr learn valence, arousal or dominance: name them with --target")
    inputs = fold_statistics(data)
    ratings = data.ratings[data.train].astype(np.float64)  # (n, T)
    # Scaled by the training side alone, as the other reference heads.
    scaled, state = scale_inputs(inputs[data.train])
    state |= as_tensors(
        _fit_ridge(config, scaled, ratings) if isinstance(config, RidgeConfig) else _fit_svr(config, scaled, ratings)
    )
    trained = time.perf_counter()
    return one_epoch(
        data,
        state,
        lambda rows: Prediction.of_whole(_ratings(state, inputs[rows]), rows),
        loss=float(np.square(_ratings(state, inputs[data.train]) - ratings).mean()),
        times=(began, trained),
    )


def predict(
    state: Mapping[str, Tensor], features: PackedFeatures, rows: Indices, speakers: Sequence[str] | None = None
) -> Prediction:
    """Predict the utterances ``rows`` with a state of `fit`; who speaks changes nothing.

    Raises:
        UsageError: The state is not one of a reference head, or the features are of another width.
        NotFiniteError: Features of an utterance are no numbers.
    """
    rows = np.sort(rows)
    return Prediction.of_whole(_ratings(state, inputs_of(state, features, rows)[rows]), rows)


def _fit_ridge(config: RidgeConfig, inputs: Floats, ratings: Floats) -> dict[str, Floats]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=config.alpha * inputs.shape[1]).fit(inputs, ratings)
    weight = np.asarray(model.coef_, dtype=np.float64).reshape(ratings.shape[1], -1)  # of one dimension it is flat
    return {"model.weight": weight, "model.intercept": np.broadcast_to(model.intercept_, ratings.shape[1])}


def _fit_svr(config: SVRConfig, inputs: Floats, ratings: Floats) -> dict[str, Floats]:
    from sklearn.svm import SVR

    if len(inputs) > MOST_UTTERANCES:
        raise UsageError(f"svr takes at most {MOST_UTTERANCES:,} training utterances, not {len(inputs):,}; take --head ridge")
    gram = kernel_of(inputs, inputs, config.width, config.kernel)  # one for all dimensions
    mean, deviation = ratings.mean(axis=0), ratings.std(axis=0)  # (T,); a fold of constant ratings was refused
    dual, intercept = np.zeros((ratings.shape[1], len(inputs))), np.zeros(ratings.shape[1])
    for k, wanted in enumerate(((ratings - mean) / deviation).T):
        model = SVR(kernel="precomputed", C=config.C, epsilon=config.epsilon, cache_size=500).fit(gram, wanted)
        dual[k, model.support_] = model.dual_coef_[0] * deviation[k]
        intercept[k] = model.intercept_[0] * deviation[k] + mean[k]
    return machines(dual, intercept, inputs, config.kernel, config.width)


def _ratings(state: Mapping[str, Tensor], inputs: Floats) -> Floats:
    """Return ratings (n, T), cut to 0..1, of inputs (n, 2 D) as they are before scaling."""
    cut: Floats = np.clip(outputs(state, inputs), 0.0, 1.0)
    return cut


RIDGE = reference_head(
    "ridge",
    "reference for dimensions: ridge regression on the mean and deviation over time",
    "scikit-learn",
    {"plain": RidgeConfig(), "weak": RidgeConfig(alpha=0.01)},
    recipes={"default": ONCE},
    fit=fit,
    predict=predict,
    learns="dimensions",
    weighs_classes=False,
)
SVR_HEAD = reference_head(
    "svr",
    "reference for dimensions: support vector regression on the mean and deviation over time",
    "scikit-learn; Drucker et al. 1996",
    {"rbf": SVRConfig(), "linear": SVRConfig(kernel="linear")},
    recipes={"default": ONCE},
    fit=fit,
    predict=predict,
    learns="dimensions",
    weighs_classes=False,
)
