"""Movements of one figure that several choreographies have. Times are in frames at 30 fps.

Legend: T frames.
"""

from typing import NamedTuple

from intermoe.datasets.choreography.curves import keys, pulse
from intermoe.datasets.choreography.figure import Figure


class KickTimes(NamedTuple):
    """When the foot leaves the ground, the knee is up, the leg is stretched, folded again, and the foot is back."""

    ready: float
    chamber: float
    hit: float
    folded: float
    landed: float


def front_kick(figure: Figure, leg: str, times: KickTimes, height: float, length: float) -> None:
    """Kick forward with one leg, to a height and a length in metres of a person of scale 1; before ``settle``."""
    ready, chamber, hit, folded, landed = times
    aim_T3 = keys(
        figure.frames,
        (ready, (0.08, 0.12, -0.05)),
        (chamber, (0.05, 0.5, 0.22)),
        (hit, (0.0, height, length)),
        (hit + 2, (0.0, height, length)),
        (folded, (0.05, 0.45, 0.26)),
        (landed, (0.086, 0.08, 0.02)),
    )
    pitch_T = keys(figure.frames, (ready, 0.3), (chamber, 0.4), (hit, -0.7), (folded, 0.2), (landed, 0.0))
    figure.kick(leg, pulse(figure.frames, ready, ready + 5, folded, landed), aim_T3, pitch_T)
