"""Extraction: exactly what is missing, the same bits however it is cut up, and one clear line when something is in the way."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import subprocess
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.catalogue.reading import open_catalogue, rows
from tfser.manifests.errors import DamagedError, TfserError, UnreadableError, UsageError
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extraction import extract as extraction
from tfser.pipeline.extraction.extract import ExtractReport, extract
from tfser.pipeline.features.engine import one_by_one
from tfser.pipeline.features.registry import FeatureSet, feature_set
from tfser.pipeline.scanning.scan import scan
from tfser.pipeline.shards.reader import ShardReader
from tfser.pipeline.shards.rows import read_rows
from tfser.pipeline.shards.stock import take_stock
from tfser.pipeline.verify import repair, verify

from ..conftest import covering

RATE = 16000
LOGMEL = feature_set("logmel")


def make(root: Path, count: int) -> Path:
    """Write `count` files of noise and their table."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        soundfile.write(root / f"u{i:02d}.wav", 0.1 * rng.standard_normal(1600 + 320 * (i % 5)), RATE)
    return table(root, count)


def table(root: Path, count: int) -> Path:
    (root / "t.csv").write_text("path,label\n" + "".join(f"u{i:02d}.wav,anger\n" for i in range(count)))
    return root


def index(cache: Cache, root: Path) -> None:
    scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv")})


def frames(cache: Cache, features: FeatureSet = LOGMEL) -> dict[str, bytes]:
    """The frames of each utterance that has some for its content."""
    folder, found = cache.feature_root / features.folder / "c", {}
    table = pq.read_table(cache.corpus("c") / "utterances.parquet", columns=["utterance_id", "content_hash"])
    live = {(row["utterance_id"], row["content_hash"]) for row in table.to_pylist()}
    for row in read_rows(folder).to_pylist():
        if (row["utterance_id"], row["content_hash"]) in live:
            assert row["utterance_id"] not in found, "extracted twice"
            with ShardReader(folder / row["shard"]) as reader:
                found[row["utterance_id"]] = reader.frames_of(row["first_frame"], row["frames"]).tobytes()
    return found


def shards(cache: Cache, features: FeatureSet = LOGMEL) -> dict[str, tuple[int, int]]:
    """Inode and time of each file of the features."""
    folder = cache.feature_root / features.folder / "c"
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def complete(report: ExtractReport) -> bool:
    return report.extracted + report.before == report.utterances


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "corpus", 10)


@pytest.fixture
def scanned(cache: Cache, root: Path) -> Cache:
    index(cache, root)
    return cache


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an extraction that nothing disturbs gives."""
    folder = tmp_path_factory.mktemp("undisturbed")
    cache = Cache(folder / "cache")
    index(cache, make(folder / "corpus", 10))
    extract(cache, "c", LOGMEL, workers=1)
    return frames(cache)


def test_only_what_is_missing(cache: Cache, root: Path, whole: dict[str, bytes]) -> None:
    table(root, 4)
    index(cache, root)
    begun: list[tuple[int, float]] = []
    done: list[int] = []

    def begin(count: int, seconds: float) -> Any:
        begun.append((count, round(seconds, 2)))
        return lambda count, seconds: done.append(count)

    first = extract(cache, "c", LOGMEL, begin=begin)
    assert (first.before, first.extracted, begun, sum(done)) == (0, 4, [(4, 0.52)], 4)
    old = shards(cache)
    table(root, 10)
    index(cache, root)
    second = extract(cache, "c", LOGMEL, begin=begin)
    assert (second.before, second.extracted, begun[1][0]) == (4, 6, 6)
    assert {name: stamp for name, stamp in shards(cache).items() if name in old} == old
    third = extract(cache, "c", LOGMEL, begin=begin)
    assert (third.before, third.extracted, third.bytes, len(begun)) == (10, 0, 0, 2)
    assert frames(cache) == whole


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 10), max_size=3),
    workers=st.integers(1, 4),
    size=st.integers(1, 12),
    format=st.sampled_from(["hdf5", "parquet"]),
    byte=st.integers(1, 200_000),
)
def test_the_same_bits_however_it_is_cut_up(
    tmp_path_factory: pytest.TempPathFactory,
    whole: dict[str, bytes],
    root: Path,
    steps: list[int],
    workers: int,
    size: int,
    format: Any,
    byte: int,
) -> None:
    cache = Cache(tmp_path_factory.mktemp("cut") / "cache")
    there = 0
    for count in [*steps, 10]:
        there = count if there == 0 else max(there, count)
        table(root, there)
        index(cache, root)
        report = extract(cache, "c", LOGMEL, workers=workers, shard_utterances=size, shard_bytes=byte, format=format)
        assert complete(report)
    assert frames(cache) == whole
    assert verify(cache) == []


def test_both_formats_give_the_same_and_may_be_mixed(scanned: Cache, root: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    other = Cache(tmp_path / "other")
    index(other, root)
    extract(scanned, "c", LOGMEL, format="parquet")
    extract(other, "c", LOGMEL, format="hdf5")
    assert [n.split(".", 1)[1] for n in shards(scanned)] == ["frames.parquet", "rows.parquet"]
    assert [n.split(".", 1)[1] for n in shards(other)] == ["h5", "rows.parquet"]
    assert frames(scanned) == frames(other) == whole
    extract(other, "c", LOGMEL, format="parquet")
    assert frames(other) == whole and len(shards(other)) == 2  # what is there in one format is not made in the other


def test_configuration_and_dtype_are_sets_of_their_own(scanned: Cache) -> None:
    sets = [LOGMEL, feature_set("logmel", {"n_mels": "40"}), feature_set("logmel", dtype="float16")]
    for features in sets:
        assert extract(scanned, "c", features).extracted == 10
    for features in sets:
        assert extract(scanned, "c", features).before == 10
    full, half = frames(scanned, sets[0])["u00.wav"[:-4]], frames(scanned, sets[2])["u00"]
    np.testing.assert_array_equal(np.frombuffer(full, "f4").astype("f2"), np.frombuffer(half, "f2"))


def test_too_short_is_listed_with_its_reason(scanned: Cache, root: Path) -> None:
    soundfile.write(root / "u01.wav", np.zeros(319), RATE)
    soundfile.write(root / "u02.wav", 0.1 * np.ones(320), RATE)
    (root / "u03.wav").write_text("no audio")
    index(scanned, root)
    report = extract(scanned, "c", LOGMEL)
    assert (report.utterances, report.extracted) == (10, 8)
    ((skipped),) = report.skipped
    assert (skipped.utterance_id, skipped.stage) == ("u01", "extract:logmel")
    assert "19.94 ms of audio, shorter than one window of 20 ms" in skipped.reason
    before = shards(scanned)
    again = extract(scanned, "c", LOGMEL)
    assert again.skipped == report.skipped and shards(scanned) == before
    soundfile.write(root / "u01.wav", 0.1 * np.ones(3200), RATE)
    index(scanned, root)
    assert extract(scanned, "c", LOGMEL).skipped == []
    with open_catalogue(scanned) as connection:
        assert [r["utterance_id"] for r in rows(connection, "FROM skipped")] == ["u03"]


def test_a_set_of_nothing_but_short_files_is_known(scanned: Cache, root: Path) -> None:
    for i in range(10):
        soundfile.write(root / f"u{i:02d}.wav", np.zeros(100 + i), RATE)
    index(scanned, root)
    assert len(extract(scanned, "c", LOGMEL).skipped) == 10
    with open_catalogue(scanned) as connection:
        assert [r["feature_set"] for r in rows(connection, "FROM feature_sets")] == ["logmel"]


def test_files_that_change_or_go_after_the_scan(scanned: Cache, root: Path, whole: dict[str, bytes]) -> None:
    old = (root / "u02.wav").read_bytes()
    soundfile.write(root / "u02.wav", 0.1 * np.ones(2000), RATE)
    (root / "u03.wav").unlink()
    (root / "u04.wav").write_text("no audio any more")
    report = extract(scanned, "c", LOGMEL)
    assert report.extracted == 7 and complete(dataclasses.replace(report, extracted=10))
    reasons = {s.utterance_id: s.reason for s in report.skipped}
    assert set(reasons) == {"u02", "u03", "u04"}
    assert "changed between scan and extraction" in reasons["u02"] and "No such file" in reasons["u03"]
    stages = {s.utterance_id: s.stage for s in report.skipped}
    assert stages == {"u02": "changed:logmel", "u03": "extract:logmel", "u04": "extract:logmel"}
    (root / "u02.wav").write_bytes(old)
    make(root, 10)
    report = extract(scanned, "c", LOGMEL)
    assert report.extracted == 3 and report.skipped == [] and frames(scanned) == whole


def test_what_a_front_end_refuses_is_listed(scanned: Cache) -> None:
    class Picky:
        def extract(self, samples: Any) -> Any:
            if len(samples) == 1600:
                raise UsageError("too plain")
            return np.zeros((3, 80))

    report = extract(scanned, "c", dataclasses.replace(LOGMEL, engine=one_by_one(lambda: Picky().extract)))
    assert report.extracted == 8 and {s.reason for s in report.skipped} == {"too plain"}


def test_an_unknown_corpus_and_damaged_rows(cache: Cache, root: Path) -> None:
    with pytest.raises(UsageError, match="unknown corpus 'c'"):
        extract(cache, "c", LOGMEL)
    index(cache, root)
    (cache.corpus("c") / "utterances.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match=r"utterances\.parquet: is no Parquet file"):
        extract(cache, "c", LOGMEL)


def test_float16_that_overflows_is_refused(scanned: Cache) -> None:
    class Loud:
        def extract(self, samples: Any) -> Any:
            return np.full((3, 80), 1e6)

    half = feature_set("logmel", dtype="float16")
    with pytest.raises(TfserError, match=r"1e\+06 is too large for float16; store float32"):
        extract(scanned, "c", dataclasses.replace(half, engine=one_by_one(lambda: Loud().extract)))
    assert not list((scanned.feature_root / half.folder / "c").glob("*"))
    assert extract(scanned, "c", dataclasses.replace(LOGMEL, engine=one_by_one(lambda: Loud().extract))).extracted == 10


# -- full disks --------------------------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_refused_before_anything_is_done(scanned: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple("Usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**4, 10**4))
        patch.setattr(extraction, "_results", None)  # nothing is computed
        with pytest.raises(TfserError, match=r"logmel of 10 utterances needs about \d+\.\d kB, and .* has 10\.0 kB free"):
            extract(scanned, "c", LOGMEL)
    assert not (scanned.feature_root / LOGMEL.folder).exists()
    assert complete(extract(scanned, "c", LOGMEL))


@pytest.mark.few(1)
@pytest.mark.parametrize(("call", "at"), covering(["fsync", "pwritev", "replace"], [1, 3, 5]))
def test_a_disk_that_fills_up(
    scanned: Cache, monkeypatch: pytest.MonkeyPatch, call: str, at: int, whole: dict[str, bytes]
) -> None:
    if not hasattr(os, call):
        pytest.skip(f"there is no {call} on this system")
    of: Any = Path if call == "replace" else os
    real, calls = getattr(of, call), 0

    def full(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(28, "No space left on device")
        return real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(of, call, full)
        with pytest.raises(TfserError) as caught:
            extract(scanned, "c", LOGMEL, shard_utterances=2)
    assert "\n" not in str(caught.value) and "the disk is full" in str(caught.value) and "are safe" in str(caught.value)
    folder = scanned.feature_root / LOGMEL.folder / "c"
    safe = read_rows(folder)["utterance_id"].to_pylist() if folder.exists() else []
    assert f"{len(safe)} utterances of this run are safe" in str(caught.value)
    assert not list(scanned.root.rglob(".*.tmp"))
    before = shards(scanned) if folder.exists() else {}
    report = extract(scanned, "c", LOGMEL, shard_utterances=2)
    assert (report.before, report.extracted) == (len(safe), 10 - len(safe))
    named = {n: s for n, s in before.items() if n.endswith("rows.parquet")}
    assert named.items() <= shards(scanned).items()
    assert frames(scanned) == whole and verify(scanned) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.name != "posix" or os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small disk takes the rights to")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("format", ["hdf5", "parquet"])
def test_a_disk_that_is_really_full(
    tiny_disk: Path, root: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    cache = Cache(tiny_disk / "cache")
    index(cache, root)
    free = shutil.disk_usage(tiny_disk).free
    (tiny_disk / "ballast").write_bytes(b"x" * (free - 60_000))
    with pytest.raises(TfserError, match="kB free; make room"):
        extract(cache, "c", LOGMEL, format=format, shard_utterances=2)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "_check_disk", lambda *args: None)  # somebody else took what was free at the start
        with pytest.raises(TfserError, match=r"the disk is full at .* utterances of this run are safe"):
            extract(cache, "c", LOGMEL, format=format, shard_utterances=2)
    assert not list(tiny_disk.rglob(".*.tmp"))
    (tiny_disk / "ballast").unlink()
    assert complete(extract(cache, "c", LOGMEL, format=format, shard_utterances=2))
    assert verify(cache) == []


# -- shards that somebody spoiled --------------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("damage", "format", "then"),
    [
        pytest.param(damage, *formats, marks=() if (i - j) % 3 == 0 else pytest.mark.slow)
        for i, damage in enumerate(("frames gone", "frames cut", "rows gone", "rows cut", "rows spoiled"))
        for j, formats in enumerate((("hdf5", "hdf5"), ("hdf5", "parquet"), ("parquet", "hdf5")))
    ],
)
def test_what_is_gone_or_cut_is_made_again(scanned: Cache, whole: dict[str, bytes], format: Any, then: Any, damage: str) -> None:
    extract(scanned, "c", LOGMEL, format=format, shard_utterances=4)
    folder = scanned.feature_root / LOGMEL.folder / "c"
    rows_file = sorted(folder.glob("*.rows.parquet"))[0]
    lost = pq.read_table(rows_file).num_rows
    file = rows_file if damage.startswith("rows") else folder / pq.read_table(rows_file)["shard"][0].as_py()
    if damage.endswith("gone"):
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if damage.endswith("cut") else b"PAR1" + b"\0" * 500 + b"PAR1")
    before = shards(scanned)
    report = extract(scanned, "c", LOGMEL, format=then, shard_utterances=4)
    assert (report.before, report.extracted) == (10 - lost, lost)
    assert len(report.repaired) == (damage != "rows gone")
    assert frames(scanned) == whole
    assert verify(scanned) == []  # nothing is left of the damaged shard
    spoiled = rows_file.name.split(".")[0]
    same = {name: stamp for name, stamp in before.items() if not name.startswith(spoiled)}
    assert same.items() <= shards(scanned).items()


@pytest.mark.few(1)
@pytest.mark.parametrize("format", ["hdf5", "parquet"])
def test_flipped_bits_are_found_and_repaired(scanned: Cache, whole: dict[str, bytes], format: Any) -> None:
    extract(scanned, "c", LOGMEL, format=format, shard_utterances=4)
    folder = scanned.feature_root / LOGMEL.folder / "c"
    shard = sorted(p for p in folder.iterdir() if "rows" not in p.name)[0]
    data = bytearray(shard.read_bytes())
    data[-2000] ^= 1
    shard.write_bytes(data)
    assert extract(scanned, "c", LOGMEL).before == 10  # its size is right: only reading it all tells
    (problem,) = verify(scanned)
    assert (problem.path, problem.kind) == (f"features/{LOGMEL.folder}/c/{shard.name}", "damaged")
    assert len(repair(scanned, [problem])) == 2 and verify(scanned) == []
    assert complete(extract(scanned, "c", LOGMEL, format=format))
    assert frames(scanned) == whole and verify(scanned) == []


def test_rows_that_may_not_be_read_are_not_removed(scanned: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(scanned, "c", LOGMEL)
    before = shards(scanned)

    real = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".rows.parquet"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(UnreadableError, match="Permission denied"):
            take_stock(scanned, scanned.feature_root / LOGMEL.folder / "c")
    assert shards(scanned) == before


@pytest.mark.parametrize("damage", [None, b"{", b"[]"])
def test_a_description_that_is_gone_or_damaged_is_written_again(scanned: Cache, damage: bytes | None) -> None:
    extract(scanned, "c", LOGMEL)
    about = scanned.feature_root / LOGMEL.folder / "feature_set.json"
    about.write_bytes(damage) if damage else about.unlink()
    assert len(verify(scanned)) == 1
    report = extract(scanned, "c", LOGMEL)
    assert (report.before, report.extracted) == (10, 0)
    assert verify(scanned) == [] and len(frames(scanned)) == 10


def test_a_damaged_list_of_skipped_is_written_again(scanned: Cache, root: Path) -> None:
    soundfile.write(root / "u01.wav", np.zeros(100), RATE)
    index(scanned, root)
    extract(scanned, "c", LOGMEL)
    file = scanned.feature_root / LOGMEL.folder / "c" / "skipped.parquet"
    good = file.read_bytes()
    file.write_bytes(good[:30])
    extract(scanned, "c", LOGMEL)
    assert file.read_bytes() == good


# -- several at once ---------------------------------------------------------------------------------------------------------


def _extract_in_process(root: Path, name: str, barrier: Any, queue: Any) -> None:
    waited: list[str] = []
    features = feature_set("logmel", {"n_mels": name})
    barrier.wait(60)
    start = time.monotonic()
    report = extract(Cache(root), "c", features, on_wait=waited.append, shard_utterances=2, workers=1)
    queue.put((report.before, report.extracted, len(waited), start, time.monotonic()))


def at_once(cache: Cache, names: list[str]) -> list[tuple[Any, ...]]:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(len(names)), context.Queue()
    processes = [context.Process(target=_extract_in_process, args=(cache.root, n, barrier, queue)) for n in names]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return found


def test_two_at_once_do_the_work_once(scanned: Cache, whole: dict[str, bytes]) -> None:
    first, second = at_once(scanned, ["80", "80"])
    assert first[:2] == (0, 10) and second[:2] == (10, 0)
    assert first[2] == 0 and second[2] <= 1  # told, if it came while the other was at work
    assert frames(scanned) == whole and verify(scanned) == []


@pytest.mark.slow
def test_different_sets_do_not_wait_for_each_other(scanned: Cache) -> None:
    found = at_once(scanned, ["40", "60"])
    assert [f[:3] for f in found] == [(0, 10, 0), (0, 10, 0)]
    with scanned.lock(f"features/{LOGMEL.folder}/c"):  # whoever works on one set is not in the way of another
        assert extract(scanned, "c", feature_set("logmel", {"n_mels": "20"}), on_wait=pytest.fail).extracted == 10
    assert verify(scanned) == []


def test_an_interrupt_keeps_what_was_computed(scanned: Cache, whole: dict[str, bytes]) -> None:
    def begin(count: int, seconds: float) -> Any:
        seen = 0

        def advance(count: int, seconds: float) -> None:
            nonlocal seen
            seen += count
            if seen == 5:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        extract(scanned, "c", LOGMEL, begin=begin)
    report = extract(scanned, "c", LOGMEL)
    assert (report.before, report.extracted) == (5, 5)
    assert frames(scanned) == whole
