from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.evaluation.measures import PLAUSIBILITY, TABLES, of_each_motion
from intermoe.evaluation.plausibility import (
    _RADII,
    _segment_distances,
    bone_length_deviation_cm,
    floor_penetration_cm,
    foot_height_cm,
    foot_skating_cm_s,
    interpenetration,
    interpenetration_cm,
    jerk_m_s3,
)

FRAMES = 30


@pytest.fixture
def standing() -> np.ndarray:
    """Two people in the T-pose, three metres apart, their toes on the floor."""
    pose = np.zeros((22, 3))
    for joint, parent in enumerate(SMPL22.parents):
        if parent >= 0:
            pose[joint] = pose[parent] + SMPL22.rest_offsets[joint]
    pose[:, 1] -= pose[:, 1].min()
    both = np.stack([pose, pose + np.array([0, 0, 3])])
    return np.repeat(both[None], FRAMES, axis=0)


def test_standing_still_is_perfect(standing):
    taken = {name: take(standing, SMPL22) for name, take in of_each_motion().items()}
    assert {taken[name] for name in TABLES[PLAUSIBILITY]} == {0.0}


def test_one_who_slides_skates_at_that_speed(standing):
    standing[:, 0, :, 0] += 0.01 * np.arange(FRAMES)[:, None]
    assert foot_skating_cm_s(standing, SMPL22) == pytest.approx(30 / 2)  # 0.3 m/s, one of the two
    assert jerk_m_s3(standing, SMPL22) == pytest.approx(0, abs=1e-6)


def test_a_foot_in_the_air_does_not_skate(standing):
    standing[:, :, :, 1] += 0.2
    standing[:, :, :, 0] += 0.01 * np.arange(FRAMES)[:, None, None]
    assert foot_skating_cm_s(standing, SMPL22) == 0


def test_one_who_sinks_penetrates_the_floor_by_so_much(standing):
    standing[: FRAMES // 2, 1, :, 1] -= 0.08
    assert floor_penetration_cm(standing, SMPL22) == pytest.approx(8 / 4)
    assert foot_height_cm(standing, SMPL22) == pytest.approx(-8 / 4)


def test_one_who_floats_has_the_feet_so_much_above_the_ground(standing):
    standing[:, 0, :, 1] += 0.1
    standing[:, 0, SMPL22.index("left_foot"), 1] += 0.5
    assert foot_height_cm(standing, SMPL22) == pytest.approx(10 / 2)


def test_a_head_that_comes_off_changes_one_bone(standing):
    away = np.where(np.arange(FRAMES) % 2, 0.05, 0.0)
    bone = np.array(SMPL22.rest_offsets[SMPL22.index("head")])
    standing[:, 0, SMPL22.index("head")] += away[:, None] * bone / np.linalg.norm(bone)
    # Half of the frames are 5 cm longer: the median is in the middle, so each frame is 2.5 cm off.
    assert bone_length_deviation_cm(standing, SMPL22) == pytest.approx(2.5 / 2 / 21)


def test_jerk_of_a_cubic(standing):
    time = np.arange(FRAMES) / 30
    standing[:, :, :, 1] += (2 * time**3)[:, None, None]
    assert jerk_m_s3(standing, SMPL22) == pytest.approx(12, rel=1e-6)


def test_bodies_in_each_other(standing):
    standing[:, 1] = standing[:, 0] + [0, 0, 0.15]
    # The trunks are the thickest: two of 11 cm whose middle lines are at most 15 cm apart.
    depth = interpenetration(standing, SMPL22)
    assert depth.shape == (FRAMES,)
    assert interpenetration_cm(standing, SMPL22) == pytest.approx(100 * depth.mean())
    assert 0.07 <= depth[0] <= 0.22
    standing[:, 1] += [0, 0, 0.6]
    assert not interpenetration(standing, SMPL22).any()


def test_every_bone_has_a_radius():
    names = {name.removeprefix("left_").removeprefix("right_") for name in SMPL22.joint_names[1:]}
    assert names == set(_RADII)


def test_a_joint_of_unknown_name_ends_a_thin_limb():
    stick = replace(SMPL22, joint_names=tuple(f"bone{joint}" for joint in range(22)))
    rest = np.cumsum(np.ones((FRAMES, 2, 22, 3)), axis=2)  # a straight line
    rest[:, 1] += [0.03, -0.03, 0]
    assert interpenetration(rest, stick) == pytest.approx(2 * 0.035 - 0.03 * 2**0.5)
    assert interpenetration_cm(rest, stick) == pytest.approx(100 * (2 * 0.035 - 0.03 * 2**0.5))


@pytest.mark.parametrize("seed", range(12))
def test_segment_distance_equals_a_search(seed):
    rng = np.random.default_rng(seed)
    a, b, c, d = rng.normal(size=(4, 3))
    if seed % 4 == 0:
        d = c + (b - a) * rng.uniform(0.2, 2)  # parallel
    if seed % 4 == 1:
        b = a.copy()  # a point

    def apart(st: np.ndarray) -> float:
        return float(np.square(a + st[0] * (b - a) - c - st[1] * (d - c)).sum())

    starts = [(s, t) for s in (0.1, 0.9) for t in (0.1, 0.9)]
    wanted = min(minimize(apart, start, bounds=[(0, 1), (0, 1)], tol=1e-14).fun for start in starts) ** 0.5
    assert _segment_distances(a, b, c, d) == pytest.approx(wanted, abs=1e-5)


def test_recorded_motion_is_plausible():
    motions = [make_interaction(3, index).position_TPJ3 for index in range(28)]
    means = {name: np.mean([take(motion, SMPL22) for motion in motions]) for name, take in of_each_motion().items()}
    assert means["floor_penetration_cm"] < 1
    assert means["bone_length_deviation_cm"] < 0.01
    assert means["foot_skating_cm_s"] < 25
    assert means["interpenetration_cm"] < 5
