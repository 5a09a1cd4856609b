"""Rotations that take vectors nearest to others, in closed form (orthogonal Procrustes problems).

Legend: N matrices, C vectors that are turned together; the other leading dimensions are free.
"""

import torch
from torch import Tensor

_NEWTON_STEPS = 6


def nearest_rotation(matrix_33: Tensor) -> Tensor:
    """The rotation R with the greatest trace of R^T M, never a mirror.

    Args:
        matrix_33: float64 [..., 3, 3]: of a problem "turn b to a", the sum of the products a b^T.

    Returns:
        Rotations [..., 3, 3]; where several are equally near, one of them.

    Example:
        >>> nearest_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64)))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    matrix_33N = matrix_33.reshape(-1, 3, 3).permute(1, 2, 0).contiguous()
    return nearest_rotations(matrix_33N).permute(2, 0, 1).reshape(matrix_33.shape)


def nearest_rotations(matrix_33N: Tensor) -> Tensor:
    """``nearest_rotation`` of matrices that stand beside each other [..., 3, 3, N], the faster layout.

    Markley's FOAM (1993) gives the rotation in closed form from the greatest trace, the largest root of a quartic
    polynomial, to which Newton's steps come down from a bound. The few matrices that leave the rotation nearly open are
    decomposed into singular values.
    """
    # The transposed inverse times the determinant.
    cofactor_33N = torch.linalg.cross(matrix_33N.roll(-1, -3), matrix_33N.roll(-2, -3), dim=-2)
    determinant_N = (matrix_33N[..., 0, :, :] * cofactor_33N[..., 0, :, :]).sum(-2)
    square_N, cofactor_square_N = (matrix.square().sum((-3, -2)) for matrix in (matrix_33N, cofactor_33N))
    linear_N, constant_N, minus_square_N = -8 * determinant_N, -4 * cofactor_square_N, -square_N
    trace_N = torch.add(square_N, (12 * cofactor_square_N).sqrt()).sqrt()
    before_N = trace_N
    for _ in range(_NEWTON_STEPS):
        before_N = trace_N
        rest_N = torch.addcmul(minus_square_N, trace_N, trace_N)
        value_N = torch.addcmul(torch.addcmul(constant_N, linear_N, trace_N), rest_N, rest_N)
        trace_N = torch.addcdiv(trace_N, value_N, torch.addcmul(linear_N, trace_N, rest_N, value=4), value=-1)
    half_N = torch.addcmul(minus_square_N, trace_N, trace_N) / 2
    scale_N = torch.addcmul(-determinant_N, half_N, trace_N)
    squared_33N = (matrix_33N[..., :, None, :, :] * matrix_33N[..., None, :, :, :]).sum(-2)
    cubed_33N = (squared_33N[..., None, :] * matrix_33N[..., None, :, :, :]).sum(-3)
    rotation_33N = torch.addcmul(-cubed_33N, (half_N + square_N)[..., None, None, :], matrix_33N)
    rotation_33N = torch.addcmul(rotation_33N, trace_N[..., None, None, :], cofactor_33N)
    rotation_33N = rotation_33N / scale_N[..., None, None, :]
    # False also where a number is NaN, as of zeros.
    is_clear_N = (scale_N > 1e-4 * square_N**1.5) & ((before_N - trace_N).abs() < 1e-9 * trace_N)
    if not is_clear_N.all():
        rotation_33N.movedim(-1, -3)[~is_clear_N] = _decomposed(matrix_33N.movedim(-1, -3)[~is_clear_N])
    return rotation_33N


def smallest_turn(from_C3: Tensor, to_C3: Tensor, per_radian: float = 0.0) -> Tensor:
    """The rotation R [..., 3, 3] that takes vectors a nearest to others b, and is small.

    It has the least sum of |R a - b|^2 over the vectors plus ``per_radian``^2 / 2 times |R - 1|^2 (Frobenius), which
    for small turns is the square of their angle times ``per_radian``^2.

    Args:
        from_C3: float64 vectors [..., C, 3].
        to_C3: where they should point, each as heavy as it is long.
        per_radian: length of an error that counts as much as a turn by one radian. If 0, the vectors alone decide; of
            several turns that do equally well, it is the smallest.
    """
    reach = (from_C3.norm(dim=-1) * to_C3.norm(dim=-1)).sum(-1)
    # One vector leaves the turn about itself open. A pull towards no turn at all, too weak to move it, decides it.
    pull = 1e-6 * reach + 1e-12 + per_radian**2 / 2
    eye_33 = torch.eye(3, dtype=from_C3.dtype, device=from_C3.device)
    if from_C3.shape[-2] > 1:
        return nearest_rotation(to_C3.mT @ from_C3 + pull[..., None, None] * eye_33)
    return _turn_of_one(from_C3[..., 0, :], to_C3[..., 0, :], pull)


def _turn_of_one(from_3: Tensor, to_3: Tensor, pull: Tensor) -> Tensor:
    """The turn of a single vector about the normal of both: what the pull leaves of the angle between them."""
    eye_33 = torch.eye(3, dtype=from_3.dtype, device=from_3.device)
    normal_3 = torch.linalg.cross(from_3, to_3)
    cosine = (from_3 * to_3).sum(-1) + 2 * pull
    length = (normal_3.square().sum(-1) + cosine.square()).sqrt()
    both = length + cosine
    crossed_33 = torch.linalg.cross(normal_3[..., None], eye_33.expand(*normal_3.shape, 3), dim=-2)
    along_33 = normal_3[..., :, None] * normal_3[..., None, :] / both[..., None, None]
    turn_33 = (cosine[..., None, None] * eye_33 + crossed_33 + along_33) / length[..., None, None]
    # Opposite vectors have many normals.
    is_open = ~(both > 1e-6 * length)
    if is_open.any():
        matrix_33 = to_3[..., :, None] * from_3[..., None, :] + pull[..., None, None] * eye_33
        turn_33[is_open] = _decomposed(matrix_33[is_open])
    return turn_33


def _decomposed(matrix_N33: Tensor) -> Tensor:
    """``nearest_rotation`` by singular values."""
    u_N33, _, vt_N33 = torch.linalg.svd(matrix_N33)
    sign_N3 = torch.ones_like(matrix_N33[..., 0])
    sign_N3[..., 2] = torch.linalg.det(u_N33 @ vt_N33)
    return (u_N33 * sign_N3[..., None, :]) @ vt_N33
