"""A post-norm transformer with skips written out: one sample without padding, one head at a time, from given weights.

``weights`` are those of a network by their names; ``name`` leads to the part that is meant.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Feed = Callable[[str, Tensor], Tensor]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def attention(weights: Weights, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    """Each token of x over all of its context."""
    width = x.shape[-1]
    query, key, value = (
        tokens @ weight.T + bias
        for tokens, weight, bias in zip(
            (x, context, context),
            weights[f"{name}.in_proj_weight"].split(width),
            weights[f"{name}.in_proj_bias"].split(width),
            strict=True,
        )
    )
    size = width // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        exp = (query[:, part] @ key[:, part].T / math.sqrt(size)).exp()
        mixed.append(exp / exp.sum(-1, keepdim=True) @ value[:, part])
    return linear(weights, f"{name}.out_proj", torch.cat(mixed, dim=-1))


def gelu_network(weights: Weights, name: str, x: Tensor) -> Tensor:
    hidden = linear(weights, f"{name}.inward", x)
    return linear(weights, f"{name}.outward", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def layer(weights: Weights, name: str, x: Tensor, memory: Tensor | None, heads: int, feed: Feed) -> Tensor:
    x = norm(weights, f"{name}.self_norm", x + attention(weights, f"{name}.self_attention", x, x, heads))
    if memory is not None:
        read = attention(weights, f"{name}.memory_attention", x, memory, heads)
        x = norm(weights, f"{name}.memory_norm", x + read)
    return norm(weights, f"{name}.feed_forward_norm", x + feed(f"{name}.feed_forward", x))


def skip_transformer(
    weights: Weights, name: str, x: Tensor, memory: Tensor | None = None, *, layers: int, heads: int, feed: Feed
) -> Tensor:
    """Layer n of the second half takes, joined to what comes, what layer ``layers - 1 - n`` made."""
    made: list[Tensor] = []
    for number in range(layers):
        if number > layers // 2:
            both = torch.cat([x, made[layers - 1 - number]], dim=-1)
            x = linear(weights, f"{name}.join.{number - layers // 2 - 1}", both)
        x = layer(weights, f"{name}.layers.{number}", x, memory, heads, feed)
        made.append(x)
    return norm(weights, f"{name}.norm", x)
