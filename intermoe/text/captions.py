"""Who is the first person and who the second, in the sentence that describes a motion.

Training lets the two persons change places. Where a caption says who of them acts ("the first person pushes the
second"), it has to change with them: otherwise nothing could be learned of who does what. And since nothing but its
name makes a person the first, one may always call the person first whom the sentence names first: then the network need
not learn to read the names at all, only what the sentence says of whom it names first.

The rules look at the words around a name and treat both names alike, so that swapping twice gives the sentence back.
"""

import re
from collections.abc import Iterator
from typing import Literal

Persons = Literal["drawn", "named"]
"""Which person of a recording is the first: drawn at random, or the one whom the caption names first."""

Span = tuple[int, int]

# What people are called after "first" and "second", and before a number or a letter.
_PEOPLE = (
    "person|man|woman|individual|human|guy|girl|boy|lady|gentleman|child|adult|subject|"
    "actor|actress|character|figure|player|performer|participant|partner|friend|dancer|fighter|boxer|fencer|wrestler"
)
_PLURALS = "|".join(
    ["people", "men", "women", "ladies", "gentlemen", "children", *(f"{n}s" for n in _PEOPLE.split("|"))]
)
# What else has an order. Only what can hardly be a person's deed is listed: a missed word makes an odd sentence, a
# person wrongly kept makes a false one.
_THINGS = (
    "times?|steps?|moves?|movements?|rounds?|half|part|try|attempt|place|floor|level|song|beat|count|act|phase|moment|"
    "position|thing|stage|day|few|two|hand|arm|leg|foot|\\d+"
)
# What is counted, where a number after a person is none of its name: "pushes the person 2 times".
_UNITS = "times|metres?|meters?|m|cm|feet|inch|inches|seconds|minutes|degrees|others|more"
# These are deeds too ("person 2 steps back"), so only after an article: "pushes the person 2 steps back".
_STEPS = "steps|paces|blows"
_ARTICLES = "the|a|an|this|that|other|another|his|her|their|each"
_NO_ARTICLE = "".join(rf"(?<!\b{article} )" for article in _ARTICLES.split("|"))
_ORDER = "first|second|1st|2nd"
_AND = "and|or|&"

_NUMBERED = (
    rf"(?<![a-z])(?:(?P<article>(?:{_ARTICLES}) )|{_NO_ARTICLE})(?:{_PEOPLE})"
    rf"(?:[ _-]?\(?(?:#|no\. ?|number )?([12])|[ _-](?:number )?(one|two))(?![a-z0-9-])"
    rf"(?! (?:{_UNITS})(?![a-z]))(?(article)(?! (?:{_STEPS})(?![a-z])))"
    rf"(?: (?:{_AND}) #?([12])(?![a-z0-9-])(?! (?:{_UNITS}|{_STEPS})(?![a-z])))?"
)
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # the first person, 2nd man, an angry second one
        rf"(?<![a-z0-9-])({_ORDER})(?= (?:{_PEOPLE}|one)(?![a-z]))",
        # pushes the second, the 1st's hand
        rf"(?<![a-z])the ({_ORDER})(?!-)(?!(?: (?:{_AND}) (?:{_ORDER}))? (?:{_THINGS})(?![a-z]))(?![a-z])",
        # the first and second, the first or second person
        rf"(?<![a-z])the ({_ORDER}) (?:{_AND}) ({_ORDER})(?!-)(?! (?:{_THINGS})(?![a-z]))(?![a-z])",
        # persons 1 and 2, dancers one and two
        rf"(?<![a-z])(?:{_PLURALS}) #?([12]|one|two) (?:{_AND}) #?([12]|one|two)(?![a-z0-9-]| (?:{_UNITS})(?![a-z]))",
        # person 1, person #2, actor no. 1, dancer two, person1, person 1 and 2
        _NUMBERED,
        # P1, P 2
        r"(?<![a-z0-9])P[ _-]?#?([12])(?![a-z0-9])",
    )
)
# person A, Character B, persons A and B. Small letters are names only where both are there: "gives the person a hug".
_LETTERED = re.compile(
    rf"(?<![a-z])(?:{_PEOPLE}|{_PLURALS})[ _-]?([ab])(?![a-z0-9-])(?: (?:{_AND}) ([ab])(?![a-z0-9-]))?", re.IGNORECASE
)
# Names without a noun, where no other name is: "First bows, second waves.", "A pushes B.", "#1 hugs #2". As a subject,
# such a name begins a clause and has a verb after it, otherwise it follows a verb or a preposition: "first they bow",
# "at first" and "a second" are none.
_BARE = r"first|second|1st|2nd|(?-i:[AB])|#[12]"
_SUBJECT = re.compile(
    rf"(?:^\W*|[.,;:] |(?<![a-z])(?:and|while|as|when|then|but|whereas|after|before|until|so|that) )"
    rf"({_BARE})(?= (?!(?:{_THINGS})(?![a-z]))(?:[a-z]+s|{_AND})(?![a-z])|['\u2019]s(?![a-z]))",
    re.IGNORECASE,
)
_OBJECT = re.compile(
    r"(?<![a-z])(?:[a-z]+(?:s|ed|ing)|and|or|to|at|by|from|of|with|on|over|behind|around|past|against|toward|near|into)"
    rf" ({_BARE})(?![\w-])(?! (?:{_THINGS}|{_PEOPLE}|one)(?![a-z]))",
    re.IGNORECASE,
)
# What of a name stands before its number or letter.
_NOUN_BEFORE = re.compile(
    rf"(?<![a-z0-9])(?:(?:{_ARTICLES}) )?(?:{_PEOPLE}|{_PLURALS}|P)[ _-]?\(?(?:#|no\. ?|number )?$|#$", re.IGNORECASE
)
_CLOSING = re.compile(r"\)")
_SECOND = ("second", "2nd", "2", "#2", "two", "b")
_OTHER = {"first": "second", "1st": "2nd", "1": "2", "#1": "#2", "one": "two", "a": "b"}
_OTHER |= {other: word for word, other in _OTHER.items()}


def swap_caption(text: str) -> str:
    """The sentence that describes the motion with its persons in each other's place.

    What names a person changes: "first" and "second", "1st" and "2nd", numbers and letters after "person", "character"
    and the like, "P1" and "P2"; capitals are kept. A sentence that says "one" and "the other" names nobody and stays.
    Swapping twice gives the sentence back.

    Example:
        >>> swap_caption("The first person waves a second time at the second, and Person 1 waits.")
        'The second person waves a second time at the first, and Person 2 waits.'
    """
    pieces, end = [], 0
    for start, stop in _names(text):
        pieces += [text[end:start], _like(text[start:stop], _OTHER[text[start:stop].lower()])]
        end = stop
    return "".join([*pieces, text[end:]])


def named_first(text: str) -> int | None:
    """The person that a sentence names first: 0 for the first, 1 for the second, None where it names nobody.

    Example:
        >>> named_first("The second person is pushed by the first."), named_first("Two people bow.")
        (1, None)
    """
    for start, stop in _names(text):
        return int(text[start:stop].lower() in _SECOND)
    return None


def with_ordinals(text: str) -> str:
    """The sentence with "the first person" and "the second person" for every other name of the two.

    Those are the words that encoders and captions know best: of "Second pushes first" an encoder makes little.

    Example:
        >>> with_ordinals("P2 pushes the 1st person, and character A falls.")
        'The second person pushes the first person, and the first person falls.'
    """
    bare = set(_bare_names(text))
    pieces, end = [], 0
    for start, stop in _names(text):
        ordinal = ("first", "second")[text[start:stop].lower() in _SECOND]
        if re.fullmatch(_ORDER, text[start:stop], re.IGNORECASE) and (start, stop) not in bare:
            name = _like(text[start:stop], ordinal)
        else:
            noun, closing = _NOUN_BEFORE.search(text, end, start), _CLOSING.match(text, stop)
            start = noun.start() if noun else start
            stop = closing.end() if closing else stop
            begins = not text[:start].strip() or text[:start].rstrip().endswith((".", "!", "?"))
            name = f"{'The' if begins and text[start].isupper() else 'the'} {ordinal} person"
        pieces += [text[end:start], name]
        end = stop
    return "".join([*pieces, text[end:]])


def _names(text: str) -> list[Span]:
    """Where the words stand that tell the persons apart, from left to right."""
    spans = {span for pattern in _PATTERNS for span in _spans(pattern, text)}
    lettered = list(_spans(_LETTERED, text))
    articles = [span for span in lettered if text[slice(*span)].islower() or text.isupper()]
    if {text[slice(*span)].lower() for span in articles} != {"a", "b"}:
        lettered = [span for span in lettered if span not in articles]
    return sorted(spans.union(lettered)) or _bare_names(text)


def _bare_names(text: str) -> list[Span]:
    subjects = set(_spans(_SUBJECT, text))
    spans = subjects | set(_spans(_OBJECT, text))
    words = {text[slice(*span)].lower() for span in spans}
    return sorted(span for span in spans if subjects and _OTHER[text[slice(*span)].lower()] in words)


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    """Where the groups of a pattern matched that have no name."""
    groups = [group for group in range(1, pattern.groups + 1) if group not in pattern.groupindex.values()]
    for match in pattern.finditer(text):
        yield from (match.span(group) for group in groups if match[group] is not None)


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
