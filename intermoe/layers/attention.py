"""Multi-head attention over the latent frames of a person.

Legend: P persons, B batch, L latent frames (queries), K = L + 1 keys, N = P * B sequences, D width,
E = 2 D numbers of key and value, H heads, C channels of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention


def key_mask(mask_BL: Tensor, num_persons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is added to the scores of the keys [N, 1, 1, K], from the valid frames [B, L]: 0, or minus infinity.

    The last key is the zero key of :class:`Attention`: always allowed, so that a row of nothing but padding is
    finite. In the dtype of the products it is converted once, not in every layer.

    Example:
        >>> key_mask(torch.tensor([[True, False]]), num_persons=1)
        tensor([[[[0., -inf, 0.]]]])
    """
    return _barred(pad(mask_BL, (0, 1), value=True), num_persons, dtype)


def plain_key_mask(mask_BL: Tensor, num_persons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same [N, 1, 1, K] for attention without a zero key: it is allowed only where there is nothing to attend to.

    Example:
        >>> plain_key_mask(torch.tensor([[True, False], [False, False]]), num_persons=1).flatten(1)
        tensor([[0., -inf, -inf],
                [-inf, -inf, 0.]])
    """
    return _barred(torch.cat([mask_BL, ~mask_BL.any(dim=1, keepdim=True)], dim=1), num_persons, dtype)


def _barred(allowed_BK: Tensor, num_persons: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of each person's keys, from those that are allowed in a sample."""
    barred_BK = torch.zeros(allowed_BK.shape, dtype=dtype, device=allowed_BK.device)
    return barred_BK.masked_fill(~allowed_BK, -torch.inf).repeat(num_persons, 1)[:, None, None]


class Attention(nn.Module):
    """Attention with biases, dropout on the weights, and one key and value of zeros that attends to nothing.

    Weights start as in ``torch.nn.MultiheadAttention``: the input projections Xavier-uniform over their stacked
    matrix, biases zero.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        bound = (6 / (width + 3 * width)) ** 0.5
        for projection in (self.query, self.key_value):
            nn.init.uniform_(projection.weight, -bound, bound)
        for projection in (self.query, self.key_value, self.out):
            nn.init.zeros_(projection.bias)

    def forward(self, x_PBLD: Tensor, context_PBLD: Tensor, barred_N11K: Tensor) -> Tensor:
        """Let the frames of each x attend to the frames of its context.

        Args:
            x_PBLD: what asks.
            context_PBLD: what is asked; x itself for self-attention.
            barred_N11K: :func:`key_mask` of the batch.

        Returns:
            [P, B, L, D].
        """
        num_persons, batch_size = x_PBLD.shape[:2]
        query_NHLC = self._split_heads(self.query(x_PBLD))
        key_PBLD, value_PBLD = self.key_value(context_PBLD).chunk(2, dim=-1)
        key_NHKC = pad(self._split_heads(key_PBLD), (0, 0, 0, 1))
        value_NHKC = pad(self._split_heads(value_PBLD), (0, 0, 0, 1))
        mixed_NHLC = scaled_dot_product_attention(
            query_NHLC, key_NHKC, value_NHKC, barred_N11K, self.dropout if self.training else 0.0
        )
        out_PBLD: Tensor = self.out(mixed_NHLC.transpose(1, 2).flatten(2).unflatten(0, (num_persons, batch_size)))
        return out_PBLD

    def _split_heads(self, x_PBLD: Tensor) -> Tensor:
        return x_PBLD.flatten(0, 1).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
