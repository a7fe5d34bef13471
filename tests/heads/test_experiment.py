"""From a cache to a stored run: choices, kills, and what makes a run the same run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from tfser.heads import head
from tfser.heads.runs.chosen_features import meant_here
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import audit_experiment, train_fold
from tfser.heads.runs.request import Request
from tfser.heads.training.loop import TrainedState, predict
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.utterances import Utterance
from tfser.pipeline.corpora import locate
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.scanning.scan import scan

from ..conftest import fill_with_tones


@pytest.fixture
def filled(cache: Cache, tmp_path: Path) -> Cache:
    fill_with_tones(cache, tmp_path / "wavs")
    return cache


def train(cache: Cache, fold: int = 1, **request: Any) -> Any:
    experiment = resolve(cache, Request(head="mean_pool", device="cpu", **{"epochs": 2, **request}))
    findings = audit_experiment(cache, experiment)
    return train_fold(cache, experiment, fold, lambda: load(cache, experiment), findings)


CHANGES: list[dict[str, Any]] = [
    {"seed": 1},
    {"epochs": 3},
    {"preset": "linear"},
    {"settings": {"lr": "0.01"}},
    {"validation": "next-group"},
    {"protocol": "group-kfold:2"},
    {"fold": 2},
]


@pytest.mark.slow
def test_what_makes_a_run_the_same(filled: Cache) -> None:
    """By its id; that the other runs are trained is looked at in the slow test."""

    def named(fold: int = 1, **request: Any) -> str:
        return resolve(filled, Request(head="mean_pool", device="cpu", **{"epochs": 2, **request})).run_id(fold)

    first = train(filled)
    assert first.trained and not train(filled).trained and named() == first.about["run_id"]
    assert len({named(), *(named(**change) for change in CHANGES)}) == 1 + len(CHANGES)


@pytest.mark.slow
def test_what_makes_a_run_the_same_is_trained_once(filled: Cache) -> None:
    first = train(filled)
    assert first.trained and not train(filled).trained
    names = {first.about["run_id"]}
    for change in CHANGES:
        result = train(filled, **change)
        assert result.trained and result.about["run_id"] not in names, change
        names.add(result.about["run_id"])


@pytest.mark.slow
def test_new_audio_makes_a_new_experiment(filled: Cache, tmp_path: Path) -> None:
    first = train(filled)
    path = tmp_path / "wavs" / "a" / "anger0.wav"
    soundfile.write(path, np.random.default_rng(9).uniform(-0.1, 0.1, 9000), 16000)
    found = locate(filled, "toy")
    scan(filled, found.reader, corpus="toy", root=found.root, options=found.options)
    refresh(filled)
    with pytest.raises(TfserError, match=r"features missing or stale.*tfser extract"):
        train(filled)
    extract(filled, "toy", feature_set("logmel"))
    second = train(filled)
    assert second.trained and second.about["experiment"] != first.about["experiment"]


def test_training_statistics_come_from_the_training_side(filled: Cache) -> None:
    result = train(filled)
    state = load_file(filled.runs / result.about["run_id"] / "model.safetensors")
    experiment = resolve(filled, Request(head="mean_pool", device="cpu", epochs=2))
    data = load(filled, experiment)
    speakers = np.array(data.speakers)
    frames = np.concatenate([data.features.of(int(i)) for i in np.flatnonzero(speakers != "a")]).astype(np.float64)
    assert state["normaliser.mean"].numpy() == pytest.approx(frames.mean(axis=0), rel=1e-4)


@pytest.mark.slow
def test_a_saved_model_predicts_what_the_run_stored(filled: Cache) -> None:
    result = train(filled)
    config = result.about["config"]
    spec = head("mean_pool")
    experiment = resolve(filled, Request(head="mean_pool", device="cpu", epochs=2))
    data = load(filled, experiment)
    again = predict(
        TrainedState(
            state=load_file(filled.runs / result.about["run_id"] / "model.safetensors"),
            spec=spec,
            config=type(spec.preset("mlp")).from_dict(config["head_config"]),
            recipe=type(spec.recipe()).from_dict(config["recipe_config"]),
            n_classes=len(config["classes"]),
        ),
        data.features,
    )
    refresh(filled)
    with open_catalogue(filled) as connection:
        stored = rows(connection, "SELECT * FROM predictions WHERE selection = 'last' AND level = 'utterance'")
    place = {name: i for i, name in enumerate(data.features.utterance_ids)}
    assert len(stored) == len(data.sides[1]["test"]) > 0
    for row in stored:
        found = again.utterance_probabilities[place[row["utterance_id"]]]
        assert found == pytest.approx([row["probabilities"][c] for c in config["classes"]], abs=1e-6)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    def predictions(cache: Cache) -> list[dict[str, Any]]:
        with open_catalogue(cache) as connection:
            return rows(connection, "SELECT * EXCLUDE (run_id) FROM predictions ORDER BY ALL")

    straight, killed = Cache(tmp_path / "straight"), Cache(tmp_path / "killed")
    fill_with_tones(straight, tmp_path / "wavs")
    fill_with_tones(killed, tmp_path / "wavs")
    words = ["train", "--head", "mean_pool", "--fold", "2", "--epochs", "60", "--validation", "next-group", "--device", "cpu"]
    words += ["--checkpoint-every", "0", "--threads", "1"]
    command = [sys.executable, "-m", "tfser.cli", *words, "--cache"]
    subprocess.run([*command, str(straight.root)], check=True, capture_output=True)
    rng, landed = random.Random(4), 0
    for _ in range(4):
        process = subprocess.Popen([*command, str(killed.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(killed.runs.glob("*/checkpoint/checkpoint.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        landed += process.wait() == -signal.SIGKILL
    assert landed, "no kill landed inside the training"
    assert not predictions(killed) or landed < 4
    done = subprocess.run([*command, str(killed.root)], check=True, capture_output=True, text=True)
    assert predictions(killed) == predictions(straight), done.stderr
    (folder,) = killed.runs.iterdir()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert not (folder / "checkpoint").exists()


@pytest.mark.slow
def test_features_are_chosen_as_the_head_prefers(filled: Cache) -> None:
    extract(filled, "toy", feature_set("logmel", {"n_mels": "40"}))
    refresh(filled)
    assert resolve(filled, Request(head="tf_transformer", device="cpu")).feature_set == "logmel"
    with pytest.raises(UsageError, match=r"wavlm-large/12 of toy are not in the cache, which holds logmel, logmel\+n_mels=40"):
        resolve(filled, Request(head="tf_transformer", features="wavlm-large/12", device="cpu"))


@pytest.mark.slow
def test_numbers_do_not_depend_on_how_the_cache_grew(tmp_path: Path) -> None:
    def stored(cache: Cache) -> list[dict[str, Any]]:
        refresh(cache)
        with open_catalogue(cache) as connection:
            return rows(connection, "SELECT * FROM predictions ORDER BY ALL")

    straight, grown = Cache(tmp_path / "straight"), Cache(tmp_path / "grown")
    fill_with_tones(straight, tmp_path / "wavs")
    fill_with_tones(grown, tmp_path / "wavs")
    for shard in grown.feature_root.glob("*/toy/*"):
        shard.unlink()
    extract(grown, "toy", feature_set("logmel"), shard_utterances=5, format="parquet")
    refresh(grown)
    train(straight)
    train(grown)
    assert stored(straight) == stored(grown)


def test_a_new_scan_while_training_is_noticed(filled: Cache, tmp_path: Path) -> None:
    experiment = resolve(filled, Request(head="mean_pool", device="cpu", epochs=1))
    load(filled, experiment)
    table = tmp_path / "wavs" / "toy.csv"
    table.write_text(table.read_text().replace("a/anger0.wav,anger,a", "a/anger0.wav,anger,b"))
    found = locate(filled, "toy")
    scan(filled, found.reader, corpus="toy", root=found.root, options=found.options)
    with pytest.raises(TfserError, match="anew while this ran"):
        load(filled, experiment)
    assert resolve(filled, Request(head="mean_pool", device="cpu", epochs=1)).name != experiment.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.json", "predictions.parquet"])
def test_a_damaged_run_is_trained_again(filled: Cache, name: str) -> None:
    first = train(filled)
    path = filled.runs / first.about["run_id"] / name
    path.write_bytes(path.read_bytes()[:50])
    again = train(filled)
    assert again.trained and again.about["run_id"] == first.about["run_id"]
    assert not train(filled).trained


def test_an_encoder_s_name_finds_its_layer() -> None:
    """The default layer if it is there, the only one else; several leave a choice."""
    have = ["hubert-large/24", "hubert-large/6", "logmel", "wavlm-base/all"]
    have += ["wavlm-large/12", "wavlm-large/6", "wavlm-large/all"]
    assert meant_here("wavlm-large", have) == ["wavlm-large/12"]
    assert meant_here("hubert-large", have) == ["hubert-large/24", "hubert-large/6"]
    assert meant_here("wavlm-base", have) == ["wavlm-base/all"]
    assert meant_here("wavlm", have) == [] and meant_here("logmel", have) == ["logmel"]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("have", "taken"),
    [
        (("logmel", "wavlm-large/12", "wavlm-large/all"), "wavlm-large/12"),
        (("logmel", "wavlm-large/6"), "wavlm-large/6"),
        (("logmel", "wavlm-large/all"), "logmel"),
        (("logmel", "hubert-large/24", "hubert-large/6"), None),
        (("logmel", "hubert-large/24", "wavlm-base/12"), "hubert-large/24"),
    ],
)
def test_the_favourite_in_the_cache_is_taken(
    tmp_path: Path, put_corpus: Any, put_features: Any, have: tuple[str, ...], taken: str | None
) -> None:
    here = Cache(tmp_path / "cache")
    utterances = [
        Utterance(utterance_id=f"u{i}", path=f"{i}.wav", speaker=f"s{i % 4}", label=label, raw_label=label)
        for i, label in enumerate(("anger",) * 4 + ("sadness",) * 4)
    ]
    put_corpus(here, utterances, corpus="toy", default_protocol="loso-speaker")
    for name in have:
        put_features(here, [u.utterance_id for u in utterances], corpus="toy", name=name)
    request = Request(head="mean_pool", device="cpu")
    if taken is None:
        with pytest.raises(UsageError, match="which features"):
            resolve(here, request)
    else:
        assert resolve(here, request).feature_set == taken
