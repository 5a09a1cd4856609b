"""Folders of BVH pairs whose motion is known in closed form. Legend: T frames, J = 22 joints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from turns import matrix_from_axis_angle

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bvh import BvhPairReader
from intermoe.render.bvh import write_bvh

J = SMPL22.num_joints
REST_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
PLAIN: dict[str, Any] = {"skeleton": "smpl22", "joints": {name: name for name in SMPL22.joint_names}}


def swaying(frames: int, fps: float, *, turn: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A body that turns steadily at every joint, each about its own axis: known in closed form at every instant."""
    generator = torch.Generator().manual_seed(seed)
    axis_J3 = torch.nn.functional.normalize(torch.randn(J, 3, generator=generator, dtype=torch.float64), dim=-1)
    time_T = torch.arange(frames, dtype=torch.float64) / fps
    rotation_TJ33 = matrix_from_axis_angle(turn * time_T[:, None, None] * axis_J3)
    root_T3 = torch.tensor([0.3, 0.9, 0.0]) + time_T[:, None] * torch.tensor([0.1, 0.0, 0.5])
    return root_T3.double(), rotation_TJ33


def folder(
    root: Path,
    rows: Sequence[str] | None = None,
    mapping: Mapping[str, Any] = PLAIN,
    **motions: Any,
) -> Path:
    """A folder with ``<name>.bvh`` for each motion, the index, and a mapping."""
    for name, (root_T3, rotation_TJ33, fps) in motions.items():
        write_bvh(root / f"{name}.bvh", root_T3, rotation_TJ33, REST_J3, skeleton=SMPL22, fps=fps)
    rows = ["duo,a.bvh,b.bvh,train,Two people sway.|They sway."] if rows is None else rows
    (root / "pairs.csv").write_text("\n".join(["id,person1,person2,split,captions", *rows]) + "\n")
    (root / "mapping.yaml").write_text(yaml.safe_dump(dict(mapping)))
    return root


def open_folder(root: Path, scale: float = 1.0, fps: float | None = None) -> BvhPairReader:
    return BvhPairReader(root, root / "mapping.yaml", scale, fps)
