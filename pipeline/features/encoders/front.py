"""What comes before an encoder's first layer: rate, normalisation or log-Mel, and how files are framed.

In come config.json's values, the settings of its preprocessor where they are there, and the options of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError, UsageError, unknown
from tfser.pipeline.features.encoders.architecture import FBANK_DEFAULTS, MEL_DEFAULTS, PREPROCESSOR_DEFAULTS, shown, whole
from tfser.pipeline.features.encoders.framing import ConvFraming, WindowFraming
from tfser.pipeline.features.encoders.weights import PREPROCESSOR, PROCESSOR, Found, read_preprocessor
from tfser.pipeline.sound.recording import RATES_HZ

RAW_OPTIONS, WHISPER_OPTIONS = ("chunk_s", "overlap_s", "do_normalize"), ("window",)
FBANK_OPTIONS = ("chunk_s", "overlap_s")
OPTIONS = (*RAW_OPTIONS, *WHISPER_OPTIONS)
"""What `--set` knows of encoders: of those of raw samples (of filter banks: a part of it), and of Whisper."""

WINDOWS = ("padded", "clip")
"""How Whisper's windows are computed: filled with silence to 30 s, as in its training, or in the clip's own length."""

CHUNK_S, OVERLAP_S = 40.0, 4.0

FBANK_WINDOW, FBANK_HOP = 400, 160
"""Samples of a filter bank's window, and from one to the next: fixed in transformers' extractor."""


def raw_front(
    name: str, weights: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what an encoder of raw samples needs before its first layer."""
    for key in settings:
        if key not in RAW_OPTIONS:
            raise UsageError(f"--set {key}: {name} takes raw samples; {key} is an option of Whisper")
    # The model's own file decides about normalisation; where it has none the library's default is taken and
    # said, since both give features and one of them is wrong.
    stored = read_preprocessor(weights)
    preprocessor = _settings(stored, PREPROCESSOR_DEFAULTS)
    normalise = bool(preprocessor["do_normalize"])
    if "do_normalize" in settings:
        normalise = _flag("do_normalize", settings["do_normalize"])
    elif stored is None:
        notes.append(
            f"neither {PREPROCESSOR} nor {PROCESSOR} with a feature_extractor in {weights.folder}: samples are brought to zero "
            "mean and unit variance, transformers' default; --set do_normalize=false where the encoder was trained on raw ones"
        )
    rate = int(preprocessor["sampling_rate"])
    words = {
        "input": "zero mean and unit variance over the utterance, 1e-7 added to the variance" if normalise else "raw",
        "batch": "attention sees a window's own frames only, a group norm those of the whole utterance",
    }
    framing = _framing(settings, rate, tuple(values["conv_kernel"]), tuple(values["conv_stride"]))
    return {"sample_rate_hz": rate, "normalise": normalise, "words": words, "framing": framing}


def emotion2vec_front(
    name: str, found: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what emotion2vec needs: raw samples at 16 kHz, brought to mean 0 and variance 1 as a layer norm over them does."""
    for key in settings:
        if key not in RAW_OPTIONS:
            raise UsageError(f"--set {key}: {name} takes raw samples; {key} is an option of Whisper")
    normalise = _flag("do_normalize", settings["do_normalize"]) if "do_normalize" in settings else values["do_normalize"]
    rate, added = int(PREPROCESSOR_DEFAULTS["sampling_rate"]), 1e-5
    words = {
        "input": f"zero mean and unit variance over the utterance, {added:g} added to the variance" if normalise else "raw",
        "batch": "attention sees a window's own frames only, and the tokens in front",
    }
    framing = _framing(settings, rate, tuple(values["conv_kernel"]), tuple(values["conv_stride"]))
    return {"sample_rate_hz": rate, "normalise": normalise, "added": added, "words": words, "framing": framing}


def fbank_front(
    name: str, weights: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what w2v-BERT 2.0 needs: a log filter bank of 25 ms every 10 ms, normalised by band, `stride` frames side by side.

    By arithmetic that is a convolution of 400 samples with a stride of 160, and one of `stride` of its frames with that stride.
    """
    for key in settings:
        if key not in FBANK_OPTIONS:
            raise UsageError(f"--set {key}: {name} takes {', '.join(FBANK_OPTIONS)}; its input is fixed")
    read = read_preprocessor(weights)
    preprocessor = _settings(read, FBANK_DEFAULTS)
    rate, bands, stride = (int(preprocessor[key]) for key in ("sampling_rate", "num_mel_bins", "stride"))
    if bands * stride != values["feature_projection_input_dim"]:
        path = read[0] if read is not None else weights.folder / PREPROCESSOR
        raise TfserError(
            f"{path}: {bands} bands of {stride} frames are not the {values['feature_projection_input_dim']} numbers"
            " that config.json needs: these two files do not belong together"
        )
    words = {
        "input": "log filter bank as Kaldi's, zero mean and unit variance of each band over the utterance",
        "batch": "attention and convolutions see a window's own frames only, the bands' moments are of the whole utterance",
    }
    mel = {"n_fft": 512, "hop_length": FBANK_HOP, "window_length": FBANK_WINDOW, "bands": bands, "stride": stride}
    framing = _framing(settings, rate, (FBANK_WINDOW, stride), (FBANK_HOP, stride))
    return {"sample_rate_hz": rate, "normalise": False, "mel": mel, "words": words, "framing": framing}


def _framing(settings: Mapping[str, str], rate: int, kernels: tuple[int, ...], strides: tuple[int, ...]) -> ConvFraming:
    """Return the framing of convolutions, long files cut as `--set` says.

    Raises:
        UsageError: if windows are too short for what they share.
    """
    chunk_s, overlap_s = (_seconds(k, settings.get(k), d) for k, d in (("chunk_s", CHUNK_S), ("overlap_s", OVERLAP_S)))
    try:
        return ConvFraming(kernels=kernels, strides=strides, chunk=round(chunk_s * rate), overlap=round(overlap_s * rate))
    except ValueError as error:
        raise UsageError(f"--set chunk_s={chunk_s:g} overlap_s={overlap_s:g}: {error}") from None


def whisper_front(
    name: str, weights: Found, values: Mapping[str, Any], settings: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Return what Whisper needs: its window is what its positions cover, two Mel frames each (30 s), filled or cut."""
    for key in settings:
        if key not in WHISPER_OPTIONS:
            raise UsageError(f"--set {key}: {name} is a Whisper, which takes {', '.join(WHISPER_OPTIONS)}; its input is fixed")
    filling = settings.get("window", WINDOWS[0]).strip().lower()
    if filling not in WINDOWS:
        raise unknown("window of a Whisper", filling, WINDOWS)
    read = read_preprocessor(weights)
    path, stored = read if read is not None else (weights.folder / PREPROCESSOR, {})
    preprocessor = _settings(read, MEL_DEFAULTS)
    rate, hop = int(preprocessor["sampling_rate"]), int(preprocessor["hop_length"])
    # Two Mel frames go into one position. Both files may say how long the window is, and where they differ one of them
    # is of another model.
    window = int(values["max_source_positions"]) * 2 * hop
    for key, want in (("feature_size", values["num_mel_bins"]), ("n_samples", window)):
        if stored.get(key, want) != want:
            raise TfserError(
                f"{path}: {key} is {shown(stored[key])}, and config.json needs {want}: these two files do not belong together"
            )
    mel = {"n_fft": int(preprocessor["n_fft"]), "hop_length": hop, "bands": int(values["num_mel_bins"])}
    framing = WindowFraming(window=window, hop=2 * hop, is_filled=filling == WINDOWS[0])
    over = "window" if framing.is_filled else "piece"
    sees = "the silence that fills it" if framing.is_filled else "its own frames only"
    words = {
        "input": f"log-Mel: log10, at most 8 below the {over}'s maximum, (x + 4) / 4",
        "batch": f"every window on its own; attention sees {sees}",
    }
    return {"sample_rate_hz": rate, "normalise": False, "mel": mel, "words": words, "framing": framing}


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
