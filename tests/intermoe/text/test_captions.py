from itertools import product

import pytest

from intermoe.datasets.duet.captions import TEMPLATES, fill
from intermoe.text.captions import named_first, swap_caption, with_ordinals

# The two names of the persons, in every form.
NAMES = [
    ("the first person", "the second person"),
    ("the 1st person", "the 2nd person"),
    ("the 1st", "the 2nd"),
    ("P1", "P2"),
    ("person 1", "person 2"),
    ("Individual 1", "Individual 2"),
    ("Character A", "Character B"),
    ("person a", "person b"),
    ("Person #1", "Person #2"),
    ("person no. 1", "person no. 2"),
    ("person number one", "person number two"),
    ("Person (1)", "Person (2)"),
    ("dancer one", "dancer two"),
    ("the man A", "the man B"),
    ("actor_1", "actor_2"),
    ("First", "Second"),
    ("#1", "#2"),
    ("A", "B"),
]
SENTENCES = [
    "{} pushes {}.",
    "{} bows to {} and waits a second.",
    "{}'s hand touches {}, who falls for the second time.",
    "{} walks back while {} comes forward 2 times.",
    "{} and {} shake hands.",
    "At the first step, {} turns, then {} kicks {}.",
]


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("The first person bows.", "The second person bows."),
        ("The Second man, then the FIRST one", "The First man, then the SECOND one"),
        ("The first pushes the second.", "The second pushes the first."),
        ("Person A pushes B and A waves.", "Person B pushes A and B waves."),
        ("A and B hug; A then waves to B.", "B and A hug; B then waves to A."),
        ("The 1st hugs 2nd.", "The 2nd hugs 1st."),
        ("Person 1 hugs 2 and takes 2 steps.", "Person 2 hugs 1 and takes 2 steps."),
        ("Person #1 hugs #2.", "Person #2 hugs #1."),
        ("Person 1&2 hug, P1&2 too.", "Person 2&1 hug, P2&1 too."),
        ("The first person comes first, with B.", "The second person comes first, with B."),
        ("hits the second, who falls onto the first", "hits the first, who falls onto the second"),
        ("an angry first person", "an angry second person"),
        ("takes the second person's hand", "takes the first person's hand"),
        ("the first of the two leads", "the second of the two leads"),
        ("person 1 and person 2, Person two, person A", "person 2 and person 1, Person one, person B"),
        ("person1 hugs person2", "person2 hugs person1"),
        ("The first and second person bow", "The second and first person bow"),
        ("person 2 steps back, person 1 steps forward", "person 1 steps back, person 2 steps forward"),
        ("persons 1 and 2, person A and B", "persons 2 and 1, person B and A"),
        ("person 1 and 2 others", "person 2 and 2 others"),
        ("THE 1ST MAN HUGS THE 2ND", "THE 2ND MAN HUGS THE 1ST"),
    ],
)
def test_persons_in_captions(text, swapped):
    assert swap_caption(text) == swapped


@pytest.mark.parametrize(
    "text",
    [
        "One bows and the other bows back.",
        "At first they wait for a second; the second time they hug.",
        "the first step, a first-person view, first people to come, person 12, a person A-frame",
        "in the first round the seconds pass",
        "a 2nd time, the 1st time, step 2, round #2, the first and second time",
        "pushes the person 2 steps back, hits the man two times, is a person 2 meters away",
        "gives the person a hug",
        "GIVES THE PERSON A HUG",
        "First they bow, then for a second they wait.",
        "One bows first and the other second.",
        "A man walks from A to the door.",
    ],
)
def test_words_that_name_nobody_stay(text):
    assert swap_caption(text) == text


def test_every_sentence_of_duet_names_the_other_person_and_comes_back():
    words = {"other_hand": "left", "direction": "clockwise"}
    for templates in TEMPLATES.values():
        for template in templates:
            sentence, other = (fill(template, actor, "right", words) for actor in (0, 1))
            assert swap_caption(sentence) == other
            assert swap_caption(other) == sentence


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("The first person pushes the second.", 0),
        ("The second person is pushed by the first.", 1),
        ("An angry second man shoves the first man.", 1),
        ("person 2 and person 1 bow", 1),
        ("Two people bow; at first they wait for a second.", None),
    ],
)
def test_who_is_named_first(text, first):
    assert named_first(text) == first
    if first is not None:
        assert named_first(swap_caption(text)) == 1 - first


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_form_of_name_is_exchanged_found_and_comes_back(names, sentence):
    for one, other in product(names, names):
        if one == other:
            continue
        text, exchanged = sentence.format(one, other, one), sentence.format(other, one, other)
        assert swap_caption(text) == exchanged
        assert swap_caption(exchanged) == text
        assert named_first(text) == names.index(one)


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_every_form_of_name_can_be_said_in_ordinals(names):
    said = [with_ordinals("{} pushes {}.".format(*pair)) for pair in (names, names[::-1])]
    for sentence, ordinals in zip(said, ("first second", "second first"), strict=True):
        one, other = ordinals.split()
        # A noun that says more than "person" is kept.
        kept = {"the 1st": "", "the man A": " man", "dancer one": " dancer"}
        nouns = kept.get(names[0], " person")
        assert sentence.lower() == f"the {one}{nouns} pushes the {other}{nouns}."


def test_ordinals_stay_as_they_are_said():
    words = {"other_hand": "left", "direction": "clockwise"}
    for template in (template for templates in TEMPLATES.values() for template in templates):
        sentence = fill(template, 1, "right", words)
        assert with_ordinals(sentence) == sentence
