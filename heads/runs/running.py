"""How runs are carried out: processes, threads, checkpoints, and where they are read from and written to.

Nothing here is in a run's name, since none of it changes what comes out, but for the rounding of threads' sums. What does
change it is a field of `tfser.heads.runs.request`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

from tfser.heads.runs.holding import Holding
from tfser.manifests.cache import Cache
from tfser.manifests.options import Option
from tfser.pipeline.resources.cluster import OnRay
from tfser.pipeline.resources.memory import Process


class Frames(StrEnum):
    """When cached frames are compared with their checksums."""

    once = "once"
    never = "never"


@dataclass(frozen=True, kw_only=True)
class Running(Process):
    """How the runs of a command are carried out."""

    panel: ClassVar[str] = "Running"
    checkpoint_every: Annotated[float, Option("Keep the state so often, after an epoch.", metavar="SECONDS", minimum=0)] = 30.0
    verify: Annotated[Frames, Option("Compare frames with their checksums once, when they are read first, or never.")] = (
        Frames.once
    )
    stream: Annotated[
        bool | None, Option("Frames stay on disk while they are trained on; left out: where they do not fit into memory.")
    ] = None
    runs: Annotated[
        Path | None,
        Option("Keep runs there, beside a cache that cannot be written; --cache DIR shows them.", metavar="DIR"),
    ] = None

    @property
    def holding(self) -> Holding:
        """Where frames are held."""
        return Holding(stream=self.stream)

    def store(self, cache: Path | None) -> Cache:
        """Return the cache that training reads, and writes its runs to: another folder's if `runs` names one."""
        store = Cache(cache, verify=self.verify.value)
        return store if self.runs is None else store.beside(self.runs)


@dataclass(frozen=True, kw_only=True)
class RunningMany(Running, OnRay):
    """How the runs of a sweep are carried out, several at once if asked."""

    panel: ClassVar[str] = "Running"
    jobs: Annotated[int, Option("Processes at once; with ray, at most so many.", metavar="N", minimum=1, maximum=256)] = 1

    def prepare(self, device: str) -> bool:
        """Set up this process where the runs are trained in it; processes of their own set themselves up."""
        return super().prepare(device) if self.jobs == 1 else False
