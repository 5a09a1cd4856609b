"""Forward kinematics, the T-pose found from a motion, and rotations fitted to joints."""

import pytest
import torch
from turns import angle_between, matrix_from_axis_angle

from intermoe.body.kinematics import bone_offsets, fit_rotations, forward_kinematics, rest_offsets
from intermoe.body.rotations import matrix_from_6d, sixd_from_matrix
from intermoe.body.skeletons import SMPL22

J = SMPL22.num_joints


@pytest.fixture
def body():
    """A motion of 40 frames whose T-pose differs from the skeleton's by some 15 degrees a bone and 10% a length."""
    generator = torch.Generator().manual_seed(3)
    rest_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
    tilt_J33 = matrix_from_axis_angle(0.15 * torch.randn(J, 3, generator=generator, dtype=torch.float64))
    stretch_J = 1 + 0.1 * torch.randn(J, 1, generator=generator, dtype=torch.float64)
    offset_J3 = (tilt_J33 @ rest_J3[..., None]).squeeze(-1) * stretch_J
    phase = torch.rand(J, 3, generator=generator, dtype=torch.float64) * 6
    time_T = torch.arange(40, dtype=torch.float64)[:, None, None] / 30
    rotation_TJ33 = matrix_from_axis_angle(0.5 * torch.sin(3 * time_T + phase))
    root_T3 = torch.stack([time_T[:, 0, 0], 0.9 + 0 * time_T[:, 0, 0], -time_T[:, 0, 0]], dim=-1)
    position_TJ3, _ = forward_kinematics(root_T3, rotation_TJ33, offset_J3, SMPL22.parents)
    return position_TJ3, rotation_TJ33, offset_J3


def fk(root_T3, rotation_TJ33, offset_J3):
    return forward_kinematics(root_T3, rotation_TJ33, offset_J3, SMPL22.parents)[0]


def test_forward_kinematics_of_a_bent_arm_is_the_sum_by_hand():
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z, from x to y
    rotation_J33 = torch.stack([quarter, quarter, torch.eye(3)])
    offset_J3 = torch.tensor([[9.0, 9, 9], [1, 0, 0], [2, 0, 0]])
    position_J3, turn_J33 = forward_kinematics(torch.tensor([5.0, 0, 0]), rotation_J33, offset_J3, (-1, 0, 1))
    torch.testing.assert_close(position_J3, torch.tensor([[5.0, 0, 0], [5, 1, 0], [3, 1, 0]]))
    torch.testing.assert_close(turn_J33[2], quarter @ quarter)


def test_bone_offsets_have_median_lengths_and_the_skeletons_directions(body):
    position_TJ3, _, offset_J3 = body
    position_TJ3 = position_TJ3.clone()
    position_TJ3[7] += torch.randn(J, 3, dtype=torch.float64)  # one wild frame moves no median
    found_J3 = bone_offsets(position_TJ3, SMPL22)
    torch.testing.assert_close(found_J3.norm(dim=-1)[1:], offset_J3.norm(dim=-1)[1:], atol=1e-9, rtol=0)
    rest_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
    assert torch.linalg.cross(found_J3, rest_J3).abs().max() < 1e-9
    assert (found_J3 * rest_J3).sum(-1)[1:].min() > 0
    assert found_J3[0].tolist() == [0, 0, 0]


def test_fit_returns_exact_rotations_unchanged_and_finds_the_root(body):
    position_TJ3, rotation_TJ33, offset_J3 = body
    root_T3, fitted_TJ33 = fit_rotations(position_TJ3, sixd_from_matrix(rotation_TJ33[:, 1:]), SMPL22, offset_J3)
    torch.testing.assert_close(root_T3, position_TJ3[:, 0])
    assert angle_between(fitted_TJ33, rotation_TJ33).max() < 1e-3


def test_rest_offsets_finds_the_t_pose_that_the_rotations_are_relative_to(body):
    position_TJ3, rotation_TJ33, offset_J3 = body
    rotation_TR6 = sixd_from_matrix(rotation_TJ33[:, 1:])
    found_J3 = rest_offsets(position_TJ3, rotation_TR6, SMPL22)
    assert (found_J3 - offset_J3)[1:].norm(dim=-1).max() < 0.002
    root_T3, fitted_TJ33 = fit_rotations(position_TJ3, rotation_TR6, SMPL22, found_J3)
    assert (fk(root_T3, fitted_TJ33, found_J3) - position_TJ3).norm(dim=-1).max() < 1e-3
    assert angle_between(fitted_TJ33[:, 1:], rotation_TJ33[:, 1:]).max() < 0.5


def test_rest_offsets_of_rotations_that_mean_nothing_stay_near_the_skeleton(body):
    position_TJ3, _, _ = body
    noise_TR6 = torch.randn(40, J - 1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found_J3 = rest_offsets(position_TJ3, noise_TR6, SMPL22)
    rest_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
    cos = torch.nn.functional.cosine_similarity(found_J3, rest_J3, dim=-1)[1:]
    assert cos.min() > 0.8


def test_fit_reaches_the_joints_though_the_rotations_are_wrong(body):
    position_TJ3, rotation_TJ33, offset_J3 = body
    generator = torch.Generator().manual_seed(1)
    wrong = matrix_from_axis_angle(0.5 * torch.randn(40, J - 1, 3, generator=generator, dtype=torch.float64))
    rotation_TR6 = sixd_from_matrix(rotation_TJ33[:, 1:] @ wrong)
    root_T3, fitted_TJ33 = fit_rotations(position_TJ3, rotation_TR6, SMPL22, offset_J3)
    assert (fk(root_T3, fitted_TJ33, offset_J3) - position_TJ3).norm(dim=-1).max() < 1e-4
    eye = torch.eye(3, dtype=torch.float64).expand_as(fitted_TJ33)
    torch.testing.assert_close(fitted_TJ33 @ fitted_TJ33.mT, eye, atol=1e-6, rtol=0)
    assert torch.linalg.det(fitted_TJ33).min() > 0.99


def test_one_bone_is_corrected_without_a_turn_about_itself():
    offset_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
    elbow, wrist = SMPL22.index("left_elbow"), SMPL22.index("left_wrist")
    bone = torch.nn.functional.normalize(offset_J3[wrist], dim=0)
    twisted_J33 = torch.eye(3, dtype=torch.float64).repeat(J, 1, 1)
    twisted_J33[elbow] = matrix_from_axis_angle(0.8 * bone)  # only about the forearm itself
    straight_J3 = fk(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64).repeat(J, 1, 1), offset_J3)
    _, fitted_J33 = fit_rotations(straight_J3, sixd_from_matrix(twisted_J33[1:]), SMPL22, offset_J3)
    assert angle_between(fitted_J33, twisted_J33).max() < 1e-3


def test_fit_takes_persons_in_a_batch_like_one_by_one(body):
    position_TJ3, rotation_TJ33, offset_J3 = body
    position_TPJ3 = torch.stack([position_TJ3, position_TJ3.flip(0)], 1)
    rotation_TPR6 = sixd_from_matrix(torch.stack([rotation_TJ33, rotation_TJ33.flip(0)], 1)[:, :, 1:])
    offset_PJ3 = torch.stack([offset_J3, bone_offsets(position_TJ3, SMPL22)])
    root_TP3, rotation_TPJ33 = fit_rotations(position_TPJ3, rotation_TPR6, SMPL22, offset_PJ3)
    for person in range(2):
        root_T3, one_TJ33 = fit_rotations(
            position_TPJ3[:, person], rotation_TPR6[:, person], SMPL22, offset_PJ3[person]
        )
        torch.testing.assert_close(root_TP3[:, person], root_T3)
        torch.testing.assert_close(rotation_TPJ33[:, person], one_TJ33)


def test_fit_stays_finite_for_a_body_in_one_point():
    rotation_R6 = sixd_from_matrix(torch.eye(3).repeat(J - 1, 1, 1))
    root_3, rotation_J33 = fit_rotations(torch.zeros(J, 3), rotation_R6, SMPL22, torch.zeros(J, 3))
    assert rotation_J33.isfinite().all()
    torch.testing.assert_close(matrix_from_6d(sixd_from_matrix(rotation_J33)), rotation_J33)
    assert root_3.tolist() == [0, 0, 0]


def test_weighed_against_rotations_a_body_goes_where_all_of_its_joints_say(body):
    """Held to its rotations, it is the rigid body nearest to all joints (Kabsch, by singular values)."""
    position_TJ3, rotation_TJ33, offset_J3 = body
    noisy_TJ3 = position_TJ3 + 0.02 * torch.randn(position_TJ3.shape, generator=torch.Generator().manual_seed(1))
    noisy_TJ3[:, 0] = position_TJ3[:, 0]
    given_TR6 = sixd_from_matrix(rotation_TJ33[:, 1:])
    _, held_TJ33 = fit_rotations(noisy_TJ3, given_TR6, SMPL22, offset_J3, per_radian=1e4)
    torch.testing.assert_close(held_TJ33[:, 1:], rotation_TJ33[:, 1:], atol=1e-5, rtol=0)
    for frame in range(len(noisy_TJ3)):
        posed_J3, aim_J3 = (x_TJ3[frame] - x_TJ3[frame, 0] for x_TJ3 in (position_TJ3, noisy_TJ3))
        u_33, _, vt_33 = torch.linalg.svd(aim_J3.double().T @ posed_J3.double())
        turn_33 = u_33 @ torch.diag(torch.tensor([1.0, 1, torch.linalg.det(u_33 @ vt_33)]).double()) @ vt_33
        torch.testing.assert_close(
            held_TJ33[frame, 0].double(), turn_33 @ rotation_TJ33[frame, 0].double(), atol=1e-5, rtol=0
        )


def test_errors_of_single_joints_cancel_where_rotations_are_weighed(body):
    position_TJ3, rotation_TJ33, offset_J3 = body
    noisy_TJ3 = position_TJ3 + 0.02 * torch.randn(position_TJ3.shape, generator=torch.Generator().manual_seed(2))
    given_TR6 = sixd_from_matrix(rotation_TJ33[:, 1:])
    missed = []
    for per_radian in (0.0, 0.3):
        root_T3, fitted_TJ33 = fit_rotations(noisy_TJ3, given_TR6, SMPL22, offset_J3, per_radian=per_radian)
        found_TJ3 = fk(root_T3, fitted_TJ33, offset_J3)
        missed.append(
            float(((found_TJ3 - found_TJ3[:, :1]) - (position_TJ3 - position_TJ3[:, :1])).norm(dim=-1).mean())
        )
    assert missed[1] < 0.6 * missed[0]
