"""Streaming: frames that stay in their shards give the samples, and the training, of frames in memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.heads import head
from tfser.heads.models.mean_pool import MeanPoolConfig
from tfser.heads.models.tf_transformer import TFTransformerConfig
from tfser.heads.runs import holding, one_fold
from tfser.heads.runs.holding import SHARE, Holding, free_memory, memory_limit
from tfser.heads.spec.fold import FitResult, FoldData
from tfser.heads.spec.recipes import Recipe
from tfser.heads.training.ahead import DEPTH, read_ahead
from tfser.heads.training.finite import NotFiniteError
from tfser.heads.training.loop import TrainedState, fit, predict
from tfser.heads.training.together import FitJob, fit_together
from tfser.manifests.catalogue.reading import open_catalogue
from tfser.manifests.errors import UnreadableError
from tfser.pipeline.shards import streamed as streaming
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, load_packed
from tfser.pipeline.shards.streamed import StreamedFrames, is_streamed, stream_packed
from tfser.pipeline.shards.writer import ShardError, ShardMember, write_shard

from ..conftest import fill_with_tones, run
from .conftest import make_features, make_fold

RECIPE = Recipe(optimiser="adamw", lr=2e-3, epochs=2, batch_size=7, train_hop=8, eval_hop=8)
RICH = replace(
    RECIPE, averaging=0.9, normalise="utterance-mean", jitter=True, time_masks=1, time_mask_frames=4, gain_db=3, speed=0.1,
    warp=0.1, mixup=0.3,
)  # fmt: skip
SEGMENTS = ("tf_transformer", TFTransformerConfig(segment_frames=16, channels=4, feed_forward=8, joint_feed_forward=8))
WHOLE = ("mean_pool", MeanPoolConfig(hidden=(8,)))
CASES: dict[str, Any] = {
    "segments": (SEGMENTS, replace(RECIPE, jitter=True, speed=0.1), 1),
    "augmented": (SEGMENTS, RICH, 1),
    "whole utterances in parts": (WHOLE, replace(RECIPE, parts=3, normalise="utterance"), 1),
    "a mix of layers": (WHOLE, RECIPE, 4),
    "a mix of layers, augmented": (WHOLE, replace(RECIPE, gain_db=3, mixup=0.3), 4),
    "statistics": (("logreg", None), None, 1),
}


def stored(folder: Path, features: PackedFeatures, *, format: Any = "hdf5", dtype: Any = "float32") -> list[FeatureRow]:
    """Write features to three shards, utterances dealt out in turn; return their rows in the order of the features."""
    rows: dict[int, FeatureRow] = {}
    for s in range(3):
        mine = range(s, len(features), 3)
        members = [ShardMember(utterance_id=f"u{i}", content_hash=f"{i:064x}", frames=features.of(i).astype(dtype)) for i in mine]
        file = write_shard(folder, f"s{s}", members, dtype=dtype, format=format)
        columns = (file.first_frames, file.frames, file.checksums)
        for i, first, frames, checksum in zip(mine, *columns, strict=True):
            rows[i] = FeatureRow(
                utterance_id=f"u{i}", path=file.path, first_frame=first, frames=frames, dim=file.dim, checksum=checksum
            )
    return [rows[i] for i in range(len(features))]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoldData, FoldData]:
    """A small fold in memory, and the same on disk."""
    fold = make_fold()
    rows = stored(tmp_path_factory.mktemp("shards"), fold.features)
    on_disk = stream_packed(rows)
    assert is_streamed(on_disk) and not is_streamed(load_packed(rows))
    return replace(fold, features=load_packed(rows)), replace(fold, features=on_disk)


def assert_same(one: FitResult, other: FitResult) -> None:
    """All numbers but the seconds are the same, to the bit."""
    still = [[replace(record, train_s=0, eval_s=0) for record in result.history] for result in (one, other)]
    assert still[0] == still[1]
    assert one.states.keys() == other.states.keys()
    for name, state in one.states.items():
        assert all(torch.equal(tensor, other.states[name][key]) for key, tensor in state.items()), name
    for name, selection in one.selections.items():
        for key, values in vars(selection.test).items():
            np.testing.assert_array_equal(values, getattr(other.selections[name].test, key))


FAST = ("augmented", "whole utterances in parts", "a mix of layers, augmented")


@pytest.mark.few(1)
@pytest.mark.parametrize("case", [pytest.param(of, marks=() if of in FAST else pytest.mark.slow) for of in CASES])
def test_a_streamed_training_has_the_numbers_of_a_resident_one(both: tuple[FoldData, FoldData], case: str) -> None:
    (name, config), recipe, layers = CASES[case]
    spec = head(name)
    found = [
        fit(
            replace(data, layers=layers), spec=spec, config=config or spec.preset(), recipe=recipe or spec.recipe(), seed=3,
        )
        for data in both
    ]  # fmt: skip
    assert_same(*found)


@pytest.mark.slow
def test_trainings_that_are_stacked_share_streamed_frames(both: tuple[FoldData, FoldData]) -> None:
    name, config = SEGMENTS
    found = [
        fit_together([FitJob(data=data, seed=s) for s in (0, 1)], spec=head(name), config=config, recipe=RECIPE, how="vmap")
        for data in both
    ]
    for one, other in zip(*found, strict=True):
        assert isinstance(one, FitResult) and isinstance(other, FitResult)
        assert_same(one, other)


def test_a_model_predicts_from_streamed_frames(both: tuple[FoldData, FoldData]) -> None:
    name, config = SEGMENTS
    trained = fit(both[0], spec=head(name), config=config, recipe=RECIPE, seed=0)
    state = TrainedState(state=trained.states["last"], spec=head(name), config=config, recipe=RECIPE, n_classes=3)
    one, other = (predict(state, data.features).segment_probabilities for data in both)
    np.testing.assert_array_equal(one, other)


@settings(max_examples=15)
@given(st.data())
def test_any_frames_of_any_utterance(kinds: dict[str, tuple[PackedFeatures, StreamedFrames]], data: st.DataObject) -> None:
    """Stretches, stretches that begin anew, and frames in any order; whole blocks over several utterances."""
    whole, frames = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    span = data.draw(st.integers(1, 30))
    numbers = np.zeros((data.draw(st.integers(1, 4)), span), np.int64)
    for of in numbers:
        u = data.draw(st.integers(0, len(whole) - 1))
        n, first = int(whole.lengths[u]), data.draw(st.integers(0, 40))
        at = data.draw(st.sampled_from(("on", "faster", "any")))
        on = np.arange(span)
        steps = {"on": on, "faster": np.floor(on * 1.3).astype(int), "any": on[::-1] * 7}[at]
        of[:] = whole.offsets[u] + (first + steps) % n
    np.testing.assert_array_equal(frames.take(numbers), whole.frames[numbers])
    first = data.draw(st.integers(0, len(frames)))
    last = data.draw(st.integers(first, len(frames)))
    np.testing.assert_array_equal(frames[first:last], whole.frames[first:last])
    assert frames.shape == whole.frames.shape and frames.dtype == whole.frames.dtype and frames.nbytes == whole.frames.nbytes


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PackedFeatures, StreamedFrames]]:
    """The same utterances in memory and on disk: both formats, and the columns of wider frames."""
    made, features = {}, make_features([5, 1, 30, 12, 7, 18, 3], 6)
    for format in ("hdf5", "parquet"):
        rows = stored(tmp_path_factory.mktemp(format), features, format=format, dtype="float16")
        columns = [replace(row, dim=2, first_column=2) for row in rows]
        for name, of in ((format, rows), (f"columns of {format}", columns)):
            made[name] = (load_packed(of), StreamedFrames(of))
    return made


def test_more_shards_than_may_be_open_and_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_features([4, 9, 2, 6, 7], 3)
    monkeypatch.setattr(streaming, "MOST_OPEN", 1)
    monkeypatch.setattr(streaming, "_WORTH_THREADS", 1)
    frames = StreamedFrames(stored(tmp_path, features))
    numbers = np.stack([features.offsets[u] + np.arange(8) % features.lengths[u] for u in (0, 1, 2, 3, 4, 2, 1)])
    for _ in range(3):
        np.testing.assert_array_equal(frames.take(numbers), features.frames[numbers])
    assert len(frames._open) == 1


def test_damage_is_found_when_an_utterance_is_read_first(tmp_path: Path) -> None:
    features = make_features([4, 9, 2], 3)
    rows = stored(tmp_path, features)
    wrong = [replace(rows[0], checksum="00000000"), *rows[1:]]
    frames = StreamedFrames(wrong)
    np.testing.assert_array_equal(frames[4:15], features.frames[4:15])
    for _ in range(2):  # nor is it forgotten
        with pytest.raises(ShardError, match="u0"):
            frames.take(np.array([[1, 2]]))
    np.testing.assert_array_equal(StreamedFrames(wrong, "never")[0:4], features.frames[0:4])


def test_a_shard_that_is_replaced_meanwhile_is_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_features([4, 9, 2], 3)
    rows = stored(tmp_path, features)
    monkeypatch.setattr(streaming, "MOST_OPEN", 1)
    frames = StreamedFrames(rows)
    np.testing.assert_array_equal(frames[0:4], features.frames[0:4])
    members = [ShardMember(utterance_id="u0", content_hash="0" * 64, frames=np.zeros((4, 3), np.float32))]
    rows[0].path.rename(tmp_path / "before")  # its inode is not given to the next
    assert write_shard(tmp_path, "s0", members, dtype="float32", format="hdf5").path == rows[0].path
    np.testing.assert_array_equal(frames[4:13], features.frames[4:13])  # which closes the first
    with pytest.raises(UnreadableError, match="replaced while"):
        frames[0:4]


def test_features_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    fold = make_fold()
    fold.features.frames[fold.features.offsets[3]] = np.nan
    with np.errstate(invalid="ignore"):
        data = replace(fold, features=stream_packed(stored_raw(tmp_path, fold.features)))
    name, config = WHOLE
    with pytest.raises(NotFiniteError, match="'u3'"):
        fit(data, spec=head(name), config=config, recipe=RECIPE, seed=0)


def stored_raw(folder: Path, features: PackedFeatures) -> list[FeatureRow]:
    """Write features that `write_shard` refuses: zeros, over which they are written; nobody knows their checksums."""
    rows = stored(folder, replace(features, frames=np.zeros_like(features.frames)))
    import h5py

    for i, row in enumerate(rows):
        with h5py.File(row.path, "r+") as file:
            file["frames"][row.first_frame : row.first_frame + row.frames] = features.of(i)
    return [replace(row, checksum=None) for row in rows]


# -- reading ahead -----------------------------------------------------------------------------------------------------------


def test_items_come_in_order_and_no_more_than_a_few_are_made_before() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    taken = []
    for item in read_ahead(items()):
        taken.append(item)
        assert len(made) <= len(taken) + DEPTH + 1
    assert taken == list(range(20))


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    reading = read_ahead(items())
    assert next(reading) == 1
    with pytest.raises(ValueError, match="no second"):
        next(reading)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    reading = read_ahead(iter(range(1000)))
    assert next(reading) == 0 and threading.active_count() == before + 1
    reading.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# -- where frames are held ---------------------------------------------------------------------------------------------------


def test_frames_are_streamed_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "memory_limit", lambda: 1000)
    monkeypatch.setattr(holding, "free_memory", lambda: 450)
    assert Holding().why_streamed(350, "cpu") is None
    assert Holding().why_streamed(501, "cpu") == "their 501 B are more than 50% of 1.0 kB of memory"
    assert Holding().why_streamed(400, "cpu") == "their 400 B are more than 80% of the 450 B of memory that are free"
    four = Holding(processes=4).why_streamed(126, "cpu")
    assert four == "their 126 B are more than 50% of 1.0 kB of memory, of which 4 trainings share half"
    assert Holding(stream=False).why_streamed(10**6, "cpu") is None
    assert Holding(stream=True).why_streamed(1, "cpu") == "as asked for"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (400, 1000))
    assert Holding().why_streamed(239, "cuda") is None
    assert Holding().why_streamed(241, "cuda") == "their 241 B are more than 60% of the 400 B that are free on cuda"


def test_the_limit_of_a_container_is_the_memory_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_limit(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "job" / "memory.max").write_text("5000\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    monkeypatch.setattr(holding, "_own_group", lambda: "/job/step")
    assert memory_limit(tmp_path) == 5000
    (tmp_path / "info").write_text("MemTotal:       100 kB\nMemAvailable:   70 kB\n")
    assert free_memory(tmp_path / "info") == 70 * 1024
    assert free_memory(tmp_path / "none") is None


@pytest.mark.slow
def test_the_command_says_so_and_it_is_the_same_run(tmp_path: Path, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_with_tones(cache, tmp_path / "audio", seconds=0.2, each=(2, 2))
    words = ("train", "--head", "mean_pool", "--features", "logmel", "--epochs", "1", "--fold", "1", "--format", "json")
    monkeypatch.setattr(holding, "memory_limit", lambda: 1000)
    monkeypatch.setattr(one_fold, "WORTH_SAYING", 1)
    streamed = run(*words, "--cache", cache.root)
    assert streamed.exit_code == 0, streamed.stderr
    assert f"more than {SHARE:.0%} of 1.0 kB of memory" in " ".join(streamed.stderr.split())
    said = re.search(r"fold 1: ([0-9.]+) kB are read once to measure the normalisation", " ".join(streamed.stderr.split()))
    (folder,) = cache.runs.glob("mean_pool*")
    table = cache.read_table(folder / "predictions.parquet")
    held = run(*words, "--no-stream", "--again", "--cache", cache.root)
    assert held.exit_code == 0 and "streamed" not in held.stderr and "read once" not in held.stderr
    with open_catalogue(cache) as connection:  # the speaker of fold 1 is tested, the other one trained on
        rows = connection.execute("SELECT utterance_id, frames * dim * 4 FROM features").fetchall()
    tested = set(table["utterance_id"].to_pylist())
    assert said is not None and float(said[1]) == round(sum(n for name, n in rows if name not in tested) / 1000, 1)
    assert cache.read_table(folder / "predictions.parquet").equals(table)


@pytest.mark.slow
def test_features_larger_than_the_memory_that_is_allowed(tmp_path: Path) -> None:
    """Of 300 MB beyond what a process begins with, it trains on 490 MB of frames if they are streamed, and only then."""
    n, dim = 800, 1024
    lengths = [300 + i % 7 for i in range(n)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frames = np.zeros((int(offsets[-1]), dim), np.float16)
    frames[:, :8] = np.random.default_rng(0).standard_normal((len(frames), 8))
    packed = PackedFeatures(frames=frames, offsets=offsets, utterance_ids=tuple(f"u{i}" for i in range(n)))
    rows = stored(tmp_path, packed, dtype="float16")
    lines = [[str(row.path), row.first_frame, row.frames, row.checksum] for row in rows]
    (tmp_path / "rows.json").write_text(json.dumps(lines))
    assert frames.nbytes > 490e6
    outcome = {how: limited(tmp_path, how) for how in ("stream", "hold")}
    assert outcome["stream"].returncode == 0, outcome["stream"].stderr
    assert outcome["stream"].stdout.strip() == "1 epoch"
    assert outcome["hold"].returncode != 0 and "MemoryError" in outcome["hold"].stderr


def limited(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own that may hold 300 MB more than when it begins."""
    code = """
        import json, resource, sys
        from pathlib import Path
        import numpy as np, torch
        torch.set_num_threads(1)
        from tfser.heads import head
        from tfser.heads.spec.fold import FoldData
        from tfser.heads.spec.recipes import Recipe
        from tfser.heads.training.loop import fit
        from tfser.heads.models.mean_pool import MeanPoolConfig
        from tfser.pipeline.shards.packed import FeatureRow, load_packed
        from tfser.pipeline.shards.streamed import stream_packed
        from tfser.pipeline.shards.packed import PackedFeatures
        def train(packed):
            n = len(packed)
            train, val, test = np.split(np.arange(n), [n * 3 // 4, n * 7 // 8])
            fold = FoldData(features=packed, labels=np.arange(n) % 2, classes=("a", "b"), train=train, val=val, test=test)
            recipe = Recipe(optimiser="adamw", lr=1e-3, epochs=1, batch_size=16)
            return fit(fold, spec=head("mean_pool"), config=MeanPoolConfig(hidden=(8,)), recipe=recipe, seed=0)
        # What the first training of a process loads is no part of what one holds.
        noise = np.random.default_rng(0).standard_normal((160, 8)).astype(np.float32)
        train(PackedFeatures(frames=noise, offsets=np.arange(0, 161, 10), utterance_ids=tuple("abcdefghijklmnop")))
        rows = [
            FeatureRow(utterance_id=f"u{i}", path=Path(p), first_frame=first, frames=n, dim=1024, checksum=c)
            for i, (p, first, n, c) in enumerate(json.loads(Path(sys.argv[1], "rows.json").read_text()))
        ]
        data = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (data + 300_000_000, data + 300_000_000))
        found = train((stream_packed if sys.argv[2] == "stream" else load_packed)(rows))
        print(len(found.history), "epoch")
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder), how], capture_output=True, text=True, check=False
    )
