"""What a checkpoint's config.json says about its encoder: the values that change the numbers, with the defaults filled in.

A config.json may leave out what is at its default, and holds much that changes nothing here (dropout, heads, tokens,
the versions of programs). Which values matter, and their defaults, is said by the encoder's family (`families`); what comes
before the layers has its own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError

ALIASES = {
    "d_model": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}
"""Second names that Whisper's configurations may use."""

PREPROCESSOR_DEFAULTS: dict[str, Any] = {"sampling_rate": 16000, "do_normalize": True}
"""transformers' Wav2Vec2FeatureExtractor, where a preprocessor_config.json leaves something out or is absent."""

FBANK_DEFAULTS: dict[str, Any] = {"sampling_rate": 16000, "num_mel_bins": 80, "stride": 2}
"""transformers' SeamlessM4TFeatureExtractor, likewise. Its windows are fixed: 25 ms, every 10 ms (at 16 kHz)."""

MEL_DEFAULTS: dict[str, Any] = {"sampling_rate": 16000, "hop_length": 160, "n_fft": 400}
"""transformers' WhisperFeatureExtractor, likewise."""


def architecture(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value of a config.json that changes the encoder's numbers, at its family's default where it is absent.

    >>> architecture({"d_model": 384, "num_mel_bins": 80}, {"model_type": "whisper", "hidden_size": 512})
    {'d_model': 512, 'num_mel_bins': 80}
    """
    values: dict[str, Any] = {}
    for key, default in defaults.items():
        alias = ALIASES.get(key, key)
        value = config.get(key, config.get(alias, default))
        values[key] = list(value) if isinstance(value, list | tuple) else value
    return values


_LARGEST = 1 << 20
"""No width, kernel or window of an encoder is larger; sizes beyond would be tried, for hours or until memory ends."""

_DEEPEST = 1024


def check(path: Path, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values that no encoder has, before anything is computed with them.

    Args:
        path: of config.json, for the message.
        values: as `architecture` gives them.
        defaults: of its family.

    Raises:
        TfserError: naming the value and what is wanted.
    """
    for key, default in defaults.items():
        value = values[key]
        if isinstance(default, bool):
            is_allowed, wanted = isinstance(value, bool), "true or false"
        elif isinstance(default, str):
            is_allowed, wanted = isinstance(value, str), "a name"
        elif isinstance(default, float):
            is_allowed = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
            wanted = "a number between 0 and 1"
        elif isinstance(default, tuple):
            is_allowed = isinstance(value, list) and 0 < len(value) <= 64 and all(whole(part, 1, _LARGEST) for part in value)
            wanted = "a list of whole numbers above 0"
        elif default is None:
            is_allowed, wanted = value is None or whole(value, 1, _LARGEST), "null or a whole number above 0"
        elif key in ("num_hidden_layers", "encoder_layers"):
            is_allowed, wanted = whole(value, 0, _DEEPEST), f"a whole number from 0 to {_DEEPEST}"
        else:
            is_allowed, wanted = whole(value, 1, _LARGEST), f"a whole number from 1 to {_LARGEST:,}"
        if not is_allowed:
            raise TfserError(f"{path}: {key} is {shown(value)}; {wanted} is wanted")
    if "conv_dim" in values:
        lengths = {len(values[key]) for key in ("conv_dim", "conv_stride", "conv_kernel")}
        if len(lengths) > 1:
            raise TfserError(f"{path}: conv_dim, conv_stride and conv_kernel are lists of different lengths")


def whole(value: Any, least: int, most: int) -> bool:
    """Tell whether a value of a JSON file is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def shown(value: Any) -> str:
    """Return a value of a JSON file for a message: of a long one its beginning."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def width(values: Mapping[str, Any]) -> int:
    """Return D, the width of a hidden state."""
    return int(values["d_model"] if "d_model" in values else values["hidden_size"])


def depth(values: Mapping[str, Any]) -> int:
    """Return N, the number of transformer layers."""
    return int(values["encoder_layers"] if "encoder_layers" in values else values["num_hidden_layers"])
