"""Mappings: the shipped ones on small figures with the names and the zero poses of their sources, and faults in others.

Legend: T frames, J = 22 joints.
"""

from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from bvh_pairs import PLAIN, folder, open_folder
from mocap_figures import CENTIMETRES, LAFAN1_POSE, METRES, SOURCES, bvh_text, lafan1

from intermoe.body.rotations import matrix_about_axis, sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.joint_mapping import load_mapping, shipped_mappings
from intermoe.errors import UserError


def test_the_shipped_mapping_fills_every_joint():
    assert "cmu" in shipped_mappings()
    mapping = load_mapping("cmu")
    assert mapping.joints["spine3"].position == {"chest": 0.5, "neck": 0.5}
    assert mapping.joints["spine3"].rotation is None
    assert set(mapping.joints) == set(SMPL22.joint_names)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"skeleton": "octopus"}, "octopus"),
        ({"joints": {**PLAIN["joints"], "tail": "tail"}}, "tail"),
        ({"joints": {k: v for k, v in PLAIN["joints"].items() if k != "head"}}, "missing: head"),
        ({"joints": {**PLAIN["joints"], "head": {"position": {"a": 0.5, "b": 0.6}}}}, "sum to 1"),
        ({"joints": {**PLAIN["joints"], "head": {"place": "a"}}}, "joints.head.position"),
        ({"joints": {**PLAIN["joints"], "pelvis": {"position": "hip"}}}, "pelvis"),
        ({"axes": ["x", "z", "y"]}, "axes"),
        ({"axes": ["x", "x", "y"]}, "axes"),
        ({"axes": ["x", "y", "w"]}, "axes"),
        ({"tpoze": {}}, "tpose"),
    ],
)
def test_malformed_mappings_are_the_users_to_put_right(tmp_path, change, reason):
    folder(tmp_path, mapping={**PLAIN, **change})
    with pytest.raises(UserError) as error:
        open_folder(tmp_path)
    assert reason in str(error.value)
    assert "mapping.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_or_unreadable_mappings_name_the_shipped_ones(tmp_path):
    folder(tmp_path)
    with pytest.raises(UserError, match=r"unknown mapping 'cnu' \(allowed: bandai_namco, cmu, "):
        BvhPairReader(tmp_path, "cnu")
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        BvhPairReader(tmp_path, tmp_path / "none.yaml")
    (tmp_path / "mapping.yaml").write_text("joints: [")
    with pytest.raises(UserError, match="not valid YAML"):
        open_folder(tmp_path)
    (tmp_path / "mapping.yaml").write_text("just text")
    with pytest.raises(UserError, match="holds no keys"):
        open_folder(tmp_path)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_shipped_mappings_read_the_figures_of_their_sources(tmp_path, source):
    figure, order, pose, scale, place = SOURCES[source]
    folder(tmp_path, ["duo,a.bvh,a.bvh,train,Two people stand."])
    (tmp_path / "a.bvh").write_text(bvh_text(figure, order, pose, place, 20))
    reader = BvhPairReader(tmp_path, source, scale)
    (recording,) = reader.read(reader.sources()[0])
    position_J3 = recording.position_TPJ3[7, 1] - recording.position_TPJ3[7, 1, 0]
    np.testing.assert_allclose(recording.position_TPJ3[7, 1, 0], METRES, atol=1e-5)
    expected = {
        "head": (0, 0.6, 0),
        "left_hip": (0.1, -0.06, 0),
        "left_knee": (0.1, -0.46, 0),
        "left_ankle": (0.1, -0.46, -0.4),
        "right_ankle": (-0.1, -0.86, 0),
        "left_wrist": (0.75, 0.4, 0),
        "right_wrist": (-0.75, 0.4, 0),
    }
    for joint, place_3 in expected.items():
        np.testing.assert_allclose(position_J3[SMPL22.index(joint)], place_3, atol=1e-4, err_msg=joint)
    toe = position_J3[SMPL22.index("right_foot")] - position_J3[SMPL22.index("right_ankle")]
    assert toe[2] > 0.09
    rotation_R33 = torch.eye(3).repeat(21, 1, 1)
    rotation_R33[SMPL22.index("left_knee") - 1] = matrix_about_axis("X", torch.tensor(torch.pi / 2))
    np.testing.assert_allclose(recording.rotation_TPR6[7, 1], sixd_from_matrix(rotation_R33), atol=1e-5)


def test_every_shipped_mapping_is_tested():
    assert shipped_mappings() == sorted([*SOURCES, "cmu"])


# A T-pose that is a frame of the file.


def test_the_t_pose_may_be_a_frame_in_which_the_figure_faces_anywhere(tmp_path):
    figure = lafan1()
    pose = {name: angles for name, angles in LAFAN1_POSE.items() if name != "LeftLeg"}
    turned = {**pose, "Hips": (90, 0, 125)}
    text = bvh_text(figure, "ZYX", LAFAN1_POSE, CENTIMETRES, 20)
    frame = bvh_text(figure, "ZYX", turned, CENTIMETRES, 1).splitlines()[-1]
    lines = text.splitlines()
    lines[-18] = frame  # frame 2
    mapping = {
        **yaml.safe_load((files("intermoe.datasets") / "mappings/lafan1.yaml").read_text("utf-8")),
        "tpose_frame": 2,
    }
    del mapping["tpose"]
    folder(tmp_path, ["duo,a.bvh,a.bvh,train,Two people stand."], mapping)
    (tmp_path / "a.bvh").write_text("\n".join(lines))
    reader = open_folder(tmp_path, 0.01)
    recording = reader.read(reader.sources()[0])[-1]
    rotation_R33 = torch.eye(3).repeat(21, 1, 1)
    rotation_R33[SMPL22.index("left_knee") - 1] = matrix_about_axis("X", torch.tensor(torch.pi / 2))
    np.testing.assert_allclose(recording.rotation_TPR6[-1, 0], sixd_from_matrix(rotation_R33), atol=1e-5)
    for frame_number, message in (
        (20, "a.bvh: there is no frame 20, which is `tpose_frame` in the mapping; allowed: 0 to 19"),
        (
            0,
            (
                "a.bvh: its frame 0 is not a T-pose: the bone to left_ankle is 85 degrees off; "
                "`axes`, and `tpose` or `tpose_frame`, in the mapping put it right"
            ),
        ),
    ):
        (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({**mapping, "tpose_frame": frame_number}))
        reader = open_folder(tmp_path, 0.01)
        with pytest.raises(BadRecording) as caught:
            reader.read(reader.sources()[0])
        assert str(caught.value) == message


def test_a_t_pose_is_given_by_angles_or_by_a_frame(tmp_path):
    folder(tmp_path, mapping={**PLAIN, "tpose_frame": 0, "tpose": {"pelvis": [0, 0, 90]}})
    with pytest.raises(UserError, match="either tpose or tpose_frame, not both"):
        open_folder(tmp_path)
    folder(tmp_path, mapping={**PLAIN, "tpose_frame": -1})
    with pytest.raises(UserError, match=r"tpose_frame = -1 \(allowed: greater than or equal to 0\)"):
        open_folder(tmp_path)
