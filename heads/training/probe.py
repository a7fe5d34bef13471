"""The probe: shrunken discriminant analysis of pooled statistics, layer by layer, mixed as speakers of the training side judge.

Our own head, for features of a frozen encoder and few utterances. It is fitted at once (`Baseline`), and the seed changes
nothing.

What comes in: an utterance's mean and population deviation over time of each feature, x_m (I = 2 D numbers) of each of M
layers (the preset ``quantiles`` puts the 10, 50 and 90 % quantiles over time beside them: 5 D), scaled by the training utterances
to mean 0 and deviation 1; by the recipe ``speaker`` first by the utterances of each speaker, which is transductive. What goes
out: class probabilities,

    s_mk(x) = x' A_m^-1 mu_mk - mu_mk' A_m^-1 mu_mk / 2,     A_m = (1 - g_m) S_m + g_m (tr S_m / I) 1       (one layer)
    p_k(x)  ~ exp(mean over the chosen layers m of s_mk(x) / t_m)                                           (the mix)

with mu_mk the mean of class k and S_m the covariance within classes, pooled over them. That is linear discriminant analysis
with its covariance shrunk towards a multiple of the identity (Friedman 1989; Ledoit and Wolf 2004) and equal priors: every
class counts the same, as in the unweighted accuracy. S_m holds how speakers differ within a class, so directions in which they
do are trusted less.

**What is chosen inside of the fold**, by leaving out one training speaker after the other (ten groups of speakers where there are
more) and predicting those from the rest; no validation or test utterance is looked at:

* each layer's shrinkage g_m, the one of the configuration's with the best unweighted accuracy on the speakers left out (the
  stronger one of equals), and a temperature t_m by their likelihood, so that layers speak with one voice and probabilities
  mean something;
* how many layers are mixed: the best one, the best two ... or all, again by the accuracy on the speakers left out (more of
  equals).

Where speakers are unknown, or there is one alone, nothing can be chosen so: all layers, and the middle of the shrinkages.
The linear system is solved in n or I dimensions, whichever is smaller, in float64.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tfser.heads.spec.fold import FitResult, FoldData, Indices, Prediction
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import ABOVE_0, INSIDE_0_1, Settings, later
from tfser.heads.training.baselines import (
    BY_SPEAKER,
    SPEAKER_RECIPE,
    as_tensors,
    one_epoch,
    reference_head,
)
from tfser.heads.training.utterance_inputs import Floats, finite_statistics, of_speakers, rows_seen
from tfser.manifests.errors import UsageError
from tfser.pipeline.shards.packed import PackedFeatures

GROUPS = 10
"""Training speakers are left out one by one up to so many; of more, so many groups of them."""

TEMPERATURES = np.geomspace(0.25, 1024, 49)
_SMALLEST = 1e-9  # deviation of an input that says nothing
_RIDGE = 1e-12  # of a covariance that is nothing but zeros: every utterance of a class is the same


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Settings):
    """The probe.

    Raises:
        UsageError: A number is outside of what it may be, or there is no shrinkage.
    """

    shrinkage: Annotated[tuple[float, ...], INSIDE_0_1] = (0.3, 0.5, 0.7, 0.85)
    """Shares of the identity in the covariance, of which training speakers choose; one: nothing is chosen."""
    quantiles: Annotated[tuple[float, ...], INSIDE_0_1] = later(())
    """Quantiles over time of each feature, beside mean and deviation; none of one vector an utterance."""
    most_layers: Annotated[int | None, ABOVE_0] = None
    """Layers that are mixed at most; None: as many as there are. 1: the best one alone."""
    threads: Annotated[int | None, ABOVE_0] = 1
    """Threads of the products of matrices, which are small; None: the library's choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shrinkage:
            raise UsageError("shrinkage is empty; name one share at least, as in shrinkage=0.5")


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A fitted layer: how its inputs (I,) are scaled, and the linear scores of K classes, for each shrinkage (G)."""

    mean: Floats
    deviation: Floats
    weight: Floats  # (G, K, I)
    intercept: Floats  # (G, K)

    def scores(self, inputs: Floats) -> Floats:  # (n, I) -> (G, n, K)
        scaled = (inputs - self.mean) / self.deviation
        return np.stack([scaled @ w.T + b for w, b in zip(self.weight, self.intercept, strict=True)])


def fit(data: FoldData, config: ProbeConfig, recipe: Recipe) -> FitResult:
    """Fit the probe to a fold's training utterances.

    Returns:
        One "epoch" and one selection, ``last``: what is chosen is chosen inside.

    Raises:
        UsageError: The training side has one class only.
        NotFiniteError: Features of an utterance are no numbers.
    """
    from threadpoolctl import threadpool_limits

    began = time.perf_counter()
    # Functionals are one frame an utterance: nothing varies over time, so there is no deviation and no quantile to see.
    over_time = bool((data.features.lengths > 1).any())
    quantiles = config.quantiles if over_time else ()
    by_speaker = recipe.normalise == "speaker"
    inputs = _inputs(data.features, rows_seen(data, by_speaker), data.layers, over_time, quantiles)  # (n, M, I)
    if by_speaker:
        inputs = of_speakers(inputs, data.speakers)
    labels = data.labels[data.train]
    if len(np.unique(labels)) < 2:
        raise UsageError("the probe needs training utterances of two classes at least")
    # Validation and test utterances stand in `inputs` to be predicted below; the fit and all that it chooses see the training
    # side alone.
    with threadpool_limits(limits=config.threads, user_api="blas"):
        state = _fit_state(inputs[data.train], labels, _groups(data), len(data.classes), config)
    if quantiles:
        state["choice.quantiles"] = torch.tensor(quantiles, dtype=torch.float64)
    if by_speaker:
        state[BY_SPEAKER] = torch.tensor(True)
    trained = time.perf_counter()
    on_train = _probabilities(state, inputs[data.train])[np.arange(len(labels)), labels]
    return one_epoch(
        data,
        state,
        lambda rows: Prediction.of_whole(_probabilities(state, inputs[rows]), rows),
        loss=float(-np.log(np.maximum(on_train, 1e-30)).mean()),
        times=(began, trained),
        temperature=recipe.temperature,
    )


def predict(
    state: Mapping[str, Tensor], features: PackedFeatures, rows: Indices, speakers: Sequence[str] | None = None
) -> Prediction:
    """Predict the utterances ``rows`` with a state of `fit`; of the recipe ``speaker`` that takes the ``speakers`` (n,) of all.

    Raises:
        UsageError: The state is not one of the probe, the features are of another width, or nothing says who speaks.
        NotFiniteError: Features of an utterance are no numbers.
    """
    if "choice.layers" not in state or "model.weight" not in state:
        raise UsageError("this is not a state of the probe")
    layers, dim = int(state["choice.of_layers"]), features.frames.shape[1]
    width = state["model.weight"].shape[2]
    quantiles = tuple(state["choice.quantiles"].tolist()) if "choice.quantiles" in state else ()
    if layers * width not in ((2 + len(quantiles)) * dim, dim if not quantiles else -1):
        raise UsageError(f"this state is of {layers} layers of {width} inputs each, and these features are {dim} wide")
    rows = np.sort(rows)
    # By speaker the others of a speaker count, too: every utterance that is given.
    by_speaker = BY_SPEAKER in state
    every = np.arange(len(features.utterance_ids)) if by_speaker else rows
    inputs = _inputs(features, every, layers, layers * width != dim, quantiles)
    if by_speaker:
        inputs = of_speakers(inputs, speakers)
    return Prediction.of_whole(_probabilities(state, inputs[rows]), rows)


def _inputs(features: PackedFeatures, rows: Indices, layers: int, over_time: bool, quantiles: tuple[float, ...]) -> Floats:
    """Return what is said of each utterance, (n, M, I); quantiles only of ``rows``, elsewhere they are 0.

    Raises:
        NotFiniteError: Features of one of ``rows`` are no numbers.
    """
    dim = features.frames.shape[1]
    inputs = by_layer(finite_statistics(features, rows, deviation=over_time), dim, layers)
    if not quantiles:
        return inputs
    by_row = np.zeros((len(inputs), len(quantiles), layers, dim // layers))
    for row in rows:
        values = np.quantile(features.of(int(row)).astype(np.float64), quantiles, axis=0)  # (Q, dim)
        by_row[row] = values.reshape(len(quantiles), layers, -1)
    return np.concatenate([inputs, np.moveaxis(by_row, 2, 1).reshape(len(inputs), layers, -1)], axis=2)


def by_layer(flat: Floats, dim: int, layers: int) -> Floats:
    """Return statistics (n, dim) or (n, 2 dim), the means of all layers before their deviations, as (n, M, I)."""
    parts = [part.reshape(len(flat), layers, dim // layers) for part in np.split(flat, flat.shape[1] // dim, axis=1)]
    return np.concatenate(parts, axis=2)


def _groups(data: FoldData) -> Indices | None:
    """Return the group of each training utterance (n,): its speaker, or a set of speakers; None where they are unknown or one."""
    if data.speakers is None:
        return None
    names, speaker = np.unique([data.speakers[row] for row in data.train], return_inverse=True)
    return np.asarray(speaker % GROUPS, dtype=np.int64) if len(names) > 1 else None


def _fit_state(inputs: Floats, labels: Indices, groups: Indices | None, n_classes: int, config: ProbeConfig) -> dict[str, Tensor]:
    """Choose and fit; inputs (n, M, I) are of the training utterances."""
    layers = inputs.shape[1]
    chosen_layers, shrinkage, temperature = _choose(inputs, labels, groups, n_classes, config)
    fitted = [
        _fit_layer(inputs[:, m], labels, n_classes, (config.shrinkage[g],)) for m, g in zip(chosen_layers, shrinkage, strict=True)
    ]
    state = {
        "model.weight": np.stack([of.weight[0] for of in fitted]),  # (k, K, I)
        "model.intercept": np.stack([of.intercept[0] for of in fitted]),  # (k, K)
        "inputs.mean": np.stack([of.mean for of in fitted]),  # (k, I)
        "inputs.deviation": np.stack([of.deviation for of in fitted]),
        "choice.temperature": temperature,  # (k,)
        "choice.shrinkage": np.array([config.shrinkage[g] for g in shrinkage]),
    }
    return as_tensors(state) | {"choice.layers": torch.from_numpy(chosen_layers), "choice.of_layers": torch.tensor(layers)}


def _choose(
    inputs: Floats, labels: Indices, groups: Indices | None, n_classes: int, config: ProbeConfig
) -> tuple[Indices, Indices, Floats]:
    """Return the layers to mix (k,), the number of each one's shrinkage (k,), and its temperature (k,)."""
    n, layers, width = inputs.shape
    most = min(layers, config.most_layers or layers)
    if groups is None:
        middle = len(config.shrinkage) // 2
        return np.arange(layers)[-most:], np.full(most, middle), np.full(most, float(np.sqrt(width)))
    # Scores of each utterance by those who never heard its speaker: what a layer is worth for new voices.
    out = np.zeros((layers, len(config.shrinkage), n, n_classes))
    for group in np.unique(groups):
        left = groups == group
        for m in range(layers):
            out[m, :, left] = np.moveaxis(
                _fit_layer(inputs[~left, m], labels[~left], n_classes, config.shrinkage).scores(inputs[left, m]), 0, 1
            )
    # Of equals the stronger shrinkage, then the deeper layer: a rule, so that rounding never chooses.
    accuracy = np.array([[_unweighted_accuracy(labels, of.argmax(axis=1)) for of in layer] for layer in out])  # (M, G)
    best = len(config.shrinkage) - 1 - accuracy[:, ::-1].argmax(axis=1)  # (M,)
    order = np.lexsort((-np.arange(layers), -accuracy[np.arange(layers), best]))
    temperature = np.array([_temperature(out[m, best[m]], labels) for m in range(layers)])
    mixed = np.cumsum([out[m, best[m]] / temperature[m] for m in order[:most]], axis=0)  # (most, n, K)
    by_number = np.array([_unweighted_accuracy(labels, of.argmax(axis=1)) for of in mixed])
    number = most - int(by_number[::-1].argmax())
    chosen = order[:number]
    # The mean of several layers is surer than one: their temperature is settled anew, together.
    together = _temperature(mixed[number - 1] / number, labels)
    return chosen, best[chosen], temperature[chosen] * together


def _fit_layer(inputs: Floats, labels: Indices, n_classes: int, shrinkage: tuple[float, ...]) -> _Layer:
    """Fit one layer for each shrinkage; a class without utterances scores minus infinity."""
    from scipy.linalg import solve

    n, width = inputs.shape
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    deviation = np.where(deviation < _SMALLEST, 1.0, deviation)
    scaled = (inputs - mean) / deviation
    present = np.unique(labels)
    centres = np.zeros((n_classes, width))  # (K, I)
    for k in present:
        centres[k] = scaled[labels == k].mean(axis=0)
    within = scaled - centres[labels]  # (n, I)
    level = max(float((within**2).sum()) / n / width, _RIDGE)  # tr S / I
    in_samples = n < width
    gram = within @ within.T if in_samples else within.T @ within
    projected = within @ centres.T if in_samples else None  # (n, K)
    weights, intercepts = [], []
    for share in shrinkage:
        ridge, part = share * level, (1 - share) / n
        system = part * gram + ridge * np.eye(len(gram))
        if projected is not None:  # the inverse by Woodbury's identity, in n dimensions
            weight = (centres.T - within.T @ solve(system, part * projected, assume_a="pos")) / ridge
        else:
            weight = solve(system, centres.T, assume_a="pos")
        intercept = np.full(n_classes, -np.inf)
        intercept[present] = -0.5 * (centres * weight.T).sum(axis=1)[present]
        weights.append(weight.T)
        intercepts.append(intercept)
    return _Layer(mean=mean, deviation=deviation, weight=np.stack(weights), intercept=np.stack(intercepts))


def _unweighted_accuracy(labels: Indices, predicted: Indices) -> float:
    return float(np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)]))


def _temperature(scores: Floats, labels: Indices) -> float:
    """Return by what scores (n, K) are divided for the greatest likelihood of the labels, every class counting the same."""
    weight = (1 / np.bincount(labels)[labels]).astype(np.float64)
    losses = []
    for t in TEMPERATURES:
        true = _log_softmax(scores / t)[np.arange(len(labels)), labels]
        losses.append(-(weight * np.maximum(true, -1e3)).sum())
    return float(TEMPERATURES[int(np.argmin(losses))])


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _probabilities(state: Mapping[str, Tensor], inputs: Floats) -> Floats:
    """Return class probabilities (n, K) of inputs (n, M, I) as they are before scaling."""
    model = {name: tensor.cpu().numpy().astype(np.float64) for name, tensor in state.items()}
    total = np.zeros((len(inputs), model["model.intercept"].shape[1]))
    for place, m in enumerate(model["choice.layers"].astype(np.int64)):
        scaled = (inputs[:, m] - model["inputs.mean"][place]) / model["inputs.deviation"][place]
        scores = scaled @ model["model.weight"][place].T + model["model.intercept"][place]
        total += scores / model["choice.temperature"][place]
    return np.exp(_log_softmax(total / len(model["choice.layers"])))


PROBE = reference_head(
    "probe",
    "ours: shrunken discriminant analysis of each layer's statistics, mixed as training speakers judge",
    "ours; Friedman 1989, Ledoit and Wolf 2004",
    {
        "mixed": ProbeConfig(),
        "single": ProbeConfig(most_layers=1),
        "fixed": ProbeConfig(shrinkage=(0.5,)),
        "quantiles": ProbeConfig(quantiles=(0.1, 0.5, 0.9)),
    },
    recipes={
        "default": Recipe(summary="fitted once; choices by leaving training speakers out", epochs=1, normalise="none"),
        "speaker": SPEAKER_RECIPE,
    },
    fit=fit,
    predict=predict,
    weighs_classes=False,
)
