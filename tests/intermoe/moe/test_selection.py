"""Dynamic selection: what is taken, what is counted, and how the biases follow."""

import pytest
import torch
from torch import Tensor, nn

from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import DynamicSelection, update_biases


def selection(c_exp: float = 1.0, sigma: float = 0.01, experts: int = 4) -> DynamicSelection:
    return DynamicSelection(experts, c_exp, sigma, bias_init=-0.5)


def test_assignment_is_sorted_by_expert_and_gates_are_not_renormalised() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0], [0.5, 0.5, -3.0]])
    found = selection(experts=3)(logits)
    assert found.token_A.tolist() == [0, 2, 2, 0]
    assert found.ends_E.tolist() == [2, 3, 4]
    gates = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found.gate_A, torch.stack([gates[0, 0], gates[2, 0], gates[2, 1], gates[0, 2]]))


def test_a_score_of_exactly_zero_is_not_taken() -> None:
    assert len(selection()(torch.zeros(5, 4)).token_A) == 0  # sigmoid(0) - 0.5 = 0


def test_the_pool_hands_over_valid_tokens_only_and_names_their_positions() -> None:
    logits_PBLE = torch.arange(2 * 2 * 3).float().view(2, 2, 3, 1)
    mask_BL = torch.tensor([[True, False, False], [True, True, False]])
    chooser = DynamicSelection(1, 1.0, 0.0, -0.9)
    chooser.train()
    found = TokenPool.of(mask_BL, persons=2).assign(logits_PBLE, chooser)
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
            chooser(logits)
        update_biases(chooser)
    expected = naive_bias([-0.5] * 4, steps, c_exp, 0.013)
    torch.testing.assert_close(chooser.bias_E, torch.tensor(expected), atol=1e-5, rtol=0)


def test_load_approaches_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    chooser = selection(c_exp=1.0, sigma=0.01)
    chooser.train()
    for _ in range(200):
        chooser(torch.randn(400, 4, generator=generator) + torch.tensor([1.0, 0.0, -1.0, 2.0]))
        load = update_biases(chooser)
    assert (load - 0.25).abs().max() < 0.06
    assert chooser.bias_E.max() < 0
    assert chooser.bias_E.min() > -1


@pytest.mark.parametrize("logit", [30.0, -30.0])
def test_biases_stay_inside_the_open_interval(logit: float) -> None:
    chooser = selection(sigma=0.3)
    chooser.train()
    for _ in range(5):
        chooser(torch.full((6, 4), logit))
        update_biases(chooser)
    assert ((chooser.bias_E > -1) & (chooser.bias_E < 0)).all()


def test_only_training_counts() -> None:
    chooser = selection().eval()
    chooser(torch.ones(5, 4))
    assert chooser.valid == 0
    assert not chooser.selected_E.any()


def test_a_load_on_target_and_a_step_without_tokens_move_nothing() -> None:
    chooser = selection(c_exp=1.0)
    chooser.train()
    chooser(4 * torch.eye(4) - 2)  # each expert takes one token of four
    assert torch.equal(update_biases(chooser), torch.full((1, 4), 0.25))
    assert torch.equal(update_biases(chooser), torch.zeros(1, 4))
    assert torch.equal(chooser.bias_E, torch.full((4,), -0.5))


def test_two_workers_with_one_reduction_move_as_one() -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [[torch.randn(12, 4, generator=generator) for _layer in range(3)] for _worker in range(2)]

    def layers() -> nn.ModuleList:
        return nn.ModuleList(selection() for _ in range(3)).train()

    one, workers = layers(), [layers(), layers()]
    counted: list[Tensor] = []
    for worker, batch in zip(workers, batches, strict=True):
        for alone, shared, logits in zip(one, worker, batch, strict=True):
            alone(logits)
            shared(logits)
        update_biases(worker, lambda tensor: counted.append(tensor.clone()) or tensor)
    assert len(counted) == 2
    for worker, batch in zip((fresh := [layers(), layers()]), batches, strict=True):
        for shared, logits in zip(worker, batch, strict=True):
            shared(logits)
    loads = [update_biases(worker, lambda _own: counted[0] + counted[1]) for worker in fresh]
    assert torch.equal(update_biases(one), loads[0])
    for alone, first, second in zip(one, *fresh, strict=True):
        assert torch.equal(alone.bias_E, first.bias_E)
        assert torch.equal(first.bias_E, second.bias_E)
        assert not first.selected_E.any()
        assert first.valid == 0


def test_a_model_without_mixture_has_no_load() -> None:
    assert update_biases(nn.Linear(2, 2), reduce=lambda _: pytest.fail("nothing to reduce")).shape == (0, 0)
