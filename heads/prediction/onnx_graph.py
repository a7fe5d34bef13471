"""A trained head as ONNX: frames as the cache stores them in, class probabilities, ratings or both out, normalisation and layer
mix included.

What comes in: a `TrainedHead`, and a few utterances' frames. What goes out: `model.onnx`, written only once onnxruntime
has given PyTorch's probabilities for those frames to 1e-4, and what was checked.

* Heads of whole utterances take `frames` (1, L, D), any L up to what the head sees, and give `probabilities` (1, K), or
  `ratings` (1, T) on their scale; heads of classes and dimensions give these two outputs.
* Heads of segments take `frames` (B, L, D) with the segment's own L and any B; an utterance's prediction is the mean over
  its segments' probabilities and ratings, cut as `tfser.heads.training.samples` cuts them.
* What is fitted at once (the reference heads, the probe) takes an utterance, too: mean and deviation over time are part of
  the graph.

Some layers are computed in another way there (`tfser.heads.prediction.graph_parts`). Nothing here changes a head.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tfser.heads.models.layer_mix import build_module
from tfser.heads.prediction.graph_parts import in_graph_words, without_loops
from tfser.heads.prediction.trained import TrainedHead
from tfser.heads.training import checkpoints
from tfser.heads.training.both_baselines import sides_of
from tfser.heads.training.predict import own_randomness
from tfser.heads.training.rating_loss import rated
from tfser.heads.training.samples import FrameStore, plan
from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.pipeline.features.feature_set import PER_UTTERANCE
from tfser.pipeline.shards.packed import PackedFeatures

TOLERANCE = 1e-4
"""The largest difference of a probability between PyTorch and onnxruntime."""

OPSET = 18


class NoGraphError(UsageError):
    """A head cannot be written as ONNX, and why."""


def need_onnx() -> None:
    """Check that ONNX files can be written and run here.

    Raises:
        UsageError: if a library is not installed.
    """
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"--onnx needs {', '.join(lacking)}: pip install 'tfser[onnx]'")


def check_graph(trained: TrainedHead) -> None:
    """Refuse a head that no graph of frames alone can stand for, or that says itself that it has none.

    Raises:
        NoGraphError: saying why.
    """
    if trained.needs_speakers:
        raise NoGraphError(
            f"--onnx: {trained.name} normalises by speaker, over all of a speaker's utterances, and a graph sees one at a time; "
            "train with --set normalise=train"
        )
    if trained.spec.no_graph is not None:
        raise NoGraphError(f"--onnx: {trained.name} cannot be written as ONNX: {trained.spec.no_graph}")


class FramesToAnswer(nn.Module):
    """A network behind the normalisation that it was trained with."""

    def __init__(self, trained: TrainedHead, network: nn.Module) -> None:
        super().__init__()
        self.network, self.mode, self.outputs = network, trained.recipe.normalise, trained.outputs
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", trained.state["normaliser.mean"].float())
        self.register_buffer("deviation", trained.state["normaliser.deviation"].float())

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:  # (B, L, D) -> (B, K), (B, T)
        """Normalise, classify and rate; every frame counts."""
        x = frames.float()
        if self.mode in ("none", "train"):
            x = (x - self.mean) * (1 / self.deviation)
        else:
            mean = x.double().mean(dim=1, keepdim=True)
            if self.mode == "utterance-mean":
                x = (x - mean.float()) * (1 / self.deviation)
            else:
                variance = x.double().square().mean(dim=1, keepdim=True) - mean.square()
                x = (x - mean.float()) * (1 / variance.clamp(min=0).sqrt().clamp(min=1e-3)).float()
        lengths = torch.full_like(x[:, 0, 0], x.shape[1]).long()
        scores: Tensor = self.network(x, lengths).float()
        K = len(self.outputs.classes)
        of_classes = (scores[:, :K].softmax(dim=-1),) if K else ()
        return (*of_classes, _on_scale(rated(scores[:, K:]), self.outputs.scale)) if self.outputs.targets else of_classes


def _on_scale(shares: Tensor, scale: tuple[float, float]) -> Tensor:
    """Return ratings on 0..1 in points of a scale."""
    low, high = scale
    return low + shares * (high - low)


class FittedToAnswer(nn.Module):
    """A reference head: one fit of its classes, one of its ratings, or both (`tfser.heads.training.both_baselines`)."""

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__()
        scale = trained.scale if trained.targets else None
        of_classes, of_ratings = sides_of(trained.state)
        # Of one side alone, its tensors have no name before them.
        states = [(of_classes, None), (of_ratings, scale)] if of_ratings else [(of_classes, scale)]
        self.sides = nn.ModuleList(StatisticsToAnswer(state, scale) for state, scale in states)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:  # (B, L, D) -> (B, K), (B, T)
        """Return what each side says."""
        return tuple(side(frames) for side in self.sides)


class StatisticsToAnswer(nn.Module):
    """One side of a reference head: mean and deviation over time, then what scikit-learn has fitted
    (`tfser.heads.training.baselines`, `rating_baselines`); of ratings with their scale."""

    def __init__(self, state: Mapping[str, Tensor], scale: tuple[float, float] | None) -> None:
        super().__init__()
        self.scale = scale
        self.names = [name.replace(".", "_") for name in state]
        for name, tensor in state.items():
            self.register_buffer(name.replace(".", "_"), tensor.double())

    def forward(self, frames: Tensor) -> Tensor:  # (B, L, D) -> (B, K) or (B, T)
        """Return the softmax of the scores, or the ratings that they are."""
        at = self.get_buffer
        mean, deviation = _statistics(frames)
        # Of features of one frame an utterance there is no deviation over time, and none was fitted.
        of_time = [mean, deviation] if len(at("inputs_mean")) > mean.shape[1] else [mean]
        scaled = (torch.cat(of_time, dim=1) - at("inputs_mean")) / at("inputs_deviation")
        if "model_support" in self.names:
            support = at("model_support")
            distances = scaled.square().sum(1, keepdim=True) + support.square().sum(1) - 2 * scaled @ support.T
            kernel = torch.exp(-at("kernel_width")[0] * distances.clamp(min=0) / scaled.shape[1])
            scores = kernel @ at("model_dual").T
        else:
            scores = scaled @ at("model_weight").T
        # A class that nobody trained has minus infinity, which some runtimes' softmax does not know.
        scores = scores + at("model_intercept").clamp(min=-1e30)
        return (scores.softmax(dim=-1) if self.scale is None else _on_scale(scores.clamp(0, 1), self.scale)).float()


def _statistics(frames: Tensor) -> tuple[Tensor, Tensor]:  # (B, L, D) -> (B, D) each, float64
    """Return mean and population deviation over time."""
    x = frames.double()
    mean = x.mean(dim=1)
    return mean, (x.square().mean(dim=1) - mean.square()).clamp(min=0).sqrt()


class ProbeToAnswer(nn.Module):
    """The probe: each chosen layer's statistics, scored on their own, and the mean of the scores
    (`tfser.heads.training.probe`)."""

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__()
        self.chosen = [int(layer) for layer in trained.state["choice.layers"]]
        self.layers = int(trained.state["choice.of_layers"])
        for name, tensor in trained.state.items():
            if not name.startswith("choice.") or name == "choice.temperature":
                self.register_buffer(name.replace(".", "_"), tensor.double())

    def forward(self, frames: Tensor) -> tuple[Tensor]:  # (B, L, M*D) -> (B, K)
        """Return the softmax of the mean over layers of their scores."""
        at = self.get_buffer
        mean, deviation = (torch.unflatten(each, 1, (self.layers, -1)) for each in _statistics(frames))  # (B, M, D)
        width = at("inputs_mean").shape[1]
        inputs = torch.cat([mean, deviation], dim=2) if width > mean.shape[2] else mean  # (B, M, I)
        # A class that nobody trained has minus infinity, which some runtimes' softmax does not know.
        intercept = at("model_intercept").clamp(min=-1e30)
        scores = []
        for place, layer in enumerate(self.chosen):
            scaled = (inputs[:, layer] - at("inputs_mean")[place]) / at("inputs_deviation")[place]
            scores.append((scaled @ at("model_weight")[place].T + intercept[place]) / at("choice_temperature")[place])
        return (torch.stack(scores).mean(dim=0).softmax(dim=-1).float(),)


def graph_module(trained: TrainedHead, longest: int) -> tuple[nn.Module, int | None]:
    """Return the module that is written: frames (B, L, D) to those of probabilities (B, K) and ratings (B, T) that there are.

    Args:
        trained: the head.
        longest: frames of the longest utterance that it is compared on.

    Returns:
        The module, and the most frames that it takes; None: any.
    """
    if trained.is_fitted_at_once:
        is_probe = "choice.layers" in trained.state
        return (ProbeToAnswer(trained) if is_probe else FittedToAnswer(trained)).eval(), None
    with own_randomness(torch.device("cpu")):
        width, layers = trained.outputs.width, trained.features.layers
        network = build_module(trained.spec, trained.config, trained.features.dim, width, layers)
    network.load_state_dict(checkpoints.part(trained.state, "model"))
    network = copy.deepcopy(network)
    most = [number for number in (in_graph_words(network, longest), _most(trained)) if number is not None]
    return FramesToAnswer(trained, network).eval(), min(most, default=None)


def write_onnx(trained: TrainedHead, path: Path, packed: PackedFeatures) -> dict[str, Any]:
    """Write a trained head as ONNX, and compare what it says of some utterances with PyTorch.

    Args:
        trained: the head.
        path: a file that is not there yet.
        packed: frames of utterances of its feature set, real ones if there are any.

    Returns:
        What was compared: `utterances`, `largest_difference`, `tolerance`, `opset`; and what `input` and `outputs` are.

    Raises:
        NoGraphError: the head cannot be written, and why.
        TfserError: onnxruntime gives other numbers; nothing is left then.
    """
    need_onnx()
    check_graph(trained)
    module, most = graph_module(trained, int(packed.lengths.max()))
    # A head of segments has one length and any number of them, one of utterances any length and no batch:
    # padding in the graph would be a second way to compute the same.
    segment = None if trained.is_fitted_at_once else trained.spec.sample_frames(trained.config, trained.recipe)
    samples = _samples(trained, packed, segment)
    batch, frames = torch.export.Dim("batch", min=1), torch.export.Dim("frames", min=2, max=most)
    moving: dict[int, Any] = {1: frames} if segment is None else {0: batch}
    if trained.features.config.get("per") == PER_UTTERANCE:
        moving = {}  # one frame, always
    example = samples[0] if segment is None else torch.cat([samples[0], samples[0]])
    _save(trained, module, example, moving, path)
    # Looked at on real frames before anybody has the file: an operator may be exported to something that only
    # looks alike.
    try:
        worst = _compare(trained, path, packed, samples)
    except _CannotRunError as error:
        path.unlink(missing_ok=True)
        raise NoGraphError(f"--onnx: onnxruntime cannot run the graph of {trained.name} ({str(error)[:200]})") from error
    if not worst <= TOLERANCE:
        path.unlink(missing_ok=True)
        what = " and ".join(output_names(trained))
        raise TfserError(f"--onnx: onnxruntime's {what} differ from PyTorch's by {worst:.2g}, more than {TOLERANCE:g}")
    return {
        "utterances": len(packed.utterance_ids),
        "largest_difference": worst,
        "tolerance": TOLERANCE,
        "opset": OPSET,
        "input": f"frames float32 ({'B' if segment else '1'}, {segment or ('L' if moving else 1)}, {trained.features.dim})"
        + (f", L up to {most:,}," if moving and most and not segment else ""),
        "outputs": output_names(trained),
    }


class _CannotRunError(Exception):
    """onnxruntime cannot run a graph on frames that it was written for."""


def _save(trained: TrainedHead, module: nn.Module, example: Tensor, moving: dict[int, Any], path: Path) -> None:
    """Write a module as ONNX.

    Raises:
        NoGraphError: the exporter fails over an operator; nothing is left then.
    """
    import onnx

    try:
        with torch.inference_mode(False), torch.no_grad(), without_loops(), _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["frames"],
                output_names=output_names(trained),
                dynamic_shapes={"frames": moving},
                verbose=False,
            )
            assert program is not None  # with dynamo=True there always is one
            program.save(path, external_data=False)
            # The exporter notes the example's own length behind LSTMs, and onnxruntime would believe it.
            written = onnx.load(path)
            _check_moving(written, moving)
            del written.graph.value_info[:]
            onnx.helper.set_model_props(written, _properties(trained))
            onnx.save(written, path)
    except Exception as error:  # whatever the exporter raises over an operator: it is its word on why
        path.unlink(missing_ok=True)
        raise NoGraphError(f"--onnx: {trained.name} cannot be written as ONNX ({_reason(error)})") from error


def _check_moving(written: Any, moving: Iterable[int]) -> None:
    """Check that the input of an ONNX model has no length of its own along some dimensions: the utterances that a graph is
    compared on may all be as long as its example. The exporter fixes it for the second LSTM of the same sizes in a process.

    Raises:
        ValueError: it has.
    """
    shape = written.graph.input[0].type.tensor_type.shape.dim
    fixed = [shape[axis].dim_value for axis in moving if not shape[axis].dim_param]
    if fixed:
        found = f"the exporter fixed the length of its input to that of the example, {fixed[0]:,}"
        raise ValueError(f"{found}; try again in a new process")


def output_names(trained: TrainedHead) -> list[str]:
    """Return what the graph's outputs are called, which says what they are."""
    return ["probabilities"] * bool(trained.classes) + ["ratings"] * bool(trained.targets)


def _properties(trained: TrainedHead) -> dict[str, str]:
    """Return what the file says of itself to whoever has nothing but it: names of the outputs, and of which frames they are."""
    named: dict[str, Any] = {"tfser.classes": list(trained.classes)} if trained.classes else {}
    if trained.targets:
        named |= {"tfser.targets": list(trained.targets), "tfser.scale": list(trained.scale)}
    features = {"tfser.features": trained.features.name, "tfser.fingerprint": trained.features.fingerprint}
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in named.items()}
    return texts | features | {"tfser.run_id": trained.name}


def _reason(error: BaseException) -> str:
    """Return what the exporter failed over at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)[:200]


def _most(trained: TrainedHead) -> int | None:
    return None if trained.is_fitted_at_once else trained.spec.seen_frames(trained.config, trained.recipe)


def _samples(trained: TrainedHead, packed: PackedFeatures, segment: int | None) -> list[Tensor]:
    """Return what the graph is given for each utterance: its frames, or its segments, float32 and not normalised."""
    rows, dim, most = np.arange(len(packed.utterance_ids)), packed.frames.shape[1], _most(trained)
    plain = np.zeros((1, dim), np.float32), np.ones((1, dim), np.float32)
    store = FrameStore(packed.frames, packed.offsets, *plain, torch.device("cpu"), most)
    layout = plan(packed.offsets, rows, segment, trained.recipe.eval_hop if segment else None, most)
    return [
        store.gather(torch.from_numpy(layout.utterance[own]), torch.from_numpy(layout.start[own]), segment)[0]
        for own in (layout.utterance == row for row in rows)
    ]


def _compare(trained: TrainedHead, path: Path, packed: PackedFeatures, samples: Sequence[Tensor]) -> float:
    """Return the largest difference between onnxruntime's answers and those that `TrainedHead.predict` gives: of probabilities,
    and of ratings as shares of their scale.

    Raises:
        _CannotRunError: it cannot run the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no base of their own
        raise _CannotRunError(first_line(error)) from error
    expected = trained.predict(packed).utterance_probabilities
    names, (low, high) = output_names(trained), trained.scale
    worst = 0.0
    for row, sample in zip(expected, samples, strict=True):
        try:
            found = session.run(names, {"frames": sample.numpy()})
        except Exception as error:
            raise _CannotRunError(first_line(error)) from error
        means = dict(zip(names, (each.astype(np.float64).mean(axis=0) for each in found), strict=True))
        if "ratings" in means:
            means["ratings"] = (means["ratings"] - low) / (high - low)
        difference = np.abs(np.concatenate(list(means.values())) - row).max()
        worst = max(worst, float(difference) if np.isfinite(difference) else math.inf)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own remarks off the terminal: what it fails over is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
