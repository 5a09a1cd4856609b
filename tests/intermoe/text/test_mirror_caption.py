import pytest

from intermoe.text.captions import mirror_caption


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Raises the left hand.", "Raises the right hand."),
        ("from left to right", "from right to left"),
        ("LEFT, Right", "RIGHT, Left"),
        ("a left-handed punch", "a right-handed punch"),
        ("a Left-Handed lefthander", "a Right-Handed righthander"),
        ("steps leftward, then rightwards", "steps rightward, then leftwards"),
        ("the leftmost one throws lefts and rights", "the rightmost one throws rights and lefts"),
        ("left_hand (right), left's", "right_hand (left), right's"),
        ("stands upright, bright and cleft", "stands upright, bright and cleft"),
        ("one is left of the other", "one is right of the other"),
        ("each has left hand up", "each has right hand up"),
        ("on the left the man waves", "on the right the man waves"),
        ("steps left the way one turns right away from him", "steps right the way one turns left away from him"),
        ("one moves left and the other right.", "one moves right and the other left."),
        ("He sits. Right behind him", "He sits. Left behind him"),
    ],
)
def test_sides_in_captions(text, mirrored):
    assert mirror_caption(text) == mirrored
    assert mirror_caption(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "He left the room.",
        "the first person left the second, who left her standing",
        "has left the ring and is left behind",
        "they are right next to each other",
        "is right in front of the other and all right",
        "bends the arm at right angles, a right-angled bend",
    ],
)
def test_words_that_say_no_side_stay(text):
    assert mirror_caption(text) == text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("turns clockwise", "turns counterclockwise"),
        ("Clockwise. CLOCKWISE", "Counterclockwise. COUNTERCLOCKWISE"),
        ("turns counterclockwise, then clockwise", "turns clockwise, then counterclockwise"),
        ("Counter-clockwise, counter clockwise", "Clockwise, clockwise"),
        ("anticlockwise and Anti-Clockwise", "clockwise and Clockwise"),
        ("ANTI-CLOCKWISE from the left", "CLOCKWISE from the right"),
    ],
)
def test_sense_of_rotation_in_captions(text, mirrored):
    assert mirror_caption(text) == mirrored
    assert mirror_caption(mirror_caption(mirrored)) == mirrored
