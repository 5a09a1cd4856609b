import numpy as np
import pytest
import torch

from intermoe.features import motion_features
from intermoe.kinematics import forward_kinematics
from intermoe.mirroring import mirror_caption, mirror_motion
from intermoe.rotations import matrix_from_6d, matrix_from_axis_angle, sixd_from_matrix
from intermoe.skeletons import SMPL22


def pose(seed=0):
    """Root position, rotations and rest-pose offsets of a few random poses on a symmetric skeleton."""
    rng = torch.Generator().manual_seed(seed)
    rotation = matrix_from_axis_angle(torch.randn(4, 22, 3, generator=rng))
    return torch.randn(4, 3, generator=rng), rotation, torch.tensor(SMPL22.rest_offsets)


def test_the_mirrored_rotations_pose_the_mirrored_joints():
    root, rotation, offset = pose()
    joints, _ = forward_kinematics(root, rotation, offset, SMPL22.parents)
    mirrored_joints, mirrored_sixd = mirror_motion(joints, sixd_from_matrix(rotation[:, 1:]), SMPL22)

    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirrored_root = flip @ rotation[:, :1] @ flip
    posed, _ = forward_kinematics(
        root * torch.tensor([-1.0, 1.0, 1.0]),
        torch.cat([mirrored_root, matrix_from_6d(mirrored_sixd)], dim=1),
        offset,
        SMPL22.parents,
    )
    torch.testing.assert_close(posed, mirrored_joints, atol=1e-5, rtol=1e-5)


def test_joints_go_to_the_other_side():
    joints = torch.zeros(22, 3)
    joints[SMPL22.index("left_wrist")] = torch.tensor([0.5, 1.0, 2.0])
    mirrored, _ = mirror_motion(joints, torch.zeros(21, 6), SMPL22)
    assert mirrored[SMPL22.index("right_wrist")].tolist() == [-0.5, 1.0, 2.0]
    assert mirrored[SMPL22.index("left_wrist")].tolist() == [0, 0, 0]


def test_mirroring_a_motion_twice_gives_it_back():
    rng = torch.Generator().manual_seed(3)
    position, rotation = torch.randn(2, 5, 2, 22, 3, generator=rng), torch.randn(2, 5, 2, 21, 6, generator=rng)
    back = mirror_motion(*mirror_motion(position, rotation, SMPL22), SMPL22)
    torch.testing.assert_close(back, (position, rotation), rtol=0, atol=0)


def test_equals_published_mirroring(golden):
    published = dict(np.load(golden / "preprocess.npz"))
    raw = torch.from_numpy(np.stack([published["raw1"], published["raw2"]], axis=1))[None]
    x, y, z = raw[..., :66].unflatten(-1, (22, 3)).unbind(-1)
    position, rotation = torch.stack([x, z, -y], dim=-1), raw[..., 186:312].unflatten(-1, (21, 6))
    features, _ = motion_features(*mirror_motion(position, rotation, SMPL22), torch.tensor([40]), SMPL22)
    for person, name in enumerate(("m1_swap", "m2_swap")):
        np.testing.assert_allclose(features[0, :, person].numpy(), published[name], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Raises the left hand.", "Raises the right hand."),
        ("from left to right", "from right to left"),
        ("LEFT, Right", "RIGHT, Left"),
        ("a left-handed punch", "a right-handed punch"),
        ("a Left-Handed lefthander", "a Right-Handed righthander"),
        ("steps leftward, then rightwards", "steps rightward, then leftwards"),
        ("the leftmost one throws lefts and rights", "the rightmost one throws rights and lefts"),
        ("left_hand (right), left's", "right_hand (left), right's"),
        ("stands upright, bright and cleft", "stands upright, bright and cleft"),
        ("one is left of the other", "one is right of the other"),
        ("each has left hand up", "each has right hand up"),
        ("on the left the man waves", "on the right the man waves"),
        ("steps left the way one turns right away from him", "steps right the way one turns left away from him"),
        ("one moves left and the other right.", "one moves right and the other left."),
        ("He sits. Right behind him", "He sits. Left behind him"),
    ],
)
def test_sides_in_captions(text, mirrored):
    assert mirror_caption(text) == mirrored
    assert mirror_caption(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "He left the room.",
        "the first person left the second, who left her standing",
        "has left the ring and is left behind",
        "they are right next to each other",
        "is right in front of the other and all right",
        "bends the arm at right angles, a right-angled bend",
    ],
)
def test_words_that_say_no_side_stay(text):
    assert mirror_caption(text) == text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("turns clockwise", "turns counterclockwise"),
        ("Clockwise. CLOCKWISE", "Counterclockwise. COUNTERCLOCKWISE"),
        ("turns counterclockwise, then clockwise", "turns clockwise, then counterclockwise"),
        ("Counter-clockwise, counter clockwise", "Clockwise, clockwise"),
        ("anticlockwise and Anti-Clockwise", "clockwise and Clockwise"),
        ("ANTI-CLOCKWISE from the left", "CLOCKWISE from the right"),
    ],
)
def test_sense_of_rotation_in_captions(text, mirrored):
    assert mirror_caption(text) == mirrored
    assert mirror_caption(mirror_caption(mirrored)) == mirrored
