"""What a protocol is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.errors import UsageError
from tfser.manifests.protocols.names import PROTOCOLS, parse, specify

HEADS = st.one_of(
    st.sampled_from([n for n, p in PROTOCOLS.items() if not p.needs]),
    st.builds("group-kfold:{}{}".format, st.integers(2, 99), st.sampled_from(["", ":speaker", ":session", ":dialogue"])),
    st.builds("random-kfold:{}".format, st.integers(2, 99)),
    st.sampled_from(["loco:a,b,c", "loco:x-1,x_2,x.3", "group-kfold:3"]),
)
MAPS = st.sampled_from(
    ["", "@anger,neutral", "@happiness:happiness+exc,sad", "@neutral,fear/anxiety", '@o\'brien,"x"', "@情,a b"]
)


@given(HEADS, MAPS, st.sampled_from(["", "/none", "/next-group"]))
def test_canonical_names_round_trip(head, labels, validation):
    spec = head + labels + validation
    if PROTOCOLS[head.split(":")[0]].validation == "split" and validation:
        with pytest.raises(UsageError, match="has its own validation side"):
            parse(spec)
        return
    protocol = parse(spec)
    assert parse(protocol.name) == protocol
    assert specify(protocol.name) == protocol.name
    assert protocol.validation == (validation.strip("/") or PROTOCOLS[head.split(":")[0]].validation)
    assert specify(head, labels=labels[1:] or None, validation=validation[1:] or None) == protocol.name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("loso-speaker/none", "loso-speaker"),
        ("group-kfold:05:speaker", "group-kfold:5"),
        ("loso-speaker@angry,neu/next-group", "loso-speaker@angry:anger,neu:neutral/next-group"),
        ("loso-speaker@neutral,fear/anxiety/next-group", "loso-speaker@neutral,fear/anxiety:fear/next-group"),
    ],
)
def test_one_name_for_one_thing(text, name):
    assert parse(text).name == name


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "unknown protocol ''"),
        ("loso-speker", "did you mean 'loso-speaker'"),
        ("loso-speaker:5", "takes no number"),
        ("loso-speaker@", "is not CLASS"),
        ("group-kfold", "say into how many folds, from 2: group-kfold:5"),
        ("group-kfold:1", "say into how many folds"),
        ("group-kfold:²", "say into how many folds"),
        ("group-kfold:-3", "say into how many folds"),
        ("group-kfold:5:gender", "groups are one of speaker, session, dialogue"),
        ("random-kfold:5:speaker", "groups are one of"),
        ("loso-speaker/next-gruop", "unknown validation policy 'next-gruop'; did you mean 'next-group'"),
        ("loso-speaker@anger,neutral/next-gruop", "unknown validation policy 'next-gruop'"),
        ("official-split/next-group", "has its own validation side"),
    ],
)
def test_bad_names(text, error):
    with pytest.raises(UsageError, match=error.replace("(", r"\(")):
        parse(text)


def test_options_that_contradict_the_name():
    with pytest.raises(UsageError, match="already says which labels"):
        specify("loso-speaker@anger,neutral", labels="anger,neutral")
    with pytest.raises(UsageError, match="already says how to validate"):
        specify("loso-speaker/next-group", validation="none")
    with pytest.raises(UsageError, match="unknown validation policy 'some'"):
        specify("loso-speaker", validation="some")
    assert specify("loso-speaker/next-group", validation="next-group") == "loso-speaker/next-group"
    assert specify("loso-speaker/next-group", labels="anger,neutral") == "loso-speaker@anger,neutral/next-group"
