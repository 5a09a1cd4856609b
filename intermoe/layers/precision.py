"""The precision that products are computed in."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of autocast where it is on, else that of x: for what autocast does not know of.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     product_dtype(torch.zeros(1))
        torch.bfloat16
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
