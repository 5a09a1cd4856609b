"""Choreographies of a quarrel: pushing, punching, kicking. Each takes a ``Stage`` and returns a ``Scene``.

Legend: T frames.
"""

import numpy as np

from intermoe.datasets.choreography.curves import keys, pulse, ramp
from intermoe.datasets.choreography.draws import opposite
from intermoe.datasets.choreography.gait import SIDES, Pace
from intermoe.datasets.choreography.moves import KickTimes, front_kick
from intermoe.datasets.duet.stage import Scene, Stage


def push(stage: Stage) -> Scene:
    """The actor steps in and pushes the other's chest; the other stumbles back and recovers."""
    hand = stage.pick(("left", "right", "both"))
    meet = stage.size * stage.draw(0.56, 0.64)
    way = stage.draw(0.3, 1.0)
    start = stage.draw(4, 9)
    hit = start + stage.walk_beats(way) + stage.beats(4, 10)
    thrust = hit + stage.beats(5, 8)
    reel = thrust + stage.draw(26, 34)
    end = reel + stage.beats(14, 24)
    actor, other = stage.enter(end + 6, meet + way)
    stage.approach(actor, other, way, start, hit - 4)
    frames = actor.frames
    step, flight = stage.draw(0.06, 0.14), stage.draw(0.55, 0.95)
    ahead = other.place_T2[0] - actor.place_T2[0]
    ahead /= np.hypot(*ahead)
    actor.place_T2 += step * ramp(frames, hit - 3, thrust + 4)[:, None] * ahead
    other.place_T2 += flight * ramp(frames, hit - 2, reel)[:, None] * ahead
    other.pace = Pace(swing=8, pause=1, lift=0.09)
    actor.lean_T += keys(
        frames, (hit - 14, 0.0), (hit - 4, -0.06), (thrust + 1, stage.draw(0.25, 0.4)), (thrust + 26, 0.0)
    )
    other.lean_T += keys(
        frames, (hit - 1, 0.0), (thrust + 4, -stage.draw(0.3, 0.45)), (reel - 4, 0.2), (reel + 16, 0.0)
    )
    other.drop_T += stage.draw(0.04, 0.08) * pulse(frames, hit, thrust + 6, reel - 6, reel + 12)
    other.nod_T += keys(frames, (hit, 0.0), (hit + 6, 0.4), (reel, 0.0))
    twist = stage.draw(0.25, 0.4) * {"left": -1.0, "right": 1.0, "both": 0.0}[hand]
    actor.twist_T += twist * keys(frames, (hit - 12, 0.0), (hit - 3, -0.7), (thrust, 1.0), (thrust + 22, 0.0))
    actor.settle(other)
    other.settle(actor)
    for side in SIDES if hand == "both" else (hand,):
        ready = actor.near(f"{side}_shoulder", side, -0.02, -0.08, 0.2)
        actor.reach(side, pulse(frames, hit - 16, hit - 4, thrust + 6, thrust + 26), ready, elbow=0.4)
        chest = other.near("spine3", opposite(side), 0.1, 0.06, 0.13)
        beyond = actor.near(f"{side}_shoulder", side, -0.04, -0.06, 0.6)
        leaving = ramp(frames, thrust, thrust + 4)[:, None]
        target = chest + leaving * (beyond - chest)
        actor.reach(side, pulse(frames, hit - 5, hit, thrust + 5, thrust + 22), target, elbow=0.3)
    flail = stage.draw(0.3, 0.45)
    for side in SIDES:
        delay = stage.draw(0, 3)
        target = other.near(f"{side}_shoulder", side, flail, stage.draw(-0.12, 0.1), stage.draw(0.15, 0.32))
        other.reach(side, pulse(frames, hit + delay, thrust + 6 + delay, reel - 8, reel + 14), target, elbow=0.4)
    return Scene(actor, other, hand, {})


def punch(stage: Stage) -> Scene:
    """The actor draws back a fist and strikes at the head; the other ducks under it."""
    hand = stage.pick(SIDES)
    free = opposite(hand)
    sign = 1.0 if hand == "left" else -1.0
    meet = stage.size * stage.draw(0.66, 0.78)
    way = stage.draw(0.2, 0.8)
    start = stage.draw(4, 9)
    ready = start + stage.walk_beats(way)
    hit = ready + stage.beats(10, 16)
    low = hit + stage.beats(5, 10)
    end = low + stage.beats(24, 34)
    actor, other = stage.enter(max(end + 6, 80), meet + way)
    stage.approach(actor, other, way, start, ready)
    frames = actor.frames
    wind, strike = stage.draw(0.35, 0.5), stage.draw(0.45, 0.65)
    # A left fist comes forward as the trunk twists to the right.
    actor.twist_T += sign * keys(
        frames, (ready - 10, 0.0), (hit - 8, wind), (hit, -strike), (hit + 4, -strike), (end, 0.0)
    )
    actor.lean_T += keys(frames, (hit - 8, 0.0), (hit, 0.2), (hit + 4, 0.2), (hit + 26, 0.0))
    actor.drop_T += 0.05 * pulse(frames, ready - 12, ready, hit + 6, end)
    depth = stage.draw(0.26, 0.4) * stage.other_body.scale
    ducking = pulse(frames, hit - 15, hit - 2, low, end - 4)
    other.drop_T += depth * ducking
    other.lean_T += stage.draw(0.55, 0.8) * ducking
    other.nod_T += 0.3 * ducking
    other.side_T += stage.draw(-0.15, 0.15) * ducking
    actor.gaze_T -= 0.3 * pulse(frames, hit - 6, hit, hit + 4, end)
    actor.settle(other)
    other.settle(actor)
    fighting = pulse(frames, ready - 16, ready - 2, hit + 10, end - 2)
    actor.reach(free, fighting, actor.near(f"{free}_shoulder", free, -0.06, 0.02, 0.24))
    cocked = actor.near(f"{hand}_shoulder", hand, 0.1, -0.08, 0.02)
    actor.reach(hand, fighting, cocked, elbow=0.5)
    head = 1.52 * stage.other_body.scale
    target = np.stack([other.place_T2[:, 0], np.full(frames, head), other.place_T2[:, 1]], axis=-1)
    actor.reach(hand, pulse(frames, hit - 8, hit, hit + 3, hit + 14), target, elbow=0.5)
    for side in SIDES:
        guard = other.near("head", side, 0.13, -0.02, 0.14)
        other.reach(side, 0.9 * pulse(frames, hit - 14, hit - 2, low, end - 2), guard, elbow=0.3)
    return Scene(actor, other, hand, {})


def kick(stage: Stage) -> Scene:
    """The actor kicks forward at the belly; the other steps back and blocks with both forearms."""
    leg = stage.pick(SIDES)
    sign = 1.0 if leg == "left" else -1.0
    meet = stage.size * stage.draw(0.86, 0.98)
    way = stage.draw(0.1, 0.6)
    start = stage.draw(4, 8)
    ready = start + stage.walk_beats(way) + stage.beats(16, 20)
    chamber = ready + stage.beats(8, 11)
    hit = chamber + stage.beats(6, 8)
    folded = hit + stage.beats(7, 10)
    landed = folded + stage.beats(9, 12)
    end = landed + stage.beats(12, 20)
    actor, other = stage.enter(max(end + 6, 80), meet + way)
    stage.approach(actor, other, way, start, ready - 16)
    frames = actor.frames
    retreat = stage.draw(0.2, 0.4)
    ahead = other.place_T2[0] - actor.place_T2[0]
    other.place_T2 += retreat * ramp(frames, chamber - 4, hit + 16)[:, None] * ahead / np.hypot(*ahead)
    other.pace = Pace(swing=9, pause=1, lift=0.08)
    height, length = stage.draw(0.7, 0.92), stage.draw(0.72, 0.8)
    front_kick(actor, leg, KickTimes(ready, chamber, hit, folded, landed), height, length)
    actor.lean_T += keys(
        frames, (ready, 0.0), (chamber, 0.05), (hit, -stage.draw(0.18, 0.3)), (landed, 0.05), (end, 0.0)
    )
    actor.twist_T -= sign * 0.25 * pulse(frames, ready, hit, hit, landed)
    blocking = pulse(frames, chamber - 8, hit - 2, hit + 8, hit + 26)
    other.lean_T += stage.draw(0.2, 0.35) * blocking
    other.drop_T += stage.draw(0.05, 0.1) * blocking
    other.nod_T += 0.25 * blocking
    actor.settle(other)
    other.settle(actor)
    for side in SIDES:
        guard = actor.near(f"{side}_shoulder", side, 0.02, -0.06, 0.26)
        actor.reach(side, pulse(frames, ready - 12, ready + 2, folded, landed + 12), guard, elbow=0.3)
        shield = other.near("pelvis", side, -0.03 if side == leg else 0.05, 0.16, 0.3)
        other.reach(side, blocking, shield, elbow=0.6)
    return Scene(actor, other, leg, {})
