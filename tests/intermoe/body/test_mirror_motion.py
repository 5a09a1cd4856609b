import numpy as np
import torch
from turns import matrix_from_axis_angle

from intermoe.body.features import mirror_motion, motion_features
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_from_6d, sixd_from_matrix
from intermoe.body.skeletons import SMPL22


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
