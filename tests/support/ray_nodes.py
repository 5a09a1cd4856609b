"""A Ray cluster of several nodes that are processes of this machine, which tests kill and add.

They share files, network and clock; tests/support/two_nodes.py has nodes that do not, and needs root.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

ROOT = Path(__file__).resolve().parents[2]
_OBJECT_STORE_BYTES = 200_000_000


class RayNodes:
    """A cluster whose head has one CPU, as has every node that is added."""

    def __init__(self) -> None:
        head = {"num_cpus": 1, "object_store_memory": _OBJECT_STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)

    def add(self) -> "Node":
        """Start another node."""
        return Node(self._cluster, self._cluster.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE_BYTES))

    def intermoe(self, line: str, **environment: str) -> "Command":
        """Start a line of the command ``intermoe`` as a driver of the cluster."""
        return Command(line, {"RAY_ADDRESS": self._cluster.address, **environment})

    def end(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


class Node:
    """A node that was added."""

    def __init__(self, cluster: Cluster, node: "ray._private.node.Node") -> None:  # type: ignore[name-defined] # noqa: F821
        self._cluster, self._node = cluster, node

    @property
    def _raylet(self) -> psutil.Process:
        return psutil.Process(self._node.all_processes["raylet"][0].process.pid)

    def trains(self) -> bool:
        """Whether it has a worker of a training."""
        return any("RayTrainWorker" in " ".join(process.cmdline()) for process in self._raylet.children())

    def kill(self) -> None:
        """End its raylet at once; its workers end themselves."""
        self._raylet.kill()

    def drain(self, seconds: float) -> None:
        """Have Ray announce that the node is taken away in some seconds, as a cloud does with a spot instance."""
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + seconds) * 1000)
        accepted, why = GcsClient(self._cluster.address).drain_node(self._node.node_id, reason, "spot", deadline)
        assert accepted, why


class Command:
    """A command that runs."""

    def __init__(self, line: str, environment: dict[str, str]) -> None:
        variables = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *line.split()],
            env={**os.environ, **variables},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ended(self, seconds: float) -> tuple[int, str]:
        """Wait for its end, so long at most; its exit code and what it has written on standard error."""
        try:
            _, err = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return self._process.returncode, err


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """A cluster for as long as the block runs."""
    nodes = RayNodes()
    try:
        yield nodes
    finally:
        nodes.end()
