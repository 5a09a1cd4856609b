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
    """Which person a sentence names first: 0 for the first, 1 for the second, None where it names nobody.

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
