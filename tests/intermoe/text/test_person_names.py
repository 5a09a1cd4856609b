from itertools import product
from random import Random

import pytest

from intermoe.datasets.duet.captions import TEMPLATES, fill
from intermoe.text.captions import named_first, swap_caption, with_ordinals

# Pairs of names of the first and the second person, and what an encoder reads for them.
NAMES = {
    ("the 1st person", "the 2nd person"): ("the first person", "the second person"),
    ("the 1st", "the 2nd"): ("the first", "the second"),
    ("the first", "the second"): ("the first", "the second"),
    ("an angry 1st man", "an angry 2nd man"): ("an angry first man", "an angry second man"),
    ("P1", "P2"): ("the first person", "the second person"),
    ("p 1", "p 2"): ("the first person", "the second person"),
    ("individual 1", "individual 2"): ("the first person", "the second person"),
    ("Character A", "Character B"): ("the first person", "the second person"),
    ("the character A", "the character B"): ("the first person", "the second person"),
    ("character a", "character b"): ("the first person", "the second person"),
    ("Person #1", "Person #2"): ("the first person", "the second person"),
    ("person no. 1", "person no. 2"): ("the first person", "the second person"),
    ("Person number one", "Person number two"): ("the first person", "the second person"),
    ("subject (1)", "subject (2)"): ("the first person", "the second person"),
    ("ACTOR_1", "ACTOR_2"): ("the first person", "the second person"),
    ("the other player 1", "the other player 2"): ("the first person", "the second person"),
    ("man A", "man B"): ("the first man", "the second man"),
    ("dancer two", "dancer one"): ("the second dancer", "the first dancer"),
    ("first", "second"): ("the first person", "the second person"),
    ("1st", "2nd"): ("the first person", "the second person"),
    ("A", "B"): ("the first person", "the second person"),
    ("#1", "#2"): ("the first person", "the second person"),
}
SENTENCES = [
    "{0} pushes {1}.",
    "{1} bows to {0} a 2nd time, and {0} waits a second.",
    "{0}'s hand touches {1}, who steps back.",
    "For the first time, {0} hugs {1}; then {1} leaves.",
    "{0} and {1} shake hands; at first, {1} waves.",
]


@pytest.mark.parametrize(("pair", "sentence"), product(NAMES, SENTENCES))
def test_every_name_is_exchanged_and_exchanging_twice_gives_the_sentence_back(pair, sentence):
    text, other = sentence.format(*pair), sentence.format(*reversed(pair))
    assert swap_caption(text) == other
    assert swap_caption(other) == text


@pytest.mark.parametrize(("pair", "sentence"), product(NAMES, SENTENCES))
def test_whoever_is_named_first_is_found_however_persons_are_named(pair, sentence):
    text = sentence.format(*pair)
    first = int(sentence.index("{1}") < sentence.index("{0}")) ^ int(pair[0] == "dancer two")
    assert (named_first(text), named_first(swap_caption(text))) == (first, 1 - first)


@pytest.mark.parametrize(("pair", "sentence"), product(NAMES, SENTENCES))
def test_encoders_read_the_persons_as_the_first_and_the_second(pair, sentence):
    read = sentence.format(*NAMES[pair])
    assert with_ordinals(sentence.format(*pair)) == read
    assert with_ordinals(read) == read
    assert with_ordinals(swap_caption(sentence.format(*pair))) == swap_caption(read)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Persons 1 and 2 bow.", "Persons 2 and 1 bow."),
        ("Dancers A & B, people one and two", "Dancers B & A, people two and one"),
        ("Person 1 or 2 waves.", "Person 2 or 1 waves."),
        ("person 1 and 2 others", "person 2 and 2 others"),
        ("The first and 2nd person bow.", "The second and 1st person bow."),
        ("person 2 steps back, person 1 steps forward", "person 1 steps back, person 2 steps forward"),
        ("The person 2 steps back, the person 1 waits.", "The person 1 steps back, the person 2 waits."),
        ("person a gives person b a hug", "person b gives person a a hug"),
        ("Person A gives the person a hug.", "Person B gives the person a hug."),
        ("At first person 1 waits.", "At first person 2 waits."),
        ("For the second time man A hugs man B.", "For the second time man B hugs man A."),
        ("She looks at first person, he at second one.", "She looks at second person, he at first one."),
        ("P1/P2", "P2/P1"),
        ("First, person 1 bows; second, person 2 waves.", "First, person 2 bows; second, person 1 waves."),
    ],
)
def test_names_among_words_that_look_like_names(text, other):
    assert swap_caption(text) == other
    assert swap_caption(other) == text


@pytest.mark.parametrize(
    "text",
    [
        "For the 1st time they bow, then a 2nd time; step 2, round #2, phase 1.",
        "Two people bow: a hug, a second, a 2nd hug.",
        "One gives the other person a hug, one gives the person one push.",
        "GIVES THE PERSON A HUG",
        "He pushes the person 2 steps back, the man two times, the woman 2 m.",
        "the first and second time, the 1st 2 rounds, the 2nd step",
        "First they bow, then for a second they wait.",
        "First comes a hug.",
        "At first they wait, and a second later both bow.",
        "One bows first and the other second.",
        "A man bows. A woman B-boxes. They push people 2 by 2.",
        "P12, MP1, P3, person 21, person 1st",
    ],
)
def test_words_that_count_or_order_something_else_stay(text):
    assert swap_caption(text) == text
    assert with_ordinals(text) == text
    assert named_first(text) is None


def test_exchanging_twice_gives_any_words_back():
    words = sorted({word for pair in NAMES for name in pair for word in (name, *name.split())})
    words += ["persons", "one", "two", "1", "2", "and", "or", "steps", "times", "pushes", "at", "in", ",", ".", "'s"]
    random = Random(0)
    for _ in range(5000):
        text = " ".join(random.choices(words, k=random.randint(2, 9)))
        other = swap_caption(text)
        assert swap_caption(other) == text
        assert (named_first(text) is None) == (other == text)


def test_captions_of_duet_are_read_as_they_are_written():
    words = {"other_hand": "left", "direction": "clockwise"}
    for templates in TEMPLATES.values():
        for template in templates:
            for actor in (0, 1):
                sentence = fill(template, actor, "right", words)
                assert with_ordinals(sentence) == sentence
