"""Kinematics: from local rotations to joint positions, and from positions back to rotations and a T-pose.

Legend: T frames, J joints, R = J - 1 joints with a local rotation in the data (all but the root), C children of a
joint, N points, D numbers of a point, E = 9 T entries of a matrix per frame, K = 3 J numbers of a T-pose; the other
leading dimensions are free (batch, frames, persons).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from intermoe.body.procrustes import nearest_rotation, nearest_rotations, smallest_turn
from intermoe.body.rotations import matrix_from_6d, sixd_from_matrix
from intermoe.body.skeletons import Skeleton


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
        length_TJ = length_TJ.where(within_frames(frames, length_TJ.shape[-2])[..., None], torch.nan)
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
        product_33TK = product_33TK * within_frames(frames, length)[..., None, None, :, None]
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
    position_J3: Tensor,
    rotation_R6: Tensor,
    skeleton: Skeleton,
    offset_J3: Tensor,
    *,
    per_radian: float = 0.0,
    root_33: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Rotations with which ``forward_kinematics`` returns given joints as nearly as bones of fixed length can.

    Generated motion holds positions and local rotations that agree only roughly, and no orientation of the root. That
    is taken from the hips and the spine (orthogonal Procrustes); then, from the root outwards, each local rotation is
    kept and corrected by the smallest turn that points its bone where the child should be (Procrustes where there are
    several children). Each joint aims from where it has come to stand, so errors of bone lengths do not add up. Exact
    rotations and offsets come back unchanged. Every frame alone, in closed form.

    A centimetre at the end of a bone of the spine is many degrees: where positions are no more exact than that, the
    correction is weighed against the rotation that is given, and a joint, also the root in place of its hips and spine,
    is turned to where everything that hangs on it should be, posed as the rotations below say. The better these are,
    the more the errors of single joints cancel.

    Args:
        position_J3: joints [..., J, 3], finite.
        rotation_R6: local 6D of joints 1..J-1 [..., J - 1, 6], finite.
        skeleton: the tree.
        offset_J3: T-pose [..., J, 3], the same in all frames: the recording's own, or ``rest_offsets``.
        per_radian: metres of error of a position that count as much as a radian of error of a rotation; if 0, positions
            are exact.
        root_33: orientation of the root [..., 3, 3], where it is known.

    Returns:
        Position of the root [..., 3] and local rotations [..., J, 3, 3], joint 0 that of the root in the world.
    """
    target_J3, guess_R33 = position_J3.double(), matrix_from_6d(rotation_R6.double())
    offset_J3 = offset_J3.double().expand(target_J3.shape)
    aims, posed = _hanging(skeleton, offset_J3, guess_R33 if per_radian else None)
    place: list[Tensor] = [target_J3[..., 0, :]]
    turn: list[Tensor] = []
    local: list[Tensor] = []
    for joint, parent in enumerate(skeleton.parents):
        if parent < 0:
            turn_33 = _root_turn(target_J3, aims, posed)[0] if root_33 is None else root_33.double()
            local.append(turn_33)
        else:
            place.append(place[parent] + (turn[parent] @ offset_J3[..., joint, :, None]).squeeze(-1))
            turn_33 = turn[parent] @ guess_R33[..., joint - 1, :, :]
            if aims[joint]:
                aim_C3 = target_J3[..., aims[joint], :] - place[joint][..., None, :]
                turn_33 = smallest_turn(posed[joint] @ turn_33.mT, aim_C3, per_radian) @ turn_33
            local.append(turn[parent].mT @ turn_33)
        turn.append(turn_33)
    return position_J3[..., 0, :], torch.stack(local, dim=-3).to(rotation_R6.dtype)


def root_orientation(
    position_J3: Tensor, rotation_R6: Tensor, skeleton: Skeleton, offset_J3: Tensor
) -> tuple[Tensor, Tensor]:
    """The orientation of the root that ``fit_rotations`` finds with weighed rotations, and how sure it is.

    Where a network cannot decide which way somebody faces, it gives the mean of both: shoulders and hips shrink to a
    line, and the orientation that is nearest turns round from one frame to the next.

    Args:
        position_J3: joints [..., J, 3], finite.
        rotation_R6: local 6D of joints 1..J-1 [..., J - 1, 6], finite.
        skeleton: the tree.
        offset_J3: T-pose [..., J, 3].

    Returns:
        Rotations [..., 3, 3], and how far the joints hold them [...]: what it would cost to turn the body about the
        axis where that costs least, as a share of what it costs where the joints are those of the posed body. That is
        1 for recorded motion, and 0 where an orientation is as good as another.
    """
    target_J3, local_R33 = position_J3.double(), matrix_from_6d(rotation_R6.double())
    aims, posed = _hanging(skeleton, offset_J3.double().expand(target_J3.shape), local_R33)
    turn_33, product_33 = _root_turn(target_J3, aims, posed)
    held, whole = (_least_hold(x_33) for x_33 in (turn_33.mT @ product_33, posed[0].mT @ posed[0]))
    return turn_33, held / whole.clamp(min=1e-12)


def _root_turn(target_J3: Tensor, aims: list[list[int]], posed: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The turn [..., 3, 3] of all that hangs on the root nearest to where it should be, and the products it is from."""
    aim_C3 = target_J3[..., aims[0], :] - target_J3[..., :1, :]
    product_33 = aim_C3.mT @ posed[0]
    return nearest_rotation(product_33), product_33


def _least_hold(x_33: Tensor) -> Tensor:
    """The sum of the two smallest eigenvalues of matrices that are symmetric but for rounding [..., 3, 3]."""
    return torch.linalg.eigvalsh((x_33 + x_33.mT) / 2)[..., :2].sum(-1)


def _hanging(skeleton: Skeleton, offset_J3: Tensor, local_R33: Tensor | None) -> tuple[list[list[int]], list[Tensor]]:
    """What hangs on each joint: the numbers of those joints, and where they are as seen from it [..., C, 3].

    Args:
        skeleton: the tree.
        offset_J3: T-pose [..., J, 3].
        local_R33: local rotations [..., J - 1, 3, 3] that pose all that hangs on a joint; without them, its children
            alone are meant.
    """
    joints: list[list[int]] = [[] for _ in skeleton.parents]
    places: list[list[Tensor]] = [[] for _ in skeleton.parents]
    for joint, parent in reversed(_steps(skeleton)):
        place_13 = offset_J3[..., joint, None, :]
        joints[parent].append(joint)
        places[parent].append(place_13)
        if local_R33 is not None and joints[joint]:
            joints[parent] += joints[joint]
            places[parent].append(place_13 + torch.cat(places[joint], dim=-2) @ local_R33[..., joint - 1, :, :].mT)
    return joints, [torch.cat(place, dim=-2) if place else offset_J3[..., :0, :] for place in places]


class PosedBody(NamedTuple):
    """A body with bones of constant length, and its motion; or several, whose dimensions come first.

    Attributes:
        offset_J3: T-pose, metres from the parent [J, 3], of several [..., 1, J, 3]; that of the root is 0.
        root_T3: position of the root [T, 3].
        rotation_TJ33: local rotations [T, J, 3, 3]; joint 0 is the root and turns the whole body.
    """

    offset_J3: Tensor
    root_T3: Tensor
    rotation_TJ33: Tensor

    def motion(self, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
        """Its joints [T, J, 3], and local rotations of all but the root in 6D [T, J - 1, 6]."""
        joint_TJ3, _ = forward_kinematics(self.root_T3, self.rotation_TJ33, self.offset_J3, skeleton.parents)
        return joint_TJ3, sixd_from_matrix(self.rotation_TJ33[..., 1:, :, :])


def posed_body(position_TJ3: Tensor, rotation_TR6: Tensor, skeleton: Skeleton) -> PosedBody:
    """The body that makes one person's motion, exactly where it is settled: what BVH and GLB hold.

    Args:
        position_TJ3: joints [T, J, 3], finite.
        rotation_TR6: local 6D of joints 1..J-1 [T, J - 1, 6], finite.
        skeleton: the tree.
    """
    offset_J3 = rest_offsets(position_TJ3, rotation_TR6, skeleton)
    return PosedBody(offset_J3, *fit_rotations(position_TJ3, rotation_TR6, skeleton, offset_J3))


def within_frames(frames: Tensor, length: int) -> Tensor:
    """Mask [..., length] of the frames of each motion, of which there are int64 [...]."""
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
