"""Whether a job's demand fits a cluster, on clusters that are written down here."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from intermoe.errors import UserError
from pipelines.cluster import resources
from pipelines.cluster.resources import Demand, NodeResources, await_resources
from pipelines.settings import WorkersConfig


def node(cpus: float, *, gpus: float = 0, free: float | None = None) -> NodeResources:
    """A node; with ``free``, so many of its CPUs are not held."""
    total = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return NodeResources("10.0.0.1", total, total | ({} if free is None else {"CPU": free}))


class FakeCluster:
    """A cluster whose queue comes to its end, or is refused, at the poll of that number."""

    def __init__(self, *nodes: NodeResources, grows: bool = False, ready: int = 10**9, refused: int = 10**9) -> None:
        self._nodes, self._grows, self._ready, self._refused = nodes, grows, ready, refused
        self.polls, self.given_back = 0, False

    def nodes(self) -> tuple[NodeResources, ...]:
        return self._nodes

    def grows(self) -> bool:
        return self._grows

    @contextmanager
    def reserve(self, demand: Demand) -> Iterator["FakeCluster"]:
        yield self
        self.given_back = True

    def ready(self, seconds: int) -> bool:
        self.polls += 1
        return self.polls >= self._ready

    def refused(self) -> bool:
        return self.polls >= self._refused


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock takes ten seconds."""
    times = iter(range(0, 10**6, 10))
    monkeypatch.setattr(resources.time, "monotonic", lambda: float(next(times)))


def refusal(demand: Demand, cluster: FakeCluster, lines: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        await_resources(demand, cluster, ([] if lines is None else lines).append)
    return str(caught.value)


def test_what_is_free_now_starts_without_a_word():
    lines: list[str] = []
    await_resources(Demand(WorkersConfig(count=3)), FakeCluster(node(2), node(2, free=1)), lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("workers", "nodes", "message"),
    [
        (
            WorkersConfig(count=3, cpus=2),
            [node(2), node(2)],
            (
                "workers.count = 3 of 2 CPUs each: the cluster has 2 nodes of 2 CPUs"
                " (allowed: up to 2 workers, or workers.cpus=1)"
            ),
        ),
        # Four CPUs in sum, but on no node.
        (
            WorkersConfig(count=1, cpus=4),
            [node(2), node(2), node(1)],
            (
                "workers.count = 1 of 4 CPUs each: the cluster has 2 nodes of 2 CPUs, 1 node of 1 CPU"
                " (allowed: workers.cpus=2)"
            ),
        ),
        (
            WorkersConfig(count=2, cpus=4, gpu=True),
            [node(8, gpus=1), node(8)],
            (
                "workers.count = 2 of 4 CPUs and 1 GPU each: the cluster has 1 node of 8 CPUs and 1 GPU,"
                " 1 node of 8 CPUs (allowed: up to 1 worker)"
            ),
        ),
        (
            WorkersConfig(gpu=True),
            [node(8)],
            "workers.count = 1 of 1 CPU and 1 GPU each: the cluster has 1 node of 8 CPUs (allowed: workers.gpu=false)",
        ),
        (
            WorkersConfig(),
            [node(0)],
            "workers.count = 1 of 1 CPU each: the cluster has 1 node of 0 CPUs (allowed: a cluster with larger nodes)",
        ),
    ],
)
def test_what_no_nodes_hold_is_refused_at_once_with_what_would_fit(workers, nodes, message):
    cluster = FakeCluster(*nodes)
    assert refusal(Demand(workers), cluster) == message
    assert cluster.polls == 0


def test_trials_side_by_side_are_counted_together():
    demand = Demand(WorkersConfig(count=2), jobs=3)
    await_resources(demand, FakeCluster(node(2), node(4)), pytest.fail)
    assert refusal(demand, FakeCluster(node(2), node(3))) == (
        "3 trials side by side, workers.count = 2 of 1 CPU each: the cluster has 1 node of 2 CPUs, 1 node of 3 CPUs"
        " (allowed: up to 2 side by side)"
    )


def test_what_others_hold_is_waited_for_with_a_line_now_and_then(clock):
    lines: list[str] = []
    cluster = FakeCluster(node(2, free=1), node(2, free=0), ready=4)
    await_resources(Demand(WorkersConfig(count=2)), cluster, lines.append)
    assert lines == [
        "waiting for workers.count = 2 of 1 CPU each: 1 of 4 CPUs free on 2 nodes; 0:00:10 of 0:10:00",
        "waiting for workers.count = 2 of 1 CPU each: 1 of 4 CPUs free on 2 nodes; 0:01:00 of 0:10:00",
    ]
    assert cluster.given_back


@pytest.mark.parametrize(("minutes", "polls"), [(1.0, 2), (0.0, 0)])
def test_a_wait_has_a_limit(clock, minutes, polls):
    cluster = FakeCluster(node(2, gpus=1, free=1))
    message = refusal(Demand(WorkersConfig(cpus=2, wait_minutes=minutes)), cluster)
    assert message == (
        "workers.count = 1 of 2 CPUs each: 1 of 2 CPUs and 1 of 1 GPUs free on 1 node,"
        f" after a wait of 0:0{minutes:g}:00 (allowed: fewer workers, or more minutes to wait: workers.wait_minutes)"
    )
    assert cluster.polls == polls


def test_a_cluster_that_grows_is_waited_for_until_its_autoscaler_refuses(clock):
    demand = Demand(WorkersConfig(count=2, gpu=True))
    await_resources(demand, FakeCluster(node(0), grows=True, ready=3), lambda line: None)
    assert refusal(demand, FakeCluster(node(0), grows=True, refused=2)) == (
        "workers.count = 2 of 1 CPU and 1 GPU each: the cluster has 1 node of 0 CPUs, and its autoscaler has no nodes"
        " that hold them (allowed: workers.gpu=false)"
    )
