"""The field's words, and label maps."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.errors import UsageError
from tfser.manifests.labels import LABELS, format_label_map, normalise, parse_label_map

WORDS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)


@given(WORDS)
def test_normalise_is_idempotent(raw):
    once = normalise(raw)
    assert normalise(once) == once


@given(WORDS)
def test_blanks_and_composition_do_not_matter(raw):
    assert normalise(f" \t{raw}\n") == normalise(raw)
    assert normalise(unicodedata.normalize("NFD", raw)) == normalise(raw)


@pytest.mark.parametrize("label", LABELS)
def test_the_fields_words_stay(label):
    assert normalise(label) == normalise(label.upper()) == label


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("A\u0308rger", "anger"),  # as macOS decomposes it
        ("No Agreement", "undecided"),
        ("xxx", "undecided"),
        ("Fear/Anxiety", "fear"),
        ("高兴", "高兴"),
        ("", None),
        (None, None),
    ],
)
def test_words(raw, label):
    assert normalise(raw) == label


NAMES = st.text(alphabet="abcXYZ -_é情'\"", min_size=1, max_size=6).map(str.strip).filter(bool)


@given(st.dictionaries(NAMES.map(normalise), NAMES, min_size=2).filter(lambda m: len(set(m.values())) > 1))
def test_label_maps_round_trip(labels):
    again = parse_label_map(format_label_map(labels))
    assert again == labels
    assert list(dict.fromkeys(again.values())) == list(dict.fromkeys(labels.values()))  # the order of the classes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is not CLASS"),
        ("anger,", "is not CLASS"),
        (":anger,neutral", "is not CLASS"),
        ("anger,neutral:sad+", "is not CLASS"),
        ("anger,x:angry", "'anger' stands in two classes"),
        ("anger,anger", "fewer than two classes"),
    ],
)
def test_bad_label_maps(text, error):
    with pytest.raises(UsageError, match=error):
        parse_label_map(text)
