"""The end of a limb goes where it is to go, by two bones that keep their length."""

import pytest
import torch

from intermoe.body import two_bones
from intermoe.body.foot_lock import legs
from intermoe.body.hands import arms
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.skeletons import SMPL22
from intermoe.body.two_bones import Limb, move_end, shift_in_reach

LEG = Limb(*legs(SMPL22)[0][:3])
TOES = legs(SMPL22)[0].toes
REST_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
FRAMES = 20


def random_rotations(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64)).Q


def moved(limb, rotation, shift, ahead, rest_J3=REST_J3, root=None):
    """Joints and their world rotations before and after an end was moved."""
    root = torch.zeros(FRAMES, 3, dtype=torch.float64) if root is None else root
    before = forward_kinematics(root, rotation, rest_J3, SMPL22.parents)
    local = list(rotation.unbind(-3))
    move_end(limb, before, local, shift, ahead)
    return before, forward_kinematics(root, torch.stack(local, dim=-3), rest_J3, SMPL22.parents)


@pytest.mark.parametrize("limb", [*arms(SMPL22), LEG])
def test_the_end_arrives_with_its_orientation_and_nothing_else_moves(limb):
    rotation = random_rotations(FRAMES, SMPL22.num_joints)
    rotation = rotation * rotation.det()[..., None, None]
    shift = 0.1 * torch.randn(FRAMES, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ahead = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64).expand(FRAMES, 3)
    (joints, world), (after, turned) = moved(limb, rotation, shift, ahead)
    bones = [(after[:, a] - after[:, b]).norm(dim=-1) for a, b in ((limb[0], limb[1]), (limb[1], limb[2]))]
    whole = sum(bones)
    target = joints[:, limb.end] + shift
    far = (target - joints[:, limb.upper]).norm(dim=-1)
    near = (bones[0] - bones[1]).abs()
    reached = (far < two_bones._REACH * whole) & (far > near)
    assert reached.sum() > FRAMES // 3
    torch.testing.assert_close(after[reached, limb.end], target[reached], atol=1e-6, rtol=0)
    torch.testing.assert_close(turned[:, limb.end], world[:, limb.end], atol=1e-6, rtol=0)
    others = [joint for joint in range(SMPL22.num_joints) if joint not in (limb.middle, limb.end, TOES)]
    torch.testing.assert_close(after[:, others], joints[:, others], atol=1e-9, rtol=0)
    # By the law of cosines there is one angle between the bones.
    cosine = (bones[0] ** 2 + bones[1] ** 2 - far**2) / (2 * bones[0] * bones[1])
    up, down = after[:, limb.upper] - after[:, limb.middle], after[:, limb.end] - after[:, limb.middle]
    found = (up * down).sum(-1) / (bones[0] * bones[1])
    torch.testing.assert_close(found[reached], cosine[reached], atol=1e-5, rtol=0)


def test_a_straight_leg_bends_towards_the_toes():
    rest_J3 = REST_J3.clone()
    # Thigh and shin in one line, straight down.
    rest_J3[LEG.middle], rest_J3[LEG.end] = torch.tensor([0, -0.4, 0.0]), torch.tensor([0, -0.42, 0.0])
    root = torch.zeros(FRAMES, 3, dtype=torch.float64)
    root[:, 1] = torch.linspace(0.95, 0.9, FRAMES)
    rotation = torch.eye(3, dtype=torch.float64).repeat(FRAMES, SMPL22.num_joints, 1, 1)
    lift = torch.zeros(FRAMES, 3, dtype=torch.float64)
    lift[:, 1] = 0.1  # the foot is lifted: only a knee that bends can do it
    towards_toes = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(FRAMES, 3)
    (joints, _), (after, _) = moved(LEG, rotation, lift, towards_toes, rest_J3, root)
    torch.testing.assert_close(after[:, LEG.end], joints[:, LEG.end] + lift, atol=1e-6, rtol=0)
    assert (after[:, LEG.middle, 2] - joints[:, LEG.middle, 2]).min() > 0.1


def test_a_shift_beyond_reach_ends_at_the_nearest_point_that_is_reached():
    arm = arms(SMPL22)[0]
    joints = torch.zeros(3, SMPL22.num_joints, 3, dtype=torch.float64)
    joints[:, arm.middle, 0], joints[:, arm.end, 0] = 0.3, 0.3
    joints[:, arm.end, 1] = -0.2
    shift = torch.tensor([[0.1, 0.0, 0.0], [3.0, 0.2, 0.0], [-0.3, 0.2, 0.0]], dtype=torch.float64)
    found = shift_in_reach(arm, joints, shift) + joints[:, arm.end]
    assert found[0].tolist() == pytest.approx([0.4, -0.2, 0.0])
    # From the shoulder, 3.3 along x and nothing else: the arm's 0.5, but for the bend that it keeps.
    assert found[1].tolist() == pytest.approx([two_bones._REACH * 0.5, 0.0, 0.0])
    assert found[2].tolist() == pytest.approx([0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "down", [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], ids=["hanging", "aside", "overhead"]
)
def test_a_straight_arm_bends_whichever_way_it_points(down):
    arm = arms(SMPL22)[0]
    rest_J3 = REST_J3.clone()
    rest_J3[arm.middle], rest_J3[arm.end] = 0.25 * torch.tensor(down), 0.25 * torch.tensor(down)
    rotation = torch.eye(3, dtype=torch.float64).repeat(FRAMES, SMPL22.num_joints, 1, 1)
    shift = (-0.1 * torch.tensor(down, dtype=torch.float64)).expand(FRAMES, 3)
    ahead = torch.tensor([0.0, -1.0, -0.5], dtype=torch.float64).expand(FRAMES, 3)
    (joints, _), (after, _) = moved(arm, rotation, shift, ahead, rest_J3)
    torch.testing.assert_close(after[:, arm.end], joints[:, arm.end] + shift, atol=1e-6, rtol=0)
    way = after[0, arm.middle] - joints[0, arm.middle]
    assert way[2] < -0.04


def test_the_elbow_of_a_nearly_straight_arm_does_not_follow_noise():
    arm = arms(SMPL22)[0]
    rest_J3 = REST_J3.clone()
    rest_J3[arm.middle], rest_J3[arm.end] = torch.tensor([0.25, 0, 0.0]), torch.tensor([0.25, 0, 0.0])
    rotation = torch.eye(3, dtype=torch.float64).repeat(FRAMES, SMPL22.num_joints, 1, 1)
    noise = 0.004 * torch.randn(FRAMES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation[:, arm.upper] = torch.matrix_exp(torch.linalg.cross(noise[:, None], torch.eye(3).double()[None], dim=-1))
    rotation[:, arm.middle] = rotation[:, arm.upper].mT
    shift = torch.tensor([-0.05, 0.0, 0.0], dtype=torch.float64).expand(FRAMES, 3)
    ahead = torch.tensor([0.0, -1.0, -0.5], dtype=torch.float64).expand(FRAMES, 3)
    (joints, _), (after, _) = moved(arm, rotation, shift, ahead, rest_J3)
    assert joints[:, arm.middle].diff(dim=0).norm(dim=-1).max() > 0.001
    assert after[:, arm.middle].diff(dim=0).norm(dim=-1).max() < 0.05
