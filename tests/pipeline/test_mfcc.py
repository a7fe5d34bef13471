"""MFCC: the orthonormal DCT-II of log-Mel frames, each of its own samples; a front-end like any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from tfser.manifests.errors import UsageError
from tfser.pipeline.features.logmel import LogMel, LogMelConfig
from tfser.pipeline.features.mfcc import MFCC, MFCCConfig
from tfser.pipeline.features.registry import UPSTREAMS, feature_set


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples) * 0.1


@given(bands=st.integers(2, 40), kept=st.integers(1, 40), samples=st.integers(320, 3000))
def test_they_are_the_transform_that_scipy_has(bands: int, kept: int, samples: int) -> None:
    kept = min(kept, bands)
    found = MFCC(MFCCConfig(n_mels=bands, n_mfcc=kept)).extract(noise(samples))
    wanted = dct(LogMel(LogMelConfig(n_mels=bands)).extract(noise(samples)), type=2, norm="ortho", axis=1)[:, :kept]
    np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_a_frame_is_that_of_its_own_samples_to_the_bit() -> None:
    x = noise(9000)
    whole, part = MFCC().extract(x), MFCC().extract(x[:5000])
    assert whole.shape == (57, 40) and np.array_equal(whole[:29], part[:29])  # frame 29 sees zeros behind the end


def test_all_coefficients_hold_all_that_the_bands_hold() -> None:
    x = noise(4000)
    energies = LogMel().extract(x)
    np.testing.assert_allclose(np.linalg.norm(MFCC(MFCCConfig(n_mfcc=80)).extract(x), axis=1), np.linalg.norm(energies, axis=1))


def test_names_and_fingerprints_say_what_differs() -> None:
    plain, few = feature_set("mfcc"), feature_set("mfcc", {"n_mfcc": "13"})
    assert (plain.name, plain.dim, plain.hop_s) == ("mfcc", 40, 0.01) and (few.name, few.dim) == ("mfcc+n_mfcc=13", 13)
    assert len({plain.fingerprint, few.fingerprint, feature_set("logmel").fingerprint}) == 3
    assert feature_set("mfcc", {"n_mfcc": "40"}).fingerprint == plain.fingerprint
    assert set(UPSTREAMS["mfcc"].options) == {*UPSTREAMS["logmel"].options, "n_mfcc"}


def test_the_log_mel_fingerprint_is_that_of_the_first_release() -> None:
    assert feature_set("logmel").fingerprint.startswith("87b47e386f32618c")


@pytest.mark.parametrize("options", [{"n_mfcc": "0"}, {"n_mfcc": "81"}, {"n_mels": "30"}, {"n_mfcc": "x"}])
def test_more_coefficients_than_bands_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="n_mfcc"):
        feature_set("mfcc", options)
