"""A corpus whose own split is in other words (Train, Test1, Test2), and own protocols that are not what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.protocols.own import damaged_own, own_protocols
from tfser.manifests.splits.choose import choose_protocol
from tfser.manifests.utterances import Utterance

OWN = """
name = "own"
corpus = "toy"
grouped_by = "split"
others = "leave-out"
keeps_apart = ["speaker"]
[sides]
train = ["train"]
val = ["val"]
test = ["Test1"]
"""


@pytest.fixture
def podcast(cache, put_corpus) -> None:
    words = ("train", "val", "Test1", "Test2")  # as the table's reader gives Train, Development, Test1, Test2
    corpus = [
        Utterance(utterance_id=f"u{k:02d}", path=f"u{k:02d}.wav", label="ab"[k % 2], speaker=f"s{k % 8}", split=words[k % 8 // 2])
        for k in range(32)
    ]
    put_corpus(cache, corpus, default_protocol="loso-speaker")


@pytest.mark.slow
def test_an_own_protocol_says_which_value_is_which_side(cache, podcast, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    _, name = choose_protocol(cache, "toy", str(path))
    with open_catalogue(cache) as connection:
        found = rows(connection, "SELECT role, count(*) AS n FROM folds WHERE protocol = ? GROUP BY ALL ORDER BY role", [name])
    assert found == [{"role": "test", "n": 8}, {"role": "train", "n": 8}, {"role": "val", "n": 8}]  # Test2 is left out
    path.write_text(OWN.replace("Test1", "Test3"))
    with pytest.raises(TfserError, match=r"lists 'Test3' of the column split"):
        choose_protocol(cache, "toy", str(path))


def test_the_split_is_not_passed_over(cache, podcast):
    with pytest.raises(UsageError, match=r"own \(Test1, Test2, train, val\).*\[sides\].*or say --protocol loso-speaker"):
        choose_protocol(cache, "toy")
    assert choose_protocol(cache, "toy", "loso-speaker") == ("toy", "loso-speaker")
    with pytest.raises(TfserError, match=r"must say train and test; it says Test1, Test2, train, val\. A protocol of your own"):
        choose_protocol(cache, "toy", "official-split")


def test_a_protocol_of_one_corpus_finds_it(cache, podcast, put_corpus):
    rows = [
        Utterance(utterance_id=f"{s}{k}", path=f"{s}{k}.wav", speaker=s, label=label, extra={})
        for s in ("03", "08")
        for k, label in enumerate(("anger", "sadness"))
    ]
    put_corpus(cache, rows, corpus="mine", adapter="emodb")
    assert choose_protocol(cache, None, "emodb7-speaker") == ("mine", "emodb7-speaker")
    put_corpus(cache, rows, corpus="other", adapter="emodb")
    with pytest.raises(UsageError, match="which corpus"):
        choose_protocol(cache, None, "emodb7-speaker")


@pytest.mark.slow
def test_a_damaged_own_protocol_is_listed(cache, podcast, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    _, name = choose_protocol(cache, "toy", str(path))
    kept = cache.protocols / f"{name}.toml"
    assert damaged_own(cache) == {}
    for text in (OWN.replace("Test1", "Test2"), "x = ["):
        reason = "its content is not what was written there"
        kept.write_text(text)
        assert name not in own_protocols(cache)
        assert reason in damaged_own(cache)[name] and "name your own file again" in damaged_own(cache)[name]
        with open_catalogue(cache) as connection:
            (listed,) = rows(connection, "SELECT path, reason FROM skipped WHERE stage = 'protocols'")
        assert (listed["path"], reason in listed["reason"]) == (f"protocols/{name}.toml", True)
        with pytest.raises(TfserError, match="name your own file again"):
            choose_protocol(cache, "toy", name)
    Path(kept).write_text(OWN)
    with open_catalogue(cache) as connection:
        assert rows(connection, "SELECT 1 FROM skipped WHERE stage = 'protocols'") == []
