import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from turns import angle_between, matrix_from_axis_angle

from intermoe.body.rotations import (
    axis_angle_from_matrix,
    continuous_zxy,
    euler_zxy_from_matrix,
    matrix_about_axis,
    matrix_from_6d,
    matrix_from_euler,
    quaternion_from_matrix,
    sixd_from_matrix,
)


@pytest.fixture
def turns() -> Rotation:
    return Rotation.random(200, random_state=0)


def close(found: torch.Tensor, expected: np.ndarray, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.numpy(), expected, atol=atol)


def matrices(turns: Rotation) -> torch.Tensor:
    return torch.from_numpy(turns.as_matrix())


def test_axis_angle_as_scipy_with_and_without_a_turn(turns):
    close(matrix_from_axis_angle(torch.from_numpy(turns.as_rotvec())), turns.as_matrix())
    close(matrix_from_axis_angle(torch.zeros(2, 3)), np.tile(np.eye(3), (2, 1, 1)))
    tiny = np.array([[1e-9, -2e-9, 0.0]])
    close(matrix_from_axis_angle(torch.from_numpy(tiny)), Rotation.from_rotvec(tiny).as_matrix(), 1e-15)


@pytest.mark.parametrize("axis", "XYZ")
def test_about_one_axis_as_scipy(axis):
    angles = np.linspace(-7, 7, 31)
    close(matrix_about_axis(axis, torch.from_numpy(angles)), Rotation.from_euler(axis, angles[:, None]).as_matrix())


@pytest.mark.parametrize("order", ["".join(axes) for axes in itertools.permutations("XYZ")])
def test_euler_angles_of_every_order_as_scipys_intrinsic_ones(order):
    degrees = np.random.default_rng(0).uniform(-180, 180, (50, 3))
    expected = Rotation.from_euler(order, degrees, degrees=True).as_matrix()
    close(matrix_from_euler(torch.from_numpy(degrees), order), expected)


def test_euler_angles_of_fewer_channels():
    found = matrix_from_euler(torch.tensor([[30.0], [60.0]], dtype=torch.float64), "Y")
    close(found, Rotation.from_euler("Y", [[30], [60]], degrees=True).as_matrix())
    with pytest.raises(ValueError):
        matrix_from_euler(torch.zeros(3), "XY")


def test_euler_zxy_as_scipy(turns):
    close(euler_zxy_from_matrix(matrices(turns)), turns.as_euler("ZXY", degrees=True), 1e-6)


@pytest.mark.parametrize("x", [90.0, -90.0, 89.9999, -89.9999, 89.99, 89.9, -89.5])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_euler_zxy_at_and_near_gimbal_lock_give_the_same_rotation(x, dtype, error):
    """Of products of rotations, whose numbers are exact to the last digit only."""
    degrees = torch.tensor([[25.0, x, 70.0], [-160.0, x, 10.0]], dtype=torch.float64)
    parent = matrix_from_euler(torch.tensor([40.0, 50.0, 60.0], dtype=torch.float64), "XYZ").to(dtype)
    matrix = parent.mT @ (parent @ matrix_from_euler(degrees, "ZXY").to(dtype))
    found = euler_zxy_from_matrix(matrix.double())
    close(matrix_from_euler(found, "ZXY"), matrix.double().numpy(), error)


@pytest.mark.parametrize(("axis", "column"), [("Z", 0), ("X", 1), ("Y", 2)])
def test_continuous_angles_count_the_turns_of_a_body_that_spins(axis, column):
    expected = torch.zeros(240, 3, dtype=torch.float64)
    expected[:, column] = torch.linspace(0, 3 * 360, 240, dtype=torch.float64)
    wrapped = euler_zxy_from_matrix(matrix_from_euler(expected[:, column, None], axis))
    assert wrapped.diff(dim=0).abs().max() > 175
    close(continuous_zxy(wrapped), expected.numpy(), 1e-9)


def test_continuous_angles_are_the_same_rotations_and_none_turns_round():
    """A body that turns while it goes over backwards, three times and twice: past the lock, but not through it."""
    share = torch.linspace(0, 1, 240, dtype=torch.float64)
    matrix = matrix_from_euler(
        torch.stack([3 * 360 * share, torch.full_like(share, 20), 2 * 360 * share], dim=-1), "YZX"
    )
    wrapped = euler_zxy_from_matrix(matrix)
    found = continuous_zxy(wrapped)
    assert wrapped.diff(dim=0).abs().max() > 175
    assert found.diff(dim=0).abs().max() < 40
    close(matrix_from_euler(found, "ZXY"), matrix.numpy(), 1e-12)
    close(found[0], wrapped[0].numpy())


def test_sixd_holds_the_first_two_columns_row_by_row(turns):
    matrix = turns.as_matrix()
    expected = np.stack([matrix[:, row, column] for row in range(3) for column in range(2)], axis=-1)
    close(sixd_from_matrix(matrices(turns)), expected)
    close(matrix_from_6d(sixd_from_matrix(matrices(turns))), matrix)


def test_any_sixd_becomes_a_rotation_by_gram_schmidt():
    sixd = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix_from_6d(sixd)
    close(matrix.mT @ matrix, np.broadcast_to(np.eye(3), (4, 5, 3, 3)))
    close(torch.linalg.det(matrix), np.ones((4, 5)))
    # A QR decomposition is Gram-Schmidt up to the signs of the columns.
    q, r = np.linalg.qr(sixd.unflatten(-1, (3, 2)).numpy())
    close(matrix[..., :2], q * np.sign(np.einsum("...ii->...i", r))[..., None, :])


def test_angle_between_as_scipy_down_to_small_angles(turns):
    others = Rotation.random(200, random_state=1)
    expected = np.degrees((turns.inv() * others).magnitude())
    close(angle_between(matrices(turns), matrices(others)), expected, 1e-6)
    small = torch.tensor([[1e-7, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, np.pi, 0.0]], dtype=torch.float64)
    found = angle_between(torch.eye(3, dtype=torch.float64).expand(3, 3, 3), matrix_from_axis_angle(small))
    close(found, np.degrees(small.norm(dim=-1).numpy()), 1e-9)


def odd_turns() -> Rotation:
    """None, half turns about and between the axes, nearly none, nearly half ones."""
    axes = [axis for axis in itertools.product([-1, 0, 1], repeat=3) if any(axis)]
    return Rotation.from_rotvec(
        [angle * np.array(axis) / np.linalg.norm(axis) for axis in axes for angle in (0, 1e-7, 1, 3.1415, np.pi)]
    )


def test_quaternions_as_scipys_with_no_negative_w(turns):
    for some in (turns, odd_turns()):
        found = quaternion_from_matrix(matrices(some)).numpy()
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-12)
        assert found[:, 3].min() >= 0
        assert (Rotation.from_quat(found).inv() * some).magnitude().max() < 1e-7
    close(quaternion_from_matrix(matrices(turns)), turns.as_quat(canonical=True))


def test_axis_and_angle_as_scipy(turns):
    close(axis_angle_from_matrix(matrices(turns)), turns.as_rotvec())
    some = odd_turns()
    found = axis_angle_from_matrix(matrices(some)).numpy()
    assert np.linalg.norm(found, axis=-1).max() <= np.pi + 1e-12
    assert (Rotation.from_rotvec(found).inv() * some).magnitude().max() < 1e-7
    close(axis_angle_from_matrix(torch.eye(3)), np.zeros(3), 0)
