"""The recordings that every reader yields, whatever the format.

Legend: T frames, P persons, J joints, R = J - 1 joints with a local rotation (all but the root), F features of a
person-frame.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.conventions import MIN_FRAMES, SPLITS
from intermoe.body.skeletons import Skeleton
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bodies import check_bodies, check_height

# Farther than this from the origin, a position is in another unit or an error: metres.
_FARTHEST = 100.0
# Two systems that record one person each start and stop by hand: up to this many seconds of one alone are cut off.
LONGEST_SURPLUS = 0.1
# File systems take names of up to 255 letters; pieces and suffixes are added.
_LONGEST_ID = 200
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Source:
    """One recording that a data set lists, not yet read: its id and its split ("train", "val", "test")."""

    id: str
    split: str


def sources_of(listed: Mapping[Any, Iterable[str]], on_disk: Iterable[str]) -> list[Source]:
    """The ids that lists hold, in their order, then those on the disk that no list holds.

    Ids that several splits hold, or none, get a ``split`` that is none of the three.

    Args:
        listed: the ids of each split; one that stands twice in a list is one recording all the same.
        on_disk: all ids.

    Example:
        >>> sources_of({"train": ["b", "b"], "val": [], "test": ["b"]}, {"a", "b"})
        [Source(id='b', split='train and test'), Source(id='a', split='')]
    """
    splits_of: dict[str, list[str]] = {}
    for split, names in listed.items():
        for name in dict.fromkeys(names):
            splits_of.setdefault(name, []).append(split)
    for name in sorted(set(on_disk) - splits_of.keys()):
        splits_of[name] = []
    return [Source(name, " and ".join(splits)) for name, splits in splits_of.items()]


@dataclass(frozen=True)
class Recording:
    """One motion of the persons of a skeleton: metres, y up, the skeleton's frames per second.

    Attributes:
        id: unique in its data set; letters, digits, dot, dash, underscore.
        split: "train", "val" or "test".
        position_TPJ3: float32 [T, P, J, 3], world positions in metres.
        rotation_TPR6: float32 [T, P, J - 1, 6], local rotations of joints 1..J-1 in 6D (see rotations.py).
        captions: at least one sentence.
        label: what the data set knows of the motion, such as ``{"kind": "push", "actor": 0}``; empty where nothing.
        notes: what was put right while reading, one sentence each.
        words: of each caption, its words with their parts of speech, "a/DET man/NOUN walk/VERB", or an empty text;
            empty where the data set has none.
        features_TPF: float32 [T, P, F], of a skeleton whose features are of the kind "heading" and no other: those of
            the data set, from which positions and rotations follow.
    """

    id: str
    split: str
    position_TPJ3: NDArray[np.float32]
    rotation_TPR6: NDArray[np.float32]
    captions: tuple[str, ...]
    label: dict[str, str | int]
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    features_TPF: NDArray[np.float32] | None = None

    def check(self, skeleton: Skeleton) -> "Recording":
        """This recording, or ``BadRecording`` where it breaks a promise of this class or shows no bodies.

        Features of the kind "heading" come from the processing of a data set on which others measure: of their motion
        only the size of the body is checked, since its floor and its heading are what the features are made of.
        """
        frames, num_persons = len(self.position_TPJ3), skeleton.num_persons
        check_id(self.id)
        if self.split not in SPLITS:
            raise BadRecording(f"split {self.split!r} is not one of {', '.join(SPLITS)}")
        for name, array, shape in (
            ("features", self.features_TPF, (frames, num_persons, skeleton.num_features)),
            ("positions", self.position_TPJ3, (frames, num_persons, skeleton.num_joints, 3)),
            ("rotations", self.rotation_TPR6, (frames, num_persons, skeleton.num_joints - 1, 6)),
        ):
            if (array is None) != (name == "features" and skeleton.features == "world"):
                raise BadRecording(f"{name} are {'missing' if array is None else 'not of this skeleton'}")
            if array is None:
                continue
            if array.shape != shape:
                raise BadRecording(f"{name} have the shape {array.shape} instead of {shape}")
            if not np.isfinite(array).all():
                bad = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise BadRecording(f"{name} hold a number that is not finite, first in frame {bad}")
        farthest = float(np.abs(self.position_TPJ3).max(initial=0))
        if farthest > _FARTHEST:
            raise BadRecording(f"a position {farthest:g} m from the origin; positions are metres, up to {_FARTHEST:g}")
        if frames < MIN_FRAMES:
            raise BadRecording(f"{frames} frames are fewer than {MIN_FRAMES}")
        if not self.captions or not all(caption.strip() for caption in self.captions):
            raise BadRecording("no caption")
        if self.words and len(self.words) != len(self.captions):
            raise BadRecording(f"words of {len(self.words)} captions instead of {len(self.captions)}")
        position_TPJ3, rotation_TPR6 = torch.from_numpy(self.position_TPJ3), torch.from_numpy(self.rotation_TPR6)
        if skeleton.features == "world":
            check_bodies(position_TPJ3, rotation_TPR6, skeleton, skeleton.fps)
        else:
            for person in range(num_persons):
                check_height(position_TPJ3[:, person], skeleton)
        return self


def common_length(persons: tuple[str, str], frames: tuple[int, int], fps: float) -> tuple[int, list[str]]:
    """How many frames two persons have in common, and a note where one has a few more.

    Args:
        persons: what to call them.
        frames: how many each has.
        fps: frames per second of both.

    Raises:
        BadRecording: one has more than ``LONGEST_SURPLUS`` seconds more.

    Example:
        >>> common_length(("a.bvh", "b.bvh"), (90, 88), fps=30)
        (88, ['a.bvh has 90 frames, b.bvh 88: the last 2 of a.bvh are left out'])
    """
    shorter, surplus = min(frames), abs(frames[0] - frames[1])
    if not surplus:
        return shorter, []
    difference = f"{persons[0]} has {frames[0]} frames, {persons[1]} {frames[1]}"
    if surplus > max(1, LONGEST_SURPLUS * fps):
        raise BadRecording(f"{difference}; a difference of up to {LONGEST_SURPLUS:g} s is cut off")
    longer = persons[0] if frames[0] > frames[1] else persons[1]
    return shorter, [f"{difference}: the last {surplus} of {longer} are left out"]


def check_id(id: str) -> None:
    """Raise ``BadRecording`` where the id could name a file outside its folder, or is too long for a file's name."""
    if len(id) > _LONGEST_ID:
        raise BadRecording(f"id {id[:40]!r}... has {len(id)} letters; up to {_LONGEST_ID} are allowed")
    if not _SAFE_ID.fullmatch(id):
        raise BadRecording(
            f"id {id!r} may hold only letters, digits, '.', '-' and '_', and begins with one of the first two"
        )


class Reader(Protocol):
    """A raw format: lists what a folder holds, and reads one recording at a time. Made from picklable values only.

    Attributes:
        skeleton: of the joints.
        names_persons: whether whom the captions call the first person is the first of the recording's two.
    """

    skeleton: Skeleton
    names_persons: bool

    def sources(self) -> list[Source]:
        """Everything the folder lists, in a fixed order; ``UserError`` where the folder or its index is missing."""
        ...

    def read(self, source: Source) -> list[Recording]:
        """The recordings of one source (more than one where a jump was cut out); ``BadRecording`` says why not."""
        ...
