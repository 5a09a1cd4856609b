"""Choreographies of walking, turning and copying: circling, leading, mirroring, beckoning, tapping a shoulder.

Each takes a ``Stage``, draws its variation, and returns a ``Scene``. Times are in frames at 30 fps.

Legend: T frames.
"""

import numpy as np

from intermoe.datasets.choreography.curves import along_arc, glide, keys, pulse, ramp
from intermoe.datasets.choreography.draws import opposite
from intermoe.datasets.choreography.gait import SIDES, SIGN, Pace
from intermoe.datasets.duet.stage import Scene, Stage


def circle(stage: Stage) -> Scene:
    """The actor walks round the other, who turns on the spot to keep facing the actor."""
    sense = stage.pick(("clockwise", "counterclockwise"))
    sign = 1.0 if sense == "counterclockwise" else -1.0
    radius, arc = stage.draw(0.85, 1.25), stage.draw(1.9, 3.1)
    start = stage.draw(4, 10)
    end = start + 30 * radius * arc / stage.draw(0.9, 1.15) + 8
    end = min(end, 122.0)
    actor, other = stage.enter(end + 16, radius)
    frames = actor.frames
    angle = np.pi + sign * arc * glide(frames, start, end)
    centre = other.place_T2[0]
    actor.place_T2[:] = centre + radius * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    along = stage.draw(0.9, 1.25) * pulse(frames, start - 4, start + 14, end - 16, end + 2)
    actor.yaw_T += angle - np.pi + sign * along
    late = np.pi + sign * arc * glide(frames, start + 7, end + 5)
    other.yaw_T[:] = late + stage.draw(-0.1, 0.1)
    other.place_T2 += stage.draw(0.0, 0.1) * np.stack([np.sin(late), np.cos(late)], axis=-1)
    other.pace = Pace(swing=9, pause=2, lift=0.05)
    actor.settle(other)
    other.settle(actor)
    return Scene(actor, other, "none", {"direction": sense})


def lead(stage: Stage) -> Scene:
    """The actor looks back, calls with one arm and walks ahead; the other follows at a distance."""
    hand = stage.pick(SIDES)
    gap, way = stage.draw(0.85, 1.2), stage.draw(1.3, 2.3)
    start = stage.beats(22, 30)
    end = start + stage.walk_beats(way)
    lag = stage.beats(9, 15)
    actor, other = stage.enter(end + lag + 14, 0.0)
    frames = actor.frames
    bend = stage.draw(-0.6, 0.6)
    walk, follow = glide(frames, start, end), glide(frames, start + lag, end + lag)
    actor.place_T2[:], actor.yaw_T[:] = along_arc(walk * way, bend / way, gap)
    other.place_T2[:], other.yaw_T[:] = along_arc(follow * way - gap, bend / way, gap)
    calling = pulse(frames, 2, 14, start - 2, start + 12)
    # The turn back to the follower, over the shoulder of the arm that calls.
    actor.twist_T += SIGN[hand] * stage.draw(0.4, 0.6) * calling
    actor.gaze_T[:] = pulse(frames, 1, 11, start - 6, start + 6)
    actor.settle(other)
    other.settle(actor)
    scoop = np.sin(2 * np.pi * 2 * np.clip((np.arange(frames) - 10) / (start - 6), 0, 1))
    target = actor.near(f"{hand}_shoulder", hand, 0.22, 0.2 + 0.1 * scoop, 0.1 + 0.14 * scoop)
    actor.reach(hand, calling, target, elbow=0.6)
    return Scene(actor, other, hand, {})


def mirror(stage: Stage) -> Scene:
    """The actor moves the arms; the other copies it a moment later, as a mirror image."""
    hand = stage.pick(SIDES)
    distance = stage.draw(1.1, 1.8)
    lag = stage.beats(10, 16)
    start = stage.beats(4, 10)
    hold = [start + stage.beats(16, 20)]
    for _ in range(2):
        hold.append(hold[-1] + stage.beats(22, 27))
    end = hold[-1] + stage.beats(22, 26)
    actor, other = stage.enter(end + lag + 6, distance)
    side_bend, dip = stage.draw(0.1, 0.25), stage.draw(0.0, 0.14)
    poses = {"up": (0.12, 0.5, 0.1), "out": (0.52, 0.04, 0.08), "front": (0.0, 0.06, 0.5), "low": (0.05, -0.5, 0.06)}
    shapes = ("up", "out", "front")
    first = [stage.pick(shapes), stage.pick(shapes), stage.pick(shapes)]
    second = ["low", stage.pick(shapes), stage.pick(("low", *shapes))]
    for figure, delay, sign in ((actor, 0.0, 1.0), (other, lag, -1.0)):
        figure.side_T -= (
            sign
            * SIGN[hand]
            * keys(figure.frames, (start + delay, 0), (hold[0] + delay, side_bend), (hold[1] + delay, 0))
        )
        figure.drop_T += dip * pulse(figure.frames, hold[0] + delay, hold[1] + delay, hold[1] + delay, hold[2] + delay)
    actor.settle(other)
    other.settle(actor)
    for figure, delay, acting in ((actor, 0.0, hand), (other, lag, opposite(hand))):
        for side, names in ((acting, first), (opposite(acting), second)):
            times = [start, *hold]
            way = [poses["low"], *(poses[name] for name in names)]
            point = keys(figure.frames, *((time + delay, value) for time, value in zip(times, way, strict=True)))
            target = figure.near(f"{side}_shoulder", side, *point.T)
            up = pulse(figure.frames, start + delay, start + 8 + delay, hold[2] + delay + 2, end + delay)
            figure.reach(side, up, target, elbow=0.4)
    return Scene(actor, other, hand, {"other_hand": opposite(hand)})


def beckon(stage: Stage) -> Scene:
    """The actor stays and calls with a hand; the other comes."""
    hand = stage.pick(SIDES)
    meet, way = stage.size * stage.draw(0.75, 1.0), stage.draw(0.7, 1.5)
    start = stage.beats(3, 9)
    up = start + stage.beats(12, 16)
    swings = int(stage.random.integers(2, 4))
    done = up + swings * stage.beats(11, 14)
    leave = up + stage.beats(14, 22)
    there = leave + stage.walk_beats(way)
    actor, other = stage.enter(max(done + 26, there + 16), meet + way)
    stage.approach(other, actor, way, leave, there)
    frames = actor.frames
    calling = pulse(frames, start, up, done, done + 18)
    actor.nod_T += 0.12 * np.sin(np.arange(frames) * 0.4) * calling
    actor.settle(other)
    other.settle(actor)
    turn = 2 * np.pi * swings * np.clip((np.arange(frames) - up) / (done - up), 0, 1)
    high = stage.draw(0.02, 0.14)
    pull = 0.5 - 0.5 * np.cos(turn)
    target = actor.near(f"{hand}_shoulder", hand, 0.06, high - 0.16 * np.sin(turn), 0.46 - 0.24 * pull)
    actor.reach(hand, calling, target, elbow=0.3)
    return Scene(actor, other, hand, {})


def tap(stage: Stage) -> Scene:
    """The actor comes up from behind and taps the other's shoulder; the other turns round."""
    hand = stage.pick(SIDES)
    sign = SIGN[hand]
    meet, way = stage.size * stage.draw(0.6, 0.68), stage.draw(0.35, 1.1)
    start = stage.draw(4, 9)
    there = start + stage.walk_beats(way)
    touch = there + stage.beats(4, 8)
    taps = 2
    done = touch + taps * stage.beats(8, 10)
    turned = done + stage.draw(36, 44)
    actor, other = stage.enter(turned + 14, meet + way)
    stage.approach(actor, other, way, start, there)
    frames = actor.frames
    # The other turns toward the tapped shoulder; seen from behind it is on the side of the hand.
    other.yaw_T += np.pi + sign * (np.pi - 0.1) * glide(frames, done - 2, turned)
    other.gaze_T[:] = ramp(frames, done - 8, done + 6)
    other.twist_T += sign * 0.25 * pulse(frames, done - 6, done + 6, done + 10, turned)
    other.pace = Pace(swing=9, pause=2, lift=0.06)
    leaving = other.place_T2[0] - actor.place_T2[-1]
    other.place_T2 += stage.draw(0.1, 0.25) * ramp(frames, done, turned)[:, None] * leaving / np.hypot(*leaving)
    actor.lean_T += 0.1 * pulse(frames, there - 4, touch, done, done + 18)
    actor.settle(other)
    other.settle(actor)
    beat = np.abs(np.sin(np.pi * taps * np.clip((np.arange(frames) - touch) / (done - touch), 0, 1)))
    # The shoulder as it was when the hand came: the hand does not follow the turn.
    shoulder = other.near(f"{hand}_shoulder", hand, -0.02, 0.05, -0.04)
    shoulder = np.repeat(shoulder[int(touch)][None], frames, axis=0)
    shoulder[:, 1] += 0.07 * beat
    actor.reach(hand, pulse(frames, touch - 16, touch, done, done + 18), shoulder, elbow=0.3)
    return Scene(actor, other, hand, {})
