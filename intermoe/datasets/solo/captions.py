"""Sentences that say what one person does, name the true side, and come with their words and parts of speech.

Placeholders: {side} ("left"), {with_hand} ("with the left hand"), {arm} ("the left arm", "both arms"), {sense} of a
circle seen from above, {times} ("twice").
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

TEMPLATES: Mapping[str, Sequence[str]] = {
    "walk": (
        "a person walks forward.",
        "a man walks straight ahead and stops.",
        "someone takes several steps forward.",
        "the person walks forward in a straight line.",
        "a figure strolls ahead, then stands still.",
    ),
    "curve": (
        "a person walks forward and bends to the {side}.",
        "a man walks in a curve to the {side}.",
        "someone walks ahead while turning {side}.",
        "the person strolls forward in an arc to the {side}.",
        "a figure walks along a curve that bends {side}.",
    ),
    "walk_back": (
        "a person walks backward.",
        "a man takes several slow steps backward.",
        "someone steps backward and stops.",
        "the person moves backward in a straight line.",
        "a figure walks backward slowly.",
    ),
    "circle": (
        "a person walks in a circle.",
        "a person walks {sense} in a circle.",
        "a man walks around in a {sense} circle and stops.",
        "someone walks a full circle to the {side}.",
        "the person circles {sense}.",
    ),
    "turn": (
        "a person turns to the {side}.",
        "a man turns around to the {side} in place.",
        "someone standing still turns {side}.",
        "the person rotates to the {side} with small steps.",
        "a figure turns {side} on the spot.",
    ),
    "side_step": (
        "a person steps sideways to the {side}.",
        "a man takes several steps to the {side}.",
        "someone moves sideways to the {side}, facing forward.",
        "the person sidesteps {side}.",
        "a figure shuffles to the {side} and stops.",
    ),
    "wave": (
        "a person waves {with_hand}.",
        "a man raises the {side} hand and waves.",
        "someone waves hello {with_hand}.",
        "the person lifts the {side} arm and waves several times.",
        "a figure greets someone, waving the {side} hand.",
    ),
    "raise": (
        "a person raises {arm}.",
        "a man lifts {arm} above the head and lowers it again.",
        "someone stretches {arm} upward.",
        "the person puts {arm} up and then down.",
        "a figure reaches up with {arm}.",
    ),
    "bow": (
        "a person bows.",
        "a man bends forward from the waist and straightens up.",
        "someone bows deeply.",
        "the person bends down and then stands up again.",
        "a figure leans forward in a deep bend.",
    ),
    "punch": (
        "a person punches with the {side} fist.",
        "a man strikes forward {with_hand} {times}.",
        "someone punches {times} with the {side} arm.",
        "the person boxes, throwing the {side} fist forward.",
        "a figure raises both fists and punches {with_hand}.",
    ),
    "kick": (
        "a person kicks with the {side} leg.",
        "a man kicks forward with the {side} foot.",
        "someone lifts the {side} knee and kicks.",
        "the person kicks high with the {side} leg and stands still.",
        "a figure kicks something ahead with the {side} foot.",
    ),
    "squat": (
        "a person squats {times}.",
        "a man bends both knees, goes down and stands up {times}.",
        "someone squats low with both arms stretched forward.",
        "the person does squats.",
        "a figure crouches down and then rises again.",
    ),
    "sit": (
        "a person sits down and stands up again.",
        "a man sits on a chair and then gets up.",
        "someone takes a seat, rests and rises.",
        "the person lowers to a chair, sits and stands up.",
        "a figure sits down, with both hands on the knees, and then rises.",
    ),
}

# fmt: off
# As HumanML3D has them: verbs and nouns by their lemmas.
_SAME = {
    "ADJ": "deep full left low right several slow small straight",
    "ADP": "above along from in of on to with",
    "ADV": "again ahead around backward clockwise counterclockwise deeply down forward hello high once sideways slowly "
           "still then twice up upward",
    "CCONJ": "and", "DET": "a an both the", "NUM": "three", "PRON": "it someone something that",
    "SCONJ": "while",
    "NOUN": "arc arm bend chair circle curve figure fist foot hand head knee leg line man person place seat spot waist",
}
_LEMMAS = {
    "NOUN": {"arms": "arm", "fists": "fist", "hands": "hand", "knees": "knee", "squats": "squat", "steps": "step",
             "times": "time"},
    "VERB": {"bends": "bend", "bows": "bow", "boxes": "box", "circles": "circle", "crouches": "crouch", "does": "do",
             "facing": "face", "gets": "get", "goes": "go", "greets": "greet", "kicks": "kick", "leans": "lean",
             "lifts": "lift", "lowers": "lower", "moves": "move", "punches": "punch", "puts": "put",
             "raises": "raise", "reaches": "reach", "rests": "rest", "rises": "rise", "rotates": "rotate",
             "shuffles": "shuffle", "sidesteps": "sidestep", "sits": "sit", "standing": "stand", "stands": "stand",
             "stops": "stop", "straightens": "straighten", "stretched": "stretch", "stretches": "stretch",
             "strikes": "strike", "strolls": "stroll", "takes": "take", "throwing": "throw", "turning": "turn",
             "turns": "turn", "walks": "walk", "waves": "wave", "waving": "wave"},
}
# fmt: on
_TAGS = {word: f"{word}/{part}" for part, words in _SAME.items() for word in words.split()} | {
    word: f"{lemma}/{part}" for part, lemmas in _LEMMAS.items() for word, lemma in lemmas.items()
}
# Words that are one or the other by what stands before them.
_AFTER = {
    ("person", "squats"): "squat/VERB",
    ("someone", "squats"): "squat/VERB",
    ("person", "steps"): "step/VERB",
    ("someone", "steps"): "step/VERB",
}


def write_captions(random: np.random.Generator, kind: str) -> tuple[str, ...]:
    """Three different sentences of a kind, to be filled.

    Example:
        >>> len(set(write_captions(np.random.default_rng(0), "bow")))
        3
    """
    chosen = random.choice(len(TEMPLATES[kind]), size=3, replace=False)
    return tuple(TEMPLATES[kind][number] for number in chosen)


def fill(template: str, side: str, words: Mapping[str, str]) -> str:
    """One sentence.

    Example:
        >>> fill("a person waves {with_hand}.", "left", {})
        'a person waves with the left hand.'
    """
    arm = "both arms" if side == "both" else f"the {side} arm"
    return template.format(side=side, with_hand=f"with the {side} hand", arm=arm, **words)


def tagged(sentence: str) -> str:
    """The words of a sentence with their parts of speech, as HumanML3D's texts have them.

    Example:
        >>> tagged("a person steps to the left, facing forward.")
        'a/DET person/NOUN step/VERB to/ADP the/DET left/ADJ face/VERB forward/ADV'
    """
    words = re.findall(r"[a-z]+", sentence.lower())
    return " ".join(_AFTER.get((before, word), _TAGS[word]) for before, word in zip(["", *words], words, strict=False))
