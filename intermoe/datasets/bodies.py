"""What a body can be, whatever the format it was recorded in: its size, its rotations, its motion, which way is up.

Every limit is far from what people do, since a recording that is lost is lost without anybody looking at it. What a
limit finds is a unit, an axis or an order of numbers that was taken for another, or a gap in the capture.

Legend: T frames, P = 2 persons, J joints, R = J - 1 joints with a local rotation.
"""

import torch
from torch import Tensor

from intermoe.body.kinematics import bone_offsets, forward_kinematics
from intermoe.body.skeletons import Skeleton
from intermoe.datasets.bad_recording import BadRecording, NotUpright, WrongHeight
from intermoe.datasets.jumps import JOINT_SPEED, ROOT_SPEED_CHANGE, jump_frames

# From the feet to the head joint in a T-pose, metres. That is 0.92 of a person's height, so 0.8 is a child of two and
# 2.2 taller than anybody alive. Inches taken for centimetres make an adult of 0.62 m, feet taken for metres one of 5 m.
HEIGHTS = (0.8, 2.2)
# The two columns of a rotation have length 1 and are perpendicular. Blending two rotations 50 degrees apart shortens
# them by 0.1; columns in another order, or zeros, are off by 1.
SIXD_TOLERANCE = 0.1
# People lie, crawl and stand on their hands, some for a whole recording: that a body is not upright means nothing by
# itself. Only where both trunks mostly keep within 45 degrees of the same other axis, and both bodies mostly begin on
# that axis within FLOOR metres of 0, as feet on a floor do, is that axis up: two people who lie would have to lie
# side by side, along an axis of the room, their feet on the line through its origin.
ALONG = 0.7
FLOOR = 0.3
# Nobody's lowest joint is half of the time this far below the floor, nor both persons' this far above it: metres. So
# the root's height is in another unit, the floor is not at 0, or one of the two persons has another axis up.
BELOW_FLOOR, ABOVE_FLOOR = 0.8, 1.5
_DIRECTIONS = ("x", "-x", "z", "-z", "-y")


def check_bodies(position_TPJ3: Tensor, rotation_TPR6: Tensor, skeleton: Skeleton, fps: float) -> None:
    """Check that finite joints and rotations are those of two bodies.

    Args:
        position_TPJ3: joints in metres, y up.
        rotation_TPR6: local rotations in 6D.
        skeleton: whose joints they are.
        fps: frames per second.

    Raises:
        BadRecording: a body that is too small or too large, six numbers that are not a rotation, or a jump.
        NotUpright: another axis is up.
    """
    for person in range(position_TPJ3.shape[1]):
        check_height(position_TPJ3[:, person], skeleton)
    check_rotations(rotation_TPR6, skeleton)
    check_jumps(position_TPJ3, fps)
    check_upright(position_TPJ3, skeleton)
    check_floor(position_TPJ3)


def check_jumps(position_TPJ3: Tensor, fps: float) -> None:
    """Raise ``BadRecording`` where a body moves as no body can."""
    if (bad_T := jump_frames(position_TPJ3, fps)).any():
        first, last = _first_run(bad_T)
        raise BadRecording(
            f"the motion jumps near frame {(first + last) // 2}: a joint moves faster than {JOINT_SPEED:g} m/s, or the "
            f"root's speed changes by more than {ROOT_SPEED_CHANGE:g} m/s from one frame to the next"
        )


def check_floor(position_TPJ3: Tensor) -> None:
    """Raise ``BadRecording`` where a body is far from the floor, y = 0, in the median over the frames."""
    lowest_P = position_TPJ3[..., 1].amin(dim=-1).median(dim=0).values
    low, high = int(lowest_P.argmin()), float(lowest_P.min())
    if high < -BELOW_FLOOR or high > ABOVE_FLOOR:
        raise BadRecording(
            f"the lowest joint of person {low + 1} is at {high:.2g} m in the median frame, far from the floor; "
            f"allowed: {-BELOW_FLOOR:g} to {ABOVE_FLOOR:g} m, y up and the floor at 0 in both files"
        )


def check_height(position_TJ3: Tensor, skeleton: Skeleton) -> None:
    """Raise ``WrongHeight`` where one body's bones [T, J, 3] do not add up to a person's size, whatever its pose."""
    up_J = _standing(bone_offsets(position_TJ3, skeleton), skeleton)[:, 1]
    height = float(up_J.max() - up_J.min())
    if not HEIGHTS[0] <= height <= HEIGHTS[1]:
        reason = (
            f"a body measures {height:.3g} m from the feet to the head joint; allowed: {HEIGHTS[0]} to {HEIGHTS[1]} m"
        )
        raise WrongHeight(reason, height)


def check_rotations(rotation_TPR6: Tensor, skeleton: Skeleton) -> None:
    """Raise ``BadRecording`` where six numbers are not the first two columns of a rotation."""
    columns = rotation_TPR6.unflatten(-1, (3, 2))
    length_TPR2 = columns.norm(dim=-2)
    product_TPR = columns.prod(dim=-1).sum(-1)
    bad_TPR = ((length_TPR2 - 1).abs() > SIXD_TOLERANCE).any(-1) | (product_TPR.abs() > SIXD_TOLERANCE)
    if bad_TPR.any():
        frame, person, row = bad_TPR.nonzero()[0].tolist()
        first, second = length_TPR2[frame, person, row].tolist()
        raise BadRecording(
            f"the six numbers of {skeleton.joint_names[row + 1]} in frame {frame} are not the first two columns of a "
            f"rotation matrix, row by row: lengths {first:.2g} and {second:.2g} instead of 1, "
            f"product {float(product_TPR[frame, person, row]):.2g} instead of 0"
        )


def check_upright(position_TPJ3: Tensor, skeleton: Skeleton) -> None:
    """Raise ``NotUpright`` where both bodies stand along another direction than y, in the median over the frames."""
    head = int(_standing(torch.tensor(skeleton.rest_offsets), skeleton)[:, 1].argmax())
    trunk_TP3 = torch.nn.functional.normalize(position_TPJ3[:, :, head] - position_TPJ3[:, :, 0], dim=-1)
    for name in _DIRECTIONS:
        axis, sign = "xyz".index(name[-1]), -1.0 if name[0] == "-" else 1.0
        along_P = (sign * trunk_TP3[..., axis]).median(dim=0).values
        lowest_P = (sign * position_TPJ3[..., axis]).amin(dim=-1).median(dim=0).values
        # Nobody spends half of a recording head down: there the floor need not bear witness.
        on_floor = name == "-y" or bool((lowest_P.abs() < FLOOR).all())
        if bool((along_P > ALONG).all()) and on_floor:
            raise NotUpright(f"both bodies stand along {name} instead of y in the median frame", name)


def _first_run(bad_T: Tensor) -> tuple[int, int]:
    """First and last frame of the first bad ones."""
    first = int(bad_T.int().argmax())
    sound_T = ~bad_T[first:]
    return first, first + int(sound_T.int().argmax()) - 1 if sound_T.any() else len(bad_T) - 1


def _standing(offset_J3: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints [J, 3] of a T-pose."""
    still_J33 = torch.eye(3, dtype=offset_J3.dtype).expand(skeleton.num_joints, 3, 3)
    return forward_kinematics(offset_J3[0], still_J33, offset_J3, skeleton.parents)[0]
