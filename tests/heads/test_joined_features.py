"""Heads on feature sets side by side: what is trained is the joined set, by its name and fingerprint, audited as a whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, train_fold
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.errors import UsageError
from tfser.manifests.files import write_json
from tfser.manifests.utterances import Utterance
from tfser.pipeline.derived.join import join, joined

IDS = [f"u{i:02d}" for i in range(12)]
SMALL = {"segment_frames": "12", "image": "63,63", "lstm_units": "4", "hidden": "8"}


@pytest.fixture
def cache_of_three(cache: Cache, put_corpus: Any, put_stack: Any) -> Cache:
    """Return a cache of 12 utterances of three speakers with log-Mel frames (3 wide), MFCC (2) and an encoder's (4)."""
    put_corpus(
        cache,
        [Utterance(utterance_id=i, path=f"{i}.wav", speaker=f"s{n % 3}", label="ab"[n // 3 % 2]) for n, i in enumerate(IDS)],
        default_protocol="loso-speaker",
    )
    for number, (name, kind, dim) in enumerate((("logmel", "logmel", 3), ("mfcc", "mfcc", 2), ("enc/3", "wavlm", 4))):
        rng = np.random.default_rng(number)
        put_stack(cache, {i: rng.standard_normal((14, dim)).astype(np.float32) for i in IDS}, 1, name=name)
        (made,) = (of for of in cache.feature_root.glob(f"{name.replace('/', '-')}-*") if len(of.name.split("-")[-1]) == 16)
        about = json.loads((made / "feature_set.json").read_text()) | {"kind": kind, "fingerprint": f"{number}" * 16}
        moved = made.rename(made.with_name(f"{name.replace('/', '-')}-{about['fingerprint']}"))
        write_json(moved / "feature_set.json", about)
    return cache


@pytest.mark.slow
def test_a_run_is_of_the_joined_set(cache_of_three: Cache) -> None:
    target = joined(cache_of_three, "logmel+enc/3")
    join(cache_of_three, target)
    asked = Request(head="mean_pool", features="logmel+enc/3", folds="1", epochs=1, device="cpu")
    experiment = resolve(cache_of_three, asked)
    assert (experiment.feature_set, experiment.fingerprint, experiment.dim) == ("logmel+enc/3", target.fingerprint, 7)
    other = resolve(cache_of_three, Request(head="mean_pool", features="logmel", folds="1", epochs=1, device="cpu"))
    assert other.name != experiment.name and other.feature_set == "logmel"
    findings = audit_experiment(cache_of_three, experiment)
    assert not [finding for finding in findings if finding.level == "error"]
    loaded = load(cache_of_three, experiment)
    result = train_fold(cache_of_three, experiment, 1, lambda: loaded, findings)
    assert result.trained and result.about["feature_set"] == "logmel+enc/3"


@pytest.mark.slow
def test_ca_mser_takes_the_widths_of_the_parts(cache_of_three: Cache) -> None:
    join(cache_of_three, joined(cache_of_three, "logmel+mfcc+enc/3"))
    asked = Request(head="ca_mser", features="logmel+mfcc+enc/3", folds="1", epochs=1, settings=SMALL, device="cpu")
    experiment = resolve(cache_of_three, asked)
    assert experiment.config.to_dict()["part_dims"] == [3, 2]
    loaded = load(cache_of_three, experiment)
    assert train_fold(cache_of_three, experiment, 1, lambda: loaded, audit_experiment(cache_of_three, experiment)).trained


@pytest.mark.few(1)
@pytest.mark.parametrize("features", ["enc/3", "mfcc+logmel+enc/3", "logmel+enc/3"])
def test_ca_mser_refuses_what_is_not_its_three(cache_of_three: Cache, features: str) -> None:
    if "+" in features:
        join(cache_of_three, joined(cache_of_three, features))
    with pytest.raises(UsageError, match=r"reads logmel\+mfcc\+an encoder's frames side by side.*tfser cache join"):
        resolve(cache_of_three, Request(head="ca_mser", features=features, settings=SMALL, device="cpu"))


def test_what_is_not_joined_yet_says_how(cache_of_three: Cache) -> None:
    with pytest.raises(UsageError, match=r"run `tfser cache join --features logmel\+enc/3` first"):
        resolve(cache_of_three, Request(head="mean_pool", features="logmel+enc/3", device="cpu"))
