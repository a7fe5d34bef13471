"""openSMILE's functionals: one vector an utterance, as openSMILE gives it, and how the rest of the program takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.derived.join import join, joined
from tfser.pipeline.features import functionals as module
from tfser.pipeline.features.functionals import ComParEConfig, EGeMAPSConfig, Functionals
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.sound.video import MissingExtraError

opensmile = pytest.importorskip("opensmile", reason="the extra [opensmile] is not installed")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def test_they_are_what_opensmile_gives() -> None:
    x = noise(16000)
    smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals)
    found = Functionals(EGeMAPSConfig()).extract(x)
    assert found.shape == (1, 88) and found.dtype == np.float32
    np.testing.assert_array_equal(found, smile.process_signal(x, 16000).to_numpy())


def test_they_do_not_depend_on_what_was_extracted_before() -> None:
    front = Functionals(EGeMAPSConfig())
    x, y = noise(8000), noise(12000, 1)
    first = front.extract(x)
    front.extract(y)
    np.testing.assert_array_equal(front.extract(x), first)


def test_sets_say_that_they_are_of_whole_utterances_and_by_which_opensmile() -> None:
    egemaps, compare = feature_set("egemaps"), feature_set("compare2016")
    assert (egemaps.dim, compare.dim, egemaps.frames(16000), egemaps.frames(160000)) == (88, 6373, 1, 1)
    assert egemaps.config["per"] == "utterance" and egemaps.config["opensmile"] == opensmile.__version__
    other = feature_set("egemaps", {"sample_rate_hz": "22050"})
    assert other.name == "egemaps+sample_rate_hz=22050" and other.fingerprint != egemaps.fingerprint
    assert (EGeMAPSConfig.dim, ComParEConfig.dim) == (88, 6373)


@pytest.mark.parametrize("options", [{"sample_rate_hz": "7999"}, {"sample_rate_hz": "x"}, {"n_mels": "3"}])
def test_settings_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        feature_set("egemaps", options)


def test_too_short_an_utterance_has_a_reason_and_no_nan() -> None:
    with pytest.raises(TfserError, match="no numbers for 50 ms"):
        Functionals(EGeMAPSConfig()).extract(noise(800))


def test_without_opensmile_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[opensmile\]'"):
        feature_set("egemaps")


def test_a_vector_stands_beside_every_frame_and_never_sets_the_pace(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    put_corpus(cache, [Utterance(utterance_id=name, path=f"{name}.wav", speaker=name, label="a") for name in "xy"])
    frames = {name: noise(300).reshape(100, 3) for name in "xy"}
    vector = {name: noise(4, seed).reshape(1, 4) for seed, name in enumerate("xy")}
    put_stack(cache, frames, 1, name="frames")
    put_stack(cache, vector, 1, name="vector", config={"per": "utterance"})
    with pytest.raises(UsageError, match=r"cannot set the pace; write frames\+vector"):
        joined(cache, "vector+frames")
    target = joined(cache, "frames+vector")
    (report,) = join(cache, target)  # utterances as long as that are not "of unequal lengths"
    assert report.written == 2 and "per" not in target.config
    np.testing.assert_array_equal(
        target.combine([frames["x"], vector["x"]]), np.concatenate([frames["x"], np.repeat(vector["x"], 100, axis=0)], axis=1)
    )
