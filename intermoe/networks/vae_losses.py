"""The losses of the skeletal VAEs.

Legend: B batch, T frames, L latent frames, F features of a frame, J joints, R = J - 1 joints with a parent, S = T - 1
steps between frames.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from intermoe.body.features import FeatureLayout, Normaliser
from intermoe.body.skeletons import Skeleton
from intermoe.config import Config
from intermoe.networks.vae import STRIDE, Posterior, VaeConfig, valid_latents

# Errors of a few hundredths, centimetres, must still be worth putting right.
_ROUNDED_BELOW = 0.1


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
    rounded_below: float = _ROUNDED_BELOW,
) -> dict[str, Tensor]:
    """The losses of ``VaeLossConfig``, each a sum over valid numbers; ``vae_loss_counts`` says over how many.

    Published: ``reconstruction`` takes all features, ``position``, ``velocity`` and ``rotation`` their group of them,
    each the smooth L1 distance of normalised features (of the kind "heading", the root has no position among them, but
    four numbers that count in the first alone); ``kl`` is the latents' divergence from the standard normal.
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
        rounded_below: the error of a normalised feature below which its smooth L1 distance is a square.
    """
    layout = FeatureLayout.of(skeleton)
    valid_BL = valid_latents(mask_BT)
    valid_BT1 = valid_BL.repeat_interleave(STRIDE, dim=1)[..., None]
    error_BTF = (reconstruction_BTF - x_BTF[:, : valid_BT1.shape[1]]).where(valid_BT1, 0)
    distance_BTF = _smooth_l1(error_BTF, rounded_below)
    error_BTJ3 = _joint_errors(error_BTF * normaliser.std_F, skeleton)
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
    latents = valid_latents(mask_BT).sum()
    groups = {"position": layout.positions, "velocity": layout.velocities, "rotation": layout.rotations}
    groups |= {"rotation_squared": layout.rotations}
    of_joints = latents * STRIDE * 3 * skeleton.num_joints
    return {
        "reconstruction": latents * STRIDE * layout.size,
        "bone": of_joints,
        "displacement": of_joints,
        "kl": latents * len(skeleton.pools[-1].groups) * config.latent,
        "end_effector": latents * STRIDE * 3 * len(skeleton.end_effectors),
        **{name: latents * STRIDE * (group.stop - group.start) for name, group in groups.items()},
    }


def _joint_errors(error_BTF: Tensor, skeleton: Skeleton) -> Tensor:
    """The errors [B, T, J, 3] of joints by those of features, in metres.

    Of the kind "heading" they are in the frame of the root, above whose place on the ground the root itself stands: of
    its own place only the height, the last of its numbers, can be wrong.
    """
    layout = FeatureLayout.of(skeleton)
    error_BTJ3 = error_BTF[..., layout.positions].unflatten(-1, (-1, 3))
    if skeleton.features == "world":
        return error_BTJ3
    root_BT13 = F.pad(error_BTF[..., layout.root][..., -1:, None], (1, 1))
    return torch.cat([root_BT13, error_BTJ3], dim=-2)


def _smooth_l1(error: Tensor, rounded_below: float = _ROUNDED_BELOW) -> Tensor:
    """|e|, but for a constant, rounded off to a square below some error."""
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=rounded_below)
