"""How the biases of dynamic selection and the thresholds of expert choice follow the load, and who gets which token."""

import math
from typing import get_args

import pytest
import torch
from routing import dynamic, route
from torch import Tensor

from intermoe.moe.config import MoeConfig
from intermoe.moe.paradigms import PARADIGMS, ExpertChoice, UniformAssignment, capacity, cut
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Selection, update_biases


def load(selection: Selection) -> Tensor:
    """Let it learn from the step; the load of each expert."""
    update_biases(selection)
    return torch.tensor(selection.pop_routing().load_E)


def test_the_configuration_names_every_paradigm_and_the_dense_block() -> None:
    assert {*PARADIGMS, "dense"} == {*get_args(MoeConfig.model_fields["selection"].annotation)}


def test_a_score_of_exactly_zero_is_not_taken() -> None:
    assert len(route(dynamic(), torch.zeros(5, 4)).token_A) == 0  # sigmoid(0) - 0.5 = 0


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
    selection = dynamic(c_exp=c_exp, sigma=0.013)
    selection.train()
    for micro_batches in steps:
        for logits in micro_batches:
            route(selection, logits)
        update_biases(selection)
    expected = naive_bias([-0.5] * 4, steps, c_exp, 0.013)
    torch.testing.assert_close(selection.bias_E, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_with_momentum_the_sign_is_that_of_a_running_mean_of_the_load(momentum: float) -> None:
    generator = torch.Generator().manual_seed(0)
    selection = dynamic(load_momentum=momentum).train()
    bias, mean = [-0.5] * 4, [0.0] * 4
    for step in range(40):
        logits = 2 * torch.randn(20 if step != 7 else 0, 4, generator=generator)
        for e in range(4):
            if len(logits):
                load = sum(s + bias[e] > 0 for s in logits[:, e].sigmoid().tolist()) / len(logits)
                mean[e] = momentum * mean[e] + (1 - momentum) * (load - 0.25)
                bias[e] -= 0.01 * ((mean[e] > 1e-12) - (mean[e] < -1e-12))
        route(selection, logits)
        update_biases(selection)
    torch.testing.assert_close(selection.bias_E, torch.tensor(bias), atol=1e-5, rtol=0)


def test_where_loads_are_skewed_momentum_balances_the_mean() -> None:
    """Few samples make a batch, and all tokens of a sample go the same way: an expert's share is two of 16 samples."""
    ends = []
    for momentum in (0.0, 0.95):
        generator = torch.Generator().manual_seed(0)
        selection = dynamic(experts=8, sigma=0.004, bias_init=-0.8, load_momentum=momentum).train()
        for step in range(1500):
            samples = 2 * torch.randn(16, 8, generator=generator)
            route(selection, samples.repeat_interleave(10, dim=0))
            update_biases(selection)
            if step == 500:
                selection.pop_routing()
        ends.append(selection.pop_routing().experts_per_token)
    assert ends[0] > 1.05
    assert ends[1] == pytest.approx(1.0, abs=0.03)


def test_load_approaches_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    selection = dynamic(c_exp=1.0, sigma=0.01)
    selection.train()
    for _ in range(200):
        route(selection, torch.randn(400, 4, generator=generator) + torch.tensor([1.0, 0.0, -1.0, 2.0]))
        last = load(selection)
    assert (last - 0.25).abs().max() < 0.06
    assert selection.bias_E.max() < 0
    assert selection.bias_E.min() > -1


@pytest.mark.parametrize("logit", [30.0, -30.0])
def test_biases_stay_inside_the_open_interval(logit: float) -> None:
    selection = dynamic(sigma=0.3)
    selection.train()
    for _ in range(5):
        route(selection, torch.full((6, 4), logit))
        update_biases(selection)
    assert ((selection.bias_E > -1) & (selection.bias_E < 0)).all()


def test_a_load_on_target_and_a_step_without_tokens_move_nothing() -> None:
    selection = dynamic(c_exp=1.0)
    selection.train()
    route(selection, 4 * torch.eye(4) - 2)  # each expert takes one token of four
    assert torch.equal(load(selection), torch.full((4,), 0.25))
    assert torch.equal(load(selection), torch.zeros(4))
    assert torch.equal(selection.bias_E, torch.full((4,), -0.5))


def test_within_a_sequence_only_the_difference_to_its_mean_wins_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    own, common = torch.randn(12, 4, generator=generator), 5 * torch.randn(3, 4, generator=generator)
    lengths = torch.tensor([5, 3, 4])
    logits = own + common.repeat_interleave(lengths, dim=0)
    selection = dynamic(pool="sequence")
    expected = route(selection, own, *lengths.tolist())
    actual = route(selection, logits, *lengths.tolist())
    assert torch.equal(actual.token_A, expected.token_A)
    assert len(actual.token_A) > 10
    elsewhere = route(dynamic(), logits, *lengths.tolist())
    assert actual.token_A.tolist() != elsewhere.token_A.tolist()
    alone = [route(selection, part, len(part)) for part in logits.split(lengths.tolist())]
    assert sum(len(assignment.token_A) for assignment in alone) == len(actual.token_A), (
        "other motions of the batch change nothing"
    )


def test_within_sequences_a_token_meets_c_exp_experts_on_average() -> None:
    """However far the samples lie apart."""
    generator = torch.Generator().manual_seed(0)
    selection = dynamic(experts=8, sigma=0.004, bias_init=-0.8, pool="sequence").train()
    for step in range(1000):
        samples = 3 * torch.randn(16, 8, generator=generator)
        logits = samples.repeat_interleave(10, dim=0) + torch.randn(160, 8, generator=generator)
        route(selection, logits, *[10] * 16)
        update_biases(selection)
        if step == 500:
            selection.pop_routing()
    assert selection.pop_routing().experts_per_token == pytest.approx(1.0, abs=0.05)


def test_each_workers_batch_votes_once() -> None:
    selection = dynamic(experts=2, sigma=0.03, pool="worker").train()
    for first in (3.0, -3.0, -3.0):
        route(selection, torch.tensor([[first, -3.0]]).repeat(4, 1))
    route(selection, torch.zeros(0, 2), 0)
    update_biases(selection)
    torch.testing.assert_close(selection.bias_E, torch.tensor([-0.5 + 0.01, -0.5 + 0.03]))


@pytest.mark.parametrize("c_exp", [0.8, 1.0, 2.0])
def test_calibrated_biases_meet_the_target_with_the_first_pool(c_exp: float) -> None:
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0.0, -1.0, -4.0])
    selection = dynamic(c_exp=c_exp, bias_init="calibrated")
    selection.eval()
    route(selection, logits)
    assert selection.bias_E.tolist() == [-0.5] * 4, "evaluation does not calibrate"
    selection.train()
    route(selection, torch.zeros(0, 4), 0)
    assert not selection.calibrated
    route(selection, logits)
    assert selection.selected_E.tolist() == [capacity(500, 4, c_exp)] * 4
    before = selection.bias_E.clone()
    route(selection, logits + 1)
    assert torch.equal(selection.bias_E, before), "only the first pool"
    waiting = {name: tensor.clone() for name, tensor in dynamic(bias_init="calibrated").state_dict().items()}
    selection.load_state_dict(waiting)
    route(selection, logits)
    assert torch.equal(selection.bias_E, before), "loaded as it was before, it is set anew"


def test_the_threshold_of_expert_choice_is_a_running_mean_of_the_cuts() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [[torch.randn(n, 4, generator=generator) for n in (10, 17)] for _ in range(5)]
    selection = ExpertChoice(MoeConfig(experts=4)).train()
    expected: list[float] | None = None
    for micro_batches in steps:
        batch_cuts: list[list[float]] = []
        for logits in micro_batches:
            route(selection, logits)
            count = round(len(logits) / 4)
            batch_cuts.append([])
            for e in range(4):
                ordered = sorted(logits[:, e].tolist(), reverse=True)
                batch_cuts[-1].append(1 / (1 + math.exp(-(ordered[count - 1] + ordered[count]) / 2)))
        update_biases(selection)
        mean = [sum(cuts) / 2 for cuts in zip(*batch_cuts, strict=True)]
        expected = mean if expected is None else [0.98 * e + 0.02 * m for e, m in zip(expected, mean, strict=True)]
    torch.testing.assert_close(selection.threshold_E, torch.tensor(expected))
    update_biases(selection)
    torch.testing.assert_close(selection.threshold_E, torch.tensor(expected), msg="a step without tokens moves nothing")
    routing = selection.pop_routing()
    assert (routing.learned_name, routing.learned_E) == ("threshold", selection.threshold_E.tolist())


def test_by_its_threshold_an_expert_takes_about_its_share() -> None:
    generator = torch.Generator().manual_seed(0)
    selection = ExpertChoice(MoeConfig(experts=8)).train()
    for _ in range(30):
        route(selection, torch.randn(200, 8, generator=generator))
        update_biases(selection)
    selection.eval()
    assignment = route(selection, torch.randn(4000, 8, generator=generator))
    assert len(assignment.token_A) / 4000 == pytest.approx(1.0, rel=0.1)


def test_a_cut_takes_as_many_as_it_says_even_all_or_none() -> None:
    scores = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    for count in range(8):
        assert (scores > cut(scores, count)).sum(dim=0).tolist() == [count] * 3


def test_of_equal_scores_a_cut_takes_none_or_all() -> None:
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.2])[:, None]
    above = [int((scores > cut(scores, count)).sum()) for count in range(6)]
    assert above == [0, 1, 1, 4, 4, 5]


@pytest.mark.parametrize(("samples", "experts"), [(8, 16), (4, 8), (32, 16)])
def test_calibration_meets_the_target_where_all_tokens_of_a_sample_score_the_same(samples: int, experts: int) -> None:
    logits = torch.randn(samples, experts, generator=torch.Generator().manual_seed(0)).repeat_interleave(10, dim=0)
    selection = dynamic(experts=experts, bias_init="calibrated").train()
    route(selection, logits)
    # As near as whole samples allow.
    nearest = min(abs(n * 10 - capacity(len(logits), experts, 1.0)) for n in range(samples))
    for taken in selection.selected_E.tolist():
        assert abs(taken - capacity(len(logits), experts, 1.0)) == nearest


@pytest.mark.parametrize(("experts", "c_exp"), [(4, 1.0), (8, 2.0), (4, 0.8), (16, 1.0)])
def test_uniform_deals_evenly(experts: int, c_exp: float) -> None:
    selection = UniformAssignment(MoeConfig(experts=experts, c_exp=c_exp)).train()
    pool = TokenPool.of(torch.ones(3, 80, dtype=torch.bool), num_persons=2)
    selection(torch.randn(480, experts), pool)
    update_biases(selection)
    assert selection.pop_routing().load_E == [c_exp / experts] * experts
