"""One person moving: what the other person of a motion is generated to, read from a file or taken from a motion.

Legend: T frames, J joints, R = J - 1 joints with a local rotation (all but the root).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.conventions import MIN_FRAMES
from intermoe.body.skeletons import Skeleton
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bodies import check_height, check_rotations
from intermoe.datasets.bvh import read_person
from intermoe.errors import UserError
from intermoe.motion import Motion
from intermoe.places import Place, as_place

Role = Literal["first", "second"]
"""A person of a motion, as captions call them."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, eq=False)
class GivenPerson:
    """One person moving, to whom the other is generated.

    Attributes:
        joints: float32 [T, J, 3], metres, y up; the ground may be at any height.
        rotations: float32 [T, J - 1, 6], local rotations of joints 1..J-1 in 6D (see body/rotations.py).
        skeleton: what the joints are.
        role: which person of the prompt it is.

    Raises:
        UserError: arrays that do not fit the skeleton, are not finite, show no body of a person's size or fewer frames
            than the shortest motion has.

    Example:
        ``model.generate("The first person waves.", given=GivenPerson.load("wave.bvh"))``
    """

    joints: NDArray[np.float32]
    rotations: NDArray[np.float32]
    skeleton: Skeleton
    role: Role = "first"

    def __post_init__(self) -> None:
        frames, num_joints = len(self.joints), self.skeleton.num_joints
        for name, shape in (("joints", (frames, num_joints, 3)), ("rotations", (frames, num_joints - 1, 6))):
            array = getattr(self, name)
            if array.shape != shape:
                raise UserError(f"{name} of the shape {array.shape}", where="given", allowed=f"{shape}, of one person")
            if not np.isfinite(array).all():
                bad = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise UserError(f"{name} hold a number that is not finite, first in frame {bad}", where="given")
        if frames < MIN_FRAMES:
            raise UserError(f"{frames} frames", where="given", allowed=f"{MIN_FRAMES} or more")
        if self.role not in ROLES:
            raise UserError(f"role {self.role!r}", where="given", allowed=" or ".join(ROLES))
        try:
            check_height(torch.from_numpy(self.joints), self.skeleton)
            check_rotations(torch.from_numpy(self.rotations)[:, None], self.skeleton)
        except BadRecording as error:
            raise UserError(str(error), where="given") from None

    @property
    def place(self) -> int:
        """The number of the person in a motion: 0 or 1."""
        return ROLES.index(self.role)

    @classmethod
    def of(cls, motion: Motion, person: Role = "first", *, role: Role | None = None) -> Self:
        """One of the persons of a motion.

        Args:
            motion: at its skeleton's frames a second.
            person: which of its persons.
            role: which person of the prompt it will be; the same where it is not said.

        Raises:
            UserError: no such person, or another frame rate.
        """
        known = ROLES[: motion.skeleton.num_persons]
        if person not in known:
            raise UserError(f"person {person!r}", where="given", allowed=" or ".join(known))
        if motion.fps != motion.skeleton.fps:
            raise UserError(f"{motion.fps} frames a second", where="given", allowed=f"{motion.skeleton.fps}")
        number = ROLES.index(person)
        return cls(motion.joints[:, number], motion.rotations[:, number], motion.skeleton, role or person)

    @classmethod
    def load(
        cls,
        path: str | Place,
        *,
        person: Role = "first",
        role: Role | None = None,
        mapping: Path | str = "smpl",
        scale: float = 1.0,
        fps: float | None = None,
    ) -> Self:
        """One person of a file.

        Args:
            path: a ``.bvh`` file of one person, which is resampled to 30 frames a second, or an ``.npz`` file of
                ``Motion.save``.
            person: npz: which of its persons.
            role: which person of the prompt it will be; where it is not said, the person of the file, or the first.
            mapping: BVH: a shipped mapping of joints, or the path of one's own; "smpl" is what ``Motion.save`` writes.
            scale: BVH: metres in one unit of the file.
            fps: BVH: frames a second, where the file states a wrong rate.

        Raises:
            UserError: no such file, or one that shows no person; it names the file.
        """
        path = as_place(path)
        try:
            if path.suffix.lower() == ".npz":
                return cls.of(Motion.load(path), person, role=role)
            if path.suffix.lower() == ".bvh":
                return cls(*read_person(path, mapping, scale, fps), role or "first")
        except UserError as error:
            where = str(path)
            raise error if str(error).startswith(where) else UserError(f"{error}", where=where) from None
        raise UserError(f"unknown suffix {path.suffix!r}", where=path, allowed=".bvh, .npz")

    def first_frames(self, frames: int) -> "GivenPerson":
        """The same person, as long as that at most."""
        return replace(self, joints=self.joints[:frames], rotations=self.rotations[:frames])
