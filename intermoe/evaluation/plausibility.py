"""What bodies cannot do: slide on planted feet, sink into the floor, change their bones, pass through each other.

Measured on joints alone, each motion for itself; recorded motion has values above zero too, which stand beside.

Legend: T frames, P = 2 persons, J joints, K joints that touch the ground, M bones, X of one person, Y of the other.
"""

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import FPS
from intermoe.body.skeletons import Skeleton
from intermoe.evaluation.ranges import bone_lengths

Joints = NDArray[np.floating]
Array = NDArray[np.float64]

# How thick a limb is: metres from its middle line, by the joint at its end.
_RADII = {
    "spine1": 0.11, "spine2": 0.11, "spine3": 0.11, "neck": 0.06, "head": 0.08, "hip": 0.08, "knee": 0.07,
    "ankle": 0.045, "foot": 0.035, "collar": 0.06, "shoulder": 0.06, "elbow": 0.045, "wrist": 0.035,
}  # fmt: skip
_CM = 100.0
MEASURES = (
    "foot_skating_cm_s",
    "floor_penetration_cm",
    "bone_length_deviation_cm",
    "interpenetration_cm",
    "jerk_m_s3",
)


def plausibility(joints_TPJ3: Joints, skeleton: Skeleton) -> dict[str, float]:
    """How far a motion is from what bodies can do.

    Args:
        joints_TPJ3: positions in metres, y up, the ground at y = 0, at 30 frames a second; 4 frames or more.
        skeleton: what the joints are.

    Returns:
        - ``foot_skating_cm_s``: mean speed along the ground of the joints that touch it, while two frames in a row are
          below the joint's height of contact.
        - ``floor_penetration_cm``: mean depth of each person's lowest joint below the ground.
        - ``bone_length_deviation_cm``: mean distance of a bone's length from its median over the motion.
        - ``interpenetration_cm``: mean over the frames of how deep the two bodies, made of capsules, are in each other.
        - ``jerk_m_s3``: mean size of the third derivative of the joints' positions.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> standing = np.zeros((10, 2, 22, 3)) + [[[0, 0, 0]], [[5, 0, 0]]]
        >>> set(plausibility(standing, SMPL22).values())
        {0.0}
    """
    exact_TPJ3: Array = joints_TPJ3.astype(np.float64)
    return {
        "foot_skating_cm_s": _skating(exact_TPJ3, skeleton),
        "floor_penetration_cm": float(_CM * (-exact_TPJ3[..., 1].min(axis=2)).clip(min=0).mean()),
        "bone_length_deviation_cm": _bone_deviation(exact_TPJ3, skeleton),
        "interpenetration_cm": float(_CM * interpenetration(joints_TPJ3, skeleton).mean()),
        "jerk_m_s3": float(np.linalg.norm(np.diff(exact_TPJ3, n=3, axis=0), axis=-1).mean() * FPS**3),
    }


def _skating(joints_TPJ3: Array, skeleton: Skeleton) -> float:
    feet_TPK3 = joints_TPJ3[:, :, [contact.joint for contact in skeleton.contacts]]
    low_TPK = feet_TPK3[..., 1] < [contact.height for contact in skeleton.contacts]
    planted_TPK = low_TPK[1:] & low_TPK[:-1]
    speed_TPK = np.linalg.norm(np.diff(feet_TPK3, axis=0)[..., [0, 2]], axis=-1) * FPS
    return float(_CM * speed_TPK[planted_TPK].mean()) if planted_TPK.any() else 0.0


def _bone_deviation(joints_TPJ3: Array, skeleton: Skeleton) -> float:
    length_TPM = bone_lengths(joints_TPJ3, skeleton)
    return float(_CM * np.abs(length_TPM - np.median(length_TPM, axis=0)).mean())


def interpenetration(joints_TPJ3: Joints, skeleton: Skeleton) -> Array:
    """How deep the two bodies are in each other in each frame [T], metres; 0 where they are apart.

    A body is a capsule around each bone; the depth is that of the two capsules that are deepest in each other.
    """
    parents, children = (list(ends) for ends in zip(*skeleton.edges, strict=True))
    names = [skeleton.joint_names[child] for child in children]
    radius_M = np.array([_RADII[name.removeprefix("left_").removeprefix("right_")] for name in names])
    one, other = joints_TPJ3[:, 0].astype(np.float64), joints_TPJ3[:, 1].astype(np.float64)
    apart_TXY = _segment_distances(
        one[:, parents][:, :, None], one[:, children][:, :, None], other[:, None, parents], other[:, None, children]
    )
    depth_TXY = radius_M[:, None] + radius_M - apart_TXY
    return depth_TXY.max(axis=(1, 2)).clip(min=0)


def _segment_distances(start_3: Array, end_3: Array, other_start_3: Array, other_end_3: Array) -> Array:
    """Shortest distances of segments [...], of points that broadcast against each other [..., 3].

    The nearest points of the two lines in closed form, moved onto the segments: the place on the first line, limited to
    its segment, then the nearest place on the second, limited to its own, then the nearest to that on the first.
    """
    along, other, between = end_3 - start_3, other_end_3 - other_start_3, start_3 - other_start_3
    aa, bb, ab = _dot(along, along), _dot(other, other), _dot(along, other)
    a_between, b_between = _dot(along, between), _dot(other, between)
    denominator = aa * bb - ab**2
    crossing = denominator > 1e-12 * aa * bb
    s = np.where(crossing, (ab * b_between - a_between * bb) / np.where(crossing, denominator, 1), 0.0).clip(0, 1)
    t = ((ab * s + b_between) / np.where(bb > 0, bb, 1)).clip(0, 1)
    s = ((ab * t - a_between) / np.where(aa > 0, aa, 1)).clip(0, 1)
    difference = between + s[..., None] * along - t[..., None] * other
    return np.linalg.norm(difference, axis=-1)


def _dot(one_3: Array, other_3: Array) -> Array:
    return (one_3 * other_3).sum(axis=-1)
