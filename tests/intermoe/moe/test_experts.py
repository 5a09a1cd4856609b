"""Grouped products: one call or a loop, the same numbers and gradients."""

import pytest
import torch

from intermoe.moe import experts
from intermoe.moe.experts import grouped_product


@pytest.mark.parametrize("counts", [(3, 4, 2), (0, 9, 0), (9, 0, 0), (0, 0, 9), (0, 0, 0)])
@pytest.mark.parametrize("kernel", [True, False])
def test_each_experts_rows_meet_its_matrix(counts, kernel, monkeypatch):
    monkeypatch.setattr(experts, "_has_kernel", lambda _x: kernel)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), 8, generator=rng, requires_grad=True)
    weight = torch.randn(3, 8, 16, generator=rng, requires_grad=True)
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    actual = grouped_product(x, weight, ends)
    owner = [expert for expert, count in enumerate(counts) for _ in range(count)]
    expected = torch.einsum("ai,aio->ao", x, weight[owner])
    torch.testing.assert_close(actual, expected)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual.square().sum(), (x, weight)),
        torch.autograd.grad(expected.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient)
