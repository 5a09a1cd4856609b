"""Reader of two people recorded as pairs of BVH files, one file per person, on one clock and in one space.

The folder holds ``pairs.csv`` with the columns id, person1, person2, split, captions: file names relative to the
folder, a split of train, val or test, captions joined by ``|``. A mapping says how the files' joints become
those of the skeleton (``mappings/cmu.yaml`` explains its format). The floor stays where the files have it.

Legend: T frames of the files, S frames at 30 fps, N points, C channels, P = 2 persons, J joints, R = J - 1.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intermoe.body.conventions import FPS, MIN_FRAMES
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import Skeleton, skeleton_named
from intermoe.datasets.bad_recording import BadRecording, NotUpright
from intermoe.datasets.bodies import check_upright
from intermoe.datasets.bvh_figure import check_figure, check_joints, mapped_motion, mapped_rest_offsets, upright_advice
from intermoe.datasets.bvh_file import RATES, Bvh, parse_bvh
from intermoe.datasets.joint_mapping import JointMapping, load_mapping
from intermoe.datasets.jumps import jump_frames, sound_pieces
from intermoe.datasets.links import check_file_inside, check_list_inside
from intermoe.datasets.pairs_index import INDEX, Pair, read_index
from intermoe.datasets.recordings import Recording, Source, common_length
from intermoe.datasets.resampling import resample_pose
from intermoe.errors import UserError, UserNote
from intermoe.places import Place, as_place

# Frame times are written with few digits: rates that differ by less are one rate. Over 10 seconds this is 10 ms, a
# third of a frame; it also makes 29.97 and 30 one.
_SAME_RATE = 1e-3


class BvhPairReader:
    """Pairs of BVH files as recordings: any joint names, any frame rate, jumps found and cut out of both persons.

    Args:
        root: the folder that holds ``pairs.csv``.
        mapping: name of a shipped mapping, or path of one's own.
        scale: metres in one unit of length of the files.
        fps: frames per second, where the files' frame times are wrong.
        follow_links: whether links in the folder may lead out of it.

    Raises:
        UserError: no such folder, index or mapping, or one that cannot be used.
    """

    names_persons = True

    def __init__(
        self,
        root: Place,
        mapping: Path | str = "cmu",
        scale: float = 1.0,
        fps: float | None = None,
        *,
        follow_links: bool = False,
    ) -> None:
        _check_units(scale, fps)
        self.root = as_place(root)
        self.scale, self.fps, self.follow_links = scale, fps, follow_links
        self.mapping = load_mapping(mapping)
        self.skeleton = skeleton_named(self.mapping.skeleton)
        if not follow_links:
            check_list_inside(self.root, self.root / INDEX)
        self._pairs = read_index(self.root)

    def sources(self) -> list[Source]:
        """The pairs that the index lists, in its order."""
        return list({pair.id: Source(pair.id, pair.split) for pair in self._pairs}.values())

    def read(self, source: Source) -> list[Recording]:
        """The sound pieces of one pair: ``<id>`` if it is whole, ``<id>_0``, ``<id>_1``, ... if jumps were cut out.

        Raises:
            BadRecording: the pair cannot be used, or no 15 frames in a row remain of it.
        """
        pair = self._pair(source)
        files, notes = self._files(pair)
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
            if not whole and any(other.id == piece for other in self._pairs):
                raise BadRecording(f"a piece of it would be called {piece!r}, as is another pair")
            recording = Recording(
                id=piece,
                split=pair.split,
                position_TPJ3=position_SPJ3.float().numpy(),
                rotation_TPR6=sixd_from_matrix(rotation_SPJ33[:, :, 1:]).float().numpy(),
                captions=pair.sentences(),
                label={},
                notes=notes,
            )
            try:
                recordings.append(recording.check(self.skeleton))
            except NotUpright as error:
                raise BadRecording(f"{error}; {upright_advice(files[0], self.mapping, error.up)}") from None
        return recordings

    def rest_offsets(self, source: Source) -> Tensor:
        """The T-pose of both persons as offsets from the parents [P, J, 3] in metres; raises what ``read`` raises."""
        files, _ = self._files(self._pair(source))
        return torch.stack([mapped_rest_offsets(bvh, self.mapping, self.scale) for bvh in files])

    def _mapped(self, files: list[Bvh], poses: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Positions [T, P, J, 3] and local rotations [T, P, J, 3, 3] of both persons."""
        persons = [mapped_motion(bvh, *pose, self.mapping, self.scale) for bvh, pose in zip(files, poses, strict=True)]
        return torch.stack([person[0] for person in persons], 1), torch.stack([person[1] for person in persons], 1)

    def _pair(self, source: Source) -> Pair:
        pairs = [pair for pair in self._pairs if pair.id == source.id]
        if len(pairs) != 1:
            raise BadRecording(f"listed {len(pairs)} times in pairs.csv")
        pairs[0].check()
        return pairs[0]

    def _files(self, pair: Pair) -> tuple[list[Bvh], tuple[str, ...]]:
        """Both files on one clock, and what was put right in them."""
        notes: list[str] = []
        files = []
        for name, path in zip(pair.persons, pair.files(self.root), strict=True):
            if not self.follow_links:
                check_file_inside(self.root, path, name)
            try:
                bvh = _figure(path, self.mapping, self.scale, self.fps)
            except BadRecording as error:
                raise error if error.where else BadRecording(str(error), where=name) from None
            notes += [f"{name}: {note}" for note in bvh.notes]
            files.append(bvh)
        one, two = files
        fps = one.fps
        if one.fps != two.fps:
            rates = f"{one.fps:.8g} and {two.fps:.8g} frames per second"
            if not math.isclose(one.fps, two.fps, rel_tol=_SAME_RATE):
                raise BadRecording(f"the persons differ in frame rate: {rates}; `--fps` states the rate of both")
            fps = next((rate for rate in (one.fps, two.fps) if rate.is_integer()), one.fps)
            notes.append(f"{rates} are taken as {fps:.8g}")
        frames, surplus = common_length(pair.persons, (one.frames, two.frames), fps)
        files = [replace(bvh, fps=fps, motion_TC=bvh.motion_TC[:frames]) for bvh in files]
        return files, tuple(dict.fromkeys([*notes, *surplus]))


def read_person(
    path: Place, mapping: Path | str, scale: float = 1.0, fps: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], Skeleton]:
    """One person of a BVH file, resampled to 30 frames a second; the floor may be at any height.

    Args:
        path: the file.
        mapping: name of a shipped mapping, or path of one's own.
        scale: metres in one unit of length of the file.
        fps: frames per second, where the file's frame time is wrong.

    Returns:
        Positions [S, J, 3] in metres, local rotations [S, J - 1, 6] of joints 1..J-1 in 6D, and whose they are.

    Raises:
        UserError: no such file or mapping, or no motion in it. A ``UserNote`` says where it jumps, and where the body
            stands along another axis than y, as it does where the mapping's axes are wrong.
    """
    _check_units(scale, fps)
    joints = load_mapping(mapping)
    skeleton = skeleton_named(joints.skeleton)
    try:
        bvh = _figure(path, joints, scale, fps)
        place_TN3, rotation_TN33 = bvh.local_pose()
        position_TJ3, _ = mapped_motion(bvh, place_TN3, rotation_TN33, joints, scale)
        if (bad_T := jump_frames(position_TJ3[:, None], bvh.fps)).any():
            near = f"the motion jumps near frame {int(bad_T.int().argmax())}, and so does the person"
            warnings.warn(UserNote(f"{path}: {near}"), stacklevel=2)
        place_SN3, rotation_SN33 = resample_pose(place_TN3, rotation_TN33, bvh.fps, FPS)
        position_SJ3, rotation_SJ33 = mapped_motion(bvh, place_SN3, rotation_SN33, joints, scale)
        try:
            check_upright(position_SJ3[:, None], skeleton)
        except NotUpright as error:
            # Somebody who bows or lies does.
            advice = f"unless it should, {upright_advice(bvh, joints, error.up)}"
            warnings.warn(UserNote(f"{path}: the body stands along {error.up} instead of y; {advice}"), stacklevel=2)
    except BadRecording as error:
        raise UserError(error.reason, where=path.with_name(error.where or path.name)) from None
    return position_SJ3.float().numpy(), sixd_from_matrix(rotation_SJ33[:, 1:]).float().numpy(), skeleton


def _check_units(scale: float, fps: float | None) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"scale {scale}", allowed="a number above 0: metres in one unit of the files")
    if fps is not None and not RATES[0] <= fps <= RATES[1]:
        raise UserError(f"fps {fps}", allowed=f"{RATES[0]:g} to {RATES[1]:g} frames per second")


def _figure(path: Place, mapping: JointMapping, scale: float, fps: float | None) -> Bvh:
    """A file with all that the mapping needs, finite, of a person's size; ``BadRecording`` where it is none."""
    bvh = parse_bvh(path, fps)
    check_joints(bvh, mapping)
    bvh = bvh.within(mapping.points)
    check_figure(bvh, mapping, scale)
    return bvh
