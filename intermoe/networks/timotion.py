"""TIMotion's layers: one sequence in which both persons take turns (Wang et al. 2025).

A pair token holds both persons of a frame, [x; y] or [y; x]: in its even places the sequence has the first order, in
its odd ones the second. So attention over twice the frames is within a person and between them at once, and one
feed-forward network serves both orders. Each person leaves a layer as the sum of their two halves.

With *local patterns*, each person's frames also go through a convolution, whose result is merged with that of attention
before the feed-forward network.

Works on motion itself, frame by frame, without a VAE.

Legend: P = 2 persons, B batch, L frames, D width of a person, O = 2 orders of the persons, E = 2 D width of a pair,
S = 2 L pair tokens, K = S + 1 keys.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from intermoe.config import Config
from intermoe.layers.attention import Attention, key_mask
from intermoe.layers.conditioning import AdaptiveLayerNorm, Modulation
from intermoe.moe.block import feed_forward_block
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import TextLogits
from intermoe.networks.denoiser import DenoiserConfig, PairLayer
from intermoe.networks.intergen import ZeroStartNetwork

_KERNEL = 3


class TimotionConfig(Config):
    """What is TIMotion's alone; its sizes are those of ``DenoiserConfig``, of a person: a pair is twice as wide.

    Attributes:
        local_patterns: whether each layer has a convolution over the frames of each person.
    """

    local_patterns: bool = True


class LocalPatterns(nn.Module):
    """A residual block over the frames of each person: norm, SiLU, convolution over three frames, and of one frame."""

    def __init__(self, width: int, *, is_first: bool) -> None:
        """Build the block.

        Args:
            width: of a person.
            is_first: whether it is that of the first layer, which has no norm before the first convolution.
        """
        super().__init__()
        self.first_norm = None if is_first else AdaptiveLayerNorm(width)
        self.over_time = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2)
        self.second_norm = AdaptiveLayerNorm(width)
        self.out = nn.Linear(width, width)

    @property
    def norms(self) -> list[AdaptiveLayerNorm]:
        """Its adaptive layer norms, in their order."""
        return [norm for norm in (self.first_norm, self.second_norm) if norm is not None]

    def forward(self, x_PBLD: Tensor, emb: Sequence[Tensor | Modulation], valid_BL1: Tensor) -> Tensor:
        """The same shape; frames that are not valid are zeros to the others.

        Args:
            x_PBLD: both persons.
            emb: conditioning of each of ``norms``.
            valid_BL1: bool, the valid frames.
        """
        *of_first, of_second = emb
        seen_PBLD = x_PBLD
        if self.first_norm is not None:
            seen_PBLD = silu(self.first_norm(x_PBLD, *of_first))
        # Norm and activation make numbers of zeros: what follows the last frame is put back to zero behind them.
        seen_PBLD = seen_PBLD.where(valid_BL1, 0)
        local_PBLD = self.over_time(seen_PBLD.flatten(0, 1).mT).mT.unflatten(0, x_PBLD.shape[:2])
        out_PBLD: Tensor = x_PBLD + self.out(silu(self.second_norm(local_PBLD, of_second)))
        return out_PBLD


class TimotionLayer(PairLayer):
    """Attention over the pair tokens, local patterns, feed-forward network."""

    token_names = ("first, second", "second, first")

    def __init__(
        self, config: DenoiserConfig, moe: MoeConfig, *, local_patterns: bool, dropout: float, is_first: bool
    ) -> None:
        """Build the layer.

        Args:
            config: sizes.
            moe: of its feed-forward block.
            local_patterns: see ``TimotionConfig``.
            dropout: of attention and of the feed-forward network.
            is_first: whether it is the first of its network.
        """
        super().__init__()
        pair = 2 * config.width
        self.norm = AdaptiveLayerNorm(pair, config.width)
        self.attention = Attention(pair, config.heads, dropout)
        self.local = LocalPatterns(config.width, is_first=is_first) if local_patterns else None
        self.merge = nn.Linear(pair, config.width) if local_patterns else None
        self.feed_forward = feed_forward_block(moe, pair, config.width, partial(ZeroStartNetwork, dropout=dropout))

    @property
    def norms(self) -> list[AdaptiveLayerNorm]:
        """Before attention, of the local patterns, before the feed-forward block."""
        local = [] if self.local is None else self.local.norms
        return [self.norm, *local, self.feed_forward.norm]

    def key_mask(self, mask_BL: Tensor, dtype: torch.dtype) -> Tensor:
        """Of the pair tokens [B, 1, 1, K]."""
        return key_mask(mask_BL.repeat_interleave(2, dim=1), num_persons=1, dtype=dtype)

    def forward(
        self,
        x_PBLD: Tensor,
        emb: Sequence[Tensor | Modulation],
        text_BD: Tensor | TextLogits,
        barred: Tensor,
        pool: TokenPool,
    ) -> Tensor:
        """One layer for both persons at once."""
        of_attention, *of_local, of_fed = emb
        pair_OBLE = _pairs(x_PBLD)
        pair_1BSE = _in_turns(self.norm(pair_OBLE, of_attention))
        pair_OBLE = pair_OBLE + _by_order(self.attention(pair_1BSE, pair_1BSE, barred))
        if self.local is not None and self.merge is not None:
            # The last key of each token is a zero key, and of a frame's two tokens both are valid or none is.
            valid_BL1 = (barred[:, 0, 0, :-1:2] == 0)[..., None]
            both_PBLE = torch.cat([_persons(pair_OBLE), self.local(x_PBLD, of_local, valid_BL1)], dim=-1)
            pair_OBLE = _pairs(self.merge(both_PBLE))
        fed_OBLE: Tensor = self.feed_forward(pair_OBLE, of_fed, text_BD, pool)
        return _persons(pair_OBLE + fed_OBLE)

    def attention_flop(self, length: int) -> int:
        """Queries times keys, and attention times values, over twice the frames at twice the width."""
        return 2 * 2 * (2 * length) * (2 * length + 1) * self.attention.out.in_features


def _pairs(x_PBLD: Tensor) -> Tensor:
    """Both persons side by side, in either order: [2, B, L, D] -> [O, B, L, E]."""
    return torch.cat([x_PBLD, x_PBLD.flip(0)], dim=-1)


def _persons(pair_OBLE: Tensor) -> Tensor:
    """Each person as the sum of their two halves: [O, B, L, E] -> [2, B, L, D]."""
    first_OBLD, second_OBLD = pair_OBLE.chunk(2, dim=-1)
    return first_OBLD + second_OBLD.flip(0)


def _in_turns(pair_OBLE: Tensor) -> Tensor:
    """Both orders of a frame one after the other: [O, B, L, E] -> [1, B, S, E]."""
    return pair_OBLE.permute(1, 2, 0, 3).flatten(1, 2)[None]


def _by_order(pair_1BSE: Tensor) -> Tensor:
    """The inverse of ``_in_turns``."""
    return pair_1BSE[0].unflatten(1, (-1, 2)).permute(2, 0, 1, 3)


def timotion_layers(config: DenoiserConfig, moe: MoeConfig, timotion: TimotionConfig) -> list[TimotionLayer]:
    """TIMotion's layers, with a dropout that rises from 0 in the first towards that of the config.

    With experts, where ``moe`` has some, in the place of its feed-forward networks; a token of theirs is a pair token,
    so a routing decision is about both persons.
    """
    return [
        TimotionLayer(
            config,
            moe,
            local_patterns=timotion.local_patterns,
            dropout=config.dropout * number / config.layers,
            is_first=number == 0,
        )
        for number in range(config.layers)
    ]
