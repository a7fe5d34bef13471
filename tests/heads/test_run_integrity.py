"""Runs on disk: what is damaged is found, is never shown, and is never trained over without a word; what cannot be read stays."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.heads.runs import one_fold as fold_runs
from tfser.heads.runs.experiment import resolve
from tfser.heads.runs.learned_mix import mix_of_run
from tfser.heads.runs.loaded import load
from tfser.heads.runs.one_fold import Following, RunResult, audit_experiment, train_fold
from tfser.heads.runs.outcome import RunOutcome, Selected
from tfser.heads.runs.request import Request
from tfser.heads.runs.store import begin, finish, finished, peek, pick_up, run_folder, save_model
from tfser.heads.training import checkpoints
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.catalogue.run_files import check_run, read_run, run_folders
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError
from tfser.manifests.files import write_json, write_table
from tfser.manifests.utterances import Utterance
from tfser.pipeline.verify import verify

HERE = Path(__file__).parents[1]
HARM = runpy.run_path(str(HERE / "damage.py"))
STORED = runpy.run_path(str(HERE / "stored_runs.py"))
CLASSES = ("anger", "neutral", "sadness")
FILES = (
    "run.json", "predictions.parquet", "metrics.parquet", "confusion.parquet", "history.parquet", "model.safetensors",
)  # fmt: skip
FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]


def put(cache: Cache, run_id: str, *, seed: int = 0, again: bool = False) -> Path:
    """Write a finished run by what training writes it with; return its folder."""
    rng = np.random.default_rng(seed)
    n = 7
    labels = rng.integers(0, 3, n)
    logits = rng.standard_normal((n, 2, 3)).astype(np.float32)
    segments = (np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)).astype(np.float32)
    about = {
        "run_id": run_id, "experiment": run_id.partition("-")[0], "head": "mean_pool", "corpus": "toy", "fold": 1, "seed": seed,
        "epochs": 2, "protocol": "loso-speaker", "audit": "passed", "validation": "none", "versions": {"tfser": "1"},
        "feature_set": "logmel", "seconds": 1.0, "device": "cpu", "config": {"recipe_config": {"normalise": "train"}},
        "layer_weights": {"last": [0.5, 0.5]},
    }  # fmt: skip
    folder = begin(cache, about, again=again)
    save_model(folder / "model.safetensors", {"model.weight": torch.from_numpy(rng.standard_normal((4, 3)))})
    finish(
        cache,
        about,
        RunOutcome(
            classes=CLASSES,
            utterances=[("toy", f"u{i}") for i in range(n)],
            labels=labels,
            selections=[
                Selected(
                    selection=name,
                    epoch=2,
                    utterances=segments.mean(axis=1),
                    segments=segments.reshape(-1, 3),
                    segment_utterance=np.repeat(np.arange(n), 2),
                    segment_number=np.tile([0, 1], n),
                )
                for name in ("last", "test-oracle")
            ],
            history=[{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}],
        ),
        folder=folder,
    )
    return run_folder(cache, run_id)


def shown(cache: Cache) -> tuple[list[str], list[str]]:
    """Return the runs that the catalogue knows, and the reasons why others are left out."""
    with open_catalogue(cache) as connection:
        known = [row["run_id"] for row in rows(connection, "SELECT run_id FROM runs ORDER BY 1")]
        left_out = [row["reason"] for row in rows(connection, "SELECT reason FROM skipped WHERE stage = 'run'")]
        assert {row["run_id"] for row in rows(connection, "SELECT run_id FROM predictions")} == set(known)
    return known, left_out


def found_by_verify(cache: Cache) -> dict[str, type]:
    found = {}
    for folder in run_folders(cache):
        try:
            check_run(folder)
        except TfserError as error:
            assert "\n" not in str(error)
            found[folder.name] = type(error)
    return found


def test_a_whole_run_is_whole(cache: Cache) -> None:
    folder = put(cache, "a-1")
    about = json.loads((folder / "run.json").read_text())
    assert sorted([*about["files"], "run.json"]) == sorted(FILES) == sorted(path.name for path in folder.iterdir())
    assert shown(cache) == (["a-1"], []) and found_by_verify(cache) == {}
    assert (finished(cache, "a-1") or {})["run_id"] == "a-1" and peek(cache, "a-1") is not None
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES}
    assert len(modes) == 1  # by the umask, as any file


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_files_have_the_mode_that_the_umask_gives(cache: Cache, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = put(cache, "a-1")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o666 & ~umask}


@pytest.mark.few(2)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_found_not_shown_and_not_trained_over_silently(cache: Cache, file: str) -> None:
    """One run for each kind of harm, in one cache."""
    other = put(cache, "whole-1", seed=1)
    runs = {kind: put(cache, f"{kind}-1") for kind in HARM["DAMAGED"]}
    before = {}
    for kind, folder in runs.items():
        HARM["DAMAGED"][kind](folder / file, other / file)
        before[kind] = {path.name: path.lstat().st_size for path in folder.iterdir()}
    assert found_by_verify(cache) == {folder.name: DamagedError for folder in runs.values()}
    known, left_out = shown(cache)
    if file == "model.safetensors":  # scores do not come of the weights
        assert len(known) == len(runs) + 1
    else:
        # Without run.json there is nothing that the catalogue would be built from; verify and the next training find the rest.
        assert known == ["whole-1"] and len(left_out) == len(runs) - (file == "run.json")
        assert all(file in reason and str(cache.root) not in reason for reason in left_out)
    for kind, folder in runs.items():
        assert peek(cache, folder.name) is None
        said: list[str] = []
        assert pick_up(cache, folder.name, again=False, note=said.append) is None
        assert not folder.exists() and len(said) == 1 and file in said[0] and "removed" in said[0]
        (moved,) = cache.root.glob(f"removed/*/runs/{folder.name}")
        assert {path.name: path.lstat().st_size for path in moved.iterdir()} == before[kind]


@pytest.mark.parametrize("kind", HARM["UNREADABLE"])
def test_what_cannot_be_read_now_is_left_alone(cache: Cache, kind: str) -> None:
    runs = {file: put(cache, f"{file}-1") for file in FILES}
    kept = {file: (folder / file).read_bytes() for file, folder in runs.items()}
    for file, folder in runs.items():
        HARM["UNREADABLE"][kind](folder / file, folder / file)
    assert found_by_verify(cache) == {folder.name: UnreadableError for folder in runs.values()}
    assert shown(cache)[0] == ["model.safetensors-1"]
    for folder in runs.values():
        with pytest.raises(UnreadableError, match=r"not trained over.*--again"):
            pick_up(cache, folder.name, again=False, note=pytest.fail)
        assert folder.is_dir() and not (cache.root / "removed").exists()
    for file, folder in runs.items():
        (folder / file).unlink()
        (folder / file).write_bytes(kept[file])
    assert shown(cache) == (sorted(folder.name for folder in runs.values()), []) and found_by_verify(cache) == {}


@pytest.mark.few(2)
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError(), OSError(24, "Too many open files")])
@pytest.mark.parametrize("file", ["run.json", "predictions.parquet"])
def test_a_run_that_could_not_be_read_once_is_shown_when_it_can(
    cache: Cache, file: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any file being touched in between; and a fault that went by costs nobody a run."""
    folder, real = put(cache, "a-1"), os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path) == str(folder / file):
            raise error
        return real(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for _ in range(2):
            known, left_out = shown(cache)
            assert known == [] and len(left_out) == 1 and file in left_out[0]
        assert found_by_verify(cache) == {"a-1": UnreadableError}
        with pytest.raises(UnreadableError):
            pick_up(cache, "a-1", again=False, note=pytest.fail)
    assert shown(cache) == (["a-1"], []) and pick_up(cache, "a-1", again=False, note=pytest.fail) is not None


@pytest.mark.parametrize("file", ["run.json", "predictions.parquet"])
def test_a_run_that_is_put_back_from_a_copy_is_shown(cache: Cache, file: str) -> None:
    """With the times that it had, and though run.json may be as it was all the while."""
    path = put(cache, "a-1") / file
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[: len(content) // 2])
    known, left_out = shown(cache)
    assert known == [] and len(left_out) == 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert shown(cache) == (["a-1"], [])


@settings(max_examples=12, suppress_health_check=FUNCTION_SCOPED)
@given(data=st.data())
def test_each_bit_of_a_run_counts(cache: Cache, data: st.DataObject) -> None:
    folder = run_folder(cache, "a-1")
    if not folder.exists():
        put(cache, "a-1")
    path = folder / data.draw(st.sampled_from(FILES))
    whole = path.read_bytes()
    HARM["flip"](path, data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7)))
    try:
        with pytest.raises(DamagedError, match=path.name):
            read_run(folder, weights=True)
    finally:
        path.write_bytes(whole)
    assert read_run(folder, weights=True) is not None


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=FUNCTION_SCOPED)
@given(data=st.data())
def test_runs_of_the_version_before_never_show_other_scores(cache: Cache, data: st.DataObject) -> None:
    """They have no seals: what a changed bit makes of them is refused, or shows the scores that were there."""
    folder = cache.runs / "old"
    if not folder.exists():
        STORED["put_old_run"](cache, "old", wa=0.25)
    before = read_run(folder)
    assert before is not None
    path = folder / data.draw(st.sampled_from(["metrics.parquet", "confusion.parquet", "predictions.parquet"]))
    whole = path.read_bytes()
    HARM["flip"](path, data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7)))
    try:
        after = read_run(folder)
    except TfserError:
        after = None
    finally:
        path.write_bytes(whole)
    if after is not None:
        assert after.tables["confusion"].equals(before.tables["confusion"])
        for name in before.tables["metrics"].column_names:
            stored, now = (run.tables["metrics"][name].to_pylist() for run in (before, after))
            assert now == (pytest.approx(stored, abs=1e-9) if name == "value" else stored)


def _rewrite(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Return what writes a table of a run anew, without a seal."""

    def write(folder: Path) -> None:
        path = folder / f"{name}.parquet"
        write_table(path, change(pq.read_table(path, memory_map=False)))

    return write


def _set(column: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))

    return change


def _odd(value: float) -> list[tuple[str, float]]:
    return [("anger", value), ("neutral", 1 - value)]


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_rewrite("metrics", _set("value", 0, 2.0)), "metrics.parquet: says 2.0 of last, utterance, WA"),
        (_rewrite("metrics", _set("value", 0, 0.26)), "metrics.parquet: says 0.26"),
        (_rewrite("metrics", _set("value", 0, None)), "metrics.parquet: says None"),
        (_rewrite("metrics", _set("epoch", 0, 2)), "metrics.parquet: the rows of a selection are of several epochs"),
        (_rewrite("metrics", lambda t: t.slice(1)), "metrics.parquet: lacks last, utterance, WA"),
        (_rewrite("metrics", lambda t: pa.concat_tables([t, t])), "metrics.parquet: has a row too many"),
        (_rewrite("confusion", lambda t: t.slice(0, 0)), "confusion.parquet: lacks last, utterance, anger, anger"),
        (_rewrite("confusion", _set("count", 0, 6)), "confusion.parquet: says 6 of last, utterance, anger, anger"),
        (_rewrite("predictions", lambda t: t.slice(0, 0)), "predictions.parquet: has no rows"),
        (_rewrite("predictions", lambda t: t.slice(1)), "confusion.parquet: says 5 of"),
        (_rewrite("predictions", lambda t: pa.concat_tables([t, t])), "predictions.parquet: last, utterance: not every one"),
        (_rewrite("predictions", _set("label", 0, None)), "predictions.parquet: label is empty"),
        (_rewrite("predictions", _set("label", 0, "bnger")), "predictions.parquet: label is 'bnger', none of the classes"),
        (_rewrite("predictions", _set("predicted", 0, "neutral")), "a row's predicted class is not its most"),
        (_rewrite("predictions", _set("probabilities", 0, None)), "predictions.parquet: a row has no probabilities"),
        (_rewrite("predictions", _set("probabilities", 0, _odd(float("nan")))), "1 of its predictions are no numbers"),
        (_rewrite("predictions", _set("probabilities", 0, _odd(1.5))), "the probabilities of a row do not"),
        (_rewrite("predictions", _set("fold", 0, 9)), "predictions.parquet: has rows of another fold"),
        (_rewrite("predictions", _set("run_id", 0, "b")), "predictions.parquet: has rows of another run"),
        (_rewrite("history", _set("loss", 0, float("inf"))), "history.parquet: loss of epoch 1 is inf"),
        (_rewrite("history", lambda t: t.slice(0, 0)), "history.parquet: 0 epochs|metrics.parquet: last is of epoch 1"),
    ],
)
def test_files_that_contradict_one_another_are_damaged(cache: Cache, harm: Callable[[Path], None], said: str) -> None:
    STORED["put_old_run"](cache, "old", wa=0.25)
    harm(cache.runs / "old")
    with pytest.raises(DamagedError, match=said):
        read_run(cache.runs / "old")
    assert found_by_verify(cache) == {"old": DamagedError}


def test_a_newer_version_s_run_is_not_damaged(cache: Cache) -> None:
    STORED["put_old_run"](cache, "old")
    _rewrite("predictions", lambda t: t.append_column("colour", pa.nulls(len(t), pa.string())))(cache.runs / "old")
    assert found_by_verify(cache) == {"old": UnreadableError}
    assert shown(cache)[0] == []


def test_temporary_files_are_swept_by_the_next_writer(cache: Cache) -> None:
    for place in ("", "checkpoint"):
        (cache.runs / "a-1" / place).mkdir(parents=True, exist_ok=True)
        (cache.runs / "a-1" / place / ".run.json.4711-0a1b2c3d.tmp").write_bytes(b"half")
    assert sorted(path.name for path in put(cache, "a-1").iterdir()) == sorted(FILES)


# A run that is trained again.


class KilledError(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.few(1)
@pytest.mark.parametrize("step", range(1, 4))
def test_a_kill_in_the_exchange_leaves_the_old_run_or_the_new_one(
    cache: Cache, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, "a-1", seed=1)
    calls, real_rename, real_rmtree = [0], Path.rename, shutil.rmtree

    def count() -> None:
        calls[0] += 1
        if calls[0] == step:
            raise KilledError

    def rename(self: Path, target: Path) -> Path:
        count()
        return real_rename(self, target)

    def rmtree(path: Path, *arguments: Any, **named: Any) -> None:
        if path.name.endswith(".before") and path.exists():
            count()
        real_rmtree(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(KilledError):
            put(cache, "a-1", seed=2, again=True)
    assert calls[0] == step
    # Whoever comes next, with --again or without, finds the new run, which was whole.
    about = pick_up(cache, "a-1", again=step == 2, note=pytest.fail)
    assert about is not None and about["seed"] == 2
    assert [path.name for path in cache.runs.iterdir()] == ["a-1"]
    assert shown(cache) == (["a-1"], []) and found_by_verify(cache) == {}


def test_a_run_that_was_begun_again_is_named_by_verify_and_hurts_nobody(cache: Cache) -> None:
    put(cache, "a-1", seed=1)
    begin(cache, {"run_id": "a-1", "versions": {"tfser": "1"}}, again=True)
    (named,) = verify(cache)
    assert (named.path, named.kind, named.moves) == ("runs/.a-1.again", "left over", ())
    with cache.lock("runs/a-1"):  # at work
        assert verify(cache) == []
    assert shown(cache) == (["a-1"], [])
    assert (pick_up(cache, "a-1", again=False, note=pytest.fail) or {})["seed"] == 1
    assert pick_up(cache, "a-1", again=True, note=pytest.fail) is None
    (cache.runs / ".a-1.again" / "checkpoint").mkdir()
    (cache.runs / ".a-1.again" / "checkpoint" / "kept").touch()
    begin(cache, {"run_id": "a-1", "versions": {"tfser": "1"}}, again=True, note=pytest.fail)
    assert (cache.runs / ".a-1.again" / "checkpoint" / "kept").exists()
    said: list[str] = []
    begin(cache, {"run_id": "a-1", "versions": {"tfser": "2"}}, again=True, note=said.append)
    assert not (cache.runs / ".a-1.again" / "checkpoint").exists() and "another version" in said[0]


@pytest.mark.parametrize("kind", ["bit", "dangling link"])
def test_again_keeps_a_run_that_nobody_can_judge(cache: Cache, kind: str) -> None:
    folder = put(cache, "a-1", seed=1)
    (HARM["DAMAGED"] | HARM["UNREADABLE"])[kind](folder / "metrics.parquet", folder)
    kept = (folder / "predictions.parquet").read_bytes()
    assert pick_up(cache, "a-1", again=True, note=pytest.fail) is None
    put(cache, "a-1", seed=2, again=True)
    (moved,) = cache.root.glob("removed/*/runs/a-1/predictions.parquet")
    assert moved.read_bytes() == kept and (finished(cache, "a-1") or {})["seed"] == 2


# With real trainings.

DIM = 8


@pytest.fixture
def filled(cache: Cache, put_corpus: Any, put_stack: Any) -> Cache:
    """Three speakers of two classes, on two layers of features."""
    rng = np.random.default_rng(0)
    utterances, frames = [], {}
    for s in "abc":
        for i in range(6):
            name, label = f"{s}{i}", ("anger", "sadness")[i % 2]
            utterances.append(Utterance(utterance_id=name, path=f"{name}.wav", speaker=s, label=label))
            frames[name] = (rng.standard_normal((5 + i, DIM)) + i % 2).astype(np.float32)
    put_corpus(cache, utterances, default_protocol="loso-speaker")
    put_stack(cache, frames, 2)
    refresh(cache)
    return cache


def train(cache: Cache, head: str = "mean_pool", harm: Callable[[Any], None] | None = None, **options: Any) -> RunResult:
    asked = {"epochs": 3} | {name: options.pop(name) for name in ("again", "settings", "epochs") if name in options}
    of = resolve(cache, Request(head=head, device="cpu", features="enc/all", **asked))

    def loaded() -> Any:
        found = load(cache, of)
        if harm is not None:
            harm(found)
        return found

    if (on_epoch := options.pop("on_epoch", None)) is not None:
        options["on_epoch"] = lambda number, record: on_epoch(record)
    following = Following(**{"checkpoint_every_s": 0.0, **options})
    return train_fold(cache, of, 1, loaded, audit_experiment(cache, of), following)


def predictions(cache: Cache, run_id: str) -> pa.Table:
    return pq.read_table(run_folder(cache, run_id) / "predictions.parquet", memory_map=False)


def test_a_damaged_run_is_trained_again_and_says_so(filled: Cache) -> None:
    run_id = train(filled).about["run_id"]
    whole = predictions(filled, run_id)
    HARM["DAMAGED"]["bit"](run_folder(filled, run_id) / "metrics.parquet", Path())
    said: list[str] = []
    assert train(filled, on_note=said.append).trained and len(said) == 1 and "removed" in said[0]
    assert predictions(filled, run_id).equals(whole) and not train(filled).trained


@pytest.mark.slow
def test_ctrl_c_while_it_is_trained_again_leaves_the_old_run_and_goes_on(filled: Cache) -> None:
    first = train(filled)
    run_id, whole = first.about["run_id"], predictions(filled, first.about["run_id"])
    epochs: list[int] = []

    def stop(record: Any) -> None:
        epochs.append(record.epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(filled, again=True, on_epoch=stop)
    found = train(filled)
    assert not found.trained and found.about["started_at"] == first.about["started_at"]
    assert train(filled, again=True, on_epoch=stop).trained and epochs == [1, 2, 3]
    assert predictions(filled, run_id).equals(whole)
    assert [path.name for path in filled.runs.iterdir()] == [run_id]


def interrupted(cache: Cache) -> Path:
    """Train two epochs and stop; return the checkpoint."""

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cache, on_epoch=stop)
    (path,) = cache.runs.glob("*/checkpoint/checkpoint.safetensors")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [k if k == "bit" else pytest.param(k, marks=pytest.mark.slow) for k in HARM["DAMAGED"] if k not in ("deleted", "swapped")],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_training_begins_anew(filled: Cache, kind: str) -> None:
    whole = predictions(filled, train(filled).about["run_id"])
    shutil.rmtree(filled.runs)
    path = interrupted(filled)
    HARM["DAMAGED"][kind](path, path)
    said: list[str] = []
    epochs: list[int] = []
    result = train(filled, on_note=said.append, on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == [1, 2, 3] and len(said) == 1 and "removed" in said[0] and "from the beginning" in said[0]
    assert list(filled.root.glob("removed/*/runs/*/checkpoint/checkpoint.safetensors"))
    assert predictions(filled, result.about["run_id"]).equals(whole)


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data())
def test_each_bit_of_a_checkpoint_counts(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoints.save(folder, {"model.weight": torch.arange(6.0)}, {"fingerprint": "f", "history": []})
    path = folder / checkpoints.FILE
    HARM["flip"](path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
    with pytest.raises(DamagedError):
        checkpoints.load(folder)


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_refused_with_a_way_out(filled: Cache) -> None:
    path = interrupted(filled)
    found = checkpoints.load(path.parent)
    assert found is not None
    checkpoints.save(path.parent, found[0], found[1] | {"fingerprint": "another"})
    with pytest.raises(checkpoints.ForeignCheckpointError, match="--again"):
        train(filled)
    assert path.exists() and train(filled, again=True).trained and not train(filled).trained


@pytest.mark.slow
def test_checkpoints_of_the_version_before_go_on(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no seal, and their fingerprint holds the recipe's summary."""
    from safetensors.torch import save_file

    from tfser.heads.training.loop import Trainer

    path = interrupted(filled)
    found = checkpoints.load(path.parent)
    assert found is not None
    formers: list[str] = []
    real = Trainer.resume

    def resume(self: Trainer, folder: Path) -> None:
        formers.append(self.former)
        assert self.former != self.fingerprint
        header = json.dumps(found[1] | {"fingerprint": self.former})
        save_file(found[0], folder / checkpoints.FILE, metadata={"tfser": header})
        real(self, folder)

    monkeypatch.setattr(Trainer, "resume", resume)
    epochs: list[int] = []
    train(filled, on_epoch=lambda record: epochs.append(record.epoch))
    assert epochs == [3] and len(formers) == 1


@pytest.mark.slow
def test_a_mix_is_not_made_of_damaged_weights(filled: Cache) -> None:
    run_id = train(filled).about["run_id"]
    path = run_folder(filled, run_id) / "model.safetensors"
    mix_of_run(filled, run_id)
    whole = path.read_bytes()
    HARM["flip"](path, len(whole) - 3, 4)
    with pytest.raises(DamagedError, match="removed"):
        mix_of_run(filled, run_id)
    # A run of the version before: nothing vouches for the weights but what run.json says of them.
    path.write_bytes(whole)
    about = json.loads((path.parent / "run.json").read_text())
    for name in ("files", "seal"):
        del about[name]
    weights = about["layer_weights"]["last"]
    write_json(path.parent / "run.json", about | {"layer_weights": {"last": weights}})
    mix_of_run(filled, run_id)
    write_json(path.parent / "run.json", about | {"layer_weights": {"last": [weights[0] + 0.01, weights[1] - 0.01]}})
    with pytest.raises(DamagedError, match=r"not the one of run\.json"):
        mix_of_run(filled, run_id)


@pytest.mark.slow
def test_a_finished_run_is_found_where_nothing_can_be_written(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    train(filled)
    refresh(filled)

    def refuse(*_: Any, **__: Any) -> Any:
        raise TfserError("read-only")

    monkeypatch.setattr(Cache, "lock", refuse)
    assert not train(filled).trained


@pytest.mark.slow
def test_a_full_disk_at_the_end_leaves_the_old_run(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(filled)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fold_runs, "save_model", full)
        with pytest.raises(OSError, match="No space"):
            train(filled, again=True)
    assert train(filled).about == first.about
    epochs: list[int] = []
    assert train(filled, again=True, on_epoch=lambda record: epochs.append(record.epoch)).trained and epochs == []
