"""Foot locking: a settled body, moved so that feet which touch the ground do not slide on it.

Legend: T frames, J joints, K joints that touch the ground, F feet, E joints of a foot, S = T - 1 steps between frames,
C = T - 2 bends of three frames, D = 2 directions along the ground; the other leading dimensions are free (batch,
persons).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.skeletons import Skeleton
from intermoe.body.two_bones import Limb, move_end

# Frames per second at which the numbers below hold: where frames are fewer, their steps and bends are longer.
_RATE = 30
# What a step of a foot that touches the ground costs, and a bend of the correction, where the correction costs 1.
_STEP, _BEND = 6000.0, 1000.0
# Metres per frame: what moves faster was meant to move, and is held the less the faster it is (Geman-McClure).
_SLOW = 0.02
_ROUNDS = 3
# What a correction costs where there is to be none.
_HELD = 1e8
# Frames of a bend: fewer are no motion.
_FEWEST = 3
# Of what both feet have in common, the share that the whole body is moved by; the rest is left to the legs.
_SHARED = 0.5
# Metres: a foot that is moved as far costs twice as much as by the squares alone, and farther ever more.
_FAR = 0.05


class Leg(NamedTuple):
    """The joints of a leg by number."""

    hip: int
    knee: int
    ankle: int
    toes: int


def legs(skeleton: Skeleton) -> list[Leg]:
    """The legs that end in two joints which touch the ground, the outer hanging on the inner.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> legs(SMPL22)[0]
        Leg(hip=1, knee=4, ankle=7, toes=10)
    """
    parents = skeleton.parents
    touching = [contact.joint for contact in skeleton.contacts]
    ankles = {toes: parents[toes] for toes in touching if parents[toes] in touching}
    return [Leg(parents[parents[ankle]], parents[ankle], ankle, toes) for toes, ankle in ankles.items()]


def lock_feet(
    root_T3: Tensor,
    rotation_TJ33: Tensor,
    offset_J3: Tensor,
    contact_TK: Tensor,
    skeleton: Skeleton,
    *,
    frames: Tensor | None = None,
    held: int = 0,
) -> tuple[Tensor, Tensor]:
    """The motion with feet that stand still on the ground where they touch it.

    The whole foot is moved along the ground, by the least squares of its steps while it touches, of the correction, and
    of the correction's second difference: planted feet stop, and between them nothing jumps. The body goes along with
    half of what both feet have in common. The knees follow (two bones, in the plane that they bend in already), and the
    feet keep their height and their orientation. A foot that is out of reach comes as near as its leg can.

    Args:
        root_T3: position of the root [..., T, 3], metres.
        rotation_TJ33: local rotations [..., T, J, 3, 3].
        offset_J3: T-pose [..., 1, J, 3], the same in all frames.
        contact_TK: how sure it is that each of ``skeleton.contacts`` touches the ground, [..., T, K] from 0 to 1.
        skeleton: the tree, the joints that touch the ground, and how many frames make a second.
        frames: int64 [...], frames of each motion; what stands behind them changes nothing. All where none is given.
        held: frames at the beginning whose feet stay, as another motion ends there.

    Returns:
        Positions of the root [..., T, 3], moved along the ground, and rotations [..., T, J, 3, 3], in which those of
        hips, knees and ankles have changed.
    """
    feet = legs(skeleton)
    if not feet or rotation_TJ33.shape[-4] < _FEWEST:
        return root_T3, rotation_TJ33
    root_dtype = root_T3.dtype
    root_T3, local_TJ33, offset_J3 = (x.double() for x in (root_T3, rotation_TJ33, offset_J3))
    joint_TJ3, world_TJ33 = forward_kinematics(root_T3, local_TJ33, offset_J3, skeleton.parents)
    place = {contact.joint: number for number, contact in enumerate(skeleton.contacts)}
    joint_FTED = torch.stack([joint_TJ3[..., [leg.ankle, leg.toes], :][..., ::2] for leg in feet], dim=-4)
    touch_FTE = torch.stack([contact_TK[..., [place[leg.ankle], place[leg.toes]]] for leg in feet], dim=-3)
    per_motion = None if frames is None else frames[..., None]
    shift_FTD = _shifts(joint_FTED, touch_FTE.double(), per_motion, held, skeleton.fps / _RATE)
    shared_TD = _SHARED * shift_FTD.mean(dim=-3)
    locked = list(local_TJ33.unbind(-3))
    for leg, own_TD in zip(feet, shift_FTD.unbind(-3), strict=True):
        # A straight leg bends towards the toes.
        ahead_T3 = joint_TJ3[..., leg.toes, :] - joint_TJ3[..., leg.ankle, :]
        limb = Limb(leg.hip, leg.knee, leg.ankle)
        move_end(limb, (joint_TJ3, world_TJ33), locked, _along_ground(own_TD - shared_TD), ahead_T3)
    moved_T3 = root_T3 + _along_ground(shared_TD)
    return moved_T3.to(root_dtype), torch.stack(locked, dim=-3).to(rotation_TJ33.dtype)


def _shifts(joint_FTED: Tensor, touch_FTE: Tensor, frames_F: Tensor | None, held: int, rate: float) -> Tensor:
    """How far each foot is to be moved along the ground [..., F, T, 2]; frames come ``rate`` times as fast as 30."""
    length = joint_FTED.shape[-3]
    eye_TT = torch.eye(length, dtype=torch.float64, device=joint_FTED.device)
    step_ST = eye_TT.diff(dim=0)
    bend_CT = step_ST.diff(dim=0)
    both_FSE = touch_FTE[..., 1:, :] * touch_FTE[..., :-1, :]
    weight_C = torch.full((length - 2,), _BEND * rate**4, dtype=torch.float64, device=eye_TT.device)
    if frames_F is not None:
        within_FT = torch.arange(length, device=eye_TT.device) < frames_F[..., None]
        both_FSE, weight_C = both_FSE * within_FT[..., 1:, None], weight_C * within_FT[..., 2:]
    stay_T = torch.where(torch.arange(length, device=eye_TT.device) < held, _HELD, 1.0)
    bends_TT = (bend_CT.mT * weight_C[..., None, :]) @ bend_CT
    shift_FTD = torch.zeros_like(joint_FTED[..., 0, :])
    for _ in range(_ROUNDS):
        step_FSED = (joint_FTED + shift_FTD[..., None, :]).diff(dim=-3)
        weight_FSE = _STEP * rate**2 * both_FSE / (1 + step_FSED.square().sum(-1) / (_SLOW / rate) ** 2).square()
        pull_FSD = (weight_FSE[..., None] * joint_FTED.diff(dim=-3)).sum(-2)
        far_FT = stay_T * (1 + shift_FTD.square().sum(-1) / _FAR**2)
        matrix_FTT = bends_TT + torch.diag_embed(far_FT) + (step_ST.mT * weight_FSE.sum(-1)[..., None, :]) @ step_ST
        # Symmetric, and no eigenvalue is below 1.
        shift_FTD = torch.cholesky_solve(-step_ST.mT @ pull_FSD, torch.linalg.cholesky(matrix_FTT))
    return shift_FTD


def _along_ground(x_D: Tensor) -> Tensor:
    """A vector [..., 3] of its two numbers along the ground."""
    return torch.stack([x_D[..., 0], torch.zeros_like(x_D[..., 0]), x_D[..., 1]], dim=-1)
