"""Extraction by the workers of a Ray cluster: blocks of utterances go out, frames come back in their order.

What comes in: a pass and the rows that it lacks. What goes out: one `Result` a row, as an engine in this process would yield
them, and for front-ends in the same order, so that what is written is the same to the byte. Only the process that asked writes to
the cache: workers need the corpus (and an encoder's weights) under the same paths, and no cache. So a worker or a node that is
lost costs the blocks that it was at, which are given to others; a driver that is killed or interrupted leaves what it has
written.

A front-end's block is a task; an encoder lives in an actor, which is loaded once and takes block after block.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tfser
from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.wording import count
from tfser.pipeline.extraction.audio_loading import audio_loader
from tfser.pipeline.extraction.feature_writer import narrowed
from tfser.pipeline.features.engine import AudioRow, Compute, Frames, Result
from tfser.pipeline.features.registry import Pass
from tfser.pipeline.resources.cluster import RETRIES, RayCluster, joined

BLOCK_SECONDS = 300.0
"""Audio in a block: so much is computed again where a worker is lost."""

BLOCK_UTTERANCES = 256
"""Utterances in a block."""

AHEAD = 2
"""Blocks that a worker has, being computed or waiting: with one it would wait for the driver between two."""


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """What a worker makes of a block: of each row the frames or why there are none, in the block's order."""

    frames: tuple[tuple[Frames, ...] | None, ...]
    reasons: tuple[str | None, ...]
    notes: tuple[str, ...] = ()
    stops: str | None = None
    """Why nothing of the pass can be computed there: an encoder that does not load, a corpus that is not mounted."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker is told of a pass, beside its rows."""

    job: Pass
    root: Path
    compute: Compute
    version: str = tfser.__version__

    def problem(self) -> str | None:
        """Return why it cannot be done here, on the worker's node; None if it can be tried."""
        if tfser.__version__ != self.version:
            return f"tfser {tfser.__version__} is installed there, {self.version} asks"
        return None if self.root.is_dir() else f"{self.root} is not there; mount the corpus under the same path on every node"


class Worker:
    """What computes blocks where a worker is; of an encoder, it stays loaded from block to block."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._engine = work.job.engine if work.job.keeping is None else work.job.keeping()

    def compute(self, rows: Sequence[AudioRow]) -> BlockResult:
        """Return what became of the rows of a block."""
        import dataclasses

        notes: list[str] = []
        nothing = BlockResult(frames=(), reasons=())
        if (problem := self._work.problem()) is not None:
            return dataclasses.replace(nothing, stops=f"{_node()}: {problem}")
        job = self._work.job
        compute = dataclasses.replace(self._work.compute, tell=notes.append)
        found: dict[str, Result] = {}
        try:
            for result in self._engine(rows, audio_loader(self._work.root, job.sample_rate_hz), compute):
                found[result.row.utterance_id] = result
        except TfserError as error:  # errors of the house do not all travel between processes
            return dataclasses.replace(nothing, stops=f"{_node()}: {error}")
        ordered = [found[row.utterance_id] for row in rows]
        return BlockResult(
            frames=tuple(None if of.frames is None else self._narrow(of.frames) for of in ordered),
            reasons=tuple(of.reason for of in ordered),
            notes=tuple(notes),
        )

    def _narrow(self, frames: tuple[Frames, ...]) -> tuple[Frames, ...]:
        """Return frames in the dtype that they are stored in, so that no more travels; those that do not fit as they are."""
        sets = self._work.job.sets
        pairs = ((of, narrowed(of, features.dtype)) for of, features in zip(frames, sets, strict=True))
        return tuple(of if narrow is None else narrow for of, narrow in pairs)


def _node() -> str:
    """Return what to call this worker's machine."""
    import platform

    return f"worker on {platform.node()}"


def blocks_of(rows: Iterable[AudioRow]) -> Iterator[list[AudioRow]]:
    """Cut rows, in their order, into blocks of some minutes of audio; they do not depend on the cluster."""
    block: list[AudioRow] = []
    seconds = 0.0
    for row in rows:
        if block and (seconds + row.duration_s > BLOCK_SECONDS or len(block) >= BLOCK_UTTERANCES):
            yield block
            block, seconds = [], 0.0
        block.append(row)
        seconds += row.duration_s
    if block:
        yield block


def results_of_cluster(
    cluster: RayCluster, root: Path, job: Pass, rows: Sequence[AudioRow], compute: Compute
) -> Iterator[Result]:
    """Yield the result of every row, in their order, computed by the workers of a cluster.

    Raises:
        TfserError: there is no such cluster, its workers cannot compute the pass, or a block ends every worker that takes it.
    """
    import dataclasses

    with joined(cluster) as ray:
        own = dataclasses.replace(compute, cluster=None, part=None, workers=compute.workers or 1, tell=_nobody)
        work = ray.put(Work(job=job, root=root, compute=own))
        crew = _Encoders(ray, cluster, work) if job.is_encoder else _FrontEnds(ray, work)
        compute.tell(f"computed by a Ray cluster: {crew.described}")
        told: set[str] = set()
        waiting: deque[tuple[list[AudioRow], Any]] = deque()
        blocks = blocks_of(rows)
        try:
            while True:
                # In order, and so many ahead that no worker waits: what is held is bounded, however large the corpus.
                while len(waiting) < AHEAD * crew.size and (block := next(blocks, None)) is not None:
                    waiting.append((block, crew.give(block)))
                if not waiting:
                    return
                block, promised = waiting[0]
                made = _fetched(ray, block, promised)
                waiting.popleft()  # not before: whoever interrupts the waiting lets go of this block as well
                for note in made.notes:
                    if note not in told:
                        told.add(note)
                        compute.tell(note)
                for row, frames, reason in zip(block, made.frames, made.reasons, strict=True):
                    yield Result(row=row, frames=frames, reason=reason)
        finally:
            with contextlib.suppress(Exception):  # who is gone needs no end
                crew.dismiss([promised for _, promised in waiting])


def _nobody(text: str) -> None:
    """Tell nobody; the worker collects what is to be told."""


def _fetched(ray: Any, block: Sequence[AudioRow], promised: Any) -> BlockResult:
    """Wait for a block.

    Raises:
        TfserError: it cannot be computed, or ended every worker that took it.
    """
    what = f"{count(len(block), 'utterance')} from {block[0].utterance_id} on"
    try:
        made: BlockResult = ray.get(promised)
    except ray.exceptions.RayTaskError as error:
        raise TfserError(f"--engine ray: {what}: {first_line(error.cause or error)}") from error
    except ray.exceptions.RayError as error:
        raise TfserError(
            f"--engine ray: {what} ended {RETRIES + 1} workers one after the other ({type(error).__name__}); what was finished "
            "is stored, and the same command goes on. Without --engine ray the same block says more"
        ) from error
    if made.stops is not None:
        raise TfserError(made.stops)
    return made


class _FrontEnds:
    """Tasks: any free core of the cluster takes the next block."""

    def __init__(self, ray: Any, work: Any) -> None:
        self.ray, self.work = ray, work
        self.size = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.described = f"{count(self.size, 'core')}, {count(len(ray.nodes()), 'node')}"
        self._task = ray.remote(_compute).options(max_retries=RETRIES)

    def give(self, block: list[AudioRow]) -> Any:
        """Hand out a block; return what is promised for it."""
        return self._task.remote(self.work, block)

    def dismiss(self, promised: Sequence[Any]) -> None:
        """Let go of blocks that nobody waits for any more."""
        for of in promised:
            self.ray.cancel(of, force=True)


def _compute(work: Work, rows: list[AudioRow]) -> BlockResult:
    return Worker(work).compute(rows)


class _Encoders:
    """Actors: each holds an encoder, and takes the blocks in turn."""

    def __init__(self, ray: Any, cluster: RayCluster, work: Any) -> None:
        self.ray = ray
        has = ray.cluster_resources()
        gpus = float(has.get("GPU", 0))
        share = (1.0 if gpus else 0.0) if cluster.gpus_each is None else cluster.gpus_each
        self.size = max(1, int(gpus / share) if share else int(has.get("CPU", 1)))
        each = f"{share:g} GPU each" if share else "on CPUs"
        self.described = f"{count(self.size, 'encoder')}, {each}, {count(len(ray.nodes()), 'node')}"
        actor = ray.remote(Worker).options(num_gpus=share, num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)
        self._actors = [actor.remote(work) for _ in range(self.size)]
        self._next = 0

    def give(self, block: list[AudioRow]) -> Any:
        """Hand out a block to the actor whose turn it is; return what is promised for it."""
        actor = self._actors[self._next % self.size]
        self._next += 1
        return actor.compute.remote(block)

    def dismiss(self, promised: Sequence[Any]) -> None:
        """End the actors, with whatever they are at."""
        for actor in self._actors:
            self.ray.kill(actor)
