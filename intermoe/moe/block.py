"""The MoE block of a denoiser layer, and the dense block that stands in its place.

Legend: P persons, B batch, L latent frames, D width, N = P * B * L positions, S positions that hold a token, E experts.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from intermoe.layers.conditioning import AdaptiveLayerNorm, Modulation
from intermoe.moe.config import MoeConfig
from intermoe.moe.experts import DenseFeedForward, Experts
from intermoe.moe.paradigms import PARADIGMS
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import Router, TextLogits

MakesNorm = Callable[[int], nn.Module]
"""Makes the norm before a network from the width of its tokens; ``nn.Identity`` where there is none."""


class MoeBlock(nn.Module):
    """Route the tokens as they are, let their experts work on them after the norm."""

    norm: AdaptiveLayerNorm | Any

    def __init__(
        self, config: MoeConfig, width: int, condition: int | None = None, norm: MakesNorm | None = None
    ) -> None:
        """Build the block.

        Args:
            config: of router, selection and experts.
            width: of the tokens.
            condition: width of the conditioning and of the text, if it is another.
            norm: makes its norm, where that is not an adaptive layer norm but takes no conditioning.
        """
        super().__init__()
        self.norm = AdaptiveLayerNorm(width, condition) if norm is None else norm(width)
        self.router = Router(width, config.experts, config.router, config.alpha, condition)
        self.selection = PARADIGMS[config.selection](config)
        self.experts = Experts(config.experts, width, config.hidden)

    def forward(
        self, x_PBLD: Tensor, emb_PBD: Tensor | Modulation | None, text_BD: Tensor | TextLogits, pool: TokenPool
    ) -> Tensor:
        """The block's contribution, to be added to x.

        Args:
            x_PBLD: the residual stream.
            emb_PBD: conditioning of the norm, or the modulation made of it; None where it takes none.
            text_BD: what the text router reads, or the logits made of it.
            pool: the tokens; positions outside it are neither routed nor computed.

        Returns:
            [P, B, L, D]; zero at tokens that no expert selects and outside the pool.
        """
        logits_NE = self.router(x_PBLD, text_BD).flatten(0, 2)
        assignment = self.selection(logits_NE.index_select(0, pool.position_S), pool)
        y_ND: Tensor = self.experts(_seen(self.norm, x_PBLD, emb_PBD).flatten(0, 2), assignment)
        return y_ND.view_as(x_PBLD)


class DenseBlock(nn.Module):
    """The baseline without experts: the norm, then one network for every token."""

    norm: AdaptiveLayerNorm | Any

    def __init__(
        self, network: nn.Module, width: int, condition: int | None = None, norm: MakesNorm | None = None
    ) -> None:
        """Build the block.

        Args:
            network: from tokens [P, B, L, D] to as many.
            width: of the tokens.
            condition: width of the conditioning, if it is another.
            norm: makes its norm, where that is not an adaptive layer norm but takes no conditioning.
        """
        super().__init__()
        self.norm = AdaptiveLayerNorm(width, condition) if norm is None else norm(width)
        self.network = network

    def forward(
        self, x_PBLD: Tensor, emb_PBD: Tensor | Modulation | None, _text_BD: Tensor | TextLogits, _pool: TokenPool
    ) -> Tensor:
        """The block's contribution, to be added to x, [P, B, L, D]; there is nothing to route."""
        y_PBLD: Tensor = self.network(_seen(self.norm, x_PBLD, emb_PBD))
        return y_PBLD


def feed_forward_block(
    config: MoeConfig,
    width: int,
    condition: int | None = None,
    dense: Callable[[int, int], nn.Module] = DenseFeedForward,
    norm: MakesNorm | None = None,
) -> MoeBlock | DenseBlock:
    """The block that ``config.selection`` names.

    Args:
        config: of the block; the hidden width of an expert is also that of a dense network.
        width: of the tokens.
        condition: width of the conditioning and of the text, if it is another.
        dense: makes the dense network from its width and its hidden width: by default, what an expert is.
        norm: makes the norm, where that is not an adaptive layer norm but takes no conditioning.
    """
    if config.selection == "dense":
        return DenseBlock(dense(width, config.hidden), width, condition, norm)
    return MoeBlock(config, width, condition, norm)


def _seen(norm: nn.Module, x_PBLD: Tensor, emb_PBD: Tensor | Modulation | None) -> Tensor:
    """What the network sees of x."""
    seen_PBLD: Tensor = norm(x_PBLD) if emb_PBD is None else norm(x_PBLD, emb_PBD)
    return seen_PBLD
