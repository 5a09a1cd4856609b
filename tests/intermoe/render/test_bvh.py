"""The BVH files that are written, read by the project's parser and by a second one that shares nothing with it."""

import math
import re

import pytest
import torch
from turns import angle_between, matrix_from_axis_angle

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_about_axis
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bvh_file import global_pose, parse_bvh
from intermoe.render.bvh import write_bvh


@pytest.fixture
def motion():
    generator = torch.Generator().manual_seed(0)
    rotation_TJ33 = matrix_from_axis_angle(torch.randn(25, 22, 3, generator=generator))
    root_T3 = torch.randn(25, 3, generator=generator)
    return root_T3, rotation_TJ33, torch.tensor(SMPL22.rest_offsets)


def naive_joints(text):
    """Joints by name in every frame, from a token stream and 4x4 products in plain Python."""
    tokens = re.findall(r"\S+", text)
    assert tokens.pop(0) == "HIERARCHY"
    nodes = []

    def node(parent):
        kind, name = tokens.pop(0), tokens.pop(0)
        assert kind in ("ROOT", "JOINT", "End")
        assert (kind == "ROOT") == (parent is None)
        assert tokens.pop(0) == "{"
        assert tokens.pop(0) == "OFFSET"
        offset = [float(tokens.pop(0)) for _ in range(3)]
        channels = []
        if kind != "End":
            assert tokens.pop(0) == "CHANNELS"
            channels = [tokens.pop(0) for _ in range(int(tokens.pop(0)))]
        number = len(nodes)
        nodes.append((name, parent, offset, channels, kind))
        while tokens[0] in ("JOINT", "End"):
            node(number)
        assert tokens.pop(0) == "}"

    node(None)
    assert [tokens.pop(0) for _ in range(2)] == ["MOTION", "Frames:"]
    frames = int(tokens.pop(0))
    assert [tokens.pop(0) for _ in range(2)] == ["Frame", "Time:"]
    frame_time = float(tokens.pop(0))
    width = sum(len(channels) for _, _, _, channels, _ in nodes)
    assert len(tokens) == frames * width
    result = []
    for frame in range(frames):
        values = iter(tokens[frame * width : (frame + 1) * width])
        world, places = [], {}
        for name, parent, offset, channels, kind in nodes:
            place, turn = list(offset), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
            for channel in channels:
                value = float(next(values))
                axis = "XYZ".index(channel[0])
                if channel.endswith("position"):
                    place[axis] = value
                else:
                    turn = product(turn, about(axis, math.radians(value)))
            if parent is not None:
                above_turn, above_place = world[parent]
                place = [above_place[i] + sum(above_turn[i][k] * place[k] for k in range(3)) for i in range(3)]
                turn = product(above_turn, turn)
            world.append((turn, place))
            if kind != "End":
                places[name] = place
        result.append(places)
    return result, nodes, frame_time


def about(axis, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    i, k = (axis + 1) % 3, (axis + 2) % 3
    matrix = [[float(row == column) for column in range(3)] for row in range(3)]
    matrix[i][i], matrix[i][k], matrix[k][i], matrix[k][k] = cos, -sin, sin, cos
    return matrix


def product(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


def test_a_second_parser_finds_the_joints_where_forward_kinematics_puts_them(tmp_path, motion):
    root_T3, rotation_TJ33, offset_J3 = motion
    write_bvh(tmp_path / "one.bvh", root_T3, rotation_TJ33, offset_J3, skeleton=SMPL22, fps=30)
    places, nodes, frame_time = naive_joints((tmp_path / "one.bvh").read_text())
    expected_TJ3, _ = forward_kinematics(root_T3, rotation_TJ33, offset_J3, SMPL22.parents)
    found_TJ3 = torch.tensor([[frame[name] for name in SMPL22.joint_names] for frame in places])
    torch.testing.assert_close(found_TJ3, expected_TJ3, atol=1e-4, rtol=0)
    assert frame_time == pytest.approx(1 / 30, abs=1e-8)
    joints = [node for node in nodes if node[4] != "End"]
    assert nodes[0][3] == ["Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation"]
    assert all(node[3] == ["Zrotation", "Xrotation", "Yrotation"] for node in joints[1:])
    parents = {node[0]: nodes[node[1]][0] for node in joints[1:]}
    assert parents == {SMPL22.joint_names[b]: SMPL22.joint_names[a] for a, b in SMPL22.edges}
    # End sites: one below each leaf, and nowhere else, in the direction of the leaf's own bone.
    ends = {nodes[node[1]][0]: node[2] for node in nodes if node[4] == "End"}
    leaves = [name for name in SMPL22.joint_names if name not in parents.values()]
    assert sorted(ends) == sorted(leaves)
    for leaf, tip in ends.items():
        bone = offset_J3[SMPL22.index(leaf)]
        assert torch.nn.functional.cosine_similarity(torch.tensor(tip), bone, dim=0) > 0.999
        assert 0.01 < math.hypot(*tip) < 0.2


def test_parsing_it_back_returns_joints_and_rotations(tmp_path, motion):
    root_T3, rotation_TJ33, offset_J3 = motion
    file = tmp_path / "one.bvh"
    write_bvh(file, root_T3, rotation_TJ33, offset_J3, skeleton=SMPL22, fps=29.97)
    bvh = parse_bvh(file)
    assert bvh.fps == pytest.approx(29.97, abs=1e-6)
    place_TN3, turn_TN33 = global_pose(*bvh.local_pose(), bvh.parents)
    points = [bvh.names.index(name) for name in SMPL22.joint_names]
    expected_TJ3, expected_TJ33 = forward_kinematics(root_T3, rotation_TJ33, offset_J3, SMPL22.parents)
    torch.testing.assert_close(place_TN3[:, points].float(), expected_TJ3, atol=1e-4, rtol=0)
    assert angle_between(turn_TN33[:, points].float(), expected_TJ33).max() < 0.1


@pytest.mark.parametrize("tilt", [90.0, -90.0, 89.9999, 89.95])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gimbal_lock_is_written_right(tmp_path, tilt, dtype):
    """A rotation that is a product of others, as of bodies that lie: its numbers are exact to a last digit only."""
    ways = [math.radians(tilt), 0.0, 0.0], [0.0, 0.0, 0.7], [0.0, 1.1, 0.0]
    tilted, around, parent = (matrix_from_axis_angle(torch.tensor(way, dtype=torch.float64)) for way in ways)
    turn = parent.mT @ (parent @ around @ tilted)
    rotation_TJ33 = turn.to(dtype).repeat(1, 22, 1, 1)
    write_bvh(
        tmp_path / "a.bvh", torch.zeros(1, 3), rotation_TJ33, torch.tensor(SMPL22.rest_offsets), skeleton=SMPL22, fps=30
    )
    bvh = parse_bvh(tmp_path / "a.bvh")
    found = bvh.local_pose()[1][0, [bvh.names.index(name) for name in SMPL22.joint_names]]
    # The file has six digits of a degree.
    assert angle_between(found.double(), rotation_TJ33[0].double()).max() < 1e-3


def test_a_body_that_spins_is_written_with_angles_that_go_on(tmp_path):
    turn_T = torch.linspace(0, 3 * 360, 100)
    rotation_TJ33 = torch.eye(3).repeat(100, 22, 1, 1)
    rotation_TJ33[:, 0] = matrix_about_axis("Y", turn_T.deg2rad())
    rest_J3 = torch.tensor(SMPL22.rest_offsets)
    write_bvh(tmp_path / "a.bvh", torch.zeros(100, 3), rotation_TJ33, rest_J3, skeleton=SMPL22, fps=30)
    lines = (tmp_path / "a.bvh").read_text().splitlines()[-100:]
    found_TC = torch.tensor([[float(number) for number in line.split()] for line in lines])
    torch.testing.assert_close(found_TC[:, 5], turn_T, atol=1e-3, rtol=0)
    assert found_TC[:, [*range(5), *range(6, 69)]].abs().max() < 1e-3
