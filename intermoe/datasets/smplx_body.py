"""The unposed joints of SMPL-X: from the model's own file, or those of an average adult.

Legend: J = 55 joints, V vertices of the model's surface.
"""

import numpy as np
import torch
from torch import Tensor

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.skeletons import SMPLX55
from intermoe.datasets.npz_file import read_npz
from intermoe.errors import UserError
from intermoe.places import Place

SMPLX_PELVIS_3 = (0.003, -0.351, 0.012)
"""The pelvis of SMPL-X's neutral body of mean shape, unposed: metres from the model's origin."""

_MOST_BYTES = 2**27
# A person's size, from the lowest joint to the highest: metres.
_HEIGHTS = (1.0, 2.5)


def average_joints() -> Tensor:
    """Unposed joints [J, 3] of the skeleton's own T-pose, metres, the pelvis where SMPL-X has it."""
    still_J33 = torch.eye(3).expand(SMPLX55.num_joints, 3, 3)
    offset_J3 = torch.tensor(SMPLX55.rest_offsets)
    return forward_kinematics(torch.tensor(SMPLX_PELVIS_3), still_J33, offset_J3, SMPLX55.parents)[0]


def joints_of_model(file: Place) -> Tensor:
    """Unposed joints [J, 3] of a model of SMPL-X with its mean shape, metres.

    Args:
        file: the model as it is distributed, such as SMPLX_NEUTRAL.npz. Of its arrays, ``v_template`` and
            ``J_regressor`` are read; nothing is unpickled.

    Raises:
        UserError: it cannot be read, or is another model.
    """
    try:
        arrays = read_npz(file, ("v_template", "J_regressor"), most_bytes=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=file, allowed="SMPLX_NEUTRAL.npz") from None
    vertex_V3, regressor_JV = (arrays[name].astype(np.float64) for name in ("v_template", "J_regressor"))
    joints = SMPLX55.num_joints
    if vertex_V3.ndim != 2 or vertex_V3.shape[1] != 3 or regressor_JV.shape != (joints, len(vertex_V3)):
        raise UserError(
            f"holds v_template of {vertex_V3.shape} and J_regressor of {regressor_JV.shape}",
            where=file,
            allowed=f"a model of SMPL-X: (vertices, 3) and ({joints}, vertices)",
        )
    joint_J3 = regressor_JV @ vertex_V3
    height = float(np.ptp(joint_J3[:, 1]))
    if not (np.isfinite(joint_J3).all() and _HEIGHTS[0] <= height <= _HEIGHTS[1]):
        raise UserError(f"its joints span {height:g} m", where=file, allowed=f"{_HEIGHTS[0]:g} to {_HEIGHTS[1]:g} m")
    return torch.from_numpy(joint_J3).float()
