"""Mappings from a file's joints to those of a skeleton: small YAML files, some of them shipped in ``mappings/``.

``mappings/cmu.yaml`` explains the format in its comments.
"""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from intermoe.body.skeletons import SKELETONS, skeleton_named
from intermoe.config import Config
from intermoe.errors import UserError
from intermoe.yaml_files import mapping_in, read_mapping

_AXES = ("x", "y", "z", "-x", "-y", "-z")


class JointSource(Config):
    """The source of one joint of the skeleton.

    Attributes:
        position: points of the file and their shares, which sum to 1.
        rotation: the joint of the file that turns what hangs below this joint; None where it moves with its parent.
    """

    position: Mapping[str, float]
    rotation: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, str):
            return {"position": {value: 1.0}, "rotation": value}
        if isinstance(value, dict) and isinstance(value.get("position"), str):
            return {**value, "position": {value["position"]: 1.0}}
        return value

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if not math.isclose(sum(self.position.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"shares that sum to 1 instead of {sum(self.position.values()):g}")
        return self


class JointMapping(Config):
    """A mapping from a file's joints to those of a skeleton.

    Attributes:
        skeleton: name of the skeleton that is filled.
        joints: for each of its joints, by name, where it comes from.
        axes: which axis of the file becomes x (to the left), y (up) and z (ahead).
        tpose: degrees for the rotation channels, in the file's order, of those joints of the file that must turn to
            bring its zero pose into a T-pose.
        tpose_frame: the frame of the file, counted from 0, that is a T-pose, instead of the zero pose.
    """

    skeleton: str
    joints: Mapping[str, JointSource]
    axes: tuple[str, str, str] = ("x", "y", "z")
    tpose: Mapping[str, tuple[float, ...]] = {}
    tpose_frame: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _fits_the_skeleton(self) -> Self:
        if self.skeleton not in SKELETONS:
            raise ValueError(f"a skeleton among {', '.join(SKELETONS)}, not {self.skeleton!r}")
        names = SKELETONS[self.skeleton].joint_names
        if missing := [name for name in names if name not in self.joints]:
            raise ValueError(f"all joints of {self.skeleton}; missing: {', '.join(missing)}")
        if unknown := [name for name in self.joints if name not in names]:
            raise ValueError(f"only joints of {self.skeleton}; unknown: {', '.join(unknown)}")
        if self.joints[names[0]].rotation is None:
            raise ValueError(f"a rotation for {names[0]}, which has no parent to move with")
        if any(axis not in _AXES for axis in self.axes):
            raise ValueError(f"axes among {', '.join(_AXES)}")
        if not math.isclose(_determinant(self.axis_matrix()), 1.0):
            raise ValueError("axes that are three different ones and keep left and right apart, such as [x, z, -y]")
        if self.tpose and self.tpose_frame is not None:
            raise ValueError("either tpose or tpose_frame, not both")
        return self

    def axis_matrix(self) -> list[list[float]]:
        """The matrix that takes the file's vectors to x left, y up, z ahead."""
        return [[float(name == axis[-1]) * (-1 if axis[0] == "-" else 1) for name in "xyz"] for axis in self.axes]

    @property
    def points(self) -> dict[str, str]:
        """Every point of the file that is needed, with the first joint that needs it."""
        needed: dict[str, str] = {}
        for joint in skeleton_named(self.skeleton).joint_names:
            source = self.joints[joint]
            for point in (*source.position, *([source.rotation] if source.rotation else [])):
                needed.setdefault(point, joint)
        for point in self.tpose:
            needed.setdefault(point, "tpose")
        return needed


def shipped_mappings() -> list[str]:
    """Names of the mappings that come with the package."""
    return sorted(
        item.name.removesuffix(".yaml")
        for item in (files("intermoe.datasets") / "mappings").iterdir()
        if item.name.endswith(".yaml")
    )


def load_mapping(mapping: Path | str) -> JointMapping:
    """A shipped mapping by its name, or one's own by the path of its YAML file.

    Raises:
        UserError: no such mapping, or the file is not a mapping.

    Example:
        >>> load_mapping("cmu").joints["left_knee"].rotation
        'lShin'
    """
    name = str(mapping)
    if isinstance(mapping, str) and name in shipped_mappings():
        text = (files("intermoe.datasets") / "mappings" / f"{name}.yaml").read_text(encoding="utf-8")
        values = mapping_in(text, name)
    elif Path(mapping).suffix in (".yaml", ".yml"):
        _, values = read_mapping(Path(mapping))
    else:
        allowed = f"{', '.join(shipped_mappings())}, or the path of a .yaml file"
        raise UserError(f"unknown mapping {name!r}", allowed=allowed)
    return JointMapping.parse(values, where=name)


def _determinant(m: list[list[float]]) -> float:
    return sum(
        m[0][i] * (m[1][(i + 1) % 3] * m[2][(i + 2) % 3] - m[1][(i + 2) % 3] * m[2][(i + 1) % 3]) for i in range(3)
    )
