"""Captions as words with their kinds, and as numbers of a vocabulary: what T2M's evaluator reads.

A caption's words stand in one line, as HumanML3D and Inter-X write them: ``a/DET man/NOUN walk/VERB forward/ADV``, each
before its part of speech. The evaluator tells 15 kinds of words apart: nine parts of speech, five groups of words that
say much about motion, whatever their part of speech, and the rest.

Legend: B captions, K places of a caption's words, N letters of a vocabulary.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

SOS, EOS, UNKNOWN = "sos", "eos", "unk"
"""The words before and after a caption, and what stands for a word that is not in the vocabulary."""

OTHER = "OTHER"
KINDS = (
    *("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV"),
    *("Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP"),
    OTHER,
)
"""The kinds in the order of T2M's weights."""

_GROUPS = {
    "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up down straight curve",
    "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
    "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
    "Act_VIP": "walk run swing pick bring kick put squat throw hop dance jump turn stumble stop sit lift lower raise "
    "wash stand kneel stroll rub bend balance flap jog shuffle lean rotate spin spread climb",
    "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily sadly",
}
# Function words, of which there are few: enough for captions whose data set has no parts of speech.
_FUNCTION_WORDS = {
    "DET": "a an the this that these those each every both some any no another all",
    "ADP": "at in on of to from with by for into onto over under above below behind before after between around across "
    "through towards toward against along near off out past without upon beside while as",
    "NUM": "one two three four five six seven eight nine ten",
    "AUX": "is are was were be been being has have had do does did can could will would may might must shall should",
    "PRON": "he she it they him her them his hers its their theirs himself herself itself themselves someone something "
    "who which what other others",
}


def _kind_by_word(groups: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({word: kind for kind, words in groups.items() for word in words.split()})


_GROUP_OF, _PART_OF_SPEECH = _kind_by_word(_GROUPS), _kind_by_word(_FUNCTION_WORDS)
_KIND_NUMBERS = MappingProxyType({kind: number for number, kind in enumerate(KINDS)})
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_POSSESSIVE = re.compile(r"['\u2019]s$")


def tagged_words(text: str) -> str:
    """The words of a text before their parts of speech, for a caption whose data set gives none.

    Only function words are told apart; all others are of the kind OTHER, unless the vocabulary knows better.

    Example:
        >>> tagged_words("The first person's left arm is raised.")
        'the/DET first/OTHER person/OTHER left/OTHER arm/OTHER is/AUX raised/OTHER'
    """
    words = (_POSSESSIVE.sub("", word) for word in _WORD.findall(text.lower()))
    return " ".join(f"{word}/{_PART_OF_SPEECH.get(word, OTHER)}" for word in words)


@dataclass(frozen=True)
class Words:
    """Captions as numbers.

    Attributes:
        word_BK: int64, the number of each word in a vocabulary.
        kind_BK: int64, its kind, a place in ``KINDS``.
        length_B: int64, how many words count, those before and after the caption included.
    """

    word_BK: Tensor
    kind_BK: Tensor
    length_B: Tensor

    def to(self, device: str | torch.device) -> "Words":
        """The same on a device."""
        return Words(self.word_BK.to(device), self.kind_BK.to(device), self.length_B.to(device))


@dataclass(frozen=True)
class Vocabulary:
    """The words that an evaluator knows, by their numbers.

    Attributes:
        words: each once; UNKNOWN is one of them, and none holds a line break.

    Example:
        >>> vocabulary = Vocabulary.of(["a/DET man/NOUN walk/VERB"])
        >>> vocabulary.words
        ('sos', 'eos', 'unk', 'a', 'man', 'walk')
        >>> found = vocabulary.read(["a/DET dog/NOUN walk/VERB"], most=4)
        >>> found.word_BK.tolist(), found.length_B.tolist()
        ([[0, 3, 2, 5, 1, 2]], [5])
        >>> [KINDS[kind] for kind in found.kind_BK[0]]
        ['OTHER', 'DET', 'OTHER', 'Act_VIP', 'OTHER', 'OTHER']
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if UNKNOWN not in self.words or len(set(self.words)) < len(self.words) or any("\n" in w for w in self.words):
            raise ValueError(f"the words of a vocabulary: each once and on one line, {UNKNOWN!r} among them")

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Vocabulary":
        """The vocabulary of all words of captions, each caption a line of words before their parts of speech."""
        found = {token.rpartition("/")[0] for caption in captions for token in caption.split()}
        return cls((SOS, EOS, UNKNOWN, *sorted(found - {"", SOS, EOS, UNKNOWN})))

    @classmethod
    def from_letters(cls, letters_N: Tensor) -> "Vocabulary":
        """The vocabulary that ``letters`` wrote down; ``ValueError`` where it is none."""
        return cls(tuple(bytes(letters_N.to(torch.uint8).tolist()).decode().split("\n")))

    def letters(self) -> Tensor:
        """The words in UTF-8, a line each: uint8 [N], which a checkpoint holds beside the weights."""
        return torch.frombuffer(bytearray("\n".join(self.words).encode()), dtype=torch.uint8)

    def read(self, captions: Sequence[str], most: int) -> Words:
        """Captions as numbers, each between SOS and EOS.

        A word that is not known counts as UNKNOWN, of the kind OTHER. A known word of one of the five groups is of that
        kind, any other of its part of speech.

        Args:
            captions: lines of words before their parts of speech.
            most: words of a caption that are read, from its first on.
        """
        word_BK = torch.full((len(captions), most + 2), self._numbers[UNKNOWN])
        kind_BK = torch.full_like(word_BK, _KIND_NUMBERS[OTHER])
        lengths = []
        for row, caption in enumerate(captions):
            tokens = [f"{SOS}/{OTHER}", *caption.split()[:most], f"{EOS}/{OTHER}"]
            numbers = [self._word_and_kind(token) for token in tokens]
            word_BK[row, : len(tokens)], kind_BK[row, : len(tokens)] = torch.tensor(numbers).T
            lengths.append(len(tokens))
        return Words(word_BK, kind_BK, torch.tensor(lengths, dtype=torch.int64))

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def _word_and_kind(self, token: str) -> tuple[int, int]:
        word, _, part_of_speech = token.rpartition("/")
        if word not in self._numbers:
            return self._numbers[UNKNOWN], _KIND_NUMBERS[OTHER]
        kind = _GROUP_OF.get(word, part_of_speech)
        return self._numbers[word], _KIND_NUMBERS.get(kind, _KIND_NUMBERS[OTHER])
