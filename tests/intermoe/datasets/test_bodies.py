"""What a body can be. Legend: T frames, P = 2 persons, J = 22 joints, R = 21."""

import pytest
import torch
from bodies import standing_bodies
from turns import matrix_from_axis_angle

from intermoe.body.rotations import matrix_about_axis, sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bad_recording import BadRecording, NotUpright, WrongHeight
from intermoe.datasets.bodies import check_bodies, check_height, check_rotations, check_upright


def standing(frames: int = 40) -> torch.Tensor:
    return torch.from_numpy(standing_bodies(frames)[0])


def quarter(axis: str, degrees: float) -> torch.Tensor:
    return matrix_about_axis(axis, torch.tensor(degrees).deg2rad())


def test_bodies_that_stand_are_accepted():
    position_TPJ3, rotation_TPR6 = map(torch.from_numpy, standing_bodies(40))
    check_bodies(position_TPJ3, rotation_TPR6, SMPL22, 30)


@pytest.mark.parametrize(("scale", "height"), [(0.4, "0.627"), (2.54, "3.98"), (0.0, "0")])
def test_bodies_of_no_persons_size_are_set_aside_in_any_pose(scale, height):
    position_TPJ3 = standing() @ quarter("X", 90).mT * scale
    with pytest.raises(WrongHeight) as caught:
        check_height(position_TPJ3[:, 0], SMPL22)
    assert str(caught.value) == (f"a body measures {height} m from the feet to the head joint; allowed: 0.8 to 2.2 m")


def test_a_child_and_a_giant_are_persons():
    for scale in (0.55, 1.35):
        check_height(standing()[:, 0] * scale, SMPL22)


def test_six_numbers_must_be_two_columns_of_a_rotation():
    torch.manual_seed(0)
    rotation_TPR6 = sixd_from_matrix(matrix_from_axis_angle(torch.randn(20, 2, 21, 3)))
    check_rotations(rotation_TPR6, SMPL22)
    check_rotations(0.95 * rotation_TPR6, SMPL22)  # two rotations blended: a little short
    columns_TPR6 = rotation_TPR6.unflatten(-1, (3, 2)).mT.flatten(-2)  # column by column instead of row by row
    columns_TPR6[:3] = rotation_TPR6[:3]
    with pytest.raises(BadRecording, match="the six numbers of left_hip in frame 3 are not the first two columns"):
        check_rotations(columns_TPR6, SMPL22)


@pytest.mark.parametrize(
    ("axis", "degrees", "up"), [("X", 90, "z"), ("X", -90, "-z"), ("Z", 90, "-x"), ("Z", -90, "x"), ("X", 180, "-y")]
)
def test_another_axis_that_is_up_is_named(axis, degrees, up):
    with pytest.raises(NotUpright) as caught:
        check_upright(standing() @ quarter(axis, degrees).mT, SMPL22)
    assert caught.value.up == up
    assert str(caught.value) == f"both bodies stand along {up} instead of y in the median frame"


def lying(position_TJ3: torch.Tensor, yaw: float, x: float, z: float) -> torch.Tensor:
    """A body on its back on the floor at that place."""
    turned_TJ3 = position_TJ3 @ quarter("X", -90).mT @ quarter("Y", yaw).mT
    return turned_TJ3 - turned_TJ3[:, :1] + torch.tensor([x, 0.1, z])


def test_people_who_lie_are_accepted():
    one_TJ3, two_TJ3 = standing().unbind(1)
    # One lies and one stands; two lie side by side in the middle of the room; head to head; across its origin.
    lying_two = lying(two_TJ3, 0, 0.6, 0.3)
    check_upright(torch.stack([lying(one_TJ3, 0, 0, 0.95), two_TJ3], 1), SMPL22)
    check_upright(torch.stack([lying(one_TJ3, 0, 0, 0.3), lying_two], 1), SMPL22)
    check_upright(torch.stack([lying(one_TJ3, 180, 0, -0.9), lying(two_TJ3, 0, 0, 0.9)], 1), SMPL22)
    check_upright(torch.stack([lying(one_TJ3, 45, 0, 0.95), lying(two_TJ3, 60, 1, 0.95)], 1), SMPL22)


def test_people_who_lie_down_stand_up_or_fall_for_part_of_the_time_are_accepted():
    one_TJ3, two_TJ3 = standing().unbind(1)
    fallen = torch.stack([lying(one_TJ3, 180, 0, 0.95), lying(two_TJ3, 180, 1, 0.95)], 1)
    check_upright(torch.cat([torch.stack([one_TJ3, two_TJ3], 1)[:21], fallen[:19]]), SMPL22)


def test_a_jump_is_named():
    position_TPJ3, rotation_TPR6 = map(torch.from_numpy, standing_bodies(40))
    position_TPJ3[20:, 1] += 1.0
    with pytest.raises(BadRecording) as caught:
        check_bodies(position_TPJ3, rotation_TPR6, SMPL22, 30)
    assert str(caught.value) == (
        "the motion jumps near frame 19: a joint moves faster than 18 m/s, or the root's speed changes by more than "
        "6 m/s from one frame to the next"
    )


@pytest.mark.parametrize(("heights", "person", "height"), [((3.0, 3.0), 1, "3"), ((0.0, -1.6), 2, "-1.6")])
def test_bodies_far_from_the_floor_are_set_aside(heights, person, height):
    position_TPJ3, rotation_TPR6 = map(torch.from_numpy, standing_bodies(40))
    position_TPJ3[..., 1] -= position_TPJ3[..., 1].amin(dim=(0, 2))[None, :, None]
    position_TPJ3[..., 1] += torch.tensor(heights)[None, :, None]
    with pytest.raises(BadRecording) as caught:
        check_bodies(position_TPJ3, rotation_TPR6, SMPL22, 30)
    assert str(caught.value) == (
        f"the lowest joint of person {person} is at {height} m in the median frame, far from the floor; "
        "allowed: -0.8 to 1.5 m, y up and the floor at 0 in both files"
    )


def test_a_person_who_is_carried_or_stands_on_something_is_no_mistake():
    position_TPJ3, rotation_TPR6 = map(torch.from_numpy, standing_bodies(40))
    position_TPJ3[:, 1, :, 1] += 1.8
    check_bodies(position_TPJ3, rotation_TPR6, SMPL22, 30)
