"""A step that the host reads later is the step that it reads at once."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small_training import made_up_batch, small_objective, stream
from torch import Tensor

from intermoe.moe.selection import selections
from intermoe.training import step
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.samples import Batch
from intermoe.training.step import TrainingStep, seed_draws

STEPS = 4
PARADIGMS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "calibrated": {"bias_init": "calibrated", "load_momentum": 0.9},
    "sequence": {"pool": "sequence"},
    "expert choice": {"selection": "expert_choice"},
    "expert choice in sequences": {"selection": "expert_choice", "pool": "sequence"},
    "token choice": {"selection": "token_choice", "c_exp": 2},
    "uniform": {"selection": "uniform", "c_exp": 1.5},
}


def train(
    objective: DenoiserObjective, read_every: int | None = None, batches: Sequence[Batch] | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of a few steps, and all that is learned."""
    take_step = TrainingStep(objective, stream(), read_every=read_every)
    outcomes = [take_step(step, batch) for step, batch in enumerate(batches or map(made_up_batch, range(STEPS)))]
    losses = [outcome.loss for outcome in outcomes]
    return losses, {name: tensor.clone() for name, tensor in objective.model.state_dict().items()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)] == []


@pytest.mark.parametrize(("paradigm", "accumulate"), [*((paradigm, 1) for paradigm in PARADIGMS), ("dynamic", 2)])
def test_a_fixed_number_of_rows_changes_no_bit_even_where_it_was_too_small(paradigm, accumulate):
    training = {"accumulate": accumulate}
    expected_losses, expected = train(small_objective(moe=PARADIGMS[paradigm], training=training))
    objective = small_objective(moe=PARADIGMS[paradigm], training=training)
    for layer in selections(objective):
        layer.has_fixed_rows, layer.room = True, 0.1
    losses, state = train(objective, read_every=3)
    assert losses == expected_losses
    assert_equal(state, expected)
    assert all(layer.room > 0.5 for layer in selections(objective)), "the room has grown"


def test_running_ahead_changes_the_last_digits_at_most():
    expected_losses, expected = train(small_objective())
    losses, state = train(small_objective(runs_ahead=True), read_every=3)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    for name, tensor in expected.items():
        if name.endswith("in_proj_bias"):
            # The bias of the keys adds the same to all logits of a query: its gradient is nothing but rounding.
            state[name], tensor = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (state[name], tensor))
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_a_step_that_is_not_finite_changes_nothing_and_neither_do_those_after_it_until_it_is_read():
    batches = [made_up_batch(step) for step in range(STEPS)]
    batches[2]["features"][1, 0, 0, 0] = torch.nan
    _, expected = train(small_objective(), batches=batches[:2])
    objective = small_objective()
    take_step = TrainingStep(objective, stream(), read_every=3)
    outcomes = [take_step(step, batch) for step, batch in enumerate(batches)]
    assert [outcome.is_read for outcome in outcomes] == [True] * STEPS
    assert [outcome.is_finite for outcome in outcomes] == [True, True, False, True]
    assert outcomes[2].batch is batches[2]
    state = objective.model.state_dict()
    learned = [name for name in expected if "selection." not in name or "bias_E" in name or "seen_C" in name]
    assert_equal({name: state[name] for name in learned}, {name: expected[name] for name in learned})


def test_steps_are_read_together_and_when_one_is_asked_for():
    take_step = TrainingStep(small_objective(), stream(), read_every=3)
    first, *others = [take_step(step, made_up_batch(step)) for step in range(3)]
    assert first.is_read, "before the first nothing is known of the load"
    assert [outcome.is_read for outcome in others] == [False, False]
    assert others[0].loss > 0
    assert [outcome.is_read for outcome in others] == [True, True]
    read_at_once = TrainingStep(small_objective(), stream())
    assert read_at_once(0, made_up_batch(0)).is_read
    assert read_at_once.read_every == 1


def test_workers_sum_gradients_where_they_lie_and_in_the_same_order_after_a_resume(monkeypatch):
    """Copied into the groups in which they are summed, they would be there twice; regrouped, sums would differ."""
    monkeypatch.setattr(step.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(step.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(step.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(step, "DistributedDataParallel", lambda _, **options: options)
    options: Any = TrainingStep(small_objective(), stream())._parallel
    assert options == {
        "broadcast_buffers": False,
        "find_unused_parameters": True,
        "gradient_as_bucket_view": True,
    }


def gradients(**training: float) -> dict[str, Tensor]:
    """What the optimizer is given in a first step."""
    objective = small_objective(training={"clip": 1e9, **training})
    take_step = TrainingStep(objective, stream())
    seen: dict[str, Tensor] = {}
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    take_step.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: parameter.grad.clone() for name, parameter in named})
    )
    take_step(0, made_up_batch(0))
    return seen


def test_gradients_beyond_a_norm_are_scaled_down_to_it_all_together():
    free = gradients()
    norm = torch.stack([gradient.norm() for gradient in free.values()]).norm()
    for clip_norm, share in ((norm / 4, 0.25), (2 * norm, 1.0)):
        clipped = gradients(clip_norm=float(clip_norm))
        assert clipped.keys() == free.keys()
        for name, gradient in free.items():
            torch.testing.assert_close(clipped[name], share * gradient, rtol=1e-4, atol=1e-9, msg=name)


def test_draws_are_those_of_torch_with_that_seed():
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_draws(7)
    assert torch.equal(torch.rand(3), expected)
