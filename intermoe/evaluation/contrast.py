"""The losses of the evaluators: they bring each caption near its own motion, and away from the others of the batch.

The batch is that of all workers, so that the losses do not depend on how many share it.

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
    text_NE, motion_NE = _Gathered.apply(torch.cat([text_BE, motion_BE], dim=-1)).chunk(2, dim=-1)
    own_B = _own_places(text_BE)
    to_motion = cross_entropy(text_BE @ motion_NE.T, own_B, reduction="sum")
    to_text = cross_entropy(motion_BE @ text_NE.T, own_B, reduction="sum")
    return (to_motion + to_text) / 2


def margin_sums(text_BE: Tensor, motion_BE: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """T2M's loss, of pairs that belong together and of those that do not; every worker must call it.

    As published, a text is compared with one other motion: the batch is shifted by a random number, maybe by 0. Here
    it is compared with all others, whose mean is what that random loss is on average but for the shift of 0; so nothing
    is drawn, and who holds which pair changes nothing.

    Args:
        text_BE: embeddings of captions.
        motion_BE: embeddings of their motions, in the same order; each worker has as many.
        margin: how far a text is to be from the motions of other texts.

    Returns:
        Two sums over this worker's texts: of the squared distance to its motion, and of the mean over all others of
        the square of what is missing to the margin.
    """
    motion_NE = _Gathered.apply(motion_BE)
    distance_BN = torch.cdist(text_BE, motion_NE, compute_mode="donot_use_mm_for_euclid_dist")
    missing_BN = (margin - distance_BN).clamp(min=0).square()
    is_own_BN = _own_places(text_BE)[:, None] == torch.arange(len(motion_NE), device=text_BE.device)
    apart = missing_BN.masked_fill(is_own_BN, 0.0).sum() / max(1, len(motion_NE) - 1)
    return (text_BE - motion_BE).square().sum(), apart


def _own_places(rows_BE: Tensor) -> Tensor:
    """Where the rows of this worker are among those of all [B]."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return torch.arange(len(rows_BE), device=rows_BE.device) + rank * len(rows_BE)


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
