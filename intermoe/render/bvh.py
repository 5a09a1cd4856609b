"""Writer of BVH files that any animation program opens: one person a file, metres, y up.

The rest pose is the T-pose of the motion, so that the file's rotations are those of the model and another figure in a
T-pose can take them over. Joints are named as in the skeleton.

Legend: T frames, J joints, C columns of a frame.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intermoe.body.rotations import continuous_zxy, euler_zxy_from_matrix
from intermoe.body.skeletons import Skeleton

# A leaf has no child to show its direction; its End Site goes on as its own bone does, by so many metres.
_TIP = 0.05


def write_bvh(
    path: Path, root_position_T3: Tensor, rotation_TJ33: Tensor, offset_J3: Tensor, *, skeleton: Skeleton, fps: float
) -> None:
    """Write one person's motion.

    The root has six channels, the others their rotation in the order Z, X, Y (``R = Rz @ Rx @ Ry``, degrees). Angles
    go on beyond 180, so that a program may interpolate them.

    Args:
        path: file to write or replace.
        root_position_T3: metres [T, 3].
        rotation_TJ33: local rotations [T, J, 3, 3]; joint 0 is the root.
        offset_J3: T-pose, metres from the parent [J, 3]; that of the root is not used.
        skeleton: names and tree.
        fps: frames per second.

    Raises:
        OSError: the file cannot be written.
    """
    frames = len(root_position_T3)
    angle_TC = continuous_zxy(euler_zxy_from_matrix(rotation_TJ33.double())).flatten(1)
    # The order of the columns is that in which the tree is written, depth first, not that of the skeleton's numbers.
    order = list(_depth_first(skeleton, 0))
    columns = [3 * joint + axis for joint in order for axis in range(3)]
    motion_TC = torch.cat([root_position_T3.double(), angle_TC[:, columns]], dim=1)
    text = io.StringIO()
    text.write("HIERARCHY\n")
    text.writelines(f"{line}\n" for line in _tree(skeleton, offset_J3.tolist(), 0, 0))
    text.write(f"MOTION\nFrames: {frames}\nFrame Time: {1 / fps:.9f}\n")
    np.savetxt(text, motion_TC.cpu().numpy(), fmt="%.6f")
    path.write_text(text.getvalue(), encoding="ascii", newline="\n")


def _depth_first(skeleton: Skeleton, joint: int) -> Iterator[int]:
    yield joint
    for child in _children(skeleton, joint):
        yield from _depth_first(skeleton, child)


def _children(skeleton: Skeleton, joint: int) -> list[int]:
    return [child for child, parent in enumerate(skeleton.parents) if parent == joint]


def _tree(skeleton: Skeleton, offset_J3: list[list[float]], joint: int, depth: int) -> Iterator[str]:
    """The lines of a joint and of all below it."""
    pad = "  " * depth
    offset = offset_J3[joint] if depth else [0.0, 0.0, 0.0]
    channels = "6 Xposition Yposition Zposition" if not depth else "3"
    yield f"{pad}{'JOINT' if depth else 'ROOT'} {skeleton.joint_names[joint]}"
    yield pad + "{"
    yield f"{pad}  OFFSET {_numbers(offset)}"
    yield f"{pad}  CHANNELS {channels} Zrotation Xrotation Yrotation"
    children = _children(skeleton, joint)
    for child in children:
        yield from _tree(skeleton, offset_J3, child, depth + 1)
    if not children:
        length = sum(value**2 for value in offset) ** 0.5
        tip = [value / length * _TIP for value in offset] if length > 1e-6 else [0.0, _TIP, 0.0]
        yield f"{pad}  End Site"
        yield f"{pad}  {{"
        yield f"{pad}    OFFSET {_numbers(tip)}"
        yield f"{pad}  }}"
    yield pad + "}"


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.6f}" for value in values)
