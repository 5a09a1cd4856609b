"""Reader of two people recorded as pairs of BVH files, one file a person, on one clock and in one space.

The folder holds ``pairs.csv`` with the columns id, person1, person2, split, captions: file names relative to the
folder, a split of train, val or test, captions joined by ``|``. A mapping says how the files' joints become
those of the skeleton (``mappings/cmu.yaml`` explains its format). The floor stays where the files have it.

Legend: T frames of the files, S frames at 30 fps, P = 2 persons, J joints, R = J - 1.
"""

import csv
import math
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from intermoe.body.conventions import FPS, MIN_FRAMES, SPLITS
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import skeleton_named
from intermoe.datasets.bvh_figure import check_figure, mapped_motion, mapped_rest_offsets
from intermoe.datasets.bvh_file import Bvh, parse_bvh
from intermoe.datasets.joint_mapping import load_mapping
from intermoe.datasets.jumps import jump_frames, sound_pieces
from intermoe.datasets.recordings import BadRecording, Recording, Source, check_id
from intermoe.datasets.resampling import resample_pose
from intermoe.errors import UserError

_COLUMNS = ("id", "person1", "person2", "split", "captions")


class BvhPairReader:
    """Pairs of BVH files as recordings: any joint names, any frame rate, jumps found and cut out of both persons.

    Args:
        root: the folder that holds ``pairs.csv``.
        mapping: name of a shipped mapping, or path of one's own.
        scale: metres in one unit of length of the files.

    Raises:
        UserError: no such folder, index or mapping, or one that cannot be used.
    """

    def __init__(self, root: Path, mapping: Path | str = "cmu", scale: float = 1.0) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise UserError(f"scale {scale}", allowed="a number above 0: metres in one unit of the files")
        self.root = Path(root)
        self.scale = scale
        self.mapping = load_mapping(mapping)
        self.skeleton = skeleton_named(self.mapping.skeleton)
        self._rows = _read_index(self.root)

    def sources(self) -> list[Source]:
        """The pairs that the index lists, in its order."""
        return list({row["id"]: Source(row["id"], row["split"]) for row in self._rows}.values())

    def read(self, source: Source) -> list[Recording]:
        """The sound pieces of one pair: ``<id>`` if it is whole, ``<id>_0``, ``<id>_1``, ... if jumps were cut out.

        Raises:
            BadRecording: the pair cannot be used, or no 15 frames in a row remain of it.
        """
        row = self._row(source)
        files = self._files(row)
        poses = [bvh.local_pose() for bvh in files]
        position_TPJ3, _ = self._mapped(files, poses)
        frames, fps = files[0].frames, files[0].fps
        motions = []
        pieces = sound_pieces(jump_frames(position_TPJ3, fps))
        for start, end in pieces:
            sampled = [resample_pose(place[start:end], turn[start:end], fps, FPS) for place, turn in poses]
            motion = self._mapped(files, sampled)
            if len(motion[0]) >= MIN_FRAMES:
                motions.append(motion)
        whole = pieces == [(0, frames)]
        if not motions:
            cut = "" if whole else " once its jumps are cut out"
            raise BadRecording(f"{frames} frames at {fps:g} fps leave no {MIN_FRAMES} in a row at {FPS} fps{cut}")
        recordings = []
        for number, (position_SPJ3, rotation_SPJ33) in enumerate(motions):
            piece = source.id if whole else f"{source.id}_{number}"
            if not whole and any(other["id"] == piece for other in self._rows):
                raise BadRecording(f"a piece of it would be called {piece!r}, as is another pair")
            recording = Recording(
                id=piece,
                split=row["split"],
                position_TPJ3=position_SPJ3.float().numpy(),
                rotation_TPR6=sixd_from_matrix(rotation_SPJ33[:, :, 1:]).float().numpy(),
                captions=tuple(caption for part in row["captions"].split("|") if (caption := part.strip())),
                label={},
            )
            recordings.append(recording.check(self.skeleton))
        return recordings

    def rest_offsets(self, source: Source) -> Tensor:
        """The T-pose of both persons as offsets from the parents [P, J, 3] in metres; raises what ``read`` raises."""
        files = self._files(self._row(source))
        return torch.stack([mapped_rest_offsets(bvh, self.mapping, self.scale) for bvh in files])

    def _mapped(self, files: list[Bvh], poses: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Positions [T, P, J, 3] and local rotations [T, P, J, 3, 3] of both persons."""
        persons = [mapped_motion(bvh, *pose, self.mapping, self.scale) for bvh, pose in zip(files, poses, strict=True)]
        return torch.stack([person[0] for person in persons], 1), torch.stack([person[1] for person in persons], 1)

    def _row(self, source: Source) -> dict[str, str]:
        rows = [row for row in self._rows if row["id"] == source.id]
        if len(rows) != 1:
            raise BadRecording(f"listed {len(rows)} times in pairs.csv")
        row = rows[0]
        check_id(row["id"])
        if row["split"] not in SPLITS:
            raise BadRecording(f"split {row['split']!r} is not one of {', '.join(SPLITS)}")
        if not row["captions"].replace("|", "").strip():
            raise BadRecording("no caption")
        return row

    def _files(self, row: dict[str, str]) -> list[Bvh]:
        files = []
        for person in ("person1", "person2"):
            name = row[person]
            inside = PurePosixPath(name.replace("\\", "/"))
            if not name or inside.is_absolute() or ".." in inside.parts or ":" in name or "\0" in name:
                raise BadRecording(f"{person} {name!r} is not a file name inside the folder")
            if not (self.root / inside).is_file():
                raise BadRecording(f"{person} {name!r} does not exist")
            bvh = parse_bvh(self.root / inside)
            try:
                check_figure(bvh, self.mapping, self.scale)
            except BadRecording as error:
                raise BadRecording(f"{name}: {error}") from None
            files.append(bvh)
        one, two = files
        if one.fps != two.fps:
            raise BadRecording(f"the persons differ in frame rate: {one.fps:g} and {two.fps:g} fps")
        if one.frames != two.frames:
            raise BadRecording(f"the persons differ in length: {one.frames} and {two.frames} frames")
        return files


def _read_index(root: Path) -> list[dict[str, str]]:
    """The rows of ``pairs.csv``, every column a stripped text."""
    if not root.is_dir():
        raise UserError("no such folder", where=root)
    index = root / "pairs.csv"
    if not index.is_file():
        raise UserError("no such file", where=index, allowed=f"a table with the columns {', '.join(_COLUMNS)}")
    try:
        with index.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = [(name or "").strip() for name in table.fieldnames or ()]
            if missing := [name for name in _COLUMNS if name not in columns]:
                raise UserError(f"no column {', '.join(missing)}", where=index, allowed=", ".join(_COLUMNS))
            table.fieldnames = columns
            return [{name: (row[name] or "").strip() for name in _COLUMNS} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", where=index) from None
