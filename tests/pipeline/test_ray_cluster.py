"""Extraction on a Ray cluster of several nodes on this machine: the same bytes, whoever is lost meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError
from tfser.pipeline.extraction import feature_writer, on_ray
from tfser.pipeline.extraction.extract import extract_pass
from tfser.pipeline.extraction.extract_report import ExtractReport
from tfser.pipeline.extraction.new_shards import ShardWriting
from tfser.pipeline.features.engine import Compute
from tfser.pipeline.features.registry import FeatureRequest, alone, feature_pass
from tfser.pipeline.resources.cluster import RayCluster
from tfser.pipeline.resources.part import CorpusPart
from tfser.pipeline.scanning.measure import Advance
from tfser.pipeline.verify import verify

from ..ray_extraction import BLOCK, LOGMEL, USABLE, extracted, files, frames_of, manifest, scanned, write_corpus
from ..ray_nodes import another_node, cluster, lost, needs_ray
from ..trained_heads import tiny_wavlm

pytestmark = [needs_ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    yield from cluster(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "BLOCK_UTTERANCES", BLOCK)


@pytest.fixture
def make(tmp_path: Path, root: Path) -> Callable[[str], Cache]:
    return lambda name: scanned(tmp_path / name, root)


def test_one_two_and_four_workers_sixteen_parts_and_a_local_run_end_alike(make: Callable[[str], Cache], nodes: Any) -> None:
    local, caches = make("local"), {}
    extracted(local, alone(LOGMEL))
    more = []
    for workers in (1, 2, 4):
        while int(sum(of["Resources"].get("CPU", 0) for of in nodes_alive())) < workers:
            more.append(another_node(nodes))
        caches[workers] = make(f"ray{workers}")
        assert extracted(caches[workers], alone(LOGMEL), RayCluster()).extracted == USABLE
        assert files(caches[workers]) == files(local)
    for node in more:
        lost(nodes, node)
    parts = make("parts")
    stored = [extracted(parts, alone(LOGMEL), part=CorpusPart(number, 16)).extracted for number in range(16, 0, -1)]
    assert sum(stored) == USABLE
    wanted = manifest(local)
    assert len(wanted["features"]) == USABLE and len(wanted["skipped"]) == 2
    for cache in (*caches.values(), parts):
        assert manifest(cache) == wanted and verify(cache) == []


def nodes_alive() -> list[Any]:
    import ray

    return [of for of in ray.nodes() if of["Alive"]]


def test_shards_are_those_of_a_local_run_though_a_node_is_lost(make: Callable[[str], Cache], nodes: Any) -> None:
    local, distributed = make("local"), make("ray")
    whole = extracted(local, alone(LOGMEL))
    node = another_node(nodes)
    gone: list[int] = []

    def begin(count: int, seconds: float) -> Advance:
        def advance(done: int, seconds: float) -> None:
            if not gone:  # in the middle: blocks are at work on both nodes
                gone.append(count)
                lost(nodes, node)

        return advance

    report = extracted(distributed, alone(LOGMEL), RayCluster(), begin)
    assert gone and report.extracted == whole.extracted == USABLE
    assert report.skipped == whole.skipped
    assert files(distributed) == files(local) and manifest(distributed) == manifest(local)
    assert verify(distributed) == []
    again = extracted(distributed, alone(LOGMEL), RayCluster())
    assert (again.extracted, again.before) == (0, USABLE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc")
def test_blocks_of_a_worker_that_is_killed_go_to_others(make: Callable[[str], Cache], nodes: Any) -> None:
    local, distributed = make("local"), make("ray")
    whole = extracted(local, alone(LOGMEL))
    killed: list[int] = []

    def begin(count: int, seconds: float) -> Advance:
        def advance(done: int, seconds: float) -> None:
            if not killed:
                killed.extend(workers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        return advance

    report = extracted(distributed, alone(LOGMEL), RayCluster(), begin)
    assert killed and report.extracted == whole.extracted == USABLE
    assert files(distributed) == files(local) and verify(distributed) == []


def workers() -> list[int]:
    """Return the processes of the workers that this process's cluster has: children of its raylet that call themselves so."""
    import ray

    session = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parent.parent.name
    lines: dict[int, tuple[int, bytes]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = parent, (folder / "cmdline").read_bytes()
    raylets = {pid for pid, (_, line) in lines.items() if b"raylet" in line.split(b"\0")[0] and session.encode() in line}
    theirs = {pid: line for pid, (parent, line) in lines.items() if parent in raylets}
    return [pid for pid, line in theirs.items() if line.startswith((b"ray::_compute", b"ray::IDLE"))]


def test_encoders_live_in_actors(make: Callable[[str], Cache], nodes: Any, tmp_path: Path) -> None:
    weights = tiny_wavlm(tmp_path / "weights")
    job = feature_pass("wavlm-large", FeatureRequest(weights=str(weights), layer="1,2"))
    local, distributed = make("local"), make("ray")
    whole = extracted(local, job)
    report = extracted(distributed, job, RayCluster())
    assert report.extracted == whole.extracted == USABLE
    for features in job.sets:
        one, other = (frames_of(cache, features) for cache in (local, distributed))
        assert one.keys() == other.keys()
        for name, frames in one.items():
            np.testing.assert_allclose(other[name], frames, atol=1e-5)
    moved = weights.rename(tmp_path / "away")
    with pytest.raises(TfserError, match="worker on"):
        extracted(make("other"), job, RayCluster())
    assert moved.is_dir()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_a_cache_that_goes_on(make: Callable[[str], Cache], nodes: Any, how: int) -> None:
    cache, whole = make("ended"), make("whole")
    extracted(whole, alone(LOGMEL))
    code = """
        import sys
        from pathlib import Path
        from tfser.manifests.cache import Cache
        from tfser.pipeline.extraction import feature_writer, on_ray
        from tfser.pipeline.resources.cluster import RayCluster
        from tfser.pipeline.extraction.extract import extract_pass
        from tfser.pipeline.features.engine import Compute
        from tfser.pipeline.features.registry import alone, feature_set
        from tfser.pipeline.extraction.new_shards import ShardWriting
        on_ray.BLOCK_UTTERANCES = 3
        count = 0
        def advance(done, seconds):
            global count
            count += done
            if count == 14:
                print("in the middle", flush=True)
                sys.stdin.readline()
        how = ShardWriting(shard_utterances=8, begin=lambda n, s: advance)
        extract_pass(Cache(Path(sys.argv[1])), "c", alone(feature_set("logmel")),
                     Compute(cluster=RayCluster(address=sys.argv[2])), how)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(cache.root), nodes.address]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert "in the middle" in driver.stdout.readline()
        os.kill(driver.pid, how)
        driver.communicate()
        assert driver.returncode != 0
    stored = len(files(cache))
    assert stored == (2 if how == signal.SIGINT else 1)  # Ctrl-C writes what is collected, a kill cannot
    report = extracted(cache, alone(LOGMEL), RayCluster())
    assert report.before == (14 if how == signal.SIGINT else 8)
    assert report.before + report.extracted == USABLE
    assert {name: of.tolist() for name, of in frames_of(cache).items()} == {
        name: of.tolist() for name, of in frames_of(whole).items()
    }
    assert verify(cache) == []


def test_two_drivers_at_once_store_everything_once(make: Callable[[str], Cache], nodes: Any) -> None:
    cache, waited = make("two"), list[str]()

    def drive(_: int) -> ExtractReport:
        how = ShardWriting(shard_utterances=8, on_wait=waited.append)
        return extract_pass(cache, "c", alone(LOGMEL), Compute(cluster=RayCluster()), how)[0]

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(drive, range(2)))
    assert sorted((report.before, report.extracted) for report in reports) == [(0, USABLE), (USABLE, 0)]
    assert len(waited) == 1 and len(frames_of(cache)) == USABLE


def test_a_full_disk_ends_the_driver_and_what_is_stored_stays(
    make: Callable[[str], Cache], nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, whole = make("full"), feature_writer.store_members
    written = [0]

    def full(*values: Any, **more: Any) -> Any:
        written[0] += 1
        if written[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*values, **more)

    with monkeypatch.context() as patch:
        patch.setattr(feature_writer, "store_members", full)
        with pytest.raises(TfserError, match="the disk is full"):
            extracted(cache, alone(LOGMEL), RayCluster())
    assert verify(cache) == [] and len(files(cache)) == 1
    report = extracted(cache, alone(LOGMEL), RayCluster())
    assert (report.before, report.extracted) == (8, USABLE - 8)


def test_a_block_that_no_node_s_shared_memory_holds(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's store in `/dev/shm` has 80 MB in these tests, and frames of one block 115 MB: they come by its files instead."""
    monkeypatch.setattr(on_ray, "BLOCK_SECONDS", 4000.0)
    noise = (3000 * np.random.default_rng(0).standard_normal(16000 * 60)).astype(np.int16)
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for i in range(3):
        soundfile.write(sounds / f"long{i}.wav", np.tile(np.roll(noise, i * 1000), 20), 16000)
    (sounds / "t.csv").write_text("path\nlong0.wav\nlong1.wav\nlong2.wav\n")
    caches = [scanned(tmp_path / name, sounds) for name in ("local", "ray")]
    extracted(caches[0], alone(LOGMEL))
    assert extracted(caches[1], alone(LOGMEL), RayCluster()).extracted == 3
    assert sum(map(len, files(caches[0]).values())) > 80 << 20
    assert files(caches[1]) == files(caches[0])


def test_the_command_starts_workers_of_its_own(root: Path, tmp_path: Path) -> None:
    words = ["extract", "--corpus", "table", "--table", str(root / "t.csv"), "--cache", str(tmp_path / "c"), "--engine", "ray"]
    done = subprocess.run([sys.executable, "-m", "tfser.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "computed by a Ray cluster" in done.stderr
    assert len(done.stderr.splitlines()) < 20, "nothing of Ray's own"
