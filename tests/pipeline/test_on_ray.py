"""Extraction on a Ray cluster of several nodes on this machine: the same bytes, whoever is lost meanwhile."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline import feature_writer, on_ray
from tfser.pipeline.cluster import OnRay, RayCluster, Where
from tfser.pipeline.corpora.table import READER
from tfser.pipeline.extract import extract_pass
from tfser.pipeline.extract_report import ExtractReport
from tfser.pipeline.features.engine import AudioRow, Compute, Computing
from tfser.pipeline.features.registry import FeatureRequest, Pass, alone, feature_pass, feature_set
from tfser.pipeline.measure import Advance
from tfser.pipeline.new_shards import ShardWriting
from tfser.pipeline.scan import scan
from tfser.pipeline.verify import verify

from ..conftest import run
from ..trained_heads import tiny_wavlm

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (tfser[ray])")
LOGMEL = feature_set("logmel")
COUNT = 40
ALREADY = 12
"""Who is in the four blocks of three that came back before the fifth."""


@given(st.lists(st.floats(0.01, 400), max_size=30))
def test_blocks_are_the_rows_in_their_order(seconds: list[float]) -> None:
    rows = [AudioRow(utterance_id=f"u{i}", path="", start_s=None, end_s=None, content_hash="", duration_s=s)
            for i, s in enumerate(seconds)]  # fmt: skip
    blocks = list(on_ray.blocks_of(rows))
    assert [row for block in blocks for row in block] == rows
    assert all(block and (len(block) == 1 or sum(row.duration_s for row in block) <= on_ray.BLOCK_SECONDS) for block in blocks)


def test_a_cluster_is_described_only_where_it_is_asked_for() -> None:
    assert OnRay().cluster() is None
    assert OnRay(engine=Where.ray, address="auto", gpus_each=0.5).cluster() == RayCluster(address="auto", gpus_each=0.5)
    with pytest.raises(UsageError, match="--address goes with --engine ray"):
        OnRay(address="auto").cluster()
    with pytest.raises(UsageError, match="--devices goes without --engine ray"):
        Computing(engine=Where.ray, devices="2").settled("wavlm-large", is_encoder=True, tell=print)


@pytest.mark.slow
def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "t.csv").write_text("path\na.wav\n")
    soundfile.write(tmp_path / "a.wav", np.zeros(8000) + 0.1, 16000)
    of = ("extract", "--corpus", "table", "--table", tmp_path / "t.csv", "--cache", tmp_path / "cache", "--engine", "ray")
    done = run(*of)
    assert done.exit_code == 2 and "pip install 'tfser[ray]'" in " ".join(done.stderr.split())


def test_a_worker_says_what_its_node_lacks(tmp_path: Path) -> None:
    work = on_ray.Work(job=alone(LOGMEL), root=tmp_path / "none", compute=Compute())
    assert "is not there; mount the corpus" in str(on_ray.Worker(work).compute([]).stops)
    other = replace(work, root=tmp_path, version="0.0.1")
    assert "0.0.1 asks" in str(on_ray.Worker(other).compute([]).stops)


# -- on a cluster ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files; one is too short, one is no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(COUNT):
        samples = 0.1 * np.random.default_rng(i).standard_normal(100 if i == 7 else 8000 + 100 * i)
        soundfile.write(folder / f"u{i}.wav", samples, 16000)
    (folder / "u5.wav").write_bytes(b"RIFF, but no more")
    (folder / "t.csv").write_text("path\n" + "".join(f"u{i}.wav\n" for i in range(COUNT)))
    return folder


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "BLOCK_UTTERANCES", 3)


@pytest.fixture
def make(tmp_path: Path, root: Path) -> Callable[[str], Cache]:
    def fresh(name: str) -> Cache:
        cache = Cache(tmp_path / name)
        scan(cache, READER, corpus="c", root=root, options={"table": str(root / "t.csv"), "columns": {}, "delimiter": None})
        return cache

    return fresh


class PretendRay(ModuleType):
    """As much of Ray as an extraction uses, in this process: what is sent is pickled as Ray pickles it, and the last comes first.

    `lost` are the numbers of the blocks that end all their workers, `interrupted` that of the block at which Ctrl-C comes.
    """

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause: BaseException | None = None

    def __init__(self, lost: Collection[int] = (), interrupted: int | None = None) -> None:
        super().__init__("ray")
        self.pickle = pytest.importorskip("cloudpickle", reason="cloudpickle, by which Ray pickles, is not installed")
        self.exceptions = SimpleNamespace(RayError=self.RayError, RayTaskError=self.RayTaskError)
        self.lost, self.interrupted, self.given, self.most = lost, interrupted, 0, 0
        self.waiting: dict[int, bytes] = {}

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}]

    def put(self, value: Any) -> bytes:
        return bytes(self.pickle.dumps(value))

    def remote(self, function: Any) -> Any:
        def give(work: bytes, rows: Any) -> int:
            self.given += 1
            self.waiting[self.given] = self.put((function, self.pickle.loads(work), rows))
            self.most = max(self.most, len(self.waiting))
            return self.given

        task = SimpleNamespace(remote=give)
        return SimpleNamespace(options=lambda **_: task)

    def get(self, number: int) -> Any:
        if number in self.lost:
            raise self.RayError("lost")
        if number == self.interrupted:
            raise KeyboardInterrupt
        function, work, rows = self.pickle.loads(self.waiting.pop(number))
        return self.pickle.loads(self.put(function(work, rows)))

    def cancel(self, number: int, force: bool) -> None:
        del self.waiting[number]


def test_what_travels_comes_back_as_it_was_computed_here(make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch) -> None:
    local, distributed, ray = make("local"), make("ray"), PretendRay()
    whole = extracted(local, alone(LOGMEL), None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    report = extracted(distributed, alone(LOGMEL), RayCluster())
    assert (report.extracted, report.skipped) == (whole.extracted, whole.skipped) and whole.extracted == COUNT - 2
    assert files(distributed, LOGMEL) == files(local, LOGMEL)
    assert ray.given == 13 and ray.most == on_ray.AHEAD * 2 and not ray.waiting


@pytest.mark.few(1)
@pytest.mark.parametrize(("how", "error"), [({"lost": (5,)}, TfserError), ({"interrupted": 5}, KeyboardInterrupt)])
def test_what_came_back_before_the_end_is_stored(
    make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch, how: Any, error: type[BaseException]
) -> None:
    cache, ray = make("ended"), PretendRay(**how)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(error, match="ended 4 workers one after the other" if error is TfserError else None):
        extracted(cache, alone(LOGMEL), RayCluster())
    assert not ray.waiting and verify(cache) == []
    monkeypatch.setitem(sys.modules, "ray", PretendRay())
    report = extracted(cache, alone(LOGMEL), RayCluster())
    assert report.before == ALREADY and report.before + report.extracted == COUNT - 2


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster on this machine, joined: a head of two cores, beside which tests put nodes that are lost."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # A busy machine takes minutes to start what Ray waits for half a minute.
    patient = {
        "RAY_agent_register_timeout_ms": "900000",
        "RAY_raylet_start_wait_time_s": "600",
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_gcs_server_request_timeout_seconds": "600",
        "RAY_worker_niceness": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patient.items():
            patch.setenv(name, value)
        cluster = begun(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **ports(), **PLAIN}))
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


PLAIN = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""What a node of a test does without: each is a Python process more to start."""


def ports() -> dict[str, int]:
    """Return what a node of a test has beside its cores: ports of its agents, for which it then need not wait."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in names]
        for of in free:
            of.bind(("127.0.0.1", 0))
        return {name: of.getsockname()[1] for name, of in zip(names, free, strict=True)} | {"object_store_memory": 80 << 20}


def another_node(cluster: Any) -> Any:
    """Add a node of one core; return it when the cluster knows it."""
    import ray

    node = begun(lambda: cluster.add_node(wait=False, num_cpus=1, **ports()))
    while sum(bool(of["Alive"]) for of in ray.nodes()) < 2:
        time.sleep(0.2)
    return node


def begun(start: Callable[[], Any]) -> Any:
    """Start a node; once more, and again, where the machine is too busy for the half minute that Ray gives a part of itself."""
    for left in reversed(range(6)):
        try:
            return start()
        except Exception:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def extracted(
    cache: Cache, job: Pass, cluster: RayCluster | None, begin: Callable[[int, float], Advance] | None = None
) -> ExtractReport:
    compute = Compute(cluster=cluster)
    return extract_pass(cache, "c", job, compute, ShardWriting(shard_utterances=8, begin=begin))[0]


def files(cache: Cache, features: Any) -> dict[str, bytes]:
    folder = cache.feature_root / features.folder
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_are_those_of_a_local_run_though_a_node_is_lost(make: Callable[[str], Cache], nodes: Any) -> None:
    local, distributed = make("local"), make("ray")
    whole = extracted(local, alone(LOGMEL), None)
    node = another_node(nodes)
    lost: list[int] = []

    def begin(count: int, seconds: float) -> Advance:
        def advance(done: int, seconds: float) -> None:
            if not lost:  # in the middle: blocks are at work on both nodes
                lost.append(count)
                nodes.remove_node(node, allow_graceful=False)

        return advance

    report = extracted(distributed, alone(LOGMEL), RayCluster(), begin)
    assert lost and report.extracted == whole.extracted == COUNT - 2
    assert report.skipped == whole.skipped
    assert files(distributed, LOGMEL) == files(local, LOGMEL)
    assert verify(distributed) == []
    again = extracted(distributed, alone(LOGMEL), RayCluster())
    assert (again.extracted, again.before) == (0, COUNT - 2)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc")
def test_blocks_of_a_worker_that_is_killed_go_to_others(make: Callable[[str], Cache], nodes: Any) -> None:
    local, distributed = make("local"), make("ray")
    whole = extracted(local, alone(LOGMEL), None)
    killed: list[int] = []

    def begin(count: int, seconds: float) -> Advance:
        def advance(done: int, seconds: float) -> None:
            if not killed:
                killed.extend(workers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        return advance

    report = extracted(distributed, alone(LOGMEL), RayCluster(), begin)
    assert killed and report.extracted == whole.extracted == COUNT - 2
    assert files(distributed, LOGMEL) == files(local, LOGMEL) and verify(distributed) == []


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


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_encoders_live_in_actors(make: Callable[[str], Cache], nodes: Any, tmp_path: Path) -> None:
    weights = tiny_wavlm(tmp_path / "weights")
    job = feature_pass("wavlm-large", FeatureRequest(weights=str(weights), layer="1,2"))
    local, distributed = make("local"), make("ray")
    whole = extracted(local, job, None)
    report = extracted(distributed, job, RayCluster())
    assert report.extracted == whole.extracted == COUNT - 2
    for features in job.sets:
        one, other = (frames_of(cache, features) for cache in (local, distributed))
        assert one.keys() == other.keys()
        for name, frames in one.items():
            np.testing.assert_allclose(other[name], frames, atol=1e-5)
    moved = weights.rename(tmp_path / "away")
    with pytest.raises(TfserError, match="worker on"):
        extracted(make("other"), job, RayCluster())
    assert moved.is_dir()


def frames_of(cache: Cache, features: Any) -> dict[str, Any]:
    from tfser.pipeline.shards.reader import ShardReader

    found = {}
    for path in sorted((cache.feature_root / features.folder / "c").glob("*.h5")):
        with ShardReader(path) as reader:
            for i, name in enumerate(reader.utterance_ids):
                found[name] = reader.frames_of(int(reader.offsets[i]), int(reader.offsets[i + 1] - reader.offsets[i])).copy()
    return found


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_a_cache_that_goes_on(make: Callable[[str], Cache], nodes: Any, how: int) -> None:
    cache, whole = make("ended"), make("whole")
    extracted(whole, alone(LOGMEL), None)
    code = """
        import sys
        from pathlib import Path
        from tfser.manifests.cache import Cache
        from tfser.pipeline import feature_writer, on_ray
        from tfser.pipeline.cluster import RayCluster
        from tfser.pipeline.extract import extract_pass
        from tfser.pipeline.features.engine import Compute
        from tfser.pipeline.features.registry import alone, feature_set
        from tfser.pipeline.new_shards import ShardWriting
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
    stored = len(files(cache, LOGMEL))
    assert stored == (2 if how == signal.SIGINT else 1)  # Ctrl-C writes what is collected, a kill cannot
    report = extracted(cache, alone(LOGMEL), RayCluster())
    assert report.before == (14 if how == signal.SIGINT else 8)
    assert report.before + report.extracted == COUNT - 2
    assert {name: of.tolist() for name, of in frames_of(cache, LOGMEL).items()} == {
        name: of.tolist() for name, of in frames_of(whole, LOGMEL).items()
    }
    assert verify(cache) == []


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_drivers_at_once_store_everything_once(make: Callable[[str], Cache], nodes: Any) -> None:
    cache, waited = make("two"), list[str]()

    def drive(_: int) -> ExtractReport:
        how = ShardWriting(shard_utterances=8, on_wait=waited.append)
        return extract_pass(cache, "c", alone(LOGMEL), Compute(cluster=RayCluster()), how)[0]

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(drive, range(2)))
    assert sorted((report.before, report.extracted) for report in reports) == [(0, COUNT - 2), (COUNT - 2, 0)]
    assert len(waited) == 1 and len(frames_of(cache, LOGMEL)) == COUNT - 2


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
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
    assert verify(cache) == [] and len(files(cache, LOGMEL)) == 1
    report = extracted(cache, alone(LOGMEL), RayCluster())
    assert (report.before, report.extracted) == (8, COUNT - 10)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_command_starts_workers_of_its_own(root: Path, tmp_path: Path) -> None:
    words = ["extract", "--corpus", "table", "--table", str(root / "t.csv"), "--cache", str(tmp_path / "c"), "--engine", "ray"]
    done = subprocess.run([sys.executable, "-m", "tfser.cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "computed by a Ray cluster" in done.stderr
    assert len(done.stderr.splitlines()) < 20, "nothing of Ray's own"
