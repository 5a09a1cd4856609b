"""MDM's denoiser: a transformer over the frames of one person, behind a token of timestep and text (Tevet et al. 2023).

Works on motion itself, frame by frame, without a VAE. Frames beyond a motion's end are masked, which the published code
by default does not do: here padding never changes a result.

With experts, where ``moe`` has some, in the place of each layer's feed-forward network: the frames are routed. The
condition token is no moment of the motion; it is not in the pool and gets nothing from it, so it changes by attention
alone. There is no norm before the experts, as there is none before the network; the text router reads the text's part
of the condition token.

Legend: B batch, L frames, S = L + 1 tokens, P = 1 person, Z numbers of a person-frame, D width, W condition width.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from intermoe.layers.conditioning import TimestepEmbedding, sinusoids
from intermoe.layers.gelu_network import GeluNetwork
from intermoe.moe.block import feed_forward_block
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.denoising import DenoisingNetwork
from intermoe.networks.routed_layer import RoutedLayer


class MdmLayer(RoutedLayer):
    """Self-attention of condition token and frames, then one network for each of them, or experts for the frames."""

    def __init__(self, config: DenoiserConfig, moe: MoeConfig) -> None:
        """Build the layer.

        Args:
            config: sizes; its dropout is that of attention weights, within the network, and of what is added.
            moe: of its feed-forward block.
        """
        attention = nn.MultiheadAttention(config.width, config.heads, config.dropout, batch_first=True)
        dense = partial(GeluNetwork, dropout=config.dropout)
        block = feed_forward_block(moe, config.width, dense=dense, norm=nn.Identity)
        super().__init__(attention, block, config.dropout, before=1)


class MdmDenoiser(DenoisingNetwork):
    """Predict the clean motion of one person from the noised one, the timestep and the text condition.

    Weights start as PyTorch's do.
    """

    reads = "end"
    token_names = ("person",)
    num_token_rows = 1

    def __init__(self, config: DenoiserConfig, moe: MoeConfig, latent: int, condition: int) -> None:
        """Build the network.

        Args:
            config: sizes.
            moe: the feed-forward block of the layers; its hidden width is also that of the dense network.
            latent: numbers Z of a frame.
            condition: width W of the text condition.
        """
        super().__init__()
        self.timestep_in_router = moe.timestep_in_router
        self.width = config.width
        self.embed_motion = nn.Linear(latent, config.width)
        self.embed_timestep = TimestepEmbedding(config.width)
        self.embed_text = nn.Linear(condition, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(MdmLayer(config, moe) for _ in range(config.layers))
        self.out = nn.Linear(config.width, latent)

    def predict(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> tuple[Tensor, None]:
        """Predict the clean motion.

        Args:
            x_BLPZ: noised motion.
            t_B: int64 timesteps.
            condition: text condition [B, W]; zeros for a dropped one.
            mask_BL: bool, the valid frames; what lies beyond them changes nothing.
            pool: these frames, from who knows them already: on a GPU finding them waits for the device.

        Returns:
            [B, L, P, Z] in the dtype of x, zero beyond the valid frames; and None, as it predicts no hands.
        """
        if pool is None:
            pool = self.pool(mask_BL)
        text_BD = self.embed_text(condition)
        emb_BD = self.embed_timestep(t_B) + text_BD
        routed_BD = emb_BD if self.timestep_in_router else text_BD
        x_BSD = torch.cat([emb_BD[:, None], self.embed_motion(x_BLPZ[:, :, 0])], dim=1)
        x_BSD = self.dropout(x_BSD + sinusoids(torch.arange(x_BSD.shape[1], device=x_BSD.device), self.width))
        # The condition token is always there: no token is without one that it attends to.
        barred_BS = pad(~mask_BL, (1, 0))
        for layer in self.layers:
            x_BSD = layer(x_BSD, routed_BD, pool, barred_BS)
        found_BLPZ: Tensor = self.out(x_BSD[:, 1:, None]).to(x_BLPZ.dtype)
        return found_BLPZ.where(mask_BL[:, :, None, None], 0), None
