"""A sweep's runs in several processes: each takes one group of runs at a time from the plan, in its order.

Processes are spawned, never forked, so that each has threads, a CUDA context and an allocator of its own; what they are sent is
plain data. Nothing is shared but the cache, whose locks let several sweeps work on it at once. A worker that dies takes one run
with it, which fails with that reason, and another is started; a parent that dies takes all workers with it, however it died.
Each finished run is on disk before its worker takes the next, and an unfinished one goes on from its checkpoint next time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from tfser.heads import head
from tfser.heads.runs.experiment import Experiment
from tfser.heads.runs.holding import AS_IT_FITS, Holding
from tfser.heads.runs.in_turn import BusyError, Event, Failure, Findings, RunTrainer, Tell, folds_by_key, groups, reason
from tfser.heads.runs.plan import Run, data_key
from tfser.heads.runs.running import RunningMany
from tfser.manifests.audits.run import Finding
from tfser.manifests.cache import Cache
from tfser.pipeline.resources.cores import cores
from tfser.pipeline.resources.threads import wait_passively

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""How libraries beside torch are told their threads; they read it once, when they are loaded."""


Message = tuple[Any, int | None, dict[str, Any]]
"""What a worker sends: a kind of event, `through` or `gave-up`; the number of the run in its group; the event's other values."""


@dataclass(frozen=True, kw_only=True)
class RunsTask:
    """What a worker is sent: the runs of a group with their experiments as plain data."""

    experiments: tuple[Mapping[str, Any], ...]
    run_folds: tuple[int, ...]
    folds: tuple[int, ...]
    findings: tuple[Finding, ...]
    wait: bool


@dataclass(kw_only=True)
class _Worker:
    """A process, our end of its pipe, what it is at work on, and the ids of those runs of it that have ended."""

    process: Any
    pipe: Connection
    group: tuple[Run, ...] = ()
    ended: set[str] = field(default_factory=set)


def run_in_processes(
    cache: Cache,
    runs: Sequence[Run],
    findings: Findings,
    running: RunningMany,
    *,
    tell: Tell,
) -> list[Failure]:
    """Train runs in up to `running.jobs` processes; return those that failed.

    Args:
        cache: the cache.
        runs: what to train, those on the same features together.
        findings: of the audits, by key.
        running: processes at once, and how each of them computes; threads that are None share the cores out evenly.
        tell: told what happens, in this process.
    """
    # Threads are shared out by the processes that there will be, not by those that were asked for: two groups in eight
    # processes would leave three quarters of the cores idle.
    jobs = min(running.jobs, len(groups(runs)))
    of_each = replace(running, jobs=1, threads=running.threads or max(1, cores() // max(jobs, 1)))
    pool = _Pool(runs, findings, tell)
    try:
        while pool.has_work():
            # A worker that died is replaced here, so one that cannot live takes the runs with it one by one and never all.
            while pool.queue and len(pool.workers) < jobs:
                pool.workers.append(_start(cache, of_each, replace(running.holding, processes=max(jobs, 1))))
                pool.give(pool.workers[-1])
            by_pipe = {worker.pipe: worker for worker in pool.workers}
            for pipe in wait(list(by_pipe)):
                pool.hear(by_pipe[pipe])  # type: ignore[index]
    finally:
        pool.close()
    return pool.failures


class _Pool:
    """The parent's side: the groups that wait, the workers that are at it, and what has failed."""

    def __init__(self, runs: Sequence[Run], findings: Findings, tell: Tell) -> None:
        self.queue = [(group, False) for group in groups(runs)]
        """Groups, and whether to wait for another process that is at one of their runs."""
        self.workers: list[_Worker] = []
        self.failures: list[Failure] = []
        self._folds, self._findings, self._tell = folds_by_key(runs), findings, tell

    def has_work(self) -> bool:
        return bool(self.queue) or any(worker.group for worker in self.workers)

    def give(self, worker: _Worker) -> None:
        """Hand a worker its next group, or let it go."""
        worker.group, worker.ended = (), set()
        if not self.queue:
            _send(worker, None)
            return
        worker.group, waits = self.queue.pop(0)
        key = data_key(worker.group[0].experiment)
        _send(
            worker,
            task_of(worker.group, self._folds[key], self._findings[key], waits),
        )

    def hear(self, worker: _Worker) -> None:
        """Take one message of a worker, or notice that it is gone: a closed pipe is the only sign that a kill leaves."""
        try:
            kind, number, values = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers.remove(worker)
            how = _how(worker.process.exitcode)
            self._fail(worker, f"its process died ({how}); the same command goes on from the run's checkpoint")
            return
        run = worker.group[number] if number is not None else None
        if kind == "through":
            self.give(worker)
        elif kind == "gave-up":
            self._fail(worker, values["text"])
            self.give(worker)
        else:
            self._tell(Event(kind=kind, run=run, **values))
            if kind == "failed" and run is not None:
                self.failures.append(Failure(run=run, reason=values["text"]))
            if kind in ("done", "failed") and run is not None:
                worker.ended.add(run.run_id)
            # A group is busy as a whole, after its last run has said so: it goes to the end of the queue, where waiting for
            # the other process keeps nobody from other work.
            if kind == "busy" and run is worker.group[-1]:
                self.queue.append((worker.group, True))
                self.give(worker)

    def _fail(self, worker: _Worker, why: str) -> None:
        for run in worker.group:
            if run.run_id in worker.ended:  # what it died of came after
                continue
            self.failures.append(Failure(run=run, reason=why))
            self._tell(Event(kind="failed", run=run, text=why))

    def close(self) -> None:
        """End the workers: one that waits for more ends by itself when its pipe closes, one at work is ended."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.group:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def _start(cache: Cache, running: RunningMany, holding: Holding) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, cache, running, holding), name="tfser sweep", daemon=True)
    with _environment({name: str(running.threads) for name in _POOLS}):
        process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Let a process that is started now find these variables, unless the user has set them."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _send(worker: _Worker, task: RunsTask | None) -> None:
    with contextlib.suppress(OSError):  # it died: reading from it says so
        worker.pipe.send(task)


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"{signal.Signals(-exitcode).name}" + (", often for want of memory" if exitcode == -signal.SIGKILL else "")
        except ValueError:
            return f"signal {-exitcode}"
    return f"exit code {exitcode}"


def task_of(group: Sequence[Run], folds: tuple[int, ...], findings: Sequence[Finding], wait: bool) -> RunsTask:
    """Return the runs of a group as plain data; the other arguments are those of `RunTrainer.train`."""
    return RunsTask(
        experiments=tuple(_packed(run.experiment) for run in group),
        run_folds=tuple(run.fold for run in group),
        folds=folds,
        findings=tuple(findings),
        wait=wait,
    )


def _packed(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment with its head by name, since functions do not all travel between processes."""
    return {f.name: getattr(experiment, f.name) for f in fields(experiment)} | {"spec": experiment.spec.name}


def _unpacked(values: Mapping[str, Any]) -> Experiment:
    return Experiment(**{**values, "spec": head(values["spec"])})


# -- in the worker -----------------------------------------------------------------------------------------------------------


def _work(pipe: Connection, cache: Cache, running: RunningMany, holding: Holding = AS_IT_FITS) -> None:
    """Train what the parent sends, until it sends None or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # Before torch is loaded: how its threads wait is read once.
    wait_passively()
    running.prepare("cpu")
    every = running.checkpoint_every
    trainer = RunTrainer(cache, tell=lambda event: None, checkpoint_every_s=every, holding=holding)
    while (task := _receive(pipe)) is not None:
        carry_out(trainer, task, pipe.send)


def carry_out(trainer: RunTrainer, task: RunsTask, send: Callable[[Message], None]) -> None:
    """Train the runs of a task; send what happens, and at the end that it is through, or why it was given up."""
    # Runs are numbered within the group: what is sent is plain data, and the parent has the objects.
    group = [Run(experiment=_unpacked(e), fold=fold) for e, fold in zip(task.experiments, task.run_folds, strict=True)]
    numbers = {run.run_id: number for number, run in enumerate(group)}

    def tell(event: Event) -> None:
        values = {f.name: getattr(event, f.name) for f in fields(event) if f.name not in ("kind", "run")}
        send((event.kind, None if event.run is None else numbers[event.run.run_id], values))

    trainer.tell = tell
    try:
        trainer.train(group, task.folds, task.findings, wait=task.wait)
    except BusyError:
        for run in group:
            tell(Event(kind="busy", run=run))
    except Exception as error:
        send(("gave-up", None, {"text": reason(error)}))
    else:
        send(("through", None, {}))


def _receive(pipe: Connection) -> RunsTask | None:
    try:
        task: RunsTask | None = pipe.recv()
    except EOFError:
        return None
    return task


def _die_with_parent() -> None:
    """Wait until the parent is gone, then end this process at once: all that it writes is written aside and renamed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
