"""What `verify` and `repair` do and leave: whole files that were removed once, links, folders that are no cache, older caches."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from tfser.cli import app
from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, refresh, rows
from tfser.manifests.errors import CannotWriteError, DamagedError, UnreadableError, UsageError
from tfser.manifests.files import write_json, write_table
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.derived.collapse import collapse
from tfser.pipeline.extraction.extract import extract
from tfser.pipeline.features.registry import feature_set
from tfser.pipeline.features.stacks import layer_cut, layered
from tfser.pipeline.inventory import Unwanted, delete, doomed, size_of
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.packed import FeatureRow, load_packed
from tfser.pipeline.shards.writer import ShardError
from tfser.pipeline.verify import repair, verify

LOGMEL = feature_set("logmel")
OLD = Path(__file__).parent.parent / "data" / "cache-0.1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(4):
        soundfile.write(folder / f"u{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(1600), 16000)
    (folder / "t.csv").write_text("path,label\n" + "".join(f"u{i}.wav,anger\n" for i in range(4)))
    return folder


@pytest.fixture
def full(cache: Cache, root: Path) -> Cache:
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    extract(cache, "c", LOGMEL, shard_utterances=2)
    refresh(cache)
    return cache


def content(cache: Cache) -> dict[str, bytes]:
    found = (p for p in cache.root.rglob("*") if p.is_file() and p != cache.catalogue and "locks" not in p.parts)
    return {cache.place(p): p.read_bytes() for p in found}


def shards(cache: Cache) -> list[Path]:
    return sorted(cache.feature_root.glob("*/c/*.h5"))


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


# -- D1: what was whole and went ------------------------------------------------------------------------------------------------


def _hold(path: str, is_open: Any, done: Any) -> None:
    with h5py.File(path, "r+"):
        is_open.set()
        done.wait(60)


def test_a_shard_that_another_program_holds_open_for_writing_stays(full: Cache) -> None:
    """As a notebook does; HDF5 marks the file as open, so its bytes differ meanwhile."""
    context = multiprocessing.get_context("fork")
    is_open, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(shards(full)[0]), is_open, done))
    process.start()
    try:
        assert is_open.wait(60)
        found = verify(full)
        assert [(p.path, p.kind) for p in found] in ([], [(full.place(shards(full)[0]), "could not be checked")])
        assert repair(full, found) == [] and len(shards(full)) == 2 and not full.removed.exists()
    finally:
        done.set()
        process.join(60)
    assert verify(full) == []


@pytest.mark.slow
def test_files_without_read_permission_stay(full: Cache) -> None:
    """As a user whom permissions stop, which those of root do not."""
    before = content(full)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tfser.manifests.cache import Cache\n"
        "from tfser.pipeline.verify import repair, verify\n"
        "cache = Cache(Path(sys.argv[1])); found = verify(cache); print(sorted({p.kind for p in found}), repair(cache, found))"
    )
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here")
    for path in (p for p in full.root.rglob("*") if p.is_file() and "locks" not in p.parts):
        path.chmod(0)
    words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    ran = subprocess.run([*words, sys.executable, "-c", code, str(full.root)], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "['could not be checked'] []", ran.stderr
    assert content(full) == before


@pytest.mark.slow
def test_little_memory_is_no_damage(full: Cache) -> None:
    before = content(full)
    code = (
        "import resource, sys; from pathlib import Path\nimport tfser.pipeline.verify as v\n"
        "from tfser.manifests.cache import Cache\ncache = Cache(Path(sys.argv[1]))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))\n"
        "found = v.verify(cache)\nassert not [p for p in found if p.kind == 'damaged'], found\n"
        "assert v.repair(cache, found) == []"
    )
    assert resource.RLIMIT_AS is not None
    subprocess.run([sys.executable, "-c", code, str(full.root)], capture_output=True, timeout=120)  # it may well run out of it
    assert content(full) == before and verify(full) == []


def test_rows_and_runs_of_a_newer_version_stay(full: Cache) -> None:
    path = sorted(full.feature_root.glob("*/c/*.rows.parquet"))[0]
    table = pq.read_table(path)
    full.write_table(path, table.append_column("newer", pa.array([1] * table.num_rows)))
    for name in ("history", "metrics", "confusion", "predictions"):
        write_table(full.runs / "r" / f"{name}.parquet", pa.table({"run_id": ["r"], "newer": [1]}))
    write_json(full.runs / "r" / "run.json", {"run_id": "r", "corpus": "c", "status": "finished"})
    before = content(full)
    found = verify(full)
    assert {p.kind for p in found} == {"could not be checked"} and len(found) == 2
    assert all(p.way_out.startswith("let it be read and verify again; else: ") for p in found)  # making it anew comes second
    assert repair(full, found) == [] and content(full) == before
    with pytest.raises(UnreadableError, match="cannot be understood"):
        extract(full, "c", LOGMEL)
    assert content(full) == before


# -- what is no cache, links, and asking --------------------------------------------------------------------------------------


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    """D3: nothing below it is looked for."""
    for name in ("runs/mine/.notes.1-a.tmp", "features/.x.1-a.tmp", ".y.1-a.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="no cache at"):
        verify(Cache(tmp_path))
    assert run("cache", "verify", "--repair", "--yes", "--cache", str(tmp_path)).exit_code == 2
    assert run("scores", "--cache", str(tmp_path)).exit_code == 2
    assert len(list(tmp_path.rglob("*.tmp"))) == 3 and not (tmp_path / "locks").exists()


def test_left_overs_are_looked_for_in_the_caches_own_folders_alone(full: Cache) -> None:
    own = [full.root / ".x.1-a.tmp", full.corpus("c") / ".x.1-a.tmp.wal", full.runs / "r" / ".run.json.12-ab34.tmp"]
    foreign = [full.root / "notes" / ".x.1-a.tmp", full.root / ".hidden.tmp", full.corpus("c") / "deep" / ".x.1-a.tmp"]
    for path in (*own, *foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    found = verify(full)
    assert sorted(p.path for p in found) == sorted(full.place(p) for p in own) and {p.kind for p in found} == {"left over"}
    repair(full, found)
    assert verify(full) == [] and all(p.exists() for p in foreign) and not any(p.exists() for p in own)


@pytest.mark.slow
def test_links_are_moved_and_removed_as_links(full: Cache, tmp_path: Path) -> None:
    """D5."""
    real = tmp_path / "elsewhere"
    folder = full.feature_root / LOGMEL.folder
    folder.rename(real)
    folder.symlink_to(real)
    assert verify(full) == []
    before = {p: p.read_bytes() for p in real.rglob("*") if p.is_file()}
    shard = sorted(real.glob("c/*.h5"))[0]
    shard.write_bytes(b"x")
    (line,) = repair(full, verify(full))[:1]
    assert "not moved, it lies behind the link" in line and shard.read_bytes() == b"x"
    shard.write_bytes(before[shard])
    assert delete(full, doomed(full, Unwanted(features="logmel"))) == size_of(folder) == 0
    assert not folder.is_symlink() and {p: p.read_bytes() for p in real.rglob("*") if p.is_file()} == before


def test_repair_lists_and_asks(full: Cache) -> None:
    here = ("--cache", str(full.root))
    assert run("cache", "verify", *here).exit_code == 0
    shards(full)[0].write_bytes(b"x")
    found = json.loads(run("cache", "verify", "--format", "json", *here).stdout)
    place = full.place(shards(full)[0])
    assert [(row["path"], row["problem"]) for row in found] == [(place, "damaged")]
    refused = run("cache", "verify", "--repair", *here)
    assert refused.exit_code == 2 and "add --yes" in refused.stderr and place in refused.stderr and len(shards(full)) == 2
    assert run("cache", "verify", "--repair", "--yes", *here).exit_code == 0
    assert [p.read_bytes() for p in full.removed.rglob("*.h5")] == [b"x"]
    assert extract(full, "c", LOGMEL, shard_utterances=2).extracted == 2 and verify(full) == []


# -- frames -------------------------------------------------------------------------------------------------------------------


def _load(cache: Cache, **named: Any) -> np.ndarray:
    with open_catalogue(cache) as connection:
        found = rows(connection, "FROM features ORDER BY utterance_id")
    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    return load_packed([FeatureRow(path=cache.root / r["shard"], **{k: r[k] for k in keys}) for r in found], **named).frames


@pytest.mark.few(1)
@pytest.mark.parametrize("way", ["bit", "rolled", "exchanged"])
def test_no_head_is_trained_on_damaged_frames(full: Cache, way: str) -> None:
    """W1: the file has its size, opens, and holds other numbers."""
    whole = _load(full)
    one, other = shards(full)
    data = bytearray(one.read_bytes())
    if way == "bit":
        data[-100] ^= 0x3E
    elif way == "rolled":
        with h5py.File(one) as file:
            start, size = file["frames"].id.get_offset(), file["frames"].id.get_storage_size()
        data[start : start + size] = data[start + size // 2 : start + size] + data[start : start + size // 2]
    else:
        data = bytearray(other.read_bytes())
    one.write_bytes(data)
    with pytest.raises(ShardError, match=r"the frames of u\d.* are not those that were written.*--repair"):
        _load(full)
    assert _load(full, verify="never").shape == whole.shape
    assert repair(full, verify(full)) and extract(full, "c", LOGMEL, shard_utterances=2).extracted == 2
    np.testing.assert_array_equal(_load(full), whole)


def test_no_layer_is_collapsed_out_of_damaged_frames(cache: Cache, put_corpus: Any, put_stack: Any) -> None:
    from tfser.manifests.utterances import Utterance

    frames = {f"u{i}": np.random.default_rng(i).standard_normal((6, 8)).astype("f4") for i in range(3)}
    put_corpus(cache, [Utterance(utterance_id=name, path=f"{name}.wav", label="anger") for name in frames])
    put_stack(cache, frames, 2)
    (shard,) = cache.feature_root.glob("*/toy/*.h5")
    data = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        data[file["frames"].id.get_offset() + file["frames"].id.get_storage_size() - 20] ^= 4
    shard.write_bytes(data)
    source = layered(cache, "enc/all")[0]
    with pytest.raises(ShardError, match="the frames of u2 are not those"):
        collapse(cache, source, layer_cut(source, "1", dtype=None, name=None))


def test_frames_are_compared_once_in_a_process(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfser.pipeline.shards import packed as batches

    counted: list[int] = []
    real = batches.checksum_of
    monkeypatch.setattr(batches, "checksum_of", lambda frames: counted.append(1) or real(frames))
    _load(full)
    _load(full)
    assert len(counted) == 4
    shard = shards(full)[0]
    shard.write_bytes(shard.read_bytes())  # another file now
    _load(full)
    assert len(counted) == 6


@pytest.mark.slow
def test_a_disk_without_locks_can_be_read(full: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with open_catalogue(full) as connection:
        assert rows(connection, "SELECT count(*) AS n FROM features") == [{"n": 4}]
    (full.corpus("c") / "skipped.parquet").touch()  # the index is out of date now, and cannot be written
    assert _load(full).shape[1] == 80 and verify(full) == []
    with pytest.raises(CannotWriteError, match=r"knows no file locks.*--cache"):
        extract(full, "c", LOGMEL)


# -- the version before -------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Cache:
    shutil.copytree(OLD, tmp_path / "old")
    return Cache(tmp_path / "old")


def test_a_cache_of_the_version_before_is_read(old: Cache) -> None:
    assert verify(old) == []
    scores = {
        (row["head"], row["selection"]): (row["folds"], round(row["pooled_UA"], 4))
        for row in json.loads(run("scores", "--format", "json", "--cache", str(old.root)).stdout)
    }
    assert scores == {("logreg", "last"): (3, 0.9167), ("mean_pool", "last"): (1, 0.5), ("mean_pool", "test-oracle"): (1, 0.5)}
    with open_catalogue(old) as connection:
        protocols = {r["protocol"] for r in rows(connection, "FROM protocols")}
        found = rows(connection, "FROM features ORDER BY feature_set, utterance_id")
    assert {"mine.511a6c8f", "random-kfold:2", "loso-speaker"} <= protocols
    keys = ("utterance_id", "first_frame", "frames", "dim", "checksum")
    for name in ("logmel", "logmel+float16"):
        where = [FeatureRow(path=old.root / r["shard"], **{k: r[k] for k in keys}) for r in found if r["feature_set"] == name]
        packed = load_packed(where)
        assert packed.frames.shape == (200, 80) and all(row.checksum for row in where)


@pytest.mark.few(1)
@pytest.mark.parametrize("suffix", [".h5", ".frames.parquet", ".rows.parquet"])
def test_old_shards_are_checked_by_their_frames(old: Cache, suffix: str) -> None:
    (path,) = old.feature_root.glob(f"*float16*/*/*{suffix}") if "parquet" in suffix else old.feature_root.glob(f"*/*/*{suffix}")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:]):
        path.write_bytes(data)
        found = verify(old)
        assert len(found) == 1 and found[0].kind in ("damaged", "could not be checked")
        assert found[0].kind == "damaged" or (len(data) == len(whole) and suffix != ".h5")


@pytest.mark.slow
def test_old_files_that_contradict_their_folder_are_damaged(old: Cache) -> None:
    """W6: the descriptions of two feature sets, exchanged."""
    one, other = sorted(old.feature_root.glob("*/feature_set.json"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert [p.kind for p in verify(old)] == ["damaged", "damaged"]
    with open_catalogue(old) as connection:
        assert rows(connection, "FROM features") == []


@pytest.mark.few(1)
@pytest.mark.parametrize("key", ["adapter", "root", "scanned_at"])
def test_a_description_that_lacks_a_key_is_one_line(old: Cache, key: str) -> None:
    """T3: JSON, but not what this version looks for."""
    path = old.corpus("tones") / "corpus.json"
    path.write_text(path.read_text().replace(f'"{key}"', '"other"'))
    for words in (("scores",), ("corpora",), ("extract", "--corpus", "tones"), ("audit", "--corpus", "tones")):
        ran = run(*words, "--cache", str(old.root))
        assert "Traceback" not in ran.output and "report it" not in ran.stderr and f"{key!r}" in ran.stderr, ran.output
    (problem,) = verify(old)
    assert (problem.path, problem.kind) == ("corpora/tones/corpus.json", "could not be checked")


@pytest.mark.slow
def test_a_damaged_corpus_costs_no_other_corpus(old: Cache, root: Path) -> None:
    """U3, U2."""
    scan(old, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})
    for file in ("corpus.json", "skipped.parquet", "utterances.parquet"):
        path = old.corpus("c") / file
        whole = path.read_bytes()
        path.write_bytes(b"{")
        ran = run("sql", "SELECT count(*) AS n FROM utterances", "--format", "json", "--cache", str(old.root))
        assert json.loads(ran.stdout) == [{"n": 13}]
        assert ran.stderr.count("left out") == 1 and f"corpora/c ({file}" in ran.stderr, ran.stderr
        skipped = run("sql", "SELECT path FROM skipped WHERE stage = 'corpus'", "--format", "json", "--cache", str(old.root))
        assert json.loads(skipped.stdout) == [{"path": "corpora/c"}]
        assert run("audit", "--corpus", "c", "--cache", str(old.root)).exit_code in (1, 2)
        path.write_bytes(whole)
        time.sleep(0.01)
    assert issubclass(ShardError, DamagedError)
