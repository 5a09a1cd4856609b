"""InterGen's layers: those of the denoiser, with a network of GELUs where it has no experts (Liang et al. 2024).

InterGen works on motion itself, frame by frame, without a VAE. InterMoE's denoiser was made from it: self-attention,
attention to the partner as the partner came into the layer, a feed-forward network, each after an adaptive layer norm.
"""

from functools import partial

from torch import nn

from intermoe.layers.gelu_network import GeluNetwork
from intermoe.moe.config import MoeConfig
from intermoe.networks.denoiser import DenoiserConfig, DenoiserLayer


class ZeroStartNetwork(GeluNetwork):
    """A network of GELUs that adds nothing at first."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(width, hidden, dropout)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)


def intergen_layers(config: DenoiserConfig, moe: MoeConfig) -> list[DenoiserLayer]:
    """InterGen's layers; with experts, where ``moe`` has some, in the place of its feed-forward networks."""
    dense = partial(ZeroStartNetwork, dropout=config.dropout)
    return [DenoiserLayer(config, moe, dense) for _ in range(config.layers)]
