"""Legend: B captions, K places of words, N letters."""

import pytest
import torch

from intermoe.text.words import KINDS, Vocabulary, tagged_words

CAPTION = "a/DET man/NOUN walk/VERB slowly/ADV to/ADP the/DET chair/NOUN twice/ADV"


def kinds(vocabulary: Vocabulary, caption: str) -> list[str]:
    words = vocabulary.read([caption], most=20)
    return [KINDS[kind] for kind in words.kind_BK[0, 1 : int(words.length_B) - 1]]


def test_the_kinds_are_those_of_the_published_weights_in_their_order():
    assert (
        *("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV"),
        *("Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP", "OTHER"),
    ) == KINDS


def test_a_caption_is_numbers_between_its_start_and_its_end():
    vocabulary = Vocabulary.of([CAPTION, "man/NOUN eos/OTHER"])
    assert vocabulary.words == ("sos", "eos", "unk", "a", "chair", "man", "slowly", "the", "to", "twice", "walk")
    words = vocabulary.read([CAPTION, "man/NOUN"], most=8)
    assert words.word_BK.tolist() == [[0, 3, 5, 10, 6, 8, 7, 4, 9, 1], [0, 5, 1, 2, 2, 2, 2, 2, 2, 2]]
    assert words.length_B.tolist() == [10, 3]
    assert words.word_BK.dtype == words.kind_BK.dtype == words.length_B.dtype == torch.int64


def test_words_of_a_group_are_of_its_kind_whatever_their_part_of_speech():
    vocabulary = Vocabulary.of([CAPTION, "left/ADJ leg/NOUN hop/NOUN run/VERB"])
    assert kinds(vocabulary, CAPTION) == ["DET", "NOUN", "Act_VIP", "Desc_VIP", "ADP", "DET", "Obj_VIP", "ADV"]
    assert kinds(vocabulary, "left/ADJ leg/NOUN hop/NOUN") == ["Loc_VIP", "Body_VIP", "Act_VIP"]
    # A part of speech that is none of the nine is another one.
    assert kinds(vocabulary, "man/PROPN the/X") == ["OTHER", "OTHER"]


@pytest.mark.parametrize("token", ["dog/NOUN", "jump/VERB", "man", "/NOUN", "a/man/NOUN"])
def test_what_is_not_known_is_unknown_and_of_the_kind_other(token):
    vocabulary = Vocabulary.of([CAPTION])
    words = vocabulary.read([f"a/DET {token}"], most=5)
    assert words.word_BK[0, :4].tolist() == [0, 3, 2, 1]
    assert KINDS[words.kind_BK[0, 2]] == "OTHER"


def test_a_long_caption_is_cut_before_its_end():
    words = Vocabulary.of([CAPTION]).read([CAPTION], most=3)
    assert words.word_BK.tolist() == [[0, 3, 5, 10, 1]]
    assert words.length_B.tolist() == [5]


def test_a_vocabulary_comes_back_from_its_letters():
    vocabulary = Vocabulary.of([CAPTION, "naïve/ADJ bò/NOUN"])
    letters_N = vocabulary.letters()
    assert letters_N.dtype == torch.uint8
    assert Vocabulary.from_letters(letters_N) == vocabulary
    for letters in (b"a\nb", b"unk\nunk", b"\xff", b""):
        with pytest.raises(ValueError):
            Vocabulary.from_letters(torch.tensor(list(letters), dtype=torch.uint8))


def test_words_of_a_text_are_small_letters_with_the_parts_of_speech_of_function_words():
    text = "Two people's hands don't touch; he WALKS up/down, 3 times (slowly)."
    assert tagged_words(text) == (
        "two/NUM people/OTHER hands/OTHER don't/OTHER touch/OTHER he/PRON walks/OTHER up/OTHER down/OTHER times/OTHER "
        "slowly/OTHER"
    )
    assert tagged_words("… 12 !") == ""
    read = Vocabulary.of([tagged_words(text)]).read([tagged_words("up slowly he flies")], most=9)
    assert [KINDS[kind] for kind in read.kind_BK[0, 1:5]] == ["Loc_VIP", "Desc_VIP", "PRON", "OTHER"]
