"""Names of feature sets: parsed and written alike, and found where they are unambiguous."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.errors import UsageError
from tfser.manifests.feature_name import DTYPES, FeatureName, checked_name, meant

WORDS = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True).filter(lambda word: word not in DTYPES)
NAMES = st.builds(
    FeatureName,
    encoder=WORDS,
    layer=st.none() | st.sampled_from(["0", "12", "mean", "all", "3-of-all", "mix-1a2b3c4d"]),
    options=st.lists(st.tuples(WORDS, WORDS).map("=".join), max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    fingerprint=st.none() | st.just("1a2b3c4d"),
)


@given(name=NAMES)
def test_what_is_written_is_parsed(name: FeatureName) -> None:
    assert FeatureName.parse(str(name)) == name


@given(names=st.lists(NAMES, min_size=1, max_size=6))
def test_a_whole_name_means_itself(names: list[FeatureName]) -> None:
    have = [str(name) for name in names]
    for name in have:
        assert meant(name, have) == [name]


HAVE = [
    "logmel",
    "logmel+bands=40",
    "logmel@11112222",
    "whisper-base/all+float16",
    "enc/3+float16",
    "enc/3+precision=bfloat16+float16",
    "enc/6",
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("logmel", ["logmel"]),
        ("logmel+bands=40", ["logmel+bands=40"]),
        ("logmel+bands=80", []),
        ("logmel@1111", []),
        ("logmel@11112222", ["logmel@11112222"]),
        ("whisper-base/all", ["whisper-base/all+float16"]),
        ("whisper-base", ["whisper-base/all+float16"]),
        ("whisper-bas", []),
        ("enc/3", ["enc/3+float16"]),
        ("enc/3+precision=bfloat16", ["enc/3+precision=bfloat16+float16"]),
        ("enc/6+float16", []),
        ("enc", ["enc/3+float16", "enc/6"]),
    ],
)
def test_what_a_name_means(asked: str, found: list[str]) -> None:
    assert meant(asked, HAVE) == found


def test_replaced_sets_are_not_meant_by_their_plain_name() -> None:
    assert meant("logmel", ["logmel@11112222"]) == []


def test_names_that_users_make_up() -> None:
    assert checked_name("mine/3+x=1") == "mine/3+x=1"
    with pytest.raises(UsageError):
        checked_name("-mine")
