"""The cluster that Ray is connected to, as pipelines/cluster/resources.py asks about it."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import state
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from pipelines.cluster.resources import Demand, NodeResources

# Ray's label of nodes that the cluster launcher or KubeRay has started: the node type, or the group.
_NODE_TYPE_LABEL = "ray.io/node-group"
_CONNECT_SECONDS = 2.0


class LiveCluster:
    """The cluster of this process's Ray."""

    def nodes(self) -> list[NodeResources]:
        """The nodes that are alive, in the order of their addresses."""
        return _resources(node for node in ray.nodes() if node["Alive"])

    def staying_nodes(self) -> tuple[list[NodeResources], bool]:
        """The nodes that answer and are not to be taken away, and whether others are held for alive and do not answer.

        Ray notices within half a minute that a node is lost, and until then gives it work.
        """
        leaving = state.state.get_draining_nodes()
        alive = [node for node in ray.nodes() if node["Alive"]]
        answering = [node for node in alive if _answers(node)]
        return _resources(node for node in answering if node["NodeID"] not in leaving), len(answering) < len(alive)

    def grows(self) -> bool:
        """Whether nodes were started by a launcher, which has an autoscaler."""
        return any(_NODE_TYPE_LABEL in node["Labels"] for node in ray.nodes() if node["Alive"])

    @contextmanager
    def reserve(self, demand: Demand) -> Iterator["GroupReservation"]:
        """Queue up for the bundles of a demand: a placement group, which an autoscaler sees, too."""
        group = placement_group(demand.bundles, strategy=demand.workers.placement.upper())
        try:
            yield GroupReservation(group)
        finally:
            remove_placement_group(group)


def _resources(nodes: Iterable[Mapping[str, Any]]) -> list[NodeResources]:
    free = state.available_resources_per_node()
    ordered = sorted(nodes, key=lambda node: node["NodeManagerAddress"])
    return [NodeResources(n["NodeManagerAddress"], n["Resources"], free.get(n["NodeID"], {})) for n in ordered]


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


class GroupReservation:
    """A placement group that is held or waits."""

    def __init__(self, group: PlacementGroup) -> None:
        self._group, self._gcs = group, GcsClient(ray.get_runtime_context().gcs_address)

    def ready(self, seconds: int) -> bool:
        """Whether all bundles are held; waits for that so long at most."""
        return bool(self._group.wait(seconds))

    def refused(self) -> bool:
        """Whether the autoscaler says that no nodes of its types hold the bundles."""
        reply: Any = GetClusterStatusReply.FromString(self._gcs.get_cluster_status())
        infeasible = reply.autoscaling_state.infeasible_gang_resource_requests
        return any(self._group.id.hex() in request.details for request in infeasible)
