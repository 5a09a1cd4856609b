"""What all paradigms share: the assignment, what is counted, and one reduction over the workers."""

from typing import Any

import pytest
import torch
from routing import dynamic, route
from torch import Tensor, nn

from intermoe.moe.block import MoeBlock
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, Counts, Selection, fit_rooms, update_biases


def counts(layer: Selection) -> Tensor:
    return torch.cat([getattr(layer, name).reshape(-1) for name in Counts._fields])


def test_assignment_is_sorted_by_expert_and_gates_are_not_renormalised() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0], [0.5, 0.5, -3.0]])
    assignment = route(dynamic(experts=3), logits)
    assert assignment.token_A.tolist() == [0, 2, 2, 0]
    assert assignment.ends_E.tolist() == [2, 3, 4]
    gates = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(assignment.gate_A, torch.stack([gates[0, 0], gates[2, 0], gates[2, 1], gates[0, 2]]))


def test_the_pool_hands_over_valid_tokens_only_and_names_their_positions() -> None:
    logits_NE = torch.arange(2 * 2 * 3).float()[:, None]
    pool = TokenPool.of(torch.tensor([[True, False, False], [True, True, False]]), num_persons=2)
    selection = dynamic(experts=1, bias_init=-0.9)
    assignment = selection(logits_NE[pool.position_S], pool)
    assert assignment.token_A.tolist() == [3, 4, 6, 9, 10]  # position 0 has logit 0: 0.5 < 0.9
    assert selection.valid == 6


def test_only_training_counts() -> None:
    selection = dynamic().eval()
    route(selection, torch.ones(5, 4))
    assert selection.valid == 0
    assert not selection.selected_E.any()


def test_two_workers_with_one_reduction_move_as_one() -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [[torch.randn(12, 4, generator=generator) for _layer in range(3)] for _worker in range(2)]

    def layers() -> Any:
        return nn.ModuleList(dynamic() for _ in range(3)).train()

    one, workers = layers(), [layers(), layers()]
    for worker, batch in zip(workers, batches, strict=True):
        for alone, shared, logits in zip(one, worker, batch, strict=True):
            route(alone, logits)
            route(shared, logits)
    counted = [torch.stack([counts(layer) for layer in worker]) for worker in workers]
    calls: list[Tensor] = []
    for worker in workers:
        update_biases(worker, lambda own: calls.append(own.clone()) or counted[0] + counted[1])
    update_biases(one)
    assert all(torch.equal(call, count) for call, count in zip(calls, counted, strict=True))
    assert len(calls) == 2, "one reduction for all layers"
    for alone, first, second in zip(one, *workers, strict=True):
        assert torch.equal(alone.bias_E, first.bias_E)
        assert torch.equal(first.bias_E, second.bias_E)
        assert not counts(first).any()
        assert alone.pop_routing().load_E == first.pop_routing().load_E == second.pop_routing().load_E


def test_a_model_without_mixture_has_nothing_to_reduce() -> None:
    update_biases(nn.Linear(2, 2), reduce=lambda _: pytest.fail("nothing to reduce"))


def test_pop_routing_sums_up_and_begins_anew() -> None:
    logits = torch.tensor([[2.0, -2.0], [1.0, 1.0], [-1.0, -1.0], [-2.0, 3.0]])
    selection = dynamic(experts=2, sigma=0.25).train()
    route(selection, logits)
    update_biases(selection)  # expert 0 took tokens 0 and 1, expert 1 tokens 1 and 3, token 2 went without
    routing = selection.pop_routing()
    assert (routing.load_E, routing.share_E) == ([0.5, 0.5], [0.5, 0.5])
    assert (routing.experts_per_token, routing.unselected) == (1.0, 0.25)
    assert (routing.learned_name, routing.learned_E) == ("bias", [-0.5, -0.5])
    probability = torch.softmax(logits.double(), dim=1)
    assert routing.router_entropy == pytest.approx(float(-(probability * probability.log()).sum(1).mean()))
    assert selection.pop_routing().experts_per_token == 0.0


def test_gates_as_a_grid() -> None:
    token = torch.tensor([4, 0, 4])
    assignment = Assignment(token, torch.tensor([0.5, 0.25, 0.125]), torch.tensor([1, 1, 3]), target_A=token)
    expected = torch.zeros(6, 3)
    expected[4, 0], expected[0, 2], expected[4, 2] = 0.5, 0.25, 0.125
    assert torch.equal(assignment.gates(6), expected)


def test_room_follows_the_highest_load_in_steps_and_not_every_change_of_it() -> None:
    layer = dynamic()
    rooms = []
    for peak in (1.0, 1.1, 1.3, 0.8, 0.4):
        fit_rooms([layer], [peak])
        rooms.append(layer.room)
    assert rooms == [1.25, 1.25, 1.625, 1.625, 0.5]


def test_a_skipped_step_moves_nothing_and_is_forgotten() -> None:
    layers = [dynamic(load_momentum=0.5), dynamic(load_momentum=0.5)]
    model = nn.ModuleList(layers).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in layers:
        route(layer, torch.full((4, 4), torch.nan))
    update_biases(model, skipped=torch.tensor(True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for layer in layers:
        route(layer, torch.ones(4, 4))
    update_biases(model, skipped=torch.tensor(False))
    assert layers[0].pop_routing().experts_per_token == 4.0


LENGTHS = (6, 4, 0, 1)
KINDS: list[dict[str, Any]] = [
    {},
    {"pool": "sequence"},
    {"selection": "token_choice", "c_exp": 2},
    {"selection": "expert_choice"},
    {"selection": "expert_choice", "pool": "sequence"},
    {"selection": "expert_choice", "pool": "worker", "c_exp": 3},
    {"selection": "uniform", "c_exp": 1.5},
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("moe", KINDS)
def test_a_fixed_number_of_rows_gives_the_same_outputs_and_gradients_to_the_bit(
    moe: dict[str, Any], training: bool
) -> None:
    def outputs(fixed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        block = MoeBlock(MoeConfig.parse({"experts": 4, "hidden": 8, **moe}), 8).train(training)
        for weight in block.parameters():
            nn.init.normal_(weight, std=0.6)
        block.selection.has_fixed_rows, block.selection.room = fixed, 4.0
        x = torch.randn(2, len(LENGTHS), 6, 8, requires_grad=True)
        emb = torch.randn(len(LENGTHS), 8, requires_grad=True)
        y = block(x, emb, emb, TokenPool.of_lengths(LENGTHS, num_frames=6, num_persons=2))
        assert (block.selection.demand is not None) == (fixed and training)
        leaves = [x, emb, *block.parameters()]
        gradients = torch.autograd.grad((y * torch.randn(y.shape)).sum(), leaves, allow_unused=True)
        return [y, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]

    for fixed, exact in zip(outputs(fixed=True), outputs(fixed=False), strict=True):
        assert torch.equal(fixed, exact)


def test_what_there_are_no_rows_for_is_asked_for_all_the_same() -> None:
    selection = dynamic(bias_init=-0.1).train()
    selection.has_fixed_rows, selection.room = True, 0.01
    assignment = route(selection, torch.ones(40, 4))
    demand = selection.demand
    assert demand is not None
    assert (int(demand.asked), int(demand.given), demand.num_tokens) == (160, 64, 40)
    assert assignment.ends_E.tolist() == [40, 64, 64, 64]
    assert torch.equal(assignment.gates(40) > 0, (torch.arange(160) < 64).view(4, 40).T)
