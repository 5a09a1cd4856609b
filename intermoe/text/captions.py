"""Who is the first person and who the second, in the sentence that describes a motion.

Training lets the two persons change places. Where a caption says who of them acts ("the first person pushes the
second"), it has to change with them: otherwise nothing could be learned of who does what. And since nothing but its
name makes a person the first, one may always call the person first whom the sentence names first: then the network need
not learn to read the names at all, only what the sentence says of whom it names first.
"""

import re
from typing import Literal

Persons = Literal["drawn", "named"]
"""Which person of a recording is the first: drawn at random, or the one whom the caption names first."""

# What people are called after "first" and "second".
_PEOPLE = (
    "person|one|man|woman|individual|human|guy|girl|boy|lady|gentleman|child|adult|"
    "actor|actress|character|figure|player|performer|participant|partner|friend|dancer|fighter|boxer|fencer|wrestler"
)
# What else has an order. Only what can hardly be a person's deed is listed: a missed word makes an odd sentence, a
# person wrongly kept makes a false one.
_THINGS = (
    "times?|steps?|moves?|movements?|rounds?|half|part|try|attempt|place|floor|level|song|beat|count|act|phase|moment|"
    "position|thing|stage|day|few|two|hand|arm|leg|foot"
)
_ORDINAL = re.compile(
    rf"(?<![a-z-])(?:first|second)(?= (?:{_PEOPLE})(?![a-z]))"
    rf"|(?<=the )(?:first|second)(?!-)(?! (?:{_THINGS})(?![a-z]))(?![a-z])",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?<=person )(?:1|2|one|two|(?-i:[AB]))(?![a-z0-9-])|(?<=person)[12](?![a-z0-9-])", re.IGNORECASE
)
_OTHER = {"first": "second", "1": "2", "one": "two", "a": "b"}
_OTHER |= {other: word for word, other in _OTHER.items()}


def swap_caption(text: str) -> str:
    """The sentence that describes the motion with its persons in each other's place.

    "First" and "second" change where they name a person, and so do numbers and letters after "person"; capitals are
    kept. A sentence that says "one" and "the other" names nobody and stays. Swapping twice gives the sentence back.

    Example:
        >>> swap_caption("The first person waves a second time at the second, and Person 1 waits.")
        'The second person waves a second time at the first, and Person 2 waits.'
    """
    return _NUMBERED.sub(_exchanged, _ORDINAL.sub(_exchanged, text))


def named_first(text: str) -> int | None:
    """The person that a sentence names first: 0 for the first, 1 for the second, None where it names nobody.

    Example:
        >>> named_first("The second person is pushed by the first."), named_first("Two people bow.")
        (1, None)
    """
    found = [match for pattern in (_ORDINAL, _NUMBERED) if (match := pattern.search(text))]
    if not found:
        return None
    word = min(found, key=lambda match: match.start())[0].lower()
    return int(word in ("second", "2", "two", "b"))


def _exchanged(match: re.Match[str]) -> str:
    word = match[0]
    other = _OTHER[word.lower()]
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


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
