"""The common part of all paradigms of expert selection: assignment, counts, and the update after a step.

Legend: P = 2 persons, B batch, L latent frames, N = P * B * L positions, E experts, S tokens of this worker,
A assignments (pairs of a token and an expert), M layers with experts, C numbers that a layer counts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool


@dataclass(frozen=True)
class Assignment:
    """Pairs of expert and token with their weights; sorted by expert, then by token.

    Attributes:
        token_A: int64, position of the token in the flattened [P, B, L].
        gate_A: float32, weight of the expert's output (eq. 6); differentiable.
        ends_E: int32, where the assignments of each expert end; expert e has ``ends[e - 1]`` to ``ends[e]``.
    """

    token_A: Tensor
    gate_A: Tensor
    ends_E: Tensor

    def gates(self, num_positions: int) -> Tensor:
        """The gate of each expert at each position, [N, E]; zero where the expert is not assigned."""
        count_E = self.ends_E.diff(prepend=self.ends_E.new_zeros(1)).long()
        expert_A = torch.repeat_interleave(torch.arange(len(count_E), device=count_E.device), count_E)
        gates_NE = self.gate_A.new_zeros(num_positions, len(count_E))
        return gates_NE.index_put((self.token_A, expert_A), self.gate_A)


@dataclass(frozen=True)
class LayerRouting:
    """The routing of one layer, over the batches of all workers since it was last read.

    Attributes:
        load_E: share of the tokens that each expert took.
        share_E: share of all assignments that each expert had; zeros where there were none.
        learned_E: what the paradigm has learned of each expert; empty where it learns nothing.
        learned_name: what that is: ``bias`` or ``threshold``.
        experts_per_token: mean number of experts that took a token.
        unselected: share of the tokens that no expert took.
        router_entropy: mean entropy of the softmax over the experts, in nats.
    """

    load_E: list[float]
    share_E: list[float]
    learned_E: list[float]
    learned_name: str
    experts_per_token: float
    unselected: float
    router_entropy: float

    @property
    def imbalance(self) -> float:
        """Standard deviation of the experts' loads over their mean; 0 where all carry the same."""
        mean = sum(self.load_E) / len(self.load_E)
        variance = sum((load - mean) ** 2 for load in self.load_E) / len(self.load_E)
        return math.sqrt(variance) / max(mean, 1e-9)


class Counts(NamedTuple):
    """The counters of a layer in training, in float64: whole numbers are exact.

    Attributes:
        selected_E: tokens that each expert took.
        vote_E: sum of what the pools voted; its meaning is the paradigm's.
        valid: tokens there were.
        unselected: tokens that no expert took.
        pools: pools that voted.
        entropy: sum over the tokens of the router's entropy, in nats.
    """

    selected_E: Tensor
    vote_E: Tensor
    valid: Tensor
    unselected: Tensor
    pools: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, counts_C: Tensor, num_experts: int) -> "Counts":
        """Take apart what ``torch.cat`` has joined."""
        selected_E, vote_E = counts_C[: 2 * num_experts].chunk(2)
        return cls(selected_E, vote_E, *counts_C[2 * num_experts :])


class Selection(nn.Module, ABC):
    """A paradigm: from the logits of a pool's tokens to the assignment.

    A subclass says in ``take`` which expert takes which token, and may learn from what the workers counted together
    (``vote``, ``learn``); ``paradigms.PARADIGMS`` holds it under its name in the configuration. The gate of what is
    taken is the softmax over all experts, not renormalised (eqs. 5, 6); a token that no expert takes gets nothing.

    In training mode each call counts; :func:`update_biases` sums the counts over the workers, lets every layer learn,
    and begins anew. The state is in buffers, saved with the weights. Under DistributedDataParallel, set
    ``broadcast_buffers=False``: the broadcast would overwrite what the other workers counted.

    Attributes:
        learned_name: what ``learned_E`` is called among the metrics; a subclass that learns says it.
        selected_E: float64, and so on: ``Counts`` since the last step, of this worker.
        seen_C: float64, all of these since the last :meth:`pop_routing`, summed over the workers.
    """

    learned_name: ClassVar[str] = ""
    selected_E: Tensor
    vote_E: Tensor
    valid: Tensor
    unselected: Tensor
    pools: Tensor
    entropy: Tensor
    seen_C: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.num_experts, self.c_exp = config.experts, config.c_exp
        for name in Counts._fields:
            shape = (config.experts,) if name.endswith("_E") else ()
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("seen_C", torch.zeros(2 * config.experts + 4, dtype=torch.float64))

    @abstractmethod
    def take(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """Mask of the tokens that each expert takes, bool [E, S]; called without gradients."""

    def vote(self, taken_ES: Tensor) -> None:
        """Note in ``vote_E`` and ``pools`` what to learn from what a training batch took; nothing by default."""

    def learn(self, total: Counts) -> None:
        """Move what is learned, from the sums over all workers; called once after each optimizer step."""

    @property
    def learned_E(self) -> Tensor | None:
        """The bias or threshold of each expert, where the paradigm learns one."""
        return None

    def forward(self, logits_SE: Tensor, pool: TokenPool) -> Assignment:
        """Select from the float32 logits of this worker's tokens.

        On a GPU this waits for the device: the number of assignments must be known.
        """
        with torch.no_grad():
            taken_ES = self.take(logits_SE.detach(), pool)
            count_E = taken_ES.sum(dim=1)
            if self.training:
                self.selected_E += count_E
                self.valid += len(logits_SE)
                self.unselected += (~taken_ES.any(dim=0)).sum()
                self.entropy += torch.special.entr(logits_SE.double().softmax(dim=-1)).sum()
                self.vote(taken_ES)
            # Rows are experts, so the places of what is taken are already sorted by expert.
            place_A = taken_ES.flatten().nonzero().squeeze(1)
        gate_A = logits_SE.softmax(dim=-1).T.flatten().index_select(0, place_A)
        token_A = pool.position_S.index_select(0, place_A % max(len(logits_SE), 1))
        return Assignment(token_A, gate_A, count_E.cumsum(0).to(torch.int32))

    def pop_routing(self) -> LayerRouting:
        """The routing since the last call; resets the counters."""
        seen = Counts.of(self.seen_C.clone(), self.num_experts)
        self.seen_C.zero_()
        tokens, assignments = max(float(seen.valid), 1.0), float(seen.selected_E.sum())
        return LayerRouting(
            load_E=(seen.selected_E / tokens).tolist(),
            share_E=(seen.selected_E / max(assignments, 1.0)).tolist(),
            learned_E=[] if self.learned_E is None else self.learned_E.tolist(),
            learned_name=self.learned_name,
            experts_per_token=assignments / tokens,
            unselected=float(seen.unselected) / tokens,
            router_entropy=float(seen.entropy) / tokens,
        )

    def _counts(self) -> Tensor:
        """All counts since the last step, [C]."""
        return torch.cat([getattr(self, name).reshape(-1) for name in Counts._fields])

    def _settle(self, total_C: Tensor) -> None:
        """Learn from the counts of all workers and begin anew."""
        self.seen_C += total_C
        self.learn(Counts.of(total_C, self.num_experts))
        for name in Counts._fields:
            getattr(self, name).zero_()


def selections(model: nn.Module) -> list[Selection]:
    """The selections of all layers, in their order."""
    return [module for module in model.modules() if isinstance(module, Selection)]


def update_biases(model: nn.Module, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
    """Move the biases or thresholds of all layers by what was counted since the last optimizer step, in one collective.

    Args:
        model: any module that holds :class:`Selection` layers, all with the same number of experts.
        reduce: sums a float64 tensor [M, C] over the workers; called once. None for a single worker.
    """
    layers = selections(model)
    if not layers:
        return
    counts_MC = torch.stack([layer._counts() for layer in layers])
    if reduce is not None:
        counts_MC = reduce(counts_MC)
    for layer, total_C in zip(layers, counts_MC, strict=True):
        layer._settle(total_C)
