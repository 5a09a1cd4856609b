"""Motion as features to what a denoiser works on, and back: latents of a VAE, or the normalised features themselves.

Legend: B batch, T frames, L latent frames, P persons, F features, N latent joints, C channels of one,
Z = N * C, or F without a VAE.
"""

import torch
from torch import Tensor, nn

from intermoe.body.features import Normaliser
from intermoe.body.skeletons import Skeleton
from intermoe.errors import UserError
from intermoe.layers.precision import in_full
from intermoe.networks.vae import STRIDE, CausalSkeletalVae, Posterior, VaeConfig


class LatentCodec(nn.Module):
    """Encodes raw features of all persons to latents, and decodes latents to raw features.

    Attributes:
        skeleton: whose joints the features describe.
        vae: the VAE; without one, a latent frame is a frame, and its latents are the normalised features.
        stride: frames of a latent frame.
        latent: the numbers Z of a person in a latent frame.
    """

    def __init__(self, config: VaeConfig | None, skeleton: Skeleton) -> None:
        """Build the codec.

        Args:
            config: of the VAE, if there is one.
            skeleton: whose joints the features describe.
        """
        super().__init__()
        self.skeleton = skeleton
        self.normaliser = Normaliser(skeleton.num_features)
        self.vae = None if config is None else CausalSkeletalVae(config, skeleton)
        self.stride = 1 if config is None else STRIDE
        self.latent = skeleton.num_features if config is None else len(skeleton.pools[-1].groups) * config.latent

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.normaliser.mean_F.device

    def require_vae(self) -> CausalSkeletalVae:
        """The VAE; ``UserError`` where there is none."""
        if self.vae is None:
            raise UserError("the network works on motion itself and has no VAE", allowed="network = intermoe")
        return self.vae

    def encode(self, features_BTPF: Tensor, noise_BLPZ: Tensor | None = None, mask_BT: Tensor | None = None) -> Tensor:
        """Latents [B, L, P, Z] of raw features.

        Args:
            features_BTPF: raw features of all persons.
            noise_BLPZ: what a sample of the posterior is drawn with; without it, the latents are its mean.
            mask_BT: bool, valid frames; all where none is given. Latents beyond them are zero.
        """
        if mask_BT is None:
            mask_BT = features_BTPF.new_ones(features_BTPF.shape[:2], dtype=torch.bool)
        latent_BLPZ = self.posterior(features_BTPF, mask_BT).of_persons(features_BTPF.shape[2], noise_BLPZ)
        mask_BL = mask_BT[:, : latent_BLPZ.shape[1] * self.stride].unflatten(1, (-1, self.stride)).all(dim=2)
        return latent_BLPZ.where(mask_BL[:, :, None, None], 0)

    def posterior(self, features_BTPF: Tensor, mask_BT: Tensor | None = None) -> Posterior:
        """The posterior of raw features, each person a row of it; arguments as for :meth:`encode`.

        Without a VAE nothing is uncertain: its variances are zero.
        """
        x_BTPF = self.normaliser.normalise(features_BTPF)
        if mask_BT is not None:
            # Padding is zero once it is normalised: raw zeros would be far outside of what the VAE knows.
            x_BTPF = x_BTPF.where(mask_BT[:, :, None, None], 0)
        x_BTF = x_BTPF.transpose(1, 2).flatten(0, 1)
        if self.vae is not None:
            return self.vae.encode(x_BTF)
        mean_BLNC = x_BTF[:, :, None]
        return Posterior(mean_BLNC, mean_BLNC.new_tensor(-torch.inf).expand_as(mean_BLNC))

    def decode(self, latent_BLPZ: Tensor) -> Tensor:
        """Raw features [B, T, P, F] of latents [B, L, P, Z]; always in float32, as in bf16 joints tremble by 2 mm."""
        x_BTPF = latent_BLPZ.float()
        if self.vae is not None:
            batch, _, persons, _ = latent_BLPZ.shape
            latent_BLNC = latent_BLPZ.transpose(1, 2).flatten(0, 1).unflatten(-1, (-1, self.vae.config.latent))
            with in_full(self.device):
                x_BTF = self.vae.decode(latent_BLNC)
            x_BTPF = x_BTF.unflatten(0, (batch, persons)).transpose(1, 2)
        return self.normaliser.denormalise(x_BTPF)
