"""Motion as features to what a denoiser works on, and back: latents of a VAE, or the normalised features themselves.

Legend: B batch, T frames, L latent frames, P persons, F features, N latent joints, C channels of one,
Z = N * C, or F without a VAE.
"""

from typing import overload

import torch
from torch import Tensor, nn

from intermoe.body.features import Normaliser
from intermoe.body.skeletons import Skeleton
from intermoe.errors import UserError
from intermoe.layers.precision import in_full
from intermoe.networks.mld_vae import MldVae
from intermoe.networks.vae import Posterior, SkeletalVae

AnyVae = SkeletalVae | MldVae


class LatentCodec(nn.Module):
    """Encodes raw features of all persons to latents, and decodes latents to raw features.

    Attributes:
        skeleton: whose joints the features describe.
        vae: the VAE; without one, a latent frame is a frame, and its latents are the normalised features.
        stride: frames of a latent frame.
        latent: the numbers Z of a person in a latent frame.
    """

    def __init__(self, vae: AnyVae | None, skeleton: Skeleton, stride: int) -> None:
        """Take what encodes and decodes.

        Args:
            vae: the VAE, if there is one.
            skeleton: whose joints the features describe.
            stride: frames of a latent frame.
        """
        super().__init__()
        self.skeleton = skeleton
        self.normaliser = Normaliser(skeleton.num_features)
        self.vae = vae
        self.stride = stride
        self.latent = skeleton.num_features if vae is None else vae.latent

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.normaliser.mean_F.device

    def require_vae(self) -> AnyVae:
        """The VAE; ``UserError`` where there is none."""
        if self.vae is None:
            allowed = "network = intermoe, mld or salad"
            raise UserError("the network works on motion itself and has no VAE", allowed=allowed)
        return self.vae

    @overload
    def whole_latents(self, frames: int) -> int: ...

    @overload
    def whole_latents(self, frames: Tensor) -> Tensor: ...

    def whole_latents(self, frames: int | Tensor) -> int | Tensor:
        """Latent frames that so many frames fill; a latent frame of MLD's VAE may be of fewer frames than it can."""
        return -(-frames // self.stride) if isinstance(self.vae, MldVae) else frames // self.stride

    @overload
    def whole_frames(self, frames: int) -> int: ...

    @overload
    def whole_frames(self, frames: Tensor) -> Tensor: ...

    def whole_frames(self, frames: int | Tensor) -> int | Tensor:
        """Of so many frames those that are in a latent frame which they fill."""
        return frames if isinstance(self.vae, MldVae) else frames // self.stride * self.stride

    def latent_mask(self, mask_BT: Tensor) -> Tensor:
        """The latent frames [B, L] that valid frames fill."""
        length = self.whole_latents(mask_BT.shape[1])
        if isinstance(self.vae, MldVae):
            return mask_BT[:, :: self.stride]
        return mask_BT[:, : length * self.stride].unflatten(1, (length, self.stride)).all(dim=2)

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
        return latent_BLPZ.where(self.latent_mask(mask_BT)[:, :, None, None], 0)

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
            return self.vae.encode(
                x_BTF, None if mask_BT is None else mask_BT.repeat_interleave(x_BTPF.shape[2], dim=0)
            )
        mean_BLNC = x_BTF[:, :, None]
        return Posterior(mean_BLNC, mean_BLNC.new_tensor(-torch.inf).expand_as(mean_BLNC))

    def decode(self, latent_BLPZ: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """Raw features [B, T, P, F] of latents [B, L, P, Z]; always in float32, as in bf16 joints tremble by 2 mm.

        Args:
            latent_BLPZ: the latents.
            frames_B: frames that each motion is to have; all that its latents can hold where none is given. Beyond them
                the features mean nothing.
        """
        x_BTPF = latent_BLPZ.float()
        if self.vae is not None:
            batch, length, persons, _ = latent_BLPZ.shape
            latent_BLNC = latent_BLPZ.transpose(1, 2).flatten(0, 1).unflatten(-1, (self.vae.num_latent_joints, -1))
            mask_BT = None
            if frames_B is not None:
                place_T = torch.arange(length * self.stride, device=self.device)
                mask_BT = (place_T < frames_B.to(self.device)[:, None]).repeat_interleave(persons, dim=0)
            with in_full(self.device):
                x_BTF = self.vae.decode_frames(latent_BLNC, mask_BT)
            x_BTPF = x_BTF.unflatten(0, (batch, persons)).transpose(1, 2)
        return self.normaliser.denormalise(x_BTPF)
