"""Who computes blocks on a Ray cluster: tasks of a front-end, or actors that hold an encoder.

What comes in: blocks of rows, in the driver's order. What goes out: a promise of each, and what became of it when it is asked
for. Whoever is lost costs the blocks that it was at, which others take, three times each. Nothing is written here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tfser.manifests.errors import TfserError, first_line
from tfser.manifests.wording import count
from tfser.pipeline.extraction.ray_worker import BlockResult, Worker, compute_block
from tfser.pipeline.features.engine import AudioRow
from tfser.pipeline.resources.cluster import RETRIES, RayCluster

_PATIENCE_S = 30.0
"""How long nobody is ready before it is said, and how often it is said again."""


def _named(block: Sequence[AudioRow]) -> str:
    """Say which block it is."""
    return f"{count(len(block), 'utterance')} from {block[0].utterance_id} on"


def _given_up(block: Sequence[AudioRow], error: Exception) -> TfserError:
    """Return the error for a block that ended every worker that took it."""
    return TfserError(
        f"--engine ray: {_named(block)} ended {RETRIES + 1} workers one after the other ({type(error).__name__}); what was "
        "finished is stored, and the same command goes on. Without --engine ray the same block says more"
    )


class TaskCrew:
    """Tasks: any free core of the cluster takes the next block."""

    def __init__(self, ray: Any, work: Any) -> None:
        self.ray, self.work = ray, work
        self.size = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.described = f"{count(self.size, 'core')}, {_nodes(ray)}"
        self._task = ray.remote(compute_block).options(max_retries=RETRIES)

    def give(self, block: list[AudioRow]) -> Any:
        """Hand out a block; return what is promised for it."""
        return self._task.remote(self.work, block)

    def take(self, block: list[AudioRow], promised: Any) -> BlockResult:
        """Wait for a block; Ray gives it to another worker where one is lost.

        Raises:
            TfserError: it cannot be computed, or ended every worker that took it.
        """
        try:
            made: BlockResult = self.ray.get(promised)
        except self.ray.exceptions.RayTaskError as error:
            raise TfserError(f"--engine ray: {_named(block)}: {first_line(error.cause or error)}") from error
        except self.ray.exceptions.RayError as error:
            raise _given_up(block, error) from error
        return made

    def dismiss(self, promised: Sequence[Any]) -> None:
        """Let go of blocks that nobody waits for any more."""
        for of in promised:
            self.ray.cancel(of, force=True)


def _nodes(ray: Any) -> str:
    """Say how many nodes a cluster has."""
    return count(sum(bool(node.get("Alive")) for node in ray.nodes()), "node")


class ActorCrew:
    """Actors: each holds an encoder, and takes one block after the other.

    Ray says what resources a cluster has, and not whether an actor will ever get them: a node that was lost a moment ago still
    counts, others may have taken the room. So an actor gets blocks only from the moment at which it has answered; for one that is
    lost another is asked for, and its blocks go to those that are there.

    Args:
        ray: the module, connected.
        cluster: what each takes of a GPU.
        work: what they are told, as Ray holds it.
        tell: told in a sentence when nobody is there and all have to wait.
    """

    def __init__(self, ray: Any, cluster: RayCluster, work: Any, tell: Callable[[str], None]) -> None:
        self.ray, self._tell = ray, tell
        has = ray.cluster_resources()
        gpus = float(has.get("GPU", 0))
        share = (1.0 if gpus else 0.0) if cluster.gpus_each is None else cluster.gpus_each
        wanted = max(1, int(gpus / share) if share else int(has.get("CPU", 1)))
        each = f"{share:g} GPU each" if share else "on CPUs"
        self.described = f"up to {count(wanted, 'encoder')}, {each}, {_nodes(ray)}"
        # A lost actor is not restarted by Ray: its blocks would wait for it, however long it has no place.
        actor = ray.remote(Worker).options(num_gpus=share, num_cpus=1, max_restarts=0)
        self._new: Callable[[], Any] = lambda: actor.remote(work)
        self._coming: dict[Any, Any] = {}
        """Actors that have not answered yet, by the promise of their answer."""
        self._ready: list[Any] = []
        self._with: dict[Any, Any] = {}
        """The actor of each block that is out, by the block's promise."""
        self._tries: Counter[str] = Counter()
        """How often the block that begins with an utterance was lost."""
        for _ in range(wanted):
            self._ask_for_another()

    @property
    def size(self) -> int:
        """Actors that take blocks just now; one at least, for which `give` waits."""
        self._look(0)
        return max(1, len(self._ready))

    def give(self, block: list[AudioRow]) -> Any:
        """Hand out a block to the actor that has the fewest; return what is promised for it."""
        while not self._ready:
            if not self._look(_PATIENCE_S) and not self._ready:
                self._tell("no worker of the Ray cluster has a place yet; waiting for one (see `ray status`)")
        busy = Counter(id(actor) for actor in self._with.values())
        actor = min(self._ready, key=lambda of: busy[id(of)])
        promised = actor.compute.remote(block)
        self._with[promised] = actor
        return promised

    def take(self, block: list[AudioRow], promised: Any) -> BlockResult:
        """Wait for a block; where its actor is lost another one takes it.

        Raises:
            TfserError: it cannot be computed, or ended every worker that took it.
        """
        while True:
            try:
                made: BlockResult = self.ray.get(promised)
            except self.ray.exceptions.RayTaskError as error:
                raise TfserError(f"--engine ray: {_named(block)}: {first_line(error.cause or error)}") from error
            except self.ray.exceptions.RayError as error:
                self._lose(self._with.pop(promised))
                self._tries[block[0].utterance_id] += 1
                if self._tries[block[0].utterance_id] > RETRIES:
                    raise _given_up(block, error) from error
                promised = self.give(block)
            else:
                del self._with[promised]
                return made

    def dismiss(self, promised: Sequence[Any]) -> None:
        """End the actors, with whatever they are at."""
        for actor in (*self._ready, *self._coming.values()):
            self.ray.kill(actor)

    def _ask_for_another(self) -> None:
        actor = self._new()
        self._coming[actor.is_ready.remote()] = actor

    def _lose(self, actor: Any) -> None:
        """Count an actor out, and ask for one in its place; of its blocks only one is the first to tell."""
        if any(of is actor for of in self._ready):
            self._ready = [of for of in self._ready if of is not actor]
            with contextlib.suppress(Exception):  # it may be cut off rather than gone
                self.ray.kill(actor)
            self._ask_for_another()

    def _look(self, seconds: float) -> bool:
        """Count in the actors that have answered, or do within some seconds; return whether any has.

        Raises:
            TfserError: they end while they are made, again and again.
        """
        answered = self.ray.wait(list(self._coming), num_returns=1, timeout=seconds)[0] if self._coming else []
        for promised in answered:
            actor = self._coming.pop(promised)
            try:
                self.ray.get(promised)
            except self.ray.exceptions.RayError as error:
                self._tries[""] += 1
                if self._tries[""] > RETRIES and not self._ready:
                    raise TfserError(
                        f"--engine ray: {RETRIES + 1} workers ended before they were ready ({first_line(error)})"
                    ) from error
                if self._tries[""] <= RETRIES:  # where some are ready, and others end again and again, these are left alone
                    self._ask_for_another()
            else:
                self._ready.append(actor)
        return bool(answered)
