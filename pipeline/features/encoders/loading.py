"""From files to transformers' modules: only the layers that will be run, and never a weight that the files do not hold.

transformers fills what a checkpoint lacks with random numbers and logs it; here that is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.wording import listed
from tfser.pipeline.features.encoders.encoder import Encoder
from tfser.pipeline.features.encoders.families import FAMILIES
from tfser.pipeline.features.encoders.spec import EncoderSpec
from tfser.pipeline.features.encoders.weights import CONFIG


def encoder_model(spec: EncoderSpec) -> Any:
    """Return transformers' model with the layers 1 to `highest`, in float32 on the CPU. What stands behind the encoder in
    the files (a classifier, a regression) is not read.

    Raises:
        TfserError: if the weights are damaged, incomplete, or of another shape than config.json says.
    """
    import transformers

    family = FAMILIES[spec.family]
    kind = getattr(transformers, family.model)
    config = _config(kind.config_class, spec)
    config.num_hidden_layers = spec.highest
    config.mask_time_prob = config.mask_feature_prob = 0.0  # the vector that masks frames in training is not asked for
    for name in ("use_intermediate_ffn_before_adapter", "add_adapter"):  # what would follow the last layer
        if hasattr(config, name):
            setattr(config, name, False)
    return _filled(kind, config, spec, attn_implementation=family.attention)


def whisper_encoder(spec: EncoderSpec) -> Any:
    """Return Whisper's encoder with the layers 1 to `highest`, in float32 on the CPU; its decoder is never read.

    Raises:
        TfserError: as for `encoder_model`.
    """
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = _config(WhisperConfig, spec)
    config.encoder_layers = spec.highest
    names = {r"^(model\.)?encoder\.": ""}
    return _filled(WhisperEncoder, config, spec, attn_implementation="sdpa", key_mapping=names)


def emotion2vec_network(spec: EncoderSpec) -> Any:
    """Return emotion2vec's network with the blocks 1 to `highest`, in float32 on the CPU, without what only training needs.

    Raises:
        TfserError: if the weights are damaged, incomplete, or of another shape than config.yaml says.
    """
    from tfser.pipeline.features.encoders.emotion2vec import Emotion2vecNetwork

    path = spec.found.files[0]
    with torch.device("meta"):
        network = Emotion2vecNetwork(spec.architecture, spec.highest)
    with _one_line(spec, path), _quiet():
        # Nothing but tensors and containers can be in it: a pickle that holds more is refused.
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(stored.get("model", stored))
        scale = state.get("modality_encoders.AUDIO.alibi_scale")
        if scale is not None and scale.dim() == 4:  # as older versions of fairseq wrote it
            state["modality_encoders.AUDIO.alibi_scale"] = scale[None]
        wanted = network.state_dict()
        lacking = sorted(name for name, of in wanted.items() if name not in state or state[name].shape != of.shape)
        if not lacking:
            filled = {name: torch.empty(of.shape).copy_(state[name]) for name, of in wanted.items()}
            network.load_state_dict(filled, assign=True)
    _check_complete(spec, lacking)
    return network.eval().requires_grad_(False)


def _filled(kind: Any, config: Any, spec: EncoderSpec, **options: Any) -> Any:
    """Return a model whose every parameter is from the files."""
    folder = spec.found.folder
    with _one_line(spec, spec.found.files[0]), _quiet():
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=spec.found.safetensors,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    _check_complete(spec, lacking)
    return model.eval().requires_grad_(False)


def _check_complete(spec: EncoderSpec, lacking: list[str]) -> None:
    """Refuse weights that lack something of their network, or have it in another shape."""
    if lacking:
        raise TfserError(
            f"{spec.found.folder}: the weights lack {listed(lacking, 3)}, which a {spec.family} of {spec.n_layers} layers has;"
            " the file is incomplete or of another model"
        )


def _config(kind: Any, spec: EncoderSpec) -> Any:
    """Return transformers' configuration of a folder, to be computed in float32 whatever dtype it was saved in."""
    with _one_line(spec, spec.found.folder / CONFIG), _quiet():
        return kind.from_pretrained(spec.found.folder, local_files_only=True)


@contextlib.contextmanager
def _one_line(spec: EncoderSpec, path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a folder of weights into one line.

    These folders come from anywhere, and libraries raise what they happen to stumble over: AttributeError for a dtype that
    there is none of, TypeError for a number that is a text. What speaks of this machine, not of the folder, goes through.
    """
    try:
        yield
    except (TfserError, ImportError):
        raise
    except Exception as error:
        chain: list[BaseException] = [error]
        while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
            chain.append(before)
        if any(isinstance(of, MemoryError | torch.OutOfMemoryError) for of in chain):
            raise TfserError(f"{spec.found.folder}: the encoder does not fit into this machine's memory") from error
        if any(isinstance(of, pickle.UnpicklingError) for of in chain):
            # torch's own words advise to load it all the same, which would run what is in it.
            raise TfserError(
                f"{path}: cannot be loaded: it holds something other than tensors, or is damaged; fetch it again, or take "
                "weights in safetensors, which cannot hold anything else"
            ) from error
        reason = (str(error).splitlines() or [""])[0].strip()[:200] or type(error).__name__
        raise TfserError(f"{path}: cannot be loaded ({reason}); fetch it again") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars, reports and warnings of transformers and torch off the terminal: what matters of them is checked here."""
    import transformers.utils.logging

    words: Any = transformers.utils.logging
    level, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity(logging.CRITICAL)
    words.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        words.set_verbosity(level)
        if bars:
            words.enable_progress_bar()


def load(spec: EncoderSpec, device: str = "cpu") -> Encoder:
    """Return the encoder on a device (`cpu`, `cuda`, `cuda:1`). Nothing of the process is changed.

    Raises:
        UsageError: if the device cannot compute in that precision.
        TfserError: if the weights are damaged or incomplete.
    """
    place = torch.device(device)
    if spec.precision == "float16" and place.type == "cpu":
        raise UsageError("--precision float16: CPUs compute it slowly or not at all; take bfloat16 or float32, or a GPU")
    if spec.precision != "float32" and place.type not in ("cpu", "cuda"):
        raise UsageError(f"--precision {spec.precision}: on {place.type} encoders compute in float32 only")
    module, _, name = FAMILIES[spec.family].encoder.partition(":")
    kind: Callable[..., Encoder] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    # Whisper's decoder is half of its weights, and never read; emotion2vec is none of transformers' models.
    model = {"whisper": whisper_encoder, "emotion2vec": emotion2vec_network}.get(spec.family, encoder_model)(spec)
    return kind(spec, model, place)
