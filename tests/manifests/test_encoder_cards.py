"""What an encoder has heard: cards have a source, and the audit says where a corpus was in training, or may have been."""

from __future__ import annotations

import pytest

from tfser.manifests.audits.encoders import encoder_cards
from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.build import build
from tfser.manifests.files import read_json, write_json
from tfser.manifests.utterances import Utterance
from tfser.pipeline.features.encoders.known import ENCODERS

from ..conftest import memory_catalogue

ROWS = [
    Utterance(utterance_id=f"s{s}_{i}", path=f"{s}_{i}.wav", speaker=f"s{s}", label=("anger", "neutral")[i % 2])
    for s in range(3)
    for i in range(4)
]
AUDIT = [audit for audit in packaged_audits() if audit.name == "encoder_saw_corpus"]


def test_every_named_encoder_has_a_card_and_every_card_a_source() -> None:
    cards = {card.encoder: card for card in encoder_cards()}
    assert {known.hub for known in ENCODERS.values()} <= set(cards)
    for card in cards.values():
        assert "/" in card.encoder and card.source and card.part in ("encoder", "classifier")
        assert card.trained_on or not card.complete
    assert {"iemocap", "emodb", "crema_d", "msp_podcast"} <= set(cards["emotion2vec/emotion2vec_plus_seed"].trained_on)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("weights", "adapter", "level", "words"),
    [
        ("AreejB/wav2vec2-xlsr-english-speech-emotion-recognition", "ravdess", "warning", "encoder was trained on ravdess"),
        ("/models/wav2vec2-xlsr-english-speech-emotion-recognition/", "ravdess", "warning", "encoder was trained on ravdess"),
        ("superb/wav2vec2-base-superb-er", "iemocap", "info", "classifier was trained on iemocap"),
        ("somebody/hubert-large-iemocap-4", "iemocap", "warning", "its name says iemocap"),
        ("openai/whisper-base", "iemocap", "info", "its training data are not all listed"),
        ("facebook/wav2vec2-base", "iemocap", None, None),
        ("iic/emotion2vec_base", "iemocap", "warning", "encoder was trained on iemocap"),  # without its labels
        ("/models/emotion2vec_plus_base", "msp_podcast", "warning", "encoder was trained on msp_podcast"),
        ("emotion2vec/emotion2vec_base", "emodb", None, None),
        ("AreejB/wav2vec2-xlsr-english-speech-emotion-recognition", "emodb", "info", "its training data are not all listed"),
        ("somebody/hubert-large-iemocap-4", "emodb", None, None),
    ],
)
def test_the_audit(cache, put_corpus, put_features, weights: str, adapter: str, level: str | None, words: str | None) -> None:
    put_corpus(cache, ROWS, adapter=adapter)
    put_features(cache, [u.utterance_id for u in ROWS], name="mine")
    (file,) = cache.feature_root.glob("*/feature_set.json")
    write_json(file, {**read_json(file), "source": {"weights": weights, "commit": None}})
    with memory_catalogue() as connection:
        build(cache, connection, {}, cache.sources(), fresh=True, is_created=True)
        (found,) = run_audits(connection, protocol="loso-speaker", corpus="toy", audits=AUDIT)
    assert found.level == (level or "ok")
    if words is not None:
        assert found.examples[0]["heard"] == words and found.examples[0]["source"]


@pytest.mark.parametrize("derived", ["heard/3", "logmel+bands=40+float16+heard/12+float16"])
def test_what_is_made_of_an_encoders_features_has_heard_what_it_heard(cache, put_corpus, put_features, derived: str) -> None:
    put_corpus(cache, ROWS, adapter="iemocap")
    put_features(cache, [], name="heard/all+float16")
    (file,) = cache.feature_root.glob("*/feature_set.json")
    write_json(file, {**read_json(file), "source": {"weights": "iic/emotion2vec_base", "commit": None}})
    put_features(cache, [u.utterance_id for u in ROWS], name=derived)  # says nothing of weights
    with memory_catalogue() as connection:
        build(cache, connection, {}, cache.sources(), fresh=True, is_created=True)
        (found,) = run_audits(connection, protocol="loso-speaker", corpus="toy", audits=AUDIT, feature_sets=[derived])
    assert (found.level, found.examples[0]["feature_set"]) == ("warning", derived)
