"""The stage: each person in one colour where the joints are, nearer over farther, shadows below."""

import dataclasses

import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.render.camera import Margins, best_azimuth, framing_camera
from intermoe.render.stage import SOLE, Stage

SIZE = 480, 270


def look(joints, azimuth=None):
    azimuth = best_azimuth(joints, SMPL22) if azimuth is None else azimuth
    return framing_camera(joints, azimuth, *SIZE, Margins(10, 10, 20, 20))


def warmth(picture, pixel):
    """Red minus blue at a pixel: the first person is orange, the second blue, ground and sky nearly grey."""
    x, y = np.floor(pixel).astype(int)
    red, _, blue = np.asarray(picture)[y, x].astype(int)
    return red - blue


def test_each_joint_shows_its_persons_colour(meeting):
    motion = meeting(4)
    camera = look(motion.joints)
    stage = Stage(motion.joints, SMPL22, camera)
    for frame in range(4):
        picture = stage.draw(frame)
        pixel_PJ2, _ = camera.project(motion.joints[frame])
        # The foot joints lie at the edge of the sole; all others are well within the flesh.
        inner = [joint for joint, name in enumerate(SMPL22.joint_names) if not name.endswith("foot")]
        assert min(warmth(picture, pixel) for pixel in pixel_PJ2[0, inner]) > 40
        assert max(warmth(picture, pixel) for pixel in pixel_PJ2[1, inner]) < -40


@pytest.mark.parametrize("azimuth", [0.0, np.pi])
def test_the_nearer_person_hides_the_farther(meeting, azimuth):
    # Both on the z axis, seen along it: from +z person 1 is in front, from -z person 0.
    motion = meeting(2)
    camera = look(motion.joints, azimuth)
    picture = Stage(motion.joints, SMPL22, camera).draw(1)
    # A line of sight that goes through the chest in front and on through the body behind.
    chest = motion.joints[1, :, [SMPL22.index("spine2"), SMPL22.index("spine3")]].mean(0)
    pixel, depth = camera.project(chest)
    front = int(depth.argmin())
    assert front == (1 if azimuth == 0.0 else 0)
    aside = motion.joints.copy()
    aside[:, front, :, 0] += 2.0
    alone = Stage(aside, SMPL22, camera).draw(1)
    sign = 1 if front == 0 else -1
    assert sign * warmth(alone, pixel[front]) < -40, "the body behind is on that line of sight"
    assert sign * warmth(picture, pixel[front]) > 40


def test_the_ground_is_darker_beneath_the_feet_and_as_empty_far_from_them(meeting):
    motion = meeting(1)
    camera = look(motion.joints)
    stage = Stage(motion.joints, SMPL22, camera)
    picture, empty = np.asarray(stage.draw(0)).astype(int), np.asarray(stage.background).astype(int)
    for person in range(2):
        toe = motion.joints[0, person, SMPL22.index("left_foot")].copy()
        toe[1] = -SOLE
        x, y = np.floor(camera.project(toe)[0]).astype(int)
        around = slice(y, y + 5), slice(x - 8, x + 9)
        grey = np.ptp(picture[around], axis=-1) < 40  # ground, not body
        assert (empty[around] - picture[around])[grey].max() > 25
    np.testing.assert_array_equal(picture[:20], empty[:20])
    np.testing.assert_array_equal(picture[-6:, :10], empty[-6:, :10])


def test_what_is_below_the_ground_is_not_seen(meeting):
    joints = meeting(1).joints
    camera = look(joints)
    sunk = joints - np.array([0, 3.0, 0], np.float32)
    picture = np.asarray(Stage(sunk, SMPL22, camera).draw(0)).astype(int)
    assert np.abs(picture[..., 0] - picture[..., 2]).max() < 40


def test_a_skeleton_of_unknown_names_gets_plain_limbs(meeting):
    motion = meeting(1)
    skeleton = dataclasses.replace(SMPL22, name="other", joint_names=tuple(f"j{number}" for number in range(22)))
    camera = look(motion.joints)
    picture = Stage(motion.joints, skeleton, camera).draw(0)
    pixel_PJ2, _ = camera.project(motion.joints[0])
    assert min(warmth(picture, pixel) for pixel in pixel_PJ2[0, [0, 4, 5, 9, 18]]) > 40
    assert max(warmth(picture, pixel) for pixel in pixel_PJ2[1, [0, 4, 5, 9, 18]]) < -40


@pytest.mark.parametrize("broken", ["one point", "noise", "kilometres apart", "below the ground"])
def test_motion_of_an_untrained_model_is_drawn_too(meeting, broken):
    joints = meeting(2).joints.astype(np.float64)
    changed = {
        "one point": joints * 0,
        "noise": np.random.default_rng(0).normal(size=joints.shape) * 50,
        "kilometres apart": joints + np.array([0.0, 5000.0])[None, :, None, None],
        "below the ground": joints - [0, 40, 0],
    }[broken].astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        picture = Stage(changed, SMPL22, look(changed)).draw(1)
    assert picture.size == SIZE
