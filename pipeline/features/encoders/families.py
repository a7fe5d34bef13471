"""The families of encoders that extract here, by transformers' `model_type`: an entry each.

A family is the values that decide its numbers, what comes before its first layer (`front`), and what computes its layers:
transformers' class and a module of this folder. One that computes as another does needs no file of its own. Importing
transformers for its defaults takes half a second or more, so that those that matter stand here; a test compares them with
transformers' own configuration classes. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfser.pipeline.features.encoders.front import (
    FBANK_OPTIONS,
    RAW_OPTIONS,
    WHISPER_OPTIONS,
    emotion2vec_front,
    fbank_front,
    raw_front,
    whisper_front,
)
from tfser.pipeline.features.encoders.weights import Found

Front = Callable[[str, Found, Mapping[str, Any], Mapping[str, str], list[str]], dict[str, Any]]
"""Of a name, files, architecture, settings and a list for notes: the fields of `EncoderSpec` that stand before the layers."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        title: as people write it.
        model: transformers' class; empty where it has none.
        defaults: each value of config.json that changes its numbers, at transformers' default; emotion2vec is none of
            transformers', so its are those of `emotion2vec_base`, as `funasr.read_yaml` names them.
        encoder: the class here that computes its layers, as `module:Class` of this folder.
        front: what comes before the first layer.
        options: what `--set` takes.
        attention: transformers' implementation, where layers keep theirs.
    """

    title: str
    model: str
    defaults: Mapping[str, Any]
    encoder: str = "encoder:WaveformEncoder"
    front: Front = raw_front
    options: tuple[str, ...] = RAW_OPTIONS
    attention: str = "sdpa"


_CONVOLUTIONS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_dim": (512, 512, 512, 512, 512, 512, 512),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
}

FAMILIES: dict[str, Family] = {
    "wav2vec2": Family(
        title="wav2vec 2.0",
        model="Wav2Vec2Model",
        defaults={**_CONVOLUTIONS, "adapter_attn_dim": None},
    ),
    "hubert": Family(
        title="HuBERT",
        model="HubertModel",
        defaults={**_CONVOLUTIONS, "adapter_attn_dim": None, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False},
    ),
    "wavlm": Family(
        title="WavLM",
        model="WavLMModel",
        defaults={**_CONVOLUTIONS, "num_buckets": 320, "max_bucket_distance": 800},
        attention="eager",
    ),
    "unispeech-sat": Family(
        title="UniSpeech-SAT",
        model="UniSpeechSatModel",
        defaults={**_CONVOLUTIONS, "adapter_attn_dim": None},
    ),
    "data2vec-audio": Family(
        title="data2vec",
        model="Data2VecAudioModel",
        defaults={
            **{k: v for k, v in _CONVOLUTIONS.items() if k not in ("feat_extract_norm", "do_stable_layer_norm")},
            "num_conv_pos_embeddings": 5,
            "conv_pos_kernel_size": 19,
        },
    ),
    "emotion2vec": Family(
        title="emotion2vec",
        model="",
        defaults={
            **{k: v for k, v in _CONVOLUTIONS.items() if not k.startswith(("feat_extract", "conv_bias", "do_", "hidden_act"))},
            "context_layers": 4,
            "num_conv_pos_embeddings": 5,
            "conv_pos_kernel_size": 19,
            "extra_tokens": 10,
            "scale_per_layer": False,
            "scale_per_head": True,
            "do_normalize": True,
        },
        encoder="emotion2vec:Emotion2vecEncoder",
        front=emotion2vec_front,
    ),
    "wav2vec2-bert": Family(
        title="w2v-BERT 2.0",
        model="Wav2Vec2BertModel",
        defaults={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "feature_projection_input_dim": 160,
            "hidden_act": "swish",
            "layer_norm_eps": 1e-5,
            "position_embeddings_type": "relative_key",
            "rotary_embedding_base": 10000,
            "max_source_positions": 5000,
            "left_max_position_embeddings": 64,
            "right_max_position_embeddings": 8,
            "conv_depthwise_kernel_size": 31,
        },
        encoder="conformer:ConformerEncoder",
        front=fbank_front,
        options=FBANK_OPTIONS,
        attention="eager",
    ),
    "whisper": Family(
        title="Whisper",
        model="WhisperModel",
        defaults={
            "d_model": 384,
            "encoder_layers": 4,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536,
            "activation_function": "gelu",
            "num_mel_bins": 80,
            "max_source_positions": 1500,
        },
        encoder="whisper:WhisperEncoder",
        front=whisper_front,
        options=WHISPER_OPTIONS,
    ),
}
"""By `model_type`."""
