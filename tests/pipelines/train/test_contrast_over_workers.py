"""The evaluators' losses and their gradients, in one, two and four processes."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from intermoe.evaluation.contrast import contrastive_sum, margin_sums


def margin_sum(text_BE: Tensor, motion_BE: Tensor) -> Tensor:
    together, apart = margin_sums(text_BE, motion_BE, 3.0)
    return together + 2 * apart


def share(rank: int, world: int, *, of: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, Tensor, Tensor]:
    """This worker's part of the loss, and the gradients of the whole loss by its own embeddings."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(2, 8, 5, generator=generator)
    text, motion = (rows.chunk(world)[rank].clone().requires_grad_() for rows in whole)
    loss = of(text, motion)
    loss.backward()
    return loss.item(), text.grad, motion.grad


@pytest.mark.slow
@pytest.mark.parametrize("of", [contrastive_sum, margin_sum])
def test_loss_and_gradients_are_those_of_one_process(call_together, of):
    ((loss, by_text, by_motion),) = call_together(partial(share, of=of), 1)
    assert by_text.abs().min() > 0
    for world in (2, 4):
        losses, texts, motions = zip(*call_together(partial(share, of=of), world), strict=True)
        assert sum(losses) == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(torch.cat(texts), by_text, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat(motions), by_motion, atol=1e-5, rtol=1e-5)
