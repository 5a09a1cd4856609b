"""The process group of the training workers, bound to the network that Ray's nodes reach each other by.

gloo listens on the address that the host's name resolves to: where that is loopback, or another network than Ray's,
workers on other nodes wait a minute for nothing.
"""

import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class ProcessGroupConfig(TorchConfig):
    """Ray Train's settings of the process group, which is bound to the network of Ray's nodes."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the process group up."""
        return _BoundBackend


class _BoundBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Bind each worker, then make the process group."""
        addresses = set(worker_group.execute(ray.util.get_node_ip_address))
        worker_group.execute(bind_to_network, several_nodes=len(addresses) > 1)
        super().on_start(worker_group, backend_config)


def bind_to_network(*, several_nodes: bool) -> None:
    """Make gloo and NCCL use the interface of this node's address in Ray, unless the user has named one.

    On one node that is done where the host's name and the address are not both of loopback, or both of a network.
    """
    address = ray.util.get_node_ip_address()
    if several_nodes or _name_is_loopback() != ip_address(address).is_loopback:
        for name, value in interface_variables(address).items():
            os.environ.setdefault(name, value)


def interface_variables(address: str) -> dict[str, str]:
    """The environment variables that name the interface with an address; none where no interface has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            # NCCL takes a name for the beginning of names, unless it follows an equals sign.
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    return {}


def _name_is_loopback() -> bool:
    try:
        return ip_address(socket.gethostbyname(socket.gethostname())).is_loopback
    except OSError:
        # A name that resolves to nothing is no better.
        return True
