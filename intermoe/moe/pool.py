"""The token pool: the tokens of this worker's batch, per sequence where needed, or gathered over all workers.

A token is one latent frame of one person. The tokens of a batch lie in the flattened [P, B, L]; padding is never in
the pool. How far a routing decision looks (one sequence, this worker's batch, or the batches of all workers) is up to
the paradigm, which has its own ``Scope`` from the key ``moe.pool``.

Legend: P persons, B batch, L latent frames, E experts, N = P * B sequences, S tokens of this worker, X tokens of
all workers, W workers, T tokens of the worker that has most, R = E * S pairs of an expert and a token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Scope = Literal["sequence", "worker", "global"]
"""How far a routing decision looks: one person's motion, the batch of one worker, or the batch of all workers."""

SPARE_POSITIONS = 128
"""Rows in no use name so many positions beyond the last, in turn: sums into a single one would queue up on a GPU."""


@dataclass(frozen=True)
class TokenPool:
    """The valid tokens of this worker's batch, all persons together.

    Attributes:
        position_S: int64, where each token lies in the flattened [P, B, L].
        shape: P, B and L.
    """

    position_S: Tensor
    shape: tuple[int, int, int]
    _pairs: dict[int, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, mask_BL: Tensor, num_persons: int) -> "TokenPool":
        """The pool of a batch, from its valid frames [B, L].

        On a GPU this waits for the device, as the number of valid tokens must be known; see :meth:`of_lengths`.

        Example:
            >>> TokenPool.of(torch.tensor([[True, True, False]]), num_persons=2).position_S
            tensor([0, 1, 3, 4])
        """
        position_S = mask_BL.flatten().repeat(num_persons).nonzero().squeeze(1)
        return cls(position_S, (num_persons, *mask_BL.shape))

    @classmethod
    def of_lengths(
        cls, lengths: Sequence[int], num_frames: int, num_persons: int, device: torch.device | str = "cpu"
    ) -> "TokenPool":
        """The pool of a batch whose lengths the host knows: nothing waits for the device.

        Args:
            lengths: of each sample, its valid latent frames.
            num_frames: latent frames L of the padded batch.
            num_persons: persons of a sample.
            device: where its tokens are.

        Example:
            >>> TokenPool.of_lengths([2], num_frames=3, num_persons=2).position_S
            tensor([0, 1, 3, 4])
        """
        valid_BL = np.arange(num_frames) < np.asarray(lengths)[:, None]
        position_S = torch.from_numpy(np.flatnonzero(np.tile(valid_BL, (num_persons, 1))))
        if torch.device(device).type == "cuda":
            position_S = position_S.pin_memory().to(device, non_blocking=True)
        return cls(position_S.to(device), (num_persons, len(lengths), num_frames))

    @property
    def sequence_S(self) -> Tensor:
        """int64, which person's motion each token belongs to, 0 to N - 1."""
        return self.position_S // self.shape[2]

    @property
    def person_S(self) -> Tensor:
        """int64, which person each token belongs to."""
        return self.position_S // (self.shape[1] * self.shape[2])

    @property
    def frame_S(self) -> Tensor:
        """int64, which latent frame of its motion each token is."""
        return self.position_S % self.shape[2]

    @property
    def num_sequences(self) -> int:
        """Number N of motions, those without a valid frame included."""
        return self.shape[0] * self.shape[1]

    @cached_property
    def sequence_lengths(self) -> Tensor:
        """int64 [N], tokens of each motion."""
        ones_S = torch.ones_like(self.position_S)
        return ones_S.new_zeros(self.num_sequences).index_add(0, self.sequence_S, ones_S)

    def sequence_means(self, score_SE: Tensor) -> Tensor:
        """For each token the mean [S, E] of the scores of its motion's tokens."""
        sum_NE = score_SE.new_zeros(self.num_sequences, score_SE.shape[1]).index_add(0, self.sequence_S, score_SE)
        return (sum_NE / self.sequence_lengths.clamp(min=1)[:, None])[self.sequence_S]

    def pairs(self, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of all R pairs of an expert and a token, expert by expert, int64 [R] each; made once for all layers.

        Returns:
            The number of the pair, the position of its token, and a position beyond the last that a row in no use may
            name instead.
        """
        if num_experts not in self._pairs:
            row_R = torch.arange(num_experts * len(self.position_S), device=self.position_S.device)
            beyond_R = math.prod(self.shape) + row_R % SPARE_POSITIONS
            self._pairs[num_experts] = row_R, self.position_S.repeat(num_experts), beyond_R
        return self._pairs[num_experts]

    def gather(self, score_SE: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of all workers' tokens, in one collective over the default process group if there is one.

        Every worker must call it. The first call on a pool also exchanges how many tokens each worker has.

        Args:
            score_SE: of this worker's tokens; no gradient flows through.

        Returns:
            Scores [X, E] in the order that a single process with the batches of all workers would have (persons, then
            workers, then samples), and the place [S] of this worker's tokens among them.
        """
        num_tokens_W = self._num_tokens_W
        if len(num_tokens_W) == 1:
            return score_SE, torch.arange(len(score_SE), device=score_SE.device)
        longest = max(num_tokens_W)
        if longest == 0:
            return score_SE, self.position_S
        padded_TE = score_SE.new_zeros(longest, score_SE.shape[1])
        padded_TE[: len(score_SE)] = score_SE
        gathered_WTE = padded_TE.new_empty(len(num_tokens_W), *padded_TE.shape)
        dist.all_gather_into_tensor(gathered_WTE.flatten(0, 1), padded_TE)
        num_persons = self.shape[0]
        # A worker's persons have equally many tokens, as they share the mask.
        chunks = [gathered_WTE[w, :num_tokens].chunk(num_persons) for w, num_tokens in enumerate(num_tokens_W)]
        pool_XE = torch.cat([chunks[w][p] for p in range(num_persons) for w in range(len(chunks)) if num_tokens_W[w]])
        rank, per_person_W = dist.get_rank(), [num_tokens // num_persons for num_tokens in num_tokens_W]
        starts = [p * sum(per_person_W) + sum(per_person_W[:rank]) for p in range(num_persons)]
        places = [torch.arange(start, start + per_person_W[rank], device=score_SE.device) for start in starts]
        return pool_XE, torch.cat(places)

    @cached_property
    def _num_tokens_W(self) -> list[int]:
        """Number of tokens of each worker; the first access is a collective where there are several."""
        num_tokens = len(self.position_S)
        if num_workers() == 1:
            return [num_tokens]
        num_tokens_W = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=self.position_S.device)
        num_tokens_W[dist.get_rank()] = num_tokens
        dist.all_reduce(num_tokens_W)
        return [int(count) for count in num_tokens_W.tolist()]


def num_workers() -> int:
    """Processes of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1
