"""Nearest rotations in closed form, against singular values."""

import pytest
import torch
from turns import matrix_from_axis_angle

from intermoe.body.procrustes import nearest_rotation, smallest_turn

EYE = torch.eye(3, dtype=torch.float64)


def by_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.ones_like(matrix[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def matrices(values: list[float], mirrored: bool, count: int = 100) -> torch.Tensor:
    """Matrices with given singular values, and a determinant below 0 if they are ``mirrored``."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    u[:, :, 2] *= (torch.linalg.det(u @ v).sign() * (-1 if mirrored else 1))[:, None]
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.mT


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "values", [[3.0, 2.0, 1.0], [50.0, 5.0, 0.5], [1.0, 0.01, 1e-5], [1.0, 0.6, 0.599], [2.0, 1.0, 0.0]]
)
def test_the_nearest_rotation_is_that_of_singular_values(values, mirrored):
    matrix = matrices(values, mirrored)
    rotation = nearest_rotation(matrix)
    torch.testing.assert_close(rotation, by_singular_values(matrix), atol=1e-9, rtol=0)
    torch.testing.assert_close(rotation @ rotation.mT, EYE.expand_as(rotation), atol=1e-9, rtol=0)
    assert torch.linalg.det(rotation).min() > 0


def test_where_several_rotations_are_equally_near_it_is_one_of_them():
    # Of one direction, of a mirror image of equal axes, and of nothing.
    for matrix in (torch.diag(torch.tensor([1.0, 0.0, 0.0])).double(), -EYE, torch.zeros(3, 3, dtype=torch.float64)):
        rotation = nearest_rotation(matrix)
        torch.testing.assert_close(rotation @ rotation.mT, EYE, atol=1e-9, rtol=0)
        assert torch.linalg.det(rotation) > 0
        assert (rotation * matrix).sum() == pytest.approx(float((by_singular_values(matrix) * matrix).sum()))


def test_a_matrix_among_others_gives_what_it_gives_alone():
    matrix = torch.cat([matrices([3.0, 2.0, 1.0], False), torch.zeros(1, 3, 3, dtype=torch.float64)])
    together = nearest_rotation(matrix.view(1, 101, 3, 3))[0]
    torch.testing.assert_close(together[:5], nearest_rotation(matrix[:5]), atol=1e-13, rtol=0)


def test_the_smallest_turn_of_a_vector_is_about_the_normal_of_both():
    x, y, z = 2 * EYE
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(smallest_turn(x[None], y[None]), quarter, atol=3e-6, rtol=0)
    torch.testing.assert_close(smallest_turn(z[None], 5 * z[None]), EYE, atol=1e-9, rtol=0)
    opposite = smallest_turn(x[None], -x[None])
    torch.testing.assert_close(opposite @ x, -x, atol=1e-5, rtol=0)
    assert torch.linalg.det(opposite) == pytest.approx(1)
    assert torch.equal(smallest_turn(0 * x[None], y[None]), EYE)


def test_the_turn_of_a_vector_is_that_of_the_procrustes_problem():
    generator = torch.Generator().manual_seed(1)
    start, end = torch.randn(2, 200, 1, 3, generator=generator, dtype=torch.float64)
    pull = 1e-6 * start.norm(dim=-1) * end.norm(dim=-1) + 1e-12
    expected = by_singular_values(end.mT @ start + pull[..., None] * EYE)
    torch.testing.assert_close(smallest_turn(start, end), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("vectors", [1, 2, 3])
@pytest.mark.parametrize("per_radian", [0.2, 2.0])
def test_a_turn_that_is_weighed_has_the_least_cost(vectors, per_radian):
    """No turn near it costs less, by the cost as it is written."""
    generator = torch.Generator().manual_seed(2)
    start, end = torch.randn(2, 20, vectors, 3, generator=generator, dtype=torch.float64)

    def cost(turn_33: torch.Tensor) -> torch.Tensor:
        missed = (start @ turn_33.mT - end).square().sum((-2, -1))
        return missed + per_radian**2 / 2 * (turn_33 - EYE).square().sum((-2, -1))

    found = smallest_turn(start, end, per_radian)
    least = cost(found)
    assert (least < cost(smallest_turn(start, end))).all()
    for size in (1e-3, 0.1, 1.0):
        axis = size * torch.randn(50, 1, 3, generator=generator, dtype=torch.float64)
        assert (cost(matrix_from_axis_angle(axis) @ found) > least - 1e-9).all()


def test_a_small_turn_that_is_weighed_goes_part_of_the_way():
    """Of a vector of length a that is to turn by a small angle: a^2 / (a^2 + per_radian^2) of it."""
    start = torch.tensor([[0.3, 0.0, 0.0]], dtype=torch.float64)
    end = 0.3 * torch.tensor([[1.0, 0.01, 0.0]], dtype=torch.float64)
    turn_33 = smallest_turn(start, end, per_radian=0.1)
    assert turn_33[1, 0].item() == pytest.approx(0.01 * 0.09 / (0.09 + 0.01), rel=1e-3)
