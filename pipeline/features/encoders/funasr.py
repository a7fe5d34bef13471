"""Folders of weights as FunASR publishes them: config.yaml, configuration.json and a pickled state; emotion2vec's are such.

In comes a folder, out come the name of its file of weights and its configuration in the words of config.json, so that all behind
it sees one kind of folder. Facts from FunASR's repository (funasr/models/emotion2vec) and the folders `emotion2vec/*` on the hub.
Nothing here imports torch or loads a weight, and nothing of a file is run: the convolutions, which are written as a Python
expression there, are read by their syntax.
"""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.files import read_json
from tfser.pipeline.features.encoders.architecture import shown, whole

YAML, CONFIGURATION = "config.yaml", "configuration.json"
"""What the model is, and which file holds its weights."""

MODEL = "emotion2vec"
"""The family, as `model_type` has it."""

_FIXED: dict[str, dict[str, object]] = {
    "model_conf": {"layer_norm_first": False, "norm_affine": True},
    "audio": {"extractor_mode": "layer_norm", "use_alibi_encoder": True, "learned_alibi": False, "conv_pos_pre_ln": False},
}
"""What all published checkpoints have: another value is another network."""


def is_folder_of_funasr(folder: Path) -> bool:
    """Tell whether a folder is FunASR's rather than transformers'."""
    return (folder / YAML).is_file() and not (folder / "config.json").is_file()


def weights_name(configuration: Path) -> str:
    """Return the name of the file of weights that a configuration.json points to; `model.pt` where there is none.

    Raises:
        TfserError: if it is damaged, or points out of its folder.
    """
    stored = read_json(configuration) if configuration.is_file() else {}
    paths = stored.get("file_path_metas") if isinstance(stored, dict) else None
    name = paths.get("init_param", "model.pt") if isinstance(paths, dict) else "model.pt"
    if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name:
        raise TfserError(f"{configuration}: init_param is {shown(name)}, which is no name of a file beside it")
    return name


def _stored(path: Path) -> dict[str, Any]:
    """Return what a config.yaml holds.

    Raises:
        TfserError: if it is damaged, or of another model.
    """
    import yaml

    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise TfserError(f"{path}: cannot be read ({first_line(error)[:200]})") from error
    if not isinstance(stored, dict) or stored.get("model") != "Emotion2vec":
        model = stored.get("model") if isinstance(stored, dict) else stored
        raise TfserError(f"{path}: model is {shown(model)}; of FunASR's models Emotion2vec alone extracts here")
    return stored


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a config.yaml of emotion2vec in the words of its family's `defaults`.

    Raises:
        TfserError: if it is damaged, of another model, or lacks a size.
    """
    stored = _stored(path)
    sizes = _part(path, stored, "model_conf")
    audio = _part(path, _part(path, sizes, "modalities"), "audio")
    # The file was written by others: each value is looked at before it sizes a network, and what differs from the published
    # networks is refused, since it would load and compute something else.
    for part, values in (("model_conf", sizes), ("audio", audio)):
        for key, value in _FIXED[part].items():
            if values.get(key, value) != value:
                raise TfserError(f"{path}: {key} is {shown(values[key])}; emotion2vec's published networks have {value}")
    width, heads = _size(path, sizes, "embed_dim"), _size(path, sizes, "num_heads")
    if audio.get("num_alibi_heads", heads) != heads or width % heads:
        raise TfserError(f"{path}: num_heads is {heads}, which fits neither embed_dim ({width}) nor num_alibi_heads")
    # The front of the network, then its blocks: those of the context encoder come before the rest.
    convolutions = _convolutions(path, audio.get("feature_encoder_spec"))
    layers = _size(path, audio, "conv_pos_depth")
    context = _size(path, audio, "prenet_depth")
    ratio = _number(sizes.get("mlp_ratio"))
    if not isinstance(ratio, int | float) or not 0 < ratio <= 64:
        raise TfserError(f"{path}: mlp_ratio is {shown(ratio)}; a number above 0 is wanted")
    return {
        "model_type": MODEL,
        "hidden_size": width,
        "num_hidden_layers": context + _size(path, sizes, "depth"),
        "context_layers": context,
        "num_attention_heads": heads,
        "intermediate_size": int(width * ratio),
        "layer_norm_eps": _number(sizes.get("norm_eps")),
        "conv_dim": [of[0] for of in convolutions],
        "conv_kernel": [of[1] for of in convolutions],
        "conv_stride": [of[2] for of in convolutions],
        "num_conv_pos_embeddings": layers,
        "conv_pos_kernel_size": max(3, _size(path, audio, "conv_pos_width") // layers),
        "num_conv_pos_embedding_groups": _size(path, audio, "conv_pos_groups"),
        "extra_tokens": _size(path, audio, "num_extra_tokens"),
        "scale_per_layer": audio.get("learned_alibi_scale_per_layer", False),
        "scale_per_head": audio.get("learned_alibi_scale_per_head", False),
        "do_normalize": sizes.get("normalize", False),
    }


def _part(path: Path, values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise TfserError(f"{path}: has no {key}")
    return found


def _size(path: Path, values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if not whole(value, 1, 1 << 20):
        raise TfserError(f"{path}: {key} is {shown(value)}; a whole number above 0 is wanted")
    return int(value)  # type: ignore[arg-type]


def _number(value: Any) -> Any:
    """Return a number that YAML 1.1 takes for a text: `1e-05`, as the published files have it, lacks the point there."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _convolutions(path: Path, text: Any) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) of each convolution out of lists, `+` and `* n`, such as `[(512, 3, 2)] * 4`."""

    def value(node: ast.expr) -> list[tuple[int, int, int]]:
        match node:
            case ast.List(elts=elements):
                return [triple(element) for element in elements]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 < times <= 64:
                return value(left) * times
        raise ValueError(ast.dump(node))

    def triple(node: ast.expr) -> tuple[int, int, int]:
        channels, kernel, stride = ast.literal_eval(node)
        if not all(whole(size, 1, 1 << 20) for size in (channels, kernel, stride)):
            raise ValueError(ast.dump(node))
        return channels, kernel, stride

    try:
        found = value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        wanted = "a list of (channels, kernel, stride)"
        raise TfserError(f"{path}: feature_encoder_spec is {shown(text)}; {wanted} is wanted") from error
    if not 0 < len(found) <= 64:
        raise TfserError(f"{path}: feature_encoder_spec has {len(found)} convolutions; 1 to 64 are wanted")
    return found
