"""Whether stored weights are those of a network, found out before the network takes any memory."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from intermoe.errors import UserError


class _Network(Protocol):
    def parts(self) -> Mapping[str, nn.Module]: ...


def check_fit(build: Callable[[], _Network], stored: Mapping[str, Mapping[str, Tensor]], where: object) -> None:
    """Raise where stored weights are not those of the network that a config describes.

    The network is built without numbers: a config that asks for more memory than there is costs nothing.

    Args:
        build: makes the network.
        stored: the weights of some of its parts.
        where: what to name as their place in an error.

    Raises:
        UserError: a weight is missing, is one too many, or has another shape.
    """
    with torch.device("meta"):
        parts = build().parts()
    for name, tensors in stored.items():
        shapes = {key: value.shape for key, value in parts[name].state_dict().items()}
        if shapes != {key: value.shape for key, value in tensors.items()}:
            raise UserError("the weights do not fit the config beside them", where=where)
