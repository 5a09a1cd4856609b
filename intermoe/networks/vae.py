"""The Causal-Skeletal VAE: one person's motion <-> a few latent joints at a quarter of the frame rate.

Causal: a latent frame depends on its own four frames and those before, a decoded frame on its own latent frame and
those before. Whole sequences are computed in one pass, not chunk by chunk.

Legend: B batch, T frames, L = T / 4 latent frames, F features of a frame, J joints, N latent joints, K contact joints,
P = 2 persons, Z = N * C, R = J - 1 joints with a parent, S = T - 1 steps between frames, D = 13 numbers of a joint
(position 3, rotation 6, velocity 3, contact 1), C channels, I channels in, O channels out, G joints of the coarser
graph.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from intermoe.body.features import FeatureLayout, Normaliser
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


class _Graph(NamedTuple):
    """The joints of a stage and who is whose neighbour."""

    num_joints: int
    edges: tuple[tuple[int, int], ...]


class _Down(nn.Module):
    """A stage of the encoder: residual blocks, then half the frames and fewer joints."""

    def __init__(self, graph: _Graph, stage: PoolStage, config: VaeConfig) -> None:
        super().__init__()
        self.blocks = _blocks(graph, config)
        self.pool = Pool(graph.num_joints, stage)

    def forward(self, x_BJTC: Tensor) -> Tensor:
        for block in self.blocks:
            x_BJTC = block(x_BJTC)
        return self.pool(x_BJTC)


class _Up(nn.Module):
    """A stage of the decoder: twice the frames and more joints, then residual blocks."""

    def __init__(self, graph: _Graph, stage: PoolStage, span: int, config: VaeConfig) -> None:
        super().__init__()
        self.unpool = Unpool(graph.num_joints, stage, span)
        self.blocks = _blocks(graph, config)

    def forward(self, x_BGTC: Tensor) -> Tensor:
        x_BJTC = self.unpool(x_BGTC)
        for block in self.blocks:
            x_BJTC = block(x_BJTC)
        return x_BJTC


def _blocks(graph: _Graph, config: VaeConfig) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(graph.num_joints, graph.edges, config.width, config.dropout) for _ in range(config.blocks)
    )


class CausalSkeletalVae(nn.Module):
    """Encodes normalised features of one person to a posterior over latents, and decodes latents to features.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> vae = CausalSkeletalVae(VaeConfig(width=8, latent=4), SMPL22).eval()
        >>> posterior = vae.encode(torch.zeros(1, 14, 262))
        >>> posterior.mean_BLNC.shape, vae.decode(posterior.mean_BLNC).shape
        (torch.Size([1, 3, 7, 4]), torch.Size([1, 12, 262]))
    """

    stride = STRIDE

    def __init__(self, config: VaeConfig, skeleton: Skeleton) -> None:
        super().__init__()
        if len(skeleton.pools) != 2:
            raise ValueError(f"{skeleton.name} has {len(skeleton.pools)} pooling stages; a stride of {STRIDE} takes 2")
        graphs = [
            _Graph(skeleton.num_joints, skeleton.edges),
            *(_Graph(len(p.groups), p.edges) for p in skeleton.pools),
        ]
        num_latent_joints = graphs[-1].num_joints
        self.config = config
        self.joints_in = JointsIn(skeleton, config.width)
        self.down = nn.ModuleList(_Down(graphs[i], skeleton.pools[i], config) for i in (0, 1))
        self.to_posterior = JointLinear(num_latent_joints, config.width, 2 * config.latent)
        # The paper's decoder works on latents of its own width: nothing to adapt there.
        same = config.latent == config.width
        self.from_latent = nn.Identity() if same else JointLinear(num_latent_joints, config.latent, config.width)
        self.up = nn.ModuleList(_Up(graphs[i], skeleton.pools[i], 2 - i, config) for i in (1, 0))
        self.joints_out = JointsOut(skeleton, config.width)

    def encode(self, x_BTF: Tensor) -> Posterior:
        """The posterior over latents [B, T // 4, N, C]; the last T mod 4 frames are left out.

        Args:
            x_BTF: normalised features, at least 4 frames. What stands in a frame changes no latent before it, so
                padding at the end changes none that lies wholly within the valid frames.
        """
        if x_BTF.shape[1] < STRIDE:
            raise ValueError(f"{x_BTF.shape[1]} frames are fewer than the {STRIDE} of one latent frame")
        x_BJTC = self.joints_in(x_BTF[:, : x_BTF.shape[1] // STRIDE * STRIDE])
        for stage in self.down:
            x_BJTC = stage(x_BJTC)
        mean_BNLC, logvar_BNLC = self.to_posterior(x_BJTC).to(x_BTF.dtype).chunk(2, dim=-1)
        return Posterior(mean_BNLC.transpose(1, 2), logvar_BNLC.transpose(1, 2))

    def decode(self, z_BLNC: Tensor) -> Tensor:
        """Normalised features [B, 4L, F] of latents [B, L, N, C]; frame t depends on latents up to t // 4 only."""
        x_BJTC = self.from_latent(z_BLNC.transpose(1, 2)).contiguous()
        for stage in self.up:
            x_BJTC = stage(x_BJTC)
        x_BTF: Tensor = self.joints_out(x_BJTC)
        return x_BTF.to(z_BLNC.dtype)


class VaeLossConfig(Config):
    """The weight of each loss of the VAE; the defaults are the published ones, 0 for the four losses that are ours."""

    reconstruction: float = Field(default=1.0, ge=0)
    kl: float = Field(default=0.02, ge=0)
    position: float = Field(default=0.5, ge=0)
    velocity: float = Field(default=0.5, ge=0)
    rotation: float = Field(default=0.5, ge=0)
    bone: float = Field(default=0.0, ge=0)
    displacement: float = Field(default=0.0, ge=0)
    end_effector: float = Field(default=0.0, ge=0)
    rotation_squared: float = Field(default=0.0, ge=0)


def vae_losses(
    x_BTF: Tensor,
    reconstruction_BTF: Tensor,
    posterior: Posterior,
    mask_BT: Tensor,
    *,
    normaliser: Normaliser,
    skeleton: Skeleton,
) -> dict[str, Tensor]:
    """The losses of ``VaeLossConfig``, each a sum over valid numbers; ``vae_loss_counts`` says over how many.

    Published: ``reconstruction`` takes all features, ``position``, ``velocity`` and ``rotation`` their group of them,
    each the smooth L1 distance of normalised features; ``kl`` is the latents' divergence from the standard normal.
    Ours: ``rotation_squared``, the squared error of normalised rotations (the smooth L1 distance settles for the median
    of what is nearly always zero, as the turn of a head is), and three smooth L1 distances of vectors in decimetres:
    ``bone`` of each joint's vector from its parent (the unit of a normalised position is how far people walk, which
    says little of how long their bones are), ``displacement`` of the way that each joint goes from frame to frame
    (which keeps positions from trembling), and ``end_effector`` of the places of hands, feet and head (where people
    touch each other and the ground, and where the errors of all bones above add up). Sums, so that a batch that is
    spread over workers or steps can be divided by the count of the whole.

    Args:
        x_BTF: normalised features; frames beyond the last whole latent frame are not looked at.
        reconstruction_BTF: what the VAE made of them [B, T // 4 * 4, F].
        posterior: what it encoded them to.
        mask_BT: true for valid frames. A latent frame counts, and its four frames with it, where all four are valid.
        normaliser: what normalised the features; it knows how many metres a position's unit is.
        skeleton: tells which features are which, and which joint hangs on which.
    """
    layout = FeatureLayout.of(skeleton)
    valid_BL = _valid_latents(mask_BT)
    valid_BT1 = valid_BL.repeat_interleave(STRIDE, dim=1)[..., None]
    error_BTF = (reconstruction_BTF - x_BTF[:, : valid_BT1.shape[1]]).where(valid_BT1, 0)
    distance_BTF = _smooth_l1(error_BTF)
    error_BTJ3 = (error_BTF * normaliser.std_F)[..., layout.positions].unflatten(-1, (-1, 3))
    error_BTR3 = error_BTJ3[..., 1:, :] - error_BTJ3[..., list(skeleton.parents[1:]), :]
    both_valid_BS11 = (valid_BT1[:, 1:] & valid_BT1[:, :-1])[..., None]
    error_BSJ3 = error_BTJ3.diff(dim=1).where(both_valid_BS11, 0)
    return {
        "reconstruction": distance_BTF.sum(),
        "kl": posterior.kl().where(valid_BL[..., None, None], 0).sum(),
        "position": distance_BTF[..., layout.positions].sum(),
        "velocity": distance_BTF[..., layout.velocities].sum(),
        "rotation": distance_BTF[..., layout.rotations].sum(),
        "bone": _smooth_l1(10 * error_BTR3).sum(),
        "displacement": _smooth_l1(10 * error_BSJ3).sum(),
        "end_effector": _smooth_l1(10 * error_BTJ3[..., list(skeleton.end_effectors), :]).sum(),
        "rotation_squared": error_BTF[..., layout.rotations].square().sum(),
    }


def vae_loss_counts(mask_BT: Tensor, skeleton: Skeleton, config: VaeConfig) -> dict[str, Tensor]:
    """The number of terms of each sum of ``vae_losses``; computed from the mask alone, so it is known beforehand."""
    layout = FeatureLayout.of(skeleton)
    latents = _valid_latents(mask_BT).sum()
    groups = {"position": layout.positions, "velocity": layout.velocities, "rotation": layout.rotations}
    groups |= {"bone": layout.positions, "displacement": layout.positions, "rotation_squared": layout.rotations}
    return {
        "reconstruction": latents * STRIDE * layout.size,
        "kl": latents * len(skeleton.pools[-1].groups) * config.latent,
        "end_effector": latents * STRIDE * 3 * len(skeleton.end_effectors),
        **{name: latents * STRIDE * (group.stop - group.start) for name, group in groups.items()},
    }


def whole_latents(frames_B: Tensor, length: int, stride: int = STRIDE) -> Tensor:
    """Mask [B, length] of the frames that belong to a whole latent frame of a sample's valid frames [B].

    Example:
        >>> whole_latents(torch.tensor([5]), 8).long()
        tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    """
    return torch.arange(length, device=frames_B.device) < (frames_B // stride * stride)[:, None]


def _valid_latents(mask_BT: Tensor) -> Tensor:
    """Mask [B, T // 4] of the latent frames that are made of valid frames alone."""
    latents = mask_BT.shape[1] // STRIDE
    return mask_BT[:, : latents * STRIDE].unflatten(1, (latents, STRIDE)).all(2)


def _smooth_l1(error: Tensor) -> Tensor:
    """|e|, rounded off below 0.1: errors of a few hundredths, centimetres, must still be worth putting right."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.1)
