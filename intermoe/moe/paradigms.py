"""The paradigms of the paper's tables: who chooses, the expert or the token, and how many.

How the rows of the paper's ablations are read, since it leaves room (``moe.*`` keys; all else as in "Ours Full"):

=======  =============================  ==========================================================================
table    row                            reading
=======  =============================  ==========================================================================
2        Baseline                       ``selection=dense``: one SwiGLU network of an expert's width for every token
2        w/o Motion & Text Router       ``router=motion``: no parallel pair of routers, one on the motion stream
2        w/o Batch-level Routing        ``pool=sequence``: a motion's tokens compete with each other alone
2        w/o Dynamic Selection          ``selection=expert_choice``: a fixed top-K for each expert, over the pool
2        w/o Temporal-Selective         ``selection=uniform``: tokens are dealt evenly, whatever their scores
3        Token Choice                   ``selection=token_choice router=motion``, as such methods usually are
3        Expert Choice                  ``selection=expert_choice router=motion pool=sequence``, as in EC-DiT
2, 3, 5  Ours; C_exp                    ``selection=dynamic router=synergistic pool=global``, ``c_exp``
=======  =============================  ==========================================================================

Legend: E experts, S tokens of this worker, X tokens of all workers, N sequences, k tokens or experts of the highest
scores, M layers.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool, num_workers
from intermoe.moe.selection import Counts, Selection

# The biases stay this far inside the open interval (-1, 0).
_MARGIN = 1e-6
# Share that the running threshold of expert choice keeps in each step.
_THRESHOLD_MOMENTUM = 0.98


class DynamicSelection(Selection):
    """Every expert picks the tokens it works on, and its bias says how many (Dynamic Temporal Selection, section 3.2).

    Expert e takes token s if ``sigmoid(logit) + bias_e > 0`` (eqs. 4 and 6). In each step the bias of an expert that
    took more than its share ``c_exp / E`` of the tokens is lowered by sigma, that of one that took less is raised (eqs.
    7-9), and kept inside (-1, 0).

    What the pool changes: under ``global`` the counts of eq. 7 go over all tokens of a step. Under ``worker`` each
    worker votes up or down by its own, and the bias moves by sigma times the mean vote. Under ``sequence`` an expert
    compares the tokens of a motion with each other alone: its logits are centred on their mean over the motion before
    eq. 4, so that nothing that a whole sample has in common, its text or its noise level, wins it more tokens.

    The sign of single steps balances the median load. Where an expert's share is a few samples of the batch, loads are
    skewed and the mean ends above ``c_exp``; ``load_momentum`` takes the sign of a running mean of the load instead
    (not under ``worker``). 0 is eq. 8 to the letter.

    Attributes:
        bias_E: float32, in (-1, 0).
        excess_E: float64, running mean of each expert's load, times E, minus ``c_exp``.
        calibrated: bool; false as long as the biases wait for a first pool to be set by.
    """

    learned_name = "bias"
    bias_E: Tensor
    excess_E: Tensor
    calibrated: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__(config)
        self.sigma, self.scope, self.load_momentum = config.sigma, config.pool, config.load_momentum
        calibrates = config.bias_init == "calibrated"
        bias_init = -0.5 if config.bias_init == "calibrated" else config.bias_init
        # Whether the host knows that the biases are set: the buffer is on the device, which is asked once.
        self._is_calibrated = not calibrates
        self.register_buffer("excess_E", torch.zeros(config.experts, dtype=torch.float64))
        self.register_buffer("bias_E", torch.full((config.experts,), bias_init))
        self.register_buffer("calibrated", torch.tensor(not calibrates))

    @property
    def learned_E(self) -> Tensor:
        """The biases."""
        return self.bias_E

    def take(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """Eqs. 4 and 6."""
        if self.scope == "sequence":
            logits_SE = logits_SE - pool.sequence_means(logits_SE)
        if self.training and not self._is_calibrated:
            # What is set for good must not be set by a pass that was short of rows.
            self.room = None
            self._is_calibrated = bool(self.calibrated) or self._calibrate(logits_SE, pool)
        return (logits_SE.sigmoid() + self.bias_E > 0).T

    def _calibrate(self, logits_SE: Tensor, pool: TokenPool) -> bool:
        """Set each bias so that its expert takes its share of the first pool of all workers at once; false without."""
        logits_XE, _ = pool.gather(logits_SE)
        if not len(logits_XE):
            return False
        num_chosen = capacity(len(logits_XE), self.num_experts, self.c_exp)
        self.bias_E.copy_(-cut(logits_XE, num_chosen).sigmoid())
        self.bias_E.clamp_(-1 + _MARGIN, -_MARGIN)
        self.calibrated.fill_(value=True)
        return True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._is_calibrated = False

    def vote(self, taken_ES: Tensor) -> None:
        """A worker with tokens says whether an expert took too many of them (1) or too few (-1)."""
        if self.scope == "worker" and taken_ES.shape[1]:
            self.vote_E += self._excess(taken_ES.sum(dim=1), taken_ES.shape[1]).sign()
            self.pools += 1

    @classmethod
    def learn(cls, layers: Sequence[Self], total: Counts) -> None:
        """Eqs. 8 and 9; where no token was counted nothing moves."""
        first = layers[0]
        if first.scope == "worker":
            step_ME = total.vote_E / total.pools.clamp(min=1)
        else:
            excess_ME = torch.stack([layer.excess_E for layer in layers])
            now_ME = first._excess(total.selected_E, total.valid) / total.valid.clamp(min=1)
            mean_ME = torch.lerp(now_ME, excess_ME, first.load_momentum)
            excess_ME = torch.where(total.valid > 0, mean_ME, excess_ME)
            torch._foreach_copy_([layer.excess_E for layer in layers], list(excess_ME.unbind()))
            step_ME = excess_ME.sign() * (total.valid > 0)
        bias_ME = torch.stack([layer.bias_E for layer in layers]) - first.sigma * step_ME.float()
        bias_ME.clamp_(-1 + _MARGIN, -_MARGIN)
        torch._foreach_copy_([layer.bias_E for layer in layers], list(bias_ME.unbind()))

    def _excess(self, taken_E: Tensor, num_tokens: Tensor | int) -> Tensor:
        # Load minus c_exp / E, times num_tokens * E: exact for whole numbers, and zero where nothing was counted.
        return taken_E.double() * self.num_experts - self.c_exp * num_tokens


class TokenChoice(Selection):
    """Every token goes to the ``c_exp`` experts it scores highest with, as in most mixtures of experts."""

    def take(self, logits_SE: Tensor, _pool: TokenPool) -> Tensor:
        """The top-k experts of each token; of equal ones, the first."""
        chosen_Sk = logits_SE.sort(dim=1, descending=True, stable=True).indices[:, : int(self.c_exp)]
        return torch.zeros_like(logits_SE, dtype=torch.bool).scatter(1, chosen_Sk, value=True).T

    def most(self, pool: TokenPool) -> int:
        """So many, always."""
        return int(self.c_exp) * len(pool.position_S)


class ExpertChoice(Selection):
    """Every expert takes the same number of tokens, ``c_exp / E`` of the pool: those that score highest with it.

    The pool is the sequence (of which each expert takes at least one token), the batch of a worker, or that of all
    workers, whose scores are then gathered; under gradient accumulation, one micro-batch of theirs. In evaluation a
    token's experts must not depend on who shares its batch. Under ``sequence`` they do not. Otherwise an expert takes
    what scores above its running threshold, the score that divided taken from left in training (as in DiffMoE): its
    share on average, where the pools in training held many samples, and somewhat more where they held few.

    Attributes:
        threshold_E: float32, in [0, 1], compared with sigmoid(logit).
        steps: int64, optimizer steps that the threshold has learned from.
    """

    learned_name = "threshold"
    threshold_E: Tensor
    steps: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__(config)
        self.scope = config.pool
        self.register_buffer("threshold_E", torch.full((config.experts,), 0.5))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def learned_E(self) -> Tensor | None:
        """The thresholds, where they are used."""
        return None if self.scope == "sequence" else self.threshold_E

    def take(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """The top-K tokens of each expert; of equal ones, the first."""
        if self.scope == "sequence":
            return self._take_in_sequences(logits_SE, pool)
        if not self.training:
            return (logits_SE.sigmoid() > self.threshold_E).T
        if self.scope == "worker":
            return self._take_in_pool(logits_SE)
        logits_XE, own_S = pool.gather(logits_SE)
        return self._take_in_pool(logits_XE)[:, own_S]

    def _take_in_pool(self, logits_XE: Tensor) -> Tensor:
        """Also votes on the threshold: all workers that see the same pool cast the same vote."""
        num_chosen = capacity(len(logits_XE), self.num_experts, self.c_exp)
        best_kE = logits_XE.sort(dim=0, descending=True, stable=True).indices[:num_chosen]
        taken_EX = torch.zeros_like(logits_XE, dtype=torch.bool).scatter(0, best_kE, value=True).T
        if len(logits_XE):
            self.vote_E += cut(logits_XE, num_chosen).sigmoid()
            self.pools += 1
        return taken_EX

    def _take_in_sequences(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """All sequences at once: ranks within each, from a sort by score and then, stably, by sequence."""
        sequence_S = pool.sequence_S
        num_tokens_N = pool.sequence_lengths
        first_N = num_tokens_N.cumsum(0) - num_tokens_N
        order_SE = logits_SE.sort(dim=0, descending=True, stable=True).indices
        by_sequence_SE = sequence_S[order_SE].sort(dim=0, stable=True)
        order_SE = order_SE.gather(0, by_sequence_SE.indices)
        place_S1 = torch.arange(len(logits_SE), device=logits_SE.device)[:, None]
        chosen_SE = place_S1 - first_N[by_sequence_SE.values] < self._share(num_tokens_N)[by_sequence_SE.values]
        return torch.zeros_like(chosen_SE).scatter(0, order_SE, chosen_SE).T

    def _share(self, num_tokens_N: Tensor) -> Tensor:
        return (num_tokens_N.double() * self.c_exp / self.num_experts).round().long().clamp(min=1)

    def most(self, pool: TokenPool) -> int:
        """Each expert's share, where it is counted."""
        num_tokens = len(pool.position_S)
        if self.scope == "sequence":
            # Rounded up, at least one of each motion.
            share = int(num_tokens * self.c_exp / self.num_experts) + pool.num_sequences
        elif self.training and (self.scope == "worker" or num_workers() == 1):
            share = capacity(num_tokens, self.num_experts, self.c_exp)
        else:
            share = num_tokens
        return self.num_experts * min(share, num_tokens)

    @classmethod
    def learn(cls, layers: Sequence[Self], total: Counts) -> None:
        """The running mean of the thresholds; the first is taken as it is."""
        if layers[0].scope == "sequence":
            return
        threshold_ME = torch.stack([layer.threshold_E for layer in layers])
        steps_M = torch.stack([layer.steps for layer in layers])
        mean_cut_ME = (total.vote_E / total.pools.clamp(min=1)).float()
        keep_M1 = torch.where(steps_M[:, None] > 0, _THRESHOLD_MOMENTUM, 0.0)
        keep_M1 = torch.where(total.pools > 0, keep_M1, 1.0)
        threshold_ME = keep_M1 * threshold_ME + (1 - keep_M1) * mean_cut_ME
        torch._foreach_copy_([layer.threshold_E for layer in layers], list(threshold_ME.unbind()))
        torch._foreach_add_([layer.steps for layer in layers], list((total.pools > 0).long()[:, 0].unbind()))


class UniformAssignment(Selection):
    """Tokens are dealt to the experts in turn, ``c_exp`` per token on average, whatever their scores.

    Evenly to within one round per motion: its frames get the experts one after the other, frame l those with the
    numbers ``floor(l * c_exp)`` to ``floor((l + 1) * c_exp) - 1``, modulo E. The second person begins half a round
    later. So a token's experts follow from its own place alone.
    """

    def take(self, logits_SE: Tensor, pool: TokenPool) -> Tensor:
        """The experts whose turn it is."""
        # The small number keeps a product like 0.7 * 10 from falling below its whole number.
        begin_S = (pool.frame_S.double() * self.c_exp + 1e-6).floor().long()
        end_S = ((pool.frame_S + 1).double() * self.c_exp + 1e-6).floor().long()
        offset_S = begin_S + pool.person_S * (self.num_experts // 2)
        expert_E1 = torch.arange(self.num_experts, device=logits_SE.device)[:, None]
        return (expert_E1 - offset_S) % self.num_experts < end_S - begin_S

    def most(self, pool: TokenPool) -> int:
        """No token has more turns than the next whole number."""
        return math.ceil(self.c_exp) * len(pool.position_S)


PARADIGMS: Mapping[str, type[Selection]] = MappingProxyType(
    {
        "dynamic": DynamicSelection,
        "token_choice": TokenChoice,
        "expert_choice": ExpertChoice,
        "uniform": UniformAssignment,
    }
)
"""The paradigm of each value of ``moe.selection``, but for ``dense``, which selects nothing."""


def capacity(num_tokens: int, num_experts: int, c_exp: float) -> int:
    """Tokens that each expert takes of a pool, K_exp of section 4.3, rounded.

    Example:
        >>> capacity(num_tokens=150, num_experts=8, c_exp=1.0)
        19
    """
    return round(num_tokens * c_exp / num_experts)


def cut(logits_XE: Tensor, num_chosen: int) -> Tensor:
    """For each expert a threshold [E] that ``num_chosen`` of its logits exceed: half way to the next lower one.

    Of equal logits, none or all exceed it, whichever is nearer to ``num_chosen``. (Equal only as logits: their sigmoids
    may differ by rounding.) Infinite where none or all are chosen.

    Example:
        >>> cut(torch.tensor([[0.2], [0.8], [0.6]]), 2), cut(torch.tensor([[0.2], [0.8], [0.2], [0.2]]), 2)
        (tensor([0.4000]), tensor([0.5000]))
    """
    edge_1E = logits_XE.new_full((1, logits_XE.shape[1]), torch.inf)
    sorted_XE = torch.cat([edge_1E, logits_XE.sort(dim=0, descending=True).values, -edge_1E])
    last_1E = sorted_XE[num_chosen : num_chosen + 1]
    above_1E, through_1E = (test.sum(dim=0, keepdim=True) for test in (logits_XE > last_1E, logits_XE >= last_1E))
    over_1E = (sorted_XE.gather(0, above_1E) + last_1E) / 2
    under_1E = (last_1E + sorted_XE.gather(0, through_1E + 1)) / 2
    return torch.where(num_chosen - above_1E < through_1E - num_chosen, over_1E, under_1E)[0]
