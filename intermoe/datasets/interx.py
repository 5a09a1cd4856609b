"""The reader of Inter-X, as it is processed for its benchmark or as it was recorded.

    motions/{train,val,test}.h5               id -> float32 [T, 56, 6] at 30 fps: 55 axis-angles and a translation,
                                              numbers 0:3 of the first person, 3:6 of the second
    texts_processed/<id>.txt                  a line per caption: caption#word/POS word/POS ...#0.0#0.0

or, in the root of the recordings,

    motions/<id>/P1.npz, P2.npz               SMPL-X at 120 fps
    splits/{train,val,test}.txt               one id per line
    texts/<id>.txt                            one caption per line

and beside either, optional,

    annots/interaction_order.pkl              id -> the person who acts, 0 or 1

Legend: T frames, P = 2 persons, J = 55 joints, R = J - 1 joints with a local rotation, D = 6 numbers of a row.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.conventions import FPS, MIN_FRAMES, SPLITS
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_from_axis_angle, sixd_from_matrix
from intermoe.body.skeletons import SMPLX55, Skeleton
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.caption_lines import CaptionLine, caption_line
from intermoe.datasets.links import check_file_inside, check_list_inside
from intermoe.datasets.npz_file import read_npz
from intermoe.datasets.plain_pickle import NotPlain, read_plain_pickle
from intermoe.datasets.recordings import Recording, Source, check_id, common_length, sources_of
from intermoe.datasets.smplx_body import average_joints, joints_of_model
from intermoe.datasets.text_files import captions_text, listed_lines
from intermoe.errors import UserError
from intermoe.places import Place, as_place, check_regular, exists, is_folder

# Of the recordings as they are.
_RAW_FPS = 120
_ROWS, _NUMBERS = 56, 6
# Ten minutes; the recordings last seconds.
_MOST_FRAMES = 600 * FPS
_MOST_BYTES = 600 * _RAW_FPS * 21 * 3 * 8 + 1024
# In the order of SMPL-X's joints; jaw and eyes are not recorded, and at rest.
_PARTS = {"root_orient": 1, "pose_body": 21, "face": 3, "pose_lhand": 15, "pose_rhand": 15}
_ORDER = "annots/interaction_order.pkl"


class InterXReader:
    """Reads recordings of Inter-X (see ``Reader`` in recordings.py).

    The files hold rotations and the place of each person, but no joints: these are those of SMPL-X's mean body, if its
    model is given, else of an average adult, whose hands and feet are off by some centimetres.

    Args:
        root: the folder that holds ``motions``, or, of the processed data, the folder above ``processed_data``.
        body_model: SMPLX_NEUTRAL.npz.
        names_persons: whether whom the captions call the first person is P1. Inter-X's authors do not promise that, and
            who acts does not tell it.
        follow_links: whether links in the root may lead out of it.
    """

    skeleton: Skeleton = SMPLX55

    def __init__(
        self,
        root: Place,
        *,
        body_model: Place | None = None,
        names_persons: bool = False,
        follow_links: bool = False,
    ) -> None:
        self.root = as_place(root)
        self.body_model = body_model
        self.names_persons = names_persons
        self.follow_links = follow_links

    def sources(self) -> list[Source]:
        """The recordings of the three splits, in the order of their lists or else of their names.

        Those that several splits hold, or none, come with a ``split`` that is none of the three; ``read`` says so.

        Raises:
            UserError: the folder, a split or the model of the body is missing or cannot be read, or leads out of the
                root.
        """
        if not is_folder(self._data / "motions"):
            raise UserError(
                "there is no such folder",
                where=self._data / "motions",
                allowed="Inter-X: motions/train.h5 and texts_processed, or motions/<id>/P1.npz, splits and texts",
            )
        self._check_list(self._data / "motions")
        sources = sources_of({split: self._ids_of(split) for split in SPLITS}, self._ids_on_disk())
        self._actors, self._rest_J3  # noqa: B018  what is broken ends the run before it begins
        return sources

    def read(self, source: Source) -> list[Recording]:
        """The one recording of that source, with its lowest joint on the floor; ``BadRecording`` says what is wrong."""
        check_id(source.id)
        if not source.split:
            raise BadRecording("in no split")
        if source.split not in SPLITS:
            raise BadRecording(f"in {source.split}; one recording in two splits would leak between them")
        pose_TPJ3, place_TP3, notes = self._processed_pose(source) if self._is_processed else self._raw_pose(source.id)
        if len(pose_TPJ3) < MIN_FRAMES:
            raise BadRecording(f"{len(pose_TPJ3)} frames are fewer than {MIN_FRAMES}")
        if not (np.isfinite(pose_TPJ3).all() and np.isfinite(place_TP3).all()):
            raise BadRecording("a number is not finite")
        turn_TPJ33 = matrix_from_axis_angle(torch.from_numpy(pose_TPJ3))
        rest_J3 = self._rest_J3
        parents = torch.tensor(SMPLX55.parents).clamp(min=0)
        offset_J3 = rest_J3 - rest_J3[parents]
        root_TP3 = torch.from_numpy(place_TP3) + rest_J3[0]
        position_TPJ3, _ = forward_kinematics(root_TP3, turn_TPJ33, offset_J3, SMPLX55.parents)
        # The files of the benchmark have the first person's first height at 0, wherever the floor is then.
        position_TPJ3[..., 1] -= position_TPJ3[..., 1].min()
        captions, words = self._captions(source.id)
        recording = Recording(
            id=source.id,
            split=source.split,
            position_TPJ3=position_TPJ3.numpy(),
            rotation_TPR6=sixd_from_matrix(turn_TPJ33[:, :, 1:]).numpy(),
            captions=captions,
            words=words,
            label={"actor": self._actors[source.id]} if source.id in self._actors else {},
            notes=tuple(notes),
        )
        return [recording.check(self.skeleton)]

    @cached_property
    def _data(self) -> Place:
        """The folder that holds ``motions``."""
        processed = self.root / "processed_data"
        return processed if is_folder(processed / "motions") else self.root

    @cached_property
    def _is_processed(self) -> bool:
        return any(exists(self._data / f"motions/{split}.h5") for split in SPLITS)

    @cached_property
    def _rest_J3(self) -> Tensor:
        return average_joints() if self.body_model is None else joints_of_model(self.body_model)

    @cached_property
    def _actors(self) -> Mapping[str, int]:
        """Who acts, by id; empty without that file."""
        file = self.root / _ORDER
        if not exists(file) and self.root.name == "processed_data":
            file = self.root.parent / _ORDER
        else:
            self._check_list(file)
        if not exists(file):
            return {}
        try:
            order = read_plain_pickle(file)
        except (NotPlain, OSError) as error:
            raise UserError(f"cannot be read: {error}", where=file) from None
        if not isinstance(order, dict) or not all(
            isinstance(name, str) and actor in (0, 1) for name, actor in order.items()
        ):
            raise UserError("is no table of who acts", where=file, allowed="a dict from ids to 0 or 1")
        return order

    def _check_list(self, place: Place) -> None:
        if not self.follow_links:
            check_list_inside(self.root, place)

    def _check_file(self, name: str) -> None:
        if not self.follow_links:
            check_file_inside(self.root, self._data / name, name)

    def _ids_of(self, split: str) -> list[str]:
        if not self._is_processed:
            place = self._data / f"splits/{split}.txt"
            self._check_list(place)
            return listed_lines(place)
        place = self._data / f"motions/{split}.h5"
        self._check_list(place)
        if not exists(place):
            raise UserError("there is no such file", where=place, allowed="train.h5, val.h5 and test.h5")
        try:
            check_regular(place)
            with place.open("rb") as stream, h5py.File(stream, "r") as file:
                # A name that is no UTF-8 comes as bytes; the check of ids refuses it.
                return sorted(key.decode(errors="replace") if isinstance(key, bytes) else key for key in file)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"cannot be read: {_first_line(error)}", where=place) from None

    def _ids_on_disk(self) -> set[str]:
        """Ids of recordings or captions, whatever lists them; hidden files are none."""
        texts = {file.stem for file in (self._data / self._texts).glob("*.txt")}
        motions = (
            set() if self._is_processed else {file.parent.name for file in (self._data / "motions").glob("*/P?.npz")}
        )
        return {name for name in texts | motions if not name.startswith(".")}

    @property
    def _texts(self) -> str:
        return "texts_processed" if self._is_processed else "texts"

    def _processed_pose(self, source: Source) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
        """Axis-angles [T, 2, J, 3] and places [T, 2, 3] of the benchmark's file."""
        name = f"motions/{source.split}.h5"
        try:
            check_regular(self._data / name)
            with (self._data / name).open("rb") as stream, h5py.File(stream, "r") as file:
                row_TD = _h5_array(file, source.id, name)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise BadRecording(f"{name} cannot be read: {_first_line(error)}") from None
        both_TPR3 = np.stack([row_TD[..., :3], row_TD[..., 3:]], axis=1)
        return both_TPR3[:, :, :-1], both_TPR3[:, :, -1], []

    def _raw_pose(self, id: str) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
        """Axis-angles [T, 2, J, 3] and places [T, 2, 3] of the two files, every fourth frame."""
        persons = [self._raw_person(f"motions/{id}/{person}.npz") for person in ("P1", "P2")]
        frames, notes = common_length(("P1", "P2"), (len(persons[0][0]), len(persons[1][0])), _RAW_FPS)
        step = slice(0, frames, _RAW_FPS // FPS)
        pose_TPJ3, place_TP3 = (np.stack([person[part][step] for person in persons], axis=1) for part in (0, 1))
        return pose_TPJ3, place_TP3, notes

    def _raw_person(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._check_file(name)
        if not exists(self._data / name):
            raise BadRecording(f"no motion: {name} is missing")
        names = ("trans", *(part for part in _PARTS if part != "face"))
        try:
            arrays = read_npz(self._data / name, names, most_bytes=_MOST_BYTES)
        except (OSError, ValueError) as error:
            raise BadRecording(f"{name} cannot be read: {_first_line(error)}") from None
        frames = len(arrays["trans"]) if arrays["trans"].ndim else 0
        arrays["face"] = np.zeros((frames, 3 * _PARTS["face"]), np.float32)
        parts = [_part(arrays[part], frames, joints, f"{part} of {name}") for part, joints in _PARTS.items()]
        return np.concatenate(parts, axis=1), _part(arrays["trans"], frames, 1, f"trans of {name}")[:, 0]

    def _captions(self, id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The captions, and the words of each where the files have them."""
        name = f"{self._texts}/{id}.txt"
        self._check_file(name)
        lines = captions_text(self._data / name, name).split("\n")
        if not any(line.strip() for line in lines):
            raise BadRecording(f"no captions: {name} is empty")
        if not self._is_processed:
            return tuple(" ".join(line.split()) for line in lines if line.strip()), ()
        captions = [
            _processed_caption(line, f"{name}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        return tuple(caption.caption for caption in captions), tuple(caption.words for caption in captions)


def _h5_array(file: h5py.File, id: str, name: str) -> NDArray[np.float32]:
    """The numbers [T, 56, 6] of a recording; nothing outside of the file is read."""
    if not isinstance(file.get(id, getlink=True), h5py.HardLink):
        raise BadRecording(f"{id} in {name} is none of its own arrays")
    array = file[id]
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        raise BadRecording(f"{id} in {name} is none of its own arrays")
    if array.ndim != 3 or array.shape[1:] != (_ROWS, _NUMBERS):
        raise BadRecording(f"{id} in {name} has the shape {array.shape} instead of (frames, {_ROWS}, {_NUMBERS})")
    if len(array) > _MOST_FRAMES:
        raise BadRecording(f"{id} in {name} has {len(array)} frames; up to {_MOST_FRAMES} are read")
    if array.chunks and np.prod(array.chunks) > _MOST_FRAMES * _ROWS * _NUMBERS:
        raise BadRecording(f"{id} in {name} is stored in chunks of {array.chunks}, more than {_MOST_FRAMES} frames")
    if array.dtype.kind != "f":
        raise BadRecording(f"{id} in {name} holds {array.dtype} instead of floating-point numbers")
    return np.asarray(array[()], np.float32)


def _part(array: NDArray[Any], frames: int, joints: int, name: str) -> NDArray[np.float32]:
    """Numbers [T, joints, 3] of a part of the body, which files hold as [T, joints, 3] or flat."""
    if array.dtype.kind != "f" or array.shape not in ((frames, joints, 3), (frames, 3 * joints)):
        raise BadRecording(
            f"{name} is {array.dtype} of the shape {array.shape} instead of floating-point numbers of "
            f"({frames}, {joints}, 3)"
        )
    return np.asarray(array, np.float32).reshape(frames, joints, 3)


def _processed_caption(line: str, where: str) -> CaptionLine:
    """A line of a recording's captions, all of which are of the whole recording."""
    caption = caption_line(line, where)
    if not caption.is_whole:
        times = f"from {caption.start:g} to {caption.end:g} s"
        raise BadRecording(f"a caption {times}; those of Inter-X are of whole recordings", where=where)
    return caption


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
