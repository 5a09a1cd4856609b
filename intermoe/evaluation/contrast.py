"""The loss of the evaluator: it brings each caption nearest to its own motion of the batch, and the other way round.

The batch is that of all workers, so that the loss does not depend on how many share it.

Legend: B pairs of this worker, N of all workers, E embedding, M = 2 E.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import cross_entropy


def contrastive_sum(text_BE: Tensor, motion_BE: Tensor) -> Tensor:
    """Symmetric cross-entropy, summed over the pairs of this worker; every worker must call it.

    The logits are the scalar products of the embeddings: cosines times the square of their length.

    Args:
        text_BE: embeddings of captions.
        motion_BE: embeddings of their motions, in the same order; each worker has as many.

    Returns:
        The sum over this worker's pairs of half the cross-entropy of a text among all motions plus half that of its
        motion among all texts.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    text_NE, motion_NE = _Gathered.apply(torch.cat([text_BE, motion_BE], dim=-1)).chunk(2, dim=-1)
    own_B = torch.arange(len(text_BE), device=text_BE.device) + rank * len(text_BE)
    to_motion = cross_entropy(text_BE @ motion_NE.T, own_B, reduction="sum")
    to_text = cross_entropy(motion_BE @ text_NE.T, own_B, reduction="sum")
    return (to_motion + to_text) / 2


class _Gathered(torch.autograd.Function):
    """The rows of all workers [N, M], in the order of their ranks; gradients go back to where a row came from."""

    @staticmethod
    def forward(context: FunctionCtx, rows_BM: Tensor) -> Tensor:  # noqa: ARG004 - torch's form
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return rows_BM.clone()
        gathered_NM = rows_BM.new_empty(dist.get_world_size() * len(rows_BM), rows_BM.shape[1])
        dist.all_gather_into_tensor(gathered_NM, rows_BM.contiguous())
        return gathered_NM

    @staticmethod
    def backward(context: FunctionCtx, gradient_NM: Tensor) -> Tensor:  # noqa: ARG004 - torch's form
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return gradient_NM
        gradient_NM = gradient_NM.contiguous()
        dist.all_reduce(gradient_NM)
        return gradient_NM.chunk(dist.get_world_size())[dist.get_rank()]
