"""The reference heads where classes and dimensions are learned in one training: logistic regression with ridge regression beside
it, and a support vector machine with support vector regression.

In: a fold with both (`tfser.heads.training.sides` says what its targets are), and the settings of `logreg` or `svm`. Out: one
`FitResult` whose predictions are K probabilities and behind them T ratings. The two sides share their inputs and nothing
else: there is no loss to weigh, and what each side learns is what `logreg` and `ridge` (`svm` and `svr`) learn alone, the ratings
from the training utterances that have some. So a network that gains from learning both stands beside heads that cannot. A
fold of classes alone goes to `tfser.heads.training.baselines` as it is. Of the recipe ``speaker``, the classes' inputs alone are
brought to each speaker's mean.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from tfser.heads.spec.fold import FitResult, FoldData, Indices, Prediction
from tfser.heads.spec.head import Target
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training import baselines, rating_baselines
from tfser.heads.training.baselines import LogRegConfig, SVMConfig, one_epoch
from tfser.heads.training.checkpoints import part, prefixed
from tfser.heads.training.rating_baselines import RidgeConfig, SVRConfig
from tfser.pipeline.shards.packed import PackedFeatures

_RATINGS = "ratings"
"""What the names of the ratings' tensors begin with, in the state of a head of both."""


def fit(data: FoldData, config: LogRegConfig | SVMConfig, recipe: Recipe) -> FitResult:
    """Fit a reference head to a fold's classes and, where it has some, to its ratings.

    Raises:
        UsageError: As `tfser.heads.training.baselines.fit`, and the same of ratings.
        TfserError: The fit did not converge.
        NotFiniteError: Features of an utterance are no numbers.
    """
    of_classes = replace(data, targets=(), ratings=None)
    if data.ratings is None:
        return baselines.fit(of_classes, config, recipe)
    began = time.perf_counter()
    nobody = data.test[:0]
    learned = baselines.fit(replace(of_classes, val=nobody, test=nobody), config, replace(recipe, temperature=False))
    of_ratings = replace(data, classes=(), soft_labels=None, train=data.rated(data.train), val=nobody, test=nobody)
    rated = rating_baselines.fit(of_ratings, beside(config), recipe)
    state = {**learned.states["last"], **prefixed(_RATINGS, rated.states["last"])}
    fitted = one_epoch(
        data,
        state,
        lambda rows: predict(state, data.features, rows, data.speakers),
        loss=learned.history[0].loss,
        times=(began, time.perf_counter()),
        temperature=recipe.temperature,
    )
    return replace(fitted, parameters=learned.parameters + rated.parameters)


def beside(config: LogRegConfig | SVMConfig) -> RidgeConfig | SVRConfig:
    """Return the settings by which ratings are learned beside classes: of an svm its own, of logreg ridge's defaults."""
    if isinstance(config, LogRegConfig):
        return RidgeConfig()
    return SVRConfig(C=config.C, kernel=config.kernel, width=config.width)


def sides_of(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a state's classes and of its ratings beside them, which a state of one side alone has none of."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{_RATINGS}.")}, part(state, _RATINGS)


def predict(
    state: Mapping[str, Tensor], features: PackedFeatures, rows: Indices, speakers: Sequence[str] | None = None
) -> Prediction:
    """Predict the utterances ``rows`` with a state of `fit`: (m, K), or (m, K + T) where it learned ratings too.

    Raises:
        UsageError: As `tfser.heads.training.baselines.predict`.
        NotFiniteError: Features of an utterance are no numbers.
    """
    classes, ratings = sides_of(state)
    said = baselines.predict(classes, features, rows, speakers)
    if not ratings:
        return said
    rated = rating_baselines.predict(ratings, features, rows, speakers)
    both = np.concatenate([said.utterance_probabilities, rated.utterance_probabilities], axis=1)
    return replace(said, segment_probabilities=both, utterance_probabilities=both)


_LEARNS: frozenset[Target] = frozenset({"classes", "both"})
LOGREG = replace(baselines.LOGREG, fit=fit, predict=predict, learns=_LEARNS)
SVM = replace(baselines.SVM, fit=fit, predict=predict, learns=_LEARNS)
