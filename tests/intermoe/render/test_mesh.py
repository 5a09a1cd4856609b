"""The mesh of a body: closed, right side out, as large as what the videos draw, and carried by its joints."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.render.mesh import Surface, _carried, _ellipsoid, _limb, body_mesh


def t_pose() -> np.ndarray:
    joints_J3 = np.array(SMPL22.rest_offsets)
    for parent, joint in SMPL22.edges:
        joints_J3[joint] += joints_J3[parent]
    return joints_J3 - [0, joints_J3[:, 1].min(), 0]


def volume(surface: Surface) -> float:
    """Enclosed, positive where triangles are counter-clockwise from outside."""
    a, b, c = surface.position_V3[surface.corner_F3].transpose(1, 0, 2)
    return float((np.cross(a, b) * c).sum() / 6)


def assert_closed(surface: Surface) -> None:
    """Each edge between two places is walked once in each direction: no hole, no flap."""
    _, place_V = np.unique(surface.position_V3.round(7), axis=0, return_inverse=True)
    corner_F3 = place_V.reshape(-1)[surface.corner_F3]
    edges = Counter((int(face[i]), int(face[(i + 1) % 3])) for face in corner_F3 for i in range(3))
    assert all(edges[end, start] == count for (start, end), count in edges.items())
    assert all(start != end for start, end in edges)


def test_a_limb_is_two_spheres_and_the_cone_that_touches_them():
    start, end, radii = np.array([0.3, 0.2, -0.1]), np.array([0.3, 0.7, 0.2]), (0.08, 0.05)
    position_NS3, normal_NS3 = _limb(start, end, radii)
    surface = _carried(position_NS3, normal_NS3, (4,), floor=-9)
    assert_closed(surface)
    # Each vertex lies on one of the spheres, in the direction of its normal, and inside none.
    from_start, from_end = (np.linalg.norm(surface.position_V3 - place, axis=1) for place in (start, end))
    assert np.minimum(abs(from_start - radii[0]), abs(from_end - radii[1])).max() < 1e-9
    assert from_start.min() > radii[0] - 1e-9
    assert from_end.min() > radii[1] - 1e-9
    # The height of the cone, and the radii at its ends, of a sphere swept without a kink.
    length = np.linalg.norm(end - start)
    lean = np.arcsin((radii[0] - radii[1]) / length)
    cone = np.pi / 3 * np.cos(lean) ** 2 * (radii[0] ** 2 + radii[0] * radii[1] + radii[1] ** 2)
    cone *= length + (radii[1] - radii[0]) * np.sin(lean)
    caps = sum(
        np.pi * r**3 / 3 * (2 + sign * np.sin(lean)) * (1 - sign * np.sin(lean)) ** 2
        for r, sign in ((radii[0], -1), (radii[1], 1))
    )
    assert volume(surface) == pytest.approx(cone + caps, rel=0.08)
    assert volume(surface) < cone + caps


def test_an_ellipsoid_has_its_axes_and_upright_normals():
    axes = np.array([[0.0, 0.0, 0.3], [0.1, 0.0, 0.0], [0.0, 0.2, 0.0]])
    surface = _carried(*_ellipsoid(np.array([1.0, 2.0, 3.0]), axes), (4, 5), floor=-9)
    assert_closed(surface)
    inward = (surface.position_V3 - [1, 2, 3]) / [0.1, 0.2, 0.3]
    np.testing.assert_allclose(np.linalg.norm(inward, axis=1), 1, atol=1e-9)
    gradient = inward / [0.1, 0.2, 0.3]
    expected = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    np.testing.assert_allclose(surface.normal_V3, expected, atol=1e-9)
    assert volume(surface) == pytest.approx(4 / 3 * np.pi * 0.006, rel=0.08)
    np.testing.assert_array_equal(surface.joint_V4[0], [4, 5, 0, 0])
    np.testing.assert_array_equal(surface.weight_V4[0], [0.5, 0.5, 0, 0])


def test_a_whole_body():
    sides = body_mesh(t_pose(), SMPL22)
    assert set(sides) == {"left", "middle", "right"}
    for surface in sides.values():
        assert_closed(surface)
        np.testing.assert_allclose(np.linalg.norm(surface.normal_V3, axis=1), 1, atol=1e-9)
        np.testing.assert_allclose(surface.weight_V4.sum(axis=1), 1)
        assert surface.corner_F3.max() == len(surface.position_V3) - 1
    left, right = sides["left"], sides["right"]
    assert left.position_V3[:, 0].min() > -0.05
    assert left.position_V3[:, 0].max() == pytest.approx(-right.position_V3[:, 0].min(), abs=0.005)
    np.testing.assert_allclose(left.position_V3.max(0)[1:], right.position_V3.max(0)[1:], atol=0.005)
    assert volume(left) == pytest.approx(volume(right), rel=0.01)
    everything = np.concatenate([surface.position_V3 for surface in sides.values()])
    assert everything[:, 1].min() == 0
    assert 1.6 < everything[:, 1].max() < 1.9
    # All of the body weighs what people weigh: forms overlap a little.
    assert 0.05 < sum(map(volume, sides.values())) < 0.09


def test_what_is_below_the_floor_is_made_flat():
    position_NS3, normal_NS3 = _limb(np.array([0, 0.02, 0.0]), np.array([0, 0.02, 0.1]), (0.04, 0.03))
    surface = _carried(position_NS3, normal_NS3, (0,), floor=0)
    flat = surface.position_V3[:, 1] == 0
    assert flat.sum() > 10
    assert surface.position_V3[:, 1].min() == 0
    np.testing.assert_array_equal(surface.normal_V3[flat & (position_NS3.reshape(-1, 3)[:, 1] < 0)][:, 1], -1)


def test_a_forearm_turns_with_the_elbow_and_a_hand_with_the_wrist():
    surface = body_mesh(t_pose(), SMPL22)["left"]
    elbow, wrist = (SMPL22.index(f"left_{name}") for name in ("elbow", "wrist"))
    joints_J3 = t_pose()
    middle = np.linalg.norm(surface.position_V3 - joints_J3[wrist], axis=1)
    beyond = surface.position_V3[:, 0] > joints_J3[wrist, 0] + 0.05
    assert set(surface.joint_V4[beyond, 0]) == {wrist}
    before = (middle < 0.1) & (surface.position_V3[:, 0] < joints_J3[wrist, 0] - 0.045)
    assert set(surface.joint_V4[before, 0]) <= {elbow}


def test_a_skeleton_of_other_names_gets_plain_limbs():
    names = tuple(f"j{number}" for number in range(22))
    sides = body_mesh(t_pose(), dataclasses.replace(SMPL22, joint_names=names))
    carriers = set(np.concatenate([surface.joint_V4[:, 0] for surface in sides.values()]))
    assert carriers == {parent for parent, _ in SMPL22.edges}
    assert {tuple(weight) for surface in sides.values() for weight in surface.weight_V4} == {(1.0, 0.0, 0.0, 0.0)}
