"""Whether stored weights are those of a network, found out before the network takes any memory."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intermoe.errors import UserError


class _Network(Protocol):
    def parts(self) -> Mapping[str, nn.Module]: ...


class _WithoutNumbers(TorchFunctionMode):
    """What a network is large by, its uninitialised tensors, takes no memory in the block.

    Its constants have numbers: PyTorch makes those of the meta device by way of its compiler, which takes a second to
    import.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


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
    with _WithoutNumbers():
        parts = build().parts()
    for name, tensors in stored.items():
        shapes = {key: value.shape for key, value in parts[name].state_dict().items()}
        if shapes != {key: value.shape for key, value in tensors.items()}:
            raise UserError("the weights do not fit the config beside them", where=where)
