"""What a running Ray says of its nodes."""

import pytest

from pipelines.cluster.live import LiveCluster
from pipelines.cluster.nodes import check_nodes
from pipelines.cluster.resources import Demand, await_resources
from pipelines.settings import WorkersConfig

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_nodes_that_are_alive_have_what_ray_was_given():
    (node,) = LiveCluster().nodes()
    assert node.total["CPU"] == 2
    assert node.free["CPU"] <= 2
    assert LiveCluster().staying_nodes() == ([node], False)
    assert not LiveCluster().grows()
    await_resources(Demand(WorkersConfig(count=1)), LiveCluster(), pytest.fail)


def test_a_reservation_is_held_or_waits_and_is_given_back():
    cluster = LiveCluster()
    with cluster.reserve(Demand(WorkersConfig(count=2))) as held:
        assert held.ready(20)
        with cluster.reserve(Demand(WorkersConfig(count=1))) as waiting:
            assert not waiting.ready(1)
            # Nobody adds nodes here, so nobody refuses to.
            assert not waiting.refused()
    with cluster.reserve(Demand(WorkersConfig(count=2))) as held:
        assert held.ready(20)


def test_a_single_node_is_not_asked_what_it_sees():
    check_nodes(reads=["/gone"], writes=["/gone/run"], tracking_uri="http://127.0.0.1:1")
