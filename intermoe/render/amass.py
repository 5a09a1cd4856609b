"""Writer of one person's motion in the form of AMASS, which SMPL-X tools read.

Legend: T frames, J joints, R = J - 1 joints with a local rotation in the data (all but the root).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from intermoe.body.rotations import axis_angle_from_matrix, matrix_about_axis, matrix_from_6d
from intermoe.body.skeletons import HUMANML22, SMPL22, SMPLX55
from intermoe.datasets.smplx_body import SMPLX_PELVIS_3
from intermoe.errors import UserError

if TYPE_CHECKING:  # a motion writes itself: it imports this module
    from intermoe.motion import Motion

_PARTS = {
    "root_orient": slice(0, 1),
    "pose_body": slice(1, 22),
    "pose_jaw": slice(22, 23),
    "pose_eye": slice(23, 25),
    "pose_hand": slice(25, 55),
}
_SHAPES = 16
_SKELETONS = (SMPL22, HUMANML22, SMPLX55)


def write_amass(motion: "Motion", person: int, path: Path) -> None:
    """Write one person as AMASS's files for SMPL-X hold it, with hands, jaw and eyes at rest where the
    motion has none.

    The keys are those that SMPL-X's add-on for Blender and other readers of AMASS ask for: ``poses`` [T, 165] (axis
    times angle of all 55 joints; its parts once more as ``root_orient``, ``pose_body``, ``pose_jaw``, ``pose_eye`` and
    ``pose_hand``), ``trans`` [T, 3], ``betas`` (the mean shape), ``gender`` (neutral), ``mocap_frame_rate`` and
    ``surface_model_type`` (smplx). The axes are AMASS's: z up, and who faces +z here faces -y there.

    The rotations are the motion's own: those of SMPL, where the model has learned from InterHuman; of one person those
    found from the joints, with no turn of a bone about itself. That of the root, which a motion does not hold, is
    always found from the joints. SMPL turns a body about its pelvis and then moves it,
    so ``trans`` is the place of the pelvis less that of the unposed body of this shape and gender; with another, the
    pelvis stands elsewhere. The mean body's bones are not the motion's: hands and feet are off by centimetres, which
    shows where people touch. The joints themselves are in the ``.npz``.

    Args:
        motion: of SMPL's 22 joints, or of SMPL-X's 55.
        person: counted from 0.
        path: file to write or replace.

    Raises:
        UserError: another skeleton.
        OSError: the file cannot be written.
    """
    if motion.skeleton not in _SKELETONS:
        known = ", ".join(skeleton.name for skeleton in _SKELETONS)
        raise UserError(f"AMASS has no form for the skeleton {motion.skeleton.name!r}", allowed=known)
    body = motion.body(person)
    upright_33 = matrix_about_axis("X", torch.tensor(torch.pi / 2, dtype=torch.float64))
    local_TR33 = matrix_from_6d(torch.from_numpy(motion.rotations[:, person].astype(np.float64)))
    turn_TJ33 = torch.cat([upright_33 @ body.rotation_TJ33[:, :1].double(), local_TR33], dim=1)
    frames = len(turn_TJ33)
    poses_TJ3 = np.zeros((frames, SMPLX55.num_joints, 3))
    poses_TJ3[:, : motion.skeleton.num_joints] = axis_angle_from_matrix(turn_TJ33).numpy()
    parts = {name: poses_TJ3[:, joints].reshape(frames, -1) for name, joints in _PARTS.items()}
    arrays: dict[str, NDArray[Any]] = {
        "trans": body.root_T3.double().numpy() @ upright_33.numpy().T - SMPLX_PELVIS_3,
        "poses": np.concatenate(list(parts.values()), axis=1),
        **parts,
        "betas": np.zeros(_SHAPES),
        "num_betas": np.array(_SHAPES),
        "gender": np.array("neutral"),
        "mocap_frame_rate": np.array(float(motion.fps)),
        "mocap_time_length": np.array(motion.seconds),
        "surface_model_type": np.array("smplx"),
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
