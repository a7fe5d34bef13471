"""Extraction by the workers of a Ray cluster: blocks of utterances go out, frames come back in their order.

What comes in: a pass and the rows that it lacks. What goes out: one `Result` a row, as an engine in this process would yield
them, and for front-ends in the same order, so that what is written is the same to the byte. Only the process that asked writes to
the cache: workers need the corpus (and an encoder's weights) under the same paths, and no cache. So a worker or a node that is
lost costs the blocks that it was at, which are given to others; a driver that is killed or interrupted leaves what it has
written.

A front-end's block is a task; an encoder lives in an actor, which is loaded once and takes block after block. Blocks are given to
actors that have a place alone: one whose node was lost, or for which the cluster has no room, keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfser.manifests.errors import TfserError
from tfser.pipeline.extraction.ray_crews import ActorCrew, TaskCrew
from tfser.pipeline.extraction.ray_worker import BlockResult, Work, is_there
from tfser.pipeline.features.engine import AudioRow, Compute, Result
from tfser.pipeline.features.registry import Pass
from tfser.pipeline.resources.cluster import RayCluster, joined
from tfser.pipeline.scanning.measure import audio_path

BLOCK_SECONDS = 300.0
"""Audio in a block: so much is computed again where a worker is lost."""

BLOCK_UTTERANCES = 256
"""Utterances in a block."""

AHEAD = 2
"""Blocks that a worker has, being computed or waiting: with one it would wait for the driver between two."""


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
    with joined(cluster) as ray:
        own = dataclasses.replace(compute, cluster=None, part=None, workers=compute.workers or 1, tell=_nobody)
        work = ray.put(Work(job=job, root=root, compute=own))
        crew: ActorCrew | TaskCrew
        crew = ActorCrew(ray, cluster, work, compute.tell) if job.is_encoder else TaskCrew(ray, work)
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
                made = _usable(root, block, crew.take(block, promised))
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


def _usable(root: Path, block: Sequence[AudioRow], made: BlockResult) -> BlockResult:
    """Return what a worker made of a block.

    Raises:
        TfserError: it could not compute it, or its node lacks files that are here.
    """
    if made.stops is not None:
        raise TfserError(made.stops)
    # The folder of a disk that is not mounted is there, and empty: nobody is listed for that.
    if (path := next((path for path in made.absent if is_there(root, path)), None)) is not None:
        raise TfserError(
            f"{made.node}: {audio_path(root, path)} is not there, and is here; mount the corpus under the same path on every node"
        )
    return made
