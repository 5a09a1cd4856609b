"""Which network interface the process group of the training is bound to."""

import os
import socket
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray.util
from ray.train.torch.config import _TorchBackend

from pipelines.train.process_group import ProcessGroupConfig, bind_to_network, interface_variables

Address = namedtuple("Address", "address")
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def node(monkeypatch):
    """A node of Ray's with the address 10.0.0.2; its own name resolves to that."""
    for name in VARIABLES:
        # Set first, so that what a test sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    interfaces = {"lo": [Address("127.0.0.1")], "eth0": [Address("fe80::1"), Address("10.0.0.2")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.2")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.2")


def bound() -> list[str | None]:
    return [os.environ.get(name) for name in VARIABLES]


def test_the_interface_is_the_one_that_has_the_address():
    assert interface_variables("10.0.0.2") == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    assert interface_variables("10.0.0.9") == {}


def test_workers_on_several_nodes_are_bound():
    bind_to_network(several_nodes=True)
    assert bound() == ["eth0", "=eth0"]


@pytest.mark.parametrize(("name_is", "expected"), [("10.0.0.2", [None, None]), ("127.0.1.1", ["eth0", "=eth0"])])
def test_on_one_node_a_name_that_is_loopback_alone_is_a_reason(monkeypatch, name_is, expected):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: name_is)
    bind_to_network(several_nodes=False)
    assert bound() == expected


@pytest.mark.parametrize(("name_is", "expected"), [("10.0.0.2", ["lo", "=lo"]), ("127.0.1.1", [None, None])])
def test_workers_of_a_ray_on_loopback_listen_nowhere_else(monkeypatch, name_is, expected):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: name_is)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    bind_to_network(several_nodes=False)
    assert bound() == expected


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    bind_to_network(several_nodes=True)
    assert bound() == ["ib0", "=eth0"]


def test_workers_are_bound_before_they_meet(monkeypatch):
    calls: list[Any] = []

    def execute(function, **options):
        calls.append((function, options))
        return ["10.0.0.2", "10.0.0.3"]

    monkeypatch.setattr(_TorchBackend, "on_start", lambda *_: calls.append("meet"))
    config = ProcessGroupConfig()
    group: Any = SimpleNamespace(execute=execute)
    config.backend_cls().on_start(group, config)
    assert calls == [(ray.util.get_node_ip_address, {}), (bind_to_network, {"several_nodes": True}), "meet"]
