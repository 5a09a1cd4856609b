"""Rows of a data set folder: recordings, with or without their motion, and captions.

Legend: T frames, P persons, J joints, R = J - 1, F features of a person-frame, K text tokens, W text width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton
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


def _none() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True)
class RecordedMotion:
    """The motion of a recording, read-only: its features, or what they are made of; the other arrays are empty.

    Attributes:
        position_TPJ3: float32 [T, P, J, 3], metres.
        rotation_TPR6: float32 [T, P, J - 1, 6], local rotations in 6D.
        features_TPF: float32 [T - 1, P, F], of the kind "heading" alone.
    """

    position_TPJ3: NDArray[np.float32] = field(default_factory=_none)
    rotation_TPR6: NDArray[np.float32] = field(default_factory=_none)
    features_TPF: NDArray[np.float32] = field(default_factory=_none)

    @classmethod
    def of_parts(cls, parts: Mapping[str, NDArray[np.float32]], frames: int, skeleton: Skeleton) -> Self:
        """The motion that flat columns of a shard hold.

        Args:
            parts: "position", "rotation" and "features".
            frames: T.
            skeleton: whose joints these are.
        """
        num_persons, num_joints = skeleton.num_persons, skeleton.num_joints
        if skeleton.features == "heading":
            return cls(features_TPF=parts["features"].reshape(frames - 1, num_persons, skeleton.num_features))
        return cls(
            position_TPJ3=parts["position"].reshape(frames, num_persons, num_joints, 3),
            rotation_TPR6=parts["rotation"].reshape(frames, num_persons, num_joints - 1, 6),
        )

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return len(self.features_TPF) + 1 if len(self.features_TPF) else len(self.position_TPJ3)


@dataclass(frozen=True)
class MotionRow(RecordingHeader, RecordedMotion):
    """One recording: its header and its motion."""


@dataclass(frozen=True)
class CaptionRow:
    """One text with the states of its tokens.

    Attributes:
        text: the sentence.
        state_KW: float32 [K, W], read-only.
        eot: place of the token that ends it.
        words: its words with their parts of speech, where they are known.
    """

    text: str
    state_KW: NDArray[np.float32]
    eot: int
    words: str = ""
