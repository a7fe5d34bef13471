"""Training on what is not in the cache names the command that puts it there."""

from __future__ import annotations

import pytest

from tfser.heads.runs.experiment import each_request, resolve
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError
from tfser.manifests.utterances import Utterance


@pytest.fixture
def toy(cache: Cache, put_corpus, put_features) -> Cache:
    ids = [f"u{i}" for i in range(8)]
    put_corpus(
        cache,
        [Utterance(utterance_id=u, path=u, speaker=f"s{i % 4}", label=("x", "y")[i // 4]) for i, u in enumerate(ids)],
        default_protocol="loso-speaker",
    )
    put_features(cache, ids)
    return cache


@pytest.mark.parametrize(
    ("features", "command"),
    [
        ("wavlm-large", "`tfser extract --corpus toy --features wavlm-large` first"),
        ("wavlm-large/12", "`tfser extract --corpus toy --features wavlm-large --layer 12` first"),
        ("wavlm-large/all+float16", "`tfser extract --corpus toy --features wavlm-large --layer all --dtype float16` first"),
    ],
)
def test_features(toy: Cache, features: str, command: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(toy, Request(head="logreg", features=features))
    assert f"features {features} of toy are not in the cache, which holds logmel; run {command}" in str(caught.value)


def test_a_misspelt_name_is_still_one(toy: Cache) -> None:
    with pytest.raises(UsageError, match="unknown feature set of toy 'logmell'; did you mean 'logmel'"):
        resolve(toy, Request(head="logreg", features="logmell"))
    with pytest.raises(UsageError, match="unknown corpus in the cache 'toyy'; did you mean 'toy'"):
        resolve(toy, Request(head="logreg", corpus="toyy"))


def test_corpus(toy: Cache) -> None:
    with pytest.raises(UsageError, match=r"iemocap is not in .*, which holds toy; run `tfser extract --corpus iemocap` first"):
        resolve(toy, Request(head="logreg", corpus="iemocap"))


def test_a_corpus_without_any_features(cache: Cache, put_corpus) -> None:
    utterances = [Utterance(utterance_id=f"u{i}", path="u", speaker=f"s{i % 2}", label=f"{i % 3}") for i in range(6)]
    put_corpus(cache, utterances, default_protocol="loso-speaker")
    with pytest.raises(UsageError, match="run `tfser extract --corpus toy --features wavlm-large` first"):
        resolve(cache, Request(head="logreg", features="wavlm-large/12"))


def test_a_corpus_of_which_nothing_can_be_heard_is_not_sent_in_a_circle(cache: Cache, put_corpus) -> None:
    """`extract` says that nothing can be read; `train` does not send back to it."""
    utterances = [Utterance(utterance_id=f"u{i}", path="u", speaker=f"s{i % 2}", label=f"{i % 3}") for i in range(6)]
    put_corpus(cache, utterances, default_protocol="loso-speaker", hashes={u.utterance_id: None for u in utterances})
    with pytest.raises(UsageError, match="none of the 6 utterances of toy has audio that can be read") as caught:
        resolve(cache, Request(head="logreg"))
    assert "tfser extract" not in str(caught.value) and "skipped" in str(caught.value)


def test_every_layer_of_what_has_none(toy: Cache) -> None:
    with pytest.raises(UsageError, match="--features logmel/each: logmel has no layers"):
        each_request(toy, Request(head="logreg", features="logmel/each"))
    with pytest.raises(UsageError, match="`tfser extract --corpus toy --features wavlm-large --layer all`"):
        each_request(toy, Request(head="logreg", features="wavlm-large/each"))
