"""Predicting new audio: the test fold's files give the stored predictions bit for bit, and odd input gives one line each."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.heads import DIMENSION_REFERENCES, HEADS, TABLE_ONE
from tfser.heads.prediction.answers import SpokenAnswer, answers
from tfser.heads.prediction.companies import Familiar
from tfser.heads.prediction.export import Wish, export
from tfser.heads.prediction.folder import DESCRIPTION
from tfser.heads.prediction.inputs import corpus_inputs, measured, named_inputs, standard_input
from tfser.heads.prediction.loading import load_model
from tfser.heads.prediction.timeline import cut, windows
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.sound.recording import Recording

from ..conftest import run
from ..trained_heads import JOINED, LAYERS, SETS, Trained, away, check_fold, heard, predictions, stored


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A corpus of tones with log-Mel frames, a layer of a small encoder and all of its layers; heads come as they are needed."""
    found = Trained(tmp_path_factory.mktemp("trained"))
    found.need(("mean_pool", "logmel"), ("mean_pool", "wavlm-large/2"), ("mean_pool", LAYERS))
    return found


KINDS = [
    pytest.param(
        head, features, marks=() if head not in TABLE_ONE and (features == "logmel" or head == "mean_pool") else pytest.mark.slow
    )
    for head in HEADS
    if head not in DIMENSION_REFERENCES
    for features in ((JOINED,) if head == "ca_mser" else SETS)  # which reads three sets side by side
]


@pytest.mark.few(3)
@pytest.mark.parametrize(("head", "features"), [*KINDS, ("mean_pool", LAYERS)])
def test_a_test_fold_s_audio_gives_the_stored_predictions_bit_for_bit(
    trained: Trained, head: str, features: str, tmp_path: Path
) -> None:
    """The files lie elsewhere under other names, and in another order: what they sound like is what counts."""
    (run_id,) = trained.need((head, features))
    names = trained.elsewhere(tmp_path)
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path)


def test_a_joined_set_s_fold_comes_back_and_travels_whole(trained: Trained, tmp_path: Path) -> None:
    """Three front-ends of the same audio, by the rule that joined the stored frames; from the exported folder alone, too."""
    (run_id,) = trained.need(("mean_pool", JOINED))
    (tmp_path / "audio").mkdir()
    names = trained.elsewhere(tmp_path / "audio")
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path / "audio")
    export(trained.cache, run_id, tmp_path / "model")
    about = json.loads((tmp_path / "model" / DESCRIPTION).read_text())
    assert [part["name"] for part in about["features"]["parts"]] == JOINED.split("+")
    assert list(about["encoders"].values()) == ["encoder"] and "Side by side" in (tmp_path / "model" / "README.md").read_text()
    here = predictions(run_id, trained.audio / "a", trained.cache.root)
    assert away(trained, tmp_path / "model", tmp_path) == here


@pytest.mark.parametrize("features", ["logmel", pytest.param(LAYERS, marks=pytest.mark.slow)])
def test_a_fold_that_is_too_large_for_memory_gives_the_same_bits(
    trained: Trained, features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames lie in a file, which is gone afterwards, and each utterance is computed on its own."""
    (run_id,) = trained.need(("mean_pool", features))
    audio, aside = tmp_path / "audio", tmp_path / "aside"
    for folder in (audio, aside):
        folder.mkdir()
    names = trained.elsewhere(audio)
    monkeypatch.setattr("tfser.heads.prediction.packing.IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(aside))
    mapped: list[str] = []
    monkeypatch.setattr(np, "memmap", lambda *words, own=np.memmap, **more: mapped.append("") or own(*words, **more))
    model = load_model(run_id, trained.cache)
    check_fold(model, trained.cache, run_id, names, audio)
    assert mapped and not list(aside.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(TfserError, match="GB are free; let TMPDIR name a larger folder"):
        heard(model, [str(audio)])


def test_an_utterance_alone_agrees_but_for_rounding(trained: Trained) -> None:
    """Why the whole fold has to be evaluated together: the last bits depend on the batch."""
    (run_id,) = trained.need(("tf_transformer", "logmel"))
    expected = stored(trained.cache, run_id)
    model = load_model(run_id, trained.cache)
    for key in list(expected)[:3]:
        path = str(trained.audio / (key if key.endswith(".wav") else f"{key}.wav"))
        assert heard(model, [path])[path].shares() == pytest.approx(expected[key][0], abs=1e-6)


def test_a_corpus_is_predicted_with_its_labels_and_what_was_seen(trained: Trained) -> None:
    done = run(
        "predict", trained.runs["mean_pool", "logmel"], "--corpus", "toy", "--cache", trained.cache.root, "--format", "json"
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    expected = stored(trained.cache, said["model"][0])
    assert said["inputs"] == said["predicted"] == len(said["predictions"]) == 48 and said["unusable"] == []
    seen = {row["utterance_id"]: row["seen"] for row in said["predictions"]}
    assert {name for name, role in seen.items() if role == "test"} == set(expected)
    assert sum(role == "train" for role in seen.values()) == 12
    assert "12 inputs of 48 stood on the training or validation side" in done.stderr
    for row in said["predictions"]:
        assert row["label"] in ("anger", "sadness")
        if row["utterance_id"] in expected:
            assert row["probabilities"] == expected[row["utterance_id"]][0]


@pytest.mark.slow
def test_an_ensemble_is_the_mean_with_its_disagreement(trained: Trained, write_wav: Any, tmp_path: Path) -> None:
    run_id = trained.runs["mean_pool", "logmel"]
    trained.train(("mean_pool", "logmel"), folds="1,3")
    path = write_wav(tmp_path / "x.wav", 0.5)
    experiment = run_id.rsplit("-f", 1)[0]
    done = run("predict", experiment, path, "--ensemble", "--cache", trained.cache.root, "--format", "json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["predictions"]
    members = np.array([list(of.values()) for of in row["members"].values()])
    np.testing.assert_allclose(list(row["probabilities"].values()), members.mean(axis=0), atol=1e-7)
    assert row["agreement"] == pytest.approx((members.argmax(axis=1) == members.mean(axis=0).argmax()).mean())
    assert row["spread"] == pytest.approx(members[:, members.mean(axis=0).argmax()].std())
    refused = run("predict", experiment, path, "--cache", trained.cache.root)
    assert refused.exit_code == 2 and "--ensemble" in refused.stderr and "--fold none" in refused.stderr


# -- windows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
@pytest.mark.parametrize(
    ("total", "size", "step"), [(100, 20, 10), (105, 20, 20), (7, 20, 10), (20, 20, 5), (47, 10, 3), (0, 5, 5)]
)
def test_windows_cover_everything_in_bounded_memory(block: int, total: int, size: int, step: int) -> None:
    recording, samples = Recording(), np.arange(total, dtype=np.float32)
    recording.sample_rate = 1

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, total, block):
            yield samples[first : first + block]

    found = list(cut(blocks(), recording, size, step))
    for start, end, part in found:
        assert part.tolist() == samples[int(start) : int(end)].tolist() and len(part) == min(size, total)
    starts = [int(start) for start, _, _ in found]
    whole = list(range(0, max(total - size, 0) + 1, step)) if total else []
    assert starts == whole + ([total - size] if total > size and whole[-1] + size < total else [])


def test_a_window_is_predicted_as_a_file_of_its_own(trained: Trained, tmp_path: Path) -> None:
    """At a rate that has to be resampled, too."""
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(44100 * 3)).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", samples, 44100, subtype="FLOAT")
    model = load_model(trained.runs["mean_pool", "wavlm-large/2"], trained.cache)
    (speech,) = named_inputs([str(tmp_path / "long.wav")])
    found = list(windows(model.heads, model.fronts, speech, window_s=1.0, step_s=0.7))
    assert [round(of.start_s, 6) for of in found] == [0.0, 0.7, 1.4, 2.0] and found[-1].end_s == 3.0
    for i, window in enumerate(found):
        part = samples[round(window.start_s * 44100) : round(window.end_s * 44100)]
        soundfile.write(tmp_path / f"part{i}.wav", part, 44100, subtype="FLOAT")
        answer = heard(model, [str(tmp_path / f"part{i}.wav")])[str(tmp_path / f"part{i}.wav")]
        np.testing.assert_allclose(window.members, answer.members, atol=1e-6)


def test_a_timeline_as_rttm_and_csv(trained: Trained, write_wav: Any, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a talk.wav", 2.0, rate=8000)
    words = ["predict", trained.runs["mean_pool", "logmel"], path, "--timeline", "--window", 1, "--cache", trained.cache.root]
    lines = run(*words, "--format", "rttm").stdout.splitlines()
    assert [line.split()[:5] for line in lines] == [["SPEAKER", "a_talk", "1", f"{at:.3f}", "1.000"] for at in (0, 0.5, 1)]
    assert all(line.split()[7] in ("anger", "sadness") and len(line.split()) == 10 for line in lines)
    done = run(*words, "--output", tmp_path / "out.csv")
    head, *rows_of = (tmp_path / "out.csv").read_text().splitlines()
    assert done.exit_code == 0 and head == "input,start_s,end_s,predicted,reason,p_anger,p_sadness" and len(rows_of) == 3


# -- bad input ---------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(trained: Trained, write_wav: Any, tmp_path: Path) -> None:
    """0 samples, stereo, 8 kHz, 192 kHz, no audio at all, too short, a file that is not there."""
    soundfile.write(tmp_path / "none.wav", np.empty(0, np.float32), 16000)
    noise = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))
    soundfile.write(tmp_path / "stereo.wav", noise, 16000)
    write_wav(tmp_path / "8k.wav", 0.5, rate=8000)
    write_wav(tmp_path / "192k.wav", 0.2, rate=192000)
    write_wav(tmp_path / "short.wav", 0.005)
    (tmp_path / "text.wav").write_text("no sound")
    words = ["predict", trained.runs["mean_pool", "logmel"], tmp_path, tmp_path / "gone.wav", "--cache", trained.cache.root]
    done = run(*words, "--format", "json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert {Path(row["input"]).name for row in said["predictions"]} == {"stereo.wav", "8k.wav", "192k.wav"}
    reasons = {Path(row["input"]).name: row["reason"] for row in said["unusable"]}
    assert set(reasons) == {"none.wav", "short.wav", "text.wav", "gone.wav"}
    assert "no samples" in reasons["none.wav"] and "shorter than one window" in reasons["short.wav"]
    assert said["inputs"] == 7 and "3 of 7 inputs predicted" in done.stderr
    assert run(*words, "--strict").exit_code == 1
    alone = run("predict", words[1], tmp_path / "none.wav", "--cache", trained.cache.root)
    assert alone.exit_code == 1 and "Traceback" not in alone.output and "none of 1 input could be predicted" in alone.stderr


def test_stereo_is_the_mean_of_its_channels(trained: Trained, tmp_path: Path) -> None:
    two = (0.1 * np.random.default_rng(1).standard_normal((8000, 2))).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", two, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "one.wav", two.mean(axis=1, dtype=np.float64).astype(np.float32), 16000, subtype="FLOAT")
    model = load_model(trained.runs["mean_pool", "logmel"], trained.cache)
    a, b = (heard(model, [str(tmp_path / name)])[str(tmp_path / name)].shares() for name in ("two.wav", "one.wav"))
    assert a == b


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}"], "say what to predict"),
        (["{run}", "{audio}", "--corpus", "toy"], "say what to predict"),
        (["{run}", "/nowhere/at/all"], "no such file or folder"),
        (["{run}", "{audio}/*.flac"], "no file is called like this"),
        (["{run}", "{audio}", "--format", "rttm"], "add --timeline"),
        (["{run}", "{audio}", "--timeline", "--step", "9"], "no longer than the window"),
        (["{run}", "--corpus", "emod"], "unknown corpus"),
        (["no_such_run", "{audio}"], "unknown experiment"),
        (["{run}", "{audio}", "--selection", "val"], "no epoch was selected by validation"),
        (["{run}", "{audio}", "--selection", "best"], "unknown selection"),
        (["{run}", "{audio}", "--weights", "x"], "computed without any"),
        (["{run}", "{audio}", "--raw-rate", "8000"], "name -"),
        (["{run}", "{audio}", "--output", "/nowhere/x.csv"], "no folder"),
    ],
)
def test_requests_that_are_off(trained: Trained, words: list[str], message: str) -> None:
    of = {"run": trained.runs["mean_pool", "logmel"], "audio": str(trained.audio / "a")}
    done = run("predict", *(word.format(**of) for word in words), "--cache", trained.cache.root)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_standard_input_wav_and_raw(trained: Trained, tmp_path: Path) -> None:
    samples = (3000 * np.random.default_rng(2).standard_normal(8000)).astype("<i2")
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="PCM_16")
    model = load_model(trained.runs["mean_pool", "logmel"], trained.cache)
    expected = heard(model, [str(tmp_path / "x.wav")])[str(tmp_path / "x.wav")].shares()
    for content, rate in (((tmp_path / "x.wav").read_bytes(), None), (samples.tobytes(), 16000)):
        with standard_input(["-"], rate, io.BytesIO(content)) as path:
            usable, _ = measured(named_inputs(["-"], stdin=path))
            (answer,) = answers(model.heads, model.fronts, usable, known=Familiar())
            assert isinstance(answer, SpokenAnswer) and answer.shares() == expected and answer.speech.name == "-"
    for content, rate, message in ((b"", None, "empty"), (b"abc", 16000, "16-bit")):
        with pytest.raises(UsageError, match=message), standard_input(["-"], rate, io.BytesIO(content)):
            pass


def test_damaged_weights_are_refused(trained: Trained, tmp_path: Path) -> None:
    run_id = trained.runs["mean_pool", "logmel"]
    copy = Cache(tmp_path / "cache")
    shutil.copytree(trained.cache.root, copy.root)
    path = copy.runs / run_id / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = run("predict", run_id, trained.audio / "a", "--cache", copy.root)
    assert done.exit_code == 1 and "its content is not what was written" in done.stderr and not done.stdout


def test_an_encoder_that_is_not_here_or_another_one(trained: Trained, tmp_path: Path) -> None:
    run_id = trained.runs["mean_pool", "wavlm-large/2"]
    moved = tmp_path / "moved"
    trained.weights.rename(moved)
    try:
        words = ["predict", run_id, trained.audio / "a", "--cache", trained.cache.root, "--format", "json"]
        gone = run(*words)
        assert gone.exit_code == 1 and str(trained.weights) in gone.stderr and "--weights" in gone.stderr
        with open_catalogue(trained.cache) as connection:
            (row,) = rows(connection, "SELECT config FROM feature_sets WHERE feature_set = 'wavlm-large/2'")
        assert json.loads(row["config"])["weights"] in gone.stderr
        assert run(*words, "--weights", moved).exit_code == 0  # found by its content
        other = shutil.copytree(moved, tmp_path / "other")
        (weights,) = other.glob("*.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        refused = run(*words, "--weights", other)
        assert refused.exit_code == 1 and "holds other weights" in refused.stderr
    finally:
        moved.rename(trained.weights)


@pytest.mark.slow
def test_an_exported_folder_takes_an_encoder_of_a_folder_along(trained: Trained, tmp_path: Path) -> None:
    """What came from a folder of this machine is nowhere else; on another machine the folder is all there is."""
    run_id, audio = trained.runs["mean_pool", "wavlm-large/2"], trained.audio / "a"
    export(trained.cache, run_id, tmp_path / "model")
    here = run("predict", run_id, audio, "--cache", trained.cache.root, "--format", "json")
    moved = tmp_path / "moved"
    trained.weights.rename(moved)
    try:
        alone = run("predict", tmp_path / "model", audio, "--cache", tmp_path / "none", "--format", "json")
    finally:
        moved.rename(trained.weights)
    assert alone.exit_code == 0, alone.output
    a, b = (json.loads(done.stdout)["predictions"] for done in (here, alone))
    assert [row["probabilities"] for row in a] == [row["probabilities"] for row in b]
    assert (tmp_path / "model" / "encoder" / "config.json").is_file()
    export(trained.cache, run_id, tmp_path / "without", Wish(encoder=False))
    assert not (tmp_path / "without" / "encoder").exists()


def test_features_that_this_version_computes_otherwise_are_refused(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfser.pipeline.features.logmel.ALGORITHM", 99)
    with pytest.raises(TfserError, match="algorithm 1, here 99"):
        load_model(trained.runs["mean_pool", "logmel"], trained.cache)


@pytest.mark.slow
def test_a_head_that_normalises_by_speaker_asks_who_speaks(trained: Trained) -> None:
    """With everybody of the fold it gives the stored predictions; a stranger has to be named."""
    (run_id,) = trained.train(("mean_pool", "logmel"), normalise="speaker")
    model = load_model(run_id, trained.cache)
    found = heard(model, [str(trained.audio / "b")])
    expected = stored(trained.cache, run_id)
    assert sorted(str(of.shares()) for of in found.values()) == sorted(str(of[0]) for of in expected.values())
    words = ["predict", run_id, trained.audio / "a", "--cache", trained.cache.root]
    refused = run(*words)
    assert refused.exit_code == 2 and "--speaker" in refused.stderr
    assert run(*words, "--speaker", "a").exit_code == 0
    speech, _ = corpus_inputs(trained.cache, "toy")
    assert {piece.speaker for piece in speech} == {"a", "b", "c"}
