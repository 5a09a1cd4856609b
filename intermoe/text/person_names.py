"""The names that sentences give the two persons: "the first", "2nd man", "person #1", "Character B", "P2", "A".

A name has a word that tells the two persons apart, and each such word has a counterpart that means the other person.
Every rule here treats both words alike, so that a sentence whose words are exchanged has its names at the same places.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

Span = tuple[int, int]

# Nouns that only say "one of the two", and those that say more of a person.
_LABELS = "person|individual|human|subject|character|figure|player|performer|participant|actor|agent"
_KINDS = (
    "man|woman|guy|girl|boy|lady|gentleman|child|kid|adult|"
    "actress|partner|friend|opponent|dancer|fighter|boxer|fencer|wrestler|athlete|soldier|student"
)
_NOUN = f"(?:{_LABELS}|{_KINDS})"
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "gentlemen": "gentleman", "children": "child"}
_IRREGULAR |= {"ladies": "lady", "actresses": "actress"}
_PLURAL = f"(?:{'|'.join(_IRREGULAR)}|{_NOUN}s)"

_ORDINAL = "(?:first|second|1st|2nd)"
_AND = "(?:and|or|&)"
_ARTICLE = "(?:the|a|an|this|that|other|another|his|her|their|each)"
_END = "(?![a-z0-9-])"  # "the second-best", "person 12" and "a person A-frame" hold no name

# What else has an order. Only what can hardly be a person's deed is listed: a missed word makes an odd sentence, a
# person wrongly kept makes a false one.
_THING = (
    "(?:times?|steps?|moves?|movements?|rounds?|half|part|try|attempt|place|floor|level|song|beat|count|act|phase|"
    r"moment|position|thing|stage|day|few|two|hand|arm|leg|foot|\d+)(?![a-z])"
)
# What is counted, where a number after a noun is none of its name: "pushes the person 2 times".
_UNIT = "(?:times|met(?:re|er)s?|m|cm|feet|foot|inch|inches|seconds|minutes?|degrees|others?|more)(?![a-z])"
_STEP = "(?:steps?|paces?|blows?)(?![a-z])"
_MAY_COUNT = re.compile(f" (?:{_STEP}|first|second)", re.IGNORECASE)  # "waves to the person 1 second"

# "the first person", "2nd man", "an angry second one"; but not "at first person 2 waits"
_ORDINAL_AND_NOUN = re.compile(
    rf"(?<![a-z0-9-])(?!(?<=at ){_ORDINAL} {_NOUN}[ _-]?#?(?:[12]|(?-i:[AB])){_END})"
    rf"(?P<word>{_ORDINAL})(?= (?:{_NOUN}|one)(?![a-z]))",
    re.IGNORECASE,
)
# "pushes the second", "the 1st's hand", "the first and second"; but not "the first and second time"
_THE_ORDINAL = re.compile(
    rf"(?<![a-z])the (?P<word>{_ORDINAL})(?![a-z-])(?: {_AND} (?P<next>{_ORDINAL})(?![a-z-]))?+(?! {_THING})",
    re.IGNORECASE,
)
# "person 1", "the person #2", "actor no. 1", "dancer two", "person1", "Character B", "persons 1 and 2"; but not
# "the second person one": that person has a name already, unless the words are "at first"
_AT_ORDINAL = "|".join(f"(?<=at {ordinal} )" for ordinal in ("first", "second", "1st", "2nd"))
_LABELLED = re.compile(
    rf"(?<![a-z])(?:{_AT_ORDINAL}|(?<!first )(?<!second )(?<!1st )(?<!2nd ))"
    rf"(?P<whole>(?P<article>(?:{_ARTICLE} ){{0,2}})(?P<noun>{_NOUN}|(?P<plural>{_PLURAL}))[ _-]?"
    rf"\(?(?:#|no\.? ?|number )?(?P<word>[12]|(?<![a-z])(?:one|two|[ab]))\)?){_END}(?! {_UNIT})"
    rf"(?:(?: {_AND} |&)#?(?P<next>[12]|one|two|[ab]){_END}(?! (?:{_UNIT}|{_STEP})))?",
    re.IGNORECASE,
)
# "P1", "P 2's", "P1 and 2"
_SHORT = re.compile(
    rf"(?<![a-z0-9])(?P<whole>(?:the )?P[ _-]?#?(?P<word>[12]))(?![a-z0-9])"
    rf"(?:(?: {_AND} |&)(?P<next>[12]){_END}(?! (?:{_UNIT}|{_STEP})))?",
    re.IGNORECASE,
)
# Names without a noun: "First bows, second waves.", "A pushes B.", "#1 hugs #2". As a subject, such a name begins a
# clause and has a verb after it, otherwise it follows a verb or a preposition: "first they bow", "at first" and "for a
# second" hold none.
_BARE = "(?P<word>first|second|1st|2nd|(?-i:[AB])|#[12])"
_SUBJECT = re.compile(
    rf"(?:^\W*|[.,;:] |(?<![a-z])(?:and|while|as|when|then|but|whereas|after|before|until|so|that) )"
    rf"{_BARE}(?= (?:(?:then|also|now) )?(?!{_THING})(?:[a-z]+s|{_AND})(?![a-z])|['\u2019]s(?![a-z]))",
    re.IGNORECASE,
)
_PREPOSITION = "(?:to|at|by|from|of|with|on|over|behind|around|past|against|toward|near|into)"
_OBJECT = re.compile(
    rf"(?<![a-z])(?!at {_ORDINAL})(?:[a-z]+(?:s|ed|ing)|and|or|{_PREPOSITION}) "
    rf"{_BARE}(?![\w-])(?! (?:{_THING}|(?:{_NOUN}|one)(?![a-z])))",
    re.IGNORECASE,
)
# Of a sentence that names the other by a number already: "person 1 hugs 2".
_OBJECT_NUMBER = re.compile(
    rf"(?<![a-z])(?:[a-z]+(?:s|ed|ing)|{_PREPOSITION}) (?P<word>[12])"
    "(?=[.,;!?]|$|['\u2019]s| (?:and|while|as|from|with) )",
    re.IGNORECASE,
)

_COUNTERPART = {"first": "second", "1st": "2nd", "1": "2", "#1": "#2", "one": "two", "a": "b"}
# Words that say who, and hardly ever when: not "first", as in "the first person comes first".
_NEVER_WHEN = frozenset(("1", "1st", "a"))
_SECOND = frozenset(_COUNTERPART.values())
_COUNTERPART |= {second: first for first, second in _COUNTERPART.items()}


class Name(NamedTuple):
    """A name of a person in a sentence.

    Attributes:
        word: where the word stands that tells the persons apart.
        whole: where the name stands, with the noun and article before the word.
        noun: what the person is called besides, where the word stands for "first" or "second" only in meaning; empty
            where it is an ordinal number in its place.
        person: 0 for the first, 1 for the second.
        counterpart: the word for the other person, in small letters.
    """

    word: Span
    whole: Span
    noun: str
    person: int
    counterpart: str


def names(text: str) -> list[Name]:
    """The names of the two persons in a sentence, from left to right.

    Example:
        >>> [(name.person, name.noun) for name in names("Man 2 hits the first person with a second stick.")]
        [(1, 'man'), (0, '')]
    """
    ordinals = [name for pattern in (_ORDINAL_AND_NOUN, _THE_ORDINAL) for name in _named(pattern, text, noun="")]
    short = list(_named(_SHORT, text, noun="person"))
    found = {name.word: name for name in [*ordinals, *short, *_labelled(text)]}
    if not found:
        return _bare(text)
    # "Person A pushes B", "the 1st hugs 2nd": the other name goes without its noun.
    kinds = {_kind(text[slice(*word)]) for word in found}
    for pattern in (_SUBJECT, _OBJECT, _OBJECT_NUMBER):
        for name in _named(pattern, text, noun="person"):
            kind = _kind(text[slice(*name.word)].removeprefix("#"))
            if kind in kinds and kind[0] in _NEVER_WHEN:
                found.setdefault(name.word, name)
    return sorted(found.values())


def _named(pattern: re.Pattern[str], text: str, noun: str) -> Iterator[Name]:
    for match in pattern.finditer(text):
        yield from _of_match(match, noun)


def _of_match(match: re.Match[str], noun: str) -> Iterator[Name]:
    """The name matched, and the second one of "person 1 and 2", which must have the same kind of word."""
    groups = match.re.groupindex
    first = _name(match.string, match.span("word"), match.span("whole" if "whole" in groups else "word"), noun)
    yield first
    if "next" not in groups or not match["next"]:
        return
    second = _name(match.string, match.span("next"), match.span("next"), noun)
    # "person A and a friend" has a letter and an article.
    if _kind(match["word"]) == _kind(match["next"]):
        yield second


def _name(text: str, word: Span, whole: Span, noun: str) -> Name:
    key = text[slice(*word)].lower()
    return Name(word, whole, noun, person=int(key in _SECOND), counterpart=_COUNTERPART[key])


def _labelled(text: str) -> list[Name]:
    """Names by a noun with a number or a letter after it.

    Some may be none: in "gives the person a hug", "the person one hug" and "pushes the person 2 steps back". Those
    count only where both persons are named so, or where another name has an article and no doubt about it.
    """
    clear: list[Name] = []
    doubtful: list[Name] = []
    with_article: set[tuple[str, bool]] = set()
    for match in _LABELLED.finditer(text):
        several = list(_of_match(match, _noun(match["noun"].lower())))
        if match["plural"] and len(several) == 1:
            continue  # "pushes people 2 by 2"
        word, after = match["word"], text[match.end("whole") :]
        article = word in ("a", "b") or (word in ("A", "B") and text.isupper())
        counted = match["article"] and (word.lower() in ("one", "two") or _MAY_COUNT.match(after))
        if article or counted:
            doubtful += several
            continue
        clear += several
        if match["article"]:
            with_article.add(_kind(word))
    persons: dict[tuple[str, bool], set[int]] = {}
    for name in doubtful:
        persons.setdefault(_kind(text[slice(*name.word)]), set()).add(name.person)
    kinds = with_article.union(kind for kind, named in persons.items() if len(named) > 1)
    return clear + [name for name in doubtful if _kind(text[slice(*name.word)]) in kinds]


def _kind(word: str) -> tuple[str, bool]:
    """What a word has in common with its counterpart: the one for the first person, and whether it has a capital."""
    small = word.lower()
    return _COUNTERPART[small] if small in _SECOND else small, word[0].isupper()


def _noun(noun: str) -> str:
    """A noun in the singular; "person" for those that say no more than that."""
    singular = _IRREGULAR.get(noun) or (noun if re.fullmatch(_NOUN, noun) else noun.removesuffix("s"))
    return "person" if re.fullmatch(_LABELS, singular) else singular


def _bare(text: str) -> list[Name]:
    """Names without a noun; only where both persons have one, of which one is a subject."""
    subjects = list(_named(_SUBJECT, text, noun="person"))
    found = {name.word: name for name in [*subjects, *_named(_OBJECT, text, noun="person")]}
    words = {name.counterpart for name in found.values()}
    return sorted(name for name in found.values() if subjects and _COUNTERPART[name.counterpart] in words)
