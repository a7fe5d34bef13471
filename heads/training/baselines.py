"""Reference heads: logistic regression and a support vector machine on the mean and deviation of an utterance's frames.

On small corpora they are hard to beat, so a table without them misleads. They go through the same protocols, audits,
predictions and statistics as every other head, but are fitted at once by scikit-learn instead of by epochs of torch
(`Baseline`):

* **Inputs** are the mean and the population standard deviation over time of each feature, 2 D numbers an utterance (where every
  utterance of a fold is one frame, as functionals are: that frame, D numbers), scaled to mean 0 and deviation 1 on the
  training utterances of the fold (StandardScaler). Nothing is measured on validation or test utterances, but by the recipe
  ``speaker``: there each speaker's utterances are first brought to mean 0 and deviation 1 of that speaker's own
  (`of_speakers`). That is transductive: it needs a test speaker's other utterances, though none of their labels.
* **logreg**: multinomial logistic regression with an L2 penalty, by L-BFGS. C = 1, scikit-learn's default, is not tuned;
  ``strong`` penalises 100 times as much, for wide features and few utterances. Its probabilities are the model's own.
* **svm**: one machine a class against the rest (Rifkin and Klautau 2004), hinge loss. The kernel is exp(-width |x - y|^2 / 2 D)
  (``rbf``; width 1 is scikit-learn's gamma="scale" for scaled inputs) or x . y / 2 D (``linear``); the division makes C mean
  the same at every feature width. Its "probabilities" are the softmax of the K decision values: scores that sum to 1 and whose
  order is that of the decisions, **not calibrated**. (Platt's calibration needs a cross-validation inside the training side,
  whose parts would share speakers.)

Both are deterministic: the seed changes nothing. The recipe's ``class_weights`` weigh the training utterances. What is saved
are plain tensors (the model in float32), and what `predict` computes from them in float64 is what the run stored.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfser.heads.spec.fold import EpochRecord, FitResult, FoldData, Indices, Prediction, Selection
from tfser.heads.spec.head import Baseline
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import ABOVE_0, Settings, later
from tfser.heads.training.losses import class_weights
from tfser.heads.training.sides import side_scores
from tfser.heads.training.temperature import fit_temperature
from tfser.heads.training.utterance_inputs import Floats, fold_statistics, inputs_of, of_speakers, scale_inputs
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.shards.packed import PackedFeatures

Kernel = Literal["rbf", "linear"]
BY_SPEAKER = "inputs.by_speaker"
"""Stands in the state of a head that was fitted by the recipe ``speaker``."""

MOST_UTTERANCES = 30_000
"""That a support vector machine is fitted to: the kernel matrix of so many takes 7 GB."""


@dataclass(frozen=True, kw_only=True)
class LogRegConfig(Settings):
    """Logistic regression.

    Raises:
        UsageError: C is not positive.
    """

    C: Annotated[float, ABOVE_0] = 1.0
    """Inverse strength of the L2 penalty."""
    threads: Annotated[int | None, ABOVE_0] = later(None)
    """Threads of the fit's products of matrices; None: the library's choice, one a core. The products of a small fit are so small
    that with 1 it is several times faster, on a busy machine ten times. The solver then stops at other digits: up to 0.003 of a
    probability (docs/log.md), so that the setting is in a run's name."""


@dataclass(frozen=True, kw_only=True)
class SVMConfig(Settings):
    """A support vector machine.

    Raises:
        UsageError: A number is not positive, or the kernel is unknown.
    """

    C: Annotated[float, ABOVE_0] = 1.0
    """Largest weight of a training utterance."""
    kernel: Kernel = "rbf"
    """The similarity of two utterances: of their distance (rbf), or their inner product (linear)."""
    width: Annotated[float, ABOVE_0] = 1.0
    """Of the rbf kernel: how fast it falls with the squared distance per input."""


def fit(data: FoldData, config: LogRegConfig | SVMConfig, recipe: Recipe) -> FitResult:
    """Fit a reference head to a fold's training utterances.

    Returns:
        One "epoch" and one selection, ``last``: there is nothing to choose.

    Raises:
        UsageError: The training side has one class only, or more utterances than a kernel matrix has room for.
        TfserError: The fit did not converge.
        NotFiniteError: Features of an utterance are no numbers.
    """
    began = time.perf_counter()
    by_speaker = recipe.normalise == "speaker"
    inputs = fold_statistics(data, by_speaker)
    if by_speaker:
        inputs = of_speakers(inputs, data.speakers)
    labels = data.labels[data.train]
    present = np.unique(labels)
    if len(present) < 2:
        raise UsageError("a reference head needs training utterances of two classes at least")
    weights = class_weights(recipe, labels, len(data.classes)).numpy().astype(np.float64)[labels]
    # Scaled by the training side alone, and the scaler is a part of the state: a test utterance is measured
    # with training's rule.
    scaled, state = scale_inputs(inputs[data.train])
    if isinstance(config, LogRegConfig):
        model = _fit_logreg(config, scaled, labels, weights, present)
    else:
        model = _fit_svm(config, scaled, labels, weights, present)
    state |= as_tensors(model)
    # A fold whose training side lacks a class still predicts K classes, with probability 0 for that one, so
    # that folds can be put together.
    state = _with_absent_classes(state, present, len(data.classes))
    if by_speaker:
        state[BY_SPEAKER] = torch.tensor(True)
    trained = time.perf_counter()
    on_train = _probabilities(state, inputs[data.train])[np.arange(len(labels)), labels]
    return one_epoch(
        data,
        state,
        lambda rows: Prediction.of_whole(_probabilities(state, inputs[rows]), rows),
        loss=float(-(weights * np.log(np.maximum(on_train, 1e-30))).sum() / weights.sum()),
        times=(began, trained),
        temperature=recipe.temperature,
    )


def as_tensors(model: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Return what was learnt as it is stored: in float32."""
    return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in model.items()}


def one_epoch(
    data: FoldData,
    state: dict[str, Tensor],
    answer: Callable[[Indices], Prediction],
    *,
    loss: float,
    times: tuple[float, float],
    temperature: bool = False,
) -> FitResult:
    """Return a fit at once as one epoch of a network: what is stored, selected and compared needs no second way.

    Args:
        data: of the fold.
        state: what was learnt.
        answer: predicts the utterances of some rows, in rising order.
        loss: mean over the training utterances.
        times: when the fit began and ended, by `time.perf_counter`.
        temperature: fit one to the probabilities of the validation utterances (`tfser.heads.training.temperature`).
    """
    began, trained = times
    val, test = (answer(np.sort(rows)) if len(rows) else None for rows in (data.val, data.test))
    record = EpochRecord(
        epoch=1,
        loss=loss,
        learning_rate=0.0,
        train_s=trained - began,
        eval_s=time.perf_counter() - trained,
        temperature=_temperature(data, val) if temperature else None,
        **side_scores("val", data, val),
        **side_scores("test", data, test),
    )
    last = Selection(epoch=1, test=test)
    parameters = sum(tensor.numel() for name, tensor in state.items() if name.startswith("model."))
    return FitResult(history=(record,), selections={"last": last}, states={"last": state}, parameters=parameters)


def _temperature(data: FoldData, val: Prediction | None) -> float:
    """Return the temperature of the least loss on the validation utterances.

    Raises:
        UsageError: There are none.
    """
    if val is None:
        raise UsageError(
            "recipe setting temperature=True: it is fitted on validation utterances, and there are none; hold some out with "
            "--validation next-group or speakers:N"
        )
    return fit_temperature(val.utterance_probabilities[:, : len(data.classes)], data.labels[val.utterance])


def predict(
    state: Mapping[str, Tensor], features: PackedFeatures, rows: Indices, speakers: Sequence[str] | None = None
) -> Prediction:
    """Predict the utterances ``rows`` with a state of `fit`; of the recipe ``speaker`` that takes the ``speakers`` (n,) of all.

    Raises:
        UsageError: The state is not one of a reference head, the features are of another width, or nothing says who speaks.
        NotFiniteError: Features of an utterance are no numbers.
    """
    rows = np.sort(rows)
    by_speaker = BY_SPEAKER in state
    inputs = inputs_of(state, features, np.arange(len(features.utterance_ids)) if by_speaker else rows)
    if by_speaker:
        inputs = of_speakers(inputs, speakers)
    return Prediction.of_whole(_probabilities(state, inputs[rows]), rows)


def _fit_logreg(
    config: LogRegConfig, inputs: Floats, labels: Indices, weights: Floats, present: Indices
) -> dict[str, npt.NDArray[Any]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(limits=config.threads, user_api="blas"):
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model = LogisticRegression(C=config.C, max_iter=5000).fit(inputs, labels, sample_weight=weights)
        except ConvergenceWarning as warning:
            raise TfserError("logreg did not converge in 5000 iterations: set a smaller C") from warning
    weight, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # one row, of the second class's odds: half of it for each gives the same softmax
        weight, intercept = np.concatenate([-weight, weight]) / 2, np.concatenate([-intercept, intercept]) / 2
    return {"model.weight": weight, "model.intercept": intercept}


def _fit_svm(
    config: SVMConfig, inputs: Floats, labels: Indices, weights: Floats, present: Indices
) -> dict[str, npt.NDArray[Any]]:
    from sklearn.svm import SVC

    if len(inputs) > MOST_UTTERANCES:
        raise UsageError(f"svm takes at most {MOST_UTTERANCES:,} training utterances, not {len(inputs):,}; take --head logreg")
    # One kernel matrix for all one-against-rest machines, which would otherwise each compute it anew.
    gram = kernel_of(inputs, inputs, config.width, config.kernel)
    dual = np.zeros((len(present), len(inputs)))  # (K, n)
    intercept = np.zeros(len(present))
    for k, number in enumerate(present):
        model = SVC(C=config.C, kernel="precomputed", cache_size=500).fit(gram, labels == number, sample_weight=weights)
        dual[k, model.support_] = model.dual_coef_[0]
        intercept[k] = model.intercept_[0]
    return machines(dual, intercept, inputs, config.kernel, config.width)


def machines(dual: Floats, intercept: Floats, inputs: Floats, kernel: Kernel, width: float) -> dict[str, npt.NDArray[Any]]:
    """Return what is kept of support vector machines with weights (K, n) of their training inputs (n, I).

    Of a linear kernel that is a matrix (K, I), of any other the inputs that have a weight.
    """
    if kernel == "linear":
        return {"model.weight": dual @ inputs / inputs.shape[1], "model.intercept": intercept}
    support = np.flatnonzero(dual.any(axis=0))
    return {
        "model.support": inputs[support],
        "model.dual": dual[:, support],
        "model.intercept": intercept,
        "kernel.width": np.array([width]),
    }


def kernel_of(a: Floats, b: Floats, width: float, kind: Kernel = "rbf") -> Floats:
    """Return the kernel between inputs (n, I) and (m, I): (n, m)."""
    products = a @ b.T
    if kind == "rbf":
        distances = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * products
        return np.asarray(np.exp(-width * np.maximum(distances, 0.0) / a.shape[1]))
    return np.asarray(products / a.shape[1])


def _with_absent_classes(state: dict[str, Tensor], present: Indices, n_classes: int) -> dict[str, Tensor]:
    """Give classes without training utterances a row whose score is minus infinity: a probability of 0."""
    if len(present) == n_classes:
        return state
    where = torch.from_numpy(present)
    for name in ("model.weight", "model.dual", "model.intercept"):
        if name in state:
            learnt = state[name]
            fill = -math.inf if name == "model.intercept" else 0.0
            state[name] = torch.full((n_classes, *learnt.shape[1:]), fill).index_copy(0, where, learnt)
    return state


def _probabilities(state: Mapping[str, Tensor], inputs: Floats) -> Floats:
    """Return class probabilities (n, K) of inputs (n, 2 D) as they are before scaling."""
    scores = outputs(state, inputs)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = scores / scores.sum(axis=1, keepdims=True)
    return result


def outputs(state: Mapping[str, Tensor], inputs: Floats) -> Floats:
    """Return what a state computes of inputs (n, I) as they are before scaling: a score a class, or a rating a dimension."""
    model = {name: tensor.cpu().numpy().astype(np.float64) for name, tensor in state.items()}
    scaled = (inputs - model["inputs.mean"]) / model["inputs.deviation"]
    if "model.support" in model:
        weighted = kernel_of(scaled, model["model.support"], float(model["kernel.width"][0])) @ model["model.dual"].T
    else:
        weighted = scaled @ model["model.weight"].T
    result: Floats = weighted + model["model.intercept"]
    return result


def _check(config: Settings, dim: int) -> None:
    if dim <= 0:
        raise UsageError(f"reference heads need features of a positive width, not {dim}")


ONCE = Recipe(summary="fitted once, every training utterance weighs the same", epochs=1, normalise="none")
SPEAKER_RECIPE = Recipe(
    summary="default on each speaker's own mean and deviation: transductive, needs a test speaker's other utterances",
    epochs=1,
    normalise="speaker",
)
"""The ways of training that heads which are fitted at once have in common."""


def reference_head(
    name: str,
    summary: str,
    source: str,
    presets: Mapping[str, Settings],
    *,
    recipes: Mapping[str, Recipe],
    fit: Callable[..., FitResult],
    predict: Callable[..., Prediction],
    learns: Literal["classes", "dimensions"] = "classes",
    weighs_classes: bool = True,
) -> Baseline:
    """Return a head that is fitted at once to statistics of whole utterances; its first preset and recipe are the default."""
    return Baseline(
        name=name,
        summary=summary,
        source=source,
        presets=presets,
        default_preset=next(iter(presets)),
        recipes=recipes,
        default_recipe=next(iter(recipes)),
        features=("wavlm-large", "hubert-large", "logmel"),
        inputs="utterances",
        check=_check,
        per_utterance=True,
        learns=frozenset({learns}),
        weighs_classes=weighs_classes,
        typical_dim=1024,
        fit=fit,
        predict=predict,
    )


_RECIPES = {
    "default": ONCE,
    "balanced": Recipe(summary="fitted once, every class weighs the same", epochs=1, normalise="none", class_weights="balanced"),
    "speaker": SPEAKER_RECIPE,
}
LOGREG = reference_head(
    "logreg",
    "reference: logistic regression on the mean and deviation over time",
    "scikit-learn",
    {"plain": LogRegConfig(), "strong": LogRegConfig(C=0.01)},
    recipes=_RECIPES,
    fit=fit,
    predict=predict,
)
SVM = reference_head(
    "svm",
    "reference: support vector machine on the mean and deviation over time",
    "scikit-learn; Rifkin and Klautau 2004",
    {"rbf": SVMConfig(), "linear": SVMConfig(kernel="linear")},
    recipes=_RECIPES,
    fit=fit,
    predict=predict,
)
