"""What of a network learns nothing but rounding."""

from torch import Tensor

# Attention of one person's networks: PyTorch's has the biases of query, key and value in one, SALAD's of key and value.
_PARTS = {
    "self_attention.in_proj_bias": (3, 1),
    "temporal.key_value.bias": (2, 0),
    "skeletal.key_value.bias": (2, 0),
    "cross.key_value.bias": (2, 0),
}


def without_key_bias(name: str, tensor: Tensor) -> Tensor:
    """A parameter with zeros for the bias of attention's keys, which adds the same to all scores of a query.

    So its gradient is rounding, and Adam makes steps of it. (InterMoE's attention has a key of zeros besides, so that
    there the bias says something.)
    """
    for ending, (parts, place) in _PARTS.items():
        if name.endswith(ending):
            tensor = tensor.clone()
            tensor.chunk(parts)[place].zero_()
    return tensor
