"""What a job asks of a cluster, worked out before it starts, and whether it fits, will fit or never fits; needs no Ray.

Workers reserve CPUs and GPUs; the driver, the feed of a training and the helper actors reserve nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from intermoe.errors import UserError
from pipelines.settings import WorkersConfig

LINE_SECONDS = 30.0
_POLL_SECONDS = 1

Resources = Mapping[str, float]
"""Amounts by Ray's names: ``{"CPU": 2, "GPU": 1}``."""


@dataclass(frozen=True)
class Demand:
    """Equal bundles of resources that a job holds at one time, each whole on one node.

    Attributes:
        workers: of each job: their number and what each takes.
        jobs: how many run side by side, such as the trials of a sweep.

    Example:
        >>> Demand(WorkersConfig(count=2, cpus=4, gpu=True)).bundles
        [{'CPU': 4.0, 'GPU': 1.0}, {'CPU': 4.0, 'GPU': 1.0}]
    """

    workers: WorkersConfig
    jobs: int = 1

    @property
    def bundle(self) -> dict[str, float]:
        """What each worker takes."""
        return {"CPU": float(self.workers.cpus)} | ({"GPU": 1.0} if self.workers.gpu else {})

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What all workers of all jobs take."""
        return [self.bundle] * (self.jobs * self.workers.count)

    def num_fitting(self, nodes: Iterable[Resources]) -> int:
        """How many of the bundles find a place on nodes with these resources."""
        return sum(
            min(math.floor(node.get(name, 0) / amount) for name, amount in self.bundle.items()) for node in nodes
        )

    def fits(self, nodes: Iterable[Resources]) -> bool:
        """Whether all bundles find a place at one time."""
        return self.num_fitting(nodes) >= len(self.bundles)

    def __str__(self) -> str:
        workers = f"workers.count = {self.workers.count} of {_amounts(self.bundle)} each"
        return workers if self.jobs == 1 else f"{self.jobs} trials side by side, {workers}"


@dataclass(frozen=True)
class NodeResources:
    """A node of the cluster that is alive.

    Attributes:
        address: its IP address.
        total: what it has.
        free: what nobody holds.
    """

    address: str
    total: Resources
    free: Resources


class Reservation(Protocol):
    """A place in the cluster's queue."""

    def ready(self, seconds: int) -> bool:
        """Whether all bundles are held; waits for that so long at most."""

    def refused(self) -> bool:
        """Whether the cluster's autoscaler says that no nodes of its types hold the bundles."""


class Cluster(Protocol):
    """What is asked of a running cluster."""

    def nodes(self) -> Sequence[NodeResources]:
        """The nodes that are alive."""

    def grows(self) -> bool:
        """Whether an autoscaler adds nodes."""

    def reserve(self, demand: Demand) -> AbstractContextManager[Reservation]:
        """Queue up for the bundles of a demand; they are given back where the block ends."""


def await_resources(demand: Demand, cluster: Cluster, tell: Callable[[str], None]) -> None:
    """Return as soon as the cluster has what a job asks for.

    Args:
        demand: what the job asks for; ``workers.wait_minutes`` of it bounds the wait.
        cluster: the running cluster.
        tell: called with a line now and then while it waits.

    Raises:
        UserError: the cluster cannot hold the demand, or had it not free within the limit.
    """
    nodes = cluster.nodes()
    if demand.fits(node.free for node in nodes):
        return
    grows = cluster.grows()
    if not grows and not demand.fits(node.total for node in nodes):
        raise refusal(demand, nodes)
    limit = 60 * demand.workers.wait_minutes
    began, told = time.monotonic(), -math.inf
    if limit:
        with cluster.reserve(demand) as reservation:
            while (waited := time.monotonic() - began) < limit:
                if time.monotonic() - told >= LINE_SECONDS:
                    told = time.monotonic()
                    tell(f"waiting for {demand}: {_free(cluster.nodes())}; {_clock(waited)} of {_clock(limit)}")
                if reservation.ready(_POLL_SECONDS):
                    return
                if reservation.refused():
                    raise refusal(demand, cluster.nodes(), ", and its autoscaler has no nodes that hold them")
    raise UserError(
        f"{demand}: {_free(cluster.nodes())}, after a wait of {_clock(limit)}",
        allowed="fewer workers, or more minutes to wait: workers.wait_minutes",
    )


def refusal(demand: Demand, nodes: Sequence[NodeResources], besides: str = "") -> UserError:
    """The error of a demand that nodes never hold, with what they would hold."""
    kinds = Counter(_amounts(node.total) for node in nodes)
    have = ", ".join(f"{number} {'node' if number == 1 else 'nodes'} of {kind}" for kind, number in kinds.items())
    return UserError(f"{demand}: the cluster has {have}{besides}", allowed=_alternatives(demand, nodes))


def _alternatives(demand: Demand, nodes: Sequence[NodeResources]) -> str:
    """What would fit: fewer jobs, fewer workers, or workers of fewer CPUs."""
    workers, total = demand.workers, [node.total for node in nodes]
    room = demand.num_fitting(total)
    if room >= workers.count:
        return f"up to {room // workers.count} side by side, the profile's `concurrent`"
    answers = [f"up to {room} {'worker' if room == 1 else 'workers'}"] if room else []
    for cpus in range(workers.cpus - 1, 0, -1):
        if Demand(workers.model_copy(update={"cpus": cpus})).fits(total):
            answers.append(f"workers.cpus={cpus}")
            break
    if workers.gpu and not any(node.get("GPU") for node in total):
        answers.append("workers.gpu=false")
    return ", or ".join(answers) or "a cluster with larger nodes"


def _free(nodes: Sequence[NodeResources]) -> str:
    """How much is free, of how much."""
    sums = {
        name: [sum(each.get(name, 0) for each in side) for side in ([n.free for n in nodes], [n.total for n in nodes])]
        for name in ("CPU", "GPU")
    }
    parts = [f"{free:g} of {total:g} {name}s" for name, (free, total) in sums.items() if total or name == "CPU"]
    return f"{' and '.join(parts)} free on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"


def _amounts(resources: Resources) -> str:
    amounts = [(name, resources.get(name, 0)) for name in ("CPU", "GPU")]
    parts = [f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in amounts if amount or name == "CPU"]
    return " and ".join(parts)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
