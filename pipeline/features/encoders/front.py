"""What comes before an encoder's first layer: rate, normalisation or log-Mel, and how files are framed.

In come config.json's values, the settings of its preprocessor where they are there, and the options of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.pipeline.features.encoders.architecture import MEL_DEFAULTS, PREPROCESSOR_DEFAULTS, shown, whole
from tfser.pipeline.features.encoders.framing import ConvFraming, WindowFraming
from tfser.pipeline.features.encoders.weights import PREPROCESSOR, PROCESSOR, Found, read_preprocessor
from tfser.pipeline.sound.recording import RATES_HZ

RAW_OPTIONS, WHISPER_OPTIONS = ("chunk_s", "overlap_s", "do_normalize"), ("window",)
OPTIONS = (*RAW_OPTIONS, *WHISPER_OPTIONS)
"""What `--set` knows of encoders: of those of raw samples, and of Whisper."""

WINDOWS = ("padded", "clip")
"""How Whisper's windows are computed: filled with silence to 30 s, as in its training, or in the clip's own length."""

CHUNK_S, OVERLAP_S = 40.0, 4.0


def raw_front(
    name: str, found: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what an encoder of raw samples needs before its first layer."""
    for key in settings:
        if key not in RAW_OPTIONS:
            raise UsageError(f"--set {key}: {name} takes raw samples; {key} is an option of Whisper")
    # The model's own file decides about normalisation; where it has none the library's default is taken and
    # said, since both give features and one of them is wrong.
    stored = read_preprocessor(found)
    preprocessor = _settings(stored, PREPROCESSOR_DEFAULTS)
    normalise = bool(preprocessor["do_normalize"])
    if "do_normalize" in settings:
        normalise = _flag("do_normalize", settings["do_normalize"])
    elif stored is None:
        notes.append(
            f"neither {PREPROCESSOR} nor {PROCESSOR} with a feature_extractor in {found.folder}: samples are brought to zero mean"
            " and unit variance, transformers' default; --set do_normalize=false where the encoder was trained on raw ones"
        )
    rate = int(preprocessor["sampling_rate"])
    chunk_s, overlap_s = (_seconds(k, settings.get(k), d) for k, d in (("chunk_s", CHUNK_S), ("overlap_s", OVERLAP_S)))
    try:
        framing = ConvFraming(
            kernels=tuple(values["conv_kernel"]),
            strides=tuple(values["conv_stride"]),
            chunk=round(chunk_s * rate),
            overlap=round(overlap_s * rate),
        )
    except ValueError as error:
        raise UsageError(f"--set chunk_s={chunk_s:g} overlap_s={overlap_s:g}: {error}") from None
    return {"sample_rate_hz": rate, "normalise": normalise, "framing": framing}


def whisper_front(
    name: str, found: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what Whisper needs: its window is what its positions cover, two Mel frames each (30 s), filled or cut."""
    for key in settings:
        if key not in WHISPER_OPTIONS:
            raise UsageError(f"--set {key}: {name} is a Whisper, which takes {', '.join(WHISPER_OPTIONS)}; its input is fixed")
    filling = settings.get("window", WINDOWS[0]).strip().lower()
    if filling not in WINDOWS:
        raise unknown("window of a Whisper", filling, WINDOWS)
    read = read_preprocessor(found)
    path, stored = read if read is not None else (found.folder / PREPROCESSOR, {})
    preprocessor = _settings(read, MEL_DEFAULTS)
    rate, hop = int(preprocessor["sampling_rate"]), int(preprocessor["hop_length"])
    window = int(values["max_source_positions"]) * 2 * hop
    for key, want in (("feature_size", values["num_mel_bins"]), ("n_samples", window)):
        if stored.get(key, want) != want:
            raise TfserError(
                f"{path}: {key} is {shown(stored[key])}, and config.json needs {want}:"
                " these two files do not belong together"
            )
    mel = {"n_fft": int(preprocessor["n_fft"]), "hop_length": hop, "bands": int(values["num_mel_bins"])}
    framing = WindowFraming(window=window, hop=2 * hop, is_filled=filling == WINDOWS[0])
    return {"sample_rate_hz": rate, "normalise": False, "mel": mel, "framing": framing}


def _settings(stored: tuple[Path, dict[str, Any]] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a preprocessor that change the numbers, at their defaults where the file leaves them out.

    Raises:
        TfserError: if one of them is none that it can have.
    """
    path, values = stored if stored is not None else (Path(), {})
    settings = {key: values.get(key, default) for key, default in defaults.items()}
    for key, value in settings.items():
        if isinstance(defaults[key], bool):
            is_allowed, wanted = value is None or isinstance(value, bool) or value in (0, 1), "true or false"
        else:
            least, most = RATES_HZ if key == "sampling_rate" else (1, 1 << 20)
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            is_allowed, wanted = whole(value, least, most), f"a whole number from {least:,} to {most:,}"
        if not is_allowed:
            raise TfserError(f"{path}: {key} is {shown(value)}; {wanted} is wanted")
    return settings


def _seconds(key: str, text: str | None, default: float) -> float:
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 3600.0:
        raise UsageError(f"--set {key}={text}: {key} is a number of seconds above 0 and below 3600")
    return value


def _flag(key: str, text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise UsageError(f"--set {key}={text}: {key} is true or false")
    return words[text.lower()]
