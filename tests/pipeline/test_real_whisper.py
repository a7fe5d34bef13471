"""The real Whisper base: our features against transformers' own on the published weights, and against what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfser.pipeline.features.encoders.encoder import Encoder
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import encoder_spec
from tfser.pipeline.sound.audio import decode, resample

NAMES = ("03a01Fa", "03a01Wa")
"""Two untouched files of EmoDB: happiness and anger, of the same sentence and speaker."""

DIGEST: dict[str, tuple[tuple[float, ...], ...]] = {
    "03a01Fa": (
        (0.49675, 0.73507, 4.2876),
        (0.61019, 0.36663, 3.0065),
        (0.61250, 0.38709, 3.2550),
        (0.61341, 0.44055, 3.7717),
        (0.60658, 0.60992, 4.4757),
        (0.62135, 1.07449, 7.5948),
        (-0.02017, 1.44907, 10.8077),
    ),
    "03a01Wa": (
        (0.50248, 0.74030, 4.1895),
        (0.61501, 0.37623, 2.7978),
        (0.61954, 0.40819, 3.2093),
        (0.62210, 0.45563, 3.8108),
        (0.61495, 0.61974, 4.6925),
        (0.63209, 1.09052, 8.4676),
        (-0.01973, 1.44122, 10.9112),
    ),
}
"""By file: of the frames 10 to 19 of each layer, mean, standard deviation and largest magnitude."""

TOLERANCE = 2e-3
"""Of the digest, relative: processors and versions of libraries differ by 1e-4 at most; another window or layer, by tenths."""


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    folder = shared / "weights" / "whisper-base"
    if not folder.is_dir():
        pytest.skip(f"no weights of Whisper base: {folder} does not exist")
    return folder


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return load(encoder_spec("whisper-base", weights=str(weights), layer="all"))


@pytest.fixture(scope="module")
def samples(shared: Path) -> dict[str, np.ndarray]:
    folder = shared / "corpora" / "emodb-original"
    if not folder.is_dir():
        pytest.skip(f"no untouched files of EmoDB: {folder} does not exist")
    found = {}
    for name in NAMES:
        (path,) = folder.rglob(f"{name}.*")
        audio = decode(path)
        found[name] = resample(audio.samples, audio.sample_rate, 16000)
    return found


@pytest.fixture(scope="module")
def features(encoder: Encoder, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each file (frames, layers, width)."""
    return {name: encoder.encode([of])[0][0].reshape(-1, 7, 512) for name, of in samples.items()}


@pytest.mark.slow
def test_features_are_transformers_own(weights: Path, samples: dict[str, np.ndarray], features: dict[str, np.ndarray]) -> None:
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    names = {r"^model\.encoder\.": ""}
    model: Any = WhisperEncoder.from_pretrained(weights, dtype=torch.float32, key_mapping=names).eval()
    extractor: Any = transformers.WhisperFeatureExtractor.from_pretrained(weights)
    mel = extractor(list(samples.values()), sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        states = torch.stack(model(mel, output_hidden_states=True).hidden_states, dim=2).numpy()  # (B, 1500, 7, 512)
    for theirs, (name, ours) in zip(states, features.items(), strict=True):
        assert len(ours) == -(-len(samples[name]) // 320)
        for layer in range(7):
            scale = float(np.abs(theirs[: len(ours), layer]).max())
            np.testing.assert_allclose(ours[:, layer], theirs[: len(ours), layer], atol=1e-5 * scale)


def statistics(frames: np.ndarray) -> list[tuple[float, ...]]:
    return [(float(of.mean()), float(of.std()), float(np.abs(of).max())) for of in frames[10:20].transpose(1, 0, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_they_were(features: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(statistics(features[name]), DIGEST[name], rtol=TOLERANCE, atol=1e-4)


@pytest.mark.slow
def test_clips_of_their_own_length_are_near_and_not_the_same(
    weights: Path, samples: dict[str, np.ndarray], features: dict[str, np.ndarray]
) -> None:
    """What silence does: hardly anything in the first layers, something in the last; the counts of frames are the same."""
    clip = load(encoder_spec("whisper-base", weights=str(weights), layer="all", settings={"window": "clip"}))
    for name, padded in features.items():
        own = clip.encode([samples[name]])[0][0].reshape(-1, 7, 512)
        assert own.shape == padded.shape
        alike = [float(np.corrcoef(own[:, k].ravel(), padded[:, k].ravel())[0, 1]) for k in range(7)]
        assert alike[0] > 0.999 and all(0.85 < r < 0.99 for r in alike[1:])
