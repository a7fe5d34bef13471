"""A Ray cluster: how it is asked for, joined and left; what is computed on it says `tfser.pipeline.extraction.on_ray`, and
of runs `tfser.heads.runs.on_ray`.

In goes what the command line says, out comes Ray's module, ready. Ray is an extra (`pip install 'tfser[ray]'`), and imported
only where it is asked for. Nothing here computes or writes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.options import Option

RETRIES = 3
"""How often work is given to another worker when its own is lost."""


class Where(StrEnum):
    """What carries out work."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """A cluster, and what a worker takes of it."""

    address: str | None = None
    """`auto` for the cluster that this machine is in, HOST:PORT for another; None: workers on this machine alone."""
    gpus_each: float | None = None
    """Of a GPU, for each encoder; None: a whole one where the cluster has any."""


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """Whether work goes to a Ray cluster."""

    engine: Annotated[Where, Option("local: this process; ray: workers of a Ray cluster (tfser[ray]).", panel="Running")] = (
        Where.local
    )
    address: Annotated[
        str | None,
        Option("With ray: auto, or HOST:PORT; left out: workers on this machine.", metavar="WHERE", panel="Running"),
    ] = None
    gpus_each: Annotated[
        float | None,
        Option("With ray: what each worker takes of a GPU, 0.25; one if left out.", metavar="N", minimum=0, panel="Running"),
    ] = None

    def cluster(self) -> RayCluster | None:
        """Return the cluster that is asked for; None: none.

        Raises:
            UsageError: if one is described that is not asked for.
        """
        if self.engine is Where.ray:
            return RayCluster(address=self.address, gpus_each=self.gpus_each)
        for flag, value in (("--address", self.address), ("--gpus-each", self.gpus_each)):
            if value is not None:
                raise UsageError(f"{flag} goes with --engine ray")
        return None


@contextlib.contextmanager
def joined(cluster: RayCluster) -> Iterator[Any]:
    """Yield Ray's module, connected; a connection that was there before stays, one that is made here is left again.

    Raises:
        UsageError: if Ray is not installed.
        TfserError: if there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--engine ray: Ray is not installed here ({first_line(error)}); pip install 'tfser[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address=cluster.address or "local",
            include_dashboard=False if cluster.address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except Exception as error:  # of what a start that takes too long raises, Ray says no more than that
        where = "on this machine" if cluster.address is None else f"at {cluster.address}"
        raise TfserError(f"--engine ray: no cluster {where} ({first_line(error)}); see `ray status`") from error
    try:
        yield ray
    finally:
        ray.shutdown()
