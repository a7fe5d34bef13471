"""emotion2vec: folders as FunASR publishes them, and every layer against a plain computation of each file alone.

The names and shapes are written out here from FunASR's network (funasr/models/emotion2vec), not taken from ours.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from tfser.manifests.errors import TfserError
from tfser.pipeline.features.encoders.architecture import architecture
from tfser.pipeline.features.encoders.emotion2vec import Emotion2vecNetwork
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.encoders.funasr import read_yaml
from tfser.pipeline.features.encoders.loading import load
from tfser.pipeline.features.encoders.spec import encoder_spec

CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
AUDIO = "modality_encoders.AUDIO."


def settings(width: int, heads: int, context: int, depth: int, convolutions: str, **audio: Any) -> dict[str, Any]:
    """The parts of a config.yaml that matter, and one that does not."""
    heard = {
        "prenet_depth": context,
        "num_extra_tokens": 10,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": convolutions,
        "use_alibi_encoder": True,
        "learned_alibi": False,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": heads,
        "conv_pos_width": 95,
        "conv_pos_groups": 16,
        "conv_pos_depth": 5,
        "conv_pos_pre_ln": False,
        **audio,
    }
    sizes = {"embed_dim": width, "num_heads": heads, "depth": depth, "mlp_ratio": 4.0, "norm_eps": 1e-5, "norm_affine": True}
    more = {"layer_norm_first": False, "normalize": True, "layerdrop": 0.05}
    return {"model": "Emotion2vec", "model_conf": {**sizes, **more, "modalities": {"audio": heard}}}


BASE = settings(768, 12, 4, 8, CONVOLUTIONS)
SMALL = {"conv_pos_width": 14, "conv_pos_groups": 4, "conv_pos_depth": 2, "num_extra_tokens": 3}
KINDS = {
    # 6 heads are no power of 2; kernels of 7 frames are odd, those of 4 even; scales by layer and head, by head, or one
    "by-head": settings(24, 6, 1, 2, "[(8, 10, 8)] + [(8, 3, 4)] * 2", **SMALL),
    "by-layer": settings(
        16, 4, 2, 1, "[(8, 10, 8)] + [(8, 3, 4)] * 2", **{**SMALL, "conv_pos_width": 9}, learned_alibi_scale_per_layer=True
    ),
    "one-scale": settings(16, 4, 1, 1, "[(8, 10, 8), (8, 3, 4)]", **SMALL, learned_alibi_scale_per_head=False),
}


def shapes(config: dict[str, Any], convolutions: list[tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a checkpoint's parameters, without what only training needs."""
    sizes = config["model_conf"]
    audio = sizes["modalities"]["audio"]
    D, H, context = sizes["embed_dim"], sizes["num_heads"], audio["prenet_depth"]
    layers = context + sizes["depth"] if audio["learned_alibi_scale_per_layer"] else 1
    found: dict[str, tuple[int, ...]] = {
        f"{AUDIO}extra_tokens": (1, audio["num_extra_tokens"], D),
        f"{AUDIO}alibi_scale": (layers, 1, H if audio["learned_alibi_scale_per_head"] else 1, 1, 1),
    }
    before = 1
    for n, (channels, kernel, _) in enumerate(convolutions):
        found[f"{AUDIO}local_encoder.conv_layers.{n}.0.weight"] = (channels, before, kernel)
        for part in ("weight", "bias"):
            found[f"{AUDIO}local_encoder.conv_layers.{n}.2.1.{part}"] = (channels,)
        before = channels
    for part in ("weight", "bias"):
        found[f"{AUDIO}project_features.1.{part}"] = (before,)
        found[f"{AUDIO}context_encoder.norm.{part}"] = (D,)
    found |= {f"{AUDIO}project_features.2.weight": (D, before), f"{AUDIO}project_features.2.bias": (D,)}
    kernel = max(3, audio["conv_pos_width"] // audio["conv_pos_depth"])
    for n in range(1, audio["conv_pos_depth"] + 1):
        found[f"{AUDIO}relative_positional_encoder.{n}.0.weight"] = (D, D // audio["conv_pos_groups"], kernel)
        found[f"{AUDIO}relative_positional_encoder.{n}.0.bias"] = (D,)
    blocks = [f"{AUDIO}context_encoder.blocks.{n}" for n in range(context)] + [f"blocks.{n}" for n in range(sizes["depth"])]
    for block in blocks:
        linear = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (4 * D, D), "mlp.fc2": (D, 4 * D)}
        for part, (rows, columns) in linear.items():
            found |= {f"{block}.{part}.weight": (rows, columns), f"{block}.{part}.bias": (rows,)}
        for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            found[f"{block}.{part}"] = (D,)
    return found


def save(folder: Path, config: dict[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """Write a folder as it is published, with random weights and with what only training needs; return the weights."""
    convolutions = eval(config["model_conf"]["modalities"]["audio"]["feature_encoder_spec"])
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes(config, convolutions).items()}
    # As published, `1e-05` has no point in it, and is a text to YAML 1.1.
    (folder / "config.yaml").write_text(yaml.safe_dump(config).replace("1.0e-05", "1e-05"))
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": {"init_param": "emotion2vec_small.pt"}}))
    more = {f"{AUDIO}decoder.proj.weight": torch.ones(2, 2), "_ema": torch.ones(1, dtype=torch.float64)}
    torch.save({"model": state | more}, folder / "emotion2vec_small.pt")
    return state


def plain(config: dict[str, Any], state: dict[str, Tensor], samples: np.ndarray) -> list[np.ndarray]:
    """Return all layers of one file, step by step as the network is described: no batch, no fusion, no mask."""
    sizes = config["model_conf"]
    audio = sizes["modalities"]["audio"]
    D, H, tokens = sizes["embed_dim"], sizes["num_heads"], audio["num_extra_tokens"]
    x = functional.layer_norm(torch.from_numpy(samples), samples.shape)[None, None]  # (1, 1, n)

    def normed(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def mapped(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for n, (_, _, stride) in enumerate(eval(audio["feature_encoder_spec"])):
        layer = f"{AUDIO}local_encoder.conv_layers.{n}"
        x = functional.conv1d(x, state[f"{layer}.0.weight"], stride=stride)
        x = functional.gelu(normed(x.transpose(1, 2), f"{layer}.2.1").transpose(1, 2))
    x = mapped(normed(x.transpose(1, 2), f"{AUDIO}project_features.1"), f"{AUDIO}project_features.2")
    place = x.transpose(1, 2)
    for n in range(1, audio["conv_pos_depth"] + 1):
        name = f"{AUDIO}relative_positional_encoder.{n}.0"
        kernel = state[f"{name}.weight"].shape[2]
        place = functional.conv1d(
            place, state[f"{name}.weight"], state[f"{name}.bias"], padding=kernel // 2, groups=audio["conv_pos_groups"]
        )[:, :, : x.shape[1]]
        place = functional.gelu(functional.layer_norm(place.transpose(1, 2), (D,))).transpose(1, 2)
    x = torch.cat([state[f"{AUDIO}extra_tokens"], x + place.transpose(1, 2)], dim=1)
    x = normed(x, f"{AUDIO}context_encoder.norm")
    nearest = 2 ** math.floor(math.log2(H))
    slopes = [2 ** (-8 * (i + 1) / nearest) for i in range(nearest)]
    slopes += [2 ** (-8 * (2 * i + 1) / (2 * nearest)) for i in range(H - nearest)]
    context = audio["prenet_depth"]
    blocks = [f"{AUDIO}context_encoder.blocks.{n}" for n in range(context)] + [f"blocks.{n}" for n in range(sizes["depth"])]
    found = [x]
    for number, block in enumerate(blocks):
        T = x.shape[1]
        scale = state[f"{AUDIO}alibi_scale"].clamp(min=0)
        scale = scale[number if len(scale) > 1 else 0, 0, :, 0, 0].expand(H)
        q, k, v = mapped(x, f"{block}.attn.qkv")[0].chunk(3, dim=1)
        mixed = []
        for h in range(H):
            of = slice(h * D // H, (h + 1) * D // H)
            scores = q[:, of] @ k[:, of].T / math.sqrt(D // H)
            distance = [[abs(i - j) if min(i, j) >= tokens else 0 for j in range(T)] for i in range(T)]
            scores -= scale[h] * slopes[h] * torch.tensor(distance)
            mixed.append(scores.softmax(dim=1) @ v[:, of])
        x = normed(x + mapped(torch.cat(mixed, dim=1)[None], f"{block}.attn.proj"), f"{block}.norm1")
        x = normed(x + mapped(functional.gelu(mapped(x, f"{block}.mlp.fc1")), f"{block}.mlp.fc2"), f"{block}.norm2")
        found.append(x)
    return [state[0, tokens:].numpy() for state in found]


def noise(n: int, seed: int, loud: float = 0.1) -> np.ndarray:
    return (loud * np.random.default_rng(seed).standard_normal(n) + 0.02).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_of_a_mixed_batch_is_that_of_the_file_alone(tmp_path: Path, kind: str) -> None:
    state = save(tmp_path, KINDS[kind])
    spec = encoder_spec(str(tmp_path), layer="all")
    assert (spec.family, spec.notes, spec.found.files) == ("emotion2vec", (), (tmp_path.resolve() / "emotion2vec_small.pt",))
    # A quiet one among them: beside its variance the 1e-5 that a layer norm adds is not small.
    files = [noise(2500, 0), noise(900, 1, loud=0.002), noise(2500, 2), noise(spec.minimum_samples, 3)]
    got = load(spec, "cpu").encode([spec.prepare(file) for file in files])
    for file, (frames,) in zip(files, got, strict=True):
        want = np.concatenate(plain(KINDS[kind], state, file), axis=1)
        assert frames.shape == want.shape and len(frames) == spec.frames(len(file))
        assert np.abs(frames - want).max() < 2e-5 * np.abs(want).max()


def test_lower_layers_need_no_higher_ones(tmp_path: Path) -> None:
    state = save(tmp_path, KINDS["by-head"])
    low = encoder_spec(str(tmp_path), layer="0,1")
    first = {name: of for name, of in state.items() if not name.startswith("blocks.")}
    torch.save(first, tmp_path / "emotion2vec_small.pt")  # without "model" around it, too
    samples = noise(1200, 4)
    got = load(low, "cpu").encode([low.prepare(samples)])[0]
    for frames, want in zip(got, plain(KINDS["by-head"], state, samples)[:2], strict=True):
        assert np.abs(frames - want).max() < 2e-5
    with pytest.raises(TfserError, match=r"the weights lack blocks\.0\.attn\.proj\.bias"):
        load(encoder_spec(str(tmp_path)), "cpu")


def test_the_published_base_has_these_names_and_shapes() -> None:
    convolutions = [(512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2), (512, 2, 2)]
    values = architecture(FAMILIES["emotion2vec"].defaults, {})
    with torch.device("meta"):
        network = Emotion2vecNetwork(values, values["num_hidden_layers"])
    got = {name: tuple(of.shape) for name, of in network.state_dict().items()}
    assert got == shapes(BASE, convolutions)
    assert round(sum(math.prod(shape) for shape in got.values()) / 1e6) == 93  # its authors say about 90 M


def test_the_defaults_are_those_of_the_published_base(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    found = read_yaml(tmp_path / "config.yaml")
    assert found.pop("model_type") == "emotion2vec"
    assert found == {key: list(of) if isinstance(of, tuple) else of for key, of in FAMILIES["emotion2vec"].defaults.items()}


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("audio", "feature_encoder_spec", "__import__('os').system('true')", "feature_encoder_spec"),
        ("audio", "feature_encoder_spec", "[(512, 10, 5)] * 65", "feature_encoder_spec"),
        ("audio", "feature_encoder_spec", None, "feature_encoder_spec is None"),
        ("audio", "use_alibi_encoder", False, "published networks have True"),
        ("audio", "num_alibi_heads", 3, "num_heads is 6"),
        ("audio", "prenet_depth", "4", "prenet_depth is '4'; a whole number"),
        ("model_conf", "layer_norm_first", True, "published networks have False"),
        ("model_conf", "norm_eps", None, "layer_norm_eps is None"),
        ("model_conf", "mlp_ratio", -1, "mlp_ratio is -1"),
    ],
)
def test_another_network_is_refused_in_one_line(tmp_path: Path, part: str, key: str, value: Any, words: str) -> None:
    config = json.loads(json.dumps(KINDS["by-head"]))
    save(tmp_path, config)
    within = config["model_conf"] if part == "model_conf" else config["model_conf"]["modalities"]["audio"]
    within[key] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(TfserError, match=r"config\.yaml") as raised:
        encoder_spec(str(tmp_path))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_no_folder_of_emotion2vec_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: Paraformer\n")
    with pytest.raises(TfserError, match=r"has no model\.pt"):
        encoder_spec(str(tmp_path))
    (tmp_path / "configuration.json").write_text('{"file_path_metas": {"init_param": "../model.pt"}}')
    with pytest.raises(TfserError, match="no name of a file beside it"):
        encoder_spec(str(tmp_path))
    (tmp_path / "configuration.json").unlink()
    torch.save({"model": {}}, tmp_path / "model.pt")
    with pytest.raises(TfserError, match="model is 'Paraformer'; of FunASR's models Emotion2vec alone"):
        encoder_spec(str(tmp_path))
    (tmp_path / "config.yaml").write_text("model: [")
    with pytest.raises(TfserError, match="cannot be read"):
        encoder_spec(str(tmp_path))


class Harmful:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_a_file_that_holds_more_than_tensors_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, KINDS["by-head"])
    torch.save({"model": Harmful()}, tmp_path / "emotion2vec_small.pt")
    with pytest.raises(TfserError, match="something other than tensors"):
        load(encoder_spec(str(tmp_path)), "cpu")
    assert "run" not in capsys.readouterr().out
