"""A motion of two people who step toward each other, made from the T-pose."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from turns import matrix_from_axis_angle

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.motion import Motion


@pytest.fixture(scope="session")
def meeting() -> Callable[..., Motion]:
    """``meeting(frames, fps)``: person 0 comes from -z, person 1 from +z, arms down, 1 m apart at the end."""

    def make(frames: int = 10, fps: int = 30, caption: str = "the first person meets the second person") -> Motion:
        joints, rotations = [], []
        for person in range(2):
            turn_TJ3 = torch.zeros(frames, 22, 3)
            turn_TJ3[:, 0, 1] = np.pi * person
            turn_TJ3[:, SMPL22.index("left_shoulder"), 2] = -1.2
            turn_TJ3[:, SMPL22.index("right_shoulder"), 2] = 1.2
            rotation_TJ33 = matrix_from_axis_angle(turn_TJ3)
            root_T3 = torch.zeros(frames, 3)
            root_T3[:, 2] = torch.linspace(1.2, 0.5, frames) * (2 * person - 1)
            position, _ = forward_kinematics(root_T3, rotation_TJ33, torch.tensor(SMPL22.rest_offsets), SMPL22.parents)
            joints.append(position - position[..., 1].min() * torch.tensor([0.0, 1.0, 0.0]))
            rotations.append(sixd_from_matrix(rotation_TJ33[:, 1:]))
        return Motion(torch.stack(joints, 1).numpy(), torch.stack(rotations, 1).numpy(), fps, caption, SMPL22)

    return make
