"""Encoders of all families, small and random, against transformers' own hidden states of each file alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.features.encoders import exact as exact_parts
from tfser.pipeline.features.encoders import products
from tfser.pipeline.features.encoders.architecture import (
    ALIASES,
    FBANK_DEFAULTS,
    MEL_DEFAULTS,
    PREPROCESSOR_DEFAULTS,
)
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.encoders.known import ENCODERS
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import EncoderSpec, encoder_spec

from ..conftest import run

CONV = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.5,  # must do nothing outside training
    "mask_time_prob": 0.5,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
RELATIVE = {"num_buckets": 32, "max_bucket_distance": 64}
PLAIN = {**CONV, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7, "adapter_kernel_size": 3}
CONFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "feature_projection_input_dim": 32,
    "conv_depthwise_kernel_size": 7,
    "left_max_position_embeddings": 5,  # distances beyond both are clipped
    "right_max_position_embeddings": 2,
    "add_adapter": True,  # stands behind the last layer, which is what is stored
    "layerdrop": 0.5,
    "mask_time_prob": 0.5,
}
BANK = {"feature_size": 16, "num_mel_bins": 16, "padding_value": 1.0}
MEL = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "max_source_positions": 100,  # windows of two seconds
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}

KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "wav2vec2-group": ("Wav2Vec2", CONV, {"do_normalize": True}),
    "wav2vec2-layer": ("Wav2Vec2", {**CONV, **STABLE}, {"do_normalize": True}),
    "wav2vec2-layer-conv-post-norm": ("Wav2Vec2", {**CONV, "feat_extract_norm": "layer", "num_conv_pos_embeddings": 15}, None),
    "wav2vec2-adapters": ("Wav2Vec2", {**CONV, **STABLE, "adapter_attn_dim": 8, "add_adapter": True}, None),
    "hubert-group": ("Hubert", CONV, {"do_normalize": True}),
    "hubert-layer": ("Hubert", {**CONV, **STABLE}, {"do_normalize": True}),
    "hubert-batch-norm": (
        "Hubert",
        {**CONV, "conv_pos_batch_norm": True, "feat_proj_layer_norm": False},
        {"do_normalize": False},
    ),
    "wavlm-group": ("WavLM", {**CONV, **RELATIVE}, {"do_normalize": False}),
    "wavlm-stable": ("WavLM", {**CONV, **STABLE, **RELATIVE, "conv_bias": False}, {"do_normalize": True}),
    "wavlm-unsaved-extractor": ("WavLM", {**CONV, **STABLE, **RELATIVE}, None),
    "unispeech-sat-group": ("UniSpeechSat", CONV, {"do_normalize": False}),
    "unispeech-sat-stable": ("UniSpeechSat", {**CONV, **STABLE}, {"do_normalize": True}),
    "data2vec-audio": ("Data2VecAudio", PLAIN, {"do_normalize": True}),
    "w2v-bert": ("Wav2Vec2Bert", CONFORMER, BANK),
    "w2v-bert-relative": ("Wav2Vec2Bert", {**CONFORMER, "position_embeddings_type": "relative", "max_source_positions": 8}, BANK),
    "w2v-bert-rotary": ("Wav2Vec2Bert", {**CONFORMER, "position_embeddings_type": "rotary"}, BANK),
    "whisper-80": ("Whisper", {**MEL, "num_mel_bins": 80}, {"feature_size": 80, "chunk_length": 2}),
    "whisper-128": ("Whisper", {**MEL, "num_mel_bins": 128}, None),
}
"""Name -> transformers' class, its configuration, and what its feature extractor is saved with (None: it is not)."""

SAMPLES = (9000, 400, 16000, 5237, 16000, 719, 12345)
"""Two of the same length, the shortest that makes a frame, and others."""


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Samples with an offset and a slow swell, which normalisation would notice."""
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(n) * np.linspace(0.2, 1.5, n) + 0.02).astype(np.float32)


def make(folder: Path, kind: str) -> Path:
    """Save a small random model, every parameter of which matters."""
    family, values, extractor = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**values)
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}Model")(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide mistakes
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += torch.randn(buffer.shape, generator=generator)
    model.save_pretrained(folder)
    if extractor is not None:
        name = {"Whisper": "Whisper", "Wav2Vec2Bert": "SeamlessM4T"}.get(family, "Wav2Vec2") + "FeatureExtractor"
        getattr(transformers, name)(**extractor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def silence() -> Iterator[None]:
    """Keep transformers' reports out of the tests' output, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind, made once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = make(tmp_path_factory.mktemp("weights") / kind, kind)
        return made[kind]

    return get


def reference(folder: Path, kind: str, samples: np.ndarray) -> list[np.ndarray]:
    """All hidden states of a file alone, by transformers' feature extractor and model; Whisper's trimmed."""
    family, values, extractor = KINDS[kind]
    model = getattr(transformers, f"{family}Model").from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        if family == "Whisper":
            make_mel = transformers.WhisperFeatureExtractor(feature_size=values["num_mel_bins"], chunk_length=2)
            mel = make_mel(samples, sampling_rate=16000, return_tensors="pt").input_features
            states = model.encoder(mel, output_hidden_states=True).hidden_states
            return [state[0, : -(-len(samples) // 320)].numpy() for state in states]
        if family == "Wav2Vec2Bert":  # the frame that is half padding is masked, and no feature
            given = transformers.SeamlessM4TFeatureExtractor(**BANK)(samples, sampling_rate=16000, return_tensors="pt")
            own = int(given["attention_mask"].sum())
            return [state[0, :own].numpy() for state in model(**given, output_hidden_states=True).hidden_states]
        prepare = transformers.Wav2Vec2FeatureExtractor(**(extractor or {}))
        raw = prepare(samples, sampling_rate=16000, return_tensors="pt").input_values
        return [state[0].numpy() for state in model(raw, output_hidden_states=True).hidden_states]


def encode(spec: EncoderSpec, files: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """Encode files as one batch."""
    return load(spec, "cpu").encode([spec.prepare(file) for file in files])


def apart(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference relative to the largest value."""
    assert got.shape == want.shape
    assert got.dtype == np.float32
    return float(np.abs(got - want).max() / np.abs(want).max())


VARIANTS = (
    *("wav2vec2-layer", "wav2vec2-layer-conv-post-norm", "hubert-layer", "wavlm-group", "wavlm-unsaved-extractor"),
    *("unispeech-sat-group", "w2v-bert-rotary", "whisper-128"),
)
"""Of families that another kind stands for among the fast tests."""


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in VARIANTS else kind for kind in KINDS])
def test_every_layer_of_a_mixed_batch_is_that_of_the_file_alone(saved: Callable[[str], Path], kind: str) -> None:
    folder = saved(kind)
    spec = encoder_spec(str(folder), layer="0,1,2,last,mean,all")
    assert (spec.name, spec.dim, spec.n_layers, spec.highest) == (kind, 32, 3, 3)
    assert [output.label for output in spec.outputs] == ["0", "1", "2", "3", "mean", "all"]
    files = [noise(n, seed) for seed, n in enumerate(SAMPLES) if n >= spec.minimum_samples]
    assert len(files) > 5
    encoder = load(spec, "cpu")
    prepared = [spec.prepare(file) for file in files]
    batch = encoder.encode(prepared)
    for file, piece, together in zip(files, prepared, batch, strict=True):
        (alone,) = encoder.encode([piece])
        want = reference(folder, kind, file)
        wants = [*want, np.mean(want[1:], axis=0), np.concatenate(want, axis=1)]
        for output, one, other, truth in zip(spec.outputs, alone, together, wants, strict=True):
            assert truth.shape == (spec.frames(len(file)), output.dim)
            assert apart(other, truth) < 2e-5, output.label
            assert apart(other, one) < 2e-5, output.label


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_numbers_of_the_cpu(saved: Callable[[str], Path], kind: str, precision: str) -> None:
    """In float32 to the exactness tolerance, in half precision to its own; a batch as each file alone."""
    spec = encoder_spec(str(saved(kind)), layer="0,last,mean", precision=precision)
    files = [spec.prepare(noise(n, seed)) for seed, n in enumerate(SAMPLES) if n >= spec.minimum_samples]
    quiet = 0.01 * noise(max(SAMPLES[0], spec.minimum_samples), 9)  # at -40 dB, where half precision has the fewest digits
    files.append(spec.prepare(quiet))
    encoder = load(spec, "cuda")
    assert encoder.batch_seconds_default is not None and encoder.batch_seconds_default >= 40
    cpu = load(dataclasses.replace(spec, precision="float32"), "cpu")
    for file, together in zip(files, encoder.encode(files), strict=True):
        for one, on_gpu, other in zip(encoder.encode([file])[0], together, cpu.encode([file])[0], strict=True):
            for got, want in ((on_gpu, other), (on_gpu, one)):
                if precision == "float32":
                    assert apart(got, want) < 1e-3
                else:
                    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.05


@pytest.mark.parametrize(
    "kind", ["wav2vec2-group", "hubert-batch-norm", "wavlm-stable", "data2vec-audio", "w2v-bert", "whisper-80"]
)
def test_order_and_company_do_not_matter(saved: Callable[[str], Path], kind: str) -> None:
    spec = encoder_spec(str(saved(kind)), layer="2")
    encoder = load(spec, "cpu")
    files = [spec.prepare(noise(n, seed)) for seed, n in enumerate((4000, 16000, 9000))]
    forward = [out[0] for out in encoder.encode(files)]
    backward = [out[0] for out in encoder.encode([1e3 * files[1], files[2], files[0]])]
    assert apart(backward[1], forward[2]) < 2e-5
    assert apart(backward[2], forward[0]) < 2e-5
    assert encoder.encode([]) == []
    assert encoder.batch_seconds_default is None  # a CPU is fastest with one file at a time
    with pytest.raises(ValueError, match="one frame"):
        encoder.encode([files[0], files[0][: 0 if kind.startswith("whisper") else spec.minimum_samples - 1]])


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "hubert-group", "wavlm-stable", "whisper-80"])
def test_layers_above_the_highest_are_never_there(saved: Callable[[str], Path], kind: str) -> None:
    spec = encoder_spec(str(saved(kind)), layer="0,2")
    encoder: Any = load(spec, "cpu")
    layers = encoder.model.layers if kind.startswith("whisper") else encoder.layers
    runs: list[int] = []
    for k, layer in enumerate(layers, start=1):
        layer.register_forward_hook(lambda *_, k=k: runs.append(k))
    encoder.encode([noise(5000)])
    assert runs == [1, 2]
    nothing: Any = load(encoder_spec(str(saved(kind)), layer="0"), "cpu")
    assert len(nothing.model.layers if kind.startswith("whisper") else nothing.layers) == 0
    assert apart(nothing.encode([noise(5000)])[0][0], encoder.encode([noise(5000)])[0][0]) < 1e-6


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "kind",
    [
        *("wav2vec2-group", "wav2vec2-layer", "hubert-batch-norm", "wavlm-group", "wavlm-stable"),
        *("data2vec-audio", "w2v-bert", "whisper-80"),
    ],
)
def test_bfloat16_is_close(saved: Callable[[str], Path], kind: str) -> None:
    """Half precision is documented as: a relative root mean square difference of up to 5 %, and no batch-mates either."""
    spec = encoder_spec(str(saved(kind)), layer="1,last")
    half = dataclasses.replace(spec, precision="bfloat16")
    files = [noise(n, n) for n in (9000, 16000)]
    narrow = load(half, "cpu")
    batch = narrow.encode([half.prepare(file) for file in files])
    for file, exact, rough in zip(files, encode(spec, files), batch, strict=True):
        (alone,) = narrow.encode([half.prepare(file)])
        for a, b, c in zip(exact, rough, alone, strict=True):
            assert b.dtype == np.float32
            for other in (b, c):
                assert np.sqrt(np.square(a - other).mean() / np.square(a).mean()) < 0.05
    assert not np.array_equal(batch[0][0], encode(spec, files)[0][0])
    with pytest.raises(UsageError, match=r"float32 only"):
        load(half, "meta")
    with pytest.raises(UsageError, match=r"float16.*bfloat16"):
        load(dataclasses.replace(spec, precision="float16"), "cpu")


FRAMED = ("wav2vec2-group", "whisper-80")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(FRAMED))
def test_frames_follow_from_samples(saved: Callable[[str], Path], kind: str, data: st.DataObject) -> None:
    spec = encoder_spec(str(saved(kind)), layer="0")
    n = data.draw(st.integers(spec.minimum_samples, 32000))
    if not hasattr(test_frames_follow_from_samples, kind):
        setattr(test_frames_follow_from_samples, kind, load(spec, "cpu"))
    encoder = getattr(test_frames_follow_from_samples, kind)
    assert encoder.encode([noise(n)])[0][0].shape == (spec.frames(n), 32)
    if kind != "whisper-80":
        model = transformers.Wav2Vec2Config(**CONV)
        length = n
        for kernel, stride in zip(model.conv_kernel, model.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
        assert spec.frames(n) == length
        assert spec.frames(spec.minimum_samples) == 1
        assert spec.frames(spec.minimum_samples - 1) == 0


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(FRAMED), n=st.integers(400, 4_000_000), chunk=st.integers(3, 60), part=st.floats(0.05, 0.45))
def test_windows_join_to_the_frames_of_the_whole(
    saved: Callable[[str], Path], kind: str, n: int, chunk: int, part: float
) -> None:
    """Frames stand for samples: what is joined says of each frame where it is from, and how deep it lay there."""
    options = {} if kind == "whisper-80" else {"chunk_s": str(chunk), "overlap_s": str(round(part * chunk, 2))}
    spec = encoder_spec(str(saved(kind)), layer="0", settings=options)
    windows = spec.windows(n)
    hop, field = spec.framing.hop, spec.minimum_samples
    assert windows[0][0] == 0
    assert windows[-1][1] == n
    pieces = []
    for start, stop in windows:
        assert start % hop == 0
        assert spec.minimum_samples <= stop - start or kind == "whisper-80"
        assert spec.computed_s(stop - start) <= (2 if kind == "whisper-80" else chunk)
        at = start // hop + np.arange(spec.frames(stop - start))
        pieces.append(np.stack([at, np.minimum(at * hop - start, stop - at * hop - field)], axis=1))
    joined = spec.stitch(pieces, n)
    assert joined.shape == (spec.frames(n), 2)
    assert np.array_equal(joined[:, 0], np.arange(len(joined)))
    if kind != "whisper-80":
        deepest = np.full(len(joined), -1)
        for piece in pieces:
            np.maximum.at(deepest, piece[:, 0], piece[:, 1])
        assert np.array_equal(joined[:, 1], deepest)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "kind",
    ["wavlm-stable", "wavlm-group", "wav2vec2-group", "hubert-group", "wav2vec2-layer", "data2vec-audio", "w2v-bert"],
)
def test_long_files_agree_with_the_uncut_one_away_from_the_seams(
    saved: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 0 sees receptive field, norm and positional convolution only: there the joined frames are the uncut ones.

    The group norm's statistics are those of the whole file, which grows louder from window to window.
    """
    monkeypatch.setattr(exact_parts, "_STRETCH", 999)  # several, the last one odd
    folder = str(saved(kind))
    whole = encoder_spec(folder, layer="0,3")
    cut = encoder_spec(folder, layer="0,3", settings={"chunk_s": "2", "overlap_s": "0.8"})
    samples = whole.prepare(noise(70_001))
    windows = cut.windows(len(samples))
    assert len(windows) == 4
    encoder = load(cut, "cpu")
    moments = encoder.moments(samples)
    assert (moments is not None) == (kind.endswith("group") or kind == "w2v-bert")
    parts = encoder.encode([samples[a:b] for a, b in windows], [moments] * 4)
    (want,) = load(whole, "cpu").encode([samples])
    layer_0, layer_3 = (cut.stitch([part[i] for part in parts], len(samples)) for i in range(2))
    assert apart(layer_0, want[0]) < 2e-5
    assert layer_3.shape == want[1].shape  # attention sees the window only: alike, not equal
    assert np.sqrt(np.square(layer_3 - want[1]).mean() / np.square(want[1]).mean()) < 0.2


def test_long_whisper_files_are_their_windows_one_after_the_other(saved: Callable[[str], Path]) -> None:
    spec = encoder_spec(str(saved("whisper-80")), layer="3")
    samples = noise(75_000)
    windows = spec.windows(len(samples))
    assert windows == [(0, 32000), (32000, 64000), (64000, 75000)]
    parts = [part[0] for part in load(spec, "cpu").encode([samples[a:b] for a, b in windows])]
    joined = spec.stitch(parts, len(samples))
    want = np.concatenate([reference(saved("whisper-80"), "whisper-80", samples[a:b])[3] for a, b in windows])
    assert apart(joined, want) < 2e-5
    assert spec.computed_s(1000) == 2.0
    with pytest.raises(ValueError, match="longer than the window of 32000"):
        load(spec, "cpu").encode([samples])


@pytest.mark.parametrize("kind", KINDS)
def test_input_is_prepared_as_its_feature_extractor_does(saved: Callable[[str], Path], kind: str) -> None:
    family, _, extractor = KINDS[kind]
    spec = encoder_spec(str(saved(kind)))
    samples = noise(3000)
    if family in ("Whisper", "Wav2Vec2Bert"):
        assert np.array_equal(spec.prepare(samples), samples)
        with pytest.raises(UsageError, match="its input is fixed"):
            encoder_spec(str(saved(kind)), settings={"do_normalize": "false"})
        return
    want = transformers.Wav2Vec2FeatureExtractor(**(extractor or {}))(samples, sampling_rate=16000).input_values[0]
    assert np.array_equal(spec.prepare(samples), want)
    assert bool(spec.notes) == (extractor is None)
    raw = encoder_spec(str(saved(kind)), settings={"do_normalize": "false"})
    assert raw.notes == ()
    assert np.array_equal(raw.prepare(samples), samples)
    assert (raw.config(raw.outputs[0]) == spec.config(spec.outputs[0])) == (not spec.normalise)


def test_our_defaults_are_those_of_transformers() -> None:
    for name, family in FAMILIES.items():
        if name == "emotion2vec":  # none of transformers': see test_emotion2vec
            continue
        config = getattr(transformers, family.model).config_class()
        assert config.model_type == name
        for key, value in family.defaults.items():
            theirs = getattr(config, key, None)
            assert (tuple(theirs) if isinstance(theirs, list) else theirs) == value, (name, key)
            if name == "whisper" and key in ALIASES:
                assert getattr(config, ALIASES[key]) == value
    assert {k: getattr(transformers.Wav2Vec2FeatureExtractor(), k) for k in PREPROCESSOR_DEFAULTS} == PREPROCESSOR_DEFAULTS
    assert {k: getattr(transformers.WhisperFeatureExtractor(), k) for k in MEL_DEFAULTS} == MEL_DEFAULTS
    assert {k: getattr(transformers.SeamlessM4TFeatureExtractor(), k) for k in FBANK_DEFAULTS} == FBANK_DEFAULTS


def test_layers_are_asked_for_in_words_and_numbers(saved: Callable[[str], Path]) -> None:
    folder = str(saved("wavlm-stable"))

    def labels(layer: str | None, name: str = folder) -> list[tuple[str, int]]:
        return [(o.label, o.dim) for o in encoder_spec(name, weights=folder, layer=layer).outputs]

    assert labels(None) == labels("last") == labels("3") == [("3", 32)]
    assert labels("1, 2,1,03") == [("1", 32), ("2", 32), ("3", 32)]
    assert labels("all,0") == [("all", 128), ("0", 32)]
    assert encoder_spec(folder, layer="mean").highest == 3
    assert encoder_spec(folder, layer="0,1").highest == 1
    for wrong in ("4", "-1", "middle", "", "1,,2", "²"):
        with pytest.raises(UsageError, match="layers 0 to 3"):
            labels(wrong)
    short = encoder_spec("wavlm-large", weights=folder)
    assert [o.label for o in short.outputs] == ["3"]
    assert short.name == "wavlm-large"
    assert "layer 3 is taken, not 12" in short.notes[0]


def test_fingerprints_tell_what_changes_the_numbers(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("wavlm-stable")
    spec = encoder_spec(str(folder), layer="1,2,mean,all")
    configs = [spec.config(output) for output in spec.outputs]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert ["layers" in config for config in configs] == [False, False, False, True]
    assert configs[3]["layers"] == 4
    assert encoder_spec(str(folder), layer="2").config(encoder_spec(str(folder), layer="2").outputs[0]) == configs[1]

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    (moved / "config.json").write_text((folder / "config.json").read_text().replace('"5.', '"6.'))  # transformers_version
    there = encoder_spec(str(moved), layer="1")
    assert there.source != spec.source
    assert there.config(there.outputs[0]) == configs[0]
    for change in ({"precision": "bfloat16"}, {"settings": {"chunk_s": "20"}}, {"settings": {"overlap_s": "2"}}):
        other = encoder_spec(str(folder), layer="1", **change)
        assert other.config(other.outputs[0]) != configs[0], change
    assert "final LayerNorm" in encoder_spec(str(saved("whisper-80"))).config(spec.outputs[0])["layer_is"]


def test_options_that_are_off(saved: Callable[[str], Path]) -> None:
    conv, whisper = str(saved("wav2vec2-group")), str(saved("whisper-80"))
    with pytest.raises(UsageError, match="unknown encoder 'wavlm-lrge'; did you mean 'wavlm-large'"):
        encoder_spec("wavlm-lrge")
    with pytest.raises(UsageError, match="unknown precision"):
        encoder_spec(conv, precision="float8")
    with pytest.raises(UsageError, match=r"unknown option of .*chunk"):
        encoder_spec(conv, settings={"chunk": "3"})
    for key, value in (("chunk_s", "x"), ("chunk_s", "0"), ("overlap_s", "nan"), ("chunk_s", "6"), ("overlap_s", "0.01")):
        with pytest.raises(UsageError, match=r"chunk_s|overlap_s"):
            encoder_spec(conv, settings={key: value})
    with pytest.raises(UsageError, match="do_normalize is true or false"):
        encoder_spec(conv, settings={"do_normalize": "perhaps"})
    with pytest.raises(UsageError, match="Whisper"):
        encoder_spec(whisper, settings={"chunk_s": "10"})
    with pytest.raises(UsageError, match="has no revisions"):
        encoder_spec(conv, revision="main")
    with pytest.raises(UsageError, match="holds a wav2vec2, and wavlm-large is a wavlm"):
        encoder_spec("wavlm-large", weights=conv)


def test_a_whisper_extractor_of_another_model_is_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    for path in saved("whisper-128").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=2).save_pretrained(tmp_path)
    with pytest.raises(TfserError, match=r"feature_size is 80, and config.json needs 128"):
        encoder_spec(str(tmp_path))


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "hubert-group", "wavlm-group", "whisper-80"])
def test_a_missing_tensor_is_an_error_not_a_random_one(saved: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    for path in saved(kind).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if "layers.1." in name and name.endswith("v_proj.weight") and "decoder" not in name)
    save_file({k: v for k, v in tensors.items() if k != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TfserError, match=r"lack .*layers\.1\..*v_proj\.weight"):
        load(encoder_spec(str(tmp_path)), "cpu")
    assert load(encoder_spec(str(tmp_path), layer="1"), "cpu").encode([noise(900)])[0][0].shape[1] == 32  # it is not needed
    save_file({**tensors, gone: torch.zeros(3, 3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TfserError, match=r"cannot be loaded|lack"):
        load(encoder_spec(str(tmp_path)), "cpu")
    whole = (saved(kind) / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TfserError, match="cannot be loaded"):
        load(encoder_spec(str(tmp_path)), "cpu")


def test_checkpoints_with_heads_prefixes_old_names_and_pickles_load(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """What the hub has: a prefix and a head on top, weight norm under its old names, pytorch_model.bin."""
    folder = saved("wavlm-stable")
    files = [noise(5000)]
    want = encode(encoder_spec(str(folder), layer="3"), files)[0][0]

    config = transformers.WavLMConfig.from_pretrained(folder)
    head = transformers.WavLMForCTC(config)
    head.wavlm.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    head.save_pretrained(tmp_path / "ctc")
    assert apart(encode(encoder_spec(str(tmp_path / "ctc"), layer="3"), files)[0][0], want) < 1e-6

    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_bytes((folder / "config.json").read_bytes())
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, before in names.items():
            name = name.replace(new, before)
        tensors[f"wavlm.{name}"] = tensor
    assert any(name.endswith("weight_g") for name in tensors)
    torch.save(tensors, old / "pytorch_model.bin")
    assert apart(encode(encoder_spec(str(old), layer="3"), files)[0][0], want) < 1e-6


def test_sharded_weights_load(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("hubert-group")
    model = transformers.HubertModel.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    spec = encoder_spec(str(tmp_path), layer="2")
    assert len(spec.found.files) > 1
    files = [noise(5000)]
    assert apart(encode(spec, files)[0][0], encode(encoder_spec(str(folder), layer="2"), files)[0][0]) < 1e-6


def test_both_products_agree(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast product of CPUs is an option: without it the numbers are the same."""
    spec = encoder_spec(str(saved("wavlm-stable")), layer="3")
    files = [noise(5000), noise(7000)]
    fast = encode(spec, files)
    monkeypatch.setattr(products, "_onednn_works", lambda: False)
    for a, b in zip(fast, encode(spec, files), strict=True):
        assert apart(a[0], b[0]) < 2e-5


def test_the_registry_is_sound() -> None:
    for name, known in ENCODERS.items():
        assert known.family in FAMILIES
        assert known.hub.count("/") == 1
        assert known.hub.split("/")[1].startswith(name)
        assert known.layer == (12 if name == "wavlm-large" else None)
        assert known.licence
    assert "NC" in ENCODERS["wav2vec2-large-robust-12-ft-emotion-msp-dim"].licence


def test_every_format_says_each_encoder_s_licence() -> None:
    rows = {row["features"]: row for row in json.loads(run("features", "--format", "json").stdout)}
    for name, known in ENCODERS.items():
        assert (rows[name]["hub"], rows[name]["licence"]) == (known.hub, known.licence)
    assert rows["logmel"]["licence"] is None and "Research License" in rows["egemaps"]["about"]
    assert run("features", "--format", "csv").stdout.splitlines()[0].split(",")[-3:] == ["from", "hub", "licence"]
    shown = run("features").stdout
    assert all(word in shown for word in ENCODERS["emotion2vec_base"].licence.split())  # a cell is wrapped at its words


def test_a_regression_behind_the_encoder_is_left_alone(tmp_path: Path) -> None:
    """audEERING's model is a wav2vec 2.0 of `wav2vec2.*` in its files, and a regression of `classifier.*` behind it."""
    kind = "wav2vec2-layer"
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**KINDS[kind][1]))
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    weights = {f"wav2vec2.{name}": tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    head = {"classifier.dense.weight": torch.ones(32, 32), "classifier.out_proj.weight": torch.ones(3, 32)}
    save_file({**weights, **head}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = encoder_spec(str(tmp_path), layer="all")
    samples = noise(9000)
    prepared = transformers.Wav2Vec2FeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_values
    with torch.inference_mode():
        states = model.eval()(prepared, output_hidden_states=True).hidden_states
    assert apart(encode(spec, [samples])[0][0], torch.cat(states, dim=-1)[0].numpy()) < 2e-5


def test_filter_banks_of_another_size_are_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    for path in saved("w2v-bert").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    transformers.SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20).save_pretrained(tmp_path)
    with pytest.raises(TfserError, match=r"preprocessor_config\.json: 20 bands of 2 frames are not the 32 numbers"):
        encoder_spec(str(tmp_path))
