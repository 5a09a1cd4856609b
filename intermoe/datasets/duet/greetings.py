"""Choreographies among friends: shaking hands, bowing, waving, high five, handing over, hugging.

Each takes a ``Stage``, draws its variation, and returns a ``Scene``. Times are in frames at 30 fps.

Legend: T frames.
"""

import numpy as np

from intermoe.datasets.choreography.curves import pulse, ramp
from intermoe.datasets.choreography.draws import opposite
from intermoe.datasets.choreography.gait import SIDES
from intermoe.datasets.duet.stage import Scene, Stage, between


def shake_hands(stage: Stage) -> Scene:
    """The actor walks up and offers a hand; the other takes it; they shake."""
    hand = stage.pick(SIDES)
    meet = stage.size * stage.draw(0.63, 0.73)
    way = stage.draw(0.35, 1.5)
    start = stage.draw(4, 9)
    there = start + stage.walk_beats(way)
    offered, taken = there + stage.beats(0, 4), there + stage.beats(12, 18)
    swings = int(stage.random.integers(2, 5))
    shaken = taken + swings * stage.beats(7, 9)
    apart = shaken + stage.beats(14, 18)
    actor, other = stage.enter(apart + 8, meet + way)
    stage.approach(actor, other, way, start, there)
    frames = actor.frames
    holding = pulse(frames, offered - 14, offered, shaken, apart)
    answering = pulse(frames, taken - 15, taken, shaken, apart + 2)
    actor.lean_T += stage.draw(0.05, 0.15) * holding
    other.lean_T += stage.draw(0.02, 0.1) * answering
    actor.settle(other)
    other.settle(actor)
    grip = between(actor, other, stage.size * stage.draw(1.0, 1.08), stage.draw(0.47, 0.53))
    beat = np.sin(np.clip((np.arange(frames) - taken) / (shaken - taken), 0, 1) * 2 * np.pi * swings)
    grip[:, 1] += stage.draw(0.035, 0.06) * beat
    actor.reach(hand, holding, grip)
    other.reach(hand, answering, grip)
    return Scene(actor, other, hand, {})


def bow(stage: Stage) -> Scene:
    """The actor bows low; the other answers with a slight bow."""
    distance = stage.draw(1.3, 2.2)
    start = stage.beats(6, 16)
    down = start + stage.beats(20, 28)
    held = down + stage.beats(6, 18)
    up = held + stage.beats(20, 28)
    lag = stage.beats(14, 24)
    actor, other = stage.enter(max(up, held + lag) + 12, distance)
    deep, slight = stage.draw(1.1, 1.5), stage.draw(0.15, 0.4)
    bowing = pulse(actor.frames, start, down, held, up)
    answering = pulse(actor.frames, start + lag, down + lag - 4, held + lag - 4, held + lag + 12)
    actor.lean_T += deep * bowing
    actor.nod_T += stage.draw(0.3, 0.5) * bowing
    other.lean_T += slight * answering
    other.nod_T += 0.5 * slight * answering
    actor.settle(other)
    other.settle(actor)
    for side in SIDES:
        actor.reach(side, 0.8 * bowing, actor.near(f"{side}_knee", side, 0.0, 0.1, 0.1))
    return Scene(actor, other, "none", {})


def wave(stage: Stage) -> Scene:
    """The actor waves; the other waves back, later, lower and not as long."""
    hand, back = stage.pick(SIDES), stage.pick(SIDES)
    distance = stage.draw(1.3, 2.5)
    start = stage.beats(4, 12)
    up = start + stage.beats(13, 18)
    swings = int(stage.random.integers(3, 6))
    done = up + swings * stage.beats(9, 12)
    answer = up + stage.beats(10, 20)
    answered = answer + 14 + 2 * stage.beats(9, 11)
    actor, other = stage.enter(max(done, answered) + 18 + stage.beats(4, 10), distance)
    frames = actor.frames
    waving, answering = (
        pulse(frames, start, up, done, done + 18),
        pulse(frames, answer, answer + 14, answered, answered + 17),
    )
    now = np.arange(frames)
    beat = np.sin(2 * np.pi * swings * np.clip((now - up + 4) / (done - up + 4), 0, 1))
    reply = np.sin(2 * np.pi * 2 * np.clip((now - answer - 10) / (answered - answer - 10), 0, 1))
    sign = 1.0 if hand == "left" else -1.0
    actor.side_T -= sign * 0.06 * waving
    actor.settle(other)
    other.settle(actor)
    high, wide = stage.draw(0.34, 0.46), stage.draw(0.13, 0.18)
    target = actor.near(f"{hand}_shoulder", hand, 0.22 + wide * beat, high - 0.05 * np.abs(beat), 0.16)
    actor.reach(hand, waving, target, elbow=0.5)
    low, narrow = stage.draw(0.12, 0.22), stage.draw(0.08, 0.12)
    target = other.near(f"{back}_shoulder", back, 0.12 + narrow * reply, low - 0.03 * np.abs(reply), 0.2)
    other.reach(back, answering, target, elbow=0.3)
    return Scene(actor, other, hand, {"other_hand": back})


def high_five(stage: Stage) -> Scene:
    """The actor steps up and raises a hand; the other claps it; both hands swing down."""
    hand = stage.pick(SIDES)
    meet = stage.size * stage.draw(0.68, 0.8)
    way = stage.draw(0.25, 1.2)
    start = stage.draw(4, 9)
    there = start + stage.walk_beats(way)
    raised = there + stage.beats(0, 5)
    clap = raised + stage.beats(12, 18)
    down = clap + stage.beats(20, 26)
    actor, other = stage.enter(down + 8, meet + way)
    stage.approach(actor, other, way, start, there)
    frames = actor.frames
    holding, answering = (
        pulse(frames, raised - 16, raised, clap + 4, down),
        pulse(frames, clap - 14, clap, clap + 4, down),
    )
    sign = 1.0 if hand == "left" else -1.0
    other.twist_T += sign * 0.2 * pulse(frames, clap - 18, clap - 9, clap - 9, clap)
    actor.settle(other)
    other.settle(actor)
    target = between(actor, other, stage.size * stage.draw(1.58, 1.72))
    ready = actor.near(f"{hand}_shoulder", hand, 0.02, stage.draw(0.2, 0.3), 0.24)
    actor.reach(hand, holding, ready, elbow=0.2)
    actor.reach(hand, pulse(frames, clap - 9, clap, clap + 3, clap + 14), target, elbow=0.2)
    swing = other.near(f"{hand}_shoulder", hand, 0.1, 0.25, 0.05)
    other.reach(hand, pulse(frames, clap - 20, clap - 8, clap, down), swing, elbow=0.4)
    other.reach(hand, answering, target, elbow=0.2)
    return Scene(actor, other, hand, {})


def hand_over(stage: Stage) -> Scene:
    """The actor carries something over and holds it out; the other takes it and draws it to the chest."""
    hand, taker = stage.pick(SIDES), stage.pick(SIDES)
    meet = stage.size * stage.draw(0.6, 0.71)
    way = stage.draw(0.3, 1.2)
    start = stage.draw(4, 9)
    there = start + stage.walk_beats(way)
    offered = there + stage.beats(3, 8)
    taken = offered + stage.beats(12, 18)
    drawn = taken + stage.beats(18, 24)
    end = drawn + stage.beats(20, 26)
    actor, other = stage.enter(end + 4, meet + way)
    stage.approach(actor, other, way, start, there)
    frames = actor.frames
    giving = pulse(frames, offered - 15, offered, taken + 5, taken + 22)
    taking = pulse(frames, taken - 15, taken, taken + 4, drawn)
    actor.lean_T += stage.draw(0.06, 0.14) * giving
    actor.nod_T += 0.2 * giving
    other.nod_T += 0.35 * pulse(frames, taken - 10, taken, drawn, end)
    actor.settle(other)
    other.settle(actor)
    carry = actor.near("spine3", hand, 0.14, -0.16, 0.3)
    actor.reach(hand, pulse(frames, start - 2, start + 14, taken + 5, taken + 22), carry)
    target = between(actor, other, stage.size * stage.draw(1.02, 1.14))
    actor.reach(hand, giving, target)
    keep = other.near("spine3", taker, 0.05, -0.1, 0.22)
    other.reach(taker, pulse(frames, taken, drawn, drawn + 3, end), keep)
    other.reach(taker, taking, target)
    return Scene(actor, other, hand, {"other_hand": taker})


def hug(stage: Stage) -> Scene:
    """The actor comes with open arms and embraces the other, who then holds the actor too; they part."""
    meet = stage.size * stage.draw(0.29, 0.34)
    way = stage.draw(0.5, 1.5)
    start = stage.draw(4, 9)
    there = start + stage.walk_beats(way)
    closed = there + stage.beats(6, 10)
    answered = closed + stage.beats(8, 14)
    let_go = answered + stage.beats(14, 28)
    back = stage.draw(0.25, 0.45)
    end = let_go + 34
    actor, other = stage.enter(end, meet + way)
    stage.approach(actor, other, way, start, there)
    frames = actor.frames
    away = other.place_T2[0] - actor.place_T2[-1]
    actor.place_T2 -= back * ramp(frames, let_go + 4, let_go + 28)[:, None] * away / np.hypot(*away)
    close = pulse(frames, there - 6, closed, let_go, let_go + 16)
    actor.lean_T += stage.draw(0.08, 0.16) * close
    other.lean_T += 0.08 * close
    sign = 1.0 if stage.draw(0, 1) < 0.5 else -1.0
    for figure in (actor, other):
        figure.side_T += sign * 0.2 * close
        figure.gaze_T -= 0.6 * close
    rock = 0.04 * np.sin(np.arange(frames) / 30 * 2 * np.pi * 0.6) * close
    actor.side_T += rock
    other.side_T -= rock
    actor.settle(other)
    other.settle(actor)
    spread = stage.draw(0.3, 0.42)
    for side in SIDES:
        across = opposite(side)
        opening = pulse(frames, there - 24, there - 6, let_go, let_go + 26)
        actor.reach(side, opening, actor.near(f"{side}_shoulder", side, spread, -0.1, 0.32), elbow=0.6)
        embrace = other.near("spine3", across, 0.06, 0.02 if side == "left" else -0.1, -0.15)
        actor.reach(side, pulse(frames, there - 4, closed, let_go, let_go + 16), embrace, elbow=0.9)
        lift = other.near(f"{side}_shoulder", side, 0.22, -0.3, 0.2)
        other.reach(side, pulse(frames, closed - 8, closed + 4, let_go, let_go + 22), lift, elbow=0.4)
        hold = actor.near("spine1", across, 0.07, 0.03, -0.14)
        other.reach(side, pulse(frames, answered - 12, answered, let_go, let_go + 16), hold, elbow=0.6)
    return Scene(actor, other, "both", {})
