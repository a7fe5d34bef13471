"""What a worker of a Ray cluster does: blocks of utterances in, frames out, or why there are none.

What comes in: a pass, as the driver says it, and rows. What goes out: a `BlockResult`, which travels back. A worker needs the
corpus, and an encoder's weights, under the same paths as the driver, and no cache; it writes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tfser
from tfser.manifests.errors import TfserError
from tfser.pipeline.extraction.audio_loading import audio_loader
from tfser.pipeline.extraction.feature_writer import narrowed
from tfser.pipeline.features.engine import AudioRow, Compute, Frames, Result
from tfser.pipeline.features.registry import Pass
from tfser.pipeline.scanning.measure import audio_path


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """What a worker makes of a block: of each row the frames or why there are none, in the block's order."""

    frames: tuple[tuple[Frames, ...] | None, ...]
    reasons: tuple[str | None, ...]
    notes: tuple[str, ...] = ()
    stops: str | None = None
    """Why nothing of the pass can be computed there: an encoder that does not load, a corpus that is not mounted."""
    absent: tuple[str, ...] = ()
    """Files of the block that are not there, by their paths: if they are where the driver is, it is the node that lacks them."""
    node: str = ""
    """What to call the worker's machine."""


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

    def is_ready(self) -> bool:
        """Answer: an actor that does has a place."""
        return True

    def compute(self, rows: Sequence[AudioRow]) -> BlockResult:
        """Return what became of the rows of a block."""
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
            absent=tuple(of.row.path for of in ordered if of.frames is None and not is_there(self._work.root, of.row.path)),
            node=_node(),
        )

    def _narrow(self, frames: tuple[Frames, ...]) -> tuple[Frames, ...]:
        """Return frames in the dtype that they are stored in, so that no more travels; those that do not fit as they are."""
        sets = self._work.job.sets
        pairs = ((of, narrowed(of, features.dtype)) for of, features in zip(frames, sets, strict=True))
        return tuple(of if narrow is None else narrow for of, narrow in pairs)


def is_there(root: Path, path: str) -> bool:
    """Tell whether the file of a row is where this process is."""
    with contextlib.suppress(OSError, ValueError):  # a path with a zero byte, or that may not be looked for, is nowhere
        return audio_path(root, path).exists()
    return False


def _node() -> str:
    """Return what to call this worker's machine."""
    return f"worker on {platform.node()}"


def compute_block(work: Work, rows: list[AudioRow]) -> BlockResult:
    """Compute a block by a worker of its own: what a front-end's task is."""
    return Worker(work).compute(rows)
