"""Seals: every changed bit, every cut and every exchange of a sealed file is noticed; what cannot be read is never damage."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests import seals
from tfser.manifests.cache import Cache
from tfser.manifests.errors import DamagedError, MissingFileError, UnreadableError

TABLE = pa.table({"utterance_id": ["a", "b"], "value": [0.5, None]})


def _write(cache: Cache, kind: str, name: str = "one") -> Path:
    path = cache.root / "corpora" / name / ("corpus.json" if kind == "json" else "utterances.parquet")
    if kind == "json":
        cache.write_json(path, {"root": "/data", "name": "ä"})
    else:
        cache.write_table(path, TABLE)
    return path


def _read(cache: Cache, path: Path) -> object:
    return cache.read_json(path) if path.suffix == ".json" else cache.read_table(path)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_what_was_written_is_read(tmp_path: Path, kind: str) -> None:
    cache = Cache(tmp_path)
    path = _write(cache, kind)
    assert seals.is_sealed(path.read_bytes(), cache.place(path), "it")
    found = _read(cache, path)
    assert found == {"root": "/data", "name": "ä"} if kind == "json" else found.equals(TABLE)


@pytest.mark.parametrize("kind", ["json", "parquet"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_bit_counts(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    cache = Cache(tmp_path)
    path = _write(cache, kind)
    whole = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    with pytest.raises(DamagedError):
        _read(cache, path)


@pytest.mark.parametrize("kind", ["json", "parquet"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_cut_file_is_damaged(tmp_path: Path, kind: str, share: float) -> None:
    cache = Cache(tmp_path)
    path = _write(cache, kind)
    whole = path.read_bytes().rstrip(b"\n")
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DamagedError):
        _read(cache, path)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_file_of_another_place_is_damaged(tmp_path: Path, kind: str) -> None:
    cache = Cache(tmp_path)
    path, other = _write(cache, kind), _write(cache, kind, "two")
    path.write_bytes(other.read_bytes())
    with pytest.raises(DamagedError):
        _read(cache, path)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_what_is_no_file_does_not_hang(tmp_path: Path, kind: str) -> None:
    cache = Cache(tmp_path)
    path = _write(cache, kind)
    path.unlink()
    with pytest.raises(MissingFileError):
        _read(cache, path)
    os.mkfifo(path)
    with pytest.raises(DamagedError, match="named pipe"):
        _read(cache, path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedError, match="folder"):
        _read(cache, path)
    path.rmdir()
    path.symlink_to("nowhere")
    with pytest.raises(UnreadableError, match="nowhere"):
        _read(cache, path)


@pytest.mark.parametrize("kind", ["json", "parquet"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError(), OSError(24, "Too many open files")])
def test_what_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, kind: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    path = _write(cache, kind)

    def refuse(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableError):
        _read(cache, path)


def test_files_without_seals_are_read(tmp_path: Path) -> None:
    """Those of the version before."""
    from tfser.manifests import files

    cache = Cache(tmp_path)
    files.write_json(cache.root / "a.json", {"root": "/data"})
    files.write_table(cache.root / "a.parquet", TABLE)
    assert cache.read_json(cache.root / "a.json") == {"root": "/data"}
    assert cache.read_table(cache.root / "a.parquet").equals(TABLE)
