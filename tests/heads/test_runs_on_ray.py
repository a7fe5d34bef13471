"""A sweep on a Ray cluster of several nodes on this machine: the runs of a local one, though a node is lost meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfser.heads.runs import on_ray
from tfser.heads.runs.in_turn import Event, run_here
from tfser.heads.runs.on_ray import run_on_ray
from tfser.heads.runs.plan import plan_sweep
from tfser.heads.runs.processes import task_of
from tfser.heads.runs.request import HeadBlock, SweepRequest
from tfser.heads.runs.running import RunningMany
from tfser.manifests.cache import Cache
from tfser.pipeline.resources.cluster import RayCluster

from ..conftest import fill_with_tones
from ..ray_nodes import another_node, cluster, lost, needs_ray


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache with three speakers and two tones."""
    above = tmp_path_factory.mktemp("sweep")
    cache = Cache(above / "cache")
    fill_with_tones(cache, above, seconds=0.2, each=(3, 3, 3), noise=0.1)
    return cache


def asked(**more: Any) -> SweepRequest:
    of = {"features": ("logmel",), "device": "cpu", "epochs": 2, "reference": False, **more}
    return SweepRequest(heads=(HeadBlock(name="mean_pool", presets=("linear",)),), **of)


def predictions(cache: Cache, run_id: str) -> Any:
    return cache.read_table(cache.runs / run_id / "predictions.parquet").to_pylist()


def test_a_worker_trains_what_it_is_sent_and_says_what_it_lacks(filled: Cache, tmp_path: Path) -> None:
    cache = Cache(shutil.copytree(filled.root, tmp_path / "cache"))
    plan = plan_sweep(cache, asked(folds="1"))
    (findings,) = plan.findings.values()
    task = task_of((plan.runs[0],), (1,), findings, False)
    import tfser

    def done(version: str, of: Cache) -> list[Any]:
        return on_ray._train(version, of, RunningMany(threads=1, keep_memory=False), RunningMany().holding, task)

    assert [kind for kind, *_ in done(tfser.__version__, cache)] == ["done", "through"]
    assert (cache.runs / plan.runs[0].run_id / "run.json").exists()
    assert "0.0.1 asks" in done("0.0.1", cache)[0][2]["text"]
    assert "the cache" in done(tfser.__version__, Cache(tmp_path / "none"))[0][2]["text"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    yield from cluster(2)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_runs_are_those_of_one_machine_though_a_node_is_lost(filled: Cache, nodes: Any, tmp_path: Path) -> None:
    local, distributed = (Cache(shutil.copytree(filled.root, tmp_path / name)) for name in ("local", "ray"))
    plan = plan_sweep(local, asked(seeds=(0, 1)))
    assert run_here(local, plan.runs, plan.findings, tell=lambda event: None) == []
    events: list[Event] = []
    node = another_node(nodes)

    def tell(event: Event) -> None:
        events.append(event)
        if sum(of.kind == "done" for of in events) == 1 and event.kind == "done":
            lost(nodes, node)

    running = RunningMany(threads=1, keep_memory=False)
    assert run_on_ray(distributed, plan.runs, plan.findings, running, RayCluster(), tell=tell) == []
    assert sorted(event.run.run_id for event in events if event.kind == "done" and event.run) == sorted(
        run.run_id for run in plan.runs
    )
    for run in plan.runs:
        assert predictions(distributed, run.run_id) == predictions(local, run.run_id)
