"""Texts read by several routers at once."""

import pytest
import torch

from intermoe.moe.router import Router, RouterKind, text_logits


@pytest.mark.parametrize("kind", ["synergistic", "text"])
def test_text_logits_made_in_one_product_are_those_of_each_router(kind: RouterKind) -> None:
    torch.manual_seed(0)
    routers = [Router(8, 4, kind, alpha=0.3) for _ in range(3)]
    x, text = torch.randn(2, 3, 5, 8), torch.randn(3, 8)
    for router, logits in zip(routers, text_logits(routers, text), strict=True):
        torch.testing.assert_close(router(x, logits), router(x, text), rtol=1e-6, atol=1e-6)


def test_a_router_of_the_motion_alone_is_given_no_text_logits() -> None:
    assert text_logits([Router(8, 4, "motion")], torch.ones(3, 8)) == []
