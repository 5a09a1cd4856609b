"""Locked feet stand still where they touch the ground, and the body above goes along as one."""

import pytest
import torch

from intermoe.body import foot_lock, two_bones
from intermoe.body.foot_lock import Leg, legs, lock_feet
from intermoe.body.kinematics import fit_rotations, forward_kinematics, rest_offsets
from intermoe.body.rotations import matrix_about_axis
from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.datasets.duet import make_interaction
from intermoe.evaluation.plausibility import foot_skating_cm_s

LEGS = legs(SMPL22)
MOVED = [joint for leg in LEGS for joint in (leg.knee, leg.ankle, leg.toes)]
OTHERS = [joint for joint in range(SMPL22.num_joints) if joint not in MOVED]
# Of kind 2 the second person stumbles backwards: steps, and feet that stand.
STEPPING = 2


def body(drift_m_per_frame=0.0):
    """Two people of Duet as root, rotations, T-pose, and which feet stand; the whole bodies may glide along x."""
    recording = make_interaction(seed=1, index=STEPPING)
    joints_PTJ3 = torch.from_numpy(recording.position_TPJ3).transpose(0, 1).double()
    rotation_PTR6 = torch.from_numpy(recording.rotation_TPR6).transpose(0, 1).double()
    offset_PJ3 = rest_offsets(joints_PTJ3, rotation_PTR6, SMPL22)[:, None]
    root_PT3, rotation_PTJ33 = fit_rotations(joints_PTJ3, rotation_PTR6, SMPL22, offset_PJ3)
    feet_PTK3 = joints_PTJ3[:, :, [contact.joint for contact in SMPL22.contacts]]
    stands_PTK = torch.zeros(feet_PTK3.shape[:-1], dtype=torch.float64)
    stands_PTK[:, 1:] = (feet_PTK3.diff(dim=1).norm(dim=-1) < 0.002).double()
    root_PT3[..., 0] += drift_m_per_frame * torch.arange(root_PT3.shape[1])
    return root_PT3, rotation_PTJ33, offset_PJ3, stands_PTK


def fk(root_T3, rotation_TJ33, offset_J3):
    return forward_kinematics(root_T3, rotation_TJ33, offset_J3, SMPL22.parents)


def skating(joints_PTJ3):
    return foot_skating_cm_s(joints_PTJ3.transpose(0, 1).numpy(), SMPL22)


def test_the_legs_of_smpl():
    assert legs(SMPL22) == [Leg(1, 4, 7, 10), Leg(2, 5, 8, 11)]


def test_gliding_feet_stand_and_the_body_goes_along_as_one():
    root, rotation, offset, stands = body(drift_m_per_frame=0.004)
    before, turned_before = fk(root, rotation, offset)
    after, turned_after = fk(*lock_feet(root, rotation, offset, stands, SMPL22), offset)
    assert skating(before) > 12
    both = (stands[:, 1:] * stands[:, :-1]).bool()
    feet = [contact.joint for contact in SMPL22.contacts]
    speed_cm_s = [3000 * x[:, :, feet].diff(dim=1)[..., [0, 2]].norm(dim=-1)[both].mean() for x in (before, after)]
    assert speed_cm_s[0] > 11
    assert speed_cm_s[1] < 2
    # The rest of the body goes along as one, by half of it.
    moved = (after - before)[:, :, OTHERS]
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved), atol=1e-9, rtol=0)
    assert moved[..., 1].abs().max() < 1e-9
    for leg in LEGS:
        # Height and orientation of the feet stay, but for legs that are out of reach.
        height_cm = 100 * (after - before)[:, :, [leg.ankle, leg.toes], 1].abs()
        assert height_cm.quantile(0.9) < 1e-5
        assert height_cm.max() < 2
        torch.testing.assert_close(turned_after[:, :, leg.ankle], turned_before[:, :, leg.ankle], atol=1e-6, rtol=0)
    # No foot jumps: the correction is as smooth as it is large.
    shift = (after - before)[:, :, feet]
    assert shift.norm(dim=-1).max() > 0.03
    assert shift.diff(dim=1).norm(dim=-1).max() < 0.03


def test_no_leg_is_stretched_straight_and_no_foot_is_lifted_to_reach_its_place():
    """A person who glides by 20 cm a second: the feet cannot stay where the body would leave them."""
    root, rotation, offset, stands = body(drift_m_per_frame=0.0067)
    before, _ = fk(root, rotation, offset)
    after, _ = fk(*lock_feet(root, rotation, offset, stands, SMPL22), offset)
    for leg in LEGS:
        thigh, shin, whole = (
            (after[:, :, one] - after[:, :, other]).norm(dim=-1)
            for one, other in ((leg.knee, leg.hip), (leg.ankle, leg.knee), (leg.ankle, leg.hip))
        )
        was = (before[:, :, leg.ankle] - before[:, :, leg.hip]).norm(dim=-1)
        assert (whole <= (two_bones._REACH * (thigh + shin)).maximum(was) + 1e-9).all()
        torch.testing.assert_close(after[:, :, leg.ankle, 1], before[:, :, leg.ankle, 1], atol=1e-6, rtol=0)


def test_a_foot_that_was_held_does_not_leap_after_what_it_missed():
    """A body glides a centimetre a frame, 20 cm of them while its feet are said to stand."""
    root, rotation, offset, stands = body()
    root, rotation, stands = root[:, :1].repeat(1, 100, 1), rotation[:, :1].repeat(1, 100, 1, 1, 1), stands[:, :100] * 0
    root[..., 0] += 0.01 * torch.arange(100)
    stands[:, 40:60] = 1
    after, _ = fk(*lock_feet(root, rotation, offset, stands, SMPL22), offset)
    step = after[:, :, [contact.joint for contact in SMPL22.contacts]].diff(dim=1)[..., [0, 2]].norm(dim=-1)
    assert step[:, 41:58].mean() < 0.0005
    assert 0.01 < step.max() < 0.02


def test_feet_that_stand_already_stay():
    root, rotation, offset, stands = body()
    before, _ = fk(root, rotation, offset)
    after, _ = fk(*lock_feet(root, rotation, offset, stands, SMPL22), offset)
    assert (after - before).norm(dim=-1).mean() < 1e-4
    assert (after - before).norm(dim=-1).max() < 0.01


def test_feet_stay_in_frames_that_are_held():
    root, rotation, offset, stands = body(drift_m_per_frame=0.004)
    before, _ = fk(root, rotation, offset)
    after, _ = fk(*lock_feet(root, rotation, offset, stands, SMPL22, held=2), offset)
    assert (after - before)[:, :2].norm(dim=-1).max() < 1e-4
    assert skating(after) < 0.6 * skating(before)


def test_without_contact_nothing_moves():
    root, rotation, offset, stands = body(drift_m_per_frame=0.004)
    moved, locked = lock_feet(root, rotation, offset, 0 * stands, SMPL22)
    torch.testing.assert_close(locked, rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(moved, root, atol=1e-9, rtol=0)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_motion_of_fewer_frames_than_a_bend_has_stays(frames):
    root, rotation, offset, stands = body(drift_m_per_frame=0.004)
    cut = rotation[:, :frames]
    assert lock_feet(root[:, :frames], cut, offset, stands[:, :frames], SMPL22)[1] is cut


def test_a_foot_that_is_moved_fast_is_let_go():
    """What the network calls contact is any foot near the ground, also one on its way."""
    root, rotation, offset, stands = body(drift_m_per_frame=0.1)
    before, _ = fk(root, rotation, offset)
    after, _ = fk(*lock_feet(root, rotation, offset, torch.ones_like(stands), SMPL22), offset)
    assert skating(before) > 290
    assert skating(after) > 0.85 * skating(before)


@pytest.mark.slow
def test_the_shift_is_the_least_squares_that_a_descent_finds():
    generator = torch.Generator().manual_seed(0)
    x_FTED = 0.001 * torch.randn(1, 12, 2, 2, generator=generator, dtype=torch.float64).cumsum(1)
    touch_FTE = torch.rand(1, 12, 2, generator=generator, dtype=torch.float64)
    shift = torch.zeros(1, 12, 2, dtype=torch.float64, requires_grad=True)
    # Steps of a millimetre: so slow that the robust weight is nearly 1 and the problem nearly quadratic.
    optimizer = torch.optim.LBFGS(
        [shift], max_iter=500, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def cost():
        optimizer.zero_grad()
        square, far = shift.square().sum(-1), foot_lock._FAR**2
        # Weighting squares by 1 + square / far once a round lowers the sum of square + square^2 / (2 far).
        total = (square + square.square() / (2 * far)).sum() + foot_lock._BEND * shift.diff(dim=1).diff(
            dim=1
        ).square().sum()
        for t in range(11):
            for joint in range(2):
                step = x_FTED[0, t + 1, joint] + shift[0, t + 1] - x_FTED[0, t, joint] - shift[0, t]
                square, slow = step.square().sum(), foot_lock._SLOW**2
                weight = touch_FTE[0, t, joint] * touch_FTE[0, t + 1, joint]
                total = total + foot_lock._STEP * weight * slow * square / (slow + square)
        total.backward()
        return total

    optimizer.step(cost)
    found = foot_lock._shifts(x_FTED, touch_FTE, None, 0, 1.0)
    assert shift.abs().max() > 1e-4
    torch.testing.assert_close(found, shift.detach(), atol=2e-6, rtol=0)


def test_motions_of_several_lengths_are_locked_as_each_alone():
    root, rotation, offset, stands = body(drift_m_per_frame=0.004)
    lengths = torch.tensor([root.shape[1], root.shape[1] - 17])
    together = lock_feet(root, rotation, offset, stands, SMPL22, frames=lengths)
    for person, length in enumerate(lengths.tolist()):
        own = slice(person, person + 1), slice(0, length)
        alone = lock_feet(root[own], rotation[own], offset[own[0]], stands[own], SMPL22)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[own], expected, atol=1e-9, rtol=0)


def test_feet_are_held_alike_at_any_rate():
    """A body that glides by 12 cm a second, whose feet touch the ground in the second of three seconds."""
    moved = {}
    offset_13J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)[None]
    for skeleton in (SMPL22, HUMANML22):
        fps = skeleton.fps
        second_T = torch.arange(3 * fps, dtype=torch.float64) / fps
        # Hips and knees bend, so that the legs reach.
        angle_TJ = torch.zeros(3 * fps, 22, dtype=torch.float64)
        angle_TJ[:, [1, 2]], angle_TJ[:, [4, 5]] = -0.5, 1.0
        rotation_TJ33 = matrix_about_axis("X", angle_TJ)
        root_T3 = 0.12 * second_T[:, None] * torch.tensor([0.0, 0, 1], dtype=torch.float64)
        touch_TK = ((second_T >= 0.999) & (second_T <= 2.001)).double()[:, None].expand(-1, 4)
        before, after = (
            fk(*motion, offset_13J3)[0]
            for motion in (
                (root_T3, rotation_TJ33),
                lock_feet(root_T3, rotation_TJ33, offset_13J3, touch_TK, skeleton),
            )
        )
        moved[fps] = (after - before)[:: fps // 10, 7, 2]
    assert moved[30].max() - moved[30].min() > 0.06
    torch.testing.assert_close(moved[20], moved[30], atol=0.004, rtol=0)
