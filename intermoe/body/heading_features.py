"""HumanML3D's 263 numbers of a person in a frame, there and back.

Each frame stands in the frame of the root's heading: the way that the body faces, smoothed over two seconds. In the
order of ``FeatureLayout``:

    root         half of the turn to the next frame's heading about y, negative to the left, in radians; the root's step
                 to the next frame along x and z, in the next frame's heading; the root's height
    positions    of the other joints, with the heading taken out; x and z relative to the root, y above the floor
    rotations    of the other joints: two columns, one after the other, of the turn against the joint before it
    velocities   of all joints, the step to the next frame in this frame's heading
    contacts     1 where the joint moves less than sqrt(0.002) metres to the next frame, however high it is

Facts of the data set's processing (github.com/EricGuo5513/HumanML3D, motion_representation.ipynb and
common/skeleton.py) that nobody would guess: the heading of a frame is taken from the shoulders *less* the hips, as its
inverse kinematics exchanges left and right of the hips, while the first frame is turned to +z by shoulders *plus* hips.
A bone's rotation is the smallest turn from an axis of the body (``_AXES``) to the bone as it lies in the world, so it
holds no twist, and those of the first bones of a limb change with the heading. So these rotations are read by nobody
here: ``heading_rotations`` finds a body's own from the positions.

One thing is done better: where the heading passes -z, the published code gives the turn of that one frame the wrong
sign, so that its own joints, read back, face elsewhere from there on.

Legend: T frames, J joints, R = J - 1 joints with a local rotation, F features, C contacts, K
frames under the window that smooths.
"""

import torch
from torch import Tensor

from intermoe.body.feature_layout import FeatureLayout
from intermoe.body.kinematics import fit_rotations
from intermoe.body.rotations import matrix_about_axis, sixd_from_matrix
from intermoe.body.skeletons import Skeleton

CONTACT_SQUARED_STEP = 2e-3
"""A joint rests where it moves less than this between two frames: squared metres."""
# Frames at 20 per second; the window ends at four deviations, as scipy's does.
_SMOOTHING = 20
_WINDOW = 4 * _SMOOTHING
# The axes that the rotations turn to the bones, x to the person's left; mirrored on the right side.
_AXES = {
    "hip": (1, 0, 0), "knee": (0, -1, 0), "ankle": (0, -1, 0), "foot": (0, 0, 1),
    "spine1": (0, 1, 0), "spine2": (0, 1, 0), "spine3": (0, 1, 0), "neck": (0, 1, 0), "head": (0, 0, 1),
    "collar": (1, 0, 0), "shoulder": (0, -1, 0), "elbow": (0, -1, 0), "wrist": (0, -1, 0),
}  # fmt: skip
# Limbs whose first rotation counts from the heading, wherever they hang.
_FIRST_OF_LIMB = ("hip", "spine1", "collar")


def heading_features(position_TJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """The features that HumanML3D's processing makes of one person's motion.

    The bones are taken as they are (the data set first gives everybody those of one person).

    Args:
        position_TJ3: joints [..., T, J, 3] at 20 frames per second, metres, y up; the lowest joint of all frames is put
            on the floor. Where and which way the motion begins changes nothing.
        skeleton: of the kind "heading".

    Returns:
        Features [..., T - 1, F]: those of a frame hold the step to the next.
    """
    floor = position_TJ3[..., 1].amin((-2, -1))[..., None, None]
    position_TJ3 = position_TJ3 - torch.stack([torch.zeros_like(floor), floor, torch.zeros_like(floor)], dim=-1)
    hips_T3, shoulders_T3 = (_across(position_TJ3, part, skeleton) for part in ("hip", "shoulder"))
    first = _yaw(_ahead(hips_T3 + shoulders_T3)[..., :1, :])
    position_TJ3 = _turned(position_TJ3, -first[..., None])
    yaw_T = _yaw(_smoothed(_ahead(_turned(shoulders_T3 - hips_T3, -first))))

    current_TJ3, step_TJ3 = position_TJ3[..., :-1, :, :], position_TJ3.diff(dim=-3)
    turn_T = yaw_T.diff(dim=-1)
    turn_T = turn_T - 2 * torch.pi * (turn_T / (2 * torch.pi)).round()
    root_step_T3 = _turned(step_TJ3[..., 0, :], -yaw_T[..., 1:])
    origin_T13 = current_TJ3[..., :1, :] * current_TJ3.new_tensor([1.0, 0.0, 1.0])
    local_TJ3 = _turned(current_TJ3 - origin_T13, -yaw_T[..., :-1, None])
    contacts = [contact.joint for contact in skeleton.contacts]
    still_TC = step_TJ3[..., contacts, :].square().sum(-1) < CONTACT_SQUARED_STEP
    parts = [
        (-turn_T / 2)[..., None],
        root_step_T3[..., (0, 2)],
        current_TJ3[..., 0, 1:2],
        local_TJ3[..., 1:, :].flatten(-2),
        _bone_turns(position_TJ3, yaw_T, skeleton)[..., :-1, :, :].flatten(-2),
        _turned(step_TJ3, -yaw_T[..., :-1, None]).flatten(-2),
        still_TC.to(position_TJ3.dtype),
    ]
    return torch.cat(parts, dim=-1)


def heading_joints(features_TF: Tensor, skeleton: Skeleton) -> Tensor:
    """The joints [..., T, J, 3] in metres that features [..., T, F] of the kind "heading" hold.

    Exact: of the positions and the root, from the first frame on, which has the root above the origin and faces +z. A
    frame depends on those before it and on no later one, so padding at the end changes nothing.
    """
    layout = FeatureLayout.of(skeleton)
    half_turn_T, x_T, z_T, height_T = features_TF[..., layout.root].unbind(-1)
    yaw_T = -2 * _after_0(half_turn_T[..., :-1].cumsum(-1))
    # A step stands in the heading of the frame that it leads to.
    step_T3 = _turned(torch.stack([x_T, torch.zeros_like(x_T), z_T], dim=-1)[..., :-1, :], yaw_T[..., 1:])
    x_T, z_T = (_after_0(step_T3[..., axis].cumsum(-1)) for axis in (0, 2))
    place_T3 = torch.stack([x_T, torch.zeros_like(x_T), z_T], dim=-1)
    local_TR3 = features_TF[..., layout.positions].unflatten(-1, (skeleton.num_joints - 1, 3))
    others_TR3 = _turned(local_TR3, yaw_T[..., None]) + place_T3[..., None, :]
    root_T3 = torch.stack([x_T, height_T, z_T], dim=-1)
    return torch.cat([root_T3[..., None, :], others_TR3], dim=-2)


def heading_rotations(features_TF: Tensor, skeleton: Skeleton) -> Tensor:
    """Local rotations [..., T, J - 1, 6] of joints 1..J-1 in 6D, with which bones of a T-pose reach the joints.

    Features of the kind "heading" hold none that could pose a body. These come from the positions, each frame alone:
    the smallest turns from the T-pose, and none at the ends of the body.

    Args:
        features_TF: [..., T, F].
        skeleton: gives the directions of the bones in the T-pose; their lengths are those of the frame.
    """
    position_TJ3 = heading_joints(features_TF, skeleton)
    rest_J3 = torch.nn.functional.normalize(position_TJ3.new_tensor(skeleton.rest_offsets), dim=-1)
    bone_TJ3 = position_TJ3 - position_TJ3[..., _parents(skeleton), :]
    offset_TJ3 = rest_J3 * bone_TJ3.norm(dim=-1, keepdim=True)
    still_TR6 = position_TJ3.new_tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]).expand(*position_TJ3[..., 1:, 0].shape, 6)
    _, rotation_TJ33 = fit_rotations(position_TJ3, still_TR6, skeleton, offset_TJ3)
    return sixd_from_matrix(rotation_TJ33[..., 1:, :, :])


def _across(position_TJ3: Tensor, part: str, skeleton: Skeleton) -> Tensor:
    """From the left to the right of two joints [..., T, 3]."""
    left, right = (skeleton.index(f"{side}_{part}") for side in ("left", "right"))
    return position_TJ3[..., right, :] - position_TJ3[..., left, :]


def _ahead(across_T3: Tensor) -> Tensor:
    """Where a body faces [..., T, 3] whose left and right lie so; the shorter, the more these lie above each other."""
    x_T, _, z_T = torch.nn.functional.normalize(across_T3, dim=-1).unbind(-1)
    return torch.stack([z_T, torch.zeros_like(x_T), -x_T], dim=-1)


def _yaw(ahead_T3: Tensor) -> Tensor:
    """Angle [..., T] of a direction from +z, positive to the left."""
    return torch.atan2(ahead_T3[..., 0], ahead_T3[..., 2])


def _smoothed(ahead_T3: Tensor) -> Tensor:
    """The mean over the frames around each, with the weights of a normal distribution; the ends are held."""
    frames, reach_K = ahead_T3.shape[-2], torch.arange(-_WINDOW, _WINDOW + 1, device=ahead_T3.device)
    weight_K = torch.exp(-(reach_K.to(ahead_T3.dtype) / _SMOOTHING).square() / 2)
    frame_TK = (torch.arange(frames, device=ahead_T3.device)[:, None] + reach_K).clamp(0, frames - 1)
    return (ahead_T3[..., frame_TK, :] * (weight_K / weight_K.sum())[:, None]).sum(-2)


def _turned(vector_T3: Tensor, yaw_T: Tensor) -> Tensor:
    """Vectors [..., 3] turned about y by angles [...]."""
    x, y, z = vector_T3.unbind(-1)
    cos, sin = yaw_T.cos(), yaw_T.sin()
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)


def _bone_turns(position_TJ3: Tensor, yaw_T: Tensor, skeleton: Skeleton) -> Tensor:
    """Rotations [..., T, J - 1, 6] as the data set has them: two columns, one after the other."""
    bone_TJ3 = torch.nn.functional.normalize(position_TJ3 - position_TJ3[..., _parents(skeleton), :], dim=-1)
    # The first takes the heading out; the turns of the bones leave it in.
    turns = [matrix_about_axis("Y", -yaw_T)]
    local = []
    for joint, name in list(enumerate(skeleton.joint_names))[1:]:
        part = name.removeprefix("left_").removeprefix("right_")
        side = -1.0 if name.startswith("right_") else 1.0
        axis_3 = position_TJ3.new_tensor(_AXES[part]) * position_TJ3.new_tensor([side, 1.0, 1.0])
        turns.append(_smallest_turn(axis_3, bone_TJ3[..., joint, :]))
        before = 0 if part in _FIRST_OF_LIMB else skeleton.parents[joint]
        local.append(turns[before].mT @ turns[joint])
    return torch.stack(local, dim=-3)[..., :2].mT.flatten(-2)


def _smallest_turn(from_3: Tensor, to_T3: Tensor) -> Tensor:
    """The smallest turn [..., 3, 3] from one unit vector to others [..., 3]; a half turn is about any axis."""
    normal_T3 = torch.linalg.cross(from_3.expand_as(to_T3), to_T3)
    cos_T = (from_3 * to_T3).sum(-1)[..., None, None]
    x, y, z = normal_T3.unbind(-1)
    zero = torch.zeros_like(x)
    cross_T33 = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    eye_33 = torch.eye(3, dtype=to_T3.dtype, device=to_T3.device)
    square_T33 = cross_T33 @ cross_T33
    is_half_T = 1 + cos_T < 1e-6
    turn_T33 = eye_33 + cross_T33 + square_T33 / torch.where(is_half_T, 1.0, 1 + cos_T)
    across_3 = torch.linalg.cross(from_3, from_3.roll(1))
    return torch.where(is_half_T, 2 * across_3[:, None] * across_3 - eye_33, turn_T33)


def _parents(skeleton: Skeleton) -> list[int]:
    """Parent of each joint; the root's is itself."""
    return [max(parent, 0) for parent in skeleton.parents]


def _after_0(value_T: Tensor) -> Tensor:
    """The same after a 0 [..., T + 1]."""
    return torch.nn.functional.pad(value_T, (1, 0))
