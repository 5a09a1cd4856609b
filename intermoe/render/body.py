"""The shape of a person: round forms for the flesh, placed by the joints.

A limb is a sphere swept from one point to another while its radius changes; trunk and head are ellipsoids, as on an
artist's mannequin. Side, thickness and rounding follow from the names of the joints; a skeleton with other names gets a
plain limb for each bone.

Legend: T frames, P persons, J joints, K points of a body (its joints, then what the shape adds to them).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton

# Radius in metres of the bone that ends in a joint, at its beginning and at that joint. "left_" and "right_" dropped.
_RADII = {
    "knee": (0.086, 0.058), "ankle": (0.057, 0.038), "foot": (0.043, 0.037), "neck": (0.080, 0.052),
    "shoulder": (0.056, 0.062), "elbow": (0.057, 0.043), "wrist": (0.043, 0.030), "head": (0.052, 0.052),
}  # fmt: skip
_OTHER_RADII = (0.045, 0.040)
# What lies beyond the last joints, along the bone that ends there: metres, radii.
_TIPS = {"wrist": (0.10, 0.037, 0.027), "foot": (0.045, 0.037, 0.031)}
_INSIDE_TRUNK = {"hip", "spine1", "spine2", "spine3", "collar"}
_HIPS, _COLLARS, _SHOULDERS = (("left_" + name, "right_" + name) for name in ("hip", "collar", "shoulder"))


@dataclass(frozen=True)
class _Form:
    """An ellipsoid by names of joints.

    Its middle (a mean of joints, then metres up and forward), its up direction from below to above, the left and the
    right joint that it lies across, half its width, height and depth in metres, and the joints that it turns
    with.
    """

    middle: tuple[str, ...]
    up: float
    forward: float
    below: tuple[str, ...]
    above: tuple[str, ...]
    across: tuple[str, str]
    half: tuple[float, float, float]
    carriers: tuple[str, ...]


_FORMS = (
    _Form(("pelvis", *_HIPS), 0.00, 0.00, _HIPS, ("spine1",), _HIPS, (0.150, 0.118, 0.116), ("pelvis",)),
    _Form(("spine1",), 0.00, 0.01, ("pelvis",), ("spine2",), _HIPS, (0.132, 0.165, 0.106), ("pelvis", "spine1")),
    _Form(("spine2", "spine3", *_COLLARS), 0.00, 0.012, ("spine2",), _COLLARS, _COLLARS, (0.168, 0.178, 0.120),
          ("spine2", "spine3")),
    _Form((*_COLLARS, *_SHOULDERS), 0.00, 0.00, ("spine3",), _COLLARS, _SHOULDERS, (0.205, 0.080, 0.086),
          ("spine3", *_COLLARS)),
    # Up from the chest: the neck alone leans forward even when the head is upright.
    _Form(("head",), 0.080, 0.012, ("spine3",), ("head",), _SHOULDERS, (0.083, 0.125, 0.100), ("head",)),
    # The nose tells where a head looks.
    _Form(("head",), 0.065, 0.110, ("spine3",), ("head",), _SHOULDERS, (0.017, 0.024, 0.024), ("head",)),
)  # fmt: skip


@dataclass(frozen=True)
class Limb:
    """A swept sphere between two of the K points of a body, radii in metres; ``side`` is left, middle or right.

    It turns with ``start``, always a joint.
    """

    start: int
    end: int
    radius_start: float
    radius_end: float
    side: str


@dataclass(frozen=True)
class Ellipsoid:
    """A round form: four of the K points from ``first`` on, its middle and the ends of its half axes x, y and z.

    In a mesh it turns with the mean of the joints ``carriers``.
    """

    first: int
    carriers: tuple[int, ...]
    side: str = "middle"


class Body:
    """The forms to draw for a skeleton: ``limbs`` and ``ellipsoids``, both over the K points that ``points`` gives."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        plain = [name.removeprefix("left_").removeprefix("right_") for name in skeleton.joint_names]
        side = ["middle"] * skeleton.num_joints
        for pair in skeleton.mirror_pairs:
            for joint, word in zip(pair, ("left", "right"), strict=True):
                # Hips and collars belong to the trunk: what shows its side is what moves as an arm or a leg.
                side[joint] = "middle" if plain[joint] in {"hip", "collar", "shoulder"} else word
        known = set(skeleton.joint_names)
        self._forms = [form for form in _FORMS if {*form.middle, *form.below, *form.above, *form.across} <= known]
        hidden = _INSIDE_TRUNK if len(self._forms) == len(_FORMS) else set()
        bones = [(p, j) for p, j in skeleton.edges if plain[j] not in hidden]
        limbs = [Limb(p, j, *_RADII.get(plain[j], _OTHER_RADII), side[j]) for p, j in bones]
        self._tips = [joint for joint, name in enumerate(plain) if name in _TIPS]
        self._reach = [_TIPS[plain[joint]][0] for joint in self._tips]
        for point, joint in enumerate(self._tips, skeleton.num_joints):
            limbs.append(Limb(joint, point, *_TIPS[plain[joint]][1:], side[joint]))
        first = skeleton.num_joints + len(self._tips)
        self.limbs = tuple(limbs)
        self.ellipsoids = tuple(
            Ellipsoid(first + 4 * number, tuple(skeleton.index(name) for name in form.carriers))
            for number, form in enumerate(self._forms)
        )

    def scale(self, joints_TPJ3: NDArray) -> NDArray[np.float64]:
        """Size of each person against the adult of the skeleton's rest pose, from bone lengths [P]."""
        parent, child = np.array(self._skeleton.edges).T
        length_P = np.linalg.norm(joints_TPJ3[:, :, child] - joints_TPJ3[:, :, parent], axis=-1).sum(-1).mean(0)
        rest = np.linalg.norm(np.array(self._skeleton.rest_offsets)[child], axis=-1).sum()
        return np.clip(length_P / rest, 0.4, 2.5)

    def points(self, joints_TPJ3: NDArray, scale_P: NDArray) -> NDArray[np.float64]:
        """The K points of both bodies [T, P, K, 3] in metres; ``scale_P`` is that of ``scale``."""
        parents, scale = self._skeleton.parents, scale_P[:, None]
        added = []
        for joint, reach in zip(self._tips, self._reach, strict=True):
            along = _unit(joints_TPJ3[:, :, joint] - joints_TPJ3[:, :, parents[joint]])
            added.append(joints_TPJ3[:, :, joint] + reach * scale * along)

        def mean(names: tuple[str, ...]) -> NDArray:
            return joints_TPJ3[:, :, [self._skeleton.index(name) for name in names]].mean(2)

        for form in self._forms:
            up = _unit(mean(form.above) - mean(form.below))
            front = _unit(np.cross(mean(form.across[:1]) - mean(form.across[1:]), up))
            middle = mean(form.middle) + scale * (form.up * up + form.forward * front)
            axes = (np.cross(up, front), up, front)
            added += [middle, *(middle + half * scale * axis for half, axis in zip(form.half, axes, strict=True))]
        return np.concatenate([joints_TPJ3, np.stack(added, axis=2)], axis=2) if added else joints_TPJ3

    def plan(self) -> dict[str, Any]:
        """The shape as plain values by numbers of joints, for a program that places the K points itself: the page.

        ``limbs`` and ``ellipsoids`` are those of this class; ``tips`` and ``forms`` say how their points beyond the
        joints are made, in their order, as ``points`` makes them.
        """
        number, parents = self._skeleton.index, self._skeleton.parents
        reaches = zip(self._tips, self._reach, strict=True)
        return {
            "limbs": [[limb.start, limb.end, limb.radius_start, limb.radius_end, limb.side] for limb in self.limbs],
            "ellipsoids": [[form.first, form.side] for form in self.ellipsoids],
            "tips": [[joint, parents[joint], reach] for joint, reach in reaches],
            "forms": [
                {
                    **{key: [*map(number, getattr(form, key))] for key in ("middle", "below", "above", "across")},
                    "up": form.up,
                    "forward": form.forward,
                    "half": list(form.half),
                }
                for form in self._forms
            ],
        }


def _unit(vector: NDArray) -> NDArray:
    return vector / (np.linalg.norm(vector, axis=-1, keepdims=True) + 1e-9)
