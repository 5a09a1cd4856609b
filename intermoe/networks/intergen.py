"""InterGen's layers: those of the denoiser, with a network of GELUs where it has no experts (Liang et al. 2024).

InterGen works on motion itself, frame by frame, without a VAE. InterMoE's denoiser was made from it: self-attention,
attention to the partner as the partner came into the layer, a feed-forward network, each after an adaptive layer norm.

Legend: P = 2 persons, B batch, L frames, D width.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import gelu

from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import DenoiserConfig, DenoiserLayer


class GeluNetwork(nn.Module):
    """Linear, GELU, dropout, linear, with biases."""

    def __init__(self, width: int, hidden: int, dropout: float, *, starts_at_zero: bool = True) -> None:
        """Build the network.

        Args:
            width: of the tokens.
            hidden: hidden width.
            dropout: between the two.
            starts_at_zero: whether the last starts at zero, so that the network adds nothing at first.
        """
        super().__init__()
        self.inward = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.outward = nn.Linear(hidden, width)
        if starts_at_zero:
            nn.init.zeros_(self.outward.weight)
            nn.init.zeros_(self.outward.bias)

    def forward(self, x_PBLD: Tensor) -> Tensor:
        """The network's output [P, B, L, D]."""
        y_PBLD: Tensor = self.outward(self.dropout(gelu(self.inward(x_PBLD))))
        return y_PBLD


def intergen_layers(config: DenoiserConfig, moe: MoeConfig) -> list[DenoiserLayer]:
    """InterGen's layers; with experts, where ``moe`` has some, in the place of its feed-forward networks."""
    dense = partial(GeluNetwork, dropout=config.dropout)
    return [DenoiserLayer(config, moe, dense) for _ in range(config.layers)]
