"""Do hands meet where they should? Of the kinds of Duet's interactions in which a hand of one meets one of the other.

Which hand, and when, is up to the motion: what counts is how near any two hands of the two persons come.

Legend: T frames, P persons, J joints.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.hands import arms, hand_gaps
from intermoe.body.skeletons import Skeleton

MEETING = ("shake_hands", "high_five", "hand_over")
"""The kinds in which hands meet; recorded ones come within 1 to 3 cm of each other at the median, wrist to wrist."""
NEAR_CM = 8.0
"""Hands this near have met: a hand is about as wide."""


def hands_apart_cm(joints_TPJ3: NDArray[np.floating], skeleton: Skeleton) -> float:
    """The least distance of a wrist of one person from one of the other over the motion.

    NaN without wrists, and of one person.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> apart = np.zeros((4, 2, 22, 3)) + np.array([0.0, 0.25])[:, None, None] * [1, 0, 0]
        >>> round(hands_apart_cm(apart, SMPL22), 6)
        25.0
    """
    if not arms(skeleton) or joints_TPJ3.shape[1] == 1:
        return float("nan")
    joints_PTJ3 = torch.from_numpy(joints_TPJ3.astype(np.float64)).transpose(0, 1)
    return 100 * float(hand_gaps(joints_PTJ3, skeleton).min())


def hands_met(joints_TPJ3: NDArray[np.floating], skeleton: Skeleton) -> float:
    """1 where two hands come within ``NEAR_CM`` of each other, else 0; NaN without wrists, and of one person."""
    apart = hands_apart_cm(joints_TPJ3, skeleton)
    return float("nan") if np.isnan(apart) else float(apart <= NEAR_CM)
