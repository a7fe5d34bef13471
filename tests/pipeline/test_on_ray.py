"""Extraction on a Ray cluster: what travels, and what becomes of what is lost, with a Ray that is pretended in this process.

On a real cluster: tests/pipeline/test_ray_cluster.py.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tfser.manifests.cache import Cache
from tfser.manifests.errors import TfserError, UsageError
from tfser.pipeline.extraction import on_ray, ray_worker
from tfser.pipeline.extraction.ray_crews import ActorCrew
from tfser.pipeline.features.engine import AudioRow, Compute, Computing
from tfser.pipeline.features.registry import alone
from tfser.pipeline.resources.cluster import OnRay, RayCluster, Where, joined
from tfser.pipeline.verify import verify

from ..conftest import run
from ..ray_extraction import BLOCK, LOGMEL, USABLE, extracted, files, manifest, scanned, write_corpus

ALREADY = 12
"""Who is in the four blocks of three that came back before the fifth."""


@given(st.lists(st.floats(0.01, 400), max_size=30))
def test_blocks_are_the_rows_in_their_order(seconds: list[float]) -> None:
    rows = [row_of(f"u{i}", s) for i, s in enumerate(seconds)]
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


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain `Exception` where a machine is too busy to start it in half a minute."""

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(TfserError, match=r"no cluster on this machine .*timed out"), joined(RayCluster()):
        pass


def test_a_worker_says_what_its_node_lacks(tmp_path: Path) -> None:
    work = ray_worker.Work(job=alone(LOGMEL), root=tmp_path / "none", compute=Compute())
    assert "is not there; mount the corpus" in str(ray_worker.Worker(work).compute([]).stops)
    other = replace(work, root=tmp_path, version="0.0.1")
    assert "0.0.1 asks" in str(ray_worker.Worker(other).compute([]).stops)


# -- a pretended cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "BLOCK_UTTERANCES", BLOCK)


@pytest.fixture
def make(tmp_path: Path, root: Path) -> Callable[[str], Cache]:
    return lambda name: scanned(tmp_path / name, root)


class PretendRay(ModuleType):
    """As much of Ray as an extraction uses, in this process: what is sent is pickled as Ray pickles it, and the last comes first.

    `lost` are the numbers of the blocks that end all their workers, `interrupted` that of the block at which Ctrl-C comes.
    """

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause: BaseException | None = None

    def __init__(self, lost: Collection[int] = (), interrupted: int | None = None, cores: int = 2) -> None:
        super().__init__("ray")
        self.cores = cores
        self.pickle = pytest.importorskip("cloudpickle", reason="cloudpickle, by which Ray pickles, is not installed")
        self.exceptions = SimpleNamespace(RayError=self.RayError, RayTaskError=self.RayTaskError)
        self.lost, self.interrupted, self.given, self.most = lost, interrupted, 0, 0
        self.waiting: dict[int, bytes] = {}

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

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


@pytest.mark.parametrize("cores", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_what_travels_comes_back_as_it_was_computed_here(
    make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    local, distributed, ray = make("local"), make("ray"), PretendRay(cores=cores)
    whole = extracted(local, alone(LOGMEL))
    monkeypatch.setitem(sys.modules, "ray", ray)
    report = extracted(distributed, alone(LOGMEL), RayCluster())
    assert (report.extracted, report.skipped) == (whole.extracted, whole.skipped) and whole.extracted == USABLE
    assert files(distributed) == files(local) and manifest(distributed) == manifest(local)
    assert ray.given == 13 and ray.most == on_ray.AHEAD * cores and not ray.waiting


def test_a_node_whose_corpus_is_not_mounted_lists_nobody(
    make: Callable[[str], Cache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The mount's folder may well be there, and empty: then each file would look like one that the corpus lacks."""
    cache, empty = make("unmounted"), tmp_path / "empty"
    empty.mkdir()

    class Unmounted(PretendRay):
        def put(self, value: Any) -> bytes:
            return super().put(replace(value, root=empty) if isinstance(value, ray_worker.Work) else value)

    monkeypatch.setitem(sys.modules, "ray", Unmounted())
    with pytest.raises(TfserError, match=r"worker on .*: .* is not there, and is here; mount the corpus"):
        extracted(cache, alone(LOGMEL), RayCluster())
    assert manifest(cache)["features"] == [] and verify(cache) == []
    monkeypatch.setitem(sys.modules, "ray", PretendRay())
    assert extracted(cache, alone(LOGMEL), RayCluster()).extracted == USABLE


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
    assert report.before == ALREADY and report.before + report.extracted == USABLE


# -- actors ------------------------------------------------------------------------------------------------------------------


class Actor:
    """An actor of `PretendActors`: by its number it never gets a place, or is lost when it was given so many blocks."""

    def __init__(self, number: int, ray: PretendActors) -> None:
        self.number, self.ray, self.blocks = number, ray, 0
        self.is_ready = SimpleNamespace(remote=lambda: ("ready", number))
        self.compute = SimpleNamespace(remote=self._take)

    def _take(self, block: Any) -> tuple[str, int, int, Any]:
        self.blocks += 1
        self.ray.given.append(self.number)
        return ("block", self.number, self.blocks, tuple(block))


class PretendActors(ModuleType):
    """As much of Ray as encoders in actors use; promises are answered when they are asked for."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause: BaseException | None = None

    def __init__(self, cores: int, placeless: Collection[int] = (), lost: Mapping[int, int] | None = None) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=self.RayError, RayTaskError=self.RayTaskError)
        self.cores, self.placeless, self.lost = cores, placeless, dict(lost or {})
        self.actors, self.given, self.killed = list[Actor](), list[int](), list[int]()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}]

    def remote(self, kind: Any) -> Any:
        def make(work: Any) -> Actor:
            self.actors.append(Actor(len(self.actors), self))
            return self.actors[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def wait(self, promised: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        has = [of for of in promised if of[1] not in self.placeless]
        return has[:num_returns], [of for of in promised if of not in has[:num_returns]]

    def get(self, promised: Any) -> Any:
        if promised[0] == "block" and promised[1] in self.lost and promised[2] >= self.lost[promised[1]]:
            raise self.RayError("the actor died")
        return promised[-1]

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.number)


def rows_of(count: int) -> list[AudioRow]:
    return [row_of(f"u{i}", 1.0) for i in range(count)]


def row_of(name: str, seconds: float) -> AudioRow:
    return AudioRow(utterance_id=name, path="", start_s=None, end_s=None, content_hash="", duration_s=seconds)


def driven(ray: PretendActors, count: int) -> list[str]:
    """Give and take blocks of one row as the driver does; return whose results came, in order."""
    told: list[str] = []
    crew = ActorCrew(ray, RayCluster(), None, told.append)
    waiting, rows, came = deque[Any](), deque(rows_of(count)), list[str]()
    while rows or waiting:
        while rows and len(waiting) < 2 * crew.size:
            block = [rows.popleft()]
            waiting.append((block, crew.give(block)))
        block, promised = waiting.popleft()
        came += [row.utterance_id for row in cast(Any, crew.take(block, promised))]
    crew.dismiss([])
    assert {actor.number for actor in ray.actors} == set(ray.killed)
    return came


def test_an_encoder_without_a_place_keeps_nobody_waiting() -> None:
    """Ray counts the cores of a node that was lost a moment ago: an actor for them never begins."""
    ray = PretendActors(cores=3, placeless=(1,))
    assert driven(ray, 9) == [f"u{i}" for i in range(9)]
    assert set(ray.given) == {0, 2}


def test_blocks_of_an_encoder_that_is_lost_go_to_others_in_their_order() -> None:
    ray = PretendActors(cores=2, lost={0: 3}, placeless=(2,))
    assert driven(ray, 12) == [f"u{i}" for i in range(12)]
    assert len(ray.actors) == 3, "one is asked for in its place, once"
    assert ray.given.count(1) == 12 - 2


def test_a_block_that_ends_every_encoder_is_named() -> None:
    ray = PretendActors(cores=2, lost=dict.fromkeys(range(20), 1))
    with pytest.raises(TfserError, match="1 utterance from u0 on ended 4 workers one after the other"):
        driven(ray, 3)
