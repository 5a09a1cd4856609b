"""Files in AMASS's form, posed by a naive body that knows its own T-pose, as SMPL-X tools pose theirs."""

import numpy as np
import pytest
import torch
from interx_files import ProcessedFolder, standing_pose
from scipy.spatial.transform import Rotation

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22, SMPLX55
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.datasets.interx import InterXReader
from intermoe.datasets.recordings import Source
from intermoe.motion import Motion
from intermoe.render.amass import write_amass

BOW = 1
PELVIS = np.array([0.003, -0.351, 0.012])


def posed(file: dict[str, np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """Joints [T, 22, 3] of a body with these offsets: it turns about its pelvis, at PELVIS unposed, and then moves."""
    frames = len(file["poses"])
    turns = Rotation.from_rotvec(file["poses"].reshape(-1, 3)).as_matrix().reshape(frames, 55, 3, 3)
    place, turn = [PELVIS + file["trans"]], [turns[:, 0]]
    for joint, parent in list(enumerate(SMPL22.parents))[1:]:
        place.append(place[parent] + turn[parent] @ offsets[joint])
        turn.append(turn[parent] @ turns[:, joint])
    return np.stack(place, axis=1)


def written(tmp_path, motion: Motion, person: int) -> dict[str, np.ndarray]:
    write_amass(motion, person, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def upright(joints: np.ndarray) -> np.ndarray:
    """With z up: what was ahead, +z, is -y now."""
    return np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1)


@pytest.fixture(scope="module")
def bow() -> Motion:
    recording = make_interaction(0, BOW)
    position, rotation = recording.position_TPJ3[:60], recording.rotation_TPR6[:60]
    return Motion(position, rotation, 30, recording.captions[0], SMPL22)


@pytest.mark.parametrize("person", [0, 1])
def test_a_body_of_the_same_bones_has_the_joints_of_the_motion(tmp_path, bow, person):
    parent, child = np.array(SMPL22.edges).T
    length = np.linalg.norm(bow.joints[0, person, child] - bow.joints[0, person, parent], axis=-1)
    offsets = np.array(SMPL22.rest_offsets)
    offsets[child] *= (length / np.linalg.norm(offsets[child], axis=-1))[:, None]
    joints = posed(written(tmp_path, bow, person), offsets)
    assert np.linalg.norm(joints - upright(bow.joints[:, person]), axis=-1).max() < 1e-3


def test_a_t_pose_of_its_own_is_what_the_rotations_are_relative_to(tmp_path, bow):
    """As of SMPL's bodies: bones that lie degrees beside the skeleton's; the root is found to a degree."""
    random = np.random.default_rng(0)
    tilt = Rotation.from_rotvec(np.deg2rad(3) * random.standard_normal((22, 3)))
    offsets = tilt.apply(np.array(SMPL22.rest_offsets))
    turns = Rotation.from_rotvec(0.5 * random.standard_normal((40 * 22, 3))).as_matrix().reshape(40, 22, 3, 3)
    pelvis = random.standard_normal((40, 3))
    joints, _ = forward_kinematics(
        torch.from_numpy(pelvis), torch.from_numpy(turns), torch.from_numpy(offsets), SMPL22.parents
    )
    pair = np.stack([joints, joints], axis=1).astype(np.float32)
    rotations = sixd_from_matrix(torch.from_numpy(turns[:, 1:])).numpy()[:, None].repeat(2, axis=1)
    file = written(tmp_path, Motion(pair, rotations.astype(np.float32), 30, "a", SMPL22), 0)
    local = Rotation.from_rotvec(file["pose_body"].reshape(-1, 3))
    expected = Rotation.from_matrix(turns[:, 1:].reshape(-1, 3, 3))
    assert np.rad2deg((local.inv() * expected).magnitude()).max() < 0.01
    up = Rotation.from_euler("x", 90, degrees=True)
    root = Rotation.from_rotvec(file["root_orient"])
    assert np.rad2deg((root.inv() * up * Rotation.from_matrix(turns[:, 0])).magnitude()).max() < 1
    assert np.linalg.norm(posed(file, offsets) - upright(joints.numpy()), axis=-1).max() < 0.01


def test_the_keys_that_readers_of_amass_ask_for(tmp_path, bow):
    file = written(tmp_path, bow, 1)
    shapes = {key: array.shape for key, array in file.items()}
    assert shapes == {
        "trans": (60, 3),
        "poses": (60, 165),
        "root_orient": (60, 3),
        "pose_body": (60, 63),
        "pose_jaw": (60, 3),
        "pose_eye": (60, 6),
        "pose_hand": (60, 90),
        "betas": (16,),
        "num_betas": (),
        "gender": (),
        "mocap_frame_rate": (),
        "mocap_time_length": (),
        "surface_model_type": (),
    }
    parts = [file[key] for key in ("root_orient", "pose_body", "pose_jaw", "pose_eye", "pose_hand")]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), file["poses"])
    assert not file["poses"][:, 66:].any()
    assert not file["betas"].any()
    assert (str(file["gender"]), str(file["surface_model_type"])) == ("neutral", "smplx")
    assert (float(file["mocap_frame_rate"]), float(file["mocap_time_length"])) == (30, 2)
    # The pelvis stands as high as the motion's.
    np.testing.assert_allclose(file["trans"][:, 2] + PELVIS[2], bow.joints[:, 1, 0, 1], atol=1e-6)


def test_hands_of_smplx_are_written_as_they_are(tmp_path):
    pose, place = standing_pose(30)
    folder = ProcessedFolder(tmp_path / "processed_data")
    folder.add("G001", pose, place)
    (recording,) = InterXReader(tmp_path).read(Source("G001", "train"))
    motion = Motion(recording.position_TPJ3, recording.rotation_TPR6, 30, "They bow.", SMPLX55)
    file = written(tmp_path, motion, 1)
    np.testing.assert_allclose(file["pose_body"], pose[:, 1, 1:22].reshape(30, -1), atol=1e-5)
    np.testing.assert_allclose(file["pose_hand"], pose[:, 1, 25:].reshape(30, -1), atol=1e-5)
    assert not file["pose_jaw"].any()
    assert not file["pose_eye"].any()
    turn = Rotation.from_euler("x", 90, degrees=True) * Rotation.from_rotvec(pose[:, 1, 0])
    assert (Rotation.from_rotvec(file["root_orient"]).inv() * turn).magnitude().max() < 1e-3
    # From the same place on, as the benchmark's files move their bodies; the floor is another.
    np.testing.assert_allclose(np.diff(file["trans"], axis=0)[:, 0], np.diff(place[:, 1, 0]), atol=1e-4)
