"""The named protocols and the generic ones: one entry makes another.

A name says the corpus, the number of classes and what each fold tests: `iemocap4-session`. Counts stand in the summaries where
the corpus publishes them; `tfser protocol show` prints those of the copy in the cache. `used_by` names published work whose
utterances, classes and test folds are these; how such work chose its epochs is another matter (docs/protocols.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from tfser.manifests.protocols.listed import ORIGINS
from tfser.manifests.protocols.protocol import Protocol


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


_SESSION = ("speaker", "session", "dialogue")
_IEMOCAP4 = {**_same("anger", "happiness"), "excitement": "happiness", **_same("neutral", "sadness")}
_IEMOCAP5 = {**_IEMOCAP4, **_same("frustration")}
_IMPROVISED = "scenario = 'improvised'"


def _iemocap(
    name: str,
    what: str,
    labels: Mapping[str, str],
    *,
    used_by: tuple[str, ...] = (),
    where: str = "TRUE",
) -> tuple[Protocol, Protocol]:
    """Return a way of choosing IEMOCAP's utterances, by session (no speaker, dialogue or partner is shared) and by speaker."""
    by_session = Protocol(
        name=f"{name}-session",
        summary=f"{what}, by session",
        corpora=("iemocap",),
        labels=labels,
        where=where,
        grouped_by="session",
        keeps_apart=_SESSION,
        used_by=used_by,
    )
    by_speaker = Protocol(
        name=f"{name}-speaker",
        summary=f"{what}, by speaker",
        corpora=("iemocap",),
        labels=labels,
        where=where,
        used_by=_BY_SPEAKER.get(name, ()),
    )
    return by_session, by_speaker


_BY_SPEAKER = {
    "iemocap4": ("CA-MSER (Zou et al., ICASSP 2022; its validation speaker is the test speaker)",),
    "iemocap4-improvised": ("TF-Transformer (Wang et al., ICONIP 2023)",),
}

PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            name="emodb7-speaker",
            summary="7 classes, 535 utterances, by speaker (10)",
            corpora=("emodb",),
            labels=_same("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"),
        ),
        *_iemocap(
            "iemocap4",
            "4 classes, happiness with excitement, 5531 turns",
            _IEMOCAP4,
            used_by=(
                "TF-Mamba (Zhao et al., 2024)",
                "SUPERB (Yang et al., Interspeech 2021; dev: random utterances of the training sessions)",
                "ShiftSER (Shen et al., ICASSP 2023)",
                "DWFormer (Chen et al., ICASSP 2023)",
                "SpeechFormer and SpeechFormer++ (Chen et al., Interspeech 2022, TASLP 2023)",
                "emotion2vec (Ma et al., ACL Findings 2024)",
                "EmoBox (Ma et al., Interspeech 2024)",
            ),
        ),
        *_iemocap(
            "iemocap4-improvised",
            "4 classes, improvised, no excitement, 2280 turns",
            _same("anger", "happiness", "neutral", "sadness"),
            where=_IMPROVISED,
            used_by=("methods by session in TF-Transformer's Table 4 (Wang et al., ICONIP 2023)",),
        ),
        *_iemocap(
            "iemocap5",
            "5 classes, as 4 with frustration, 7380 turns",
            _IEMOCAP5,
        ),
        *_iemocap(
            "iemocap5-excitement",
            "5 classes, excitement apart, 5531 turns",
            _same("anger", "excitement", "happiness", "neutral", "sadness"),
        ),
        *_iemocap(
            "iemocap6",
            "6 classes, excitement and frustration, 7380 turns",
            _same("anger", "excitement", "frustration", "happiness", "neutral", "sadness"),
            used_by=(
                "emotion recognition in conversation since DialogueRNN (Majumder et al., AAAI 2019): its test side is fold 5; "
                "it counts 7433, with 53 turns whose raters did not agree",
            ),
        ),
        Protocol(
            name="meld7-official",
            summary="7 emotions, official split (69 of 100 test speakers in train)",
            corpora=("meld",),
            labels=_same("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
            grouped_by="split",
            sides=_same("train", "val", "test"),
            keeps_apart=("dialogue",),
            validation="split",
            used_by=(
                "MELD (Poria et al., ACL 2019)",
                "TF-Mamba (Zhao et al., 2024)",
                "DWFormer (Chen et al., ICASSP 2023)",
            ),
        ),
        Protocol(
            name="meld3-official",
            summary="3 sentiments, official split",
            corpora=("meld",),
            labels=_same("negative", "neutral", "positive"),
            label_column="sentiment",
            grouped_by="split",
            sides=_same("train", "val", "test"),
            keeps_apart=("dialogue",),
            validation="split",
            used_by=("MELD (Poria et al., ACL 2019)",),
        ),
        Protocol(
            name="casia6-speaker",
            summary="6 classes, 1200 utterances, by speaker (4)",
            corpora=("casia",),
            labels=_same("anger", "fear", "happiness", "neutral", "sadness", "surprise"),
            used_by=("TF-Transformer (Wang et al., ICONIP 2023)",),
        ),
        Protocol(
            name="ravdess8-speaker",
            summary="8 classes, speech without song, 1440 utterances, by actor (24)",
            corpora=("ravdess",),
            labels=_same("anger", "calm", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
            where="vocal_channel = 'speech'",
        ),
        Protocol(
            name="crema_d6-group5",
            summary="6 classes as acted, 7442 utterances, 91 speakers in 5 folds",
            corpora=("crema_d",),
            labels=_same("anger", "disgust", "fear", "happiness", "neutral", "sadness"),
            k=5,
        ),
        Protocol(name="loso-speaker", summary="leave one speaker out, every label a class"),
        Protocol(
            name="loso-session",
            summary="leave one session out, every label a class",
            grouped_by="session",
            keeps_apart=("speaker", "session"),
        ),
        Protocol(
            name="group-kfold",
            summary="whole speakers in K folds (group-kfold:K:session, :dialogue)",
            needs="K",
        ),
        Protocol(
            name="stratified-kfold",
            summary="whole speakers in K folds of like classes (of ratings: like quartiles)",
            needs="K",
            stratified=True,
        ),
        Protocol(
            name="random-kfold",
            summary="utterances in K folds whoever speaks: speakers leak",
            grouped_by="utterance_id",
            keeps_apart=(),
            needs="K",
        ),
        Protocol(
            name="official-split",
            summary="the corpus's own train, val and test",
            grouped_by="split",
            sides=_same("train", "val", "test"),
            keeps_apart=(),
            validation="split",
        ),
        Protocol(
            name="cross",
            summary="train on corpora, test on others: cross:emodb+casia:iemocap",
            grouped_by="corpus",
            keeps_apart=("corpus",),
            needs="TRAIN:TEST",
        ),
        Protocol(
            name="loco",
            summary="leave one corpus out: loco:emodb,casia,esd",
            grouped_by="corpus",
            keeps_apart=("corpus",),
            needs="A,B,...",
        ),
        *(
            Protocol(
                name=origin,
                summary=f"{who}'s published split of a corpus; some leak speakers",
                grouped_by="utterance_id",
                keeps_apart=(),
                needs="CORPUS",
            )
            for origin, who in ORIGINS.items()
        ),
    )
}
"""By name."""
