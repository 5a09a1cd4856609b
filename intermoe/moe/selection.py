"""The common part of all paradigms of expert selection: assignment, counts, and the update after a step.

Legend: P persons, B batch, L latent frames, N = P * B * L positions, E experts, S tokens of this worker,
A assignments (pairs of a token and an expert, then the spare rows), R = E * S pairs that could be assigned, M layers
with experts, C numbers that a layer counts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import SPARE_POSITIONS, TokenPool

# Room for assignments comes in steps of so many rows, and of this share of the tokens.
_ROWS = 64
_LOAD_STEP = 1 / 8
# Room over the highest load seen, and the share of the room above which it is widened.
_HEADROOM = 1.25
_FULL = 0.9


@dataclass(frozen=True)
class Assignment:
    """Pairs of expert and token with their weights; sorted by expert, then by token.

    Where the number of rows was fixed before the number of pairs was known, spare rows follow the last expert's. What a
    kernel leaves in them, forward or backward, may be anything, so their sums go beyond the positions that there are.

    Attributes:
        token_A: int64, position of the token in the flattened [P, B, L]; in spare rows that of any token.
        gate_A: float32, weight of the expert's output (eq. 6); differentiable; 0 in spare rows.
        ends_E: int32, where the assignments of each expert end; expert e has ``ends[e - 1]`` to ``ends[e]``.
        target_A: int64, the position that a row is added to: that of its token, or N and above for a spare row.
        num_spare_positions: positions from N on that spare rows are added to; 0 where there are no spare rows.
    """

    token_A: Tensor
    gate_A: Tensor
    ends_E: Tensor
    target_A: Tensor
    num_spare_positions: int = 0

    def gates(self, num_positions: int) -> Tensor:
        """The gate of each expert at each position, [N, E]; zero where the expert is not assigned."""
        num_experts = len(self.ends_E)
        row_A = torch.arange(len(self.token_A), device=self.ends_E.device, dtype=self.ends_E.dtype)
        expert_A = torch.searchsorted(self.ends_E, row_A, right=True).clamp(max=num_experts - 1)
        gates = self.gate_A.new_zeros(num_positions + self.num_spare_positions, num_experts)
        return gates.index_put((self.target_A, expert_A), self.gate_A)[:num_positions]


class Demand(NamedTuple):
    """What a layer asked for in its last forward pass of training, where the number of rows was fixed before.

    Attributes:
        asked: int32 scalar, assignments that there were.
        given: int32 scalar, those of them that there were rows for: where it is less, what was computed must not be
            used.
        num_tokens: tokens that were routed.
    """

    asked: Tensor
    given: Tensor
    num_tokens: int


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
    """The counters of a layer in training, or of several [M, ...], in float64: whole numbers are exact.

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
        """Take apart what was joined, [C] or [M, C]; what is one number for a layer keeps a dimension of 1."""
        sizes = [num_experts if name.endswith("_E") else 1 for name in cls._fields]
        return cls(*counts_C.split(sizes, dim=-1))


class Selection(nn.Module, ABC):
    """A paradigm: from the logits of a pool's tokens to the assignment.

    A subclass says in ``take`` which expert takes which token, and may learn from what the workers counted together
    (``vote``, ``learn``); ``paradigms.PARADIGMS`` holds it under its name in the configuration. The gate of what is
    taken is the softmax over all experts, not renormalised (eqs. 5, 6); a token that no expert takes gets nothing.

    In training mode each call counts; :func:`update_biases` sums the counts over the workers, lets every layer learn,
    and begins anew. The state is in buffers, saved with the weights. Under DistributedDataParallel, set
    ``broadcast_buffers=False``: the broadcast would overwrite what the other workers counted.

    How many assignments there are is known to the device that made them. On a CPU the rows are as many. Elsewhere
    asking makes the host wait in every layer, so their number is fixed before it is known (``has_fixed_rows``). In
    evaluation there are rows for all that may be assigned (``most``). In training these would cost memory in every
    layer, so there are as many as ``room`` says, set by a caller that reads ``demand`` and does a pass that was short
    of rows again, as ``TrainingStep`` does; without it the host waits. Results are the same to the bit.

    Attributes:
        learned_name: what ``learned_E`` is called among the metrics; a subclass that learns says it.
        has_fixed_rows: whether the number of rows is fixed before it is known; None: where tokens are not on a CPU.
        room: assignments per token that there are rows for in training; None: the device is asked for their number.
        demand: of the last forward pass in training, unless rows are as many as assignments for good.
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
        self.has_fixed_rows: bool | None = None
        self.room: float | None = None
        self.demand: Demand | None = None
        for name in Counts._fields:
            shape = (config.experts,) if name.endswith("_E") else ()
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("seen_C", torch.zeros(2 * config.experts + 4, dtype=torch.float64))

    @abstractmethod
    def take(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """Mask of the tokens that each expert takes, bool [E, S]; called without gradients."""

    def vote(self, taken_ES: Tensor) -> None:
        """Note in ``vote_E`` and ``pools`` what to learn from what a training batch took; nothing by default."""

    @classmethod
    def learn(cls, layers: Sequence[Self], total: Counts) -> None:
        """Move what all layers have learned; called once after each optimizer step.

        Args:
            layers: of a model, with the same settings.
            total: of each layer [M, ...], the sums over all workers.
        """

    def most(self, pool: TokenPool) -> int:
        """The most assignments that ``take`` can make of a pool; called where nothing may wait for the device."""
        return self.num_experts * len(pool.position_S)

    @property
    def learned_E(self) -> Tensor | None:
        """The bias or threshold of each expert, where the paradigm learns one."""
        return None

    def forward(self, logits_SE: Tensor, pool: TokenPool) -> Assignment:
        """Select from the float32 logits of this worker's tokens."""
        with torch.no_grad():
            taken_ES = self.take(logits_SE.detach(), pool)
            count_E = taken_ES.sum(dim=1, dtype=torch.int32)
            if self.training:
                self.selected_E += count_E
                self.valid += len(logits_SE)
                self.unselected += (~taken_ES.any(dim=0)).sum()
                self.entropy += torch.special.entr(logits_SE.double().softmax(dim=-1)).sum()
                self.vote(taken_ES)
            # Rows are experts, so the places of what is taken are already sorted by expert.
            taken_R, ends_E = taken_ES.flatten(), count_E.cumsum(0, dtype=torch.int32)
            is_fixed = logits_SE.device.type != "cpu" if self.has_fixed_rows is None else self.has_fixed_rows
            if is_fixed and not (self.training and self.room is None):
                return self._in_fixed_rows(logits_SE, pool, taken_R, ends_E)
            place_A = taken_R.nonzero().squeeze(1)
            if is_fixed:
                self.demand = Demand(ends_E[-1], ends_E[-1], len(logits_SE))
        gate_A = logits_SE.softmax(dim=-1).T.flatten().index_select(0, place_A)
        token_A = pool.position_S.index_select(0, place_A % max(len(logits_SE), 1))
        return Assignment(token_A, gate_A, ends_E, target_A=token_A)

    def _in_fixed_rows(self, logits_SE: Tensor, pool: TokenPool, taken_R: Tensor, ends_E: Tensor) -> Assignment:
        """The assignment in a number of rows that does not follow from what is taken."""
        num_tokens, num_rows = len(logits_SE), self.most(pool)
        if self.training:
            assert self.room is not None
            num_rows = min(num_rows, math.ceil(self.room * num_tokens / _ROWS) * _ROWS)
        given_E = ends_E.clamp(max=num_rows)
        if self.training:
            self.demand = Demand(ends_E[-1], given_E[-1], num_tokens)
        place_A = torch.nonzero_static(taken_R, size=num_rows, fill_value=0).squeeze(1)
        row_R, position_R, beyond_R = pool.pairs(self.num_experts)
        spare_A = row_R[:num_rows] >= ends_E[-1]
        token_A = position_R.index_select(0, place_A)
        target_A = torch.where(spare_A, beyond_R[:num_rows], token_A)
        with torch.enable_grad():
            gate_A = logits_SE.softmax(dim=-1).T.flatten().index_select(0, place_A).masked_fill(spare_A, 0)
        return Assignment(token_A, gate_A, given_E, target_A, SPARE_POSITIONS)

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


def selections(model: nn.Module) -> list[Selection]:
    """The selections of all layers, in their order."""
    return [module for module in model.modules() if isinstance(module, Selection)]


def update_biases(
    model: nn.Module, reduce: Callable[[Tensor], Tensor] | None = None, skipped: Tensor | None = None
) -> None:
    """Move the biases or thresholds of all layers by what was counted since the last optimizer step, in one collective.

    Args:
        model: any module that holds :class:`Selection` layers, all with the same settings.
        reduce: sums a float64 tensor [M, C] over the workers; called once. None for a single worker.
        skipped: bool scalar; where it is true, what was counted is forgotten and nothing moves.
    """
    layers = selections(model)
    if not layers:
        return
    counters = [getattr(layer, name) for layer in layers for name in Counts._fields]
    total_MC = torch.cat([counter.reshape(-1) for counter in counters]).view(len(layers), -1)
    if reduce is not None:
        total_MC = reduce(total_MC)
    if skipped is not None:
        total_MC = total_MC.masked_fill(skipped, 0)
    torch._foreach_add_([layer.seen_C for layer in layers], list(total_MC.unbind()))
    layers[0].learn(layers, Counts.of(total_MC, layers[0].num_experts))
    torch._foreach_zero_(counters)


def fit_rooms(layers: Sequence[Selection], peaks: Sequence[float]) -> None:
    """Set how many assignments there are rows for, by the highest load of each layer since the last time.

    Room is widened where it was nearly full, and cut where less than half of it was of use, not with every change of
    the load: a new number of rows is new work for the allocator and a compiler.

    Args:
        layers: a model's.
        peaks: of each layer, assignments per token.
    """
    for layer, peak in zip(layers, peaks, strict=True):
        fitting = math.ceil(_HEADROOM * peak / _LOAD_STEP) * _LOAD_STEP
        if layer.room is None or peak > _FULL * layer.room or 2 * fitting < layer.room:
            layer.room = fitting
