"""Protocols shown: counts that agree with the folds, also where there are too many of them to be shown by class."""

from __future__ import annotations

import time

import pytest

from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse
from tfser.manifests.splits import show as protocol_report
from tfser.manifests.splits.show import describe, headline
from tfser.manifests.utterances import Utterance

from ..conftest import memory_catalogue


def corpus() -> list[Utterance]:
    return [
        Utterance(
            utterance_id=f"s{s}_{i}",
            path=f"s{s}_{i}.wav",
            speaker=f"s{s}",
            label=("anger", "neutral", "sadness")[i % 3],
            split=("train", "train", "train", "val", "test", "test")[s],
        )
        for s in range(6)
        for i in range(3 + s)
    ]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "spec",
    [
        *("loso-speaker", "loso-speaker/next-group", "loso-speaker/speakers:2", "group-kfold:3/random-leaky:0.3"),
        *("random-kfold:4/random-leaky:0.2", "official-split"),
    ],
)
def test_sides_alone_are_what_the_classes_add_up_to(cache, put_corpus, installed, monkeypatch, spec):
    put_corpus(cache, corpus())
    connection = installed("toy", spec)
    by_class = describe(connection, spec, "toy")
    assert {"anger", "speakers"} <= by_class["counts"][0].keys()
    monkeypatch.setattr(protocol_report, "_MOST_COUNTS", 0)
    about = describe(connection, spec, "toy")
    assert about["counts"] == [{name: row[name] for name in ("fold", "role", "all")} for row in by_class["counts"]]
    assert any("3 classes in" in line for line in headline(about))


def test_thousands_of_speakers_and_classes():
    with memory_catalogue() as connection:
        connection.execute("INSERT INTO corpora BY NAME SELECT 'toy' AS corpus, 'table' AS adapter")
        connection.execute(
            "INSERT INTO utterances BY NAME SELECT 'toy' AS corpus, 'u' || i AS utterance_id, 's' || (i % 3000) AS speaker, "
            "'l' || (i * 7 % 3000) AS label FROM range(9000) t(i)"
        )
        install(connection, "toy", parse("loso-speaker"))
        before = time.process_time()
        about = describe(connection, "loso-speaker", "toy")
        assert time.process_time() - before < 5
    assert len(about["counts"]) == 6000
    assert about["counts"][:2] == [{"fold": 1, "role": "train", "all": 8997}, {"fold": 1, "role": "test", "all": 3}]


def test_a_label_map_changes_what_is_said_of_a_protocol():
    """Counts and users are of the protocol's own classes."""
    plain, mapped = parse("iemocap4-session"), parse("iemocap4-session@anger,neutral/next-group")
    assert plain.used_by and not mapped.used_by
    assert mapped.summary == "the folds of iemocap4-session, with the classes anger, neutral"
    same = parse("iemocap4-session@common4")
    assert (same.summary, same.used_by) == (plain.summary, plain.used_by)
