"""Poses at another frame rate: places are blended, rotations turned along the shortest way, never their angles.

Legend: T frames before, S frames after, N joints.
"""

import math

import torch
from torch import Tensor


def resample_pose(place_TN3: Tensor, rotation_TN33: Tensor, fps: float, new_fps: float) -> tuple[Tensor, Tensor]:
    """A motion at ``new_fps`` frames a second, from its first frame to the last that still lies inside.

    Where a new frame falls on an old one it is that frame, unblended.

    Args:
        place_TN3: any vectors that may be blended linearly [T, N, 3].
        rotation_TN33: rotation matrices [T, N, 3, 3].
        fps: frames a second of the input.
        new_fps: frames a second of the output.

    Returns:
        Places [S, N, 3] and rotations [S, N, 3, 3].

    Example:
        >>> place_TN3 = torch.arange(5.0)[:, None, None].expand(5, 1, 3)
        >>> places, _ = resample_pose(place_TN3, torch.eye(3).expand(5, 1, 3, 3), fps=60, new_fps=40)
        >>> places[:, 0, 0].tolist()
        [0.0, 1.5, 3.0]
    """
    last = len(place_TN3) - 1
    frames = math.floor(last * new_fps / fps + 1e-6) + 1
    time_S = (torch.arange(frames, dtype=torch.float64) * fps / new_fps).clamp(max=last)
    near_S = time_S.round()
    time_S = torch.where((time_S - near_S).abs() < 1e-6, near_S, time_S)
    before_S = time_S.floor().long()
    share_S = (time_S - before_S).to(place_TN3.dtype)
    if not share_S.any():
        return place_TN3[before_S], rotation_TN33[before_S]
    after_S = (before_S + 1).clamp(max=last)
    return (
        torch.lerp(place_TN3[before_S], place_TN3[after_S], share_S[:, None, None]),
        turn_between(rotation_TN33[before_S], rotation_TN33[after_S], share_S[:, None]),
    )


def turn_between(start_33: Tensor, end_33: Tensor, share: Tensor) -> Tensor:
    """The rotation [..., 3, 3] that has gone ``share`` [...] of the shortest way from ``start_33`` to ``end_33``.

    A half turn has no single shortest way; within 0.06 degrees of one the nearer end is taken.
    """
    relative_33 = start_33.transpose(-1, -2) @ end_33
    skew_33 = (relative_33 - relative_33.transpose(-1, -2)) / 2  # sin(angle) * the cross product with the axis
    sin = skew_33.flatten(-2).norm(dim=-1) / 2**0.5
    cos = (relative_33.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.atan2(sin, cos)
    axis_33 = skew_33 / sin.clamp(min=1e-12)[..., None, None]
    part = share * angle
    eye_33 = torch.eye(3, dtype=start_33.dtype, device=start_33.device)
    # Rodrigues' formula.
    step_33 = eye_33 + part.sin()[..., None, None] * axis_33 + (1 - part.cos())[..., None, None] * axis_33 @ axis_33
    nearer_33 = torch.where((share < 0.5)[..., None, None], start_33, end_33)
    half_turn = (sin < 1e-3) & (cos < 0)
    return torch.where(half_turn[..., None, None], nearer_33, start_33 @ step_33)
