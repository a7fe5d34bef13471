"""A plan's runs by the workers of a Ray cluster: each takes one group of runs at a time, in the plan's order.

In: runs, as `tfser.heads.runs.processes` takes them. Out: events, and what failed. Workers train as processes of this machine do,
and write to the same cache, which lies under the same path on every node, on a file system with locks. A run whose worker or node
is lost is given to another, which goes on from its checkpoint; a driver that is killed leaves finished runs and checkpoints, and
the same command goes on. Of a run on a cluster people hear when it begins and when it has ended, not of each epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tfser
from tfser.heads.runs.in_turn import Event, Failure, Findings, RunTrainer, Tell, folds_by_key, groups
from tfser.heads.runs.plan import Run, data_key
from tfser.heads.runs.processes import Message, RunsTask, carry_out, task_of
from tfser.heads.runs.running import RunningMany
from tfser.manifests.cache import Cache
from tfser.pipeline.resources.cluster import RETRIES, RayCluster, joined

Group = tuple[Run, ...]


def run_on_ray(
    cache: Cache, runs: Sequence[Run], findings: Findings, running: RunningMany, cluster: RayCluster, *, tell: Tell
) -> list[Failure]:
    """Train runs by the workers of a cluster; return those that failed.

    Args:
        cache: the cache, which every node sees under the same path.
        runs: what to train, those on the same features together.
        findings: of the audits, by key.
        running: how each worker computes, and how many there are at most, where it says more than one.
        cluster: where.
        tell: told what happens, in this process.

    Raises:
        UsageError: if Ray is not installed.
        TfserError: if there is no such cluster.
    """
    queue = [(group, False) for group in groups(runs)]
    folds, failures = folds_by_key(runs), list[Failure]()
    with joined(cluster) as ray:
        slots = _Slots(ray, cluster, running, runs[0].experiment.device)
        at_work: dict[Any, Group] = {}
        try:
            while queue or at_work:
                while queue and len(at_work) < slots.size:
                    group, waits = queue.pop(0)
                    key = data_key(group[0].experiment)
                    for run in group:
                        tell(Event(kind="start", run=run))
                    at_work[slots.give(cache, task_of(group, folds[key], findings[key], waits))] = group
                for promised in ray.wait(list(at_work), num_returns=1)[0]:
                    group = at_work.pop(promised)
                    messages = _fetched(ray, promised)
                    if _hear(group, messages, tell, failures):
                        queue.append((group, True))
        finally:
            with contextlib.suppress(Exception):  # who is gone needs no end
                for promised in at_work:
                    ray.cancel(promised, force=True)
    return failures


class _Slots:
    """What the cluster has room for at once."""

    def __init__(self, ray: Any, cluster: RayCluster, running: RunningMany, device: str) -> None:
        has = ray.cluster_resources()
        cores, gpus = running.threads or 1, 0.0
        if device.startswith("cuda"):
            gpus = 1.0 if cluster.gpus_each is None else cluster.gpus_each
        room = int(has.get("GPU", 0) / gpus) if gpus else int(has.get("CPU", 1) // cores)
        self.size = max(1, room if running.jobs == 1 else min(room, running.jobs))
        # How many trainings share a machine's memory, at most: all that could be placed on one.
        nodes = max(1, sum(bool(node.get("Alive")) for node in ray.nodes()))
        self._holding = replace(running.holding, processes=-(-self.size // nodes))
        self._running = replace(running, jobs=1, threads=cores)
        self._task = ray.remote(_train).options(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)

    def give(self, cache: Cache, task: RunsTask) -> Any:
        """Hand out a task; return what is promised for it."""
        return self._task.remote(tfser.__version__, cache, self._running, self._holding, task)


def _train(version: str, cache: Cache, running: RunningMany, holding: Any, task: RunsTask) -> list[Message]:
    """Train the runs of a task where a worker is; return what happened."""
    if version != tfser.__version__:
        return [_given_up(f"tfser {tfser.__version__} is installed there, {version} asks")]
    if not cache.is_one():
        return [_given_up(f"the cache {cache.root} is not there; put it on a disk that every node sees under the same path")]
    running.prepare("cpu")
    trainer = RunTrainer(cache, tell=lambda event: None, checkpoint_every_s=running.checkpoint_every, holding=holding)
    messages: list[Message] = []
    carry_out(trainer, task, messages.append)
    return [message for message in messages if message[0] not in ("start", "epoch")]


def _given_up(why: str) -> Message:
    import platform

    return ("gave-up", None, {"text": f"worker on {platform.node()}: {why}"})


def _fetched(ray: Any, promised: Any) -> list[Message]:
    """Wait for a task; one that ended all its workers is given up."""
    try:
        messages: list[Message] = ray.get(promised)
    except ray.exceptions.RayError as error:
        lost = f"{RETRIES + 1} workers were lost at it ({type(error).__name__})"
        text = f"{lost}; the same command goes on from the run's checkpoint"
        return [("gave-up", None, {"text": text})]
    return messages


def _hear(group: Group, messages: Sequence[Message], tell: Tell, failures: list[Failure]) -> bool:
    """Tell what happened to the runs of a group; return whether it has to come again, since another process is at one of them."""
    ended: set[str] = set()
    busy = False
    for kind, number, values in messages:
        run = group[number] if number is not None else None
        if kind == "gave-up":
            for of in group:
                if of.run_id not in ended:
                    failures.append(Failure(run=of, reason=values["text"]))
                    tell(Event(kind="failed", run=of, text=values["text"]))
        elif kind != "through":
            tell(Event(kind=kind, run=run, **values))
            busy = busy or kind == "busy"
            if run is not None and kind in ("done", "failed"):
                ended.add(run.run_id)
            if run is not None and kind == "failed":
                failures.append(Failure(run=run, reason=values["text"]))
    return busy
