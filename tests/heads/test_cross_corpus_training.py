"""Training across corpora: from two scanned corpora whose ids and speakers are called the same to stored scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, train_fold
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError
from tfser.pipeline.corpora import locate
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan

TONES = (("anger", 1500), ("sadness", 300))


def fill(cache: Cache, root: Path, name: str, seed: int, copied: Path | None = None) -> None:
    """Two speakers, a and b, and two tones; one corpus is louder. `copied` is a file that takes the place of one of its own."""
    lines = ["utterance_id,path,label,speaker"]
    for s, speaker in enumerate("ab"):
        for label, hz in TONES:
            for i in range(4):
                rng = np.random.default_rng([seed, s, hz, i])
                t = np.arange(int(8000 * rng.uniform(0.8, 2))) / 16000
                path = root / name / speaker / f"{label}{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                sound = 0.1 * seed * np.sin(2 * np.pi * hz * t) + 0.02 * rng.standard_normal(len(t))
                soundfile.write(path, sound, 16000)
                lines.append(f"{speaker}{label}{i},{speaker}/{label}{i}.wav,{label},{speaker}")
    if copied:
        path.write_bytes(copied.read_bytes())
    (root / name / "table.csv").write_text("\n".join(lines))
    found = locate(cache, "table", name=name, table=root / name / "table.csv")
    scan(cache, found.reader, corpus=found.corpus, root=found.root, options=found.options)
    extract(cache, name, feature_set("logmel"))
    refresh(cache)


def train(cache: Cache, fold: int = 1, **request: Any) -> Any:
    experiment = resolve(cache, Request(head="mean_pool", device="cpu", **{"epochs": 3, **request}))
    return train_fold(cache, experiment, fold, lambda: load(cache, experiment), audit_experiment(cache, experiment))


def ask(cache: Cache, query: str) -> list[dict[str, Any]]:
    refresh(cache)
    with open_catalogue(cache) as connection:
        return rows(connection, query)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    above = tmp_path_factory.mktemp("corpora")
    cache = Cache(above / "cache")
    fill(cache, above, "first", 1)
    fill(cache, above, "second", 3)
    return above


@pytest.fixture
def filled(both: Path, cache: Cache) -> Cache:
    """A copy of the cache of both corpora."""
    shutil.copytree(both / "cache", cache.root)
    return cache


@pytest.mark.slow
def test_train_on_one_test_on_another(filled: Cache) -> None:
    result = train(filled, protocol="cross:first:second")
    about = result.about
    assert (about["corpus"], about["protocol"], about["audit"]) == ("first+second", "cross:first:second", "passed")
    assert ask(filled, "SELECT DISTINCT corpus FROM predictions") == [{"corpus": "second"}]  # whose utterances were tested
    tested = ask(
        filled,
        "SELECT count(*) AS n, count(DISTINCT p.utterance_id) AS ids, bool_and(p.label = u.label) AS same FROM predictions p "
        "JOIN utterances u USING (corpus, utterance_id) WHERE p.selection = 'last' AND p.level = 'utterance'",
    )
    assert tested == [{"n": 16, "ids": 16, "same": True}]
    (score,) = ask(filled, "SELECT corpus, folds, of_folds, UA FROM scores WHERE selection = 'last' AND level = 'utterance'")
    assert (score["corpus"], score["folds"], score["of_folds"]) == ("first+second", 1, 1) and 0 <= score["UA"] <= 1
    assert not train(filled, protocol="cross:first:second").trained  # the same request finds the same run
    assert train(filled, protocol="cross:second:first").about["run_id"] != about["run_id"]


def test_statistics_come_from_the_training_corpus(filled: Cache) -> None:
    result = train(filled, protocol="cross:first:second")
    state = load_file(filled.runs / result.about["run_id"] / "model.safetensors")
    data = load(filled, resolve(filled, Request(head="mean_pool", device="cpu", protocol="cross:first:second")))
    of_first = [data.features.of(i) for i, name in enumerate(data.corpora) if name == "first"]
    assert len(of_first) == 16
    assert state["normaliser.mean"].numpy() == pytest.approx(np.concatenate(of_first).astype(np.float64).mean(axis=0), rel=1e-4)


def test_speakers_of_two_corpora_are_never_one(filled: Cache) -> None:
    experiment = resolve(filled, Request(head="mean_pool", device="cpu", protocol="loco:first,second/speakers:1"))
    data = load(filled, experiment)
    assert set(data.speakers) == {"first/a", "first/b", "second/a", "second/b"}
    for fold in (1, 2):
        sides = {role: {data.speakers[i] for i in of} for role, of in data.sides[fold].items()}
        assert len(sides["val"]) == len(sides["train"]) == 1 and len(sides["test"]) == 2
        assert not sides["val"] & sides["train"]
    result = train(filled, 2, protocol="loco:first,second/speakers:1", settings={"normalise": "speaker"})
    assert result.about["validation"] == "speakers:1"
    selections = ask(filled, "SELECT DISTINCT selection FROM metrics ORDER BY 1")
    assert [r["selection"] for r in selections] == ["last", "test-oracle", "val"]


@pytest.mark.slow
def test_a_random_validation_side_is_a_selection_of_its_own(filled: Cache) -> None:
    result = train(filled, corpus="first", protocol="random-kfold:2", validation="random-leaky:0.2")
    assert result.about["validation"] == "random-leaky:0.2"
    warned = [f["audit"] for f in result.about["findings"]]
    assert "validation_speakers" in warned
    assert ask(filled, "SELECT count(*) AS n FROM history WHERE val_UA IS NULL") == [{"n": 0}]


@pytest.mark.slow
def test_the_same_audio_in_both_corpora_stops_training(both: Path, filled: Cache, tmp_path: Path) -> None:
    fill(filled, tmp_path, "third", 2, copied=both / "first" / "a" / "anger0.wav")
    with pytest.raises(TfserError, match="the same audio on both sides"):
        train(filled, protocol="cross:first:third")
    assert train(filled, protocol="cross:first:third", allow_leaks=True).about["audit"] == "overridden"
    assert train(filled, protocol="cross:second:third").about["audit"] == "passed"


@pytest.mark.slow
def test_corpora_without_a_feature_set_in_common(filled: Cache) -> None:
    for shard in filled.feature_root.glob("*/second/*.rows.parquet"):
        shard.unlink()
    refresh(filled)
    with pytest.raises(TfserError, match="no features of second in the cache; run `tfser extract --corpus second` first"):
        resolve(filled, Request(head="mean_pool", device="cpu", protocol="cross:first:second"))
    extract(filled, "second", feature_set("logmel", {"n_mels": "40"}))
    refresh(filled)
    with pytest.raises(TfserError, match="no feature set that all corpora have"):
        resolve(filled, Request(head="mean_pool", device="cpu", protocol="cross:first:second"))
