"""The cooperative denoiser: from two noised latent motions to two clean ones, each with an eye on the other.

What is around the layers is the same in all networks for two persons; intergen.py and timotion.py bring other layers.

Legend: B batch, P = 2 persons, L latent frames, Z latent numbers of a person-frame, D width, W condition width,
N = P * B sequences, K = L + 1 keys, H hands of a person.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from intermoe.body.hands import HandContacts
from intermoe.config import Config
from intermoe.diffusion.schedule import Diffusion
from intermoe.layers.attention import Attention, key_mask
from intermoe.layers.conditioning import (
    AdaptiveLayerNorm,
    Modulation,
    TimestepEmbedding,
    modulations,
    sinusoids,
)
from intermoe.layers.precision import product_dtype
from intermoe.moe.block import DenseBlock, MoeBlock, feed_forward_block
from intermoe.moe.config import MoeConfig
from intermoe.moe.experts import DenseFeedForward
from intermoe.moe.pool import TokenPool
from intermoe.moe.router import TextLogits, text_logits
from intermoe.networks.denoising import DenoisingNetwork
from intermoe.networks.hand_contact import HandContactHead, contacts_from_logits

# The share of the steps at which the network is asked which hands touch.
_CONTACTS_AT = 0.6


class DenoiserConfig(Config):
    """The denoiser and the text head before it.

    Attributes:
        width: width D of the residual stream.
        layers: number of layers.
        heads: attention heads of a layer.
        dropout: of attention weights, and inside the text head.
        text_layers: layers of the text head.
        text_hidden: hidden width of its layers.
        text_heads: its attention heads.
        person_embedding: whether a learned vector tells the network which person is the caption's first. Without it, as
            in the paper, the persons are alike to it but for their noise: either of the two may turn out as the first.
        person_conditioning: whether a learned vector of each person joins timestep and text in the conditioning of the
            adaptive layer norms: each layer can then read from the text what this person does. Not in the paper.
    """

    width: int = Field(default=768, ge=8, le=16384, multiple_of=8)
    layers: int = Field(default=8, ge=1, le=256)
    heads: int = Field(default=8, ge=1, le=1024)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    text_layers: int = Field(default=2, ge=1, le=256)
    text_hidden: int = Field(default=2048, ge=1, le=65536)
    text_heads: int = Field(default=8, ge=1, le=1024)
    person_embedding: bool = False
    person_conditioning: bool = False

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not divided by heads = {self.heads}")
        return self


class PairLayer(nn.Module, ABC):
    """A layer of a network for two persons.

    Attributes:
        feed_forward: its feed-forward block.
        token_names: what the two tokens of a moment are that it routes.
    """

    feed_forward: MoeBlock | DenseBlock
    token_names: ClassVar[tuple[str, str]] = ("first person", "second person")

    @property
    @abstractmethod
    def norms(self) -> list[AdaptiveLayerNorm]:
        """Its adaptive layer norms, in the order in which ``forward`` takes their conditioning."""

    @abstractmethod
    def forward(
        self,
        x_PBLD: Tensor,
        emb: Sequence[Tensor | Modulation],
        text_BD: Tensor | TextLogits,
        barred: Tensor,
        pool: TokenPool,
    ) -> Tensor:
        """The residual stream [P, B, L, D] after the layer.

        Args:
            x_PBLD: the residual stream.
            emb: conditioning of each of ``norms``: timestep, text and, where they are told apart, the person
                [P or 1, B, D]; or what ``modulations`` makes of it.
            text_BD: what the text router reads, or the logits made of it.
            barred: ``key_mask`` of the batch.
            pool: its tokens.
        """

    def key_mask(self, mask_BL: Tensor, dtype: torch.dtype) -> Tensor:
        """What its attention adds to the scores of keys, from the valid latent frames [B, L]."""
        return key_mask(mask_BL, num_persons=2, dtype=dtype)

    @abstractmethod
    def attention_flop(self, length: int) -> int:
        """Operations of its attention over a sample of so many latent frames, without its projections."""


class DenoiserLayer(PairLayer):
    """Self-attention, attention to the partner, feed-forward block; each adds to the residual stream."""

    def __init__(
        self, config: DenoiserConfig, moe: MoeConfig, dense: Callable[[int, int], nn.Module] = DenseFeedForward
    ) -> None:
        """Build the layer.

        Args:
            config: sizes.
            moe: of its feed-forward block.
            dense: makes that block's network where it has no experts.
        """
        super().__init__()
        self.self_norm = AdaptiveLayerNorm(config.width)
        self.self_attention = Attention(config.width, config.heads, config.dropout)
        self.cross_norm = AdaptiveLayerNorm(config.width)
        self.partner_norm = AdaptiveLayerNorm(config.width)
        self.cross_attention = Attention(config.width, config.heads, config.dropout)
        self.feed_forward = feed_forward_block(moe, config.width, dense=dense)

    @property
    def norms(self) -> list[AdaptiveLayerNorm]:
        """Before self-attention, before cross-attention, of the partner, before the feed-forward block."""
        return [self.self_norm, self.cross_norm, self.partner_norm, self.feed_forward.norm]

    def forward(
        self,
        x_PBLD: Tensor,
        emb: Sequence[Tensor | Modulation],
        text_BD: Tensor | TextLogits,
        barred: Tensor,
        pool: TokenPool,
    ) -> Tensor:
        """One layer for both persons at once; each reads its partner as the partner came into the layer."""
        of_self, of_cross, of_partner, of_fed = emb
        own_PBLD = self.self_norm(x_PBLD, of_self)
        partner_PBLD = self.partner_norm(x_PBLD, of_partner).flip(0)
        x_PBLD = x_PBLD + self.self_attention(own_PBLD, own_PBLD, barred)
        x_PBLD = x_PBLD + self.cross_attention(self.cross_norm(x_PBLD, of_cross), partner_PBLD, barred)
        fed_PBLD: Tensor = self.feed_forward(x_PBLD, of_fed, text_BD, pool)
        return x_PBLD + fed_PBLD

    def attention_flop(self, length: int) -> int:
        """Queries times keys, and attention times values, of both persons, for themselves and for the partner."""
        width = self.self_norm.norm.normalized_shape[0]
        return 2 * 2 * 2 * 2 * length * (length + 1) * width


def denoiser_layers(config: DenoiserConfig, moe: MoeConfig) -> list[DenoiserLayer]:
    """InterMoE's layers."""
    return [DenoiserLayer(config, moe) for _ in range(config.layers)]


class Denoiser(DenoisingNetwork):
    """Predict the clean latents of both persons from the noised ones, the timestep and the text condition.

    Both persons go through the same weights, as one batch. The result starts at zero: the output layer and the
    adaptive layer norms are zero-initialised.
    """

    num_token_rows = 2

    def __init__(
        self,
        config: DenoiserConfig,
        moe: MoeConfig,
        latent: int,
        condition: int,
        *,
        make_layers: Callable[[], Sequence[PairLayer]] | None = None,
        weighs_errors: bool = False,
        num_hands: int = 0,
    ) -> None:
        """Build the network.

        Args:
            config: sizes.
            moe: the feed-forward block of the layers.
            latent: numbers Z of a person in a latent frame.
            condition: width W of the text condition.
            make_layers: makes its layers, where they are not those of InterMoE.
            weighs_errors: whether there is an ``error_root_ZZ``.
            num_hands: hands of a person whose contacts it predicts; 0 where it predicts none.
        """
        super().__init__()
        self.timestep_in_router = moe.timestep_in_router
        self.width = config.width
        self.embed_motion = nn.Linear(latent, config.width)
        self.embed_timestep = TimestepEmbedding(config.width)
        self.embed_text = nn.Linear(condition, config.width)
        self.person_PD = nn.Parameter(torch.zeros(2, config.width)) if config.person_embedding else None
        layers = denoiser_layers(config, moe) if make_layers is None else make_layers()
        self.layers = nn.ModuleList(layers)
        self.token_names = layers[0].token_names
        self.out = nn.Linear(config.width, latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # As long as what it is added to: the persons are told apart from the first step on.
        self.conditioning_PD = nn.Parameter(torch.randn(2, config.width) / 2) if config.person_conditioning else None
        self.register_buffer("error_root_ZZ", torch.zeros(latent, latent) if weighs_errors else None)
        self.contact_head = HandContactHead(config.width, num_hands) if num_hands else None

    def predict(
        self, x_BLPZ: Tensor, t_B: Tensor, condition: Tensor, mask_BL: Tensor, pool: TokenPool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Predict the clean latents, and which hands touch.

        Args:
            x_BLPZ: as for ``forward``, and so are the others.
            t_B: timesteps.
            condition: text condition [B, W].
            mask_BL: valid latent frames.
            pool: their tokens.

        Returns:
            What ``forward`` returns, and the logits of its ``HandContactHead``, if it has one.
        """
        text_BD = self.embed_text(condition)
        emb_BD = self.embed_timestep(t_B) + text_BD
        routed_BD = emb_BD if self.timestep_in_router else text_BD
        place_LD = sinusoids(torch.arange(x_BLPZ.shape[1], device=x_BLPZ.device), self.width)
        x_PBLD = self.embed_motion(x_BLPZ.permute(2, 0, 1, 3)) + place_LD
        if self.person_PD is not None:
            x_PBLD = x_PBLD + self.person_PD[:, None, None]
        emb_PBD = emb_BD[None] if self.conditioning_PD is None else emb_BD + self.conditioning_PD[:, None]
        if pool is None:
            pool = self.pool(mask_BL)
        barred = self.pair_layers[0].key_mask(mask_BL, product_dtype(x_PBLD))
        for layer, emb, text in zip(self.layers, *self._given(emb_PBD, routed_BD), strict=True):
            x_PBLD = layer(x_PBLD, emb, text, barred, pool)
        x0_BLPZ: Tensor = self.out(x_PBLD).permute(1, 2, 0, 3).to(x_BLPZ.dtype)
        logit_BL2HH = None if self.contact_head is None else self.contact_head(x_PBLD)
        return x0_BLPZ * mask_BL[:, :, None, None], logit_BL2HH

    def hand_contacts(
        self,
        latent_BLPZ: Tensor,
        condition: Tensor,
        mask_BL: Tensor,
        noise_BLPZ: Tensor,
        diffusion: Diffusion,
    ) -> HandContacts | None:
        """Which hands touch in each latent frame of generated motions; None where the network does not predict it.

        Hands of recorded motions touch or do not, and those of generated ones hardly ever do exactly. Under some noise
        the two are alike, and the network goes by the rest of the motion and by the text.

        Args:
            latent_BLPZ: clean latents of both persons.
            condition: text condition [B, W] of each motion.
            mask_BL: bool, the valid latent frames.
            noise_BLPZ: the noise, such as that which sampling began from.
            diffusion: the schedule.
        """
        if self.contact_head is None:
            return None
        t_B = torch.full((len(latent_BLPZ),), round(_CONTACTS_AT * diffusion.config.steps), device=latent_BLPZ.device)
        _, logit_BL2HH = self.predict(diffusion.q_sample(latent_BLPZ, t_B, noise_BLPZ), t_B, condition, mask_BL)
        assert logit_BL2HH is not None
        return contacts_from_logits(logit_BL2HH)

    def _given(
        self, emb_PBD: Tensor, text_BD: Tensor
    ) -> tuple[Sequence[Sequence[Tensor | Modulation]], Sequence[Tensor | TextLogits]]:
        """What the conditioning is to each layer's norms and to its router: itself, or what is made of it for all."""
        layers = self.pair_layers
        if not self.runs_ahead:
            return [[emb_PBD] * len(layer.norms) for layer in layers], [text_BD] * len(layers)
        norms = [norm for layer in layers for norm in layer.norms]
        made: dict[AdaptiveLayerNorm, Modulation] = {}
        for width in dict.fromkeys(norm.norm.normalized_shape for norm in norms):
            alike = [norm for norm in norms if norm.norm.normalized_shape == width]
            made |= zip(alike, modulations(alike, emb_PBD), strict=True)
        blocks = [layer.feed_forward for layer in layers if isinstance(layer.feed_forward, MoeBlock)]
        logits = text_logits([block.router for block in blocks], text_BD)
        return [[made[norm] for norm in layer.norms] for layer in layers], logits or [text_BD] * len(layers)

    @property
    def pair_layers(self) -> list[PairLayer]:
        """The layers."""
        return [layer for layer in self.layers if isinstance(layer, PairLayer)]
