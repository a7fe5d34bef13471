"""The encoders that have names of their own: what each is, where its weights are, and under which licence.

Facts of the publishers' cards, repositories and papers; nothing here loads or fetches anything. Sizes and training data are the
papers'. **The licences were not compared with the cards when they were written down here: read the card before you rely on one.**
Any other encoder of `families.FAMILIES` goes by its hub id or folder. What each of them has heard stands in the audits' cards
(manifests/audits/encoders.json).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Known:
    """An encoder with a name of its own.

    Attributes:
        summary: one line about it.
        hub: where its weights are.
        family: transformers' `model_type`.
        licence: of the weights, as their publisher has it.
        layer: taken unless one is asked for; None: the last.
    """

    summary: str
    hub: str
    family: str
    licence: str
    layer: int | None = None


_FUNASR = "FunASR's model licence (`model-license` on its card)"
_APACHE, _UNISPEECH = "Apache-2.0", "CC BY-SA 3.0 (of Microsoft's UniSpeech repository, which the card points to)"

ENCODERS: dict[str, Known] = {
    "wav2vec2-base": Known(
        summary="wav2vec 2.0 base: 12 layers of 768, LibriSpeech",
        hub="facebook/wav2vec2-base",
        family="wav2vec2",
        licence=_APACHE,
    ),
    "wav2vec2-large": Known(
        summary="wav2vec 2.0 large: 24 layers of 1024, Libri-Light 60k h (SUPERB's wav2vec 2.0 Large)",
        hub="facebook/wav2vec2-large-lv60",
        family="wav2vec2",
        licence=_APACHE,
    ),
    "wav2vec2-large-robust-12-ft-emotion-msp-dim": Known(
        summary="audEERING's dimensional model: wav2vec 2.0 large robust, 12 of its layers of 1024, fine-tuned on MSP-Podcast",
        hub="audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        family="wav2vec2",
        licence="CC BY-NC-SA 4.0: not for products",
    ),
    "hubert-base": Known(
        summary="HuBERT base: 12 layers of 768, LibriSpeech", hub="facebook/hubert-base-ls960", family="hubert", licence=_APACHE
    ),
    "hubert-large": Known(
        summary="HuBERT large: 24 layers of 1024, Libri-Light 60k h",
        hub="facebook/hubert-large-ll60k",
        family="hubert",
        licence=_APACHE,
    ),
    "wavlm-base": Known(
        summary="WavLM base: 12 layers of 768, LibriSpeech", hub="microsoft/wavlm-base", family="wavlm", licence=_UNISPEECH
    ),
    "wavlm-base-plus": Known(
        summary="WavLM base+: 12 layers of 768, 94k h", hub="microsoft/wavlm-base-plus", family="wavlm", licence=_UNISPEECH
    ),
    "wavlm-large": Known(
        summary="WavLM large: 24 layers of 1024, 94k h; layer 12 unless asked otherwise (TF-Mamba, section IV)",
        hub="microsoft/wavlm-large",
        family="wavlm",
        licence=_UNISPEECH,
        layer=12,
    ),
    "unispeech-sat-base": Known(
        summary="UniSpeech-SAT base: 12 layers of 768, LibriSpeech",
        hub="microsoft/unispeech-sat-base",
        family="unispeech-sat",
        licence=_UNISPEECH,
    ),
    "unispeech-sat-base-plus": Known(
        summary="UniSpeech-SAT base+: 12 layers of 768, 94k h",
        hub="microsoft/unispeech-sat-base-plus",
        family="unispeech-sat",
        licence=_UNISPEECH,
    ),
    "unispeech-sat-large": Known(
        summary="UniSpeech-SAT large: 24 layers of 1024, 94k h",
        hub="microsoft/unispeech-sat-large",
        family="unispeech-sat",
        licence=_UNISPEECH,
    ),
    "data2vec-audio-base": Known(
        summary="data2vec audio base: 12 layers of 768, LibriSpeech",
        hub="facebook/data2vec-audio-base",
        family="data2vec-audio",
        licence=_APACHE,
    ),
    "data2vec-audio-large": Known(
        summary="data2vec audio large: 24 layers of 1024, Libri-Light 60k h",
        hub="facebook/data2vec-audio-large",
        family="data2vec-audio",
        licence=_APACHE,
    ),
    "w2v-bert-2.0": Known(
        summary="w2v-BERT 2.0: 24 Conformer layers of 1024, 4.5M h in more than 143 languages",
        hub="facebook/w2v-bert-2.0",
        family="wav2vec2-bert",
        licence="MIT",
    ),
    "emotion2vec_base": Known(
        summary="emotion2vec base: 12 layers of 768, emotional speech without its labels",
        hub="emotion2vec/emotion2vec_base",
        family="emotion2vec",
        licence=_FUNASR,
    ),
    "emotion2vec_plus_seed": Known(
        summary="emotion2vec+ seed: the same network, fine-tuned with data of EmoBox (201 h)",
        hub="emotion2vec/emotion2vec_plus_seed",
        family="emotion2vec",
        licence=_FUNASR,
    ),
    "emotion2vec_plus_base": Known(
        summary="emotion2vec+ base: the same network, fine-tuned with pseudo-labels (4,788 h)",
        hub="emotion2vec/emotion2vec_plus_base",
        family="emotion2vec",
        licence=_FUNASR,
    ),
    "emotion2vec_plus_large": Known(
        summary="emotion2vec+ large: width 1024, about 300 M parameters, fine-tuned with pseudo-labels",
        hub="emotion2vec/emotion2vec_plus_large",
        family="emotion2vec",
        licence=_FUNASR,
    ),
    "whisper-base": Known(
        summary="Whisper base, encoder only: 6 layers of 512, 680k h",
        hub="openai/whisper-base",
        family="whisper",
        licence=_APACHE,
    ),
    "whisper-large": Known(
        summary="Whisper large, encoder only: 32 layers of 1280, 680k h",
        hub="openai/whisper-large",
        family="whisper",
        licence=_APACHE,
    ),
    "whisper-large-v2": Known(
        summary="Whisper large-v2, encoder only: 32 layers of 1280, 680k h",
        hub="openai/whisper-large-v2",
        family="whisper",
        licence=_APACHE,
    ),
    "whisper-large-v3": Known(
        summary="Whisper large-v3, encoder only: 32 layers of 1280, 128 Mel bands, 5M h",
        hub="openai/whisper-large-v3",
        family="whisper",
        licence=_APACHE,
    ),
}
"""The encoders that have names of their own. Any other of their families goes by its hub id or folder."""
