"""Choreographies of one person. Each takes a ``SoloStage``, draws its variation, and returns a ``SoloScene``.

Times are in frames at 30 fps.

Legend: T frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from intermoe.datasets.choreography.curves import along_arc, glide, keys, pulse
from intermoe.datasets.choreography.draws import Draws, opposite
from intermoe.datasets.choreography.figure import Body, Figure
from intermoe.datasets.choreography.gait import SIDES, SIGN, Pace, left_of
from intermoe.datasets.choreography.moves import KickTimes, front_kick

# At 20 frames per second and one frame less, from 42 to 197: what HumanML3D's benchmark reads.
_FEWEST_FRAMES, _MOST_FRAMES = 66, 297


@dataclass(frozen=True)
class SoloScene:
    """A finished choreography.

    Attributes:
        figure: all targets given.
        side: the side of the hand or leg that moves, or to which the person goes: "left", "right", "both", "none".
        words: true words for captions besides, by placeholder, such as ``{"sense": "clockwise"}``.
    """

    figure: Figure
    side: str
    words: dict[str, str] = field(default_factory=dict)


class SoloStage(Draws):
    """Random draws of one motion, and its figure. Everybody has the same bones, as in HumanML3D.

    Args:
        random: where they come from.
    """

    def __init__(self, random: np.random.Generator) -> None:
        super().__init__(random, tempo=random.uniform(0.85, 1.25))

    def enter(self, end: float) -> Figure:
        """Somebody who stands at the origin, facing about +z, for at least so many frames."""
        frames = int(np.clip(round(end), _FEWEST_FRAMES, _MOST_FRAMES))
        figure = Figure(Body.average(), frames, self.random)
        figure.yaw_T[:] = self.draw(-0.1, 0.1)
        return figure


def walk(stage: SoloStage) -> SoloScene:
    """Straight on."""
    return _walk(stage, "none", stage.draw(1.2, 4.5), 0.0)


def curve(stage: SoloStage) -> SoloScene:
    """On, bending to one side."""
    side = stage.pick(SIDES)
    way = stage.draw(1.8, 4.0)
    return _walk(stage, side, way, SIGN[side] * stage.draw(0.9, 1.6) / way)


def _walk(stage: SoloStage, side: str, way: float, curvature: float) -> SoloScene:
    start = stage.draw(6, 14)
    end = start + stage.walk_beats(way)
    figure = stage.enter(end + stage.draw(30, 40))
    place_T2, yaw_T = along_arc(way * glide(figure.frames, start, end), curvature)
    figure.place_T2 += place_T2
    figure.yaw_T[:] = yaw_T
    figure.settle()
    return SoloScene(figure, side)


def walk_back(stage: SoloStage) -> SoloScene:
    """Backward, in slow steps."""
    way, start = stage.draw(0.6, 1.6), stage.draw(6, 14)
    end = start + 30 * way / stage.draw(0.5, 0.7) + 9
    figure = stage.enter(end + stage.draw(30, 40))
    figure.pace = Pace(swing=10, pause=2, lift=0.06)
    figure.place_T2[:, 1] -= way * glide(figure.frames, start, end)
    figure.settle()
    return SoloScene(figure, "none")


def circle(stage: SoloStage) -> SoloScene:
    """A full circle, which ends about where it began."""
    side = stage.pick(SIDES)
    radius, arc = stage.draw(0.7, 1.05), stage.draw(5.6, 6.3)
    start = stage.draw(6, 12)
    end = start + 30 * radius * arc / stage.draw(0.95, 1.15) + 9
    figure = stage.enter(end + stage.draw(30, 40))
    place_T2, yaw_T = along_arc(radius * arc * glide(figure.frames, start, end), SIGN[side] / radius)
    figure.place_T2 += place_T2
    figure.yaw_T[:] = yaw_T
    figure.settle()
    return SoloScene(figure, side, {"sense": {"left": "counterclockwise", "right": "clockwise"}[side]})


def turn(stage: SoloStage) -> SoloScene:
    """On the spot, by a quarter to a half."""
    side = stage.pick(SIDES)
    angle, start = stage.draw(1.3, 3.0), stage.draw(8, 16)
    end = start + stage.beats(24, 32) * (0.5 + angle / 3)
    figure = stage.enter(end + stage.draw(20, 34))
    figure.pace = Pace(swing=9, pause=2, lift=0.06)
    figure.yaw_T += SIGN[side] * angle * glide(figure.frames, start, end)
    figure.settle()
    return SoloScene(figure, side)


def side_step(stage: SoloStage) -> SoloScene:
    """Sideways, facing ahead."""
    side = stage.pick(SIDES)
    way, start = stage.draw(0.5, 1.4), stage.draw(8, 14)
    end = start + 30 * way / stage.draw(0.45, 0.6) + 9
    figure = stage.enter(end + stage.draw(26, 36))
    figure.pace = Pace(swing=9, pause=2, lift=0.06)
    figure.place_T2 += SIGN[side] * way * glide(figure.frames, start, end)[:, None] * left_of(figure.yaw_T)
    figure.settle()
    return SoloScene(figure, side)


def wave(stage: SoloStage) -> SoloScene:
    """With a raised hand."""
    side = stage.pick(SIDES)
    start = stage.beats(6, 14)
    up = start + stage.beats(13, 18)
    swings = int(stage.random.integers(3, 7))
    done = up + swings * stage.beats(9, 12)
    figure = stage.enter(done + 18 + stage.beats(6, 14))
    waving = pulse(figure.frames, start, up, done, done + 18)
    figure.side_T -= SIGN[side] * 0.06 * waving
    figure.settle()
    beat = np.sin(2 * np.pi * swings * np.clip((np.arange(figure.frames) - up + 4) / (done - up + 4), 0, 1))
    high, wide = stage.draw(0.3, 0.46), stage.draw(0.12, 0.18)
    target = figure.near(f"{side}_shoulder", side, 0.22 + wide * beat, high - 0.05 * np.abs(beat), 0.16)
    figure.reach(side, waving, target, elbow=0.5)
    return SoloScene(figure, side)


def raise_arm(stage: SoloStage) -> SoloScene:
    """One arm or both up above the head, and down again."""
    side = stage.pick((*SIDES, "both"))
    start = stage.beats(6, 16)
    up = start + stage.beats(18, 28)
    held = up + stage.beats(8, 26)
    down = held + stage.beats(20, 30)
    figure = stage.enter(down + stage.beats(8, 16))
    raising = pulse(figure.frames, start, up, held, down)
    figure.nod_T -= 0.15 * raising
    figure.settle()
    for arm in SIDES if side == "both" else (side,):
        target = figure.near(f"{arm}_shoulder", arm, stage.draw(0.08, 0.16), 0.52, stage.draw(0.02, 0.12))
        figure.reach(arm, raising, target, elbow=0.3)
    return SoloScene(figure, side)


def bow(stage: SoloStage) -> SoloScene:
    """Forward from the waist, and up again."""
    start = stage.beats(8, 18)
    down = start + stage.beats(20, 28)
    held = down + stage.beats(8, 24)
    up = held + stage.beats(20, 28)
    figure = stage.enter(up + stage.beats(10, 16))
    bowing = pulse(figure.frames, start, down, held, up)
    figure.lean_T += stage.draw(0.9, 1.5) * bowing
    figure.nod_T += stage.draw(0.3, 0.5) * bowing
    figure.settle()
    for side in SIDES:
        figure.reach(side, 0.8 * bowing, figure.near(f"{side}_knee", side, 0.0, 0.1, 0.1))
    return SoloScene(figure, "none")


def punch(stage: SoloStage) -> SoloScene:
    """Once to three times straight ahead with one fist, the other before the chest."""
    side = stage.pick(SIDES)
    ready = stage.beats(22, 30)
    count = int(stage.random.integers(1, 4))
    hits = [ready + stage.beats(8, 12)]
    for _ in range(count - 1):
        hits.append(hits[-1] + stage.beats(24, 30))
    end = hits[-1] + stage.beats(30, 38)
    figure = stage.enter(end + 4)
    frames = figure.frames
    strikes = [pulse(frames, hit - 8, hit, hit + 3, hit + 14) for hit in hits]
    figure.twist_T -= SIGN[side] * stage.draw(0.35, 0.55) * sum(strikes)
    figure.lean_T += 0.15 * sum(strikes)
    figure.drop_T += 0.05 * pulse(frames, ready - 18, ready - 4, end - 24, end)
    figure.settle()
    guarding = pulse(frames, ready - 20, ready - 4, end - 24, end - 2)
    free = opposite(side)
    figure.reach(free, guarding, figure.near(f"{free}_shoulder", free, -0.06, 0.0, 0.24))
    figure.reach(side, guarding, figure.near(f"{side}_shoulder", side, 0.08, -0.08, 0.06), elbow=0.5)
    ahead = figure.near(f"{side}_shoulder", side, -0.12, stage.draw(-0.05, 0.08), 0.6)
    for strike in strikes:
        figure.reach(side, strike, ahead, elbow=0.5)
    return SoloScene(figure, side, {"times": ("once", "twice", "three times")[count - 1]})


def kick(stage: SoloStage) -> SoloScene:
    """Forward with one leg."""
    side = stage.pick(SIDES)
    ready = stage.beats(18, 28)
    chamber = ready + stage.beats(8, 11)
    hit = chamber + stage.beats(6, 8)
    folded = hit + stage.beats(7, 10)
    landed = folded + stage.beats(9, 12)
    end = landed + stage.beats(14, 22)
    figure = stage.enter(end + 6)
    height, length = stage.draw(0.6, 0.92), stage.draw(0.72, 0.8)
    front_kick(figure, side, KickTimes(ready, chamber, hit, folded, landed), height, length)
    figure.lean_T += keys(
        figure.frames, (ready, 0.0), (chamber, 0.05), (hit, -stage.draw(0.18, 0.3)), (landed, 0.05), (end, 0.0)
    )
    figure.twist_T -= SIGN[side] * 0.25 * pulse(figure.frames, ready, hit, hit, landed)
    figure.settle()
    for arm in SIDES:
        guard = figure.near(f"{arm}_shoulder", arm, 0.05, -0.1, 0.26)
        figure.reach(arm, 0.8 * pulse(figure.frames, ready - 8, chamber, landed, end), guard, elbow=0.4)
    return SoloScene(figure, side)


def squat(stage: SoloStage) -> SoloScene:
    """Low on both legs with the arms ahead, once to three times."""
    count = int(stage.random.integers(1, 4))
    frames_of_one = stage.beats(44, 58)
    start = stage.beats(6, 14)
    figure = stage.enter(start + count * frames_of_one + stage.beats(8, 16))
    deep = stage.draw(0.3, 0.45)
    low = np.zeros(figure.frames)
    for number in range(count):
        first = start + number * frames_of_one
        low += pulse(
            figure.frames, first, first + 0.42 * frames_of_one, first + 0.5 * frames_of_one, first + frames_of_one
        )
    figure.drop_T += deep * low
    figure.back_T += 0.1 * low
    figure.lean_T += stage.draw(0.5, 0.8) * low
    figure.settle()
    for side in SIDES:
        figure.reach(side, 0.9 * low, figure.near(f"{side}_shoulder", side, 0.0, -0.05, 0.5), elbow=0.2)
    return SoloScene(figure, "none", {"times": ("once", "twice", "three times")[count - 1]})


def sit(stage: SoloStage) -> SoloScene:
    """Down on a seat that is not there, and up again."""
    start = stage.beats(8, 16)
    seated = start + stage.beats(26, 36)
    rising = seated + stage.beats(24, 70)
    up = rising + stage.beats(28, 38)
    figure = stage.enter(up + stage.beats(8, 16))
    frames = figure.frames
    sitting = pulse(frames, start, seated, rising, up)
    figure.drop_T += stage.draw(0.4, 0.46) * sitting
    figure.back_T += stage.draw(0.32, 0.4) * sitting
    leaning = pulse(frames, start, seated - 10, seated - 8, seated + 6) + pulse(
        frames, rising - 8, rising + 4, rising + 6, up
    )
    figure.lean_T += stage.draw(0.4, 0.6) * leaning
    figure.settle()
    for side in SIDES:
        figure.reach(side, 0.95 * sitting, figure.near(f"{side}_knee", side, -0.02, 0.06, -0.05), elbow=0.3)
    return SoloScene(figure, "none")


KINDS: Mapping[str, Callable[[SoloStage], SoloScene]] = MappingProxyType(
    {
        "walk": walk,
        "wave": wave,
        "turn": turn,
        "bow": bow,
        "curve": curve,
        "kick": kick,
        "side_step": side_step,
        "punch": punch,
        "circle": circle,
        "raise": raise_arm,
        "walk_back": walk_back,
        "squat": squat,
        "sit": sit,
    }
)
