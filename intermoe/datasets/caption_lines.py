"""Captions as HumanML3D and Inter-X keep them: ``caption#word/POS word/POS ...#from#to``, seconds, 0.0#0.0 for all."""

import math
from typing import NamedTuple

from intermoe.datasets.bad_recording import BadRecording

# An hour.
_LONGEST = 3600


class CaptionLine(NamedTuple):
    """A line.

    Attributes:
        caption: the sentence.
        words: its words with their parts of speech, "a/DET man/NOUN walk/VERB"; empty where the line has none.
        start, end: seconds between which it holds; both 0 if it holds for the whole recording.
    """

    caption: str
    words: str
    start: float
    end: float

    @property
    def is_whole(self) -> bool:
        """Whether the caption is of the whole recording."""
        return self.start == self.end == 0


def caption_line(line: str, where: str) -> CaptionLine:
    """The parts of a line.

    Args:
        line: not empty.
        where: the file and the number of the line, for messages.

    Raises:
        BadRecording: it has other parts, no caption, words without a part of speech, or no interval of time.

    Example:
        >>> caption_line("A man  walks.#a/DET man/NOUN walk/VERB#1.5#nan", "a.txt, line 1")
        CaptionLine(caption='A man walks.', words='a/DET man/NOUN walk/VERB', start=1.5, end=0.0)
    """
    parts = line.strip().rsplit("#", 3)
    if len(parts) != 4:
        raise BadRecording(f"{len(parts)} parts instead of caption#word/POS word/POS#from#to", where=where)
    caption, words = (" ".join(part.split()) for part in parts[:2])
    if not caption:
        raise BadRecording("an empty caption", where=where)
    for word in words.split():
        if not all(word.rpartition("/")):
            raise BadRecording(f"{word[:40]!r} instead of a word and its part of speech, word/POS", where=where)
    start, end = (_seconds(part, where) for part in parts[2:])
    return CaptionLine(caption, words, start, end)


def _seconds(text: str, where: str) -> float:
    """A time; what is not a number, as the data sets write it, is 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.inf
    if math.isnan(seconds):
        return 0.0
    if not 0 <= seconds <= _LONGEST:
        raise BadRecording(
            f"a caption from or to {text.strip()[:40]!r}; seconds up to {_LONGEST} are meant", where=where
        )
    return seconds
