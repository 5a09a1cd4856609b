"""The reader of HumanML3D's layout, which the embedded data set Solo is written in too.

    new_joint_vecs/<id>.npy         float [T, 263] at 20 fps: the features (see intermoe/body/heading_features.py)
    texts/<id>.txt                  a line per caption: caption#word/POS word/POS ...#from#to
    train.txt, val.txt, test.txt    one id per line; mirrored recordings have ids of their own, which begin with M
    labels.jsonl (optional)         {"id": ..., "kind": ...} per line

A caption from 0.0 to 0.0 is of the whole recording. Any other holds between two times, in seconds: what is between them
is a recording of its own, as in the benchmark.

Legend: T frames, P = 1 person, J = 22 joints, R = J - 1 joints with a local rotation, F features of a person-frame.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.conventions import SPLITS
from intermoe.body.heading_features import heading_joints, heading_rotations
from intermoe.body.skeletons import HUMANML22, Skeleton
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bodies import check_jumps
from intermoe.datasets.caption_lines import CaptionLine, caption_line
from intermoe.datasets.labels import LABELS, read_labels
from intermoe.datasets.links import check_file_inside, check_list_inside
from intermoe.datasets.npy_file import read_rows
from intermoe.datasets.recordings import Recording, Source, check_id, sources_of
from intermoe.datasets.text_files import captions_text, listed_lines
from intermoe.errors import UserError
from intermoe.places import Place, as_place, exists, is_folder, storage_errors

FEWEST_FRAMES, MOST_FRAMES = 40, 199
"""What the benchmark reads: 2 seconds to 10."""
_FOLDERS = {"new_joint_vecs": "npy", "texts": "txt"}
# An hour at 20 frames per second: longer files than these are not even loaded.
_MOST_LOADED = 3600 * HUMANML22.fps
_MOST_LINES = 100
# Far from what a body reaches or a step is.
_LARGEST = 100.0
# What parts of a recording are called; no recording may be.
_PART = re.compile(r"-part\d+$")


class HumanML3DReader:
    """Reads recordings in HumanML3D's layout (see ``Reader`` in recordings.py).

    Args:
        root: the folder.
        follow_links: whether links in it may lead out of it.
    """

    skeleton: Skeleton = HUMANML22
    names_persons = False

    def __init__(self, root: Place, *, follow_links: bool = False) -> None:
        self.root = as_place(root)
        self.follow_links = follow_links

    def sources(self) -> list[Source]:
        """The recordings that the three lists hold, in their order, then those in the folders but in no list.

        The latter, and ids that several lists hold, come with a ``split`` that is none of the three; ``read`` says so.

        Raises:
            UserError: the root, a folder, or a list is missing or leads out of the root, or a list cannot be read.
        """
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            if not is_folder(folder):
                raise UserError(
                    "there is no such folder",
                    where=folder,
                    allowed=f"a data set in HumanML3D's layout: {', '.join(_FOLDERS)}, train.txt, val.txt, test.txt",
                )
            self._check_list(folder)
        lists = {split: self.root / f"{split}.txt" for split in SPLITS}
        for place in lists.values():
            self._check_list(place)
        sources = sources_of({split: listed_lines(place) for split, place in lists.items()}, self._ids_on_disk())
        self._labels  # noqa: B018  a broken file of labels ends the run before it begins
        return sources

    def read(self, source: Source) -> list[Recording]:
        """The recording of that source, and one of each caption that is of a part of it.

        Parts that are too short to be one are noted, or set aside where there is nothing else. ``BadRecording`` says
        what is wrong.
        """
        check_id(source.id)
        if not source.split:
            raise BadRecording("listed in no split")
        if source.split not in SPLITS:
            raise BadRecording(f"listed in {source.split}; one recording in two splits would leak between them")
        if _PART.search(source.id):
            raise BadRecording("its id ends as those of parts of recordings do: '-part' and a number")
        rows_TF, lines = self._rows(source.id), self._caption_lines(source.id)
        whole = [line for line in lines if line.is_whole]
        recordings = [self._recording(source, source.id, rows_TF, whole)] if whole else []
        left_out = []
        for number, line in enumerate((line for line in lines if not line.is_whole), start=1):
            start, end = (int(seconds * self.skeleton.fps) for seconds in (line.start, line.end))
            part_TF, told = rows_TF[start:end], f"a caption is from {line.start:g} to {line.end:g} s"
            if FEWEST_FRAMES <= len(part_TF) <= MOST_FRAMES:
                part = self._recording(source, f"{source.id}-part{number}", part_TF, [line])
                if end > len(rows_TF) + 1:  # one frame less than was filmed has features
                    part = _noted(part, [f"{told}, and the recording ends at {len(rows_TF) / self.skeleton.fps:g} s"])
                recordings.append(part)
            else:
                frames = f"{FEWEST_FRAMES} to {MOST_FRAMES} are read"
                left_out.append(f"{told}, where the recording has {len(part_TF)} frames; {frames}")
        if not recordings:
            raise BadRecording("; ".join(left_out))
        return [_noted(recordings[0], [f"left out: {reason}" for reason in left_out]), *recordings[1:]]

    def _recording(
        self, source: Source, id: str, rows_TF: NDArray[np.float32], lines: Sequence[CaptionLine]
    ) -> Recording:
        features_TF = torch.from_numpy(rows_TF)
        position_TPJ3 = heading_joints(features_TF, self.skeleton)[:, None]
        notes = []
        try:
            check_jumps(position_TPJ3, self.skeleton.fps)
        except BadRecording as error:
            # No reason to measure on other recordings than everybody does.
            notes.append(str(error))
        words = tuple(line.words for line in lines)
        return Recording(
            id=id,
            split=source.split,
            position_TPJ3=position_TPJ3.numpy(),
            rotation_TPR6=heading_rotations(features_TF, self.skeleton)[:, None].numpy(),
            captions=tuple(line.caption for line in lines),
            label=dict(self._labels.get(source.id, {})),
            notes=tuple(notes),
            words=words if any(words) else (),
            features_TPF=rows_TF[:, None],
        ).check(self.skeleton)

    def _rows(self, id: str) -> NDArray[np.float32]:
        """The features [T, F] of a file."""
        name = f"new_joint_vecs/{id}.npy"
        self._check_file(name)
        if not exists(self.root / name):
            raise BadRecording(f"no motion: {name} is missing")
        rows_TF = read_rows(self.root / name, name, width=self.skeleton.num_features, most_frames=_MOST_LOADED)
        if not FEWEST_FRAMES <= len(rows_TF) <= MOST_FRAMES:
            raise BadRecording(f"{name} has {len(rows_TF)} frames; {FEWEST_FRAMES} to {MOST_FRAMES} are read")
        if not (finite_T := np.isfinite(rows_TF).all(axis=1)).all():
            raise BadRecording(f"{name} holds a number that is not finite, first in frame {int(finite_T.argmin())}")
        if (most := float(np.abs(rows_TF).max())) > _LARGEST:
            raise BadRecording(f"{name} holds {most:g}; radians and metres up to {_LARGEST:g} are read")
        return np.array(rows_TF)  # which torch may write to, unlike a file

    def _caption_lines(self, id: str) -> list[CaptionLine]:
        name = f"texts/{id}.txt"
        self._check_file(name)
        lines = captions_text(self.root / name, name).split("\n")
        numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if not numbered:
            raise BadRecording(f"no captions: {name} is empty")
        if len(numbered) > _MOST_LINES:
            # Each line of a part becomes a recording: a few kilobytes of text would take hours.
            raise BadRecording(f"{name} has {len(numbered)} captions; up to {_MOST_LINES} are read")
        return [caption_line(line, f"{name}, line {number}") for number, line in numbered]

    def _ids_on_disk(self) -> set[str]:
        """Ids that a motion or a text is named by; hidden files, which some systems scatter, are none."""
        files: list[Place] = []
        for folder, suffix in _FOLDERS.items():
            with storage_errors(self.root):
                files += (self.root / folder).glob(f"*.{suffix}")
        return {file.stem for file in files if not file.name.startswith(".")}

    @cached_property
    def _labels(self) -> dict[str, dict[str, str | int]]:
        """The labels of labels.jsonl, by id; empty without that file."""
        self._check_list(self.root / LABELS)
        return read_labels(self.root / LABELS)

    def _check_list(self, place: Place) -> None:
        if not self.follow_links:
            check_list_inside(self.root, place)

    def _check_file(self, name: str) -> None:
        if not self.follow_links:
            check_file_inside(self.root, self.root / name, name)


def _noted(recording: Recording, notes: Sequence[str]) -> Recording:
    return replace(recording, notes=(*recording.notes, *notes))
