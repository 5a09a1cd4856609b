"""Where the numbers of a person-frame stand, by kind; features.py and heading_features.py say what they are.

Legend: F features of a person-frame, J joints, R = J - 1 joints with a local rotation.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from intermoe.body.skeletons import Skeleton


@dataclass(frozen=True)
class FeatureLayout:
    """The slices of the F features of a person-frame, by kind.

    Attributes:
        root: where the features are of the kind "heading", the four numbers of the root; else empty.
        positions: of all joints, or of the kind "heading" of all but the root.
        velocities: of all joints.
        rotations: of all joints but the root.
        contacts: in the skeleton's order; always last.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> layout = FeatureLayout.of(SMPL22)
        >>> layout.rotations, layout.size
        (slice(132, 258, None), 262)
    """

    root: slice
    positions: slice
    velocities: slice
    rotations: slice
    contacts: slice

    @classmethod
    def of(cls, skeleton: Skeleton) -> Self:
        """The layout for that skeleton.

        Of the kind "world": 3J positions, 3J velocities, 6R rotations, contacts; of the kind "heading": 4 numbers of
        the root, 3R positions, 6R rotations, 3J velocities, contacts.
        """
        num_joints, num_turning = skeleton.num_joints, skeleton.num_joints - 1
        if skeleton.features == "world":
            sizes = {"root": 0, "positions": 3 * num_joints, "velocities": 3 * num_joints, "rotations": 6 * num_turning}
        else:
            sizes = {
                "root": 4,
                "positions": 3 * num_turning,
                "rotations": 6 * num_turning,
                "velocities": 3 * num_joints,
            }
        slices, start = {}, 0
        for name, size in (sizes | {"contacts": len(skeleton.contacts)}).items():
            slices[name] = slice(start, start + size)
            start += size
        return cls(**slices)

    @property
    def size(self) -> int:
        """Number of features F."""
        return int(self.contacts.stop)

    def shared_by_kind(self, std_F: Tensor) -> Tensor:
        """What features [F] of the kind "heading" are divided by: their mean deviation over all of a kind.

        As HumanML3D's own ``Std.npy`` has it. Of the root, the turn, the two steps and the height are kinds.
        """
        root = (slice(0, 1), slice(1, 3), slice(3, 4))
        kinds = (*root, self.positions, self.rotations, self.velocities, self.contacts)
        return torch.cat([std_F[kind].mean().expand(len(std_F[kind])) for kind in kinds])
