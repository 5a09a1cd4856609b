"""Mean and standard deviation of the features of a training split, summed a recording at a time.

Sums are float64 and are added in the order of their parts: the same parts give the same bits, wherever each was summed.

Legend: T frames, P persons, J joints, R = J - 1, F features of a person-frame, B stretches, N person-frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.features import motion_features
from intermoe.body.skeletons import Skeleton
from intermoe.data.rows import RecordedMotion

# As long as the longest stretch that the published models train on.
_STRETCH = 300


@dataclass(frozen=True)
class Moments:
    """Number of person-frames, and sum and sum of squares of each of their features, float64 [F].

    Example:
        >>> one, two = (Moments(1, torch.tensor([x]), torch.tensor([x * x])) for x in (1.0, 3.0))
        >>> Moments.total([one, two]).mean_and_std()
        (tensor([2.]), tensor([1.]))
    """

    count: int
    sum_F: Tensor
    square_F: Tensor

    @classmethod
    def of(cls, motion: RecordedMotion, skeleton: Skeleton) -> Self:
        """The moments of one recording, with either person as the first, as training swaps them.

        Args:
            motion: of the recording.
            skeleton: whose joints these are.

        The recording is cut into stretches of 300 frames, each in the canonical frame of its own beginning; what is
        left at the end counts if it is long enough to be a recording. Features of its own count as they are.
        """
        if skeleton.features == "heading":
            x_NF = torch.tensor(motion.features_TPF).double().flatten(0, 1)
            return cls(len(x_NF), x_NF.sum(0), x_NF.square().sum(0))
        position_TPJ3, rotation_TPR6 = torch.tensor(motion.position_TPJ3), torch.tensor(motion.rotation_TPR6)
        count = 0
        sum_F, square_F = torch.zeros(2, skeleton.num_features, dtype=torch.float64)
        for start in range(0, len(position_TPJ3) - MIN_FRAMES + 1, _STRETCH):
            position_BTPJ3, rotation_BTPR6 = (
                torch.stack([whole, whole.flip(1)])
                for whole in (position_TPJ3[start : start + _STRETCH], rotation_TPR6[start : start + _STRETCH])
            )
            frames_B = torch.full((2,), position_BTPJ3.shape[1])
            features_BTPF, _ = motion_features(position_BTPJ3, rotation_BTPR6, frames_B, skeleton)
            x_NF = features_BTPF.double().flatten(0, 2)
            count += len(x_NF)
            sum_F += x_NF.sum(0)
            square_F += x_NF.square().sum(0)
        return cls(count, sum_F, square_F)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The moments of all parts together; at least one part."""
        parts = list(parts)
        return cls(
            sum(part.count for part in parts),
            torch.stack([part.sum_F for part in parts]).sum(0),
            torch.stack([part.square_F for part in parts]).sum(0),
        )

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature [F]."""
        mean_F = self.sum_F / self.count
        return mean_F, (self.square_F / self.count - mean_F.square()).clamp(min=0).sqrt()
