"""What is looked at before a Ray is started."""

import os
import signal
import socket
from types import SimpleNamespace

import pytest
import ray
import torch
from ray._private import ray_constants
from ray._private.services import get_node_ip_address
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

from intermoe.errors import UserError
from pipelines.cluster.live import LiveCluster
from pipelines.cluster.resources import NodeResources
from pipelines.cluster.session import ray_session
from pipelines.settings import WorkersConfig


def test_more_gpus_than_this_machine_has_are_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(UserError, match=r"workers\.count = 2 with workers\.gpu \(allowed: as many as there are GPUs: 1"),
        ray_session(WorkersConfig(count=2, gpu=True)),
    ):
        pass


@pytest.fixture
def cluster(monkeypatch):
    """What happens to a cluster at RAY_ADDRESS: one node of 8 CPUs and 2 GPUs."""
    events: list[object] = []

    def init(*words, **_):
        events.append(words)
        return SimpleNamespace(dashboard_url="10.0.0.1:8265")

    node = NodeResources("10.0.0.1", {"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(socket, "create_connection", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(ray, "shutdown", lambda: events.append("ended"))
    monkeypatch.setattr(LiveCluster, "nodes", lambda self: [node])
    monkeypatch.setattr(LiveCluster, "grows", lambda self: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return events


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_cluster_may_have_what_this_machine_has_not(monkeypatch, cluster, capfd, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with ray_session(WorkersConfig(count=2, gpu=True)):
        assert cluster == [()]
    assert cluster == [(), "ended"]
    assert capfd.readouterr().err == "Ray cluster of 1 node; its dashboard: http://10.0.0.1:8265\n"


def test_what_a_cluster_cannot_hold_is_refused_and_ray_is_left(cluster):
    with pytest.raises(UserError) as caught, ray_session(WorkersConfig(count=3, gpu=True)):
        pass
    assert str(caught.value) == (
        "workers.count = 3 of 1 CPU and 1 GPU each: the cluster has 1 node of 8 CPUs and 2 GPUs"
        " (allowed: up to 2 workers)"
    )
    assert cluster == [(), "ended"]


def refuse(**_):
    raise ConnectionError("Failed to connect to Ray cluster at address: 10.0.0.1:6379")


@pytest.mark.parametrize(
    ("where", "answer"), [("create_connection", lambda *_: refuse()), ("init", refuse)], ids=["nothing", "no token"]
)
def test_an_address_where_no_cluster_answers_is_one_line(monkeypatch, cluster, where, answer):
    monkeypatch.setattr(socket if where == "create_connection" else ray, where, answer)
    with pytest.raises(UserError) as caught, ray_session():
        pass
    assert cluster == []
    assert str(caught.value) == (
        "RAY_ADDRESS=10.0.0.1:6379: no Ray cluster answers, or it wants a token (allowed: the address of a cluster;"
        " where it has a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH)"
    )


def test_a_temporary_folder_with_too_long_a_path_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray is started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = "/tmp/" + 40 * "x"
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(UserError) as caught, ray_session():
        pass
    assert str(caught.value) == (
        f"{folder}: the path of the temporary folder has 45 bytes, too long for Ray's sockets"
        " (allowed: up to 39: set RAY_TMPDIR to a shorter one)"
    )


def test_what_a_ray_of_our_own_starts_finds_its_dashboard_whatever_else_runs_here(monkeypatch):
    """With several Rays on one machine, Ray Train does not look for it, and a stopped trial's CPUs are never free."""
    addresses = []

    def start(*_: object, dashboard_host: str, dashboard_port: int, **__: object) -> None:
        assert os.environ["RAY_API_SERVER_ADDRESS"] == f"http://{dashboard_host}:{dashboard_port}"
        addresses.append(dashboard_port)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for before in (None, "http://elsewhere:8265"):
        if before is not None:
            monkeypatch.setenv("RAY_API_SERVER_ADDRESS", before)
        with ray_session():
            assert os.environ.get("RAY_API_SERVER_ADDRESS") == before
    assert len(addresses) == 2


def test_nobody_watches_whether_the_only_node_of_a_ray_of_our_own_is_taken_away(monkeypatch):
    watched = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: watched.append(os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session():
        assert ENABLE_PREEMPTION_WATCHER_ENV_VAR not in os.environ
    assert watched == ["0"]


def test_a_ray_of_our_own_has_the_address_of_loopback(monkeypatch):
    addresses = []

    def start(*_: object, **__: object) -> None:
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        addresses.append(get_node_ip_address())

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr("ray._private.worker._global_node", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session():
        assert ray_constants.ENABLE_RAY_CLUSTER
    assert addresses == ["127.0.0.1"]


def test_ray_does_not_decide_what_sigterm_does(monkeypatch):
    ours = signal.default_int_handler
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with ray_session():
            assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
