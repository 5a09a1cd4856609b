"""The camera: hand-computed projections, what it frames, and the side it takes."""

import numpy as np
import pytest

from intermoe.render.camera import Camera, Margins, best_azimuth, framing_camera


def test_project_equals_a_camera_computed_by_hand():
    # From (3, 4, 0) towards the origin: 5 m away; the picture's right is -z there, its down (4/5 of -y, 3/5 of -x)...
    forward = np.array([-0.6, -0.8, 0.0])
    right = np.array([0.0, 0.0, -1.0])
    down = np.array([0.8, -0.6, 0.0])
    camera = Camera(np.array([3.0, 4.0, 0.0]), np.stack([right, down, forward]), 100.0, 200, 100)
    pixel, depth = camera.project(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.8, -0.6, 0.0], [-3.0, -4.0, 2.0]]))
    np.testing.assert_allclose(depth, [5, 5, 5, 10])
    np.testing.assert_allclose(pixel, [[100, 50], [120, 50], [100, 70], [80, 50]])


def test_rays_lead_through_the_pixels_that_points_project_to():
    joints = np.random.default_rng(0).normal(size=(20, 3))
    camera = framing_camera(joints, 0.7, 64, 48, Margins(2, 2, 2, 2))
    pixel, depth = camera.project(camera.eye_3 + 3.0 * camera.rays()[10, 20].astype(np.float64))
    np.testing.assert_allclose(pixel, [20.5, 10.5], atol=1e-3)
    assert depth == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("stretch", [(1, 1, 1), (6, 1, 1), (1, 1, 6), (0.2, 4, 0.2)])
@pytest.mark.parametrize("azimuth", [0.0, 1.1, 4.0])
def test_all_joints_stay_between_the_margins_and_no_nearer_camera_has_them_so(stretch, azimuth):
    joints = np.random.default_rng(1).uniform(-1, 1, size=(50, 3)) * stretch
    margins = Margins(30, 50, 80, 60)
    camera = framing_camera(joints, azimuth, 960, 540, margins)

    def inside(camera: Camera, spare: float) -> bool:
        pixel, depth = camera.project(joints)
        x, y = pixel.T
        flesh = spare * camera.focal / depth
        return bool(
            (depth > 0).all()
            and (x - flesh > 30).all()
            and (x + flesh < 910).all()
            and (y - flesh > 80).all()
            and (y + flesh / 2 < 480).all()
        )

    assert inside(camera, 0.159)
    # The flesh above the head is wider than at the sides: 0.26 m.
    assert not inside(camera.moved(0.05 * np.linalg.norm(camera.eye_3) * camera.rotation_33[2]), 0.26)
    np.testing.assert_allclose(camera.rotation_33 @ camera.rotation_33.T, np.eye(3), atol=1e-12)
    assert camera.rotation_33[1, 1] < 0
    assert np.linalg.det(camera.rotation_33) == pytest.approx(1)


@pytest.mark.parametrize("yaw", [0.0, 0.8, 2.0, 3.9])
def test_the_first_person_stands_left_and_well_apart(meeting, yaw):
    motion = meeting(8)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    joints = motion.joints @ turn.T
    camera = framing_camera(joints, best_azimuth(joints, motion.skeleton), 960, 540, Margins(20, 20, 20, 20))
    pixel, _ = camera.project(joints[:, :, 0])
    assert (pixel[:, 1, 0] - pixel[:, 0, 0] > 100).all()
