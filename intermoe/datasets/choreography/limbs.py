"""Limbs of two bones: where the middle joint goes, and the rotations that put it there.

Legend: T frames.
"""

import numpy as np
import torch

from intermoe.body.rotations import matrix_about_axis
from intermoe.datasets.choreography.curves import Array


def about(axis: str, radians_T: Array) -> Array:
    """Rotation matrices [T, 3, 3] about the axis ``"X"``, ``"Y"`` or ``"Z"``."""
    return matrix_about_axis(axis, torch.as_tensor(radians_T)).numpy()


def unit(vector: Array) -> Array:
    """The same direction [..., 3] with length 1."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _frame(bone: Array, hinge: Array) -> Array:
    """Axes [..., 3, 3] in columns: along the bone, the hinge made square to it, and their cross product."""
    x = unit(bone)
    y = unit(hinge - (hinge * x).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def bend_limb(
    start_T3: Array, target_T3: Array, toward_T3: Array, offset_23: Array, rest_hinge_3: Array
) -> tuple[Array, Array]:
    """Global rotations of both bones of a limb that brings its end to a target, as near as it reaches.

    Args:
        start_T3: where the limb begins (hip, shoulder).
        target_T3: where its end (ankle, wrist) should be.
        toward_T3: direction in which the middle joint (knee, elbow) points.
        offset_23: both bones in the rest pose.
        rest_hinge_3: axis of the middle joint in the rest pose, such that the limb's direction crossed with
            the direction of the middle joint gives it.

    Returns:
        Rotations [T, 3, 3] of the upper and of the lower bone from the rest pose.
    """
    upper, lower = np.linalg.norm(offset_23, axis=-1)
    away_T3 = target_T3 - start_T3
    distance_T = np.linalg.norm(away_T3, axis=-1)
    along_T3 = away_T3 / distance_T[:, None]
    # Never quite straight, never folded flat: the bend stays defined and human.
    reach_T = np.clip(distance_T, 0.3 * (upper + lower), 0.998 * (upper + lower))
    side_T3 = unit(toward_T3 - (toward_T3 * along_T3).sum(-1, keepdims=True) * along_T3)
    cos_T = (upper**2 + reach_T**2 - lower**2) / (2 * upper * reach_T)
    sin_T = np.sqrt(np.maximum(1 - cos_T**2, 0.0))
    first_T3 = upper * (cos_T[:, None] * along_T3 + sin_T[:, None] * side_T3)
    second_T3 = reach_T[:, None] * along_T3 - first_T3
    hinge_T3 = np.cross(along_T3, side_T3)
    return (
        _frame(first_T3, hinge_T3) @ _frame(offset_23[0], rest_hinge_3).T,
        _frame(second_T3, hinge_T3) @ _frame(offset_23[1], rest_hinge_3).T,
    )
