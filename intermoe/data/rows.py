"""Rows of a data set folder: recordings, with or without their motion, and captions.

Legend: T frames, P = 2 persons, J joints, R = J - 1, K text tokens, W text width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intermoe.data.draws import Draw


@dataclass(frozen=True)
class SplitIndex:
    """Ids and lengths of the recordings of a split, in the order of its rows."""

    ids: NDArray[np.str_]
    frames: NDArray[np.int32]


@dataclass(frozen=True)
class RecordingHeader:
    """All that a row says of a recording but its motion.

    Attributes:
        id: of the recording.
        captions: rows of its captions.
        mirrored: rows of their mirrored forms, in the same order.
        swapped: rows of their forms with the persons in each other's place.
        swapped_mirrored: rows of the forms that are both.
        label: what the data set knows of the roles.
    """

    id: str
    captions: tuple[int, ...]
    mirrored: tuple[int, ...]
    swapped: tuple[int, ...]
    swapped_mirrored: tuple[int, ...]
    label: dict[str, str | int]

    def caption(self, drawn: Draw) -> int:
        """The number of a sample's caption: one of the recording's, swapped and mirrored as its motion is."""
        if drawn.swap:
            form = self.swapped_mirrored if drawn.mirror else self.swapped
        else:
            form = self.mirrored if drawn.mirror else self.captions
        return form[int(drawn.caption * len(form))]

    def exchanged(self, caption: int) -> int:
        """The row of the form of one of its captions that has the persons in each other's place."""
        pairs = ((self.captions, self.swapped), (self.mirrored, self.swapped_mirrored))
        for form, other in (*pairs, *((swapped, plain) for plain, swapped in pairs)):
            if caption in form:
                return other[form.index(caption)]
        raise ValueError(f"caption {caption} is none of recording {self.id}")


@dataclass(frozen=True)
class MotionRow(RecordingHeader):
    """One recording: its header and its motion in metres and local 6D rotations, read-only.

    Attributes:
        position_TPJ3: float32 [T, 2, J, 3].
        rotation_TPR6: float32 [T, 2, J - 1, 6].
    """

    position_TPJ3: NDArray[np.float32]
    rotation_TPR6: NDArray[np.float32]


@dataclass(frozen=True)
class CaptionRow:
    """One text with the states of its tokens, float32 [K, W], read-only, and the place of the token that ends it."""

    text: str
    state_KW: NDArray[np.float32]
    eot: int
