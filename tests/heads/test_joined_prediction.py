"""Heads on features that are made of others, heard again: joined, mixed, a layer of a stack, functionals; and fusions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tfser.heads.prediction.export import Wish, export
from tfser.heads.prediction.loading import load_model
from tfser.heads.prediction.trackers import finished_runs, to_mlflow, to_tensorboard
from tfser.heads.results.fusion import fuse, plan_fusion
from tfser.heads.runs.store import finished
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.derived.join import join, joined

from ..conftest import run
from ..trained_heads import JOINED, LAYERS, Trained, away, check_fold, predictions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Tones with log-Mel frames, a layer of a small encoder and all its layers."""
    return Trained(tmp_path_factory.mktemp("trained"))


# -- joined ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_part_that_is_gone_is_named_or_made_by_its_name(trained: Trained, tmp_path: Path) -> None:
    (run_id,) = trained.need(("mean_pool", JOINED))
    copy = Cache(tmp_path / "cache")
    shutil.copytree(trained.cache.root, copy.root)
    here = predictions(run_id, trained.audio / "a", copy.root)
    for folder in copy.feature_root.glob("mfcc-*"):
        shutil.rmtree(folder)
    assert predictions(run_id, trained.audio / "a", copy.root) == here
    for folder in copy.feature_root.glob("wavlm-large-*"):
        shutil.rmtree(folder)
    done = run("predict", run_id, trained.audio / "a", "--cache", copy.root)
    assert done.exit_code == 1 and "wavlm-large/2" in done.stderr and "extract it again" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_weights_of_a_joined_set_are_those_of_its_encoder(trained: Trained, tmp_path: Path) -> None:
    (run_id,) = trained.need(("mean_pool", JOINED))
    moved = trained.weights.rename(tmp_path / "moved")
    words = ["predict", run_id, trained.audio / "a" / "anger0.wav", "--cache", trained.cache.root]
    try:
        gone = run(*words)
        assert gone.exit_code == 1 and "--weights" in gone.stderr
        assert run(*words, "--weights", moved).exit_code == 0
    finally:
        moved.rename(trained.weights)


@pytest.mark.slow
def test_a_joined_set_of_two_paces_and_rates(trained: Trained, tmp_path: Path) -> None:
    """What is refused in a set is told for the whole: the shortest audio is that of the part that wants most."""
    (run_id,) = trained.need(("logreg", JOINED))
    model = load_model(run_id, trained.cache)
    (front,) = model.fronts.of
    assert front.minimum_s == max(part.minimum_s for part in front.parts.of)  # type: ignore[attr-defined]
    done = run("predict", run_id, trained.audio / "a", "--timeline", "--window", 0.2, "--cache", trained.cache.root)
    assert done.exit_code == 0, done.output


# -- one layer, and mixes of them --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("features", ["wavlm-large/1+float16", pytest.param("wavlm-large/1-of-all", marks=pytest.mark.slow)])
def test_a_layer_of_a_stack(trained: Trained, tmp_path: Path, features: str) -> None:
    """Read where it lies, and stored by itself in a wider dtype than its stack."""
    if features.endswith("-of-all"):
        words = ["--features", LAYERS, "--layer", 1, "--dtype", "float32", "--cache", trained.cache.root]
        assert run("cache", "collapse", *words).exit_code == 0
    (run_id,) = trained.need(("logreg", features))
    (tmp_path / "audio").mkdir()
    names = trained.elsewhere(tmp_path / "audio")
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path / "audio")
    pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    export(trained.cache, run_id, tmp_path / "model", Wish(onnx=True))  # compared on the layer's own columns
    here = predictions(run_id, trained.audio / "a", trained.cache.root)
    assert away(trained, tmp_path / "model", tmp_path) == here


@pytest.mark.slow
def test_a_mix_of_layers_that_a_head_learns(trained: Trained, tmp_path: Path) -> None:
    (run_id,) = trained.need(("mean_pool", LAYERS))
    export(trained.cache, run_id, tmp_path / "model")
    here = predictions(run_id, trained.audio / "a", trained.cache.root)
    assert away(trained, tmp_path / "model", tmp_path) == here


@pytest.mark.slow
def test_features_that_are_a_learned_mix(trained: Trained, tmp_path: Path) -> None:
    """They were made by a run; an exported folder holds what it takes to make them, and needs the run no more."""
    (learned,) = trained.need(("mean_pool", LAYERS))
    assert run("cache", "collapse", "--run", learned, "--name", "wavlm-large/mix-a", "--cache", trained.cache.root).exit_code == 0
    (run_id,) = trained.need(("logreg", "wavlm-large/mix-a"))
    (tmp_path / "audio").mkdir()
    names = trained.elsewhere(tmp_path / "audio")
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path / "audio")
    export(trained.cache, run_id, tmp_path / "model")
    assert f"learned by {learned}" in (tmp_path / "model" / "README.md").read_text()
    here = predictions(run_id, trained.audio / "a", trained.cache.root)
    damaged = shutil.copytree(tmp_path / "model", tmp_path / "damaged")
    assert away(trained, tmp_path / "model", tmp_path) == here
    content = bytearray((damaged / "mixes.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "mixes.safetensors").write_bytes(content)
    with pytest.raises(TfserError, match="not what was exported"):
        load_model(str(damaged), trained.cache)


# -- functionals, and what nobody can compute --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("head", "features"), [("logreg", "egemaps"), ("mean_pool", "egemaps"), ("probe", "logmel+egemaps")])
def test_functionals(trained: Trained, tmp_path: Path, head: str, features: str) -> None:
    pytest.importorskip("opensmile", reason="functionals are computed by openSMILE, the extra [opensmile]")
    trained.extract("egemaps")
    refresh(trained.cache)
    if "+" in features:
        join(trained.cache, joined(trained.cache, features))
        refresh(trained.cache)
    (run_id,) = trained.need((head, features))
    (tmp_path / "audio").mkdir()
    names = trained.elsewhere(tmp_path / "audio")
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path / "audio")
    pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    export(trained.cache, run_id, tmp_path / "model", Wish(onnx=True))
    here = predictions(run_id, trained.audio / "a", trained.cache.root)
    assert away(trained, tmp_path / "model", tmp_path) == here


@pytest.mark.slow
def test_imported_features_are_refused_in_one_line(trained: Trained, tmp_path: Path) -> None:
    with open_catalogue(trained.cache) as connection:
        ids = [row["utterance_id"] for row in rows(connection, "SELECT utterance_id FROM utterances")]
    lines = ["utterance_id,a,b", *(f"{name},{i % 7},{i % 3}" for i, name in enumerate(ids))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    done = run("import-features", tmp_path / "mine.csv", "--corpus", "toy", "--cache", trained.cache.root)
    assert done.exit_code == 0, done.output
    (run_id,) = trained.need(("logreg", "mine"))
    for more in ([trained.audio / "a"], ["--corpus", "toy"]):
        done = run("predict", run_id, *more, "--cache", trained.cache.root)
        assert done.exit_code == 1 and "imported, so no front end for new audio is known" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    done = run("export", run_id, tmp_path / "model", "--cache", trained.cache.root)
    assert done.exit_code == 1 and "no front end" in done.stderr and not (tmp_path / "model").exists()


# -- fusions -----------------------------------------------------------------------------------------------------------------


def fused(trained: Trained) -> str:
    """Fuse two heads that listen to different features; return the fusion's run."""
    ids = trained.need(("mean_pool", "logmel"), ("logreg", "wavlm-large/2"))
    plan = plan_fusion(trained.cache, [of.rsplit("-f", 1)[0] for of in ids])
    fuse(trained.cache, plan)
    refresh(trained.cache)
    return f"{plan.experiment}-f2-s0"


@pytest.mark.slow
def test_a_fusion_s_fold_comes_back(trained: Trained, tmp_path: Path) -> None:
    run_id = fused(trained)
    names = trained.elsewhere(tmp_path)
    check_fold(load_model(run_id, trained.cache), trained.cache, run_id, names, tmp_path)
    done = run("predict", run_id, trained.audio / "a", "--cache", trained.cache.root, "--format", "json")
    said = json.loads(done.stdout)
    assert said["model"] == [run_id] and said["features"] == "logmel & wavlm-large/2"
    row = said["predictions"][0]
    assert len(row["members"]) == 2 and "agreement" in row
    members = np.array([list(of.values()) for of in row["members"].values()])
    np.testing.assert_allclose(list(row["probabilities"].values()), members.mean(axis=0), atol=1e-7)
    assert run("predict", run_id, trained.audio / "a", "--timeline", "--cache", trained.cache.root).exit_code == 0


@pytest.mark.slow
def test_a_fusion_of_what_was_trained_again_is_refused(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = fused(trained)
    about = json.loads(json.dumps(finished(trained.cache, run_id)))
    about["config"]["sources"][0]["predictions"]["last"] = "other digest"
    monkeypatch.setattr("tfser.heads.prediction.fused.finished", lambda cache, of: about)
    with pytest.raises(TfserError, match=r"mean_pool.*was trained again to other predictions.*fuse"):
        load_model(run_id, trained.cache)


@pytest.mark.slow
def test_a_fusion_is_exported_as_its_members(trained: Trained, tmp_path: Path) -> None:
    run_id = fused(trained)
    with pytest.raises(UsageError, match="is a fusion"):
        export(trained.cache, run_id, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_fusion_is_shown_like_any_other(trained: Trained, tmp_path: Path) -> None:
    run_id = fused(trained)
    experiment = run_id.rsplit("-f", 1)[0]
    root = trained.cache.root
    assert experiment in run("runs", "ls", "--cache", root, "--format", "json").stdout
    shown = run("runs", "show", experiment, "--cache", root)
    assert shown.exit_code == 0, shown.output
    differs = run("runs", "diff", experiment, trained.runs["mean_pool", "logmel"].rsplit("-f", 1)[0], "--cache", root)
    assert differs.exit_code == 0, differs.output


@pytest.mark.slow
def test_a_fusion_goes_to_trackers_and_reports(trained: Trained, tmp_path: Path) -> None:
    run_id = fused(trained)
    experiment = run_id.rsplit("-f", 1)[0]
    runs = finished_runs(trained.cache, experiment)
    pytest.importorskip("tensorboard", reason="events are written with TensorBoard, the extra [tensorboard]")
    assert to_tensorboard(trained.cache, runs, tmp_path / "events") == 1
    done = run("report", experiment, "--cache", trained.cache.root, "--output", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    pytest.importorskip("mlflow", reason="runs are written with MLflow, the extra [mlflow]")
    assert to_mlflow(trained.cache, runs, f"file://{tmp_path / 'mlruns'}") == 1


@pytest.mark.slow
def test_what_was_trained_on_everything_is_not_fused(trained: Trained) -> None:
    """It has no test predictions; the folds beside it are fused all the same."""
    ids = trained.need(("mean_pool", "logmel"), ("logreg", "wavlm-large/2"))
    trained.train(("mean_pool", "logmel"), ("logreg", "wavlm-large/2"), folds="none")
    refresh(trained.cache)
    plan = plan_fusion(trained.cache, [of.rsplit("-f", 1)[0] for of in ids])
    assert all(fold != 0 for fold, _ in plan.runs)
