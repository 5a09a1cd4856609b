"""Rotations from an axis and an angle, and the angle between two: what tests make poses of, and compare them by."""

import torch
from torch import Tensor


def matrix_from_axis_angle(rotation: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] from axis times angle in radians [..., 3] (Rodrigues)."""
    zero = torch.zeros_like(rotation[..., 0])
    x, y, z = rotation.unbind(-1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.matrix_exp(skew)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle [...] in degrees of the rotation that takes matrices ``a`` to ``b`` [..., 3, 3]."""
    relative = a.transpose(-1, -2) @ b
    cos = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    sin = (relative - relative.transpose(-1, -2)).flatten(-2).norm(dim=-1) / 8**0.5
    return torch.atan2(sin, cos).rad2deg()
