"""Where people stand: the shift along the ground and the turn about the vertical that take them there.

Legend: B motions, T frames, P persons, J joints, N points, F features. Metres; y up.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from intermoe.body.features import FeatureLayout, turn_to_front
from intermoe.body.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class Placement:
    """A turn about the vertical, then a shift along the ground, of each motion.

    Attributes:
        turn_B33: rotations about y.
        shift_B3: the way along the ground, its y is 0.

    Example:
        >>> still_B3 = torch.tensor([[0.0, 0.0, 2.0]])
        >>> turned = Placement(torch.tensor([[[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]]), still_B3)
        >>> turned.points(torch.tensor([[[0.0, 1.0, 3.0]]])).tolist()
        [[[3.0, 1.0, 2.0]]]
    """

    turn_B33: Tensor
    shift_B3: Tensor

    @classmethod
    def of(cls, pose_BJ3: Tensor, skeleton: Skeleton) -> Self:
        """Where somebody stands in a pose: it takes who stands at the origin and faces +z there."""
        return cls(turn_to_front(pose_BJ3, skeleton).mT, pose_BJ3[:, 0] * pose_BJ3.new_tensor((1.0, 0.0, 1.0)))

    @property
    def inverse(self) -> "Placement":
        """The way back."""
        return Placement(self.turn_B33.mT, -(self.turn_B33.mT @ self.shift_B3[..., None]).squeeze(-1))

    def after(self, first: "Placement") -> "Placement":
        """Both in one: that one first, then this one."""
        return Placement(
            self.turn_B33 @ first.turn_B33,
            (self.turn_B33 @ first.shift_B3[..., None]).squeeze(-1) + self.shift_B3,
        )

    def points(self, x_BN3: Tensor) -> Tensor:
        """Points [B, ..., 3] where they are taken to."""
        turned_BN3 = x_BN3.flatten(1, -2) @ self.turn_B33.mT + self.shift_B3[:, None]
        return turned_BN3.view_as(x_BN3)

    def features(self, features_BTPF: Tensor, skeleton: Skeleton) -> Tensor:
        """Features [B, T, P, F] of the motions that are taken there."""
        layout = FeatureLayout.of(skeleton)
        position_BTPJ3, velocity_BTPJ3 = (
            features_BTPF[..., part].unflatten(-1, (-1, 3)) for part in (layout.positions, layout.velocities)
        )
        still = Placement(self.turn_B33, torch.zeros_like(self.shift_B3))
        moved = self.points(position_BTPJ3).flatten(-2), still.points(velocity_BTPJ3).flatten(-2)
        return torch.cat([*moved, features_BTPF[..., layout.rotations.start :]], dim=-1)

    def where(self, chosen_B: Tensor) -> "Placement":
        """The same for the chosen motions; the others stay in their place."""
        eye_33 = torch.eye(3, dtype=self.turn_B33.dtype)
        return Placement(
            self.turn_B33.where(chosen_B[:, None, None], eye_33), self.shift_B3.where(chosen_B[:, None], 0.0)
        )
