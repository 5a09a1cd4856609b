"""From recordings to the batches that networks see: crop, swap, mirror, canonical frame, features, padding.

Legend: B batch, T frames, P persons, J joints, R = J - 1, F features of a person in a frame, K text tokens, W text
width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.features import mirror_motion, motion_features
from intermoe.body.skeletons import Skeleton
from intermoe.data.draws import Draw
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import DatasetFolder
from intermoe.text.encoders import TextStates

# Motions of one length whose features are made together: more of them leave the processor's cache, and then one motion
# takes twice as long; alone, it takes twice as long too.
_AT_ONCE = 4


@dataclass(frozen=True)
class Interactions:
    """A batch of motions; of the feature kind "world", all persons in the canonical frame.

    Attributes:
        features_BTPF: float32, not normalised, zero beyond the frames of a sample.
        frames_B: int64, valid frames of each sample.
    """

    features_BTPF: Tensor
    frames_B: Tensor


def interactions(
    motions: Sequence[RecordedMotion],
    draws: Sequence[Draw],
    skeleton: Skeleton,
    max_frames: int,
    *,
    multiple: int = 1,
) -> Interactions:
    """Crop, swap, mirror and bring into the canonical frame what the samples hold.

    Features of the kind "heading" are cropped alone: they say the same in every frame of reference, and a data set that
    has them holds mirrored recordings of its own.

    Args:
        motions: a sample each.
        draws: what each sample drew (see ``Draw.allowed``).
        skeleton: whose joints these are.
        max_frames: recordings longer than this are cropped; the features have one frame less than the crop (299 of
            300, as velocities need the next frame).
        multiple: what the number of frames that the features are padded to is a multiple of.

    Returns:
        Features padded to the longest sample.
    """
    crops = [crop_bounds(motion.frames, max_frames, drawn) for motion, drawn in zip(motions, draws, strict=True)]
    frames_B = torch.tensor([end - start - 1 for start, end in crops])
    longest = int(frames_B.max())
    shape = len(crops), longest + -longest % multiple, skeleton.num_persons, skeleton.num_features
    if skeleton.features == "heading":
        features_BTPF = torch.zeros(shape)
        for row, (motion, (start, end)) in enumerate(zip(motions, crops, strict=True)):
            features_BTPF[row, : end - start - 1] = torch.tensor(motion.features_TPF[start : end - 1])
        return Interactions(features_BTPF, frames_B)
    features_BTPF = torch.empty(shape)
    alike: dict[tuple[int, bool], list[int]] = {}
    for row, ((start, end), drawn) in enumerate(zip(crops, draws, strict=True)):
        alike.setdefault((end - start, drawn.mirror), []).append(row)
    for (length, mirror), rows in alike.items():
        for first in range(0, len(rows), _AT_ONCE):
            group = rows[first : first + _AT_ONCE]
            position_BTPJ3, rotation_BTPR6 = (
                torch.from_numpy(
                    np.stack([_cropped(getattr(motions[row], name), crops[row], draws[row]) for row in group])
                )
                for name in ("position_TPJ3", "rotation_TPR6")
            )
            if mirror:
                position_BTPJ3, rotation_BTPR6 = mirror_motion(position_BTPJ3, rotation_BTPR6, skeleton)
            group_BTPF, _ = motion_features(position_BTPJ3, rotation_BTPR6, None, skeleton)
            for row, features_TPF in zip(group, group_BTPF, strict=True):
                features_BTPF[row, : length - 1] = features_TPF
                features_BTPF[row, length - 1 :] = 0.0
    return Interactions(features_BTPF, frames_B)


def _cropped(motion_TP: NDArray[np.float32], crop: tuple[int, int], drawn: Draw) -> NDArray[np.float32]:
    """A view of the crop of a motion [T, P, ...], with the persons in each other's place if that was drawn."""
    return motion_TP[slice(*crop), :: -1 if drawn.swap else 1]


def crop_bounds(frames: int, max_frames: int, drawn: Draw) -> tuple[int, int]:
    """First frame and end of the crop that a recording of so many frames is given."""
    room = max(0, frames - max_frames)
    start = int(drawn.crop * (room + 1))
    return start, start + min(frames, max_frames)


@dataclass(frozen=True)
class Window:
    """A stretch of one person in one recording: what the VAE trains on."""

    row: int
    person: int
    start: int


def windows(frames: Sequence[int], max_frames: int, window: int, stride: int, num_persons: int = 2) -> list[Window]:
    """All windows of all recordings, each person alone.

    Args:
        frames: frames of each recording.
        max_frames: longer recordings are cropped to this first; a window lies in the crop.
        window: frames of features of a window.
        stride: frames between the starts of two windows.
        num_persons: of a recording.

    Example:
        >>> len(windows([85, 20], max_frames=300, window=64, stride=10))
        8
    """
    found = []
    for row, total in enumerate(frames):
        features = min(total, max_frames) - 1
        starts = range(0, max(1, features - window + 1), stride) if features >= MIN_FRAMES - 1 else range(0)
        found += [Window(row, person, start) for start in starts for person in range(num_persons)]
    return found


def cut_windows(batch: Interactions, chosen: Sequence[Window], window: int) -> tuple[Tensor, Tensor]:
    """The windows [B, window, F] of a batch, zero beyond its frames, and their valid frames [B]."""
    features_BTPF = torch.nn.functional.pad(batch.features_BTPF, (0, 0, 0, 0, 0, window))
    cut = [features_BTPF[row, w.start : w.start + window, w.person] for row, w in enumerate(chosen)]
    starts_B = torch.tensor([w.start for w in chosen])
    return torch.stack(cut), (batch.frames_B - starts_B).clamp(0, window)


def stored_states(folder: DatasetFolder, captions: Sequence[int]) -> TextStates:
    """The frozen encoder's token states of captions, given by their rows, as the data set holds them."""
    rows = [folder.caption(caption) for caption in captions]
    states_BKW, mask_BK = pad_text([row.state_KW for row in rows], folder.card.max_tokens)
    return TextStates(states_BKW, mask_BK, torch.tensor([row.eot for row in rows]))


def pad_text(states: Sequence[NDArray[np.float32]], tokens: int) -> tuple[Tensor, Tensor]:
    """Token states [B, K, W], zero beyond each text, and the mask [B, K] of what is text; K is ``tokens``."""
    states_BKW = np.empty((len(states), tokens, states[0].shape[1]), np.float32)
    for row, state in enumerate(states):
        states_BKW[row, : len(state)] = state
        states_BKW[row, len(state) :] = 0.0
    lengths_B = torch.tensor([len(state) for state in states])
    return torch.from_numpy(states_BKW), torch.arange(tokens) < lengths_B[:, None]
