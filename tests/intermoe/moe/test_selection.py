"""What is counted, how biases and thresholds follow, and what is told of it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intermoe.moe.paradigms import DynamicSelection, ExpertChoice, UniformAssignment, capacity, cut
from intermoe.moe.pool import Scope, TokenPool
from intermoe.moe.selection import Assignment, Selection, after_step


def selection(
    c_exp: float = 1.0, sigma: float = 0.01, experts: int = 4, bias_init: Any = -0.5, scope: Scope = "global"
) -> DynamicSelection:
    return DynamicSelection(experts, c_exp, sigma, bias_init, scope)


def select(chooser: Selection, logits: Tensor, *lengths: int) -> Assignment:
    """Let it choose among the tokens of one person's motions of these lengths; of one motion where none are given."""
    frames = torch.tensor(lengths or [len(logits)])
    mask = torch.arange(int(frames.max())) < frames[:, None]
    return chooser(logits, TokenPool.of(mask, persons=1))


def load(chooser: Selection) -> Tensor:
    """Let it learn from the step; the load of each expert."""
    after_step(chooser)
    return torch.tensor(chooser.look().load_E)


def test_assignment_is_sorted_by_expert_and_gates_are_not_renormalised() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0], [0.5, 0.5, -3.0]])
    found = select(selection(experts=3), logits)
    assert found.token_A.tolist() == [0, 2, 2, 0]
    assert found.ends_E.tolist() == [2, 3, 4]
    gates = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found.gate_A, torch.stack([gates[0, 0], gates[2, 0], gates[2, 1], gates[0, 2]]))


def test_a_score_of_exactly_zero_is_not_taken() -> None:
    assert len(select(selection(), torch.zeros(5, 4)).token_A) == 0  # sigmoid(0) - 0.5 = 0


def test_the_pool_hands_over_valid_tokens_only_and_names_their_positions() -> None:
    logits_NE = torch.arange(2 * 2 * 3).float()[:, None]
    pool = TokenPool.of(torch.tensor([[True, False, False], [True, True, False]]), persons=2)
    chooser = selection(experts=1, bias_init=-0.9)
    found = chooser(logits_NE[pool.position_S], pool)
    assert found.token_A.tolist() == [3, 4, 6, 9, 10]  # position 0 has logit 0: 0.5 < 0.9
    assert chooser.valid == 6


def naive_bias(bias: list[float], steps: list[list[Tensor]], c_exp: float, sigma: float) -> list[float]:
    """Equations 4 and 7-9 in Python's arithmetic, a step a list of micro-batches of logits [S, E]."""
    for micro_batches in steps:
        counts, tokens = [0] * len(bias), 0
        for logits in micro_batches:
            for row in logits.double().sigmoid().tolist():
                tokens += 1
                counts = [n + (s + b > 0) for n, s, b in zip(counts, row, bias, strict=True)]
        for e, n in enumerate(counts):
            expected = c_exp * tokens / len(bias)
            bias[e] -= sigma * ((n > expected) - (n < expected))
            bias[e] = min(max(bias[e], -1 + 1e-6), -1e-6)
    return bias


@pytest.mark.parametrize("c_exp", [0.8, 1.0, 2.0])
def test_biases_follow_the_equations_over_steps_and_micro_batches(c_exp: float) -> None:
    generator = torch.Generator().manual_seed(0)
    offset = torch.tensor([2.0, 0.0, -0.5, -3.0])
    steps = [[torch.randn(n, 4, generator=generator) + offset for n in (13, 24)] for _ in range(60)]
    chooser = selection(c_exp=c_exp, sigma=0.013)
    chooser.train()
    for micro_batches in steps:
        for logits in micro_batches:
            select(chooser, logits)
        after_step(chooser)
    expected = naive_bias([-0.5] * 4, steps, c_exp, 0.013)
    torch.testing.assert_close(chooser.bias_E, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_with_momentum_the_sign_is_that_of_a_running_mean_of_the_load(momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    chooser = DynamicSelection(4, 1.0, 0.01, -0.5, "global", momentum).train()
    bias, mean = [-0.5] * 4, [0.0] * 4
    for step in range(40):
        logits = 2 * torch.randn(20 if step != 7 else 0, 4, generator=generator)
        for e in range(4):
            if len(logits):
                load = sum(s + bias[e] > 0 for s in logits[:, e].sigmoid().tolist()) / len(logits)
                mean[e] = momentum * mean[e] + (1 - momentum) * (load - 0.25)
                bias[e] -= 0.01 * ((mean[e] > 1e-12) - (mean[e] < -1e-12))
        select(chooser, logits)
        after_step(chooser)
    torch.testing.assert_close(chooser.bias_E, torch.tensor(bias), atol=1e-5, rtol=0)


def test_where_loads_are_skewed_momentum_balances_the_mean() -> None:
    """Few samples make a batch, and all tokens of a sample go the same way: an expert's share is two of 16 samples."""
    ends = []
    for momentum in (0.0, 0.95):
        generator = torch.Generator().manual_seed(0)
        chooser = DynamicSelection(8, 1.0, 0.004, -0.8, "global", momentum).train()
        for step in range(1500):
            samples = 2 * torch.randn(16, 8, generator=generator)
            select(chooser, samples.repeat_interleave(10, dim=0))
            after_step(chooser)
            if step == 500:
                chooser.look()
        ends.append(chooser.look().experts_a_token)
    assert ends[0] > 1.05
    assert ends[1] == pytest.approx(1.0, abs=0.03)


def test_load_approaches_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    chooser = selection(c_exp=1.0, sigma=0.01)
    chooser.train()
    for _ in range(200):
        select(chooser, torch.randn(400, 4, generator=generator) + torch.tensor([1.0, 0.0, -1.0, 2.0]))
        last = load(chooser)
    assert (last - 0.25).abs().max() < 0.06
    assert chooser.bias_E.max() < 0
    assert chooser.bias_E.min() > -1


@pytest.mark.parametrize("logit", [30.0, -30.0])
def test_biases_stay_inside_the_open_interval(logit: float) -> None:
    chooser = selection(sigma=0.3)
    chooser.train()
    for _ in range(5):
        select(chooser, torch.full((6, 4), logit))
        after_step(chooser)
    assert ((chooser.bias_E > -1) & (chooser.bias_E < 0)).all()


def test_only_training_counts() -> None:
    chooser = selection().eval()
    select(chooser, torch.ones(5, 4))
    assert chooser.valid == 0
    assert not chooser.selected_E.any()


def test_a_load_on_target_and_a_step_without_tokens_move_nothing() -> None:
    chooser = selection(c_exp=1.0)
    chooser.train()
    select(chooser, 4 * torch.eye(4) - 2)  # each expert takes one token of four
    assert torch.equal(load(chooser), torch.full((4,), 0.25))
    assert torch.equal(load(chooser), torch.zeros(4))
    assert torch.equal(chooser.bias_E, torch.full((4,), -0.5))


def test_two_workers_with_one_reduction_move_as_one() -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [[torch.randn(12, 4, generator=generator) for _layer in range(3)] for _worker in range(2)]

    def layers() -> Any:
        return nn.ModuleList(selection() for _ in range(3)).train()

    one, workers = layers(), [layers(), layers()]
    for worker, batch in zip(workers, batches, strict=True):
        for alone, shared, logits in zip(one, worker, batch, strict=True):
            select(alone, logits)
            select(shared, logits)
    counted = [torch.stack([layer._counts() for layer in worker]) for worker in workers]
    calls: list[Tensor] = []
    for worker in workers:
        after_step(worker, lambda own: calls.append(own.clone()) or counted[0] + counted[1])
    after_step(one)
    assert all(torch.equal(call, count) for call, count in zip(calls, counted, strict=True))
    assert len(calls) == 2, "one reduction for all layers"
    for alone, first, second in zip(one, *workers, strict=True):
        assert torch.equal(alone.bias_E, first.bias_E)
        assert torch.equal(first.bias_E, second.bias_E)
        assert not first._counts().any()
        assert alone.look().load_E == first.look().load_E == second.look().load_E


def test_a_model_without_mixture_has_nothing_to_reduce() -> None:
    after_step(nn.Linear(2, 2), reduce=lambda _: pytest.fail("nothing to reduce"))


def test_within_a_sequence_only_the_difference_to_its_mean_wins_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    own, common = torch.randn(12, 4, generator=generator), 5 * torch.randn(3, 4, generator=generator)
    lengths = torch.tensor([5, 3, 4])
    logits = own + common.repeat_interleave(lengths, dim=0)
    chooser = selection(scope="sequence")
    expected = select(chooser, own, *lengths.tolist())
    found = select(chooser, logits, *lengths.tolist())
    assert torch.equal(found.token_A, expected.token_A)
    assert len(found.token_A) > 10
    elsewhere = select(selection(), logits, *lengths.tolist())
    assert found.token_A.tolist() != elsewhere.token_A.tolist()
    alone = [select(chooser, part, len(part)) for part in logits.split(lengths.tolist())]
    assert sum(len(one.token_A) for one in alone) == len(found.token_A), "other motions of the batch change nothing"


def test_within_sequences_a_token_meets_as_many_experts_as_it_shall() -> None:
    """However far the samples lie apart."""
    generator = torch.Generator().manual_seed(0)
    chooser = DynamicSelection(8, 1.0, 0.004, -0.8, "sequence").train()
    for step in range(1000):
        samples = 3 * torch.randn(16, 8, generator=generator)
        logits = samples.repeat_interleave(10, dim=0) + torch.randn(160, 8, generator=generator)
        select(chooser, logits, *[10] * 16)
        after_step(chooser)
        if step == 500:
            chooser.look()
    assert chooser.look().experts_a_token == pytest.approx(1.0, abs=0.05)


def test_each_workers_batch_votes_once() -> None:
    chooser = selection(experts=2, sigma=0.03, scope="worker").train()
    for first in (3.0, -3.0, -3.0):
        select(chooser, torch.tensor([[first, -3.0]]).repeat(4, 1))
    select(chooser, torch.zeros(0, 2), 0)
    after_step(chooser)
    torch.testing.assert_close(chooser.bias_E, torch.tensor([-0.5 + 0.01, -0.5 + 0.03]))


@pytest.mark.parametrize("c_exp", [0.8, 1.0, 2.0])
def test_calibrated_biases_meet_the_target_with_the_first_pool(c_exp: float) -> None:
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0.0, -1.0, -4.0])
    chooser = selection(c_exp=c_exp, bias_init="calibrated")
    chooser.eval()
    select(chooser, logits)
    assert chooser.bias_E.tolist() == [-0.5] * 4, "evaluation does not calibrate"
    chooser.train()
    select(chooser, torch.zeros(0, 4), 0)
    assert not chooser.calibrated
    select(chooser, logits)
    assert chooser.selected_E.tolist() == [capacity(500, 4, c_exp)] * 4
    before = chooser.bias_E.clone()
    select(chooser, logits + 1)
    assert torch.equal(chooser.bias_E, before), "only the first pool"


def test_the_threshold_of_expert_choice_is_a_running_mean_of_the_cuts() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [[torch.randn(n, 4, generator=generator) for n in (10, 17)] for _ in range(5)]
    chooser = ExpertChoice(4, 1.0, "global").train()
    expected: list[float] | None = None
    for micro_batches in steps:
        found = []
        for logits in micro_batches:
            select(chooser, logits)
            count = round(len(logits) / 4)
            found.append([])
            for e in range(4):
                ordered = sorted(logits[:, e].tolist(), reverse=True)
                found[-1].append(1 / (1 + math.exp(-(ordered[count - 1] + ordered[count]) / 2)))
        after_step(chooser)
        mean = [sum(cuts) / 2 for cuts in zip(*found, strict=True)]
        expected = mean if expected is None else [0.98 * e + 0.02 * m for e, m in zip(expected, mean, strict=True)]
    torch.testing.assert_close(chooser.threshold_E, torch.tensor(expected))
    after_step(chooser)
    torch.testing.assert_close(chooser.threshold_E, torch.tensor(expected), msg="a step without tokens moves nothing")


def test_by_its_threshold_an_expert_takes_about_its_share() -> None:
    generator = torch.Generator().manual_seed(0)
    chooser = ExpertChoice(8, 1.0, "global").train()
    for _ in range(30):
        select(chooser, torch.randn(200, 8, generator=generator))
        after_step(chooser)
    chooser.eval()
    found = select(chooser, torch.randn(4000, 8, generator=generator))
    assert len(found.token_A) / 4000 == pytest.approx(1.0, rel=0.1)


def test_a_cut_takes_as_many_as_it_says_even_all_or_none() -> None:
    scores = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    for count in range(8):
        assert (scores > cut(scores, count)).sum(dim=0).tolist() == [count] * 3


def test_of_equal_scores_a_cut_takes_none_or_all() -> None:
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.2])[:, None]
    found = [int((scores > cut(scores, count)).sum()) for count in range(6)]
    assert found == [0, 1, 1, 4, 4, 5]


@pytest.mark.parametrize(("samples", "experts"), [(8, 16), (4, 8), (32, 16)])
def test_calibration_meets_the_target_where_all_tokens_of_a_sample_score_the_same(samples: int, experts: int) -> None:
    logits = torch.randn(samples, experts, generator=torch.Generator().manual_seed(0)).repeat_interleave(10, dim=0)
    chooser = selection(experts=experts, bias_init="calibrated").train()
    select(chooser, logits)
    # As near as whole samples allow.
    nearest = min(abs(n * 10 - capacity(len(logits), experts, 1.0)) for n in range(samples))
    for taken in chooser.selected_E.tolist():
        assert abs(taken - capacity(len(logits), experts, 1.0)) == nearest


@pytest.mark.parametrize(("experts", "c_exp"), [(4, 1.0), (8, 2.0), (4, 0.8), (16, 1.0)])
def test_uniform_deals_evenly(experts: int, c_exp: float) -> None:
    chooser = UniformAssignment(experts, c_exp).train()
    pool = TokenPool.of(torch.ones(3, 80, dtype=torch.bool), persons=2)
    chooser(torch.randn(480, experts), pool)
    after_step(chooser)
    assert chooser.look().load_E == [c_exp / experts] * experts


def test_what_is_told_of_the_routing() -> None:
    logits = torch.tensor([[2.0, -2.0], [1.0, 1.0], [-1.0, -1.0], [-2.0, 3.0]])
    chooser = selection(experts=2, sigma=0.25).train()
    select(chooser, logits)
    after_step(chooser)  # expert 0 took tokens 0 and 1, expert 1 tokens 1 and 3, token 2 went without
    told = chooser.look()
    assert (told.load_E, told.share_E) == ([0.5, 0.5], [0.5, 0.5])
    assert (told.experts_a_token, told.unselected, told.bias_E) == (1.0, 0.25, [-0.5, -0.5])
    probability = torch.softmax(logits.double(), dim=1)
    assert told.router_entropy == pytest.approx(float(-(probability * probability.log()).sum(1).mean()))
    assert chooser.look().experts_a_token == 0.0, "the look begins anew"


def test_gates_as_a_grid() -> None:
    assignment = Assignment(torch.tensor([4, 0, 4]), torch.tensor([0.5, 0.25, 0.125]), torch.tensor([1, 1, 3]))
    expected = torch.zeros(6, 3)
    expected[4, 0], expected[0, 2], expected[4, 2] = 0.5, 0.25, 0.125
    assert torch.equal(assignment.gates(6), expected)
