"""SALAD's denoiser: attention over frames, over latent joints and to the words of the text (Hong et al. 2025).

Its tokens are the latent joints of each latent frame. Its layers are a U: what goes into a layer of the second half is
joined with what its counterpart of the first half gave. In a layer each part reads the layer norm of the residual
stream, and what it makes is modulated by the timestep before it is added; the text enters by attention alone.

With experts, where ``moe`` has some, in the place of each layer's feed-forward network: the joint-frames are routed, so
what is selected is a joint and a time. What the experts make is modulated by the timestep too. The text router reads
the mean of the words' states, embedded as the words are: SALAD itself has no text of one vector.

A text of no words, as a dropped one is, adds nothing by attention. (The published code attends to the two tokens that
begin and end the empty text.)

Legend: B batch, L latent frames, P = 1 person, Z = J * C latent numbers of a frame, J latent joints, C channels of one,
D width, W width of a token state, K tokens of a text, S = L * J tokens of a motion, N rows of a mask.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from intermoe.layers.attention import Attention, plain_key_mask
from intermoe.layers.conditioning import Film, TimestepEmbedding, sinusoids
from intermoe.layers.precision import product_dtype
from intermoe.moe.block import feed_forward_block
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.networks.denoiser import DenoiserConfig
from intermoe.networks.denoising import DenoisingNetwork


class _Given(NamedTuple):
    """What all layers are given of a batch: its timesteps and texts, and which keys are barred from attention."""

    emb_BD: Tensor
    words_BKD: Tensor
    text_BD: Tensor
    frames_N11K: Tensor
    joints_N11K: Tensor
    words_N11K: Tensor
    pool: TokenPool


class SaladLayer(nn.Module):
    """Temporal attention, skeletal attention, attention to the words, feed-forward block."""

    def __init__(self, config: DenoiserConfig, moe: MoeConfig) -> None:
        """Build the layer.

        Args:
            config: sizes; its dropout is that of attention weights and of what each part adds.
            moe: of its feed-forward block.
        """
        super().__init__()
        width = config.width
        self.temporal_norm, self.skeletal_norm, self.cross_norm, self.words_norm = (
            nn.LayerNorm(width) for _ in range(4)
        )
        self.temporal, self.skeletal, self.cross = (_attention(config) for _ in range(3))
        self.feed_forward = feed_forward_block(moe, width, dense=_gelu_network, norm=nn.LayerNorm)
        self.temporal_film, self.skeletal_film, self.cross_film, self.fed_film = (Film(width) for _ in range(4))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_JBLD: Tensor, given: _Given) -> Tensor:
        """The residual stream [J, B, L, D] after the layer.

        Args:
            x_JBLD: the residual stream.
            given: of the batch.
        """
        seen_JBLD = self.temporal_norm(x_JBLD)
        mixed_JBLD = self.temporal(seen_JBLD, seen_JBLD, given.frames_N11K)
        x_JBLD = x_JBLD + self.temporal_film(self.dropout(mixed_JBLD), given.emb_BD)

        seen_BLJD = self.skeletal_norm(x_JBLD).permute(1, 2, 0, 3)
        mixed_BLJD = self.skeletal(seen_BLJD, seen_BLJD, given.joints_N11K)
        x_JBLD = x_JBLD + self.skeletal_film(self.dropout(mixed_BLJD.permute(2, 0, 1, 3)), given.emb_BD)

        seen_1BSD = self.cross_norm(x_JBLD).permute(1, 2, 0, 3).flatten(1, 2)[None]
        mixed_1BSD = self.cross(seen_1BSD, self.words_norm(given.words_BKD)[None], given.words_N11K)
        mixed_JBLD = mixed_1BSD[0].unflatten(1, (-1, len(x_JBLD))).permute(2, 0, 1, 3)
        x_JBLD = x_JBLD + self.cross_film(self.dropout(mixed_JBLD), given.emb_BD)

        fed_JBLD = self.feed_forward(x_JBLD, None, given.text_BD, given.pool)
        out_JBLD: Tensor = x_JBLD + self.fed_film(self.dropout(fed_JBLD), given.emb_BD)
        return out_JBLD


def _attention(config: DenoiserConfig) -> Attention:
    """Attention whose weights start as those of ``torch.nn.Linear``."""
    attention = Attention(config.width, config.heads, config.dropout)
    for projection in (attention.query, attention.key_value, attention.out):
        projection.reset_parameters()
    return attention


def _gelu_network(width: int, hidden: int) -> nn.Module:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class SaladDenoiser(DenoisingNetwork):
    """Predict the clean latents of one person from the noised ones, the timestep and the states of the words.

    Weights start as those of ``torch.nn.Linear``.
    """

    reads = "words"

    def __init__(
        self, config: DenoiserConfig, moe: MoeConfig, latent: int, condition: int, joint_names: Sequence[str]
    ) -> None:
        """Build the network.

        Args:
            config: sizes.
            moe: the feed-forward block of the layers; its hidden width is also that of the dense network.
            latent: numbers Z of a latent frame.
            condition: width W of a token state.
            joint_names: of the latent joints.

        Raises:
            ValueError: the number of layers is even, so that none is in the middle.
        """
        super().__init__()
        if config.layers % 2 == 0:
            raise ValueError(f"{config.layers} layers have none in the middle; SALAD takes an odd number of them")
        width, channels = config.width, latent // len(joint_names)
        self.width = width
        self.timestep_in_router = moe.timestep_in_router
        self.token_names = tuple(joint_names)
        self.num_token_rows = len(joint_names)
        self.embed_motion = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        self.embed_timestep = TimestepEmbedding(width)
        self.embed_words = nn.Linear(condition, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(SaladLayer(config, moe) for _ in range(config.layers))
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.layers // 2))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))

    def predict(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> tuple[Tensor, None]:
        """Predict the clean latents.

        Args:
            x_BLPZ: noised latents.
            t_B: int64 timesteps.
            condition: token states [B, K, W], zeros where there is no token; all zeros for a dropped text.
            mask_BL: bool, the valid latent frames; what lies beyond them changes nothing.
            pool: their joint-frames, from who knows them already: on a GPU finding them waits for the device.

        Returns:
            [B, L, P, Z] in the dtype of x, zero beyond the valid frames; and None, as it predicts no hands.
        """
        x_JBLD = self.embed_motion(x_BLPZ.squeeze(2).unflatten(-1, (self.num_token_rows, -1)).permute(2, 0, 1, 3))
        x_JBLD = self.dropout(x_JBLD + self._places(x_BLPZ.shape[1], x_BLPZ.device))
        given = self._given(t_B, condition, mask_BL, product_dtype(x_JBLD), pool)
        joins, kept = list(self.joins), list[Tensor]()
        for number, layer in enumerate(self.layers):
            if number > len(joins):
                # The residual stream stays in its own precision.
                join = joins[number - len(joins) - 1]
                x_JBLD = join(torch.cat([x_JBLD, kept.pop()], dim=-1)).to(x_JBLD.dtype)
            x_JBLD = layer(x_JBLD, given)
            if number < len(joins):
                kept.append(x_JBLD)
        found_BLPZ = self.out(x_JBLD).permute(1, 2, 0, 3).flatten(2)[:, :, None].to(x_BLPZ.dtype)
        return found_BLPZ.where(mask_BL[:, :, None, None], 0), None

    def _places(self, length: int, device: torch.device) -> Tensor:
        """Sinusoids of the tokens' places [J, 1, L, D], counted joint by joint, then frame by frame."""
        place_SD = sinusoids(torch.arange(length * self.num_token_rows, device=device), self.width)
        return place_SD.unflatten(0, (length, -1)).transpose(0, 1)[:, None]

    def _given(
        self, t_B: Tensor, condition_BKW: Tensor, mask_BL: Tensor, dtype: torch.dtype, pool: TokenPool | None
    ) -> _Given:
        """What the layers are given."""
        has_word_BK = condition_BKW.any(dim=2)
        num_words_B1 = has_word_BK.sum(dim=1, keepdim=True).clamp(min=1)
        text_BD = self.embed_words(condition_BKW.sum(dim=1) / num_words_B1)
        emb_BD = self.embed_timestep(t_B)
        all_joints_1J = mask_BL.new_ones(1, self.num_token_rows)
        return _Given(
            emb_BD=emb_BD,
            words_BKD=self.embed_words(condition_BKW),
            text_BD=text_BD + emb_BD if self.timestep_in_router else text_BD,
            frames_N11K=plain_key_mask(mask_BL, self.num_token_rows, dtype),
            joints_N11K=plain_key_mask(all_joints_1J, 1, dtype),
            words_N11K=plain_key_mask(has_word_BK, 1, dtype),
            pool=self.pool(mask_BL) if pool is None else pool,
        )
