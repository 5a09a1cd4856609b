import numpy as np
import pytest
import torch
from turns import matrix_from_axis_angle

from intermoe.body.features import (
    FeatureLayout,
    Normaliser,
    canonicalise,
    exchange_persons,
    joints_from_features,
    motion_features,
    rotations_from_features,
)
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_about_axis, sixd_from_matrix
from intermoe.body.skeletons import SMPL22

# Legend: B batch, T frames, P = 2 persons, J joints, R = J - 1, F features of a person-frame.


def random_motion(batch=3, frames=12, seed=0):
    """Two people who walk about and turn; their feet sink to the ground now and then and sometimes rest."""
    rng = torch.Generator().manual_seed(seed)
    turns = 0.4 * torch.randn(batch, frames, 2, 22, 3, generator=rng).cumsum(1) / frames**0.5
    turns[..., 0, 1] += 6.28 * torch.rand(batch, 1, 2, generator=rng)
    turns[:, frames // 2 :] = turns[:, frames // 2, None]  # then they stand still: contacts
    root = torch.randn(batch, 1, 2, 3, generator=rng) + torch.tensor([0.0, 0.9, 0.0])
    rotation = matrix_from_axis_angle(turns)
    position, _ = forward_kinematics(
        root.expand(-1, frames, -1, -1), rotation, torch.tensor(SMPL22.rest_offsets), SMPL22.parents
    )
    return position, sixd_from_matrix(rotation[..., 1:, :, :])


def naive_features(position_TPJ3, rotation_TPR6):
    """The definition, person by person and frame by frame, the way it is written down for InterHuman."""
    placed = []
    for person in range(2):
        p = position_TPJ3[:, person].astype(np.float64)
        p[..., 1] -= p[..., 1].min()
        root = p[0, 0] * [1, 0, 1]
        forward = np.cross([0, 1, 0], p[0, 2] - p[0, 1])
        forward /= np.linalg.norm(forward)
        yaw = np.arctan2(forward[0], forward[2])
        placed.append(((p - root) @ _turn(-yaw).T, root, yaw))
    (one, root1, yaw1), (two, root2, yaw2) = placed
    two = two @ _turn(yaw2 - yaw1).T + _turn(-yaw1) @ (root2 - root1)
    people = []
    for person, p in enumerate((one, two)):
        rows = []
        for t in range(len(p) - 1):
            velocity = p[t + 1] - p[t]
            contact = [
                float((velocity[j] ** 2).sum() < 0.001 and p[t, j, 1] < h)
                for j, h in ((7, 0.12), (10, 0.05), (8, 0.12), (11, 0.05))
            ]
            rows.append(np.concatenate([p[t].ravel(), velocity.ravel(), rotation_TPR6[t, person].ravel(), contact]))
        people.append(rows)
    return np.stack([np.stack(rows) for rows in people], 1)


def _turn(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_equals_the_definition_frame_by_frame():
    position, rotation = random_motion()
    features, frames = motion_features(position, rotation, torch.tensor([12, 12, 12]), SMPL22)
    assert frames.tolist() == [11, 11, 11]
    for b in range(3):
        expected = naive_features(position[b].numpy(), rotation[b].numpy())
        np.testing.assert_allclose(features[b].numpy(), expected, atol=2e-5)
    contacts = features[..., FeatureLayout.of(SMPL22).contacts]
    assert 0 < contacts.sum() < contacts.numel(), "the motion must show both a foot on the ground and one off it"


def test_contact_needs_a_low_and_slow_joint():
    position, rotation = torch.tensor(SMPL22.rest_offsets).cumsum(0).repeat(1, 4, 2, 1, 1), torch.zeros(1, 4, 2, 21, 6)
    position[..., 1] += 3
    for joint, heights in {7: (0.119, 0.121), 10: (0.049, 0.051), 8: (0, 0.2), 11: (0, 0.2)}.items():
        position[0, :, 0, joint, 1], position[0, :, 1, joint, 1] = heights
    position[:, :, :, 9, 1] = 0  # the lowest point of both persons
    position[0, 3, 0, 8, 0] += 0.0318  # squared: just above 0.001
    position[0, 3, 0, 11, 0] += 0.0314  # just below
    features, _ = motion_features(position, rotation, torch.tensor([4]), SMPL22)
    assert features[0, 0, :, -4:].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert features[0, 2, 0, -4:].tolist() == [1, 1, 0, 1]


def test_padding_never_changes_a_result():
    position, rotation = random_motion(batch=4)
    frames = torch.tensor([12, 7, 2, 1])
    alone = [
        motion_features(position[b : b + 1, :n], rotation[b : b + 1, :n], frames[b : b + 1], SMPL22)[0]
        for b, n in enumerate(frames.tolist())
    ]
    for b, n in enumerate(frames.tolist()):
        position[b, n:], rotation[b, n:] = torch.nan, torch.nan
    together, left = motion_features(position, rotation, frames, SMPL22)
    assert left.tolist() == [11, 6, 1, 0]
    assert together.shape == (4, 11, 2, 262)
    for b, n in enumerate(left.tolist()):
        torch.testing.assert_close(together[b, :n], alone[b][0], rtol=0, atol=0)
        assert (together[b, n:] == 0).all()


def test_a_low_frame_in_the_padding_does_not_set_the_floor():
    position, _ = random_motion(batch=1)
    expected = canonicalise(position[:, :6], torch.tensor([6]), SMPL22)
    position[:, 6:, ..., 1] -= 100
    torch.testing.assert_close(canonicalise(position, torch.tensor([6]), SMPL22)[:, :6], expected)


def test_a_common_turn_and_shift_leave_no_trace():
    position, rotation = random_motion()
    frames = torch.tensor([12, 9, 5])
    expected, _ = motion_features(position, rotation, frames, SMPL22)
    turn = matrix_about_axis("Y", torch.tensor([0.7, 3.0, -2.0]))[:, None, None]
    shift = torch.tensor([[3.0, 1.0, -2.0], [-1.0, -2.0, 4.0], [0.0, 0.5, 9.0]])[:, None, None, None]
    actual, _ = motion_features(position @ turn.mT + shift, rotation, frames, SMPL22)
    torch.testing.assert_close(actual[..., :-4], expected[..., :-4], atol=2e-5, rtol=0)


def test_canonical_frame_of_person_one():
    position, _ = random_motion()
    canonical = canonicalise(position, torch.tensor([12, 12, 12]), SMPL22)
    torch.testing.assert_close(canonical[:, 0, 0, 0, [0, 2]], torch.zeros(3, 2))
    torch.testing.assert_close(canonical[..., 1].amin(dim=(1, 3)), torch.zeros(3, 2))
    to_left = canonical[:, 0, 0, SMPL22.left_hip] - canonical[:, 0, 0, SMPL22.right_hip]
    torch.testing.assert_close(to_left[:, 2], torch.zeros(3), atol=1e-6, rtol=0)
    assert (to_left[:, 0] > 0).all(), "facing +z, the left is at +x"


def test_the_persons_keep_their_distances_along_the_ground():
    position, rotation = random_motion()
    features, _ = motion_features(position, rotation, torch.tensor([12, 12, 12]), SMPL22)
    joints = joints_from_features(features, SMPL22)
    truth = position[:, :-1]
    apart, truly_apart = ((x[:, :, 0, :, None] - x[:, :, 1, None])[..., [0, 2]].norm(dim=-1) for x in (joints, truth))
    torch.testing.assert_close(apart, truly_apart, atol=1e-5, rtol=0)
    # in height only each person's floor moves
    rise = (joints - truth)[..., 1]
    torch.testing.assert_close(rise, rise[:, :1, :, :1].expand_as(rise), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotations_from_features(features, SMPL22), rotation[:, :-1], rtol=0, atol=0)


def test_a_person_whose_hips_are_in_one_point_gives_finite_features():
    features, _ = motion_features(torch.zeros(1, 3, 2, 22, 3), torch.zeros(1, 3, 2, 21, 6), torch.tensor([3]), SMPL22)
    assert features.isfinite().all()


def test_layout_covers_every_feature_once():
    layout = FeatureLayout.of(SMPL22)
    parts = (layout.positions, layout.velocities, layout.rotations, layout.contacts)
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(262))
    assert [part.stop - part.start for part in parts] == [66, 66, 126, 4]


def test_normaliser_inverts_and_spares_what_does_not_vary():
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 9e-4, 1e-2])
    normaliser = Normaliser.from_moments(mean, std)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(normaliser.normalise(x), (x - mean) / torch.tensor([2.0, 1.0, 1e-2]))
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(x)), x)
    copy = Normaliser(3)
    copy.load_state_dict(normaliser.state_dict())
    torch.testing.assert_close(copy.normalise(x), normaliser.normalise(x))


@pytest.fixture(scope="module")
def published(golden):
    return dict(np.load(golden / "preprocess.npz"))


def raw_pair(published):
    """The raw files of both persons as the reader gives them, y up: positions [1, T, 2, 22, 3], rotations."""
    raw = torch.from_numpy(np.stack([published["raw1"], published["raw2"]], axis=1))[None]
    x, y, z = raw[..., :66].unflatten(-1, (22, 3)).unbind(-1)
    return torch.stack([x, z, -y], dim=-1), raw[..., 186:312].unflatten(-1, (21, 6))


def test_equals_published_preprocessing(published):
    position, rotation = raw_pair(published)
    features, _ = motion_features(position, rotation, torch.tensor([40]), SMPL22)
    for person, name in enumerate(("m1", "m2")):
        np.testing.assert_allclose(features[0, :, person].numpy(), published[name], atol=1e-4)
    swapped, _ = motion_features(position.flip(2), rotation.flip(2), torch.tensor([40]), SMPL22)
    np.testing.assert_allclose(swapped[0, :, 0].numpy(), published["m2_before_rigid"], atol=1e-4)
    half_yaw, x, z = published["relative"]
    np.testing.assert_allclose(features[0, 0, 1, [0, 2]].numpy(), [x, z], atol=1e-4)
    # Published angles are half angles of the turn that undoes the yaw.
    to_left = features[0, 0, 1, 3:6] - features[0, 0, 1, 6:9]
    yaw = float(torch.atan2(-to_left[2], to_left[0]))
    assert np.isclose(np.exp(1j * yaw), np.exp(-2j * half_yaw), atol=1e-4)

    normaliser = Normaliser.from_moments(torch.from_numpy(published["mean"]), torch.from_numpy(published["std"]))
    np.testing.assert_allclose(normaliser.normalise(features)[0, :, 0].numpy(), published["normed_m1"], atol=1e-4)


def test_exchanged_persons_have_the_features_of_the_exchanged_recording():
    torch.manual_seed(0)
    position, rotation = torch.randn(3, 20, 2, 22, 3), torch.randn(3, 20, 2, 21, 6)
    frames = torch.tensor([20, 12, 20])
    before, _ = motion_features(position, rotation, frames, SMPL22)
    wanted, _ = motion_features(position.flip(2), rotation.flip(2), frames, SMPL22)
    found = exchange_persons(before, torch.tensor([True, True, False]), SMPL22)
    for row, length in ((0, 19), (1, 11)):
        torch.testing.assert_close(found[row, :length], wanted[row, :length], atol=1e-4, rtol=1e-4)
    assert torch.equal(found[2], before[2])
    back = exchange_persons(found[:1], torch.tensor([True]), SMPL22)
    torch.testing.assert_close(back, before[:1], atol=1e-4, rtol=1e-4)
