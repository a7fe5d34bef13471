"""Front-ends by name: a fingerprint differs when the numbers do, a name says how, a folder is safe everywhere."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.errors import UsageError
from tfser.pipeline.features import logmel
from tfser.pipeline.features.engine import AudioRow, Compute
from tfser.pipeline.features.registry import UPSTREAMS, FeatureSet, feature_set

OTHERS = {
    "sample_rate_hz": "18000",
    "preemphasis": "0.95",
    "window_s": "0.025",
    "hop_s": "0.005",
    "n_fft": "1024",
    "n_mels": "40",
    "fmin_hz": "50",
    "fmax_hz": "7600",
    "floor": "1e-8",
}


def test_the_default_is_named_by_its_kind() -> None:
    plain = feature_set("logmel")
    assert (plain.name, plain.kind, plain.dim, plain.dtype, plain.hop_s) == ("logmel", "logmel", 80, "float32", 0.01)
    assert plain.minimum_s == 0.02 and plain.sample_rate_hz == 16000
    assert plain.bytes_for(1.0) == 101 * 80 * 4 and feature_set("logmel", dtype="float16").bytes_for(1.0) == 101 * 80 * 2


def test_every_setting_is_in_the_name_and_in_the_fingerprint() -> None:
    assert set(OTHERS) == set(UPSTREAMS["logmel"].options)
    sets = [feature_set("logmel"), feature_set("logmel", dtype="float16")]
    sets += [feature_set("logmel", {key: value}) for key, value in OTHERS.items()]
    assert len({s.fingerprint for s in sets}) == len({s.name for s in sets}) == len({s.folder for s in sets}) == len(sets)
    assert [s.name for s in sets[1:4]] == ["logmel+float16", "logmel+sample_rate_hz=18000", "logmel+preemphasis=0.95"]
    both = feature_set("logmel", {"n_mels": "40", "fmin_hz": "50"}, "float16")
    assert both.name == "logmel+fmin_hz=50+n_mels=40+float16"


@pytest.mark.parametrize(
    "options",
    [{"hop_s": "0.01"}, {"hop_s": "1e-2"}, {"fmin_hz": "0"}, {"fmin_hz": "-0"}, {"fmin_hz": "-0.0"}, {"n_mels": " 80 "}, {}],
)
def test_writing_a_default_another_way_changes_nothing(options: dict[str, str]) -> None:
    same, plain = feature_set("logmel", options), feature_set("logmel")
    assert (same.name, same.fingerprint, same.folder) == (plain.name, plain.fingerprint, plain.folder)


def test_settings_that_are_nearly_the_same_have_names_of_their_own() -> None:
    """A name that two configurations shared would make one of them look outdated."""
    near = feature_set("logmel", {"hop_s": "0.0100000001"})
    assert near.name == "logmel+hop_s=0.0100000001" and near.fingerprint != feature_set("logmel").fingerprint


@settings(max_examples=20)
@given(a=st.floats(1, 4000), b=st.floats(1, 4000))
def test_one_name_one_configuration(a: float, b: float) -> None:
    first, second = (feature_set("logmel", {"fmin_hz": repr(x)}) for x in (a, b))
    assert (first.fingerprint == second.fingerprint) == (a == b) == (first.name == second.name)
    for features in (first, second):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", features.folder)
        assert features.folder.endswith(features.fingerprint)


def test_another_algorithm_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = feature_set("logmel")
    monkeypatch.setattr(logmel, "ALGORITHM", logmel.ALGORITHM + 1)
    after = feature_set("logmel")
    assert after.name == before.name and after.fingerprint != before.fingerprint


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = "from tfser.pipeline.features.registry import feature_set; print(feature_set('logmel', {'n_mels': '40'}).fingerprint)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == feature_set("logmel", {"n_mels": "40"}).fingerprint


def test_what_is_built_has_the_promised_shape() -> None:
    for options in ({}, {"n_mels": "40", "hop_s": "0.005"}):
        features: FeatureSet = feature_set("logmel", options)
        for samples in (320, 16000, 16001):
            row = AudioRow(utterance_id="u", path="u.wav", start_s=None, end_s=None, content_hash="", duration_s=samples / 16000)
            (result,) = features.engine([row], lambda row, n=samples: np.ones(n, "f4"), Compute())
            assert result.frames is not None and result.frames[0].shape == (features.frames(samples), features.dim)


@pytest.mark.parametrize(
    ("name", "options", "dtype", "message"),
    [
        ("logmell", {}, "float32", r"unknown feature set 'logmell'; did you mean 'logmel'\?"),
        ("logmel", {"n_mel": "40"}, "float32", r"unknown option of logmel 'n_mel'; did you mean 'n_mels'\?"),
        ("logmel", {}, "float64", "unknown dtype 'float64'"),
        ("logmel", {"n_mels": "many"}, "float32", "--set n_mels=many: n_mels is a whole number"),
        ("logmel", {"n_mels": "40.5"}, "float32", "n_mels is a whole number"),
        ("logmel", {"hop_s": "ten"}, "float32", "--set hop_s=ten: hop_s is a number"),
        ("logmel", {"hop_s": "nan"}, "float32", "hop_s is nan"),
        ("logmel", {"hop_s": "-1"}, "float32", "above 0"),
        ("logmel", {"floor": "inf"}, "float32", "floor is inf"),
    ],
)
def test_what_is_off_is_one_line(name: str, options: dict[str, str], dtype: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        feature_set(name, options, dtype)
    assert "\n" not in str(caught.value)
