import pytest

from intermoe.datasets.duet.captions import TEMPLATES, fill
from intermoe.text.captions import named_first, swap_caption


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("The first person bows.", "The second person bows."),
        ("The Second man, then the FIRST one", "The First man, then the SECOND one"),
        ("The first pushes the second.", "The second pushes the first."),
        ("hits the second, who falls onto the first", "hits the first, who falls onto the second"),
        ("an angry first person", "an angry second person"),
        ("takes the second person's hand", "takes the first person's hand"),
        ("the first of the two leads", "the second of the two leads"),
        ("person 1 and person 2, Person two, person A", "person 2 and person 1, Person one, person B"),
        ("person1 hugs person2", "person2 hugs person1"),
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
