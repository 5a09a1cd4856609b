"""Sentences that say who does what to whom, and, where they name a side, name the true one.

Placeholders: {a} the one who acts, {b} the other, {hand} the acting side ("left"), {with_hand} ("with the left hand",
"with both hands"), {other_hand} the other person's side, {direction} of circling seen from above.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

PEOPLE = ("the first person", "the second person")

TEMPLATES: Mapping[str, Sequence[str]] = {
    "shake_hands": (
        "{a} walks up to {b} and they shake hands.",
        "{a} approaches {b}, holds out the {hand} hand and shakes hands.",
        "{a} offers a handshake and {b} takes the hand.",
        "{a} steps forward and shakes hands with {b}, both using the {hand} hand.",
        "{a} comes closer and greets {b} with a handshake.",
        "two people shake hands; {a} walks over and offers the {hand} hand first.",
        "{b} waits while {a} comes up to shake hands.",
    ),
    "bow": (
        "{a} bows deeply to {b}.",
        "{a} bends low in a bow and {b} answers with a small bow.",
        "{a} bows to {b}, who nods back.",
        "{a} makes a deep bow in front of {b}.",
        "facing {b}, {a} bends forward from the waist and straightens up again.",
        "{b} receives a deep bow from {a} and replies with a slight one.",
    ),
    "push": (
        "{a} pushes {b}, who stumbles back.",
        "{a} steps in and pushes {b} {with_hand}.",
        "{b} is pushed by {a} and staggers backward.",
        "{a} shoves {b} in the chest {with_hand} and {b} loses balance for a moment.",
        "{b} stumbles backward after {a} pushes hard.",
        "{a} walks up to {b} and gives {b} a push.",
        "an angry {a_bare} shoves {b} away {with_hand}.",
    ),
    "wave": (
        "{a} waves at {b} and {b} waves back.",
        "{a} raises the {hand} hand and waves to {b}.",
        "{a} greets {b} with a wave of the {hand} hand, and {b} answers with the {other_hand} hand.",
        "{b} waves back after {a} waves hello.",
        "{a} waves first, then {b} returns the wave.",
        "standing apart, {a} waves {with_hand} and {b} replies.",
    ),
    "circle": (
        "{a} walks around {b}, who turns to keep watching.",
        "{a} circles {b} {direction}.",
        "{a} walks {direction} around {b}.",
        "{b} turns on the spot while {a} circles around.",
        "{a} circles around {b}, and {b} keeps facing {a}.",
        "{b} stands in the middle as {a} walks around in a {direction} arc.",
    ),
    "punch": (
        "{a} throws a punch at {b}, who ducks.",
        "{a} punches at the head of {b} with the {hand} fist, but {b} ducks under it.",
        "{b} ducks to avoid a punch from {a}.",
        "{a} swings the {hand} fist at {b} and misses as {b} crouches.",
        "{a} steps up and strikes with the {hand} hand; {b} dodges by ducking.",
        "{b} bends down quickly when {a} throws a punch.",
    ),
    "high_five": (
        "{a} walks up and gives {b} a high five.",
        "{a} raises the {hand} hand and {b} claps it in a high five.",
        "{a} steps up to {b} for a high five.",
        "{a} offers a high five with the {hand} hand and {b} answers it.",
        "two people high five; {a} comes closer and raises a hand first.",
        "{b} claps the raised {hand} hand of {a}.",
    ),
    "lead": (
        "{a} leads the way and {b} follows.",
        "{a} beckons {with_hand} and walks ahead while {b} follows behind.",
        "{b} follows {a}, who walks in front.",
        "{a} looks back, calls with the {hand} arm and walks off with {b} behind.",
        "{a} walks ahead and {b} walks after.",
        "{b} trails behind as {a} leads.",
    ),
    "mirror": (
        "{a} moves the arms and {b} mirrors every move.",
        "{a} raises the {hand} arm first and {b} copies it like a mirror.",
        "{b} imitates the arm movements of {a}.",
        "{b} mirrors {a}: when {a} lifts the {hand} arm, {b} lifts the {other_hand} arm.",
        "{a} does an exercise with the arms and {b} copies it a moment later.",
        "{b} copies {a} as if in a mirror.",
    ),
    "hand_over": (
        "{a} hands something to {b}.",
        "{a} holds out an object {with_hand} and {b} takes it.",
        "{b} receives an object from {a} with the {other_hand} hand.",
        "{a} carries something over in the {hand} hand and gives it to {b}.",
        "{a} walks up and passes an item to {b}, who draws it to the chest.",
        "{b} takes what {a} hands over.",
    ),
    "hug": (
        "{a} walks up and hugs {b}.",
        "{a} comes with open arms and embraces {b}.",
        "{a} hugs {b}, who hugs back.",
        "{b} is hugged by {a}.",
        "{a} opens both arms, steps up to {b} and gives a warm hug.",
        "{b} waits while {a} comes over for a hug.",
    ),
    "kick": (
        "{a} kicks at {b}, who blocks the kick.",
        "{a} kicks forward with the {hand} leg and {b} blocks with the forearms.",
        "{b} steps back and blocks a kick from {a}.",
        "{a} lifts the {hand} foot and kicks at the belly of {b}.",
        "{b} defends against a kick by {a}.",
        "{a} attacks with a front kick of the {hand} foot; {b} wards it off with both arms.",
    ),
    "beckon": (
        "{a} beckons and {b} comes closer.",
        "{a} waves {b} over {with_hand}.",
        "{b} walks up to {a} after being called over.",
        "{a} stays in place and calls {b} with a gesture of the {hand} hand.",
        "{b} comes when {a} beckons.",
        "{a} signals {b} to come nearer and {b} walks over.",
    ),
    "tap": (
        "{a} taps {b} on the shoulder from behind and {b} turns around.",
        "{a} walks up behind {b} and taps the {hand} shoulder.",
        "{b} turns around after a tap on the shoulder from {a}.",
        "{a} comes from behind and touches the shoulder of {b} with the {hand} hand.",
        "{b} is tapped on the {hand} shoulder by {a} and looks around.",
        "{a} gets the attention of {b} with a tap on the shoulder.",
    ),
}


def write_captions(
    random: np.random.Generator, kind: str, actor: int, hand: str, words: Mapping[str, str]
) -> tuple[str, ...]:
    """Three different sentences for an interaction in which person ``actor`` (0 or 1) acts.

    Example:
        >>> len(set(write_captions(np.random.default_rng(0), "bow", 1, "none", {})))
        3
    """
    chosen = random.choice(len(TEMPLATES[kind]), size=3, replace=False)
    return tuple(fill(TEMPLATES[kind][number], actor, hand, words) for number in chosen)


def told(sentence: str) -> tuple[str, int] | None:
    """Which kind of interaction a sentence is of, and which person (0 or 1) acts; None where no template says it.

    Example:
        >>> told("The second person is hugged by the first person.")
        ('hug', 0)
        >>> told("Two people dance.") is None
        True
    """
    words = re.sub(r"\s+", " ", sentence).strip(" .!'\"").lower()
    found = {
        (kind, actor)
        for kind, templates in TEMPLATES.items()
        for template in templates
        for actor in (0, 1)
        if _pattern(template, actor).fullmatch(words)
    }
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=256)
def _pattern(template: str, actor: int) -> re.Pattern[str]:
    people = {"a": PEOPLE[actor], "b": PEOPLE[1 - actor], "a_bare": PEOPLE[actor].removeprefix("the ")}
    side = "(?:left|right)"
    words = {
        **{name: re.escape(person) for name, person in people.items()},
        **dict.fromkeys(("hand", "other_hand"), side),
        "with_hand": f"with (?:the {side} hand|both hands)",
        "direction": "(?:counter)?clockwise",
    }
    parts = re.split(r"\{(\w+)\}", template.rstrip("."))
    # Every second part is the name of a placeholder.
    texts = [words[part] if number % 2 else re.escape(part) for number, part in enumerate(parts)]
    return re.compile("".join(texts))


def fill(template: str, actor: int, hand: str, words: Mapping[str, str]) -> str:
    """One sentence, its first letter a capital.

    Example:
        >>> fill("{a} shoves {b} {with_hand}.", 1, "both", {})
        'The second person shoves the first person with both hands.'
    """
    with_hand = "with both hands" if hand == "both" else f"with the {hand} hand"
    a, b = PEOPLE[actor], PEOPLE[1 - actor]
    sentence = template.format(a=a, b=b, a_bare=a.removeprefix("the "), hand=hand, with_hand=with_hand, **words)
    return sentence[0].upper() + sentence[1:]
