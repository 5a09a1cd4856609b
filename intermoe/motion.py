"""A motion of one or two people: what the model returns, and the files it can be saved as.

Legend: T frames, P persons, J joints, R = J - 1 joints with a local rotation (all but the root).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from intermoe.body.skeletons import Skeleton, skeleton_named
from intermoe.errors import UserError, reason_of
from intermoe.files import make_folder, whole_file
from intermoe.places import Place, StorageError, as_place, check_regular

if TYPE_CHECKING:  # computing needs torch, loading does not
    from intermoe.body.kinematics import PosedBody

# An hour of motion, unpacked: a file of a few kilobytes may promise any size.
_MAX_BYTES = 2**28
# A suffix of two parts.
_AMASS = ".amass.npz"


@dataclass(frozen=True, eq=False)
class Motion:
    """People moving, two or one: joints in space, local rotations, and the words they were made from.

    Attributes:
        joints: float32 [T, P, J, 3], metres, y up, ground at y = 0; person 0 is the caption's "first person".
        rotations: float32 [T, P, J - 1, 6], local rotations of joints 1..J-1 in 6D (see body/rotations.py).
        fps: frames a second.
        caption: what they do.
        skeleton: what the joints are, and of how many persons P.

    Raises:
        UserError: where the arrays do not fit the skeleton or hold a number that is not finite.
    """

    joints: NDArray[np.float32]
    rotations: NDArray[np.float32]
    fps: int
    caption: str
    skeleton: Skeleton

    def __post_init__(self) -> None:
        people, num_joints = (len(self.joints), self.skeleton.num_persons), self.skeleton.num_joints
        for name, shape in (("joints", (*people, num_joints, 3)), ("rotations", (*people, num_joints - 1, 6))):
            array = getattr(self, name)
            if array.shape != shape:
                raise UserError(f"{name} of the shape {array.shape}", where="motion", allowed=f"{shape}")
            if len(array) == 0:
                raise UserError("has no frames", where="motion", allowed="one or more")
            if not np.isfinite(array).all():
                bad = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise UserError(f"{name} hold a number that is not finite, first in frame {bad}", where="motion")
        if not (self.fps > 0 and float(self.fps).is_integer()):
            raise UserError(f"fps {self.fps}", where="motion", allowed="a whole number, 1 or more")

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.joints) / self.fps

    def body(self, person: int) -> "PosedBody":
        """The body of a person, counted from 0: bones of constant length, and the rotations of all joints."""
        import torch

        from intermoe.body.kinematics import posed_body

        joints_TJ3 = torch.from_numpy(self.joints[:, person].astype(np.float32))
        rotation_TR6 = torch.from_numpy(self.rotations[:, person].astype(np.float32))
        return posed_body(joints_TJ3, rotation_TR6, self.skeleton)

    def save(self, path: str | Place) -> list[Place]:
        """Write the motion in the form that the file's suffix names; a file is there whole or not at all.

        ``.npz`` holds all numbers (see ``load``), ``.bvh`` becomes one file per person for animation programs (of two
        ``bow_person1.bvh`` and ``bow_person2.bvh``, of one ``bow.bvh``), ``.glb`` one file with all for Blender, Unreal
        and browsers, ``.mp4`` and ``.gif`` are videos, ``.png`` is a strip of key frames, ``.html`` a page that shows
        the motion in 3D. ``.amass.npz`` becomes one file per person, named alike, for SMPL-X tools (see
        render/amass.py), only of SMPL's joints. Missing folders are made.

        Returns:
            The files written.

        Raises:
            UserError: the suffix is none of these, other joints than SMPL's are to become ``.amass.npz``, or the place
                cannot be written to.
        """
        path = as_place(path)
        suffix = _AMASS if path.name.lower().endswith(_AMASS) else path.suffix.lower()
        if suffix not in _WRITERS:
            raise UserError(f"unknown suffix {path.suffix!r}", where=path, allowed=", ".join(_WRITERS))
        make_folder(path.parent)
        return _WRITERS[suffix](self, path)

    @classmethod
    def load(cls, path: str | Place) -> Self:
        """Read what ``save`` wrote as ``.npz``; ``UserError`` where the file is no such motion."""
        path = as_place(path)
        if path.suffix.lower() != ".npz":
            raise UserError(f"unknown suffix {path.suffix!r}", where=path, allowed=".npz, as `Motion.save` writes it")
        try:
            check_regular(path)
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                if (size := sum(item.file_size for item in file.zip.infolist())) > _MAX_BYTES:
                    raise ValueError(f"{size} bytes once unpacked, more than {_MAX_BYTES}")
                if "poses" in file:
                    raise ValueError("the form of AMASS, which is for other programs")
                skeleton = skeleton_named(str(file["skeleton"]))
                joints, rotations = file["joints"].astype(np.float32), file["rotations"].astype(np.float32)
                fps = file["fps"].item()
                return cls(joints, rotations, int(fps) if fps == int(fps) else fps, str(file["caption"]), skeleton)
        except FileNotFoundError:
            raise UserError("no such file", where=path) from None
        except StorageError:
            raise
        except Exception as error:  # readers of zip and of arrays raise what a byte leads them to
            # NumPy takes what is no archive for a pickle, and recommends to load it.
            reason = "no archive of arrays" if "pickle" in str(error) else reason_of(error)
            raise UserError(
                f"not a saved motion: {reason}", where=path, allowed="a .npz file of Motion.save"
            ) from error


def _write_npz(motion: Motion, path: Place) -> list[Place]:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            joints=motion.joints.astype(np.float32),
            rotations=motion.rotations.astype(np.float32),
            fps=np.int64(motion.fps),
            caption=np.array(motion.caption),
            skeleton=np.array(motion.skeleton.name),
        )
    return [path]


def _write_bvh(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.bvh import write_bvh

    def write(person: int, partial: Path) -> None:
        body = motion.body(person)
        write_bvh(partial, body.root_T3, body.rotation_TJ33, body.offset_J3, skeleton=motion.skeleton, fps=motion.fps)

    return _write_per_person(path, ".bvh", motion.skeleton.num_persons, write)


def _write_amass(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.amass import write_amass

    def write(person: int, partial: Path) -> None:
        write_amass(motion, person, partial)

    return _write_per_person(path, _AMASS, motion.skeleton.num_persons, write)


def _write_per_person(path: Place, suffix: str, num_persons: int, write: Callable[[int, Path], None]) -> list[Place]:
    """Write a file for each person, of one the file itself; all are written before one takes its name."""
    stem = path.name[: -len(suffix)]
    if num_persons == 1:
        with whole_file(path) as partial:
            write(0, partial)
        return [path]
    files = [path.with_name(f"{stem}_person{person + 1}{suffix}") for person in range(num_persons)]
    with ExitStack() as stack:
        for person, file in enumerate(files):
            write(person, stack.enter_context(whole_file(file)))
    return files


# Drawing needs libraries that loading and computing do not: imported where it happens.
def _write_glb(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.glb import write_glb

    with whole_file(path) as partial:
        write_glb([motion], partial)
    return [path]


def _write_video(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.video import write_video

    with whole_file(path) as partial:
        write_video(motion, partial)
    return [path]


def _write_strip(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.strip import write_strip

    with whole_file(path) as partial:
        write_strip(motion, partial)
    return [path]


def _write_page(motion: Motion, path: Place) -> list[Place]:
    from intermoe.render.page import Scene, write_page

    with whole_file(path) as partial:
        write_page([Scene.of(motion)], partial, title=motion.caption)
    return [path]


_WRITERS: Mapping[str, Callable[[Motion, Place], list[Place]]] = {
    ".npz": _write_npz,
    ".bvh": _write_bvh,
    ".glb": _write_glb,
    ".mp4": _write_video,
    ".gif": _write_video,
    ".png": _write_strip,
    ".html": _write_page,
    _AMASS: _write_amass,
}
