"""Predicting with a head: segment by segment, and the mean over each utterance's segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tfser.heads.models.layer_mix import LayerMix, build_module
from tfser.heads.spec.fold import Indices, Prediction
from tfser.heads.spec.head import Baseline, HeadSpec
from tfser.heads.spec.recipes import Recipe
from tfser.heads.spec.settings import Settings
from tfser.heads.training import checkpoints
from tfser.heads.training.ahead import read_ahead
from tfser.heads.training.finite import check_speakers
from tfser.heads.training.normalise import Normaliser
from tfser.heads.training.rating_loss import rated
from tfser.heads.training.samples import FrameStore, SamplePlan, plan
from tfser.manifests.errors import UsageError
from tfser.pipeline.resources.devices import computing_on
from tfser.pipeline.shards.packed import PackedFeatures

_SEGMENTS, _UTTERANCES = 128, 32  # samples evaluated at a time
_SEGMENTS_GPU, _UTTERANCES_GPU = 1024, 128  # where each launch costs as much as the work of many samples


@dataclass(frozen=True, kw_only=True)
class TrainedState:
    """What a training gave, and what has to be known of it to compute with it."""

    state: Mapping[str, Tensor]
    """One of `FitResult.states`, also after a round through safetensors."""
    spec: HeadSpec
    config: Settings
    recipe: Recipe
    n_classes: int
    layers: int = 1
    """Of the features (`FoldData.layers`)."""
    targets: tuple[str, ...] = ()
    """Dimensions that it rates (`FoldData.targets`); where it rates alone, ``n_classes`` is 0."""


def predict(
    trained: TrainedState,
    features: PackedFeatures,
    *,
    utterances: Indices | None = None,
    speakers: tuple[str, ...] | None = None,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict with a trained model.

    The numbers are those of the training's own test predictions if the features are the same.

    Args:
        trained: What was trained.
        features: Of the utterances.
        utterances: The rows to predict; None: all.
        speakers: Of all utterances; needed by normalise=speaker only.
        device: Where to compute.

    Raises:
        UsageError: There is nothing to predict, the features' width does not fit the head, or the state is not one of this
            head and configuration.
    """
    device, spec, config, recipe, state = torch.device(device), trained.spec, trained.config, trained.recipe, trained.state
    rows = np.arange(len(features.utterance_ids)) if utterances is None else utterances
    if not len(rows):
        raise UsageError("there are no utterances to predict")
    if isinstance(spec, Baseline):
        return spec.predict(state, features, rows, speakers)
    # Initial weights are drawn and thrown away: the caller's generator must not notice.
    with computing_on(device):
        with own_randomness(device):
            outputs = trained.n_classes + len(trained.targets)
            model = build_module(spec, config, features.frames.shape[1], outputs, trained.layers).to(device)
        normaliser = _load(model, trained)
        # The normaliser of training measures these frames: what is predicted is never measured by itself, but by
        # normalise=speaker.
        tables = normaliser.tables(features.frames, features.offsets, speakers)
        check_speakers(recipe.normalise, tables[0], features)
        frames, most = spec.sample_frames(config, recipe), spec.seen_frames(config, recipe)
        store = FrameStore(features.frames, features.offsets, *tables, device, most)
        layout = plan(features.offsets, rows, frames, recipe.eval_hop, most)
        return evaluate(model, store, layout, frames, rates=len(trained.targets))


def _load(model: nn.Module, trained: TrainedState) -> Normaliser:
    """Load the weights of a trained state into a model, and return its normaliser."""
    state = trained.state
    try:
        model.load_state_dict(checkpoints.part(state, "model"))
        return Normaliser(
            mode=trained.recipe.normalise,
            mean=state["normaliser.mean"].cpu().numpy(),
            deviation=state["normaliser.deviation"].cpu().numpy(),
        )
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"this is not a state of {trained.spec.name} with this configuration: {error}") from error


def evaluate(model: nn.Module, store: FrameStore, layout: SamplePlan, frames: int | None, *, rates: int = 0) -> Prediction:
    """Predict in evaluation mode and float32, the utterances in ascending order of their rows; the last ``rates`` outputs are of
    dimensions, the others of classes."""

    def of_outputs(outputs: Tensor) -> Tensor:
        K = outputs.shape[-1] - rates
        if not K or not rates:
            return rated(outputs) if rates else outputs.softmax(dim=-1)
        return torch.cat([outputs[:, :K].softmax(dim=-1), rated(outputs[:, K:])], dim=1)

    order = np.lexsort((layout.number, layout.utterance))
    utterance, number, start = layout.utterance[order], layout.number[order], layout.start[order]
    # Whole utterances are batched by length, which saves padding; the result is put back in order.
    cpu = store.device.type == "cpu"
    by_length, size = np.arange(len(order)), _SEGMENTS if cpu else _SEGMENTS_GPU
    if frames is None:
        size = _UTTERANCES if cpu else _UTTERANCES_GPU
        by_length = np.argsort(store.lengths[utterance], kind="stable")
    model.eval()
    found: list[Tensor] = []

    @torch.inference_mode()  # of the thread that it runs in
    def batch(first: int) -> tuple[Tensor, Tensor]:
        chosen = by_length[first : first + size]
        rows, starts = (torch.from_numpy(values[chosen]) for values in (utterance, start))
        return _samples(model, store, rows, starts, frames)

    with computing_on(store.device), torch.inference_mode():
        batches = map(batch, range(0, len(order), size))
        for samples, lengths in read_ahead(batches) if store.is_streamed else batches:
            found.append(of_outputs(model(samples, lengths).float()))
        predicted = torch.cat(found).cpu()  # one copy: each would wait for the device
    probabilities = np.empty_like(predicted.numpy())
    probabilities[by_length] = predicted.numpy()
    # In float64 and in the order of rows: the mean over segments must not depend on the order in which batches
    # came.
    rows_found, begins, counts = np.unique(utterance, return_index=True, return_counts=True)
    means = np.add.reduceat(probabilities.astype(np.float64), begins, axis=0) / counts[:, None]
    return Prediction(
        segment_utterance=utterance,
        segment_number=number,
        segment_probabilities=probabilities,
        utterance=rows_found,
        utterance_probabilities=means.astype(np.float32),
    )


def _samples(model: nn.Module, store: FrameStore, rows: Tensor, starts: Tensor, frames: int | None) -> tuple[Tensor, Tensor]:
    """Read a batch, frames and lengths; of several layers their mix, in parts as large as a batch of one layer."""
    if not isinstance(model, LayerMix):
        return store.gather(rows, starts, frames)
    size = max(1, len(rows) // model.layers)
    parts, lengths = [], []
    for of_rows, of_starts in zip(torch.split(rows, size), torch.split(starts, size), strict=True):
        samples, counts = store.gather(of_rows, of_starts, frames)
        parts.append(model.mix(samples))
        lengths.append(counts)
    longest = max(part.shape[1] for part in parts)
    padded = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(padded), torch.cat(lengths)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators that a computation on `device` draws from, as `torch.manual_seed` seeds them all.

    Without a GPU `torch.manual_seed` keeps, for a GPU that may come, the seed and a written-out stack of calls, each time.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's global generators as they were found."""
    devices: list[Any] = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
