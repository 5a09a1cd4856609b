"""The pool of a batch whose lengths the host knows."""

import torch

from intermoe.moe.pool import TokenPool


def test_a_pool_from_lengths_is_that_of_the_mask() -> None:
    lengths = [3, 0, 5]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    of_mask, of_lengths = TokenPool.of(mask, num_persons=2), TokenPool.of_lengths(lengths, num_frames=5, num_persons=2)
    assert torch.equal(of_lengths.position_S, of_mask.position_S)
    assert of_lengths.shape == of_mask.shape == (2, 3, 5)


def test_the_pairs_of_experts_and_tokens_are_numbered_and_rows_in_no_use_fall_beyond() -> None:
    row, position, beyond = TokenPool.of_lengths([2, 1], num_frames=2, num_persons=1).pairs(num_experts=2)
    assert row.tolist() == [0, 1, 2, 3, 4, 5]
    assert position.tolist() == [0, 1, 2, 0, 1, 2]
    assert beyond.tolist() == [4, 5, 6, 7, 8, 9]
