"""Hands of two people that touch: told from joints, and brought together.

Legend: T frames, P = 2 persons, J joints, H hands of a person, C = T - 2 bends of three frames,
B motions; the other leading dimensions are free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from intermoe.body.kinematics import PosedBody, forward_kinematics, within_frames
from intermoe.body.skeletons import Skeleton
from intermoe.body.two_bones import Limb, move_end, shift_in_reach

TOUCHING = 0.2
"""Metres between two wrists within which the hands may touch: of two people who shake hands they are 15 to 20 cm apart,
of Duet's, whose hands end at the wrist, 1 to 3."""

# What it costs that hands which surely touch are apart, and a step and a bend of the correction, where the correction
# costs 1. A step costs 2 sqrt(_BEND): a cheaper one would let corrections swing to the other side before and after.
_APART, _STEP, _BEND = 1000.0, 90.0, 2000.0
# Metres: hands this far apart do not touch, whatever is said of them; nearer ones count the less the farther they are
# (Tukey's biweight).
_FARTHEST = 0.8
# Metres that people are moved by for their hands to meet, at most.
_NEARER = 0.3
# Metres: arms whose elbow is less far out of line bend where elbows mostly go.
_IN_LINE = 0.05
# What a correction costs where there is to be none.
_HELD = 1e8
# Frames of a bend: fewer are no motion.
_FEWEST = 3
# Rounds in which one arm makes up for what the other cannot reach.
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class HandContacts:
    """Which hand of the first person touches which of the second, in each frame.

    Attributes:
        touch_THH: how sure it is that they do, [..., T, H, H] from 0 to 1; the hands in the order of ``arms``.
        gap_THH: how far apart the wrists then are [..., T, H, H], metres.
    """

    touch_THH: Tensor
    gap_THH: Tensor

    def exchanged(self, exchanged_B: Tensor) -> Self:
        """The same, of batches [B, T, H, H], with the persons of these motions in each other's place."""
        exchanged_B111 = exchanged_B.to(self.touch_THH.device)[:, None, None, None]
        return type(self)(*(x_THH.mT.where(exchanged_B111, x_THH) for x_THH in (self.touch_THH, self.gap_THH)))

    def to(self, device: str | torch.device) -> Self:
        """The same on a device."""
        return type(self)(self.touch_THH.to(device), self.gap_THH.to(device))

    def frames(self, start: int, stop: int | None = None) -> Self:
        """Those from a frame on, up to another."""
        return type(self)(*(x_THH[..., start:stop, :, :] for x_THH in (self.touch_THH, self.gap_THH)))

    def repeated(self, times: int) -> Self:
        """Each frame so many times."""
        return type(self)(*(x_THH.repeat_interleave(times, dim=-3) for x_THH in (self.touch_THH, self.gap_THH)))


def arms(skeleton: Skeleton) -> list[Limb]:
    """The arms that end in a wrist.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> arms(SMPL22)[0]
        Limb(upper=16, middle=18, end=20)
    """
    parents = skeleton.parents
    wrists = [joint for joint, name in enumerate(skeleton.joint_names) if name.endswith("wrist")]
    return [Limb(parents[parents[wrist]], parents[wrist], wrist) for wrist in wrists]


def hand_gaps(joint_PTJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """How far each wrist of the first person is from each of the second.

    Args:
        joint_PTJ3: joints [..., P, T, J, 3].
        skeleton: the tree.

    Returns:
        [..., T, H, H] in the unit of the joints.
    """
    return _apart(_wrists(joint_PTJ3, arms(skeleton))).norm(dim=-1)


def join_hands(
    body: PosedBody,
    contacts: HandContacts,
    skeleton: Skeleton,
    *,
    frames: Tensor | None = None,
    share_P: tuple[float, float] = (0.5, 0.5),
    held: int = 0,
) -> PosedBody:
    """Two people whose hands, where they touch, are as near to each other as hands then are.

    Both wrists are moved by the least squares of the distance between them, where they touch, from what it should be,
    of the correction, and of its first and second differences: nothing jumps before and after. The elbows follow (see
    ``move_end``), the hands keep their orientation. What one arm cannot reach, the other goes farther. Before that,
    people are moved along the ground, in all frames by the same, to where their hands are nearest on the whole.

    Args:
        body: both people: T-poses [..., P, 1, J, 3], positions of the roots [..., P, T, 3], rotations
            [..., P, T, J, 3, 3].
        contacts: which hands touch.
        skeleton: the tree.
        frames: int64 [...], frames of each motion; what stands behind them changes nothing. All where none is given.
        share_P: of the way to each other, what each person goes.
        held: frames at the beginning whose hands stay; with such frames, nobody is moved.

    Returns:
        The same, but for the rotations of shoulders, elbows and wrists, and for where the bodies stand.
    """
    limbs, length = arms(skeleton), body.rotation_TJ33.shape[-4]
    frames = torch.tensor(length) if frames is None else frames
    is_there_T = within_frames(frames, length) & (frames[..., None] >= _FEWEST)
    weight_THH = _APART * _likely(contacts.touch_THH.double()).square() * is_there_T[..., None, None]
    if length < _FEWEST or not weight_THH.any():
        return body
    offset_PTJ3, root_PT3, local_PTJ33 = (x.double() for x in body)
    joint_PTJ3, world_PTJ33 = forward_kinematics(root_PT3, local_PTJ33, offset_PTJ3, skeleton.parents)
    if not held:
        # In all frames by the same: no foot slides for it, and arms need to be moved the less.
        asked_THH3, counts_THH = _asked(_wrists(joint_PTJ3, limbs), contacts.gap_THH, weight_THH)
        # Less than one frame that is sure moves people the less.
        total_1 = counts_THH.sum((-3, -2, -1))[..., None].clamp(min=_APART)
        nearer_3 = (counts_THH[..., None] * asked_THH3).sum((-4, -3, -2)) / total_1
        nearer_3 = nearer_3 * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, device=nearer_3.device)
        nearer_3 = nearer_3 * (_NEARER / nearer_3.norm(dim=-1, keepdim=True).clamp(min=_NEARER))
        step_P3 = torch.stack([-share_P[0] * nearer_3, share_P[1] * nearer_3], dim=-2)
        joint_PTJ3, root_PT3 = joint_PTJ3 + step_P3[..., None, None, :], root_PT3 + step_P3[..., None, :]
    way_PTH3 = _ways(limbs, joint_PTJ3, contacts.gap_THH, (weight_THH, is_there_T, held), share_P)
    local = list(local_PTJ33.unbind(-3))
    # The elbow of a straight arm goes down and back.
    down_PT3 = world_PTJ33[..., 0, :, :] @ torch.tensor([0.0, -1.0, -0.5], dtype=torch.float64, device=root_PT3.device)
    for limb, way_PT3 in zip(limbs, way_PTH3.unbind(-2), strict=True):
        move_end(limb, (joint_PTJ3, world_PTJ33), local, way_PT3, down_PT3, in_line=_IN_LINE)
    moved_PTJ33 = torch.stack(local, dim=-3)
    moves = torch.tensor(share_P, device=root_PT3.device)[:, None, None, None, None] > 0
    return PosedBody(
        body.offset_J3,
        root_PT3.to(body.root_T3.dtype),
        moved_PTJ33.where(moves, local_PTJ33).to(body.rotation_TJ33.dtype),
    )


def _ways(
    limbs: Sequence[Limb],
    joint_PTJ3: Tensor,
    gap_THH: Tensor,
    spreading: tuple[Tensor, Tensor, int],
    share_P: tuple[float, float],
) -> Tensor:
    """The way of each hand [..., P, T, H, 3].

    Args:
        limbs: the arms.
        joint_PTJ3: joints of both persons.
        gap_THH: how far apart hands that touch are.
        spreading: weights, frames and frames that are held, as ``_spread`` takes them.
        share_P: of the way, what each person's hands go.
    """
    weight_THH, is_there_T, held = spreading
    asked_THH3, weight_THH = _asked(_wrists(joint_PTJ3, limbs), gap_THH, weight_THH)
    nearer_THH3 = _spread(weight_THH, asked_THH3, is_there_T, held)
    way_PTH3 = torch.stack([-share_P[0] * nearer_THH3.sum(-2), share_P[1] * nearer_THH3.sum(-3)], dim=-4)
    # Of what the hand of one cannot reach, the hand that it was to meet goes as much farther.
    size_THH = nearer_THH3.norm(dim=-1).clamp(min=1e-12)
    of_first_THH1, of_second_THH1 = ((size_THH / size_THH.sum(dim, keepdim=True))[..., None] for dim in (-1, -2))
    for _ in range(_ROUNDS):
        reached_PTH3 = _in_reach(limbs, joint_PTJ3, way_PTH3)
        first_TH3, second_TH3 = (way_PTH3 - reached_PTH3).unbind(-4)
        left_THH3 = of_first_THH1 * first_TH3[..., :, None, :] - of_second_THH1 * second_TH3[..., None, :, :]
        more_PTH3 = torch.stack([share_P[0] * left_THH3.sum(-2), -share_P[1] * left_THH3.sum(-3)], dim=-4)
        way_PTH3 = reached_PTH3 + more_PTH3
    return _in_reach(limbs, joint_PTJ3, way_PTH3)


def _asked(hand_PTH3: Tensor, gap_THH: Tensor, weight_THH: Tensor) -> tuple[Tensor, Tensor]:
    """By how much each two hands are too far apart [..., T, H, H, 3], and what that weighs [..., T, H, H]."""
    apart_THH3 = _apart(hand_PTH3)
    apart_THH = apart_THH3.norm(dim=-1)
    too_far_THH1 = (1 - gap_THH / apart_THH.clamp(min=1e-9)).clamp(min=0)[..., None]
    return too_far_THH1 * apart_THH3, weight_THH * (1 - (apart_THH / _FARTHEST).square()).clamp(min=0).square()


def _wrists(joint_PTJ3: Tensor, limbs: Sequence[Limb]) -> Tensor:
    """The hands [..., P, T, H, 3]; a list as an index would be copied to the device."""
    return torch.stack([joint_PTJ3[..., limb.end, :] for limb in limbs], dim=-2)


def _apart(hand_PTH3: Tensor) -> Tensor:
    """From each hand of the second person to each of the first [..., T, H, H, 3]."""
    return hand_PTH3[..., 0, :, :, None, :] - hand_PTH3[..., 1, :, None, :, :]


def _in_reach(limbs: Sequence[Limb], joint_PTJ3: Tensor, way_PTH3: Tensor) -> Tensor:
    """The ways of the hands [..., P, T, H, 3], each cut to what its arm reaches."""
    ways = zip(limbs, way_PTH3.unbind(-2), strict=True)
    return torch.stack([shift_in_reach(limb, joint_PTJ3, way_PT3) for limb, way_PT3 in ways], dim=-2)


def _likely(touch_THH: Tensor) -> Tensor:
    """What is more likely than not, from 0 to 1, and of a hand that may touch several only the likeliest."""
    of_first_THH, of_second_THH = (
        torch.zeros_like(touch_THH).scatter(dim, touch_THH.argmax(dim, keepdim=True), 1.0) for dim in (-1, -2)
    )
    return (2 * touch_THH - 1).clamp(min=0) * of_first_THH * of_second_THH


def _spread(weight_THH: Tensor, asked_THH3: Tensor, is_there_T: Tensor, held: int) -> Tensor:
    """The corrections [..., T, H, H, 3] that are asked for where hands touch, spread over the frames around.

    They minimise what it costs not to correct where it is asked for, and ``_STEP`` and ``_BEND`` of the correction.

    Args:
        weight_THH: what it costs where a correction is not made.
        asked_THH3: the corrections.
        is_there_T: bool [..., T], the motion's frames; what stands behind them changes nothing.
        held: frames at the beginning that are not corrected.
    """
    weight_HHT = weight_THH.movedim(-3, -1)
    eye_TT = torch.eye(weight_HHT.shape[-1]).to(weight_HHT)
    matrix_TT = torch.diag_embed((1 + _HELD * eye_TT[:held].sum(0)).expand(is_there_T.shape))
    for order, cost in ((1, _STEP), (2, _BEND)):
        change_CT = eye_TT.diff(n=order, dim=0) * is_there_T[..., order:, None]
        matrix_TT = matrix_TT + cost * change_CT.mT @ change_CT
    # Symmetric, and no eigenvalue is below 1.
    root_HHTT = torch.linalg.cholesky(torch.diag_embed(weight_HHT) + matrix_TT[..., None, None, :, :])
    asked_HHT3 = asked_THH3.movedim(-4, -2)
    return torch.cholesky_solve(weight_HHT[..., None] * asked_HHT3, root_HHTT).movedim(-2, -4)
