"""Limbs of two bones: an end that is moved, and the joints above that turn to let it.

Legend: T frames, J joints; the leading dimensions are free (batch, persons).
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import normalize

from intermoe.body.procrustes import smallest_turn

# Of the whole length of a limb: farther it is not stretched, as people do not stand on straight knees.
_REACH = 0.995
# Metres: no bone at all.
_NOTHING = 1e-9


class Limb(NamedTuple):
    """The joints of a leg or an arm by number: hip, knee and ankle, or shoulder, elbow and wrist."""

    upper: int
    middle: int
    end: int


def move_end(
    limb: Limb,
    posed: tuple[Tensor, Tensor],
    local: list[Tensor],
    shift_T3: Tensor,
    ahead_T3: Tensor,
    *,
    in_line: float = 0.01,
) -> None:
    """Turn the joints of a limb so that its end is moved by that much and keeps its orientation.

    The limb is swung into the new direction as it is; then its middle goes where the two bones meet, in the plane that
    they bend in already. An end that is to go out of reach comes as near as its limb can.

    Args:
        limb: which joints.
        posed: joints [..., T, J, 3] in metres, and their rotations in the world [..., T, J, 3, 3].
        local: local rotation of each joint [..., T, 3, 3]; takes the new ones of the limb's three joints.
        shift_T3: how far the end is to be moved [..., T, 3], metres.
        ahead_T3: where the middle goes if the limb is straight, or nearly, and so has no plane to bend in [..., T, 3].
        in_line: metres; where the middle is less far out of line, and than the end is moved, it goes the more ahead the
            straighter the limb is.
    """
    joint_TJ3, world_TJ33 = posed
    upper_T3, middle_T3, end_T3 = (joint_TJ3[..., joint, :] for joint in limb)
    first_T1, second_T1, farthest_T1 = _lengths(limb, joint_TJ3)
    limb_T3 = end_T3 - upper_T3
    reach_T3 = limb_T3 + _share_within(limb_T3, shift_T3, farthest_T1) * shift_T3
    along_T3 = normalize(reach_T3, dim=-1)
    length_T1 = reach_T3.norm(dim=-1, keepdim=True).maximum((first_T1 - second_T1).abs()).clamp(min=_NOTHING)
    swing_T33 = _turn(limb_T3, reach_T3)
    swung_T3 = (swing_T33 @ (middle_T3 - upper_T3)[..., None]).squeeze(-1)
    out_T3 = _across(swung_T3, along_T3)
    # The middle of a limb that is nearly straight is out of line by noise, and soon on the other side.
    unsure_T1 = shift_T3.norm(dim=-1, keepdim=True).clamp(max=in_line)
    doubt_T1 = (unsure_T1 - out_T3.norm(dim=-1, keepdim=True)).clamp(min=0)
    out_T3 = normalize(out_T3 + doubt_T1 * normalize(_across(ahead_T3, along_T3), dim=-1), dim=-1)
    forth_T1 = (first_T1.square() + length_T1.square() - second_T1.square()) / (2 * length_T1)
    aside_T1 = (first_T1.square() - forth_T1.square()).clamp(min=0).sqrt()
    new_middle_T3 = forth_T1 * along_T3 + aside_T1 * out_T3
    upper_T33 = _turn(swung_T3, new_middle_T3) @ swing_T33 @ world_TJ33[..., limb.upper, :, :]
    carried_T33 = upper_T33 @ local[limb.middle]
    second_T3 = (carried_T33 @ (world_TJ33[..., limb.middle, :, :].mT @ (end_T3 - middle_T3)[..., None])).squeeze(-1)
    middle_T33 = _turn(second_T3, length_T1 * along_T3 - new_middle_T3) @ carried_T33
    above_T33 = world_TJ33[..., limb.upper, :, :] @ local[limb.upper].mT
    local[limb.upper] = above_T33.mT @ upper_T33
    local[limb.middle] = upper_T33.mT @ middle_T33
    local[limb.end] = middle_T33.mT @ world_TJ33[..., limb.end, :, :]


def shift_in_reach(limb: Limb, joint_TJ3: Tensor, shift_T3: Tensor) -> Tensor:
    """A shift [..., T, 3] of a limb's end, cut to the point nearest to it that the limb reaches."""
    first_T1, second_T1, farthest_T1 = _lengths(limb, joint_TJ3)
    limb_T3 = joint_TJ3[..., limb.end, :] - joint_TJ3[..., limb.upper, :]
    there_T3 = limb_T3 + shift_T3
    there_T1 = there_T3.norm(dim=-1, keepdim=True)
    length_T1 = there_T1.minimum(farthest_T1).maximum((first_T1 - second_T1).abs())
    return there_T3 * (length_T1 / there_T1.clamp(min=_NOTHING)) - limb_T3


def _lengths(limb: Limb, joint_TJ3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lengths [..., T, 1] of a limb's bones, and how far from its start its end can come."""
    upper_T3, middle_T3, end_T3 = (joint_TJ3[..., joint, :] for joint in limb)
    first_T1, second_T1, now_T1 = (
        bone_T3.norm(dim=-1, keepdim=True) for bone_T3 in (middle_T3 - upper_T3, end_T3 - middle_T3, end_T3 - upper_T3)
    )
    # A limb that is straighter already may stay so.
    return first_T1, second_T1, (_REACH * (first_T1 + second_T1)).maximum(now_T1)


def _share_within(limb_3: Tensor, shift_3: Tensor, farthest_1: Tensor) -> Tensor:
    """The share [..., 1] of a shift, at most 1, after which the end of a limb is no farther from its start."""
    # |limb + share * shift| = farthest, a quadratic equation whose roots lie on both sides of 0.
    square_1, mixed_1 = (x_3.sum(-1, keepdim=True) for x_3 in (shift_3.square(), limb_3 * shift_3))
    room_1 = (farthest_1.square() - limb_3.square().sum(-1, keepdim=True)).clamp(min=0)
    share_1 = ((mixed_1.square() + square_1 * room_1).sqrt() - mixed_1) / square_1.clamp(min=1e-12)
    return share_1.where(square_1 > 1e-12, 1.0).clamp(max=1)


def _turn(from_3: Tensor, to_3: Tensor) -> Tensor:
    """The smallest turn of one vector into the direction of another."""
    return smallest_turn(from_3[..., None, :], to_3[..., None, :])


def _across(x_3: Tensor, along_3: Tensor) -> Tensor:
    """The part of a vector at right angles to a direction."""
    return x_3 - (x_3 * along_3).sum(-1, keepdim=True) * along_3
