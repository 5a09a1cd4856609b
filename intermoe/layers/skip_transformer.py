"""A transformer whose later layers also see what its earlier ones made: MLD's (Chen et al. 2023), of both networks.

Legend: B batch, S tokens, K tokens of a memory, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intermoe.layers.gelu_network import GeluNetwork


class FeedForward(GeluNetwork):
    """A network of GELUs whose matrices start Xavier-uniform."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(width, hidden, dropout)
        for linear in (self.inward, self.outward):
            nn.init.xavier_uniform_(linear.weight)


class PostNormLayer(nn.Module):
    """Self-attention, attention to a memory if it reads one, feed-forward network.

    After each, a layer norm of the sum of what came in and what came out.
    """

    def __init__(
        self,
        attention: nn.MultiheadAttention,
        feed_forward: nn.Module,
        dropout: float,
        memory_attention: nn.MultiheadAttention | None = None,
    ) -> None:
        """Build the layer.

        Args:
            attention: of the tokens to each other, the batch first.
            feed_forward: the network.
            dropout: of what is added.
            memory_attention: of the tokens to a memory, if it reads one.
        """
        super().__init__()
        width = attention.embed_dim
        self.self_attention = attention
        self.self_norm = nn.LayerNorm(width)
        self.memory_attention = memory_attention
        self.memory_norm = None if memory_attention is None else nn.LayerNorm(width)
        self.feed_forward = feed_forward
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, barred_BS: Tensor | None = None, memory_BKD: Tensor | None = None) -> Tensor:
        """The tokens after the layer [B, S, D].

        Args:
            x_BSD: the tokens.
            barred_BS: bool, those that none attends to; of no sample all.
            memory_BKD: what else they attend to.
        """
        x_BSD = self.attended(x_BSD, barred_BS, memory_BKD)
        return self.fed(x_BSD, self.feed_forward(x_BSD))

    def attended(self, x_BSD: Tensor, barred_BS: Tensor | None = None, memory_BKD: Tensor | None = None) -> Tensor:
        """The tokens before the feed-forward network; arguments as for ``forward``."""
        mixed_BSD, _ = self.self_attention(x_BSD, x_BSD, x_BSD, barred_BS, need_weights=False)
        x_BSD = self.self_norm(x_BSD + self.dropout(mixed_BSD))
        if self.memory_attention is None or self.memory_norm is None:
            return x_BSD
        mixed_BSD, _ = self.memory_attention(x_BSD, memory_BKD, memory_BKD, need_weights=False)
        read_BSD: Tensor = self.memory_norm(x_BSD + self.dropout(mixed_BSD))
        return read_BSD

    def fed(self, x_BSD: Tensor, fed_BSD: Tensor) -> Tensor:
        """The tokens after the layer, from what the feed-forward network made of them."""
        y_BSD: Tensor = self.feed_forward_norm(x_BSD + self.dropout(fed_BSD))
        return y_BSD


def xavier_attention(width: int, heads: int, dropout: float) -> nn.MultiheadAttention:
    """Attention all of whose matrices start Xavier-uniform; the dropout is that of its weights."""
    attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
    nn.init.xavier_uniform_(attention.out_proj.weight)
    return attention


class SkipTransformer(nn.Module):
    """An odd number of layers, then a layer norm.

    The layers behind the middle one take, joined to what they are given, what the layers before it made, the last
    first: the last layer takes what the first one made.
    """

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        """Build it around its layers.

        Args:
            layers: called with the tokens and whatever else ``forward`` is given.
            width: of the tokens.
        """
        super().__init__()
        if len(layers) % 2 == 0:
            raise ValueError(f"{len(layers)} layers: the number of a skip transformer's is odd")
        self.layers = nn.ModuleList(layers)
        joins = [nn.Linear(2 * width, width) for _ in range(len(layers) // 2)]
        for linear in joins:
            nn.init.xavier_uniform_(linear.weight)
        self.join = nn.ModuleList(joins)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BSD: Tensor, *given: Any) -> Tensor:
        """The tokens [B, S, D] after all layers.

        Args:
            x_BSD: the tokens.
            given: what each layer is given besides.
        """
        half = len(self.join)
        made: list[Tensor] = []
        for layer in self.layers[:half]:
            x_BSD = layer(x_BSD, *given)
            made.append(x_BSD)
        x_BSD = self.layers[half](x_BSD, *given)
        for join, layer in zip(self.join, self.layers[half + 1 :], strict=True):
            x_BSD = layer(join(torch.cat([x_BSD, made.pop()], dim=-1)), *given)
        y_BSD: Tensor = self.norm(x_BSD)
        return y_BSD


def learned_places(num_tokens: int, width: int) -> nn.Parameter:
    """A learned vector of each place of a sequence [S, D], uniform in 0 to 1 at first."""
    return nn.Parameter(torch.empty(num_tokens, width).uniform_())
