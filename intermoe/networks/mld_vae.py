"""MLD's VAE: one person's motion <-> a single latent token, however long it is (Chen et al. 2023).

The encoder reads the frames behind two learned tokens, in whose places mean and log-variance come out. The decoder
begins with nothing but learned places, as many as there are frames to be, and attends to the latent.

Legend: B batch, T frames, F features of a frame, S = T + 2 tokens, D width, L = 1 latent frame, N = 1 latent token of
it, C = D numbers of it, J joints.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from intermoe.body.features import Normaliser
from intermoe.body.heading_features import heading_joints
from intermoe.body.skeletons import Skeleton
from intermoe.config import Config
from intermoe.layers.skip_transformer import (
    FeedForward,
    PostNormLayer,
    SkipTransformer,
    learned_places,
    xavier_attention,
)
from intermoe.networks.vae import Posterior

_TOKENS = 2


class MldVaeConfig(Config):
    """Size of the VAE; the defaults are the published ones.

    Attributes:
        width: of the tokens, and of the latent.
        layers: of the encoder and of the decoder; an odd number.
        heads: attention heads of a layer.
        hidden: hidden width of the feed-forward networks.
        dropout: of attention weights, in feed-forward networks, and of what they add.
        places: learned places of a sequence: a motion has two frames fewer at most.
    """

    width: int = Field(default=256, ge=8, le=16384, multiple_of=8)
    layers: int = Field(default=9, ge=1, le=255)
    heads: int = Field(default=4, ge=1, le=1024)
    hidden: int = Field(default=1024, ge=1, le=65536)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    places: int = Field(default=500, ge=_TOKENS + 1, le=65536)

    @model_validator(mode="after")
    def _possible_layers(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not divided by heads = {self.heads}")
        if self.layers % 2 == 0:
            raise ValueError(f"layers = {self.layers} is not odd")
        return self

    @property
    def most_frames(self) -> int:
        """Frames of the longest motion that there are places for."""
        return self.places - _TOKENS


class MldVae(nn.Module):
    """Encodes normalised features of one person to a posterior over one latent token, and decodes it to features.

    Example:
        >>> from intermoe.body.skeletons import HUMANML22
        >>> vae = MldVae(MldVaeConfig(width=8, layers=3, hidden=8), HUMANML22).eval()
        >>> mask_BT = torch.ones(1, 14, dtype=torch.bool)
        >>> posterior = vae.encode(torch.zeros(1, 14, 263), mask_BT)
        >>> posterior.mean_BLNC.shape, vae.decode(posterior.mean_BLNC, mask_BT).shape
        (torch.Size([1, 1, 1, 8]), torch.Size([1, 14, 263]))
    """

    encoder_parts = ("embed_motion", "token_2D", "encoder_place_SD", "encoder")
    """What it encodes with; all else decodes."""

    def __init__(self, config: MldVaeConfig, skeleton: Skeleton) -> None:
        super().__init__()
        self.config = config
        self.num_latent_joints = 1
        self.latent = config.width
        self.embed_motion = nn.Linear(skeleton.num_features, config.width)
        self.token_2D = nn.Parameter(torch.randn(_TOKENS, config.width))
        self.encoder_place_SD = learned_places(config.places, config.width)
        self.encoder = _transformer(config, reads_memory=False)
        self.decoder_place_SD = learned_places(config.places, config.width)
        self.decoder = _transformer(config, reads_memory=True)
        self.out = nn.Linear(config.width, skeleton.num_features)

    def encode(self, x_BTF: Tensor, mask_BT: Tensor | None = None) -> Posterior:
        """The posterior over latents [B, 1, 1, C].

        Args:
            x_BTF: normalised features, of at most ``config.places - 2`` frames.
            mask_BT: bool, the valid frames; what lies beyond them changes nothing. All where none is given.

        Raises:
            ValueError: too many frames.
        """
        if mask_BT is None:
            mask_BT = torch.ones(x_BTF.shape[:2], dtype=torch.bool, device=x_BTF.device)
        self._check(mask_BT)
        frame_BTD = self.embed_motion(x_BTF.where(mask_BT[..., None], 0))
        sequence_BSD = torch.cat([self.token_2D.expand(len(x_BTF), -1, -1), frame_BTD], dim=1)
        barred_BS = torch.cat([mask_BT.new_zeros(len(mask_BT), _TOKENS), ~mask_BT], dim=1)
        encoded_BSD = self.encoder(sequence_BSD + self.encoder_place_SD[: sequence_BSD.shape[1]], barred_BS)
        mean_B1C, logvar_B1C = encoded_BSD[:, :_TOKENS].to(x_BTF.dtype).split(1, dim=1)
        return Posterior(mean_B1C[:, None], logvar_B1C[:, None])

    def decode(self, z_BLNC: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Normalised features [B, T, F] of latents [B, 1, 1, C]; zero beyond the valid frames.

        Args:
            z_BLNC: the latents.
            mask_BT: bool, the frames to be, at most ``config.places - 2``; those before the first that is not. As many
                as there are places for where none is given.

        Raises:
            ValueError: too many frames.
        """
        if mask_BT is None:
            shape = len(z_BLNC), self.config.most_frames
            mask_BT = torch.ones(shape, dtype=torch.bool, device=z_BLNC.device)
        self._check(mask_BT)
        barred_BT = ~mask_BT
        # Of a motion without frames, too, attention needs one to be finite.
        barred_BT[:, :1] = False
        place_BTD = self.decoder_place_SD[: mask_BT.shape[1]].expand(len(z_BLNC), -1, -1)
        x_BTF: Tensor = self.out(self.decoder(place_BTD, barred_BT, z_BLNC.flatten(1, 2)))
        return x_BTF.to(z_BLNC.dtype).where(mask_BT[..., None], 0)

    def decode_frames(self, z_BLNC: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """What ``decode`` makes of latents."""
        return self.decode(z_BLNC, mask_BT)

    def _check(self, mask_BT: Tensor) -> None:
        most = self.config.most_frames
        if mask_BT.shape[1] > most:
            raise ValueError(f"{mask_BT.shape[1]} frames are more than the {most} that there are places for")


def _transformer(config: MldVaeConfig, *, reads_memory: bool) -> SkipTransformer:
    return SkipTransformer([_layer(config, reads_memory=reads_memory) for _ in range(config.layers)], config.width)


def _layer(config: MldVaeConfig, *, reads_memory: bool) -> PostNormLayer:
    width, heads, dropout = config.width, config.heads, config.dropout
    network = FeedForward(width, config.hidden, dropout)
    attention = xavier_attention(width, heads, dropout)
    memory_attention = xavier_attention(width, heads, dropout) if reads_memory else None
    return PostNormLayer(attention, network, dropout, memory_attention)


class MldVaeLossConfig(Config):
    """The weight of each loss of MLD's VAE; the defaults are the published ones."""

    reconstruction: float = Field(default=1.0, ge=0)
    joints: float = Field(default=1.0, ge=0)
    kl: float = Field(default=1e-4, ge=0)


def mld_vae_losses(
    x_BTF: Tensor,
    reconstruction_BTF: Tensor,
    posterior: Posterior,
    mask_BT: Tensor,
    *,
    normaliser: Normaliser,
    skeleton: Skeleton,
) -> dict[str, Tensor]:
    """The losses of ``MldVaeLossConfig``, each a sum over valid numbers; ``mld_vae_loss_counts`` says over how many.

    ``reconstruction`` is the smooth L1 distance of normalised features, ``joints`` that of the joints in metres, where
    the features lead the body from the first frame on; ``kl`` is the latent's divergence from the standard normal, of
    each motion as often as it has frames, so that all three are means over frames, however a batch is dealt out. (As
    published the means are also over the padding of a batch, where features differ by nothing and joints by as much as
    in the last frame; and each motion's divergence counts once.)

    Args:
        x_BTF: normalised features.
        reconstruction_BTF: what the VAE made of them.
        posterior: what it encoded them to.
        mask_BT: true for valid frames.
        normaliser: what normalised the features.
        skeleton: whose joints the features describe.
    """
    valid_BT1 = mask_BT[..., None]
    true_BTJ3, found_BTJ3 = (
        heading_joints(normaliser.denormalise(features_BTF.where(valid_BT1, 0)), skeleton)
        for features_BTF in (x_BTF, reconstruction_BTF)
    )
    error_BTJ3 = (found_BTJ3 - true_BTJ3).where(valid_BT1[..., None], 0)
    kl_BLNC = posterior.kl() * mask_BT.sum(dim=1)[:, None, None, None]
    return {
        "reconstruction": _smooth_l1_sum((reconstruction_BTF - x_BTF).where(valid_BT1, 0)),
        "joints": _smooth_l1_sum(error_BTJ3),
        "kl": kl_BLNC.sum(),
    }


def mld_vae_loss_counts(mask_BT: Tensor, skeleton: Skeleton, config: MldVaeConfig) -> dict[str, Tensor]:
    """The number of terms of each sum of ``mld_vae_losses``; from the mask alone, so it is known beforehand."""
    frames = mask_BT.sum()
    return {
        "reconstruction": frames * skeleton.num_features,
        "joints": frames * 3 * skeleton.num_joints,
        "kl": frames * config.width,
    }


def _smooth_l1_sum(error: Tensor) -> Tensor:
    """Sum of |e|, rounded off below 1."""
    return smooth_l1_loss(error, torch.zeros_like(error), reduction="sum")
