"""Shards: both formats give back what was stored, the same bytes twice, and nothing half-written ever counts."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfser.manifests.errors import DamagedError, MissingFileError, TfserError, UnreadableError, UsageError
from tfser.pipeline.shards import writer as shards
from tfser.pipeline.shards.reader import ShardReader
from tfser.pipeline.shards.rows import read_rows, read_stock, rows_path, rows_schema, write_rows
from tfser.pipeline.shards.writer import ShardError, ShardFile, ShardMember, write_shard

Format = Literal["hdf5", "parquet"]
Dtype = Literal["float32", "float16"]
both_formats = pytest.mark.parametrize("format", ["hdf5", "parquet"])


def members(lengths: list[int], dim: int = 5, seed: int = 0) -> list[ShardMember]:
    rng = np.random.default_rng(seed)
    return [
        ShardMember(utterance_id=f"Ses01_ü{i:03d}", content_hash=f"{i:032x}", frames=rng.normal(size=(n, dim)).astype("f4"))
        for i, n in enumerate(lengths)
    ]


def store(folder: Path, lengths: list[int], format: Format = "hdf5", dtype: Dtype = "float16", **more: Any) -> ShardFile:
    shard = write_shard(folder, "0123abcd", members(lengths, **more), dtype=dtype, format=format, attributes={"a": "ü"})
    write_rows(shard)
    return shard


@settings(max_examples=15)
@given(
    arrays=st.integers(1, 9).flatmap(
        lambda dim: st.lists(
            st.integers(0, 12).flatmap(lambda t: hnp.arrays(np.float32, (t, dim), elements=st.floats(-60000, 60000, width=32))),
            min_size=1,
            max_size=8,
        )
    ),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_both_formats_give_back_what_was_stored(
    tmp_path_factory: pytest.TempPathFactory, arrays: list[np.ndarray], dtype: Dtype
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    given_members = [ShardMember(utterance_id=str(i), content_hash="", frames=a) for i, a in enumerate(arrays)]
    together = np.concatenate(arrays).astype(dtype)
    checksums = set()
    for format in ("hdf5", "parquet"):
        shard = write_shard(folder, format, given_members, dtype=dtype, format=format)  # type: ignore[arg-type]
        write_rows(shard)
        checksums.add((shard.checksum, shard.checksums, shard.first_frames, shard.frames))
        with ShardReader(shard.path) as reader:
            assert (reader.dim, reader.dtype) == (arrays[0].shape[1], np.dtype(dtype))
            assert reader.utterance_ids == tuple(str(i) for i in range(len(arrays)))
            for first, n, array in zip(shard.first_frames, shard.frames, arrays, strict=True):
                np.testing.assert_array_equal(reader.frames_of(first, n), array.astype(dtype))
            np.testing.assert_array_equal(reader.frames_of(0, len(together)), together)
            half = len(together) // 2
            dest = np.empty_like(together[half:])
            reader.read_into(dest, half, len(dest))
            np.testing.assert_array_equal(dest, together[half:])
            assert reader.damaged(pq.read_table(rows_path(shard.path)).to_pylist()) == []
    assert len(checksums) == 1
    assert read_rows(folder).num_rows == 2 * len(arrays)


@both_formats
def test_many_row_groups(tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_GROUP_BYTES", 2000)
    lengths = [(7 * i) % 23 for i in range(200)] + [900]
    shard = store(tmp_path, lengths, format, "float32", dim=3)
    wanted = np.concatenate([member.frames for member in members(lengths, dim=3)])
    with ShardReader(shard.path) as reader:
        np.testing.assert_array_equal(reader.frames_of(0, len(wanted)), wanted)
        np.testing.assert_array_equal(reader.frames_of(500, 1000), wanted[500:1500])
        assert reader.damaged(pq.read_table(rows_path(shard.path)).to_pylist()) == []
    if format == "parquet":
        with pq.ParquetFile(shard.path) as file:
            assert file.num_row_groups > 10


def test_standard_tools_read_the_files(tmp_path: Path) -> None:
    """A shard needs no tfser: h5py and pyarrow see frames, lengths and ids as documented."""
    wanted = members([3, 0, 4])
    path = store(tmp_path / "h", [3, 0, 4]).path
    with h5py.File(path) as file:
        assert file["frames"].shape == (7, 5) and file["frames"].dtype == np.float16 and file["frames"].chunks is None
        assert file["offsets"][()].tolist() == [0, 3, 3, 7]
        assert file["utterance_id"].asstr()[2] == wanted[2].utterance_id
        assert file.attrs["a"] == "ü"
        np.testing.assert_array_equal(file["frames"][3:], wanted[2].frames.astype("f2"))
    table = pq.read_table(store(tmp_path / "p", [3, 0, 4], "parquet").path)
    assert table.column("dtype").to_pylist() == ["float16"] * 3 and table.column("frames").to_pylist() == [3, 0, 4]
    blob = np.frombuffer(table.column("data")[2].as_py(), "<f2").reshape(4, 5)
    np.testing.assert_array_equal(blob, wanted[2].frames.astype("f2"))
    assert b"pandas" not in table.schema.metadata


@both_formats
def test_the_same_members_give_the_same_bytes_at_another_time(
    tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the clock that Python reads, nor the one that HDF5 asks by itself, to the second."""
    first = store(tmp_path / "a", [3, 9, 4], format)
    if format == "hdf5":
        time.sleep(1.05)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    store(tmp_path / "b", [3, 9, 4], format)
    for path in (first.path, rows_path(first.path)):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.slow
@both_formats
def test_the_same_members_give_the_same_bytes_in_another_process(
    tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store(tmp_path / "a", [3, 9, 4], format)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_shards import store; from pathlib import Path;"
        "import time; time.sleep(1.1); store(Path(sys.argv[2]), [3, 9, 4], sys.argv[3])"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "b"), format]
    subprocess.run(arguments, check=True)
    for path in (first.path, rows_path(first.path)):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == sorted(p.name for p in (tmp_path / "a").iterdir())


@both_formats
def test_hdf5_frames_are_views_and_outlive_the_reader(tmp_path: Path, format: Format) -> None:
    shard = store(tmp_path, [30, 9], format)
    with ShardReader(shard.path) as reader:
        frames = reader.frames_of(30, 9)
        assert reader.attributes["a"] == "ü" and reader.attributes["checksum"] == shard.checksum
    np.testing.assert_array_equal(frames, members([30, 9])[1].frames.astype("f2"))
    assert not frames.flags.writeable
    assert frames.flags.owndata is False or format == "parquet"
    with pytest.raises(ShardError, match="closed"):
        reader.frames_of(0, 1)
    reader.close()


@both_formats
def test_reading_past_the_end_or_into_the_wrong_array(tmp_path: Path, format: Format) -> None:
    with ShardReader(store(tmp_path, [3, 4], format).path) as reader:
        for first, n in ((0, 8), (7, 1), (-1, 2), (2, -1)):
            with pytest.raises(ShardError, match="frames"):
                reader.frames_of(first, n)
        assert reader.frames_of(7, 0).shape == (0, 5)
        for dest in (np.empty((2, 5), "f2"), np.empty((3, 4), "f2"), np.empty((3, 5), "f4"), np.empty((5, 3), "f2").T):
            with pytest.raises(TfserError, match="C order"):
                reader.read_into(dest, 0, 3)


@both_formats
def test_values_that_cannot_be_stored(tmp_path: Path, format: Format) -> None:
    def attempt(value: float, dtype: Dtype) -> None:
        frames = np.ones((3, 5), np.float64)
        frames[1, 1] = value
        write_shard(tmp_path, "x", [ShardMember(utterance_id="u1", content_hash="", frames=frames)], dtype=dtype, format=format)

    for value, dtype, reason in (
        (70000.0, "float16", "too large for float16"),
        (1e39, "float32", "too large for float32"),
        (float("nan"), "float32", "NaN"),
        (float("inf"), "float16", "NaN or infinite"),
    ):
        with pytest.raises(TfserError, match=reason) as caught:
            attempt(value, dtype)  # type: ignore[arg-type]
        assert "u1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    attempt(65504.0, "float16")


def test_impossible_members_and_options(tmp_path: Path) -> None:
    good = members([2, 3])
    for those, reason in (
        ([], "no utterances"),
        ([good[0], good[0]], "twice"),
        ([good[0], *members([2], dim=6, seed=1)[:0], members([1, 1], dim=6)[1]], "shape"),
        ([ShardMember(utterance_id="flat", content_hash="", frames=np.ones(3))], "shape"),
    ):
        with pytest.raises(TfserError, match=reason):
            write_shard(tmp_path, "x", those, dtype="float32", format="hdf5")
    with pytest.raises(UsageError, match="shard format 'h5'"):
        write_shard(tmp_path, "x", good, dtype="float32", format="h5")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="storage dtype 'float8'"):
        write_shard(tmp_path, "x", good, dtype="float8", format="hdf5")  # type: ignore[arg-type]
    for name in ("", "../x", "a/b", ".hidden"):
        with pytest.raises(UsageError, match="name of a shard"):
            write_shard(tmp_path, name, good, dtype="float32", format="hdf5")
    assert list(tmp_path.iterdir()) == []


@both_formats
def test_damage_is_found(tmp_path: Path, format: Format) -> None:
    path = store(tmp_path, [30, 40, 50], format).path
    good = path.read_bytes()
    at = good.index(members([30, 40, 50])[1].frames.astype("f2").tobytes()[:40])
    path.write_bytes(good[: at + 7] + bytes([good[at + 7] ^ 1]) + good[at + 8 :])
    rows = read_rows(tmp_path).to_pylist()
    with ShardReader(path) as reader:
        assert reader.damaged(rows) == ["Ses01_ü001"]
    path.write_bytes(good)
    with ShardReader(path) as reader:
        assert reader.damaged(rows) == []
        assert reader.damaged([{**rows[0], "dim": 6}, {**rows[1], "first_frame": 0}, {**rows[2], "frames": 51}]) == [
            row["utterance_id"] for row in rows
        ]
    for damaged in (good[:-1], good[: len(good) // 2], good[:10], b"", b"x" * len(good)):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="tfser cache verify --repair") as caught:
            ShardReader(path)
        assert "\n" not in str(caught.value) and path.name in str(caught.value)
    path.unlink()
    with pytest.raises(MissingFileError, match="is missing"):
        ShardReader(path)
    with pytest.raises(ShardError, match="not the name of a shard"):
        ShardReader(tmp_path / "x.bin")


@pytest.mark.few(1)
@both_formats
@settings(max_examples=20)
@given(flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bits_are_found_or_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, format: Format, flips: list[tuple[float, int]]
) -> None:
    path = store(tmp_path_factory.mktemp("flip"), [3, 4, 5], format).path
    with ShardReader(path) as reader:
        whole, rows = reader.frames_of(0, 12).copy(), read_rows(path.parent).to_pylist()
        assert reader.damaged(rows) == []
    data = bytearray(path.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path.write_bytes(data)
    try:
        with ShardReader(path) as reader:
            if not reader.damaged(rows):  # what counts as whole is what was written
                for row in rows:
                    first, frames = row["first_frame"], row["frames"]
                    np.testing.assert_array_equal(reader.frames_of(first, frames), whole[first : first + frames])
    except (ShardError, UnreadableError) as error:
        assert "\n" not in str(error)


def test_other_files_of_the_same_suffix_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = np.zeros((4, 2))
        file["offsets"] = [0, 4]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("frames", data=np.zeros((4, 2), "f4"), chunks=(1, 2))
        file["offsets"] = [0, 4]
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["frames"] = np.zeros((4, 2), "f4")
        file["offsets"] = [0, 5]
    table = pq.read_table(store(tmp_path / "p", [3, 4], "parquet").path)
    pq.write_table(table, tmp_path / "d.frames.parquet", compression="zstd")
    for name in ("a.h5", "b.h5", "c.h5", "d.frames.parquet"):
        with pytest.raises(UnreadableError, match=r"its (frames|offsets)"):
            ShardReader(tmp_path / name)


@both_formats
def test_rows_count_only_with_their_shard(tmp_path: Path, format: Format) -> None:
    shard = store(tmp_path, [3, 4], format)
    assert read_stock(tmp_path).broken == {}
    table = read_rows(tmp_path)
    assert table.schema.equals(rows_schema())
    assert table.to_pylist()[1] == {
        "utterance_id": "Ses01_ü001",
        "content_hash": f"{1:032x}",
        "shard": shard.path.name,
        "first_frame": 3,
        "frames": 4,
        "dim": 5,
        "checksum": shard.checksums[1],
    }
    (tmp_path / "junk.rows.parquet").write_bytes(b"PAR1 but not really")
    pq.write_table(table.select(["shard"]), tmp_path / "odd.rows.parquet")
    stock = read_stock(tmp_path)
    assert stock.rows.num_rows == 2
    assert {path.name: type(error) for path, error in stock.broken.items()} == {
        "junk.rows.parquet": DamagedError,
        "odd.rows.parquet": UnreadableError,
    }

    good = shard.path.read_bytes()
    shard.path.write_bytes(good + b"\0")
    assert read_rows(tmp_path).num_rows == 0
    with ShardReader(shard.path) if format == "hdf5" else pytest.raises(ShardError):
        if format == "parquet":
            ShardReader(shard.path)
    shard.path.unlink()
    stock = read_stock(tmp_path)
    assert stock.rows.num_rows == 0 and any(isinstance(error, MissingFileError) for error in stock.broken.values())
    assert read_rows(tmp_path / "nowhere").num_rows == 0


@both_formats
def test_a_shard_without_rows_does_not_count(tmp_path: Path, format: Format) -> None:
    shard = write_shard(tmp_path, "x", members([3]), dtype="float32", format=format)
    assert read_rows(tmp_path).num_rows == 0
    assert ShardReader(shard.path).utterance_ids == ("Ses01_ü000",)


@pytest.mark.parametrize(("format", "call"), [("hdf5", "fsync"), ("hdf5", "pwritev"), ("parquet", "fsync")])
def test_a_full_disk_leaves_nothing(tmp_path: Path, format: Format, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path, "x", members([3]), dtype="float32", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@both_formats
def test_a_limit_on_the_file_size_leaves_nothing(tmp_path: Path, format: Format) -> None:
    """A true refusal by the kernel in the middle of a write, as a full disk gives it."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1]); import test_shards as t;"
        "from pathlib import Path; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000));\n"
        "try: t.store(Path(sys.argv[2]), [4000] * 4, sys.argv[3])\n"
        "except OSError as error: print('refused', error.errno)"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "full"), format]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"refused {errno.EFBIG}", done.stderr
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.few(1)
@both_formats
def test_a_killed_writer_leaves_only_a_hidden_file(tmp_path: Path, format: Format) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import test_shards as t; from pathlib import Path;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); t.store(Path(sys.argv[2]), [9], sys.argv[3])"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), format]
    assert subprocess.run(arguments).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".0123abcd.") and left.name.endswith(".tmp")
    assert read_rows(tmp_path).num_rows == 0
    store(tmp_path, [9], format)
    assert read_rows(tmp_path).num_rows == 1


def test_importing_is_cheap() -> None:
    code = (
        "import sys, tfser.pipeline.shards.writer, tfser.pipeline.shards.packed;"
        "print([m for m in ('h5py', 'pyarrow', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
