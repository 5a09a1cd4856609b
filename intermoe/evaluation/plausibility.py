"""Physical plausibility: sliding feet, floor penetration, changing bone lengths, interpenetration, jerk.

Measured on joints alone, each motion for itself; recorded motion has values above zero too, which stand beside. Every
measure takes positions [T, P, J, 3] in metres, y up, the ground at y = 0, of 4 frames or more, and the skeleton whose
joints these are, which says how many frames make a second.

Legend: T frames, P persons, J joints, K joints that touch the ground, M bones, X of one person, Y of the other.
"""

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton
from intermoe.evaluation.ranges import bone_lengths

Joints = NDArray[np.floating]
Array = NDArray[np.float64]

# How thick a limb is: metres from its middle line, by the joint at its end; a thin limb where its name says nothing.
_RADII = {
    "spine1": 0.11, "spine2": 0.11, "spine3": 0.11, "neck": 0.06, "head": 0.08, "hip": 0.08, "knee": 0.07,
    "ankle": 0.045, "foot": 0.035, "collar": 0.06, "shoulder": 0.06, "elbow": 0.045, "wrist": 0.035,
}  # fmt: skip
_OTHER_RADIUS = 0.035
_CM = 100.0


def foot_skating_cm_s(joints_TPJ3: Joints, skeleton: Skeleton) -> float:
    """Mean speed along the ground of the joints that touch it, while two frames in a row are at their contact height.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> sliding = np.zeros((10, 2, 22, 3)) + 0.01 * np.arange(10)[:, None, None, None] * [1, 0, 0]
        >>> round(foot_skating_cm_s(sliding, SMPL22), 6)
        30.0
    """
    feet_TPK3 = _exact(joints_TPJ3)[:, :, [contact.joint for contact in skeleton.contacts]]
    low_TPK = feet_TPK3[..., 1] < [contact.height for contact in skeleton.contacts]
    planted_TPK = low_TPK[1:] & low_TPK[:-1]
    speed_TPK = np.linalg.norm(np.diff(feet_TPK3, axis=0)[..., [0, 2]], axis=-1) * skeleton.fps
    return float(_CM * speed_TPK[planted_TPK].mean()) if planted_TPK.any() else 0.0


def floor_penetration_cm(joints_TPJ3: Joints, skeleton: Skeleton) -> float:  # noqa: ARG001 - the form of a measure
    """Mean depth of each person's lowest joint below the ground."""
    return float(_CM * (-_exact(joints_TPJ3)[..., 1].min(axis=2)).clip(min=0).mean())


def foot_height_cm(joints_TPJ3: Joints, skeleton: Skeleton) -> float:
    """Mean height of the lowest of the joints that touch the ground, of each person: who floats, or stands in it.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> round(foot_height_cm(np.full((4, 2, 22, 3), 0.05), SMPL22), 6)
        5.0
    """
    feet_TPK3 = _exact(joints_TPJ3)[:, :, [contact.joint for contact in skeleton.contacts]]
    return float(_CM * feet_TPK3[..., 1].min(axis=2).mean())


def bone_length_deviation_cm(joints_TPJ3: Joints, skeleton: Skeleton) -> float:
    """Mean distance of a bone's length from its median over the motion."""
    length_TPM = bone_lengths(_exact(joints_TPJ3), skeleton)
    return float(_CM * np.abs(length_TPM - np.median(length_TPM, axis=0)).mean())


def interpenetration_cm(joints_TPJ3: Joints, skeleton: Skeleton) -> float:
    """Mean penetration depth of the two bodies, made of capsules, over the frames; NaN of one person."""
    if joints_TPJ3.shape[1] == 1:
        return float("nan")
    return float(_CM * interpenetration(joints_TPJ3, skeleton).mean())


def jerk_m_s3(joints_TPJ3: Joints, skeleton: Skeleton) -> float:
    """Mean size of the third derivative of the joints' positions."""
    return float(np.linalg.norm(np.diff(_exact(joints_TPJ3), n=3, axis=0), axis=-1).mean() * skeleton.fps**3)


def interpenetration(joints_TPJ3: Joints, skeleton: Skeleton) -> Array:
    """Penetration depth of the two bodies in each frame [T], metres; 0 where they are apart.

    A body is a capsule around each bone; the depth is that of the two capsules that are deepest in each other.
    """
    parents, children = (list(ends) for ends in zip(*skeleton.edges, strict=True))
    names = [skeleton.joint_names[child] for child in children]
    radius_M = np.array(
        [_RADII.get(name.removeprefix("left_").removeprefix("right_"), _OTHER_RADIUS) for name in names]
    )
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


def _exact(joints_TPJ3: Joints) -> Array:
    return joints_TPJ3.astype(np.float64)


def _dot(one_3: Array, other_3: Array) -> Array:
    return (one_3 * other_3).sum(axis=-1)
