"""Left and right exchanged: in a motion and in the sentence that describes it.

Legend: J joints, R = J - 1 joints with a local rotation; the leading dimensions are free (batch, frames, persons).
"""

import re

from torch import Tensor

from intermoe.skeletons import Skeleton

# The image of R in the mirror x -> -x is M R M with M = diag(-1, 1, 1): R01, R02, R10 and R20 change their sign.
# 6D holds R00, R01, R10, R11, R20, R21.
_SIXD_SIGNS = (1.0, -1.0, -1.0, 1.0, -1.0, 1.0)

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


def mirror_motion(position_J3: Tensor, rotation_R6: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """The motion as a mirror at the plane x = 0 shows it.

    Args:
        position_J3: joint positions [..., J, 3].
        rotation_R6: local rotations of joints 1..J-1 in 6D [..., J - 1, 6].
        skeleton: says which joint takes whose place.

    Returns:
        Positions and rotations of the same shapes.
    """
    order_J = list(skeleton.mirrored)
    order_R = [joint - 1 for joint in order_J[1:]]
    position_J3 = position_J3[..., order_J, :] * position_J3.new_tensor((-1.0, 1.0, 1.0))
    rotation_R6 = rotation_R6[..., order_R, :] * rotation_R6.new_tensor(_SIXD_SIGNS)
    return position_J3, rotation_R6


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
