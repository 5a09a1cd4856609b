"""MLD's denoiser: of the one latent token of a person's motion (Chen et al. 2023).

A skip transformer over three tokens: the latent, the timestep and the text. In the first place, what is predicted comes
out.

With experts, where ``moe`` has some, in the place of each layer's feed-forward network: the latent token alone is
routed. Timestep and text are no motion; they are not in the pool and get nothing from it, so they change by attention
alone. A motion has one latent token, so there is nothing temporal to select: experts choose among the motions of a
batch.

Legend: B batch, L = 1 latent frame, P = 1 person, Z = D numbers of its latent, D width, W condition width, S = 3
tokens.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from intermoe.layers.conditioning import TimestepEmbedding
from intermoe.layers.skip_transformer import FeedForward, SkipTransformer, learned_places, xavier_attention
from intermoe.moe.block import feed_forward_block
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.denoising import DenoisingNetwork, Reads
from intermoe.networks.routed_layer import RoutedLayer

_TOKENS = 3


class MldLayer(RoutedLayer):
    """Self-attention of the three tokens, then one network for each of them, or experts for the first."""

    def __init__(self, config: DenoiserConfig, moe: MoeConfig) -> None:
        """Build the layer.

        Args:
            config: sizes.
            moe: of its feed-forward block.
        """
        dense = partial(FeedForward, dropout=config.dropout)
        block = feed_forward_block(moe, config.width, dense=dense, norm=nn.Identity)
        attention = xavier_attention(config.width, config.heads, config.dropout)
        super().__init__(attention, block, config.dropout, after=_TOKENS - 1)


class MldDenoiser(DenoisingNetwork):
    """Predict the noise of a motion's latent token, or what it was or will be, by ``diffusion.prediction``."""

    reads: ClassVar[Reads] = "end"
    token_names = ("person",)
    num_token_rows = 1

    def __init__(self, config: DenoiserConfig, moe: MoeConfig, latent: int, condition: int) -> None:
        """Build the network.

        Args:
            config: sizes; the width is that of the latent, which is a token as it is.
            moe: the feed-forward block of the layers.
            latent: numbers Z of the latent token.
            condition: width W of the text condition.

        Raises:
            ValueError: another width than that of the latent, an even number of layers, or routing that looks at one
                motion alone.
        """
        super().__init__()
        if config.width != latent:
            raise ValueError(f"denoiser.width = {config.width} (allowed: {latent}, the width of the latent)")
        if config.layers % 2 == 0:
            raise ValueError(f"denoiser.layers = {config.layers} (allowed: an odd number)")
        check_routing(moe)
        self.timestep_in_router = moe.timestep_in_router
        self.embed_timestep = TimestepEmbedding(config.width, condition)
        self.embed_text = nn.Linear(condition, config.width)
        self.place_SD = learned_places(_TOKENS, config.width)
        self.transformer = SkipTransformer([MldLayer(config, moe) for _ in range(config.layers)], config.width)

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]
        """The layers of its transformer, which holds them: here they are read alone."""
        return self.transformer.layers

    def predict(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> tuple[Tensor, None]:
        """Predict the noise.

        Args:
            x_BLPZ: noised latents [B, 1, 1, Z].
            t_B: int64 timesteps.
            condition: text condition [B, W]; zeros for a dropped one.
            mask_BL: bool [B, 1], the motions that there are.
            pool: their latent tokens, from who knows them already: on a GPU finding them waits for the device.

        Returns:
            [B, 1, 1, Z] in the dtype of x, zero where there is no motion; and None, as it predicts no hands.
        """
        if pool is None:
            pool = self.pool(mask_BL)
        time_BD, text_BD = self.embed_timestep(t_B), self.embed_text(relu(condition))
        routed_BD = time_BD + text_BD if self.timestep_in_router else text_BD
        token_BSD = torch.stack([x_BLPZ[:, 0, 0], time_BD, text_BD], dim=1) + self.place_SD
        found_BSD = self.transformer(token_BSD, routed_BD, pool)
        found_BLPZ = found_BSD[:, :1, None].to(x_BLPZ.dtype)
        return found_BLPZ.where(mask_BL[:, :, None, None], 0), None


def check_routing(moe: MoeConfig) -> None:
    """Raise ``ValueError`` where a routing decision would be about the frames of one motion: it has one token."""
    if moe.selection == "uniform":
        raise ValueError(
            "moe.selection = uniform deals out the frames of a motion, of which network = mld has one"
            " (allowed: dynamic, token_choice, expert_choice, dense)"
        )
    if moe.selection != "dense" and moe.pool == "sequence":
        raise ValueError("moe.pool = sequence holds one token with network = mld (allowed: worker, global)")
