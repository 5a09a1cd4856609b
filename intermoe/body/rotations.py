"""Rotations in the forms that motion data uses.

6D is the continuous form of Zhou et al. 2019, laid out as InterHuman does: the first two columns of the matrix,
flattened row by row, ``(R00, R01, R10, R11, R20, R21)``. Euler angles are in degrees and intrinsic: the order ``ZXY``
means ``R = Rz @ Rx @ Ry``, as BVH lists its channels. Quaternions are ``(x, y, z, w)``, as glTF lists them. Axes: x to
the left of a person who faces +z, y up.

Legend: T frames.
"""

import torch
from torch import Tensor


def matrix_from_6d(sixd: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] from 6D [..., 6], made orthonormal by Gram-Schmidt.

    Example:
        >>> matrix_from_6d(torch.tensor([2.0, 0, 0, 3.0, 0, 0]))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    columns = sixd.unflatten(-1, (3, 2))
    x = torch.nn.functional.normalize(columns[..., 0], dim=-1)
    y = columns[..., 1]
    y = torch.nn.functional.normalize(y - (x * y).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def sixd_from_matrix(matrix: Tensor) -> Tensor:
    """6D [..., 6] from rotation matrices [..., 3, 3]."""
    return matrix[..., :, :2].flatten(-2)


def matrix_about_axis(axis: str, radians: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] about one of the axes ``"X"``, ``"Y"``, ``"Z"``, angles [...] in radians."""
    cos, sin = radians.cos(), radians.sin()
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    rows = {
        "X": [one, zero, zero, zero, cos, -sin, zero, sin, cos],
        "Y": [cos, zero, sin, zero, one, zero, -sin, zero, cos],
        "Z": [cos, -sin, zero, sin, cos, zero, zero, zero, one],
    }[axis]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_from_euler(degrees: Tensor, order: str) -> Tensor:
    """Rotation matrices [..., 3, 3] from Euler angles [..., len(order)] in degrees, in the order of their channels.

    Example:
        >>> matrix_from_euler(torch.tensor([90.0, 0.0, 0.0]), "ZXY").round().abs()
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 0., 1.]])
    """
    matrix = torch.eye(3, dtype=degrees.dtype, device=degrees.device).expand(*degrees.shape[:-1], 3, 3)
    for axis, angle in zip(order, degrees.deg2rad().unbind(-1), strict=True):
        matrix = matrix @ matrix_about_axis(axis, angle)
    return matrix


def matrix_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] from axis times angle in radians [..., 3] (Rodrigues' formula).

    Example:
        >>> axis_angle_from_matrix(matrix_from_axis_angle(torch.tensor([0.0, 0.5, 0.0])))
        tensor([0.0000, 0.5000, 0.0000])
    """
    angle = axis_angle.norm(dim=-1)[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    # sin(a) / a and (1 - cos(a)) / a^2, which have a value at 0 too.
    by_sin, by_cos = torch.sinc(angle / torch.pi), torch.sinc(angle / (2 * torch.pi)).square() / 2
    return torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device) + by_sin * cross + by_cos * cross @ cross


def euler_zxy_from_matrix(matrix: Tensor) -> Tensor:
    """Euler angles [..., 3] in degrees, order ZXY, from rotation matrices [..., 3, 3]; x is from -90 to 90.

    The nearer x is to +-90 degrees the less z and y are known by themselves (gimbal lock). Whatever z is there, y is
    what is left for it, so that the three together are the rotation.
    """
    cos_x = torch.hypot(matrix[..., 0, 1], matrix[..., 1, 1])
    x = torch.atan2(matrix[..., 2, 1], cos_x)
    z = torch.atan2(-matrix[..., 0, 1], matrix[..., 1, 1])
    # The first row of the rotation that is left without z.
    first_3 = z.cos()[..., None] * matrix[..., 0, :] + z.sin()[..., None] * matrix[..., 1, :]
    y = torch.atan2(first_3[..., 2], first_3[..., 0])
    return torch.stack([z, x, y], dim=-1).rad2deg()


def continuous_zxy(degree_T3: Tensor) -> Tensor:
    """The same rotations by angles that go on from frame to frame: none turns round at 180 degrees.

    Two triples of angles are each rotation, (z, x, y) and (z + 180, 180 - x, y + 180), and whole turns change nothing.
    Of these, each frame has the nearest to the frame before; near the lock z and y may still change fast.

    Args:
        degree_T3: Euler angles of the order ZXY [T, ..., 3], degrees.
    """
    other_T3 = torch.stack([degree_T3[..., 0] + 180, 180 - degree_T3[..., 1], degree_T3[..., 2] + 180], dim=-1)
    frames = [degree_T3[0]]
    for both in torch.stack([degree_T3, other_T3], dim=1)[1:].unbind(0):
        near = both + 360 * ((frames[-1] - both) / 360).round()
        change = (near - frames[-1]).square().sum(-1, keepdim=True)
        frames.append(torch.where(change[0] <= change[1], near[0], near[1]))
    return torch.stack(frames)


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternions [..., 4], ``(x, y, z, w)`` with w >= 0, from rotation matrices [..., 3, 3]."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    # Four times the products of the quaternion's numbers: each row is the quaternion, times one of its numbers.
    rows = [
        [1 + xx - yy - zz, xy + yx, xz + zx, zy - yz],
        [xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx],
        [xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy],
        [zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz],
    ]
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    # The longest row: it has lost no digits.
    best = products.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)[..., None, None]
    quaternion = torch.nn.functional.normalize(products.take_along_dim(best, dim=-2).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def axis_angle_from_matrix(matrix: Tensor) -> Tensor:
    """Axis times angle in radians [..., 3], at most a half turn, from rotation matrices [..., 3, 3].

    Example:
        >>> axis_angle_from_matrix(matrix_about_axis("Y", torch.tensor(0.5)))
        tensor([0.0000, 0.5000, 0.0000])
    """
    quaternion = quaternion_from_matrix(matrix)
    sin, cos = quaternion[..., :3].norm(dim=-1, keepdim=True), quaternion[..., 3:]
    return quaternion[..., :3] * torch.where(sin > 1e-9, 2 * torch.atan2(sin, cos) / sin.clamp(min=1e-9), 2.0)
