"""A person's body as triangles that a skeleton carries: the forms of render/body.py on the joints of a T-pose.

Legend: J joints, N angles or rings, V vertices, F triangles, K points of a body, S vertices around a ring.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton
from intermoe.render.body import Body

# Vertices around a limb and around a round form; rings from the tip of either to its widest place.
_AROUND_LIMB, _AROUND_FORM = 12, 16
_RINGS_OF_TIP, _RINGS_OF_FORM = 4, 9
# Shorter things, metres, have no direction.
_SHORTEST = 1e-9
# A vertex names four joints at most, as files list them.
_MOST_CARRIERS = 4


@dataclass(frozen=True)
class Surface:
    """Triangles, counter-clockwise as seen from outside.

    Attributes:
        position_V3: metres.
        normal_V3: outwards, of length 1.
        joint_V4: the joints that a vertex turns with.
        weight_V4: how much with each; they add up to 1.
        corner_F3: numbers of a triangle's vertices.
    """

    position_V3: NDArray[np.float64]
    normal_V3: NDArray[np.float64]
    joint_V4: NDArray[np.int64]
    weight_V4: NDArray[np.float64]
    corner_F3: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Several as one."""
        starts = np.cumsum([0, *(len(part.position_V3) for part in parts)])
        return cls(
            np.concatenate([part.position_V3 for part in parts]),
            np.concatenate([part.normal_V3 for part in parts]),
            np.concatenate([part.joint_V4 for part in parts]),
            np.concatenate([part.weight_V4 for part in parts]),
            np.concatenate([start + part.corner_F3 for start, part in zip(starts, parts, strict=False)]),
        )


def body_mesh(joints_J3: NDArray, skeleton: Skeleton) -> dict[str, Surface]:
    """The surfaces of a body in a T-pose, by side: left, middle and right.

    A limb turns with the joint at which it begins, a form of the trunk with the mean of those it lies between.
    Soles are flat: nothing is below the lowest joint, which a floor is put under.

    Args:
        joints_J3: joints of the T-pose, metres, y up.
        skeleton: what they are.
    """
    body = Body(skeleton)
    pose = joints_J3[None, None].astype(np.float64)
    scale = body.scale(pose)
    points_K3 = body.points(pose, scale)[0, 0]
    parts = defaultdict(list)
    for limb in body.limbs:
        radii = float(scale[0]) * limb.radius_start, float(scale[0]) * limb.radius_end
        sheet = _limb(points_K3[limb.start], points_K3[limb.end], radii)
        parts[limb.side].append(_carried(*sheet, (limb.start,), floor=joints_J3[:, 1].min()))
    for form in body.ellipsoids:
        middle_3, *ends = points_K3[form.first : form.first + 4]
        sheet = _ellipsoid(middle_3, np.stack(ends) - middle_3)
        parts[form.side].append(_carried(*sheet, form.carriers, floor=joints_J3[:, 1].min()))
    return {side: Surface.joined(surfaces) for side, surfaces in parts.items()}


def _limb(start_3: NDArray, end_3: NDArray, radii: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Positions and normals [N, S, 3] of a sphere swept from one place to another while its radius changes."""
    length = float(np.linalg.norm(end_3 - start_3))
    # Where they are one place, the direction is of no matter.
    along_3 = (end_3 - start_3) / length if length > _SHORTEST else np.array([0.0, 1.0, 0.0])
    length = max(length, _SHORTEST)
    # Any two directions across it, and it, as a right-handed frame.
    aside_3 = np.cross(along_3, np.eye(3)[np.abs(along_3).argmin()])
    aside_3 /= np.linalg.norm(aside_3)
    frame_33 = np.stack([aside_3, along_3, np.cross(aside_3, along_3)])
    # Where the cone that touches both spheres leaves them.
    lean = np.arcsin(np.clip((radii[0] - radii[1]) / length, -0.95, 0.95))
    angle_N = np.concatenate(
        [np.linspace(-np.pi / 2, lean, _RINGS_OF_TIP), np.linspace(lean, np.pi / 2, _RINGS_OF_TIP)]
    )
    normal_NS3 = _rings(angle_N, _AROUND_LIMB) @ frame_33
    radius_N = np.repeat(radii, _RINGS_OF_TIP)
    middle_N3 = np.repeat([start_3, end_3], _RINGS_OF_TIP, axis=0)
    return middle_N3[:, None] + radius_N[:, None, None] * normal_NS3, normal_NS3


def _ellipsoid(middle_3: NDArray, axes_33: NDArray) -> tuple[NDArray, NDArray]:
    """Positions and normals [N, S, 3] of an ellipsoid whose half axes are the rows of a matrix, right-handed."""
    unit_NS3 = _rings(np.linspace(-np.pi / 2, np.pi / 2, _RINGS_OF_FORM), _AROUND_FORM)
    normal_NS3 = unit_NS3 @ (axes_33 / np.maximum((axes_33**2).sum(axis=1, keepdims=True), _SHORTEST))
    length_NS1 = np.linalg.norm(normal_NS3, axis=-1, keepdims=True)
    normal_NS3 = np.where(length_NS1 > _SHORTEST, normal_NS3 / np.maximum(length_NS1, _SHORTEST), unit_NS3)
    return middle_3 + unit_NS3 @ axes_33, normal_NS3


def _rings(angle_N: NDArray, around: int) -> NDArray[np.float64]:
    """Directions [N, S, 3] on the unit sphere: rings about y at these angles above the equator, the first at x = 0."""
    turn_S = np.arange(around) * 2 * np.pi / around
    cos_N1, sin_N1 = np.cos(angle_N)[:, None], np.sin(angle_N)[:, None]
    return np.stack([cos_N1 * np.sin(turn_S), sin_N1 + 0 * turn_S, cos_N1 * np.cos(turn_S)], axis=-1)


def _carried(position_NS3: NDArray, normal_NS3: NDArray, carriers: tuple[int, ...], *, floor: float) -> Surface:
    """The surface over rings whose first and last are points."""
    rings, around = position_NS3.shape[:2]
    below_NS1 = position_NS3[..., 1:2] < floor
    position_NS3 = np.where(below_NS1 & [False, True, False], floor, position_NS3)
    normal_NS3 = np.where(below_NS1, [0.0, -1.0, 0.0], normal_NS3)
    vertex_NS = np.arange(rings * around).reshape(rings, around)
    beside_NS = np.roll(vertex_NS, -1, axis=1)
    # Of the two triangles between four vertices one has no area where a ring is a point.
    lower = np.stack([vertex_NS[1:-1], beside_NS[1:-1], beside_NS[2:]], axis=-1)
    upper = np.stack([vertex_NS[:-2], beside_NS[1:-1], vertex_NS[1:-1]], axis=-1)
    joint_4, weight_4 = np.zeros(_MOST_CARRIERS, np.int64), np.zeros(_MOST_CARRIERS)
    joint_4[: len(carriers)], weight_4[: len(carriers)] = carriers, 1 / len(carriers)
    count = rings * around
    return Surface(
        position_NS3.reshape(-1, 3),
        normal_NS3.reshape(-1, 3),
        np.tile(joint_4, (count, 1)),
        np.tile(weight_4, (count, 1)),
        np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)]),
    )
