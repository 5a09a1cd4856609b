"""The GLB files that are written, read by a reader of the specification that shares nothing with the writer."""

import dataclasses

import numpy as np
import pytest
import torch
from gltf_reader import Gltf

from intermoe.body.settling import settled_body
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.motion import Motion
from intermoe.render.glb import write_glb

PUSH, HUG = 2, 10


def settled(index: int, frames: int, fps: int = 30, first: int = 0) -> Motion:
    recording = make_interaction(0, index)
    joints, rotations = [], []
    for person in (0, 1):
        position_TJ3 = torch.from_numpy(recording.position_TPJ3[first : first + frames, person])
        rotation_TR6 = torch.from_numpy(recording.rotation_TPR6[first : first + frames, person])
        position_TJ3, rotation_TR6 = settled_body(position_TJ3, rotation_TR6, SMPL22).motion(SMPL22)
        joints.append(position_TJ3.float())
        rotations.append(rotation_TR6)
    return Motion(torch.stack(joints, 1).numpy(), torch.stack(rotations, 1).numpy(), fps, recording.captions[0], SMPL22)


@pytest.fixture(scope="module")
def push() -> Motion:
    return settled(PUSH, 40, first=20)


def written(tmp_path, *motions: Motion) -> Gltf:
    write_glb(motions, tmp_path / "a.glb")
    return Gltf((tmp_path / "a.glb").read_bytes())


def joints_at(file: Gltf, time: float | None, animation: str) -> np.ndarray:
    names = [[f"person{person}_{name}" for name in SMPL22.joint_names] for person in (1, 2)]
    return np.array([[file.world(file.node(n), time, animation)[:3, 3] for n in person] for person in names])


def error(file: Gltf, motion: Motion, frames: list[int], animation: str) -> float:
    return max(
        np.linalg.norm(joints_at(file, float(np.float32(t / motion.fps)), animation) - motion.joints[t], axis=-1).max()
        for t in frames
    )


def test_the_joints_over_time_are_those_of_the_motion(tmp_path, push):
    file = written(tmp_path, push)
    assert error(file, push, [0, 1, 7, 20, 38, 39], push.caption) < 1e-4
    between = joints_at(file, 10.5 / 30, push.caption)
    middle = (push.joints[10] + push.joints[11]) / 2
    assert np.linalg.norm(between - middle, axis=-1).max() < 0.005
    np.testing.assert_allclose(joints_at(file, 9.0, push.caption), push.joints[39], atol=1e-4)


def test_two_named_skeletons_each_with_a_body(tmp_path, push):
    file = written(tmp_path, push)
    roots = [file.document["nodes"][i]["name"] for i in file.document["scenes"][0]["nodes"]]
    assert roots == ["person1", "person1_body", "person2", "person2_body"]
    names = [node["name"] for node in file.document["nodes"]]
    assert len(names) == len(set(names)) == 2 * (22 + 2)
    assert file.path_of(file.node("person2_left_wrist")) == [
        "person2",
        *(f"person2_{name}" for name in ("pelvis", "spine1", "spine2", "spine3", "left_collar", "left_shoulder")),
        *(f"person2_{name}" for name in ("left_elbow", "left_wrist")),
    ]
    for person, skin in enumerate(file.document["skins"], start=1):
        assert [names[i] for i in skin["joints"]] == [f"person{person}_{name}" for name in SMPL22.joint_names]
        node = file.document["nodes"][file.node(f"person{person}_body")]
        assert node.keys() == {"name", "mesh", "skin"}
        assert file.document["skins"][node["skin"]] is skin
        mesh = file.document["meshes"][node["mesh"]]
        materials = [file.document["materials"][primitive["material"]] for primitive in mesh["primitives"]]
        assert {material["name"] for material in materials} == {
            f"person{person}_{s}" for s in ("left", "middle", "right")
        }
    # Orange and blue, as light: what a screen shows as 126 of 255 is 0.209 of it.
    trunk = [m["pbrMetallicRoughness"]["baseColorFactor"] for m in file.document["materials"] if "middle" in m["name"]]
    np.testing.assert_allclose(trunk, [[0.807, 0.209, 0.016, 1], [0.024, 0.162, 0.515, 1]], atol=5e-4)


def test_at_rest_both_stand_in_a_t_pose_on_the_floor_where_they_begin(tmp_path, push):
    file = written(tmp_path, push)
    rest = joints_at(file, None, "")
    for person in (0, 1):
        joint = {name: rest[person, number] for number, name in enumerate(SMPL22.joint_names)}
        for side, sign in (("left", 1), ("right", -1)):
            arm = joint[f"{side}_wrist"] - joint[f"{side}_shoulder"]
            leg = joint[f"{side}_ankle"] - joint[f"{side}_hip"]
            assert sign * arm[0] / np.linalg.norm(arm) > np.cos(np.deg2rad(10))
            assert -leg[1] / np.linalg.norm(leg) > np.cos(np.deg2rad(10))
        spine = joint["head"] - joint["pelvis"]
        assert spine[1] / np.linalg.norm(spine) > np.cos(np.deg2rad(10))
        assert joint["left_foot"][2] > joint["left_ankle"][2] + 0.05
        assert rest[person, :, 1].min() == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(joint["pelvis"][[0, 2]], push.joints[0, person, 0, [0, 2]], atol=1e-6)
        # The bones are as long as the motion's.
        parent, child = np.array(SMPL22.edges).T
        long = np.linalg.norm(push.joints[5, person, child] - push.joints[5, person, parent], axis=-1)
        np.testing.assert_allclose(np.linalg.norm(rest[person, child] - rest[person, parent], axis=-1), long, atol=1e-4)


def test_the_skin_is_bound_in_the_t_pose_at_the_origin(tmp_path, push):
    file = written(tmp_path, push)
    for person in (1, 2):
        node = file.node(f"person{person}_body")
        mesh = file.document["meshes"][file.document["nodes"][node]["mesh"]]
        positions = [file.array(primitive["attributes"]["POSITION"]) for primitive in mesh["primitives"]]
        place = file.world(file.node(f"person{person}_pelvis"))[:3, 3] * [1, 0, 1]
        np.testing.assert_allclose(file.skinned(node), np.concatenate(positions) + place, atol=1e-5)
        assert np.concatenate(positions)[:, 1].min() == pytest.approx(0, abs=1e-6)
        for primitive in mesh["primitives"]:
            views = [file.document["accessors"][i]["bufferView"] for i in primitive["attributes"].values()]
            assert {file.document["bufferViews"][i]["target"] for i in views} == {34962}
            corners = file.document["accessors"][primitive["indices"]]
            assert file.document["bufferViews"][corners["bufferView"]]["target"] == 34963
            assert {"min", "max"} <= file.document["accessors"][primitive["attributes"]["POSITION"]].keys()


def test_the_body_goes_where_its_joints_go(tmp_path, push):
    """The rim of flesh around a wrist and an ankle is as far from the joint as at rest."""
    file = written(tmp_path, push)
    node = file.node("person2_body")
    for name in ("left_wrist", "right_ankle", "head"):
        number = file.node(f"person2_{name}")
        rest = np.linalg.norm(file.skinned(node) - file.world(number)[:3, 3], axis=1)
        near = rest < 0.05
        assert near.sum() >= 10
        for frame in (0, 25):
            moved = file.skinned(node, frame / 30, push.caption)[near]
            joint = push.joints[frame, 1, SMPL22.joint_names.index(name)]
            np.testing.assert_allclose(np.linalg.norm(moved - joint, axis=1), rest[near], atol=2e-3)


def test_rotations_are_unit_and_take_the_shorter_way(tmp_path, push):
    spin = push.joints.astype(np.float64)
    turn = np.linspace(0, 6 * np.pi, 40)  # three times around: over the edge of any form of an angle
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    spun = np.stack(
        [cos * spin[..., 0] + sin * spin[..., 2], spin[..., 1], cos * spin[..., 2] - sin * spin[..., 0]], -1
    )
    motion = dataclasses.replace(push, joints=spun.astype(np.float32))
    file = written(tmp_path, motion)
    assert error(file, motion, [3, 20, 33], motion.caption) < 1e-4
    for skin in file.document["skins"]:
        for joint in skin["joints"]:
            times, value = file.channels(motion.caption, joint)["rotation"]
            np.testing.assert_allclose(np.linalg.norm(value, axis=1), 1, atol=1e-6)
            assert (value[:-1] * value[1:]).sum(axis=1).min() > 0.5
            np.testing.assert_allclose(times, np.arange(40) / 30, atol=1e-6)


def test_a_file_of_one_motion_moves_no_bone_but_the_root(tmp_path, push):
    file = written(tmp_path, push)
    moved = {
        file.document["nodes"][channel["target"]["node"]]["name"]
        for channel in file.animation(push.caption)["channels"]
        if channel["target"]["path"] == "translation"
    }
    assert moved == {"person1_pelvis", "person2_pelvis"}


def test_the_name_of_a_clip_is_one_line_and_not_long(tmp_path, push):
    captions = "They\nhug\0.", "They hug. " * 100, "They hug. " * 100, ""
    file = written(tmp_path, *(dataclasses.replace(push, caption=caption) for caption in captions))
    names = [clip["name"] for clip in file.document["animations"]]
    assert names[0] == "They hug\ufffd."
    assert (names[1][:9], "..." in names[1], len(names[1])) == ("They hug.", True, 290)
    assert names[2:] == [f"{names[1]} (2)", "motion"]


def test_each_clip_of_a_file_has_the_joints_of_its_motion(tmp_path, push):
    """Other bones, another length, another rate, and a caption that two share."""
    hug = settled(HUG, 25, fps=25)
    tall = dataclasses.replace(push, joints=push.joints * np.float32(1.07))
    file = written(tmp_path, push, hug, tall)
    names = [push.caption, hug.caption, f"{push.caption} (2)"]
    assert [animation["name"] for animation in file.document["animations"]] == names
    for motion, name in zip((push, hug, tall), names, strict=True):
        assert error(file, motion, [0, 13, len(motion.joints) - 1], name) < 1e-4
        # Whatever a clip leaves behind, the next one sets.
        assert {(c["target"]["node"], c["target"]["path"]) for c in file.animation(name)["channels"]} == {
            (joint, path)
            for skin in file.document["skins"]
            for joint in skin["joints"]
            for path in ("rotation", "translation")
        }


@pytest.mark.parametrize(
    "change",
    [
        lambda m: dataclasses.replace(m, joints=m.joints[:1], rotations=m.rotations[:1]),
        lambda m: dataclasses.replace(
            m, joints=m.joints[:, [0, 0]], rotations=m.rotations[:, [0, 0]], caption=' "„\n\t“ '
        ),
        lambda m: dataclasses.replace(m, caption=""),
        lambda m: dataclasses.replace(m, fps=25),
    ],
    ids=["one frame", "twice the same person", "no caption", "another rate"],
)
def test_odd_motions(tmp_path, push, change):
    motion = change(push)
    name = " ".join(motion.caption.split()) or "motion"
    last = len(motion.joints) - 1
    assert error(written(tmp_path, motion), motion, [0, last], name) < 1e-4
    (single, double) = (written(tmp_path, motion), written(tmp_path, motion, push))
    assert error(double, motion, [0, last], name) < 1e-4
    times = single.channels(name, single.node("person1_head"))["rotation"][0]
    assert (len(times), float(times[-1])) == (last + 1, pytest.approx(last / motion.fps))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("joint", [*range(1, 22), None])
def test_bones_without_length_are_written(tmp_path, push, joint):
    joints = push.joints.copy()
    if joint is None:
        joints[:] = 0
    else:
        joints[:, :, joint] = joints[:, :, SMPL22.parents[joint]]
    motion = dataclasses.replace(push, joints=joints)
    # A bone is as long in all frames, so what was moved does not fit everywhere.
    assert error(written(tmp_path, motion), motion, [0], push.caption) < 0.05


def test_what_cannot_be_written_is_told(tmp_path, push):
    with pytest.raises(UserError) as caught:
        write_glb([], tmp_path / "a.glb")
    assert str(caught.value) == "no motion (allowed: one or more)"
    other = dataclasses.replace(push, skeleton=dataclasses.replace(SMPL22, name="other"))
    with pytest.raises(UserError) as caught:
        write_glb([push, other], tmp_path / "a.glb")
    assert str(caught.value) == "motions of the skeletons 'smpl22' and 'other' (allowed: those of one)"
    assert list(tmp_path.iterdir()) == []
