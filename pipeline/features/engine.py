"""A pass over audio: what one extraction computes, and the engine that does it.

A pass makes one feature set, or several from the same samples: the layers of an encoder share one run of it. Its engine is told
which rows to do and how to load their samples, and yields one `Result` a row, in any order. `one_by_one` is the engine of
front-ends, which are cheap and need no company; that of encoders is in `tfser.pipeline.features.encoder_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.options import Option
from tfser.pipeline.resources.cluster import OnRay, RayCluster
from tfser.pipeline.resources.devices import choose_device, choose_devices
from tfser.pipeline.resources.memory import Process
from tfser.pipeline.resources.part import CorpusPart, read_part
from tfser.pipeline.scanning.measure import in_order
from tfser.pipeline.sound.video import MissingExtraError

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[Any]
Tell = Callable[[str], None]
"""Called with a sentence for people."""


@dataclass(frozen=True, kw_only=True)
class AudioRow:
    """What an extraction knows of an utterance; `start_s` and `end_s` are None for the file's own edges."""

    utterance_id: str
    path: str
    start_s: float | None
    end_s: float | None
    content_hash: str
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a row: the frames of each feature set of the pass, (t, dim) each, or the reason why there are none."""

    row: AudioRow
    frames: tuple[Frames, ...] | None
    reason: str | None = None


Load = Callable[[AudioRow], Samples]
"""Returns a row's (n,) mono samples at the pass's rate; raises a TfserError whose text is the reason to list."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where an encoder computes. Nothing here changes the numbers by more than the exactness tolerance (docs/methods.md).

    Attributes:
        devices: torch's names of them, or `auto`, looked up when there is work: each takes a share of the utterances.
        max_batch_seconds: audio in a batch, padding included; None leaves it to the device.
        workers: threads that decode; None takes one a core, at most eight.
        part: the share of the utterances that this process takes; None: all.
        cluster: where the workers are that compute; None: in this process.
        tell: told what people should know, such as a batch that did not fit.

    Raises:
        UsageError: no device, or no room for a batch.
    """

    devices: tuple[str, ...] = ("cpu",)
    max_batch_seconds: float | None = None
    workers: int | None = None
    part: CorpusPart | None = None
    cluster: RayCluster | None = None
    tell: Tell = lambda text: None

    def __post_init__(self) -> None:
        if not self.devices:
            raise UsageError("an encoder needs a device")
        if self.max_batch_seconds is not None and not self.max_batch_seconds > 0:
            raise UsageError(f"--max-batch-seconds {self.max_batch_seconds:g}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Computing(Process, OnRay):
    """What was asked of where and how to compute; `settled` turns it into a `Compute`."""

    panel: ClassVar[str] = "Running"
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ...")] = "auto"
    devices: Annotated[str | None, Option("Several GPUs: cuda:0,cuda:1, or how many, or all.", metavar="LIST")] = None
    max_batch_seconds: Annotated[
        float | None, Option("Audio in an encoder's batch, padding included; else by device.", metavar="S")
    ] = None
    workers: Annotated[int | None, Option("Threads that decode; one a core if left out.", minimum=1)] = None
    part: Annotated[
        CorpusPart | None,
        Option("Only a share, beside other processes: 3/16, or slurm in a job array.", metavar="K/N|slurm", read=read_part),
    ] = None

    def settled(self, features: str, *, is_encoder: bool, tell: Tell) -> Compute:
        """Return where a pass over audio computes, with torch set up for it if it is an encoder's.

        Args:
            features: what is computed, for errors.
            is_encoder: whether it is an encoder, which may use a GPU; all else is computed on the CPU.
            tell: see `Compute`.

        Raises:
            UsageError: if there is no such device, or a front-end is asked to use one.
        """
        where: tuple[str, ...] = ("cpu",)
        cluster = self.cluster()
        if cluster is not None and is_encoder:
            if self.devices is not None:
                raise UsageError("--devices goes without --engine ray, which gives each encoder a share of a GPU (--gpus-each)")
            where = (self.device,)  # looked up where the workers are
        elif is_encoder:
            where = self._of_encoder()
        elif self.devices is not None or self.device != "auto" or self.max_batch_seconds is not None:
            raise UsageError(f"--device, --devices and --max-batch-seconds are for encoders; {features} is computed on the CPU")
        return Compute(
            devices=where,
            max_batch_seconds=self.max_batch_seconds,
            workers=self.workers,
            part=self.part,
            cluster=cluster,
            tell=tell,
        )

    def _of_encoder(self) -> tuple[str, ...]:
        """Return where an encoder runs, with torch set up for it."""
        if self.devices is not None and self.device != "auto":
            raise UsageError("--devices goes without --device")
        self.prepare(self.devices or self.device)
        if self.devices is not None:
            return choose_devices(self.devices)
        # Whatever was named is tried now. To find the best one takes torch, for which a run with nothing to do need not wait.
        return (self.device,) if self.device == "auto" else (choose_device(self.device),)


class Engine(Protocol):
    """Computes the frames of rows."""

    def __call__(self, rows: Sequence[AudioRow], load: Load, compute: Compute) -> Iterator[Result]:
        """Yield the result of every row, in any order.

        Raises:
            TfserError: what stops all of them, such as weights that do not load.
        """


def one_by_one(front_end: Callable[[], Callable[[Samples], Frames]]) -> Engine:
    """Return an engine that computes row after row, in their order, by threads; `front_end` makes what computes, once."""

    def engine(rows: Sequence[AudioRow], load: Load, compute: Compute) -> Iterator[Result]:
        extract = front_end()
        return in_order(lambda row: attempt(row, lambda: (extract(load(row)),)), rows, compute.workers, weight=_seconds)

    return engine


def _seconds(row: AudioRow) -> float:
    return row.duration_s


def attempt(row: AudioRow, make: Callable[[], tuple[Frames, ...]]) -> Result:
    """Return what `make` makes of a row, or the reason why it cannot.

    Raises:
        MissingExtraError: it needs what is not installed, which is no fault of the row.
    """
    try:
        return Result(row=row, frames=make())
    except MissingExtraError:
        raise
    except TfserError as error:
        return Result(row=row, frames=None, reason=str(error))
