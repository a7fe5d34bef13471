"""Packed features: whatever the order, the shards and the format, each utterance gets its own frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfser.manifests.errors import MissingFileError, TfserError
from tfser.pipeline.shards import packed as batches
from tfser.pipeline.shards.packed import FeatureRow, PackedFeatures, load_packed
from tfser.pipeline.shards.writer import ShardError, ShardMember, write_shard


def store(
    folder: Path, shards: list[list[int]], *, dim: int = 3, dtype: Any = "float16"
) -> tuple[list[FeatureRow], dict[str, np.ndarray]]:
    """Write shards of utterances of these lengths, formats in turn; return their rows, and their frames by id."""
    rng = np.random.default_rng(0)
    rows, frames = [], {}
    for k, lengths in enumerate(shards):
        members = [
            ShardMember(utterance_id=f"{k}-{i}", content_hash="", frames=rng.normal(size=(n, dim)).astype(dtype, copy=False))
            for i, n in enumerate(lengths)
        ]
        shard = write_shard(folder, f"s{k}", members, dtype=dtype, format="hdf5" if k % 2 == 0 else "parquet")
        frames.update({member.utterance_id: member.frames for member in members})
        rows += [
            FeatureRow(utterance_id=name, path=shard.path, first_frame=first, frames=n, dim=dim)
            for name, first, n in zip(shard.utterance_ids, shard.first_frames, shard.frames, strict=True)
        ]
    return rows, frames


@settings(max_examples=15)
@given(
    shards=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32"]),
    data=st.data(),
)
def test_any_rows_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], dtype: str, data: st.DataObject
) -> None:
    rows, frames = store(tmp_path_factory.mktemp("packed"), shards, dtype=dtype)
    chosen = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=2 * len(rows)))
    packed = load_packed(chosen)
    assert packed.utterance_ids == tuple(row.utterance_id for row in chosen)
    assert packed.lengths.tolist() == [row.frames for row in chosen]
    assert packed.frames.dtype == np.dtype(dtype) and packed.offsets.dtype == np.int64 and packed.dim == 3
    for i, row in enumerate(chosen):
        np.testing.assert_array_equal(packed.of(i), frames[row.utterance_id])


def test_progress_and_a_destination_of_ones_own(tmp_path: Path) -> None:
    rows, frames = store(tmp_path, [[4, 5], [6], [7, 1]])
    told: list[tuple[int, int]] = []
    out = np.zeros((50, 3), np.float16)
    packed = load_packed(rows, progress=lambda done, total: told.append((done, total)), out=out)
    assert told == [(2, 5), (3, 5), (5, 5)]
    assert np.shares_memory(packed.frames, out) and len(packed.frames) == 23
    np.testing.assert_array_equal(packed.of(2), frames["1-0"])
    for wrong in (np.zeros((22, 3), "f2"), np.zeros((50, 3), "f4"), np.zeros((50, 4), "f2"), np.zeros((3, 50), "f2").T):
        with pytest.raises(TfserError, match="`out`"):
            load_packed(rows, out=wrong)


def test_what_cannot_be_packed(tmp_path: Path) -> None:
    with pytest.raises(TfserError, match="extract"):
        load_packed([])
    rows, _ = store(tmp_path / "a", [[4, 5], [6]])
    wider, _ = store(tmp_path / "b", [[4]], dim=4)
    finer, _ = store(tmp_path / "c", [[4]], dtype="float32")
    with pytest.raises(TfserError, match="different widths"):
        load_packed(rows + wider)
    with pytest.raises(TfserError, match="float32"):
        load_packed(rows + finer)
    lying = FeatureRow(utterance_id="x", path=wider[0].path, first_frame=0, frames=2, dim=3)
    with pytest.raises(TfserError, match="4 float16 numbers"):
        load_packed([rows[0], lying])
    beyond = FeatureRow(utterance_id="x", path=rows[0].path, first_frame=8, frames=2, dim=3)
    with pytest.raises(ShardError, match="extract again"):
        load_packed([*rows, beyond])
    rows[2].path.unlink()
    with pytest.raises(MissingFileError, match="is missing"):
        load_packed(rows)


def packed(lengths: list[int]) -> PackedFeatures:
    total = sum(lengths)
    return PackedFeatures(
        frames=np.arange(total * 2, dtype=np.float32).reshape(total, 2),
        offsets=np.cumsum([0, *lengths]),
        utterance_ids=tuple(f"u{i}" for i in range(len(lengths))),
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_selecting(lengths: list[int], data: st.DataObject) -> None:
    whole = packed(lengths)
    indices = data.draw(st.lists(st.integers(-len(lengths), len(lengths) - 1), max_size=10))
    part = whole.select(indices)
    assert len(part) == len(indices)
    for place, i in enumerate(indices):
        assert part.utterance_ids[place] == whole.utterance_ids[i]
        np.testing.assert_array_equal(part.of(place), whole.of(i))
    assert not np.shares_memory(part.frames, whole.frames)
    mask = np.array([n > 2 for n in lengths])
    assert whole.select(mask).lengths.tolist() == [n for n in lengths if n > 2]


def test_packed_features_are_checked() -> None:
    good = packed([2, 3])
    assert np.shares_memory(good.of(1), good.frames)
    with pytest.raises(IndexError):
        good.of(2)
    with pytest.raises(IndexError):
        good.select([2])
    with pytest.raises(TfserError, match="mask"):
        good.select(np.array([True]))
    for frames, offsets, ids in (
        (good.frames[:, 0], good.offsets, good.utterance_ids),
        (good.frames, good.offsets[:-1], good.utterance_ids),
        (good.frames, np.array([0, 6, 5]), good.utterance_ids),
        (good.frames, np.array([1, 2, 5]), good.utterance_ids),
        (good.frames, np.array([0, 2, 4]), good.utterance_ids),
    ):
        with pytest.raises(TfserError):
            PackedFeatures(frames=frames, offsets=offsets, utterance_ids=ids)


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, frames = store(tmp_path, [[4, 5], [6], [7, 1], [2]])
    monkeypatch.setattr(batches, "_WORTH_THREADS", 0)
    monkeypatch.setattr(batches, "_workers", lambda: 3)
    told: list[tuple[int, int]] = []
    shuffled = [rows[i] for i in (5, 0, 3, 2, 1, 4)]
    loaded = load_packed(shuffled, progress=lambda *now: told.append(now))
    assert told[-1] == (6, 6)
    for i, row in enumerate(shuffled):
        np.testing.assert_array_equal(loaded.of(i), frames[row.utterance_id])
    rows[2].path.write_bytes(b"damaged")
    with pytest.raises(ShardError, match="extract again"):
        load_packed(rows)
