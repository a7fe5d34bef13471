"""Heads that tests train on a corpus of tones, with a small encoder of random weights, to hear the same audio again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from tfser.heads.prediction.answers import SpokenAnswer, answers
from tfser.heads.prediction.inputs import measured, named_inputs
from tfser.heads.prediction.loading import Model
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.in_turn import run_here
from tfser.heads.runs.plan import entry_of, make_plan
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.pipeline.derived.join import join, joined
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import FeatureRequest, feature_pass

from .conftest import fill_with_tones, run

FOLD = 2
"""Its 36 test utterances are more than a batch of whole utterances."""

SETTINGS: dict[str, dict[str, str]] = {
    "tf_mamba": {"width": "16", "hidden": "16,8"},
    "tf_transformer": {"segment_frames": "16", "channels": "4"},
    "ca_mser": {"segment_frames": "12", "image": "63,63", "lstm_units": "4", "hidden": "8"},
}
RECIPES = {"tf_transformer": "paper"}  # whose hops fit so short segments
SETS = ("logmel", "wavlm-large/2")
LAYERS = "wavlm-large/all+float16"
JOINED = "logmel+mfcc+wavlm-large/2"


def tiny_wavlm(folder: Path) -> Path:
    """Write a small WavLM of random weights, with its feature extractor."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


class Trained:
    """A cache with log-Mel frames of tones, a layer of a small encoder, and all its layers; runs as they are needed.

    Attributes:
        audio: the folder of the tones.
        weights: that of the encoder.
    """

    def __init__(self, folder: Path) -> None:
        self.cache, self.audio = Cache(folder / "cache"), folder / "audio"
        self.weights = folder / "weights"
        self.runs: dict[tuple[str, str], str] = {}
        fill_with_tones(self.cache, self.audio, each=(3, 18, 3), noise=0.3, seconds=0.3)
        tiny_wavlm(self.weights)
        for layer, dtype in (("2", "float32"), ("all", "float16")):
            self.extract("wavlm-large", FeatureRequest(weights=str(self.weights), layer=layer, dtype=dtype))
        refresh(self.cache)

    def extract(self, name: str, request: FeatureRequest | None = None) -> None:
        """Extract features of the tones."""
        extract_pass(self.cache, "toy", feature_pass(name, request), compute=Compute())

    def join(self, name: str) -> None:
        """Put feature sets side by side, if nobody has yet."""
        if not any(row == name for row in self._sets()):
            if "mfcc" in name and "mfcc" not in self._sets():
                self.extract("mfcc")
                refresh(self.cache)
            join(self.cache, joined(self.cache, name))
            refresh(self.cache)

    def _sets(self) -> list[str]:
        with open_catalogue(self.cache) as connection:
            return [row["feature_set"] for row in rows(connection, "SELECT feature_set FROM feature_sets")]

    def elsewhere(self, folder: Path) -> dict[str, str]:
        """Copy the test fold's audio under other names and in another order; return the utterance of each new path."""
        names = {}
        for i, path in enumerate(sorted((self.audio / "b").glob("*.wav"), reverse=True)):
            shutil.copy(path, folder / f"{i}.wav")
            names[str(folder / f"{i}.wav")] = f"b/{path.stem}"
        return names

    def train(self, *wanted: tuple[str, str], folds: str = str(FOLD), **settings: str) -> list[str]:
        """Train heads on features, as `tfser train` does, and return their runs."""
        experiments = []
        for head, features in wanted:
            if "+wavlm" in features:
                self.join(features)
            own = SETTINGS.get(head, {}) | settings
            request = Request(
                head=head, features=features, folds=folds, settings=own, epochs=2, recipe=RECIPES.get(head), device="cpu"
            )
            experiments.append(resolve(self.cache, request))
        plan = make_plan(self.cache, [entry_of(experiment) for experiment in experiments])
        assert run_here(self.cache, plan.runs, plan.findings, tell=lambda event: None) == []
        return [experiment.run_id(fold) for experiment in experiments for fold in experiment.folds]

    def need(self, *wanted: tuple[str, str]) -> list[str]:
        """Return the runs of heads on features, trained now where they are not yet."""
        missing = [of for of in wanted if of not in self.runs]
        if missing:
            self.runs |= dict(zip(missing, self.train(*missing), strict=True))
            refresh(self.cache)
        return [self.runs[of] for of in wanted]


def stored(cache: Cache, run_id: str, level: str = "utterance") -> dict[str, list[dict[str, float]]]:
    """The stored test predictions of a run's last epoch, by utterance."""
    with open_catalogue(cache) as connection:
        found = rows(
            connection,
            "SELECT utterance_id, probabilities FROM predictions WHERE run_id = ? AND level = ? AND selection = 'last' "
            "ORDER BY utterance_id, segment",
            [run_id, level],
        )
    by_utterance: dict[str, list[dict[str, float]]] = {}
    for row in found:
        by_utterance.setdefault(row["utterance_id"], []).append(row["probabilities"])
    return by_utterance


def heard(model: Model, files: list[str]) -> dict[str, SpokenAnswer]:
    usable, lost = measured(named_inputs(files))
    found = list(answers(model.heads, model.fronts, usable, known=model.known))
    assert not lost and all(isinstance(of, SpokenAnswer) for of in found)
    return {of.speech.name: of for of in found if isinstance(of, SpokenAnswer)}


def check_fold(model: Model, cache: Cache, run_id: str, names: dict[str, str], folder: Path) -> None:
    """Check that a model gives the audio of its test fold the stored predictions, bit for bit."""
    expected, segments = stored(cache, run_id), stored(cache, run_id, "segment")
    found = heard(model, [str(folder)])
    assert len(expected) == 36 and {names[name] for name in found} == {name.removesuffix(".wav") for name in expected}
    for name, answer in found.items():
        (key,) = [of for of in expected if of.removesuffix(".wav") == names[name]]
        assert [answer.shares()] == expected[key]
        assert [[float(p) for p in row] for row in answer.segments] == [list(row.values()) for row in segments[key]]
        assert answer.seen == "test"


def predictions(model: object, audio: object, cache: object) -> list[dict[str, float]]:
    """Return what `tfser predict` says of audio, by class."""
    done = run("predict", model, audio, "--cache", cache, "--format", "json")
    assert done.exit_code == 0, done.output
    return [row["probabilities"] for row in json.loads(done.stdout)["predictions"]]


def away(trained: Trained, model: Path, folder: Path) -> list[dict[str, float]]:
    """Return what an exported folder says of a speaker, where neither the cache nor the encoder's own folder is."""
    moved = shutil.move(model, folder / "handed-on")
    weights = trained.weights.rename(folder / "gone")
    try:
        return predictions(moved, trained.audio / "a", folder / "no-cache")
    finally:
        weights.rename(trained.weights)
