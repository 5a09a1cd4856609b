"""Who of the two acts? Told from the joints alone, by one rule of mechanics for each kind of Duet's interactions.

A caption of Duet names who acts: "the first person pushes the second". What the metrics of the field measure is whether
the motion looks like a push; these rules tell whether the *right* person pushes. No network has a part in them.

A rule gives each person a number, the greater the more that person behaves as the actor of that kind; it says nothing
of whether the kind takes place at all.

Legend: T frames, P = 2 persons, J joints of SMPL22, H hands, N motions, K kinds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import SMPL22

Joints = NDArray[np.floating]
Scores = NDArray[np.float64]

# Frames between two looks at a walk: a third of a second, so that swaying is no walking.
_STRIDE = 10
_UP = 1


def _joint(joints_TPJ3: Joints, name: str) -> NDArray[np.float64]:
    return joints_TPJ3[:, :, SMPL22.index(name)].astype(np.float64)


def _ground(joints_TPJ3: Joints) -> NDArray[np.float64]:
    """Where each person stands [T, P, 2]."""
    return _joint(joints_TPJ3, "pelvis")[..., [0, 2]]


def _yaw(joints_TPJ3: Joints) -> NDArray[np.float64]:
    """Where each person faces [T, P], radians about the vertical, without jumps from one frame to the next."""
    across_TP3 = _joint(joints_TPJ3, "left_hip") - _joint(joints_TPJ3, "right_hip")
    return np.unwrap(np.arctan2(-across_TP3[..., 2], across_TP3[..., 0]), axis=0)


def _walked(joints_TPJ3: Joints) -> Scores:
    """Length of the way of each person."""
    way_TP2 = _ground(joints_TPJ3)
    points_TP2 = np.concatenate([way_TP2[:-1:_STRIDE], way_TP2[-1:]])
    return np.linalg.norm(np.diff(points_TP2, axis=0), axis=-1).sum(axis=0)


def _bent(joints_TPJ3: Joints) -> Scores:
    """Greatest angle of the trunk from upright."""
    trunk_TP3 = _joint(joints_TPJ3, "neck") - _joint(joints_TPJ3, "pelvis")
    upright_TP = trunk_TP3[..., _UP] / np.linalg.norm(trunk_TP3, axis=-1).clip(min=1e-6)
    return -upright_TP.min(axis=0)


def _advanced(joints_TPJ3: Joints) -> Scores:
    """Ground won toward where the partner stood at first: who is pushed loses it."""
    way_TP2 = _ground(joints_TPJ3)
    toward_P2 = way_TP2[0, ::-1] - way_TP2[0]
    toward_P2 /= np.linalg.norm(toward_P2, axis=-1, keepdims=True).clip(min=1e-6)
    return ((way_TP2[-1] - way_TP2[0]) * toward_P2).sum(axis=-1)


def _raised(joints_TPJ3: Joints) -> Scores:
    """Height of the higher hand above its shoulder, in the fifth of the time that it is highest."""
    reach = [
        _joint(joints_TPJ3, f"{side}_wrist") - _joint(joints_TPJ3, f"{side}_shoulder") for side in ("left", "right")
    ]
    height_TP = np.maximum(*(side_TP3[..., _UP] for side_TP3 in reach))
    return np.sort(height_TP, axis=0)[-max(1, len(height_TP) // 5) :].mean(axis=0)


def _stayed_up(joints_TPJ3: Joints) -> Scores:
    """How little the head sinks below where it was: who is punched at ducks."""
    height_TP = _joint(joints_TPJ3, "head")[..., _UP]
    return height_TP.min(axis=0) - np.median(height_TP[: max(1, len(height_TP) // 5)], axis=0)


def _led(joints_TPJ3: Joints) -> Scores:
    """How far ahead each is in the direction in which both walk."""
    way_TP2 = _ground(joints_TPJ3)
    direction_2 = (way_TP2[-1] - way_TP2[0]).sum(axis=0)
    return (way_TP2[len(way_TP2) // 2 :] @ direction_2).mean(axis=0)


def _was_first(joints_TPJ3: Joints) -> Scores:
    """How early the hands have gone half of their way, seen from the body: who copies comes later."""
    hands_TPH3 = np.stack([_joint(joints_TPJ3, f"{side}_wrist") for side in ("left", "right")], axis=2)
    step_TPH3 = np.diff(hands_TPH3 - _joint(joints_TPJ3, "spine3")[:, :, None], axis=0)
    gone_TP = np.cumsum(np.linalg.norm(step_TPH3, axis=-1).sum(axis=-1), axis=0)
    return -(gone_TP < gone_TP[-1:] / 2).sum(axis=0).astype(np.float64)


def _kicked(joints_TPJ3: Joints) -> Scores:
    """Greatest height of a foot."""
    return np.maximum(*(_joint(joints_TPJ3, f"{side}_ankle")[..., _UP].max(axis=0) for side in ("left", "right")))


def _kept_facing(joints_TPJ3: Joints) -> Scores:
    """How little each turns: who is tapped on the shoulder turns round."""
    yaw_TP = _yaw(joints_TPJ3)
    return -np.abs(yaw_TP - yaw_TP[:1]).max(axis=0)


def _stood(joints_TPJ3: Joints) -> Scores:
    """How little each walks: who beckons waits."""
    return -_walked(joints_TPJ3)


RULES: Mapping[str, Callable[[Joints], Scores]] = MappingProxyType(
    {
        "shake_hands": _walked,
        "bow": _bent,
        "push": _advanced,
        "wave": _raised,
        "circle": _walked,
        "punch": _stayed_up,
        "high_five": _walked,
        "lead": _led,
        "mirror": _was_first,
        "hand_over": _walked,
        "hug": _walked,
        "kick": _kicked,
        "beckon": _stood,
        "tap": _kept_facing,
    }
)
KINDS = tuple(RULES)


def actors(joints_TPJ3: Joints) -> NDArray[np.int64]:
    """For each kind in ``KINDS``, who acts (0 or 1) if the motion is of that kind.

    Args:
        joints_TPJ3: positions of SMPL22's joints in metres, y up, at 30 frames a second.

    Example:
        >>> from intermoe.datasets.duet.kinds import make_interaction
        >>> bow = make_interaction(seed=0, index=1)
        >>> bow.label["actor"], int(actors(bow.position_TPJ3)[KINDS.index("bow")])
        (1, 1)
    """
    return np.array([int(np.argmax(rule(joints_TPJ3))) for rule in RULES.values()])


@dataclass(frozen=True, eq=False)
class Roles:
    """Who acts in motions by the rules, and whom their captions name.

    Attributes:
        actor_NK: who acts in each motion if it is of a kind (see ``actors``).
        kind_N: the kind that each caption is of, its place in ``KINDS``.
        named_N: who acts by the caption, 0 or 1.
    """

    actor_NK: NDArray[np.integer]
    kind_N: NDArray[np.integer]
    named_N: NDArray[np.integer]

    def agreement(self, shift: int = 0) -> float:
        """Share of motions in which the person acts whom the caption of the shift-th next motion names.

        Example:
            >>> actor_NK = np.eye(3, len(KINDS), dtype=int)
            >>> Roles(actor_NK, kind_N=np.array([0, 1, 2]), named_N=np.array([1, 1, 1])).agreement()
            1.0
        """
        kind_N, named_N = np.roll(self.kind_N, -shift), np.roll(self.named_N, -shift)
        return float((self.actor_NK[np.arange(len(kind_N)), kind_N] == named_N).mean())
