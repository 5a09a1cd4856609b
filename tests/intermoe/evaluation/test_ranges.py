import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.evaluation.ranges import Range, measures

# Legend: T frames, P = 2 persons, J = 22 joints.
MEASURES = {"bone_length", "foot_height", "root_speed"}


@pytest.fixture(scope="module")
def recorded() -> list[np.ndarray]:
    return [make_interaction(0, index).position_TPJ3 for index in range(8)]


def test_measures_of_a_body_that_slides_along_the_ground():
    rest = np.zeros((22, 3), dtype=np.float32)
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):
        rest[joint] = rest[parent] + np.array(SMPL22.rest_offsets[joint], np.float32)
    joints = np.tile(rest, (10, 2, 1, 1))
    steps = np.arange(10, dtype=np.float32)[:, None]
    joints[:, 0, :, 0] += 0.03 * steps  # 3 cm and 4 cm a frame in the ground plane: 1.5 m/s
    joints[:, 0, :, 2] += 0.04 * steps
    joints[:, 1, :, 1] += 0.1 * steps  # the other only rises
    found = measures(joints, SMPL22)
    assert set(found) == MEASURES
    length = np.linalg.norm(np.array(SMPL22.rest_offsets[1:], np.float32), axis=-1)
    np.testing.assert_allclose(found["bone_length"], np.broadcast_to(length, (10, 2, 21)), atol=1e-5)
    np.testing.assert_allclose(found["root_speed"].reshape(9, 2), [[1.5, 0.0]] * 9, atol=1e-4)
    feet = [7, 10, 8, 11]
    heights = found["foot_height"].reshape(10, 2, -1)
    expected = np.sort(joints[:, :, feet, 1], axis=-1)
    np.testing.assert_allclose(np.sort(heights, axis=-1), expected, atol=1e-6)


def test_of_recorded_motion_itself_98_percent_lie_inside(recorded):
    shares = Range.of(recorded, SMPL22).share_inside(recorded, SMPL22)
    assert set(shares) == MEASURES
    # Two percent lie outside by definition, but for numbers that are equal to a bound (Duet's bones are rigid).
    assert all(0.979 <= share <= 1 for share in shares.values())
    assert shares["root_speed"] == pytest.approx(0.98, abs=0.002)


def test_the_range_is_that_of_percentiles_pooled_over_motions_and_persons(recorded):
    bounds = Range.of(iter(recorded), SMPL22)
    speed = np.concatenate([measures(joints, SMPL22)["root_speed"].ravel() for joints in recorded])
    assert bounds.low["root_speed"] == pytest.approx(np.sort(speed)[round(0.01 * (len(speed) - 1))], abs=1e-3)
    assert bounds.high["root_speed"] == pytest.approx(np.sort(speed)[round(0.99 * (len(speed) - 1))], abs=1e-2)
    assert bounds.low["bone_length"].shape == (21,)


@pytest.mark.parametrize(
    ("spoil", "measure"),
    [
        (lambda joints: 1.3 * joints, "bone_length"),
        (lambda joints: joints + np.array([0, 2, 0], np.float32), "foot_height"),
        (lambda joints: np.concatenate([joints[:1], joints[40:41]]), "root_speed"),
    ],
)
def test_what_no_body_does_lies_outside(recorded, spoil, measure):
    bounds = Range.of(recorded, SMPL22)
    spoilt = bounds.share_inside([spoil(joints) for joints in recorded], SMPL22)
    assert spoilt[measure] < 0.6
    assert spoilt[measure] < bounds.share_inside(recorded, SMPL22)[measure]


def test_each_bone_has_a_range_of_its_own(recorded):
    bounds = Range.of(recorded, SMPL22)
    exchanged = [joints.copy() for joints in recorded]
    for joints in exchanged:  # the head as far from the neck as the thigh is long: a length, but of another bone
        joints[:, :, 15] = joints[:, :, 12] + np.array([0, 0.39, 0], np.float32)
    share = bounds.share_inside(exchanged, SMPL22)["bone_length"]
    assert share <= 20 / 21
