"""The token pool: what a routing decision may see.

Legend: P = 2 persons, B batch, L latent frames, E experts, S tokens of the pool, A assignments (pairs of a token and
an expert).
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Assignment:
    """Which expert works on which token, and with which weight; sorted by expert, then by token.

    Attributes:
        token_A: int64, index of the token.
        gate_A: float32, weight of the expert's output (eq. 6); differentiable.
        ends_E: int32, where the assignments of each expert end; expert e has ``ends[e - 1]`` to ``ends[e]``.
    """

    token_A: Tensor
    gate_A: Tensor
    ends_E: Tensor


class Selection(Protocol):
    """A paradigm of expert selection: from the logits of all tokens of a pool to the assignment."""

    def __call__(self, logits_SE: Tensor) -> Assignment:
        """Assign tokens, named by their place in the pool, to experts."""


@dataclass(frozen=True)
class TokenPool:
    """The valid tokens of this worker's batch, both persons in one pool; padding is never in it.

    Attributes:
        position_S: int64, where each token of the pool lies in the flattened [P, B, L].
    """

    position_S: Tensor

    @classmethod
    def of(cls, mask_BL: Tensor, persons: int) -> "TokenPool":
        """The pool of a batch, from its valid frames [B, L].

        On a GPU this waits for the device, once a forward pass: the number of valid tokens must be known.

        Example:
            >>> import torch
            >>> TokenPool.of(torch.tensor([[True, True, False]]), persons=2).position_S
            tensor([0, 1, 3, 4])
        """
        return cls(mask_BL.flatten().repeat(persons).nonzero().squeeze(1))

    def assign(self, logits_PBLE: Tensor, selection: Selection) -> Assignment:
        """Let the selection see the logits of the whole pool.

        Args:
            logits_PBLE: router logits of all positions, padding included.
            selection: decides from the logits [S, E] of the pool.

        Returns:
            The assignment, its tokens named by their position in the flattened [P, B, L].
        """
        chosen = selection(logits_PBLE.flatten(0, 2).index_select(0, self.position_S))
        return Assignment(self.position_S.index_select(0, chosen.token_A), chosen.gate_A, chosen.ends_E)
