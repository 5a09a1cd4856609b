"""The precision that products are computed in; weights, sums and losses are float32 in each."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16"]
"""``auto`` is bf16 on a GPU that has it, else fp32: few CPUs are faster in bf16, and some far slower."""

_FIRST_WITH_BF16 = (8, 0)


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the products on a device.

    Example:
        >>> dtype_of("auto", torch.device("cpu"))
        torch.float32
    """
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_WITH_BF16
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products and convolutions of the block are computed in this precision, their sums in float32.

    Example:
        >>> with products_in("bf16", torch.device("cpu")):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype_of(precision, device) == torch.bfloat16)


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """Products of the block are computed in float32, also within a block of ``products_in``."""
    return torch.autocast(device.type, enabled=False)


def precision_name(precision: Precision, device: torch.device) -> str:
    """The precision of products on a device, for people.

    Example:
        >>> precision_name("bf16", torch.device("cpu"))
        'bf16'
    """
    if dtype_of(precision, device) == torch.bfloat16:
        return "bf16"
    kinds = {
        "products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    rounded = [kind for kind, in_tf32 in kinds.items() if in_tf32 and device.type == "cuda"]
    return f"fp32, {' and '.join(rounded)} in TF32" if rounded else "fp32"


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products with x in the present block: for those that autocast does not know of.

    Example:
        >>> with products_in("bf16", torch.device("cpu")):
        ...     product_dtype(torch.zeros(1))
        torch.bfloat16
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)
