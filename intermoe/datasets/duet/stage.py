"""The place where a choreography happens: two bodies, their first positions, and all that is drawn at random.

Legend: T frames.
"""

from dataclasses import dataclass

import numpy as np

from intermoe.datasets.choreography.curves import Array, glide
from intermoe.datasets.choreography.draws import Draws
from intermoe.datasets.choreography.figure import Body, Figure

MIN_FRAMES, MAX_FRAMES = 75, 150


@dataclass(frozen=True)
class Scene:
    """A finished choreography: who acted, who was acted upon, and what captions may say of it.

    Attributes:
        actor, other: the two figures, all targets given.
        hand: the side of the hand (of the leg in a kick) with which the actor acts: "left", "right", "both", "none".
        words: true words for captions, by placeholder, such as ``{"direction": "clockwise"}``.
    """

    actor: Figure
    other: Figure
    hand: str
    words: dict[str, str]


class Stage(Draws):
    """Random draws of one interaction, in the order a choreography asks for them.

    Args:
        random: where they come from.
        body: of both persons; each has one of random build without it.
    """

    def __init__(self, random: np.random.Generator, body: Body | None = None) -> None:
        self.actor_body, self.other_body = Body.draw(random), Body.draw(random)
        if body is not None:
            # Only now: whatever is drawn next is the same as with bodies of random build.
            self.actor_body = self.other_body = body
        self.size = (self.actor_body.scale + self.other_body.scale) / 2
        super().__init__(random, tempo=random.uniform(0.9, 1.15))

    def enter(self, end: float, distance: float) -> tuple[Figure, Figure]:
        """Actor and other face to face: the actor at the origin facing +z, the other that many metres ahead."""
        frames = int(np.clip(round(end), MIN_FRAMES, MAX_FRAMES))
        actor = Figure(self.actor_body, frames, self.random)
        other = Figure(self.other_body, frames, self.random)
        other.place_T2[:] = self.draw(-0.06, 0.06), distance
        actor.yaw_T[:] = self.draw(-0.1, 0.1)
        other.yaw_T[:] = np.pi + self.draw(-0.1, 0.1)
        return actor, other

    def approach(self, figure: Figure, toward: Figure, metres: float, start: float, end: float) -> Array:
        """Walk that many metres toward where the other stands at first; the progress from 0 to 1 [T]."""
        way = toward.place_T2[0] - figure.place_T2[0]
        progress_T = glide(figure.frames, start, end)
        figure.place_T2 += metres * progress_T[:, None] * way / np.hypot(*way)
        return progress_T


def between(a: Figure, b: Figure, height: float, share: float = 0.5) -> Array:
    """Point [T, 3] on the line between two persons, so many metres above the floor."""
    place_T2 = a.place_T2 + share * (b.place_T2 - a.place_T2)
    return np.stack([place_T2[:, 0], np.full(a.frames, height), place_T2[:, 1]], axis=-1)
