"""The feed-forward network of most transformers."""

from torch import Tensor, nn
from torch.nn.functional import gelu


class GeluNetwork(nn.Module):
    """Linear, GELU, dropout, linear, with biases; weights start as PyTorch's do."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """Build the network.

        Args:
            width: of the tokens.
            hidden: hidden width.
            dropout: between the two.
        """
        super().__init__()
        self.inward = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.outward = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, in the shape of its input."""
        y: Tensor = self.outward(self.dropout(gelu(self.inward(x))))
        return y
