"""Random draws of one scene, in the order in which a choreography asks for them."""

from collections.abc import Sequence

import numpy as np


class Draws:
    """Draws of one scene.

    Args:
        random: where they come from.
        tempo: how long its movements last, 1 in the middle.
    """

    def __init__(self, random: np.random.Generator, tempo: float) -> None:
        self.random, self.tempo = random, tempo

    def draw(self, low: float, high: float) -> float:
        """A number between two others."""
        return float(self.random.uniform(low, high))

    def beats(self, low: float, high: float) -> float:
        """A duration in frames, longer where this scene is a slow one."""
        return self.tempo * self.draw(low, high)

    def pick(self, options: Sequence[str]) -> str:
        """One of several words."""
        return options[int(self.random.integers(len(options)))]

    def walk_beats(self, metres: float) -> float:
        """Frames that it takes to walk so far, at a pace drawn for this walk."""
        return max(26.0, 30 * abs(metres) / self.draw(0.95, 1.2) + 9)


def opposite(side: str) -> str:
    """The other side."""
    return "right" if side == "left" else "left"
