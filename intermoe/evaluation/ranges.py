"""Does generated motion stay in the range of recorded motion? Measured without any network.

Legend: T frames, P persons, J joints.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton

Joints = NDArray[np.float32]


def bone_lengths(joints_TPJ3: NDArray[Any], skeleton: Skeleton) -> NDArray[Any]:
    """Length of each bone of each person in each frame [T, P, J - 1], in the unit of the joints."""
    parents, children = (list(ends) for ends in zip(*skeleton.edges, strict=True))
    return np.linalg.norm(joints_TPJ3[:, :, children] - joints_TPJ3[:, :, parents], axis=-1)


def measures(joints_TPJ3: Joints, skeleton: Skeleton) -> dict[str, NDArray[np.float32]]:
    """The measures of each person in each frame.

    Args:
        joints_TPJ3: positions in metres, y up, the ground at y = 0, at the skeleton's frames a second.
        skeleton: what the joints are.

    Returns:
        ``bone_length`` [T, P, J - 1], metres; ``foot_height`` [T, P * K, 1], metres of the K joints that touch
        the ground; ``root_speed`` [T - 1, P, 1], metres a second in the ground plane.
    """
    feet = [contact.joint for contact in skeleton.contacts]
    step = np.diff(joints_TPJ3[:, :, 0][:, :, [0, 2]], axis=0)
    return {
        "bone_length": bone_lengths(joints_TPJ3, skeleton),
        "foot_height": joints_TPJ3[:, :, feet, 1].reshape(len(joints_TPJ3), -1, 1),
        "root_speed": np.linalg.norm(step, axis=-1, keepdims=True) * skeleton.fps,
    }


class Range:
    """The 1st to 99th percentile of each measure over recorded motion.

    Example:
        >>> from intermoe.body.skeletons import SMPL22
        >>> standing = np.zeros((20, 2, 22, 3), dtype=np.float32)
        >>> Range.of([standing], SMPL22).share_inside([standing], SMPL22)
        {'bone_length': 1.0, 'foot_height': 1.0, 'root_speed': 1.0}
    """

    def __init__(self, low: Mapping[str, NDArray[np.float32]], high: Mapping[str, NDArray[np.float32]]) -> None:
        self.low, self.high = low, high

    @classmethod
    def of(cls, recorded: Iterable[Joints], skeleton: Skeleton) -> "Range":
        """Measure recordings, each [T, P, J, 3]; every bone has a range of its own."""
        pooled = _pooled(recorded, skeleton)
        bounds = {name: np.percentile(values, [1, 99], axis=0) for name, values in pooled.items()}
        return cls({name: low for name, (low, _) in bounds.items()}, {name: high for name, (_, high) in bounds.items()})

    def share_inside(self, motions: Sequence[Joints], skeleton: Skeleton) -> dict[str, float]:
        """Share of the measured numbers of all frames that lie in the range, by measure."""
        return {
            name: float(((self.low[name] <= values) & (values <= self.high[name])).mean())
            for name, values in _pooled(motions, skeleton).items()
        }


def _pooled(motions: Iterable[Joints], skeleton: Skeleton) -> dict[str, NDArray[np.float32]]:
    """All persons and frames in one, [frames, numbers of the measure]."""
    found = [measures(joints, skeleton) for joints in motions]
    return {name: np.concatenate([one[name].reshape(-1, one[name].shape[-1]) for one in found]) for name in found[0]}
