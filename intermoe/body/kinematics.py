"""Kinematics: from local rotations to joint positions, and from positions back to rotations and a T-pose.

Legend: T frames, J joints, R = J - 1 joints with a local rotation in the data (all but the root), C children of a
joint, N points, D numbers of a point, E = 9 T entries of a matrix per frame, K = 3 J numbers of a T-pose; the other
leading dimensions are free (batch, frames, persons).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from intermoe.body.procrustes import nearest_rotation, nearest_rotations, smallest_turn
from intermoe.body.rotations import matrix_from_6d, sixd_from_matrix
from intermoe.body.skeletons import Skeleton

# Frames before and after, and their weights in a smoothed frame.
_SMOOTHING = {-2: 1 / 12, -1: 3 / 12, 0: 4 / 12, 1: 3 / 12, 2: 1 / 12}

# Of what a network gives: a joint is off by a centimetre where a rotation is off by three degrees.
_PER_RADIAN = 0.19


def forward_kinematics(
    root_position: Tensor, rotation_J33: Tensor, offset_J3: Tensor, parents: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Joint positions and global rotations of posed skeletons.

    Args:
        root_position: [..., 3], metres.
        rotation_J33: local rotations [..., J, 3, 3]; joint 0 is the root and turns the whole body.
        offset_J3: rest-pose offset of each joint from its parent [..., J, 3], metres; that of the root is not used.
        parents: parent of each joint, -1 for the root; a parent comes before its children.

    Returns:
        Positions [..., J, 3] in metres and global rotations [..., J, 3, 3].
    """
    offset_J3 = offset_J3.expand(*rotation_J33.shape[:-2], 3)
    position, rotation = [root_position], [rotation_J33[..., 0, :, :]]
    for joint, parent in enumerate(parents):
        if parent < 0:
            continue
        step = (rotation[parent] @ offset_J3[..., joint, :, None]).squeeze(-1)
        position.append(position[parent] + step)
        rotation.append(rotation[parent] @ rotation_J33[..., joint, :, :])
    return torch.stack(position, dim=-2), torch.stack(rotation, dim=-3)


def bone_offsets(position_TJ3: Tensor, skeleton: Skeleton, frames: Tensor | None = None) -> Tensor:
    """A T-pose with the bone lengths of a motion and the directions of the skeleton's own T-pose.

    Args:
        position_TJ3: joints [..., T, J, 3]; the length of a bone is its median over the frames.
        skeleton: gives the directions.
        frames: int64 [...], frames of each motion; those behind them are padding. Without it, all are the motion's.

    Returns:
        Offset of each joint from its parent [..., J, 3] in the unit of the positions; that of the root is 0.
    """
    rest_J3 = torch.tensor(skeleton.rest_offsets, dtype=position_TJ3.dtype, device=position_TJ3.device)
    length_TJ = _bones(position_TJ3, skeleton).norm(dim=-1)
    if frames is not None:
        length_TJ = length_TJ.where(_within(frames, length_TJ.shape[-2])[..., None], torch.nan)
    length_J = length_TJ.nanmedian(dim=-2).values
    return torch.nn.functional.normalize(rest_J3, dim=-1) * length_J[..., None]


def rest_offsets(
    position_TJ3: Tensor, rotation_TR6: Tensor, skeleton: Skeleton, frames: Tensor | None = None, *, rounds: int = 60
) -> Tensor:
    """The T-pose that a motion's local rotations are relative to, estimated from the motion.

    People's bones do not point where the skeleton's do in their T-pose; a bone that is 10 degrees off there is 10
    degrees off in every frame. With the lengths of ``bone_offsets``, alternates between the orientation of the root in
    each frame (with which the local rotations put the bones nearest to their places) and the direction of each bone in
    the T-pose (its mean over the frames, turned back by the rotations, or the skeleton's where the frames contradict
    each other). A body that moves no joint leaves the T-pose open; then one that fits is found near the skeleton's.

    Args:
        position_TJ3: joints of one person [..., T, J, 3].
        rotation_TR6: local 6D of joints 1..J-1 [..., T, J - 1, 6].
        skeleton: its tree, and where the search begins.
        frames: int64 [...], frames of each motion; those behind them are padding, finite. Without it, all are the
            motion's.
        rounds: alternations.

    Returns:
        Offset of each joint from its parent [..., J, 3] in the unit of the positions; that of the root is 0.
    """
    position_TJ3, rotation_TR33 = position_TJ3.double(), matrix_from_6d(rotation_TR6.double())
    parents = torch.tensor(skeleton.parents, device=position_TJ3.device).clamp(min=0)
    start_J3 = bone_offsets(position_TJ3, skeleton, frames)
    length_J = start_J3.norm(dim=-1, keepdim=True)
    bone_TJ3 = _bones(position_TJ3, skeleton)
    # Rotation of each joint's parent as seen from the root: what moves the bone from the parent to the joint.
    turn = [torch.eye(3, dtype=torch.float64, device=position_TJ3.device).expand_as(rotation_TR33[..., 0, :, :])]
    for joint, parent in _steps(skeleton):
        turn.append(turn[parent] @ rotation_TR33[..., joint - 1, :, :])
    turn_TJ33 = torch.stack(turn, dim=-3)[..., parents, :, :]
    # The product of a frame's bones and the posed T-pose is linear in the T-pose, and the mean of the bones, turned
    # back, is linear in the orientations of the root, by the same numbers. Both layouts: each is read along its rows.
    # They are what the time goes into reading, so single precision: an estimate gets no better by more.
    length = position_TJ3.shape[-3]
    bone_3TJ, turn_3TJ3 = bone_TJ3.float().movedim(-1, -3).contiguous(), turn_TJ33.float().movedim(-2, -4).contiguous()
    product_33TK = (bone_3TJ[..., :, None, :, :, None] * turn_3TJ3[..., None, :, :, :, :]).flatten(-2)
    product_KE = product_33TK.flatten(-4, -2).mT.contiguous()
    count: int | Tensor = length
    if frames is not None:
        product_33TK = product_33TK * _within(frames, length)[..., None, None, :, None]
        count = frames[..., None, None]
    product_EK = product_33TK.flatten(-4, -2)
    offset_J3 = start_J3
    for _ in range(rounds):
        fit_33T = _row_times(offset_J3.flatten(-2), product_KE).unflatten(-1, (3, 3, length))
        root_33T = nearest_rotations(fit_33T)
        mean_J3 = _row_times(root_33T.flatten(-3), product_EK).unflatten(-1, start_J3.shape[-2:]) / count
        # Where the frames contradict each other their mean is short, and the skeleton's own direction takes over.
        doubt_J = 1 - (mean_J3.norm(dim=-1, keepdim=True) / length_J.clamp(min=1e-9)).clamp(max=1)
        offset_J3 = torch.nn.functional.normalize(mean_J3 + doubt_J * start_J3, dim=-1) * length_J
    return offset_J3.to(rotation_TR6.dtype)


def fit_rotations(
    position_J3: Tensor, rotation_R6: Tensor, skeleton: Skeleton, offset_J3: Tensor, *, per_radian: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rotations with which ``forward_kinematics`` returns given joints as nearly as bones of fixed length can.

    Generated motion holds positions and local rotations that agree only roughly, and no orientation of the root. That
    is taken from the hips and the spine (orthogonal Procrustes); then, from the root outwards, each local rotation is
    kept and corrected by the smallest turn that points its bone where the child should be (Procrustes where there are
    several children). Each joint aims from where it has come to stand, so errors of bone lengths do not add up. Exact
    rotations and offsets come back unchanged. Every frame alone, in closed form.

    A centimetre at the end of a bone of the spine is many degrees: where positions are no more exact than that, the
    correction is to be weighed against the rotation that is given.

    Args:
        position_J3: joints [..., J, 3], finite.
        rotation_R6: local 6D of joints 1..J-1 [..., J - 1, 6], finite.
        skeleton: the tree.
        offset_J3: T-pose [..., J, 3], the same in all frames: the recording's own, or ``rest_offsets``.
        per_radian: metres of error of a position that count as much as a radian of error of a rotation; if 0, positions
            are exact.

    Returns:
        Position of the root [..., 3] and local rotations [..., J, 3, 3], joint 0 that of the root in the world.
    """
    target_J3, guess_R33 = position_J3.double(), matrix_from_6d(rotation_R6.double())
    offset_J3 = offset_J3.double().expand(target_J3.shape)
    children: list[list[int]] = [[] for _ in skeleton.parents]
    for joint, parent in _steps(skeleton):
        children[parent].append(joint)
    place: list[Tensor] = [target_J3[..., 0, :]]
    turn: list[Tensor] = []
    local: list[Tensor] = []
    for joint, parent in enumerate(skeleton.parents):
        if parent < 0:
            bone_C3 = target_J3[..., children[joint], :] - place[joint][..., None, :]
            turn_33 = nearest_rotation(bone_C3.mT @ offset_J3[..., children[joint], :])
            local.append(turn_33)
        else:
            place.append(place[parent] + (turn[parent] @ offset_J3[..., joint, :, None]).squeeze(-1))
            turn_33 = turn[parent] @ guess_R33[..., joint - 1, :, :]
            if children[joint]:
                bone_C3 = target_J3[..., children[joint], :] - place[joint][..., None, :]
                posed_C3 = offset_J3[..., children[joint], :] @ turn_33.mT
                turn_33 = smallest_turn(posed_C3, bone_C3, per_radian) @ turn_33
            local.append(turn[parent].mT @ turn_33)
        turn.append(turn_33)
    return position_J3[..., 0, :], torch.stack(local, dim=-3).to(rotation_R6.dtype)


def settle(
    position_TJ3: Tensor,
    rotation_TR6: Tensor,
    skeleton: Skeleton,
    frames: Tensor | None = None,
    *,
    offset_J3: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A motion that a body with bones of constant length can make, as near as may be to a given one.

    A network's joints and local rotations agree only roughly, its bones breathe, and a small step remains where one
    latent frame ends and the next begins. Settling smooths over five frames (at 30 frames a second, what moves once a
    second keeps 97% of its swing, what shakes with the latent frames 17%) and fits rotations of a body whose bones keep
    their length, left and right alike. The result is what its BVH holds, so that every form of a generated motion shows
    the same. The ground is put where the feet mostly come lowest: at the 5th percentile, over the frames, of the lowest
    joint.

    Args:
        position_TJ3: joints [..., T, J, 3], finite, y up.
        rotation_TR6: local 6D of joints 1..J-1 [..., T, J - 1, 6], finite.
        skeleton: the tree.
        frames: int64 [...], frames of each motion, where motions of several lengths stand in one array; what stands
            behind them is not looked at. Without it, all frames are the motion's.
        offset_J3: T-pose [..., J, 3] of the bodies, where it is known.

    Returns:
        Joints and local rotations of the same shapes; the ground is at y = 0. Behind a motion's frames they mean
        nothing.
    """
    position_TJ3, rotation_TR6 = (_smooth(x_TND, frames) for x_TND in (position_TJ3, rotation_TR6))
    if offset_J3 is None:
        offset_J3 = rest_offsets(position_TJ3, rotation_TR6, skeleton, frames)
        # A body's two sides are alike: what a bone and its mirror image measure differently is error.
        length_J = offset_J3.norm(dim=-1, keepdim=True)
        both_J = (length_J + length_J[..., list(skeleton.mirrored), :]) / 2
        offset_J3 = offset_J3 * (both_J / length_J.clamp(min=1e-9))
    offset_J3 = offset_J3[..., None, :, :]
    root_T3, rotation_TJ33 = fit_rotations(position_TJ3, rotation_TR6, skeleton, offset_J3, per_radian=_PER_RADIAN)
    settled_TJ3, _ = forward_kinematics(root_T3, rotation_TJ33, offset_J3, skeleton.parents)
    settled_TJ3[..., 1] -= ground_height(settled_TJ3, frames)[..., None, None]
    return settled_TJ3, sixd_from_matrix(rotation_TJ33[..., 1:, :, :])


def ground_height(position_TJ3: Tensor, frames: Tensor | None = None) -> Tensor:
    """Height of the ground [...] under bodies: the 5th percentile, over the frames, of the lowest joint.

    Args:
        position_TJ3: joints [..., T, J, 3], y up.
        frames: int64 [...], frames of each motion; all where none are given.
    """
    lowest_T = position_TJ3[..., 1].amin(dim=-1)
    if frames is not None:
        lowest_T = lowest_T.where(_within(frames, lowest_T.shape[-1]), torch.nan)
    return lowest_T.nanquantile(0.05, dim=-1)


def _smooth(x_TND: Tensor, frames: Tensor | None) -> Tensor:
    """Weighted mean over two frames before and after, the first and last frame repeated at the ends [..., T, N, D].

    Behind a motion's frames the last one is repeated to the end.
    """
    length = x_TND.shape[-3]
    place_T = torch.arange(length, device=x_TND.device)
    if frames is not None:
        held_T = place_T.minimum(frames[..., None] - 1)
        x_TND = x_TND.take_along_dim(held_T[..., None, None], dim=-3)
    weighted = [
        weight * x_TND.index_select(-3, (place_T + shift).clamp(0, length - 1)) for shift, weight in _SMOOTHING.items()
    ]
    return torch.stack(weighted).sum(dim=0)


def _within(frames: Tensor, length: int) -> Tensor:
    """Mask [..., length] of the frames of each motion [...]."""
    return torch.arange(length, device=frames.device) < frames[..., None]


def _steps(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Every joint but the root with its parent, parents first."""
    return [(joint, parent) for joint, parent in enumerate(skeleton.parents) if parent >= 0]


def _bones(position_J3: Tensor, skeleton: Skeleton) -> Tensor:
    """Vector from the parent to each joint [..., J, 3]; that of the root is 0."""
    return position_J3 - position_J3[..., torch.tensor(skeleton.parents, device=position_J3.device).clamp(min=0), :]


def _row_times(row_N: Tensor, matrix_ND: Tensor) -> Tensor:
    """A float64 row [..., N] times a float32 matrix, each with its own [..., D]; float64."""
    return (row_N[..., None, :].float() @ matrix_ND).squeeze(-2).double()
