"""Dimensions in the manifests: what is asked for, on which scale, who takes part over ratings, and what leaves a scale."""

from __future__ import annotations

import math

import pytest

from tfser.manifests.audits.participation import participation
from tfser.manifests.audits.run import packaged_audits, run_audits
from tfser.manifests.catalogue.build import build
from tfser.manifests.dimensions import Scale, parse_rated, parse_scale, parse_targets, rated_name, scales_of
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.files import read_json, write_json
from tfser.manifests.protocols.folds import install
from tfser.manifests.protocols.names import parse, specify
from tfser.manifests.utterances import Utterance

from ..conftest import memory_catalogue

ROWS = [
    Utterance(
        utterance_id=f"s{s}_{i}",
        path=f"{s}_{i}.wav",
        speaker=f"s{s}",
        label=None if i == 3 else ("anger", "neutral")[i % 2],
        valence=None if i == 0 else math.nan if (s, i) == (0, 1) else 1.0 + i,
        arousal=6.0 if (s, i) == (1, 2) else 2.0,
    )
    for s in range(3)
    for i in range(4)
]


@pytest.mark.parametrize("text", ["7-1", "1", "1-", "low-high", "1-1", "nan-2", "1-2-3", ""])
def test_a_scale_has_two_ends(text: str) -> None:
    with pytest.raises(UsageError, match="lower one first"):
        parse_scale(text)


@pytest.mark.parametrize(("text", "scale"), [("1-7", Scale(1, 7)), ("-1:1", Scale(-1, 1)), (" 0 - 100 ", Scale(0, 100))])
def test_scales_are_read_and_written(text: str, scale: Scale) -> None:
    assert parse_scale(text) == scale == parse_scale(str(scale))


def test_targets_have_one_order_and_one_name() -> None:
    assert parse_targets("dominance, valence") == ("valence", "dominance") == parse_rated(rated_name(("valence", "dominance")))
    assert parse_rated("anger,neutral") is None
    assert parse_targets("class") == () and parse_targets("valence,class") == ("valence",)
    for text in ("happiness", "", "class,happiness"):
        with pytest.raises(UsageError, match="unknown target"):
            parse_targets(text)
    assert specify("group-kfold:3/next-group", labels="rated:arousal+valence") == "group-kfold:3@rated:valence+arousal/next-group"
    assert parse("loso-speaker@rated:valence/speakers:1").rated == ("valence",)


def test_counts_in_are_counts_used_and_counts_listed(cache, put_corpus, installed) -> None:
    put_corpus(cache, ROWS)
    connection = installed("toy", "loso-speaker@rated:valence")
    tally = participation(
        connection, protocol="loso-speaker@rated:valence", corpus="toy", defined=parse("loso-speaker@rated:valence")
    )
    assert (tally.given, tally.used) == (12, 8)
    assert {reason: n for reason, n in tally.left_out.items() if n} == {"not rated for the targets": 4}
    found = connection.execute("SELECT count(*), count(label) FROM folds WHERE role = 'test'").fetchone()
    assert found == (8, 0)  # those without a label take part, and nobody has a class


def test_what_nobody_is_rated_for_is_refused(cache, put_corpus, installed) -> None:
    put_corpus(cache, ROWS)
    connection = installed("toy")
    with pytest.raises(TfserError, match=r"no utterance of toy is rated for dominance; it has ratings of valence \(9\)"):
        install(connection, "toy", parse("loso-speaker@rated:dominance"))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("adapter", "scale", "found"), [("table", "1-5", 1), ("iemocap", None, 1), ("table", "1-7", 0), ("table", None, 0)]
)
def test_what_leaves_the_scale_is_found(cache, put_corpus, adapter: str, scale: str | None, found: int) -> None:
    put_corpus(cache, ROWS, adapter=adapter)
    file = cache.corpus("toy") / "corpus.json"
    about = read_json(file)
    write_json(file, {**about, "options": {"scale": scale} if scale else {}})
    audit = [audit for audit in packaged_audits() if audit.name == "scale_left"]
    with memory_catalogue() as connection:
        build(cache, connection, {}, cache.sources(), fresh=True, is_created=True)
        (finding,) = run_audits(connection, protocol="loso-speaker", corpus="toy", audits=audit)
        if scale is None and adapter == "table":
            with pytest.raises(UsageError, match="tfser scan --corpus toy --scale"):
                scales_of(connection, ["toy"])
        else:
            assert scales_of(connection, ["toy"])["toy"] == parse_scale(scale or "1-5")
    assert (finding.level, finding.rows) == (("warning", 1) if found else ("ok", 0))
    if found:
        assert finding.examples[0]["dimension"] == "arousal" and finding.examples[0]["example"] == "s1_2"
