"""The reader of InterHuman's layout, which the embedded data set Duet is written in too.

    motions_processed/person1/<id>.npy, person2/<id>.npy   float [T, 492], z up
    annots/<id>.txt                                        one caption per line
    split/train.txt, val.txt, test.txt                     one id per line; or these three in the root
    ignore_list.txt or split/ignore_list.txt (optional)    ids to leave out
    labels.jsonl (optional)                                {"id": ..., "kind": ..., "actor": 0 or 1, ...} per line

Legend: T frames, P = 2 persons, J joints, R = J - 1 joints with a local rotation, D numbers of a row.
"""

import re
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from intermoe.body.conventions import FPS, SPLITS
from intermoe.body.skeletons import SMPL22, Skeleton
from intermoe.datasets.bad_recording import BadRecording, NotUpright
from intermoe.datasets.labels import LABELS, read_labels
from intermoe.datasets.links import check_file_inside, check_list_inside
from intermoe.datasets.npy_file import read_rows
from intermoe.datasets.recordings import Recording, Source, check_id, common_length, sources_of
from intermoe.datasets.text_files import captions_text, listed_lines
from intermoe.errors import UserError
from intermoe.places import Place, as_place, exists, is_folder, storage_errors

# A line of a motion file: 62 x 3 positions, then 51 x 6 rotations; the body's joints come first in both.
_WIDTH = 492
_ROTATIONS = 186
# An hour. A file of a few kilobytes may have any length, most of it never written.
_MOST_FRAMES = 3600 * FPS
_PERSONS = ("motions_processed/person1", "motions_processed/person2")
_FOLDERS = (*_PERSONS, "annots")
# What a second download or upload of the same file is called.
_COPY = re.compile(r"(.+?) ?\([0-9]+\)")
_IGNORE_LISTS = ("ignore_list.txt", "split/ignore_list.txt")


class InterHumanReader:
    """Reads recordings in InterHuman's layout (see ``Reader`` in recordings.py).

    Args:
        root: the folder.
        follow_links: whether links in it may lead out of it.
    """

    skeleton: Skeleton = SMPL22
    names_persons = True

    def __init__(self, root: Place, *, follow_links: bool = False) -> None:
        self.root = as_place(root)
        self.follow_links = follow_links

    def sources(self) -> list[Source]:
        """The recordings that the split files list, in their order, then those in the folders but in no split.

        The latter, and ids that several splits list, come with a ``split`` that is none of the three; ``read`` says
        so of each: nothing is left out silently. Ids of the ignore list are left out.

        Raises:
            UserError: the root, a folder, or a split file is missing or leads out of the root, or a list cannot be
                read.
        """
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            if not is_folder(folder):
                raise UserError(
                    "there is no such folder",
                    where=folder,
                    allowed=f"a data set in InterHuman's layout, with {', '.join(_FOLDERS)}, split",
                )
            self._check_list(folder)
        ignored: set[str] = set()
        for ignore_list in (self.root / name for name in _IGNORE_LISTS):
            self._check_list(ignore_list)
            ignored.update(listed_lines(ignore_list) if exists(ignore_list) else ())
        listed: dict[str, list[str]] = {split: listed_lines(self._split_list(split)) for split in SPLITS}
        sources = sources_of(listed, self._ids_on_disk())
        self._labels  # noqa: B018  a broken file of labels ends the run before it begins
        return [source for source in sources if source.id not in ignored]

    def read(self, source: Source) -> list[Recording]:
        """The one recording of that source, turned to y up; ``BadRecording`` says what is wrong with it."""
        if copy := _COPY.fullmatch(source.id):
            raise BadRecording(
                f"{source.id!r} looks like a second copy of {copy[1]!r}: where files of {copy[1]!r} are missing, "
                "rename these, otherwise delete them"
            )
        check_id(source.id)
        if not source.split:
            raise BadRecording("listed in no split")
        if source.split not in SPLITS:
            raise BadRecording(f"listed in {source.split}; one recording in two splits would leak between them")
        first, second = (self._person(folder, source.id) for folder in _PERSONS)
        frames, notes = common_length(("person1", "person2"), (len(first), len(second)), FPS)
        both_TPD = np.stack([first[:frames], second[:frames]], axis=1)
        num_joints = self.skeleton.num_joints
        disk_TPJ3 = both_TPD[..., : 3 * num_joints].reshape(-1, 2, num_joints, 3)
        num_turning = num_joints - 1
        rotation_TPR6 = both_TPD[..., _ROTATIONS : _ROTATIONS + 6 * num_turning].reshape(-1, 2, num_turning, 6)
        recording = Recording(
            id=source.id,
            split=source.split,
            # z up on disk: (x, y, z) -> (x, z, -y)
            position_TPJ3=disk_TPJ3[..., [0, 2, 1]] * np.array([1, 1, -1], np.float32),
            rotation_TPR6=np.ascontiguousarray(rotation_TPR6),
            captions=self._captions(source.id),
            label=dict(self._labels.get(source.id, {})),
            notes=tuple(notes),
        )
        try:
            return [recording.check(self.skeleton)]
        except NotUpright as error:
            raise BadRecording(f"{error}; the files of this layout have z up") from None

    def _split_list(self, split: str) -> Place:
        """The list in the folder ``split``, or in the root."""
        places = (self.root / "split" / f"{split}.txt", self.root / f"{split}.txt")
        for place in places:
            self._check_list(place)
            if exists(place):
                return place
        raise UserError("there is no such file", where=places[0], allowed=f"it, or {split}.txt in the root")

    def _check_list(self, place: Place) -> None:
        if not self.follow_links:
            check_list_inside(self.root, place)

    def _ids_on_disk(self) -> set[str]:
        """Ids that a caption or a motion file is named by; hidden files, which some systems scatter, are none."""
        files: list[Place] = []
        for folder, suffix in (("annots", "txt"), *((person, "npy") for person in _PERSONS)):
            with storage_errors(self.root):
                files += (self.root / folder).glob(f"*.{suffix}")
        return {file.stem for file in files if not file.name.startswith(".")}

    def _person(self, folder: str, id: str) -> NDArray[np.float32]:
        name = f"{folder}/{id}.npy"
        if not self.follow_links:
            check_file_inside(self.root, self.root / name, name)
        if not exists(self.root / name):
            copies = sorted(file.name for file in (self.root / folder).glob(f"{id}*(*).npy") if _is_copy(file, id))
            hint = f"; {copies[0]!r} may be it: rename it" if copies else ""
            raise BadRecording(f"no motion: {name} is missing{hint}")
        return read_rows(self.root / name, name, width=_WIDTH, most_frames=_MOST_FRAMES)

    def _captions(self, id: str) -> tuple[str, ...]:
        name = f"annots/{id}.txt"
        if not self.follow_links:
            check_file_inside(self.root, self.root / name, name)
        lines = captions_text(self.root / name, name).splitlines()
        captions = tuple(" ".join(line.split()) for line in lines if line.strip())
        if not captions:
            raise BadRecording(f"no captions: {name} is empty")
        return captions

    @cached_property
    def _labels(self) -> dict[str, dict[str, str | int]]:
        """The labels of labels.jsonl, by id; empty without that file."""
        self._check_list(self.root / LABELS)
        return read_labels(self.root / LABELS)


def _is_copy(file: Place, id: str) -> bool:
    copy = _COPY.fullmatch(file.stem)
    return copy is not None and copy[1] == id
