"""A Ray cluster of several nodes on this machine, for the slow tests that lose nodes and workers.

A module for tests. `cluster` is a fixture's body; nothing here needs Ray until it runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (tfser[ray], or `make test-scale`)")

PATIENT = {
    "RAY_agent_register_timeout_ms": "900000",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_worker_niceness": "0",
}
"""Ray's own limits, raised: a busy machine takes minutes to start what Ray waits for half a minute."""

PLAIN = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""What a node of a test does without: each is a Python process more to start."""

LONGEST_START_S = 600.0
"""How long a node is waited for."""


def cluster(cpus: int) -> Iterator[Any]:
    """Yield a cluster on this machine, joined by this process: a head of some cores, beside which tests put nodes."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        wait_longer(patch)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, **ports(), **PLAIN})
        ray.init(address=made.address, log_to_driver=False)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def wait_longer(patch: pytest.MonkeyPatch) -> None:
    """Let Ray wait longer for a node that it starts: its half a minute is written into its code, where no variable reaches it.

    It asks again and again whether the node is known; here each of these questions waits for the answer.
    """
    from ray._private import services

    ask = services.get_node

    def asked_until_known(*where: Any) -> Any:
        began = time.monotonic()
        while True:
            try:
                return ask(*where)
            except RuntimeError:
                if time.monotonic() - began > LONGEST_START_S:
                    raise
                time.sleep(0.2)

    patch.setattr(services, "get_node", asked_until_known)


def ports() -> dict[str, int]:
    """Return what a node of a test has beside its cores: ports of its agents, for which it then need not wait."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in names]
        for of in free:
            of.bind(("127.0.0.1", 0))
        return {name: of.getsockname()[1] for name, of in zip(names, free, strict=True)} | {"object_store_memory": 80 << 20}


def another_node(nodes: Any, cpus: int = 1) -> Any:
    """Add a node; return it when the cluster knows it, and its cores."""
    import ray

    before = alive()
    node = nodes.add_node(wait=False, num_cpus=cpus, **ports())
    wait_until(lambda: alive() == before + 1)
    assert ray.cluster_resources()["CPU"] >= 1 + cpus
    return node


def lost(nodes: Any, node: Any) -> None:
    """End a node at once, and wait until the cluster knows that it has."""
    before = alive()
    nodes.remove_node(node, allow_graceful=False)
    wait_until(lambda: alive() == before - 1)


def alive() -> int:
    """Return how many nodes the cluster counts."""
    import ray

    return sum(bool(of["Alive"]) for of in ray.nodes())


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what a cluster comes to know."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > LONGEST_START_S:
            raise TimeoutError("the cluster did not come to know of its nodes")
        time.sleep(0.2)
