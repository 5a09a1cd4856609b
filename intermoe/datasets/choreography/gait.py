"""Where the feet are: footsteps under a moving body, one foot at a time, planted in between.

Legend: T frames. Plane vectors are (x, z) in metres, y is up; yaw in radians about y, 0 faces +z, positive turns to
the left (x is a person's left).
"""

from dataclasses import dataclass

import numpy as np

from intermoe.datasets.choreography.curves import Array, ease

SIDES = ("left", "right")
SIGN = {"left": 1.0, "right": -1.0}
_YAW_WEIGHT = 0.22  # metres of misplacement that one radian of misturned foot counts for
_THRESHOLD = 0.05  # metres of misplacement that a person puts up with before stepping
_STILL_FRAMES = 6  # both feet stand at least that long at the end
_HEEL_FRAMES = 5  # the heel comes off the ground that long before the foot does


@dataclass(frozen=True)
class Pace:
    """How somebody steps: frames in the air, frames on both feet, how high the foot is lifted in metres."""

    swing: int = 11
    pause: int = 2
    lift: float = 0.07


@dataclass(frozen=True)
class Foot:
    """The track of one foot: where its ankle stands in the plane, its yaw, lift, heel angle, and if it is down."""

    spot_T2: Array
    yaw_T: Array
    lift_T: Array
    heel_T: Array
    down_T: Array


def left_of(yaw_T: Array) -> Array:
    """Direction [T, 2] to the left of somebody with that yaw."""
    return np.stack([np.cos(yaw_T), -np.sin(yaw_T)], axis=-1)


def ahead_of(yaw_T: Array) -> Array:
    """Direction [T, 2] in front of somebody with that yaw."""
    return np.stack([np.sin(yaw_T), np.cos(yaw_T)], axis=-1)


def plan_feet(place_T2: Array, yaw_T: Array, stance: tuple[float, float], pace: Pace) -> dict[str, Foot]:
    """Steps for a body that moves along a path.

    A foot steps when it would be out of place by the time it could be down again; it lands where the body will be in
    the middle of its next stand, so that the body passes over it. The feet take turns.

    Args:
        place_T2: where the body is, in the plane.
        yaw_T: where it faces.
        stance: metres of each ankle from the middle outward, and ahead.
        pace: how the person steps.

    Returns:
        The two tracks by side.
    """
    frames = len(yaw_T)
    out, ahead = stance
    ideal = {side: place_T2 + SIGN[side] * out * left_of(yaw_T) + ahead * ahead_of(yaw_T) for side in SIDES}
    spot = {side: ideal[side][0] for side in SIDES}
    turned = {side: float(yaw_T[0]) for side in SIDES}
    steps: dict[str, list[tuple[int, Array, float, Array, float]]] = {side: [] for side in SIDES}
    last, now = "", _HEEL_FRAMES + 1  # nobody begins with a heel in the air
    while now + pace.swing + _STILL_FRAMES < frames:
        aim = min(now + pace.swing + pace.swing // 2 + pace.pause, frames - 1)
        error = {
            side: float(np.hypot(*(ideal[side][aim] - spot[side]))) + _YAW_WEIGHT * abs(yaw_T[aim] - turned[side])
            for side in SIDES
        }
        side = max(SIDES, key=lambda name: error[name])
        other = SIDES[1 - SIDES.index(side)]
        if side == last and error[other] > _THRESHOLD:
            side = other
        if error[side] <= _THRESHOLD:
            now += 1
            continue
        steps[side].append((now, spot[side], turned[side], ideal[side][aim], float(yaw_T[aim])))
        spot[side], turned[side] = ideal[side][aim], float(yaw_T[aim])
        last, now = side, now + pace.swing + pace.pause
    return {side: _track(steps[side], ideal[side][0], float(yaw_T[0]), frames, pace) for side in SIDES}


def _track(
    steps: list[tuple[int, Array, float, Array, float]], spot: Array, yaw: float, frames: int, pace: Pace
) -> Foot:
    """One foot over time from its steps (start, from, yaw, to, yaw)."""
    now = np.arange(frames)
    spot_T2, yaw_T = np.repeat(spot[None], frames, axis=0), np.full(frames, yaw)
    lift_T, heel_T, down_T = np.zeros(frames), np.zeros(frames), np.ones(frames)
    for start, from_2, from_yaw, to_2, to_yaw in steps:
        u = (now - start) / pace.swing
        # Up before forward, and forward before down: a foot near the ground hardly moves.
        progress = ease((u - 0.08) / 0.84)
        spot_T2 += progress[:, None] * (to_2 - from_2)
        yaw_T += progress * (to_yaw - from_yaw)
        stride = float(np.hypot(*(to_2 - from_2)))
        forward = float((to_2 - from_2) @ ahead_of(np.array(from_yaw)))
        height = pace.lift * (0.55 + 0.45 * min(stride / 0.6, 1.0))
        lift_T += height * np.sin(np.pi * np.clip(u, 0, 1)) ** 1.2
        heel = 0.12 + 0.75 * float(np.clip(forward / 0.9, 0, 0.85))
        heel_T += heel * ease((now - start + _HEEL_FRAMES) / (_HEEL_FRAMES + 2)) * (1 - ease((u - 0.15) / 0.7))
        down_T[(u > 0) & (u < 1)] = 0.0
    return Foot(spot_T2, yaw_T, lift_T, heel_T, down_T)
