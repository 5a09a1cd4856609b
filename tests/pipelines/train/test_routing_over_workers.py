"""Routing over the pool of all workers: one, two and four processes choose, count and learn the same.

Here a plain loop of steps without the project's training; tests/pipelines/train/test_worker.py has the real one.
"""

import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from key_biases import without_key_bias
from torch import Tensor, nn

from intermoe.body.skeletons import HUMANML22, SMPL22
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Assignment, selections, update_biases
from intermoe.networks.by_name import DenoisedData, NetworkName, denoiser_of
from intermoe.networks.denoiser import Denoiser, DenoiserConfig
from intermoe.networks.timotion import TimotionConfig

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS, SAMPLES, LONGEST = 20, 11, 9
# Latent frames, persons and latent numbers of what networks of one person work on.
OF_ONE: dict[NetworkName, tuple[int, int, int]] = {"mdm": (LONGEST, 1, 6), "mld": (1, 1, 16), "salad": (LONGEST, 1, 14)}
PARADIGMS: dict[str, dict[str, Any]] = {
    "dynamic": {"selection": "dynamic", "sigma": 0.01},
    "calibrated": {"selection": "dynamic", "sigma": 0.01, "bias_init": "calibrated", "c_exp": 1.5},
    "in_sequences": {"selection": "dynamic", "sigma": 0.01, "load_momentum": 0.9, "pool": "sequence"},
    "token_choice": {"selection": "token_choice", "c_exp": 2},
    "expert_choice": {"selection": "expert_choice"},
    # All tokens of a sample have equal scores: only a common order of the tokens makes a common choice.
    "equal_scores": {"selection": "expert_choice", "router": "text"},
    "uniform": {"selection": "uniform", "c_exp": 0.8},
    "dense": {"selection": "dense"},
}


@dataclass
class Outcome:
    """What one worker saw in all steps.

    Attributes:
        losses: of each step, over all workers.
        choices: step, layer and sample -> which expert took which token, bool [P, L, E], L its valid frames.
        counted: for each step what the experts of all layers took.
        learned: for each step the biases or thresholds of all layers.
        weights: at the end.
    """

    losses: list[float]
    choices: dict[tuple[int, int, int], Tensor]
    counted: list[list[object]]
    learned: list[list[list[float]]]
    weights: dict[str, Tensor]


def train(rank: int, world: int, moe: dict, parts: int, network: NetworkName = "intermoe") -> Outcome:
    """Train a small denoiser; every step has ``parts`` micro-batches, shared out among the workers unevenly."""
    torch.manual_seed(0)
    one = OF_ONE.get(network)
    shape = (LONGEST, 2, 6) if one is None else one
    config = DenoiserConfig(width=16, layers=2 if one is None else 3, heads=2, dropout=0.0)
    mixture = MoeConfig.parse({"experts": 4, "hidden": 16, **moe})
    data = DenoisedData(SMPL22 if one is None else HUMANML22, shape[-1], condition=8)
    model = denoiser_of(network, config, mixture, TimotionConfig(), data).train()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen: list[Tensor] = []
    for layer in selections(model):
        layer.register_forward_hook(partial(note, seen))
    outcome = Outcome([], {}, [], [], {})
    for step in range(STEPS):
        rng = torch.Generator().manual_seed(step)
        clean, noise = (torch.randn(SAMPLES, *shape, generator=rng) for _ in range(2))
        text = (3, 8) if model.reads == "words" else (8,)
        condition, t = torch.randn(SAMPLES, *text, generator=rng), torch.randint(1000, (SAMPLES,), generator=rng)
        frames = torch.randint(1, shape[0] + 1, (SAMPLES,), generator=rng)
        loss_sum = torch.zeros(())
        for micro in torch.arange(SAMPLES).tensor_split(parts):
            mine = micro.tensor_split(world)[rank]
            mask = torch.arange(int(frames[mine].max())) < frames[mine, None]
            x, noised = clean[mine, : mask.shape[1]], (clean + noise)[mine, : mask.shape[1]]
            seen.clear()
            error = (model(noised, t[mine], condition[mine], mask) - x).square().mean(-1)
            total = (error * mask[..., None]).sum()
            (total / (2 * frames.sum())).backward()
            loss_sum += total.detach() / (2 * frames.sum())
            for number, taken in enumerate(seen):
                for row, sample in enumerate(mine.tolist()):
                    outcome.choices[step, number, sample] = taken[:, row, : frames[sample]]
        if world > 1:
            # All in one message: processes that share few cores wait long for each other.
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            together = torch.cat([loss_sum[None], *(gradient.flatten() for gradient in gradients)])
            dist.all_reduce(together)
            loss_sum, *sums = together.split([1, *(gradient.numel() for gradient in gradients)])
            for gradient, summed in zip(gradients, sums, strict=True):
                gradient.copy_(summed.view_as(gradient))
        optimizer.step()
        optimizer.zero_grad()
        update_biases(model, all_reduce if world > 1 else None)
        outcome.losses.append(float(loss_sum))
        routings = [layer.pop_routing() for layer in selections(model)]
        outcome.counted.append([(r.load_E, r.share_E, r.experts_per_token, r.unselected) for r in routings])
        outcome.learned.append([r.learned_E for r in routings])
    outcome.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return outcome


def note(seen: list[Tensor], _layer: nn.Module, given: tuple[Tensor, TokenPool], found: Assignment) -> None:
    shape = given[1].shape
    seen.append((found.gates(shape[0] * shape[1] * shape[2]) > 0).view(*shape, -1))


def all_reduce(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor


@pytest.fixture(scope="module")
def alone(call_together):
    """A function that gives what a single process sees, trained once for each question."""

    @cache
    def alone(paradigm: str, parts: int) -> Outcome:
        return call_together(partial(train, moe=PARADIGMS[paradigm], parts=parts), 1)[0]

    return alone


def assert_same(found: list[Outcome], expected: Outcome, paradigm: str) -> None:
    choices = {key: taken for outcome in found for key, taken in outcome.choices.items()}
    assert choices.keys() == expected.choices.keys()
    different = [key for key, taken in expected.choices.items() if not torch.equal(choices[key], taken)]
    assert different == []
    exact = paradigm in ("dynamic", "in_sequences", "token_choice", "uniform", "dense")
    for outcome in found:
        assert outcome.losses == pytest.approx(expected.losses, rel=1e-5)
        assert outcome.counted == expected.counted
        for after, before in zip(outcome.learned, expected.learned, strict=True):
            assert after == before or (not exact and after == [pytest.approx(row, abs=1e-5) for row in before])
        for name, tensor in expected.weights.items():
            weights, tensor = (without_key_bias(name, x) for x in (outcome.weights[name], tensor))
            torch.testing.assert_close(weights, tensor, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("world", "parts"), [(2, 1), (4, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 1), (2, 2)))]
)
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_workers_choose_count_and_learn_as_one_process(call_together, alone, paradigm, world, parts):
    expected = alone(paradigm, parts)
    assert len(expected.choices) == (0 if paradigm == "dense" else STEPS * 2 * SAMPLES)
    assert_same(call_together(partial(train, moe=PARADIGMS[paradigm], parts=parts), world), expected, paradigm)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["intergen", "timotion", *OF_ONE])
def test_workers_learn_as_one_process_with_other_networks_too(call_together, network):
    of = partial(train, moe=PARADIGMS["dynamic"], parts=1, network=network)
    (expected,) = call_together(of, 1)
    assert len(expected.choices) == STEPS * (3 if network in OF_ONE else 2) * SAMPLES
    assert_same(call_together(of, 2), expected, "dynamic")


@pytest.mark.parametrize("paradigm", ["dynamic", "in_sequences", "token_choice", "uniform", "dense"])
def test_micro_batches_change_nothing_where_a_token_is_looked_at_alone(alone, paradigm):
    assert_same([alone(paradigm, 2)], alone(paradigm, 1), paradigm)


def test_the_pool_of_expert_choice_is_that_of_all_workers(call_together, alone):
    """The tests above can tell: experts that choose within their worker choose otherwise."""
    expected = alone("expert_choice", 1)
    found = call_together(partial(train, moe={**PARADIGMS["expert_choice"], "pool": "worker"}, parts=1), 2)
    choices = {key: taken for outcome in found for key, taken in outcome.choices.items()}
    assert any(not torch.equal(choices[key], taken) for key, taken in expected.choices.items())


@pytest.mark.parametrize("paradigm", ["dynamic", "expert_choice"])
def test_where_each_worker_is_a_pool_all_still_learn_the_same(call_together, paradigm):
    found = call_together(partial(train, moe={**PARADIGMS[paradigm], "pool": "worker"}, parts=1), 2)
    learned = [name for name in found[0].weights if name.endswith(("bias_E", "threshold_E"))]
    assert len(learned) == 2
    for name in learned:
        assert torch.equal(found[0].weights[name], found[1].weights[name])
        assert len(set(found[0].weights[name].tolist())) > 1


def collectives(rank: int, world: int, moe: dict, training: bool) -> tuple[int, int]:
    """Collectives of a forward pass, and the pass's MoE calls."""
    model = Denoiser(
        DenoiserConfig(width=16, layers=3, heads=2, dropout=0.0),
        MoeConfig.parse({"experts": 4, "hidden": 16, **moe}),
        latent=6,
        condition=8,
    ).train(training)
    counted, names = [], ("all_reduce", "all_gather_into_tensor", "all_gather", "broadcast")
    kept = {name: getattr(dist, name) for name in names}
    for name in names:
        setattr(dist, name, lambda *given, name=name: counted.append(name) or kept[name](*given))
    try:
        mask = torch.ones(2 + rank, 5, dtype=torch.bool)
        model(torch.randn(2 + rank, 5, 2, 6), torch.zeros(2 + rank, dtype=torch.int64), torch.randn(2 + rank, 8), mask)
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)
    return len(counted), len(selections(model))


def test_collectives_of_a_forward_pass(call_together):
    """One a call where the scores of others are needed (and one to tell how many they are), else none."""
    for paradigm, moe in PARADIGMS.items():
        needed = paradigm in ("expert_choice", "equal_scores", "calibrated")
        for training in (True, False):
            for counted, calls in call_together(partial(collectives, moe=moe, training=training), 2):
                assert counted == (calls + 1 if needed and training else 0), (paradigm, training)


def gather(rank: int, world: int, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a pool gathers: the scores say which person, sample and frame they belong to."""
    mine = torch.arange(len(frames)).tensor_split(world)[rank]
    mask = torch.arange(4) < frames[mine, None]
    pool = TokenPool.of(mask, num_persons=2)
    names = torch.cartesian_prod(torch.arange(2), mine, torch.arange(4)).float()
    own = names[pool.position_S]
    everyone, place = pool.gather(own)
    return everyone, place, own


@pytest.mark.parametrize("frames", [[3, 1, 2, 4, 0, 2, 1], [3, 1, 0, 0, 2, 4, 1], [0, 0, 0, 0, 0]])
def test_tokens_are_gathered_in_the_order_of_a_single_process(call_together, frames):
    """Also where one of four workers, or every one, has no token."""
    of = partial(gather, frames=torch.tensor(frames))
    ((expected, place, own),) = call_together(of, 1)
    assert torch.equal(expected, own)
    assert place.tolist() == list(range(2 * sum(frames)))
    for world in (2, 4):
        for everyone, place, own in call_together(of, world):
            assert torch.equal(everyone, expected)
            assert torch.equal(everyone[place], own)
