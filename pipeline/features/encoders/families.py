"""The families of encoders that extract here, by transformers' `model_type`: a line each.

A family is the values that decide its numbers (`architecture.DEFAULTS`), what comes before its first layer (`front`), and what
computes its layers: transformers' class and a module of this folder. One that computes as another does needs no file of its
own. Nothing here imports torch.
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
        encoder: the class here that computes its layers, as `module:Class` of this folder.
        front: what comes before the first layer.
        options: what `--set` takes.
        attention: transformers' implementation, where layers keep theirs.
    """

    title: str
    model: str
    encoder: str = "encoder:WaveformEncoder"
    front: Front = raw_front
    options: tuple[str, ...] = RAW_OPTIONS
    attention: str = "sdpa"


FAMILIES: dict[str, Family] = {
    "wav2vec2": Family(title="wav2vec 2.0", model="Wav2Vec2Model"),
    "hubert": Family(title="HuBERT", model="HubertModel"),
    "wavlm": Family(title="WavLM", model="WavLMModel", attention="eager"),
    "unispeech-sat": Family(title="UniSpeech-SAT", model="UniSpeechSatModel"),
    "data2vec-audio": Family(title="data2vec", model="Data2VecAudioModel"),
    "emotion2vec": Family(title="emotion2vec", model="", encoder="emotion2vec:Emotion2vecEncoder", front=emotion2vec_front),
    "wav2vec2-bert": Family(
        title="w2v-BERT 2.0",
        model="Wav2Vec2BertModel",
        encoder="conformer:ConformerEncoder",
        front=fbank_front,
        options=FBANK_OPTIONS,
        attention="eager",
    ),
    "whisper": Family(
        title="Whisper",
        model="WhisperModel",
        encoder="whisper:WhisperEncoder",
        front=whisper_front,
        options=WHISPER_OPTIONS,
    ),
}
"""By `model_type`."""
