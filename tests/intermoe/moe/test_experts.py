"""Grouped products: one call, a loop, or the scattering form, the same numbers and gradients."""

import pytest
import torch

from intermoe.moe import experts
from intermoe.moe.block import MoeBlock
from intermoe.moe.config import MoeConfig
from intermoe.moe.experts import ScatteringExperts, grouped_product
from intermoe.moe.pool import TokenPool


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


def test_the_scattering_form_computes_what_the_block_computes():
    torch.manual_seed(0)
    block = MoeBlock(MoeConfig(experts=4, hidden=24), width=16)
    torch.nn.init.normal_(block.router.motion.weight)
    x, emb, text = torch.randn(2, 3, 5, 16, requires_grad=True), torch.randn(3, 16), torch.randn(3, 16)
    pool = TokenPool.of(torch.arange(5) < torch.tensor([5, 2, 0])[:, None], num_persons=2)
    leaves = [x, *block.parameters()]
    expected = block(x, emb, text, pool)
    expected_grads = torch.autograd.grad(expected.square().sum(), leaves)
    assert expected.any()
    block.experts = ScatteringExperts(block.experts)
    actual = block(x, emb, text, pool)
    torch.testing.assert_close(actual, expected)
    grads = torch.autograd.grad(actual.square().sum(), leaves)
    for gradient, expected_gradient in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)
