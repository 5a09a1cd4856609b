"""Who is the first person and who the second, in the sentence that describes a motion.

Training lets the two persons change places. Where a caption says who of them acts ("the first person pushes the
second"), it has to change with them: otherwise nothing could be learned of who does what. And since nothing but its
name makes a person the first, one may always call the person first whom the sentence names first: then the network need
not learn to read the names at all, only what the sentence says of whom it names first.
"""

import re
from typing import Literal

from intermoe.text.person_names import names

Persons = Literal["drawn", "named"]
"""Which person of a recording is the first: drawn at random, or the one whom the caption names first."""


def swap_caption(text: str) -> str:
    """The sentence that describes the motion with its persons in each other's place.

    Every name that tells the persons apart changes (see person_names.py): "first" and "second", "1st" and "2nd",
    numbers and letters after "person", "character" and the like, "P1" and "P2"; capitals are kept. A sentence that says
    "one" and "the other" names nobody and stays. Swapping twice gives the sentence back.

    Example:
        >>> swap_caption("The first person waves a second time at the second, and Person 1 waits.")
        'The second person waves a second time at the first, and Person 2 waits.'
    """
    for name in reversed(names(text)):
        start, stop = name.word
        text = text[:start] + _like(text[start:stop], name.counterpart) + text[stop:]
    return text


def named_first(text: str) -> int | None:
    """The person that a sentence names first: 0 for the first, 1 for the second, None where it names nobody.

    Example:
        >>> named_first("The second person is pushed by the first."), named_first("Two people bow.")
        (1, None)
    """
    return next((name.person for name in names(text)), None)


def with_ordinals(text: str) -> str:
    """The sentence with "first" and "second" for every other way of telling the two persons apart.

    Text encoders read it instead of the sentence: of "P2 pushes P1" they make little, and what a network learns of one
    way of naming would not hold for the others.

    Example:
        >>> with_ordinals("P2 pushes the 1st person, and man 1 falls.")
        'the second person pushes the first person, and the first man falls.'
    """
    for name in reversed(names(text)):
        start, stop = name.whole
        ordinal = ("first", "second")[name.person]
        text = (
            text[:start]
            + (f"the {ordinal} {name.noun}" if name.noun else _like(text[start:stop], ordinal))
            + text[stop:]
        )
    return text


# Words that say a side (also left-handed, leftward, rights) or a sense of rotation.
_SIDE = re.compile(r"(?<![a-z])(left|right)(?=(?:s|wards?|most|hand(?:ed|er|ers)?)?(?![a-z]))", re.IGNORECASE)


_SENSE = re.compile(r"(?<![a-z])((?:counter|anti)[ -]?)?clockwise(?![a-z])", re.IGNORECASE)


# Where "left" is the verb and "right" says how or when, they say no side and stay. Only what can hardly mean a side is
# listed: a missed idiom makes an odd sentence, a side wrongly kept makes a false one. The rules look at the words
# around and treat both words alike, so that mirroring twice gives the sentence back.
_NO_SIDE_BETWEEN = (
    # he left the room, the first person left him behind, one has left the other
    (
        re.compile(r"he|she|they|it|who|person|man|woman|one|other|first|second|partner|has|have|had|having"),
        re.compile(r"the|a|an|his|her|their|its|him|them|each|behind|alone"),
    ),
    # is left behind, are right next to each other, was right in front
    (
        re.compile(r"is|are|was|were|be|been|being|get|gets|got"),
        re.compile(r"behind|alone|standing|next|beside|in|there|at|with|where|after|before|when"),
    ),
)


_NO_SIDE_AFTER = re.compile(r"all")


_NO_SIDE_BEFORE = re.compile(r"angles?|angled")


_REACH = 32  # characters to look for a neighbour in; all that are asked for are shorter


_WORD_BEFORE = re.compile(r"([a-z]+)\s+$", re.IGNORECASE)


_WORD_AFTER = re.compile(r"[\s-]+([a-z]+)", re.IGNORECASE)


def mirror_caption(text: str) -> str:
    """The sentence that describes the mirrored motion: left and right, clockwise and counterclockwise exchanged.

    Whole words and compounds (left-handed, leftwards, anti-clockwise); capitals are kept. "Left" as a verb ("he left
    the room", "is left behind") and "right" that says no side ("all right", "a right angle", "is right behind")
    stay. Mirroring twice gives the sentence back, but for the spelling of "counterclockwise".

    Example:
        >>> mirror_caption("Left-handed, she left the ring and turns anti-clockwise to the right.")
        'Right-handed, she left the ring and turns clockwise to the left.'
    """
    text = _SIDE.sub(_other_side, text)
    return _SENSE.sub(lambda match: _like(match[0], "clockwise" if match[1] else "counterclockwise"), text)


def _other_side(match: re.Match[str]) -> str:
    word = match[1]
    start, end = match.span()
    if _says_no_side(match.string[max(0, start - _REACH) : start], match.string[end : end + _REACH]):
        return word
    return _like(word, "right" if word.lower() == "left" else "left")


def _says_no_side(before: str, after: str) -> bool:
    previous, following = _WORD_BEFORE.search(before), _WORD_AFTER.match(after)
    first = previous[1].lower() if previous else ""
    last = following[1].lower() if following else ""
    return bool(
        _NO_SIDE_AFTER.fullmatch(first)
        or _NO_SIDE_BEFORE.fullmatch(last)
        or any(befores.fullmatch(first) and afters.fullmatch(last) for befores, afters in _NO_SIDE_BETWEEN)
    )


def _like(model: str, word: str) -> str:
    """The word in the capitals of the model."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
