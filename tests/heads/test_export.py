"""A model that is handed on: a folder that stands alone, a graph, a hub, trackers, and the run on everything behind it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfser.heads.prediction.card import CardFacts, _worth
from tfser.heads.prediction.export import Wish, export
from tfser.heads.prediction.folder import DESCRIPTION, new_folder
from tfser.heads.prediction.hub import push
from tfser.heads.prediction.loading import load_model
from tfser.heads.prediction.own_heads import register_head
from tfser.heads.prediction.trackers import finished_runs, to_mlflow, to_tensorboard
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.in_turn import run_here
from tfser.heads.runs.plan import entry_of, make_plan
from tfser.heads.runs.request import Request
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import TfserError, UsageError

from ..conftest import fill_with_tones, run


class Made:
    """A cache with a cross-validated experiment, its run on everything, and one of a head with segments."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.audio = Cache(folder / "cache"), folder / "audio"
        fill_with_tones(self.cache, self.audio, each=(3, 3, 3), noise=0.3, seconds=0.3)
        self.experiment = self.train("mean_pool", "all")
        assert self.train("mean_pool", "none") == self.experiment
        self.segments = self.train("tf_transformer", "1", recipe="paper", settings={"segment_frames": "16", "channels": "4"})
        refresh(self.cache)

    def train(self, head: str, folds: str, **more: Any) -> str:
        experiment = resolve(self.cache, Request(head=head, folds=folds, epochs=2, device="cpu", **more))
        plan = make_plan(self.cache, [entry_of(experiment)])
        assert run_here(self.cache, plan.runs, plan.findings, tell=lambda event: None) == []
        return experiment.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


# -- a run on everything -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_everything_is_of_its_experiment_and_tested_on_nobody(made: Made) -> None:
    with open_catalogue(made.cache) as connection:
        (one,) = rows(connection, "SELECT * FROM runs WHERE experiment = ? AND fold = 0", [made.experiment])
        for table in ("predictions", "metrics", "confusion"):
            assert rows(connection, f"SELECT * FROM {table} WHERE run_id = ?", [one["run_id"]]) == []
        history = rows(connection, "SELECT * FROM history WHERE run_id = ?", [one["run_id"]])
        (result,) = rows(connection, "SELECT * FROM results WHERE experiment = ?", [made.experiment])
        assert rows(connection, "SELECT * FROM skipped") == []
    assert len(history) == 2 and all(row["test_UA"] is None and row["val_UA"] is None for row in history)
    assert (result["folds"], result["of_folds"], result["speakers_kept"]) == (3, 3, "kept")


def test_it_learns_from_all_utterances(made: Made) -> None:
    """Its loss of the first epoch is a mean over all; the normalisation that it keeps is that of all frames."""
    model = load_model(made.experiment, made.cache)
    assert model.heads[0].name.endswith("-f0-s0")
    with open_catalogue(made.cache) as connection:
        found = rows(connection, "SELECT * FROM features")
    from tfser.pipeline.shards.packed import FeatureRow, load_packed

    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    packed = load_packed([FeatureRow(path=made.cache.root / r["shard"], **{key: r[key] for key in keys}) for r in found])
    np.testing.assert_allclose(model.heads[0].state["normaliser.mean"], packed.frames.astype(np.float64).mean(axis=0), atol=1e-4)


@pytest.mark.slow
def test_train_says_what_vouches_and_tables_refuse_it(made: Made) -> None:
    done = run("train", "--head", "mean_pool", "--epochs", 2, "--fold", "none", "--cache", made.cache.root, "--format", "json")
    (row,) = json.loads(done.stdout)
    assert done.exit_code == 0 and row["experiment"] == made.experiment and row["tested_folds"] == 3
    assert "no test scores" in done.stderr and "nothing vouches" not in done.stderr
    for words in (["ablate", "--head", "mean_pool"], ["sweep", "--head", "mean_pool"]):
        refused = run(*words, "--fold", "none", "--cache", made.cache.root)
        assert refused.exit_code == 2 and "no scores to tabulate" in refused.stderr


# -- a folder ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("exported") / "model"
    export(made.cache, made.experiment, found)
    return found


def test_a_folder_predicts_alone_what_the_run_predicts(made: Made, folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    audio = str(made.audio / "a")
    of_run = run("predict", made.experiment, audio, "--cache", made.cache.root, "--format", "json")
    of_folder = run("predict", moved, audio, "--cache", tmp_path / "no-cache", "--format", "json")
    assert of_folder.exit_code == 0, of_folder.output
    a, b = (json.loads(done.stdout)["predictions"] for done in (of_run, of_folder))
    assert [row["probabilities"] for row in a] == [row["probabilities"] for row in b] and len(a) == 6
    assert not (tmp_path / "no-cache").exists()


def test_what_is_in_it(made: Made, folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["README.md", "model.safetensors", "tfser.json"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in files)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    about = json.loads((folder / DESCRIPTION).read_text())
    assert about["scores"]["folds"] == 3 and about["heads"][0]["experiment"] == made.experiment
    assert str(made.cache.root) not in (folder / DESCRIPTION).read_text()


def test_the_card_says_what_vouches_and_what_it_is_not_for(made: Made, folder: Path) -> None:
    text = (folder / "README.md").read_text()
    row = next(row for row in json.loads(run("scores", "--cache", made.cache.root, "--format", "json").stdout)
               if row["experiment"] == made.experiment and row["selection"] == "last")  # fmt: skip
    for word in (
        made.experiment,
        f"{100 * row['pooled_UA']:.1f}",
        "95 % over speakers",
        "All labelled utterances",
        "hash `",
        "Audit of the split: passed",
        "not heard in training or validation",
        "Article 5(1)(f)",
        "the last epoch, chosen by looking at nothing",
    ):
        assert word in text, word
    low, high = (row[f"pooled_UA_{end}"] for end in ("low", "high"))  # none where every speaker has the same score
    assert ("| none |" if low is None else f"{100 * low:.1f} to {100 * high:.1f}") in text


@pytest.mark.slow
def test_the_card_of_a_model_that_nothing_vouches_for(made: Made, tmp_path: Path) -> None:
    alone = made.train("mean_pool", "none", settings={"lr": "0.002"})
    export(made.cache, alone, tmp_path / "m")
    assert "**Nothing: no test of this configuration" in (tmp_path / "m" / "README.md").read_text()


def test_the_card_of_a_model_whose_protocol_is_gone_names_no_count_of_folds() -> None:
    about = {"audit": "passed", "fold": 1, "experiment": "e"}
    row: dict[str, Any] = {"folds": 2, "of_folds": None, "seeds": [0], "utterances": 9, "UA": 0.5, "WA": 0.5}
    row |= {f"pooled_{metric}{end}": None for metric in ("UA", "WA") for end in ("", "_low", "_high")}
    row |= {"audit": "passed", "speakers_kept": "kept", "selection": "last"}
    heads: Any = [SimpleNamespace(about=about, selection="last")]
    facts = CardFacts(heads=heads, corpora=(), protocol=None, scores=row, onnx=None, travels={})
    assert "2 of ? folds, seeds 0" in _worth(facts)


@pytest.mark.slow
def test_an_ensemble_travels_whole(made: Made, tmp_path: Path) -> None:
    heads = export(made.cache, made.experiment, tmp_path / "m", Wish(ensemble=True))
    assert len(heads) == 3 and len(list((tmp_path / "m").glob("model-*.safetensors"))) == 3
    (row,) = json.loads(run("predict", tmp_path / "m", made.audio / "a" / "anger0.wav", "--format", "json").stdout)["predictions"]
    assert len(row["members"]) == 3


@pytest.mark.parametrize("name", ["model.safetensors", DESCRIPTION])
def test_damage_is_refused_in_one_line(folder: Path, made: Made, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = (copy / name).read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "gone": None}
    for what, bytes_of in damaged.items():
        (copy / name).unlink(missing_ok=True)
        if bytes_of is not None:
            (copy / name).write_bytes(bytes_of)
        done = run("predict", copy, made.audio / "a")
        assert done.exit_code in (1, 2) and len(done.stderr.strip().splitlines()) == 1, what
        assert "Traceback" not in done.output and str(copy) in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "reads 1"),
        ({"heads": []}, "lists no weights"),
        ({"files": {}}, "lists no weights"),
        ({"heads": None}, "describes no exported model"),
        ({"features": None}, "cannot be loaded"),
        ({"features": {"name": "logmel"}}, r"cannot be loaded \(something in it is of another kind\)"),
        ({"heads": [{}]}, "it lacks 'weights'"),
    ],
)
def test_a_description_that_is_off(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / DESCRIPTION).read_text())
    (copy / DESCRIPTION).write_text(json.dumps(about | change))
    with pytest.raises(TfserError, match=message):
        load_model(str(copy), Cache(tmp_path / "none"))


def test_files_outside_of_the_folder_are_never_read(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(copy / "model.safetensors", tmp_path / "outside.safetensors")
    about = json.loads((copy / DESCRIPTION).read_text())
    about["heads"][0]["weights"] = "../outside.safetensors"
    about["files"]["../outside.safetensors"] = about["files"]["model.safetensors"]
    (copy / DESCRIPTION).write_text(json.dumps(about))
    with pytest.raises(TfserError, match="no file of this folder"):
        load_model(str(copy), Cache(tmp_path / "none"))


def test_pickles_are_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    done = run("predict", tmp_path, made.audio / "a")
    assert done.exit_code == 2 and "pickles can run code" in done.stderr
    assert run("predict", made.cache.runs / f"{made.experiment}-f1-s0", made.audio / "a").exit_code == 2


def test_nothing_is_left_of_an_export_that_fails(made: Made, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "m") as aside:
        (aside / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for target, message in ((made.audio, "is there already"), (tmp_path / "no" / "where", "make it first")):
        done = run("export", made.experiment, target, "--cache", made.cache.root)
        assert done.exit_code == 2 and message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say where to"),
        (["x", "--mlflow", "y"], "leave it out"),
        (["x", "--hub", "name"], "organisation/name"),
        (["x", "--private"], "goes with --hub"),
        (["x", "--encoder"], "computed without one"),
        (["x", "--selection", "val"], "no epoch was selected"),
        (["x", "--ensemble", "--onnx"], "not an ensemble"),
    ],
)
def test_requests_that_are_off(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--onnx" in words:
        pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    done = run("export", made.experiment, *words, "--cache", made.cache.root)
    assert done.exit_code == 2 and message in done.stderr and list(tmp_path.iterdir()) == []


# -- a graph -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_head_without_a_graph_says_why(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="graphs are run with onnxruntime, the extra [onnx]")
    name = made.train("mean_pool", "1", settings={"normalise": "speaker"})
    with pytest.raises(UsageError, match="normalises by speaker"):
        export(made.cache, name, tmp_path / "m", Wish(onnx=True))
    assert not (tmp_path / "m").exists()


# -- elsewhere ---------------------------------------------------------------------------------------------------------------


class StandIn:
    """What huggingface_hub's HfApi would do, into a folder."""

    def __init__(self, root: Path, *, refuses: bool = False) -> None:
        self.root, self.refuses = root, refuses

    def create_repo(self, name: str, **_: Any) -> None:
        if self.refuses:
            raise ConnectionError("401 Client Error\nand a page of more")
        (self.root / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], **_: Any) -> None:
        for name in allow_patterns:
            shutil.copy(Path(folder_path, name), self.root / repo_id / Path(name).name)


def test_a_folder_is_pushed_as_it_was_exported(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "notes.txt").write_text("not part of it")
    assert push(copy, "lab/model", api=StandIn(tmp_path / "hub")) == "https://huggingface.co/lab/model"
    sent = sorted(path.name for path in (tmp_path / "hub" / "lab" / "model").iterdir())
    assert sent == ["README.md", "model.safetensors", "tfser.json"]
    assert load_model(str(tmp_path / "hub" / "lab" / "model"), Cache(tmp_path / "none")).heads
    with pytest.raises(TfserError, match=r"refused \(401 Client Error\); the folder"):
        push(copy, "lab/model", api=StandIn(tmp_path / "hub", refuses=True))
    (copy / "README.md").write_text("changed")
    with pytest.raises(TfserError, match="not what was exported"):
        push(copy, "lab/model", api=StandIn(tmp_path / "hub"))


@pytest.mark.slow
def test_tensorboard_gets_curves_and_scores(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="events are read with TensorBoard, the extra [tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = finished_runs(made.cache, made.experiment)
    assert to_tensorboard(made.cache, runs, tmp_path) == 4 and to_tensorboard(made.cache, runs, tmp_path) == 0
    events = EventAccumulator(str(tmp_path / made.experiment / "f1-s0")).Reload()
    tags = events.Tags()["scalars"]
    assert {"curve/loss", "last/UA", "upper_bound/test-oracle/UA"} <= set(tags)
    run_1 = next(of for of in runs if of["fold"] == 1)
    assert [event.value for event in events.Scalars("curve/loss")] == pytest.approx([row["loss"] for row in run_1["history"]])


@pytest.mark.slow
def test_mlflow_gets_a_run_below_its_experiment(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="runs are read with MLflow, the extra [mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", os.environ.get("MLFLOW_ALLOW_FILE_STORE", "true"))
    from mlflow.tracking import MlflowClient

    uri = f"file://{tmp_path / 'mlruns'}"
    runs = finished_runs(made.cache, made.experiment)
    assert to_mlflow(made.cache, runs, uri) == 4 and to_mlflow(made.cache, runs, uri) == 0
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(made.experiment)
    found = client.search_runs([experiment.experiment_id])
    parents = [of for of in found if of.data.tags["tfser.kind"] == "experiment"]
    children = [of for of in found if of.data.tags["tfser.kind"] == "run"]
    assert len(parents) == 1 and len(children) == 4
    assert {of.data.tags["mlflow.parentRunId"] for of in children} == {parents[0].info.run_id}
    one = next(of for of in children if of.data.params["fold"] == "1")
    assert one.data.params["recipe_config.lr"] == "0.001" and "last/UA" in one.data.metrics
    assert {of.path for of in client.list_artifacts(one.info.run_id)} == {"run.json", "predictions.parquet"}


# -- names -------------------------------------------------------------------------------------------------------------------


def test_experiments_have_names_that_commands_know(made: Made) -> None:
    root = made.cache.root
    assert run("runs", "name", "base", made.experiment, "--cache", root).exit_code == 0
    assert json.loads(run("runs", "show", "base", "--cache", root, "--format", "json").stdout)["names"] == ["base"]
    listed = json.loads(run("runs", "ls", "--cache", root, "--format", "json").stdout)
    row = next(row for row in listed if row["experiment"] == made.experiment)
    assert (row["names"], row["folds"], row["for_use"]) == (["base"], [1, 2, 3], True)
    assert run("predict", "base", made.audio / "a", "--cache", root).exit_code == 0
    taken = run("runs", "name", "base", made.segments, "--cache", root)
    assert taken.exit_code == 2 and "means" in taken.stderr
    assert run("runs", "name", "base", "--remove", "--cache", root).exit_code == 0
    assert run("predict", "base", made.audio / "a", "--cache", root).exit_code == 2


@pytest.mark.slow
def test_what_two_differ_in(made: Made) -> None:
    other = made.train("mean_pool", "1", settings={"lr": "0.003"})
    refresh(made.cache)
    found = json.loads(run("runs", "diff", made.experiment, other, "--cache", made.cache.root, "--format", "json").stdout)
    differs = {row["what"]: (row["a"], row["b"]) for row in found}
    assert differs["recipe_config.lr"] == (0.001, 0.003) and differs["folds"] == ([0, 1, 2, 3], [1])
    assert "recipe_config.batch_size" not in differs
    same = run("runs", "diff", made.experiment, made.experiment, "--cache", made.cache.root)
    assert same.exit_code == 0 and "nothing" in same.stdout


@pytest.mark.slow
def test_a_plug_in_s_head_that_is_gone_is_one_line(made: Made, tmp_path: Path) -> None:
    import torch

    from tfser.heads import REGISTERED

    def build(dim: int, n_classes: int) -> torch.nn.Module:
        return Mean(dim, n_classes)

    register_head("mine", build)
    try:
        name = made.train("mine", "1")
    finally:
        del REGISTERED["mine"]
    with pytest.raises(TfserError, match="without its plug-in"):
        load_model(f"{name}-f1-s0", made.cache)


def Mean(dim: int, n_classes: int) -> Any:  # noqa: N802 - stands for a class
    from tfser.heads.models.mean_pool import MeanPool, MeanPoolConfig

    return MeanPool(MeanPoolConfig(hidden=()), dim, n_classes)
