"""The Causal-Skeletal VAE: one person's motion <-> a few latent joints at a quarter of the frame rate.

``SkeletalVae`` is what it shares with SALAD's (salad_vae.py), which is not causal.

Causal: a latent frame depends on its own four frames and those before, a decoded frame on its own latent frame and
those before. Whole sequences are computed in one pass, not chunk by chunk.

Legend: B batch, T frames, L = T / 4 latent frames, F features of a frame, J joints, N latent joints, K contact joints,
P persons, Z = N * C, D = 13 numbers of a joint (position 3, rotation 6, velocity 3, contact 1), C channels,
I channels in, O channels out, G joints of the coarser graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from intermoe.body.features import FeatureLayout
from intermoe.body.skeletons import PoolStage, Skeleton
from intermoe.config import Config
from intermoe.layers.skeletal import JointLinear, Pool, ResidualBlock, Unpool, joint_linear

STRIDE = 4
"""Frames of a latent frame."""


class VaeConfig(Config):
    """Size of the VAE; the paper's has 64 channels throughout."""

    width: int = Field(default=64, ge=1, le=4096, description="channels per joint inside")
    latent: int = Field(default=64, ge=1, le=4096, description="channels per latent joint")
    blocks: int = Field(default=2, ge=1, le=64, description="residual blocks per stage")
    dropout: float = Field(default=0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Posterior:
    """A normal distribution for each latent number: what the encoder makes of a motion.

    Attributes:
        mean_BLNC: its mean [B, L, N, C].
        logvar_BLNC: the logarithm of its variance [B, L, N, C].
    """

    mean_BLNC: Tensor
    logvar_BLNC: Tensor

    def sample(self, noise_BLNC: Tensor) -> Tensor:
        """Latents [B, L, N, C] drawn with the given standard normal noise."""
        return self.mean_BLNC + noise_BLNC * (0.5 * self.logvar_BLNC).exp()

    def of_persons(self, num_persons: int, noise_BLPZ: Tensor | None = None) -> Tensor:
        """Latents [B, L, P, Z] of a posterior whose rows are the persons of motions.

        Args:
            num_persons: P, of a motion.
            noise_BLPZ: standard normal noise that they are drawn with; without it, they are the mean.
        """
        latent_BLNC = self.mean_BLNC
        if noise_BLPZ is not None:
            latent_BLNC = self.sample(noise_BLPZ.transpose(1, 2).flatten(0, 1).view_as(latent_BLNC))
        return latent_BLNC.flatten(2).unflatten(0, (-1, num_persons)).transpose(1, 2)

    def kl(self) -> Tensor:
        """KL divergence of each latent number [B, L, N, C] from the standard normal, in nats.

        Example:
            >>> Posterior(torch.tensor([[[[1.0]]]]), torch.zeros(1, 1, 1, 1)).kl()
            tensor([[[[0.5000]]]])
        """
        return 0.5 * (self.mean_BLNC.square() + self.logvar_BLNC.exp() - 1 - self.logvar_BLNC)


class JointsIn(nn.Module):
    """Features of a frame -> channels of each joint, by a two-layer perceptron of each joint's own."""

    place_JK: Tensor

    def __init__(self, skeleton: Skeleton, width: int) -> None:
        super().__init__()
        self.layout = FeatureLayout.of(skeleton)
        self.first = JointLinear(skeleton.num_joints, 12, width)
        self.contact_weight_KC = nn.Parameter(
            torch.empty(len(skeleton.contacts), width).uniform_(-(13**-0.5), 13**-0.5)
        )
        self.second = JointLinear(skeleton.num_joints, width, width)
        self.register_buffer("place_JK", _contact_places(skeleton), persistent=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """[B, T, F] -> [B, J, T, C]; the root, which has no rotation among the features, gets zeros for it."""
        position_BTJ3, velocity_BTJ3 = (
            x_BTF[..., part].unflatten(-1, (-1, 3)) for part in (self.layout.positions, self.layout.velocities)
        )
        rotation_BTJ6 = F.pad(x_BTF[..., self.layout.rotations].unflatten(-1, (-1, 6)), (0, 0, 1, 0))
        contact_BTJ1 = (x_BTF[..., self.layout.contacts] @ self.place_JK.T)[..., None]
        x_BTJD = torch.cat([position_BTJ3, rotation_BTJ6, velocity_BTJ3, contact_BTJ1], dim=-1)
        contact_J1C = (self.place_JK @ self.contact_weight_KC)[:, None]
        weight_JDC = torch.cat([self.first.weight_JIO, contact_J1C], dim=1)
        hidden_BJTC = joint_linear(x_BTJD.transpose(1, 2), weight_JDC, self.first.bias_JO)
        return self.second(F.silu(hidden_BJTC)).contiguous()


class JointsOut(nn.Module):
    """Channels of each joint -> features of a frame, by a two-layer perceptron of each joint's own."""

    place_JK: Tensor

    def __init__(self, skeleton: Skeleton, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.contact_joints = [contact.joint for contact in skeleton.contacts]
        self.first = JointLinear(skeleton.num_joints, width, width)
        self.second = JointLinear(skeleton.num_joints, width, 12)
        self.contact_weight_KC = nn.Parameter(torch.empty(len(skeleton.contacts), width).uniform_(-bound, bound))
        self.contact_bias_K = nn.Parameter(torch.empty(len(skeleton.contacts)).uniform_(-bound, bound))
        self.register_buffer("place_JK", _contact_places(skeleton), persistent=False)

    def forward(self, x_BJTC: Tensor) -> Tensor:
        """[B, J, T, C] -> [B, T, F]; what comes out as the root's rotation is no feature and is dropped."""
        hidden_BJTC = F.silu(self.first(x_BJTC))
        contact_JC1 = (self.place_JK @ self.contact_weight_KC)[..., None]
        weight_JCD = torch.cat([self.second.weight_JIO, contact_JC1], dim=-1)
        bias_JD = torch.cat([self.second.bias_JO, (self.place_JK @ self.contact_bias_K)[:, None]], dim=-1)
        y_BTJD = joint_linear(hidden_BJTC, weight_JCD, bias_JD).transpose(1, 2)
        position_BTJ3, rotation_BTJ6, velocity_BTJ3, contact_BTJ1 = y_BTJD.split([3, 6, 3, 1], dim=-1)
        parts = position_BTJ3, velocity_BTJ3, rotation_BTJ6[:, :, 1:], contact_BTJ1[:, :, self.contact_joints]
        return torch.cat([part.flatten(2) for part in parts], dim=-1)


def _contact_places(skeleton: Skeleton) -> Tensor:
    """Matrix [J, K] that is 1 where joint j is the k-th that touches the ground."""
    return F.one_hot(torch.tensor([contact.joint for contact in skeleton.contacts]), skeleton.num_joints).T.float()


class VaeKind(NamedTuple):
    """What one VAE over a skeleton has other than the next.

    Attributes:
        joints_in: makes what brings features [B, T, F] to channels of joints [B, J, T, C], of skeleton and width.
        joints_out: makes what brings them back.
        is_causal: whether a frame sees no later one.
        activation: before each convolution.
    """

    joints_in: Callable[[Skeleton, int], nn.Module]
    joints_out: Callable[[Skeleton, int], nn.Module]
    is_causal: bool
    activation: Callable[[Tensor], Tensor]


class _Graph(NamedTuple):
    """The joints of a stage and who is whose neighbour."""

    num_joints: int
    edges: tuple[tuple[int, int], ...]


class _Down(nn.Module):
    """A stage of the encoder: residual blocks, then half the frames and fewer joints."""

    def __init__(self, graph: _Graph, stage: PoolStage, config: VaeConfig, kind: VaeKind) -> None:
        super().__init__()
        self.blocks = _blocks(graph, config, kind)
        self.pool = Pool(graph.num_joints, stage)

    def forward(self, x_BJTC: Tensor, valid_BT: Tensor | None) -> Tensor:
        for block in self.blocks:
            x_BJTC = block(x_BJTC, valid_BT)
        return self.pool(x_BJTC)


class _Up(nn.Module):
    """A stage of the decoder: twice the frames and more joints, then residual blocks."""

    def __init__(self, graph: _Graph, stage: PoolStage, span: int, config: VaeConfig, kind: VaeKind) -> None:
        super().__init__()
        self.unpool = Unpool(graph.num_joints, stage, span if kind.is_causal else None)
        self.blocks = _blocks(graph, config, kind)

    def forward(self, x_BGTC: Tensor, valid_BL: Tensor | None, valid_BT: Tensor | None) -> Tensor:
        x_BJTC = self.unpool(x_BGTC, valid_BL)
        for block in self.blocks:
            x_BJTC = block(x_BJTC, valid_BT)
        return x_BJTC


def _blocks(graph: _Graph, config: VaeConfig, kind: VaeKind) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(*graph, config.width, config.dropout, is_causal=kind.is_causal, activation=kind.activation)
        for _ in range(config.blocks)
    )


class SkeletalVae(nn.Module):
    """Encodes normalised features of one person to a posterior over latents, and decodes latents to features.

    Attributes:
        num_latent_joints: latent joints N of a latent frame.
        latent: numbers Z of a latent frame.
    """

    stride = STRIDE
    encoder_parts = ("joints_in", "down", "to_posterior")
    """What it encodes with; all else decodes."""

    def __init__(self, config: VaeConfig, skeleton: Skeleton, kind: VaeKind) -> None:
        """Build the VAE; ``ValueError`` where the skeleton is not pooled twice.

        Args:
            config: sizes.
            skeleton: whose joints the features describe.
            kind: what sets it apart from others.
        """
        super().__init__()
        if len(skeleton.pools) != 2:
            raise ValueError(f"{skeleton.name} has {len(skeleton.pools)} pooling stages; a stride of {STRIDE} takes 2")
        graphs = [
            _Graph(skeleton.num_joints, skeleton.edges),
            *(_Graph(len(p.groups), p.edges) for p in skeleton.pools),
        ]
        num_latent_joints = graphs[-1].num_joints
        self.config = config
        self.num_latent_joints = num_latent_joints
        self.latent = num_latent_joints * config.latent
        self.is_causal = kind.is_causal
        self.joints_in = kind.joints_in(skeleton, config.width)
        self.down = nn.ModuleList(_Down(graphs[i], skeleton.pools[i], config, kind) for i in (0, 1))
        self.to_posterior = JointLinear(num_latent_joints, config.width, 2 * config.latent)
        # The paper's decoder works on latents of its own width: nothing to adapt there.
        same = config.latent == config.width
        self.from_latent = nn.Identity() if same else JointLinear(num_latent_joints, config.latent, config.width)
        self.up = nn.ModuleList(_Up(graphs[i], skeleton.pools[i], 2 - i, config, kind) for i in (1, 0))
        self.joints_out = kind.joints_out(skeleton, config.width)

    def encode(self, x_BTF: Tensor, mask_BT: Tensor | None = None) -> Posterior:
        """The posterior over latents [B, T // 4, N, C]; the last T mod 4 frames are left out.

        Args:
            x_BTF: normalised features, at least 4 frames.
            mask_BT: bool, the valid frames; all where none is given. Frames that fill no latent frame with valid ones
                change no latent that they do. A causal VAE takes none: there no frame changes a latent before it.
        """
        if x_BTF.shape[1] < STRIDE:
            raise ValueError(f"{x_BTF.shape[1]} frames are fewer than the {STRIDE} of one latent frame")
        valid_BL = None if mask_BT is None else valid_latents(mask_BT)
        x_BJTC = self.joints_in(x_BTF[:, : x_BTF.shape[1] // STRIDE * STRIDE])
        for stage, frames in zip(self.down, (4, 2), strict=True):
            x_BJTC = stage(x_BJTC, self._drawn_out(valid_BL, frames))
        mean_BNLC, logvar_BNLC = self.to_posterior(x_BJTC).to(x_BTF.dtype).chunk(2, dim=-1)
        return Posterior(mean_BNLC.transpose(1, 2), logvar_BNLC.transpose(1, 2))

    def decode(self, z_BLNC: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Normalised features [B, 4L, F] of latents.

        Args:
            z_BLNC: the latents.
            mask_BL: bool, the valid latent frames; all where none is given. The others change no frame of these. A
                causal VAE takes none: there frame t depends on latents up to t // 4 only.
        """
        x_BJTC = self.from_latent(z_BLNC.transpose(1, 2)).contiguous()
        for stage, frames in zip(self.up, (1, 2), strict=True):
            x_BJTC = stage(x_BJTC, self._drawn_out(mask_BL, frames), self._drawn_out(mask_BL, 2 * frames))
        x_BTF: Tensor = self.joints_out(x_BJTC)
        return x_BTF.to(z_BLNC.dtype)

    def decode_frames(self, z_BLNC: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """What ``decode`` makes of latents, with the latent frames that valid frames [B, 4L] begin."""
        return self.decode(z_BLNC, None if mask_BT is None else mask_BT[:, ::STRIDE])

    def _drawn_out(self, valid_BL: Tensor | None, frames: int) -> Tensor | None:
        """The mask of a stage in which a latent frame has so many frames; None where nothing is to be masked."""
        return None if valid_BL is None or self.is_causal else valid_BL.repeat_interleave(frames, dim=1)


class CausalSkeletalVae(SkeletalVae):
    """The VAE of InterMoE.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> vae = CausalSkeletalVae(VaeConfig(width=8, latent=4), SMPL22).eval()
        >>> posterior = vae.encode(torch.zeros(1, 14, 262))
        >>> posterior.mean_BLNC.shape, vae.decode(posterior.mean_BLNC).shape
        (torch.Size([1, 3, 7, 4]), torch.Size([1, 12, 262]))
    """

    joints_in: JointsIn
    joints_out: JointsOut

    def __init__(self, config: VaeConfig, skeleton: Skeleton) -> None:
        super().__init__(config, skeleton, VaeKind(JointsIn, JointsOut, is_causal=True, activation=F.silu))


def valid_latents(mask_BT: Tensor) -> Tensor:
    """Mask [B, T // 4] of the latent frames that are made of valid frames alone."""
    latents = mask_BT.shape[1] // STRIDE
    return mask_BT[:, : latents * STRIDE].unflatten(1, (latents, STRIDE)).all(2)
