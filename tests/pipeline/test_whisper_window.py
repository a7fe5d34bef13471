"""Whisper on the clip's own length: against transformers' encoder of that length, in batches, beyond the window, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tfser.manifests.errors import UsageError
from tfser.pipeline.features.encoders.encoder import Encoder
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import EncoderSpec, encoder_spec
from tfser.pipeline.features.registry import FeatureRequest, feature_pass

POSITIONS, HOP = 100, 320
WINDOW = POSITIONS * HOP


@pytest.fixture(scope="module")
def weights(tiny_whisper: Path) -> Path:
    return tiny_whisper


def spec_of(weights: Path, **settings: str) -> EncoderSpec:
    return encoder_spec("whisper-base", weights=str(weights), layer="all", settings=settings)


@pytest.fixture(scope="module")
def clip(weights: Path) -> Encoder:
    return load(spec_of(weights, window="clip"))


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.linspace(0.01, 0.2, n, dtype=np.float32)


def reference(weights: Path, samples: np.ndarray) -> np.ndarray:
    """Hidden states of transformers' encoder that is built for the clip's length, (T, layers * D)."""
    T = -(-len(samples) // HOP)
    config = transformers.WhisperConfig.from_pretrained(weights)
    whole = transformers.WhisperModel.from_pretrained(weights).encoder.eval()
    config.max_source_positions = T
    short = type(whole)(config).eval()
    state = dict(whole.state_dict())
    state["embed_positions.weight"] = state["embed_positions.weight"][:T]
    short.load_state_dict(state)
    extractor: Any = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    mel = extractor([samples], sampling_rate=16000, max_length=T * HOP, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        states = short(mel, output_hidden_states=True).hidden_states
    return np.asarray(torch.cat(states, dim=2)[0].numpy())


@pytest.mark.parametrize("n", [HOP, 5 * HOP, 12345, WINDOW - 1, WINDOW])
def test_a_clip_is_encoded_as_by_an_encoder_of_its_length(weights: Path, clip: Encoder, n: int) -> None:
    ((found,),) = clip.encode([noise(n)])
    assert found.shape == (-(-n // HOP), 3 * 32)
    np.testing.assert_allclose(found, reference(weights, noise(n)), atol=2e-5)


def test_batch_mates_do_not_matter(clip: Encoder) -> None:
    pieces = [noise(n) for n in (7 * HOP, WINDOW, 321, 9000, 9000)]
    for together, piece in zip(clip.encode(pieces), pieces, strict=True):
        np.testing.assert_allclose(together[0], clip.encode([piece])[0][0], atol=1e-5)


def test_a_clip_that_fills_the_window_is_the_padded_form_and_a_shorter_one_is_not(weights: Path, clip: Encoder) -> None:
    padded = load(spec_of(weights))
    for n, is_same in ((WINDOW, True), (WINDOW // 2, False)):
        found, other = clip.encode([noise(n)])[0][0], padded.encode([noise(n)])[0][0]
        assert found.shape == other.shape and np.allclose(found, other, atol=1e-5) is is_same


def test_what_is_longer_goes_on_in_consecutive_windows(weights: Path, clip: Encoder) -> None:
    spec, samples = spec_of(weights, window="clip"), noise(2 * WINDOW + 700)
    windows = spec.windows(len(samples))
    assert windows == [(0, WINDOW), (WINDOW, 2 * WINDOW), (2 * WINDOW, 2 * WINDOW + 700)]
    assert windows == spec_of(weights).windows(len(samples))
    parts = [clip.encode([samples[start:stop]])[0][0] for start, stop in windows]
    assert len(spec.stitch(parts, len(samples))) == spec.frames(len(samples)) == 2 * POSITIONS + 3
    with pytest.raises(ValueError, match="longer than the window of 32000"):
        clip.encode([samples])


def test_name_and_fingerprint_say_so_and_the_default_is_as_before(weights: Path) -> None:
    def named(**settings: str) -> tuple[str, str]:
        (of,) = feature_pass("whisper-base", FeatureRequest(weights=str(weights), layer="1", settings=settings)).sets
        return of.name, of.fingerprint

    assert named()[0] == "whisper-base/1" and named(window="padded") == named()
    assert named(window="clip")[0] == "whisper-base/1+window=clip" and named(window="Clip") == named(window="clip")
    assert named(window="clip")[1] != named()[1]
    config = spec_of(weights).config(spec_of(weights).outputs[0])
    assert config["chunking"] == {  # of the first releases: their fingerprints stay
        "window_samples": WINDOW,
        "rule": "filled with silence and trimmed to ceil(samples / hop) frames; longer files in consecutive windows",
    }
    assert config["batch"] == "every window on its own; attention sees the silence that fills it"
    with pytest.raises(UsageError, match="unknown window of a Whisper 'short'; Known: clip, padded"):
        spec_of(weights, window="short")
    with pytest.raises(UsageError, match="--set chunk_s: whisper-base is a Whisper, which takes window"):
        spec_of(weights, chunk_s="20")
