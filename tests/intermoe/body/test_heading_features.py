"""HumanML3D's features against its definition, written out frame by frame. Legend: T frames, J = 22 joints, F = 263,
B batch, P = 1 person."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from intermoe.body.features import (
    contacts_from_features,
    exchange_persons,
    joints_from_features,
    motion_features,
    rotations_from_features,
)
from intermoe.body.heading_features import heading_features, heading_joints, heading_rotations
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_about_axis, matrix_from_6d, matrix_from_axis_angle
from intermoe.body.skeletons import HUMANML22

# The data set's own numbers of joints and axes.
CHAINS = ((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20))
RIGHT, LEFT, UP, DOWN, FRONT = (-1, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)
# fmt: off
AXES = (None, LEFT, RIGHT, UP, DOWN, DOWN, UP, DOWN, DOWN, UP, FRONT, FRONT, UP, LEFT, RIGHT, FRONT, DOWN, DOWN, DOWN,
        DOWN, DOWN, DOWN)
# fmt: on


def moving(frames: int, turn: float, speed: float, seed: int = 0) -> torch.Tensor:
    """Joints [T, J, 3], float64, of somebody who walks at metres per frame and turns by radians per frame, swaying."""
    rng = torch.Generator().manual_seed(seed)
    axis_J3 = 0.3 * torch.randn(22, 3, generator=rng, dtype=torch.float64)
    now_T = torch.arange(frames, dtype=torch.float64)
    local_TJ33 = matrix_from_axis_angle(torch.sin(now_T / 7)[:, None, None] * axis_J3)
    yaw_T = 0.7 + turn * now_T
    local_TJ33[:, 0] = matrix_about_axis("Y", yaw_T) @ local_TJ33[:, 0]
    step_T3 = speed * torch.stack([yaw_T.sin(), torch.zeros_like(yaw_T), yaw_T.cos()], dim=-1)
    place_T3 = torch.tensor([3.0, 1.2, -2.0], dtype=torch.float64) + step_T3.cumsum(0)
    place_T3[:, 1] += 0.05 * torch.sin(now_T / 3)
    offset_J3 = torch.tensor(HUMANML22.rest_offsets, dtype=torch.float64)
    return forward_kinematics(place_T3, local_TJ33, offset_J3, HUMANML22.parents)[0]


MOTIONS = {
    "walking": moving(60, 0.0, 0.06),
    "turning": moving(90, -0.05, 0.02, seed=1),
    "spinning": moving(150, 0.06, 0.0, seed=2),
}
each_motion = pytest.mark.parametrize("joint_TJ3", MOTIONS.values(), ids=MOTIONS)


def about_y(vector, angle):
    x, y, z = vector
    return np.array(
        [math.cos(angle) * x + math.sin(angle) * z, y, math.cos(angle) * z - math.sin(angle) * x], dtype=float
    )


def unit(vector):
    return np.asarray(vector, float) / np.linalg.norm(vector)


def smallest_turn(start, end):
    """Rodrigues' formula about the normal of both."""
    normal = np.cross(start, end)
    angle = math.atan2(np.linalg.norm(normal), float(np.dot(start, end)))
    x, y, z = unit(normal) if angle > 1e-12 else (0, 0, 0)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def prepared(joint_TJ3) -> np.ndarray:
    """On the floor, the first root above the origin, facing +z by shoulders plus hips."""
    place = np.array(joint_TJ3, dtype=float)
    place[..., 1] -= place[..., 1].min()
    place -= place[0, 0] * [1, 0, 1]
    across = place[0, 2] - place[0, 1] + place[0, 17] - place[0, 16]
    ahead = np.cross([0, 1, 0], across)
    yaw = math.atan2(ahead[0], ahead[2])
    return np.array([[about_y(joint, -yaw) for joint in frame] for frame in place])


def headings(place_TJ3: np.ndarray) -> list[float]:
    """Of each frame: shoulders less hips, smoothed by a normal distribution of 20 frames, cut off at 80."""
    ahead = []
    for frame in place_TJ3:
        across = (frame[17] - frame[16]) - (frame[2] - frame[1])
        ahead.append(np.cross([0, 1, 0], unit(across)))
    weights = [math.exp(-0.5 * (k / 20) ** 2) for k in range(-80, 81)]
    found = []
    for t in range(len(ahead)):
        near = [ahead[min(max(t + k, 0), len(ahead) - 1)] for k in range(-80, 81)]
        x, _, z = np.array(weights) @ np.array(near)
        found.append(math.atan2(x, z))
    return found


def written_out(joint_TJ3) -> np.ndarray:
    """The features [T - 1, F] by their definition."""
    place_TJ3 = prepared(joint_TJ3)
    yaw_T = headings(place_TJ3)
    rows = []
    for t in range(len(place_TJ3) - 1):
        now, following, yaw = place_TJ3[t], place_TJ3[t + 1], yaw_T[t]
        turn = (yaw_T[t + 1] - yaw + math.pi) % (2 * math.pi) - math.pi
        step = about_y(following[0] - now[0], -yaw_T[t + 1])
        row = [-turn / 2, step[0], step[2], now[0, 1]]
        for joint in range(1, 22):
            row += list(about_y(now[joint] - now[0] * [1, 0, 1], -yaw))
        take_out = np.stack([about_y(axis, -yaw) for axis in np.eye(3)], axis=1)
        local = {}
        for chain in CHAINS:
            before = take_out
            for parent, joint in pairwise(chain):
                turned = smallest_turn(AXES[joint], unit(now[joint] - now[parent]))
                local[joint] = before.T @ turned
                before = turned
        for joint in range(1, 22):
            row += [*local[joint][:, 0], *local[joint][:, 1]]
        for joint in range(22):
            row += list(about_y(following[joint] - now[joint], -yaw))
        row += [float(((following[joint] - now[joint]) ** 2).sum() < 0.002) for joint in (7, 10, 8, 11)]
        rows.append(row)
    return np.array(rows)


@each_motion
def test_features_are_those_of_the_definition(joint_TJ3):
    features_TF = heading_features(joint_TJ3, HUMANML22)
    assert features_TF.shape == (len(joint_TJ3) - 1, 263)
    np.testing.assert_allclose(features_TF.numpy(), written_out(joint_TJ3), atol=1e-9)


def test_the_motions_tell_the_numbers_apart():
    """Contacts of both kinds, a heading that passes -z, and one that shoulders plus hips would not give."""
    features = {name: heading_features(joint_TJ3, HUMANML22) for name, joint_TJ3 in MOTIONS.items()}
    contacts = torch.cat([features_TF[:, -4:] for features_TF in features.values()])
    assert set(contacts.flatten().tolist()) == {0.0, 1.0}
    assert max(abs(np.diff(headings(prepared(MOTIONS["spinning"]))))) > math.pi
    assert features["turning"][:, 0].min() > 0 > features["spinning"][:, 0].max()  # positive to the right
    assert features["turning"][:, 0].mean() == pytest.approx(0.05 / 2, abs=0.005)
    between = []
    for frame in prepared(MOTIONS["walking"]):
        plus, minus = (frame[17] - frame[16] + sign * (frame[2] - frame[1]) for sign in (1, -1))
        between.append(abs(math.atan2(plus[2], plus[0]) % 6.283 - math.atan2(minus[2], minus[0]) % 6.283))
    assert max(between) > 0.1


@each_motion
def test_joints_come_back_facing_plus_z_from_the_origin(joint_TJ3):
    place_TJ3 = prepared(joint_TJ3)
    first = headings(place_TJ3)[0]
    expected = np.array([[about_y(joint, -first) for joint in frame] for frame in place_TJ3[:-1]])
    exact = heading_joints(heading_features(joint_TJ3, HUMANML22), HUMANML22)
    np.testing.assert_allclose(exact.numpy(), expected, atol=1e-9)
    single = heading_joints(heading_features(joint_TJ3.float(), HUMANML22), HUMANML22)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-4)


def test_where_and_which_way_a_motion_begins_changes_nothing():
    joint_TJ3 = MOTIONS["turning"]
    moved_TJ3 = joint_TJ3 @ matrix_about_axis("Y", torch.tensor(2.9, dtype=torch.float64)).T + torch.tensor([5, 3, -1])
    torch.testing.assert_close(
        heading_features(moved_TJ3, HUMANML22), heading_features(joint_TJ3, HUMANML22), atol=1e-9, rtol=0
    )


def test_a_batch_gives_what_each_motion_gives_alone():
    joint_BTJ3 = torch.stack([joint_TJ3[:50] for joint_TJ3 in MOTIONS.values()])
    features_BTF = heading_features(joint_BTJ3, HUMANML22)
    for row, joint_TJ3 in enumerate(joint_BTJ3):
        torch.testing.assert_close(features_BTF[row], heading_features(joint_TJ3, HUMANML22), atol=1e-12, rtol=0)
    for read in (heading_joints, heading_rotations):
        both = read(features_BTF, HUMANML22)
        for row, features_TF in enumerate(features_BTF):
            torch.testing.assert_close(both[row], read(features_TF, HUMANML22), atol=1e-12, rtol=0)


@pytest.mark.parametrize("padding", [0.0, 7.0])
def test_padding_changes_no_valid_frame(padding):
    features_TF = heading_features(MOTIONS["walking"].float(), HUMANML22)
    padded_TF = torch.cat([features_TF, torch.full((30, 263), padding)])
    for read in (heading_joints, heading_rotations):
        found = read(padded_TF, HUMANML22)
        assert found.isfinite().all()
        torch.testing.assert_close(found[:59], read(features_TF, HUMANML22), atol=1e-7, rtol=0)


def test_gradients_of_joints_are_those_of_differences():
    rng = torch.Generator().manual_seed(0)
    features_TF = 0.3 * torch.randn(4, 263, generator=rng, dtype=torch.float64)
    weight_TJ3 = torch.randn(4, 22, 3, generator=rng, dtype=torch.float64)
    features_TF.requires_grad_()
    (gradient_TF,) = torch.autograd.grad((heading_joints(features_TF, HUMANML22) * weight_TJ3).sum(), features_TF)
    for t, f in [(t, f) for t in range(4) for f in (0, 1, 2, 3, 4, 17, 66, 67, 200, 262)]:
        either = []
        for step in (1e-6, -1e-6):
            moved_TF = features_TF.detach().clone()
            moved_TF[t, f] += step
            either.append(float((heading_joints(moved_TF, HUMANML22) * weight_TJ3).sum()))
        assert gradient_TF[t, f].item() == pytest.approx((either[0] - either[1]) / 2e-6, abs=1e-6)
    assert not gradient_TF[:, 67:].any()  # rotations, velocities and contacts have no part in it


@each_motion
def test_rotations_pose_a_body_as_the_joints_are(joint_TJ3):
    """The root's own rotation, which no column holds, is found by Procrustes; bones keep their lengths."""
    features_TF = heading_features(joint_TJ3, HUMANML22)
    joint_TJ3 = heading_joints(features_TF, HUMANML22)
    rotation_TR6 = heading_rotations(features_TF, HUMANML22)
    assert rotation_TR6.shape == (len(features_TF), 21, 6)
    offset_J3 = torch.tensor(HUMANML22.rest_offsets, dtype=torch.float64)
    pelvis_T33 = (joint_TJ3[:, 1:4] - joint_TJ3[:, :1]).mT @ offset_J3[1:4]
    u, _, vt = torch.linalg.svd(pelvis_T33)
    sign = torch.ones(len(u), 3, dtype=torch.float64)
    sign[:, 2] = torch.linalg.det(u @ vt)
    root_T33 = u @ torch.diag_embed(sign) @ vt
    local_TJ33 = torch.cat([root_T33[:, None], matrix_from_6d(rotation_TR6)], dim=1)
    posed_TJ3, _ = forward_kinematics(joint_TJ3[:, 0], local_TJ33, offset_J3, HUMANML22.parents)
    # These bodies have the T-pose's own bones; and nobody's head, hands and toes turn by themselves.
    torch.testing.assert_close(posed_TJ3, joint_TJ3, atol=1e-5, rtol=0)
    ends = [joint - 1 for joint in HUMANML22.end_effectors]
    still_6 = torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(rotation_TR6[:, ends], still_6.expand(len(features_TF), 5, 6), atol=1e-12, rtol=0)


def test_features_are_read_by_the_functions_of_all_skeletons():
    features_TF = heading_features(MOTIONS["walking"], HUMANML22)
    assert torch.equal(joints_from_features(features_TF, HUMANML22), heading_joints(features_TF, HUMANML22))
    assert torch.equal(rotations_from_features(features_TF, HUMANML22), heading_rotations(features_TF, HUMANML22))
    features_TF[0, -4:] = torch.tensor([-0.5, 0.25, 1.0, 1.5])
    assert contacts_from_features(features_TF, HUMANML22)[0].tolist() == [0.0, 0.25, 1.0, 1.0]


def test_features_of_a_batch_are_those_of_each_motion_at_its_own_length():
    """Whatever is behind it, and without its rotations, which are made of the joints."""
    lengths, joint_BTPJ3 = torch.tensor([60, 41]), torch.zeros(2, 60, 1, 22, 3, dtype=torch.float64)
    motions = [joint_TJ3[:frames] for joint_TJ3, frames in zip(MOTIONS.values(), lengths, strict=False)]
    for row, joint_TJ3 in enumerate(motions):
        joint_BTPJ3[row, : len(joint_TJ3), 0] = joint_TJ3
    features_BTPF, frames_B = motion_features(joint_BTPJ3, torch.zeros(2, 60, 1, 21, 6), lengths, HUMANML22)
    assert frames_B.tolist() == [59, 40]
    for row, joint_TJ3 in enumerate(motions):
        found_TF = features_BTPF[row, :, 0]
        torch.testing.assert_close(
            found_TF[: len(joint_TJ3) - 1], heading_features(joint_TJ3, HUMANML22), atol=1e-9, rtol=0
        )
        assert not found_TF[len(joint_TJ3) - 1 :].any()


def test_what_makes_features_of_two_persons_refuses_them():
    with pytest.raises(ValueError) as caught:
        exchange_persons(torch.zeros(1, 5, 2, 263), torch.tensor([True]), HUMANML22)
    assert str(caught.value) == "features of humanml22 are of the kind 'heading', not those of two persons"


def test_a_bone_against_its_axis_is_a_half_turn():
    """A leg straight up: no smallest turn is unlike the others, and none gives NaN."""
    joint_TJ3 = torch.tensor(HUMANML22.rest_offsets, dtype=torch.float64)
    place = [torch.zeros(3, dtype=torch.float64)]
    for joint, parent in enumerate(HUMANML22.parents[1:], start=1):
        place.append(place[parent] + (torch.tensor([0, 0.4, 0]) if joint == 4 else joint_TJ3[joint]))
    features_TF = heading_features(torch.stack(place).repeat(3, 1, 1), HUMANML22)
    columns_23 = features_TF[0, 67 + 18 : 67 + 24].view(2, 3)
    hip_33 = torch.from_numpy(smallest_turn(LEFT, unit(joint_TJ3[1].numpy())))
    before_33 = hip_33 @ torch.stack([*columns_23, torch.linalg.cross(*columns_23)], dim=-1)
    torch.testing.assert_close(before_33 @ torch.tensor([0, -1.0, 0]).double(), torch.tensor([0, 1.0, 0]).double())
