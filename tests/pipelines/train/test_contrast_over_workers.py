"""The evaluator's loss and its gradients, in one, two and four processes."""

import torch
from torch import Tensor

from intermoe.evaluation.contrast import contrastive_sum


def share(rank: int, world: int) -> tuple[float, Tensor, Tensor]:
    """This worker's part of the loss, and the gradients of the whole loss by its own embeddings."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(2, 8, 5, generator=generator)
    text, motion = (rows.chunk(world)[rank].clone().requires_grad_() for rows in whole)
    loss = contrastive_sum(text, motion)
    loss.backward()
    return loss.item(), text.grad, motion.grad


def test_loss_and_gradients_are_those_of_one_process(call_together):
    ((loss, by_text, by_motion),) = call_together(share, 1)
    assert by_text.abs().min() > 0
    for world in (2, 4):
        losses, texts, motions = zip(*call_together(share, world), strict=True)
        assert abs(sum(losses) - loss) < 1e-5
        torch.testing.assert_close(torch.cat(texts), by_text, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat(motions), by_motion, atol=1e-5, rtol=1e-5)
