"""Settling: from what a network gives to a motion that a body with bones of constant length can make.

Legend: T frames, J joints, R = J - 1 joints with a local rotation (all but the root), K joints that touch the ground,
N joints or points, D numbers of one; the other leading dimensions are free (batch, persons).
"""

import torch
from torch import Tensor

from intermoe.body.foot_lock import lock_feet
from intermoe.body.kinematics import (
    PosedBody,
    fit_rotations,
    forward_kinematics,
    rest_offsets,
    root_orientation,
    within_frames,
)
from intermoe.body.rotations import axis_angle_from_matrix, matrix_from_axis_angle
from intermoe.body.skeletons import Skeleton

# Frames before and after, and their weights in a smoothed frame, by frames per second: in time they reach equally far,
# with a standard deviation of 36 and 35 ms.
_SMOOTHING = {
    30: {-2: 1 / 12, -1: 3 / 12, 0: 4 / 12, 1: 3 / 12, 2: 1 / 12},
    20: {-1: 1 / 4, 0: 2 / 4, 1: 1 / 4},
}

# Of what a network gives: a joint is off by a centimetre where a rotation is off by a little over two degrees.
_PER_RADIAN = 0.25

# How far joints have to hold a body's orientation (``root_orientation``): those of recorded motion do by 0.9 or more,
# those of a body that turns round in a frame by 0.3 or less.
_SURE = 0.4


def settled_body(
    position_TJ3: Tensor,
    rotation_TR6: Tensor,
    skeleton: Skeleton,
    frames: Tensor | None = None,
    *,
    contact_TK: Tensor | None = None,
    offset_J3: Tensor | None = None,
) -> PosedBody:
    """A motion that a body with bones of constant length can make, as near as may be to a given one.

    A network's joints and local rotations agree only roughly, its bones breathe, and a small step remains where one
    latent frame ends and the next begins. Settling smooths over five frames at 30 frames a second, three at 20 (what
    moves once a second keeps 97% of its swing, what shakes with latent frames of four at 30 frames a second 17%) and
    fits rotations of a body whose bones keep their length, left and right alike. Where it is open which way a body
    faces, it turns evenly from how it stood to how it will stand. Feet that touch the ground stop sliding on it
    (:func:`lock_feet`). The ground is put where the feet mostly come lowest: at the 5th percentile, over the frames, of
    the lowest joint. The result is what its BVH holds, so that every form of a generated motion shows the same.

    Args:
        position_TJ3: joints [..., T, J, 3], finite, y up.
        rotation_TR6: local 6D of joints 1..J-1 [..., T, J - 1, 6], finite.
        skeleton: the tree, and how many frames make a second.
        frames: int64 [...], frames of each motion, where motions of several lengths stand in one array; what stands
            behind them is not looked at. Without it, all frames are the motion's.
        contact_TK: how sure it is that each of the skeleton's contacts touches the ground, [..., T, K] from 0 to 1;
            without it, no foot is held. Where features are of the kind "heading" they say that it rests, however high:
            there only what is low counts.
        offset_J3: T-pose [..., J, 3] of the bodies, where it is known.

    Returns:
        The body and its motion, with the T-pose [..., 1, J, 3]; the ground is at y = 0. Behind a motion's frames it
        means nothing.
    """
    position_TJ3, rotation_TR6 = (_smooth(x_TND, frames, skeleton.fps) for x_TND in (position_TJ3, rotation_TR6))
    if offset_J3 is None:
        offset_J3 = rest_offsets(position_TJ3, rotation_TR6, skeleton, frames)
        # A body's two sides are alike: what a bone and its mirror image measure differently is error.
        length_J = offset_J3.norm(dim=-1, keepdim=True)
        both_J = (length_J + length_J[..., list(skeleton.mirrored), :]) / 2
        offset_J3 = offset_J3 * (both_J / length_J.clamp(min=1e-9))
    offset_J3 = offset_J3[..., None, :, :]
    turn_T33, sure_T = root_orientation(position_TJ3, rotation_TR6, skeleton, offset_J3)
    if frames is not None:
        sure_T = sure_T * within_frames(frames, sure_T.shape[-1])
    root_T3, rotation_TJ33 = fit_rotations(
        position_TJ3,
        rotation_TR6,
        skeleton,
        offset_J3,
        per_radian=_PER_RADIAN,
        root_33=_between_sure_frames(turn_T33, sure_T > _SURE),
    )
    if contact_TK is not None:
        if skeleton.features == "heading":
            contact_TK = contact_TK * _low(position_TJ3, skeleton, frames)
        root_T3, rotation_TJ33 = lock_feet(root_T3, rotation_TJ33, offset_J3, contact_TK, skeleton, frames=frames)
    settled_TJ3, _ = forward_kinematics(root_T3, rotation_TJ33, offset_J3, skeleton.parents)
    ground = ground_height(settled_TJ3, frames)
    root_T3 = torch.stack([root_T3[..., 0], root_T3[..., 1] - ground[..., None], root_T3[..., 2]], dim=-1)
    return PosedBody(offset_J3, root_T3, rotation_TJ33)


def _between_sure_frames(turn_T33: Tensor, is_sure_T: Tensor) -> Tensor:
    """Orientations [..., T, 3, 3] that turn evenly, about a fixed axis, from one frame that is sure to the next.

    Before the first and behind the last of these they stay; where no frame is sure, all are left as they are.
    """
    place_T = torch.arange(turn_T33.shape[-3], device=turn_T33.device).expand(is_sure_T.shape)
    last = place_T.shape[-1] - 1
    before_T = place_T.where(is_sure_T, -1).cummax(dim=-1).values
    after_T = last - (last - place_T).where(is_sure_T, -1).flip(-1).cummax(dim=-1).values.flip(-1)
    first_T, next_T = before_T.where(before_T >= 0, after_T).clamp(max=last), after_T.where(after_T <= last, before_T)
    from_T33, to_T33 = (turn_T33.take_along_dim(x_T[..., None, None], dim=-3) for x_T in (first_T, next_T.clamp(min=0)))
    share_T = (place_T - first_T) / (next_T - first_T).clamp(min=1)
    way_T3 = axis_angle_from_matrix(from_T33.mT @ to_T33)
    between_T33 = from_T33 @ matrix_from_axis_angle(share_T.clamp(0, 1)[..., None] * way_T3)
    stays_T = is_sure_T | ~is_sure_T.any(dim=-1, keepdim=True)
    return turn_T33.where(stays_T[..., None, None], between_T33)


def ground_height(position_TJ3: Tensor, frames: Tensor | None = None) -> Tensor:
    """Height of the ground [...] under bodies: the 5th percentile, over the frames, of the lowest joint.

    Args:
        position_TJ3: joints [..., T, J, 3], y up.
        frames: int64 [...], frames of each motion; all where none are given.
    """
    lowest_T = position_TJ3[..., 1].amin(dim=-1)
    if frames is not None:
        lowest_T = lowest_T.where(within_frames(frames, lowest_T.shape[-1]), torch.nan)
    return lowest_T.nanquantile(0.05, dim=-1)


def _low(position_TJ3: Tensor, skeleton: Skeleton, frames: Tensor | None) -> Tensor:
    """Which of the skeleton's contacts are at a height at which they touch the ground [..., T, K]."""
    height_TK = position_TJ3[..., [contact.joint for contact in skeleton.contacts], 1]
    most_K = height_TK.new_tensor([contact.height for contact in skeleton.contacts])
    return height_TK - ground_height(position_TJ3, frames)[..., None, None] < most_K


def _smooth(x_TND: Tensor, frames: Tensor | None, fps: int) -> Tensor:
    """Weighted mean over frames before and after, the first and last frame repeated at the ends [..., T, N, D].

    Behind a motion's frames the last one is repeated to the end.
    """
    length = x_TND.shape[-3]
    place_T = torch.arange(length, device=x_TND.device)
    if frames is not None:
        held_T = place_T.minimum(frames[..., None] - 1)
        x_TND = x_TND.take_along_dim(held_T[..., None, None], dim=-3)
    weights = _SMOOTHING[min(_SMOOTHING, key=lambda rate: abs(rate - fps))]
    weighted = [
        weight * x_TND.index_select(-3, (place_T + shift).clamp(0, length - 1)) for shift, weight in weights.items()
    ]
    return torch.stack(weighted).sum(dim=0)
