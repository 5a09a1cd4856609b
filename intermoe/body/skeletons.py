"""Skeletons as data: whatever depends on the number or the meaning of joints reads it from here.

A new skeleton is one more ``Skeleton`` in ``SKELETONS``; no other file names a joint by number.

Legend: J joints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from intermoe.errors import UserError

FeatureKind = Literal["world", "heading"]
"""What numbers describe a motion: "world" are InterHuman's, in the canonical frame of person 1, "heading" are
HumanML3D's, each frame in the frame of the root's heading (see features.py and heading_features.py)."""


@dataclass(frozen=True)
class PoolStage:
    """One pooling of the skeleton: groups of the finer joints, and the edges of the coarser graph they form.

    Attributes:
        names: of the groups, where they have some.
    """

    groups: tuple[tuple[int, ...], ...]
    edges: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contact:
    """A joint that touches the ground: at rest while lower than ``height`` metres and slow."""

    joint: int
    height: float


@dataclass(frozen=True)
class Skeleton:
    """Joints, their tree, a T-pose, the data that mirroring, contacts, facing and pooling need, and what is recorded.

    Joint 0 is the root; a parent comes before its children. Offsets are metres from the parent in the T-pose of an
    adult facing +z, x to the person's left, y up.

    Attributes:
        num_persons: persons P of a recording.
        fps: frames per second of a recording.
        features: the kind of numbers that describe a motion.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    rest_offsets: tuple[tuple[float, float, float], ...]
    mirror_pairs: tuple[tuple[int, int], ...]
    contacts: tuple[Contact, ...]
    left_hip: int
    right_hip: int
    pools: tuple[PoolStage, ...]
    num_persons: int = 2
    fps: int = 30
    features: FeatureKind = "world"

    @property
    def num_joints(self) -> int:
        """Number of joints J."""
        return len(self.parents)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs (parent, child) of the tree."""
        return tuple((parent, joint) for joint, parent in enumerate(self.parents) if parent >= 0)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """For each joint, its counterpart in the mirror image [J]."""
        order = list(range(self.num_joints))
        for left, right in self.mirror_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def end_effectors(self) -> tuple[int, ...]:
        """The joints that no other hangs on: for a whole body the toes, the head and the hands."""
        return tuple(joint for joint in range(self.num_joints) if joint not in self.parents)

    @property
    def num_features(self) -> int:
        """Numbers F of one person in one frame: positions 3J, velocities 3J, rotations 6(J - 1), contacts.

        Of the kind "heading" the root's position is 4 numbers (see heading_features.py).
        """
        of_root = {"world": 3, "heading": 4}[self.features]
        return (
            of_root + 3 * (self.num_joints - 1) + 3 * self.num_joints + 6 * (self.num_joints - 1) + len(self.contacts)
        )

    def index(self, joint_name: str) -> int:
        """Number of the joint with that name; ``ValueError`` where there is none."""
        return self.joint_names.index(joint_name)


# fmt: off
# Groups and edges are those of the published Causal-Skeletal VAE.
_TWELVE = PoolStage(
    groups=((0, 1, 2, 3), (0, 1, 4), (4, 7, 10), (0, 2, 5), (5, 8, 11), (0, 3, 6, 9), (9, 6, 12, 13, 14),
            (9, 13, 16), (16, 18, 20), (9, 14, 17), (17, 19, 21), (9, 12, 15)),
    edges=((0, 1), (0, 3), (0, 5), (1, 2), (3, 4), (5, 6), (6, 7), (6, 9), (6, 11), (7, 8), (9, 10)),
)
_SEVEN = PoolStage(
    groups=((0, 1, 3, 5), (0, 1, 2), (0, 3, 4), (0, 5, 6), (6, 7, 8), (6, 9, 10), (6, 11)),
    edges=((0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6)),
    names=("root", "left leg", "right leg", "spine", "left arm", "right arm", "head"),
)

SMPL22 = Skeleton(
    name="smpl22",
    joint_names=("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
                 "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
                 "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    parents=(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),
    rest_offsets=((0, 0, 0), (0.060, -0.086, -0.012), (-0.060, -0.086, -0.012), (0, 0.118, -0.030),
                  (0.042, -0.385, 0), (-0.042, -0.385, 0), (0, 0.138, 0.020), (-0.016, -0.424, -0.036),
                  (0.016, -0.424, -0.036), (0, 0.056, 0.004), (0.038, -0.060, 0.126), (-0.038, -0.060, 0.126),
                  (0, 0.212, -0.036), (0.078, 0.114, -0.022), (-0.078, 0.114, -0.022), (0, 0.088, 0.050),
                  (0.116, 0.046, -0.014), (-0.116, 0.046, -0.014), (0.256, -0.014, -0.026), (-0.256, -0.014, -0.026),
                  (0.264, 0.010, -0.006), (-0.264, 0.010, -0.006)),
    mirror_pairs=((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21)),
    contacts=(Contact(7, 0.12), Contact(10, 0.05), Contact(8, 0.12), Contact(11, 0.05)),
    left_hip=1,
    right_hip=2,
    pools=(_TWELVE, _SEVEN),
)

# SMPL-X: SMPL's joints, jaw and eyes, and 15 of each hand. The first stage of pooling is the published one, with the
# hands on the arms that they belong to; the second continues it.
_FOURTEEN = PoolStage(
    groups=(*_TWELVE.groups[:-1], (9, 12, 15, 22, 23, 24), tuple(range(25, 40)), tuple(range(40, 55))),
    edges=(*_TWELVE.edges, (8, 12), (10, 13)),
)
_NINE = PoolStage(
    groups=(*_SEVEN.groups, (8, 12), (10, 13)),
    edges=(*_SEVEN.edges, (4, 7), (5, 8)),
)
_FINGERS = ("index", "middle", "pinky", "ring", "thumb")
# From the wrist to a finger's first joint, and on to its second and third: of the left hand, palm down.
_FINGER_OFFSETS = (
    (0.095, -0.006, 0.022), (0.034, -0.002, 0.001), (0.023, -0.002, 0.001),
    (0.098, -0.002, -0.001), (0.033, -0.002, -0.003), (0.025, -0.002, -0.003),
    (0.080, -0.008, -0.042), (0.018, -0.003, -0.006), (0.016, -0.003, -0.005),
    (0.091, -0.004, -0.023), (0.029, -0.002, -0.006), (0.024, -0.002, -0.005),
    (0.026, -0.013, 0.026), (0.026, -0.005, 0.022), (0.022, -0.004, 0.017),
)
_FINGER_PARENTS = (-1, 0, 1, -1, 3, 4, -1, 6, 7, -1, 9, 10, -1, 12, 13)

SMPLX55 = Skeleton(
    name="smplx55",
    joint_names=(*SMPL22.joint_names, "jaw", "left_eye", "right_eye",
                 *(f"{side}_{finger}{number}" for side in ("left", "right") for finger in _FINGERS
                   for number in (1, 2, 3))),
    parents=(*SMPL22.parents, 15, 15, 15,
             *(wrist if parent < 0 else first + parent for wrist, first in ((20, 25), (21, 40))
               for parent in _FINGER_PARENTS)),
    rest_offsets=(*SMPL22.rest_offsets, (0, -0.005, 0.030), (0.032, 0.040, 0.070), (-0.032, 0.040, 0.070),
                  *((side * x, y, z) for side in (1, -1) for x, y, z in _FINGER_OFFSETS)),
    mirror_pairs=(*SMPL22.mirror_pairs, (23, 24), *((joint, joint + 15) for joint in range(25, 40))),
    contacts=SMPL22.contacts,
    left_hip=1,
    right_hip=2,
    pools=(_FOURTEEN, _NINE),
)
# fmt: on

HUMANML22 = replace(SMPL22, name="humanml22", num_persons=1, fps=20, features="heading")
"""SMPL's joints as HumanML3D records them: one person at 20 frames per second."""

SKELETONS: Mapping[str, Skeleton] = MappingProxyType(
    {skeleton.name: skeleton for skeleton in (SMPL22, SMPLX55, HUMANML22)}
)


def skeleton_named(name: str) -> Skeleton:
    """The skeleton of that name; ``UserError`` with the known names where there is none."""
    if name not in SKELETONS:
        raise UserError(f"unknown skeleton {name!r}", allowed=", ".join(SKELETONS))
    return SKELETONS[name]
