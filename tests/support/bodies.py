"""Two bodies that stand and sway: what every reader accepts. Legend: T frames, P = 2 persons, J = 22, R = 21."""

import numpy as np
import torch
from numpy.typing import NDArray
from turns import matrix_from_axis_angle

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22


def standing_bodies(frames: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions [T, 2, J, 3] and local rotations [T, 2, R, 6], 1 m apart, different for every seed."""
    generator = torch.Generator().manual_seed(seed)
    axis_PJ3 = 0.2 * torch.randn(2, SMPL22.num_joints, 3, generator=generator)
    sway_T111 = torch.sin(torch.arange(frames) / 10)[:, None, None, None]
    rotation_TPJ33 = matrix_from_axis_angle(sway_T111 * axis_PJ3)
    place_P3 = torch.tensor([[0.0, 0.95, 0.0], [0.0, 0.95, 1.0]])
    offset_J3 = torch.tensor(SMPL22.rest_offsets)
    position_TPJ3, _ = forward_kinematics(place_P3.expand(frames, 2, 3), rotation_TPJ33, offset_J3, SMPL22.parents)
    return position_TPJ3.numpy(), sixd_from_matrix(rotation_TPJ33[:, :, 1:]).numpy()


def interhuman_rows(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """One of those bodies as InterHuman keeps it [T, 492], z up; the numbers that are not read are noise."""
    position_TPJ3, rotation_TPR6 = standing_bodies(frames, seed)
    rows_TD = np.random.default_rng(seed).normal(size=(frames, 492)).astype(np.float32)
    x_TJ, y_TJ, z_TJ = np.moveaxis(position_TPJ3[:, seed % 2], -1, 0)
    rows_TD[:, :66] = np.stack([x_TJ, -z_TJ, y_TJ], -1).reshape(frames, 66)
    rows_TD[:, 186:312] = rotation_TPR6[:, seed % 2].reshape(frames, 126)
    return rows_TD
