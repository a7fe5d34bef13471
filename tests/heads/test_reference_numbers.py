"""The published numbers that ship: their form, their sources, and beside which of ours they stand."""

from __future__ import annotations

import re

import pytest

from tfser.heads.results.reference_numbers import GROUPS, beside_scores, published_beside, reference_numbers
from tfser.manifests.protocols.listed import published_lists

NUMBERS = reference_numbers()
UNITS = {"%": (0, 100), "0-1": (0, 1), "-1..1": (-1, 1)}
FROM_MEMORY = {63.43, 65.64, 64.92, 67.62, 65.94, 68.65, 70.62}
"""SUPERB's accuracies, which nobody has read in the paper's table: they must not ship before somebody has."""


def test_every_number_has_a_form_and_a_source() -> None:
    assert len(NUMBERS) == len(set(NUMBERS)) > 1400
    for of in NUMBERS:
        low, high = UNITS[of.unit]
        assert low <= of.value <= high, of
        assert of.corpus and of.encoder and of.training and of.protocol and of.speakers in ("kept", "broken", "unknown"), of
        assert re.search(r"arXiv \d{4}\.\d{5}|github|\w+/\w+|PyPI ", of.source), of
        assert of.metric in ("UA", "WA", "macro_F1", "micro_F1", "CCC", "precision", "recall"), of
        assert of.classes is None or of.task.startswith("categorical"), of


def test_no_number_is_from_memory() -> None:
    told = [of for of in NUMBERS if re.search("memory|not verified", " ".join(map(str, vars(of).values())), re.I)]
    assert not told
    assert not [of for of in NUMBERS if of.corpus == "iemocap" and of.metric == "WA" and of.value in FROM_MEMORY]


def test_speakers_are_as_the_lists_say() -> None:
    lists = published_lists()
    of_emobox = [of for of in NUMBERS if of.protocol == "EmoBox partition" and f"emobox:{of.corpus}" in lists]
    assert len({of.corpus for of in of_emobox}) == 22
    for of in of_emobox:
        assert (of.speakers, of.speakers_in_words) == (
            lists[f"emobox:{of.corpus}"].independence,
            lists[f"emobox:{of.corpus}"].verdict,
        )


@pytest.mark.parametrize(
    ("corpus", "protocol", "classes", "group"),
    [
        ("emodb", "emobox:emodb", 7, "same protocol"),
        ("emodb", "emobox:emodb/random-leaky:0.1", 7, "same protocol"),
        ("emodb", "loso-speaker", 7, "speakers shared"),
        ("iemocap", "iemocap4-session", 4, "same protocol"),
        ("iemocap", "iemocap4-speaker", 4, "other protocol"),
        ("ravdess", "ravdess8-speaker", 8, "other protocol"),
    ],
)
def test_where_emobox_stands(corpus: str, protocol: str, classes: int, group: str) -> None:
    found = [row for row in published_beside(corpus, protocol, classes) if row["protocol"] == "EmoBox partition"]
    assert len(found) == 10 and {row["group"] for row in found} == {group}
    best = [row["UA"] for row in found]
    assert best == sorted(best, reverse=True) and all(0 < value < 1 for value in best)


def test_iemocap_s_sessions_are_both_lists() -> None:
    """What `_SAME` takes for one protocol is one: the fold of each file is its session."""
    theirs, superb = (dict(published_lists()[name].places()) for name in ("emobox:iemocap", "s3prl:iemocap"))
    assert theirs == superb and all(f"Ses0{fold}" in file for file, fold in theirs.items())


def test_other_tasks_and_other_classes_stay_away() -> None:
    assert not published_beside("iemocap", "iemocap6-session", 6)
    four = published_beside("emodb", "loso-speaker@common4", 4)
    assert four and {row["classes"] for row in four} == {4} and {row["group"] for row in four} <= set(GROUPS)
    rows = [{"corpus": "mine", "protocol": "emobox:emodb", "classes": list("abcdefg")}] * 2
    found = beside_scores(rows, {"mine": "emodb"})
    assert found[0]["of"] == "mine" and len(found) == len(published_beside("emodb", "emobox:emodb", 7))
