"""The numbers that describe a motion to the networks: from joints to features and back.

A person-frame is positions, velocities (next - current), local rotations in 6D and ground contacts, in this order; for
InterHuman's 22 joints that makes 66 + 66 + 126 + 4 = 262. Both persons stand in the canonical frame of person 1's
first frame. Everything works on whole padded batches; padding never reaches a valid number.

That is the kind "world". Features of the kind "heading" come from a data set as they are (see heading_features.py);
here they are only read.

Legend: B batch, T frames, P persons, J joints, R = J - 1 joints with a local rotation, C numbers of a joint, K
contacts, F features of a person-frame. Metres; y up.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Self

import torch
from torch import Tensor, nn

from intermoe.body.feature_layout import FeatureLayout
from intermoe.body.heading_features import heading_features, heading_joints, heading_rotations
from intermoe.body.rotations import matrix_about_axis
from intermoe.body.skeletons import Skeleton

CONTACT_SQUARED_STEP = 1e-3
"""A joint rests where it moves less than this between two frames: squared metres, as the published code has it."""
# A feature whose standard deviation is below this does not vary: dividing by it would only magnify rounding.
_SMALLEST_STD = 1e-3


def canonicalise(position_BTPJ3: Tensor, frames_B: Tensor | None, skeleton: Skeleton) -> Tensor:
    """Move both persons into the canonical frame of person 1.

    Person 1's root starts above the origin and faces +z. One yaw and one shift along the ground serve both persons, so
    that they keep their places relative to each other; in height each person rests on its lowest point over the
    valid frames. (Making each person canonical alone and then placing person 2 by the relative yaw and offset, as
    published, is this same motion.)

    Args:
        position_BTPJ3: world positions [B, T, 2, J, 3], metres; any value, even NaN, beyond the valid frames.
        frames_B: number of valid frames [B]; None where all are valid.
        skeleton: names the hips that tell where a person faces.

    Returns:
        Positions [B, T, 2, J, 3], zero beyond the valid frames.
    """
    lowest_BPJ3 = position_BTPJ3.amin(1) if frames_B is None else where_valid(position_BTPJ3, frames_B, inf).amin(1)
    root_B3 = position_BTPJ3[:, 0, 0, 0]
    turn_B33 = turn_to_front(position_BTPJ3[:, 0, 0], skeleton)

    x_BP, z_BP = (root_B3[:, None, axis].expand(-1, position_BTPJ3.shape[2]) for axis in (0, 2))
    origin_BP3 = torch.stack([x_BP, lowest_BPJ3[..., 1].amin(2), z_BP], dim=-1)
    moved_BTPJ3 = _turned(_for_each_joint(torch.sub, position_BTPJ3, origin_BP3), turn_B33)
    return moved_BTPJ3 if frames_B is None else where_valid(moved_BTPJ3, frames_B, 0.0)


def _turned(position_BTPJ3: Tensor, turn_B33: Tensor) -> Tensor:
    """The product with turns about y, number by number: one of matrices so small takes four times as long."""
    cos_B, sin_B = turn_B33[:, 0, 0], turn_B33[:, 0, 2]
    straight_B3 = torch.stack([cos_B, torch.ones_like(cos_B), cos_B], dim=-1)
    across_B3 = torch.stack([-sin_B, torch.zeros_like(sin_B), sin_B], dim=-1)
    turned_BTPJ3 = _for_each_joint(torch.mul, position_BTPJ3, straight_B3[:, None])
    across_BTPJ3 = _for_each_joint(torch.mul, position_BTPJ3, across_B3[:, None])
    turned_BTPJ3[..., 0] += across_BTPJ3[..., 2]
    turned_BTPJ3[..., 2] += across_BTPJ3[..., 0]
    return turned_BTPJ3


def _for_each_joint(
    operation: Callable[[Tensor, Tensor], Tensor], position_BTPJ3: Tensor, number_BP3: Tensor
) -> Tensor:
    """An operation with three numbers per person, over all joints in one run: runs of three are slow."""
    repeated_B1PF = number_BP3.repeat(1, 1, position_BTPJ3.shape[3])[:, None]
    return operation(position_BTPJ3.flatten(-2), repeated_B1PF).view_as(position_BTPJ3)


def turn_to_front(joints_BJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """The turn [B, 3, 3] about y after which persons who stand so face +z."""
    across_B3 = joints_BJ3[:, skeleton.right_hip] - joints_BJ3[:, skeleton.left_hip]
    # y x across = (across_z, 0, -across_x) is where the person faces: this angle away from +z, about y.
    return matrix_about_axis("Y", -torch.atan2(across_B3[:, 2], -across_B3[:, 0]))


def motion_features(
    position_BTPJ3: Tensor, rotation_BTPR6: Tensor, frames_B: Tensor | None, skeleton: Skeleton
) -> tuple[Tensor, Tensor]:
    """Features of padded motions; of the kind "world" in the canonical frame, else see ``heading_features``.

    A velocity needs the next frame, so a motion of n frames has n - 1 frames of features. Contact: the joint lies below
    its height of ``skeleton.contacts`` and moves less than sqrt(0.001) metres to the next frame.

    Args:
        position_BTPJ3: world positions [B, T, P, J, 3], metres.
        rotation_BTPR6: local rotations [B, T, P, J - 1, 6]; taken as they are, or not at all for the kind "heading".
        frames_B: number of valid frames [B]; None where all are valid.
        skeleton: whose joints these are.

    Returns:
        Features [B, T - 1, P, F], zero beyond the valid ones, and the number of valid ones [B].
    """
    if skeleton.features == "heading":
        return _heading_features(position_BTPJ3, frames_B, skeleton)
    position_BTPJ3 = canonicalise(position_BTPJ3, frames_B, skeleton)
    current_BTPJ3 = position_BTPJ3[:, :-1]
    velocity_BTPJ3 = position_BTPJ3[:, 1:] - current_BTPJ3

    joints_K = torch.tensor([contact.joint for contact in skeleton.contacts], device=current_BTPJ3.device)
    height_K = current_BTPJ3.new_tensor([contact.height for contact in skeleton.contacts])
    slow_BTPK = velocity_BTPJ3.index_select(-2, joints_K).square().sum(-1) < CONTACT_SQUARED_STEP
    low_BTPK = current_BTPJ3.index_select(-2, joints_K)[..., 1] < height_K

    features_BTPF = torch.cat(
        [
            current_BTPJ3.flatten(-2),
            velocity_BTPJ3.flatten(-2),
            rotation_BTPR6[:, :-1].flatten(-2),
            (slow_BTPK & low_BTPK).to(current_BTPJ3.dtype),
        ],
        dim=-1,
    )
    if frames_B is None:
        return features_BTPF, torch.full(features_BTPF.shape[:1], features_BTPF.shape[1], device=features_BTPF.device)
    frames_B = (frames_B - 1).clamp(min=0)
    return where_valid(features_BTPF, frames_B, 0.0), frames_B


def _heading_features(position_BTPJ3: Tensor, frames_B: Tensor | None, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Those of each motion at its own length, as a heading is smoothed up to the motion's ends."""
    batch, length, num_persons = position_BTPJ3.shape[:3]
    frames = [length] * batch if frames_B is None else frames_B.tolist()
    features_BTPF = position_BTPJ3.new_zeros(batch, length - 1, num_persons, skeleton.num_features)
    for row, valid in enumerate(frames):
        if valid > 1:
            features_PTF = heading_features(position_BTPJ3[row, :valid].transpose(0, 1), skeleton)
            features_BTPF[row, : valid - 1] = features_PTF.transpose(0, 1)
    return features_BTPF, torch.tensor([max(0, valid - 1) for valid in frames], device=position_BTPJ3.device)


def exchange_persons(features_BTPF: Tensor, exchanged_B: Tensor, skeleton: Skeleton) -> Tensor:
    """Features of the same motions with the persons in each other's place, in the frame of the new first person.

    Args:
        features_BTPF: features of both persons; the first frame of each motion is valid.
        exchanged_B: bool, the motions that change; the others stay as they are.
        skeleton: whose joints these are.

    Returns:
        Features [B, T, 2, F].

    Raises:
        ValueError: features of the skeleton are not of the kind "world".
    """
    _check_world(skeleton, "those of two persons")
    layout = FeatureLayout.of(skeleton)
    other_BTPF = features_BTPF.flip(2)
    joints_BTPJ3 = joints_from_features(other_BTPF, skeleton)
    turn_B33 = turn_to_front(joints_BTPJ3[:, 0, 0], skeleton)
    origin_B3 = joints_BTPJ3[:, 0, 0, 0] * joints_BTPJ3.new_tensor((1.0, 0.0, 1.0))
    position_BTPJ3 = (joints_BTPJ3 - origin_B3[:, None, None, None]) @ turn_B33[:, None, None].mT
    velocity_BTPJ3 = other_BTPF[..., layout.velocities].unflatten(-1, (-1, 3)) @ turn_B33[:, None, None].mT
    rest_BTPF = other_BTPF[..., layout.rotations.start :]
    turned_BTPF = torch.cat([position_BTPJ3.flatten(-2), velocity_BTPJ3.flatten(-2), rest_BTPF], dim=-1)
    return torch.where(exchanged_B.to(features_BTPF.device)[:, None, None, None], turned_BTPF, features_BTPF)


def joints_from_features(features_F: Tensor, skeleton: Skeleton) -> Tensor:
    """Joint positions [..., J, 3] in metres that the features [..., F] hold; of the kind "heading" [..., T, F]."""
    if skeleton.features == "heading":
        return heading_joints(features_F, skeleton)
    return features_F[..., FeatureLayout.of(skeleton).positions].unflatten(-1, (skeleton.num_joints, 3))


def rotations_from_features(features_F: Tensor, skeleton: Skeleton) -> Tensor:
    """Local rotations [..., J - 1, 6] of joints 1..J-1 in 6D that the features [..., F] hold.

    Of the kind "heading" they are found from the joints, and the features are [..., T, F].
    """
    if skeleton.features == "heading":
        return heading_rotations(features_F, skeleton)
    return features_F[..., FeatureLayout.of(skeleton).rotations].unflatten(-1, (skeleton.num_joints - 1, 6))


def contacts_from_features(features_F: Tensor, skeleton: Skeleton) -> Tensor:
    """How much each of the skeleton's contacts touches the ground [..., K], from 0 to 1, by the features [..., F]."""
    return features_F[..., FeatureLayout.of(skeleton).contacts].clamp(0, 1)


def _check_world(skeleton: Skeleton, what: str) -> None:
    if skeleton.features != "world":
        raise ValueError(f"features of {skeleton.name} are of the kind {skeleton.features!r}, not {what}")


class Normaliser(nn.Module):
    """Brings every feature to mean 0 and standard deviation 1 over the training split, the same for all persons.

    Mean and deviation are buffers: they travel with the weights of the network that was trained on them.

    Example:
        >>> normaliser = Normaliser.from_moments(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0]))
        >>> normaliser.normalise(torch.tensor([5.0, 6.0]))
        tensor([2., 1.])
    """

    mean_F: Tensor
    std_F: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("std_F", torch.ones(num_features))

    @classmethod
    def from_moments(cls, mean_F: Tensor, std_F: Tensor) -> Self:
        """A normaliser with that mean [F] and standard deviation [F]; a deviation below 0.001 counts as 1."""
        normaliser = cls(len(mean_F))
        normaliser.mean_F.copy_(mean_F)
        normaliser.std_F.copy_(std_F.where(std_F >= _SMALLEST_STD, 1.0))
        return normaliser

    def normalise(self, features_F: Tensor) -> Tensor:
        """Normalised features [..., F]: (x - mean) / std."""
        return (features_F - self.mean_F) / self.std_F

    def denormalise(self, features_F: Tensor) -> Tensor:
        """Features [..., F] in metres again: x std + mean."""
        return features_F * self.std_F + self.mean_F


def where_valid(x_BT: Tensor, frames_B: Tensor, padding: float) -> Tensor:
    """The same [B, T, ...] with another value beyond the valid frames [B]."""
    valid_BT = torch.arange(x_BT.shape[1], device=frames_B.device) < frames_B[:, None]
    return x_BT.where(valid_BT[(...,) + (None,) * (x_BT.dim() - 2)], padding)


# The image of R in the mirror x -> -x is M R M with M = diag(-1, 1, 1): R01, R02, R10 and R20 change their sign.
# 6D holds R00, R01, R10, R11, R20, R21.
_SIXD_SIGNS = (1.0, -1.0, -1.0, 1.0, -1.0, 1.0)


def mirror_motion(position_J3: Tensor, rotation_R6: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """The motion as a mirror at the plane x = 0 shows it.

    Args:
        position_J3: joint positions [..., J, 3].
        rotation_R6: local rotations of joints 1..J-1 in 6D [..., J - 1, 6].
        skeleton: says which joint takes whose place.

    Returns:
        Positions and rotations of the same shapes.
    """
    order_J = torch.tensor(skeleton.mirrored, device=position_J3.device)
    position_J3 = _signed(position_J3.index_select(-2, order_J), (-1.0, 1.0, 1.0))
    rotation_R6 = _signed(rotation_R6.index_select(-2, order_J[1:] - 1), _SIXD_SIGNS)
    return position_J3, rotation_R6


def _signed(x_JC: Tensor, signs_C: Sequence[float]) -> Tensor:
    """The same [..., J, C] with signs for the numbers of each joint, in one run over all joints."""
    return (x_JC.flatten(-2) * x_JC.new_tensor(signs_C).repeat(x_JC.shape[-2])).view_as(x_JC)
