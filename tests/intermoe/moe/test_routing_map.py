"""Routing maps: what is recorded while a motion is sampled."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intermoe.diffusion import samplers
from intermoe.diffusion.guidance import guided
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError
from intermoe.moe.config import MoeConfig
from intermoe.moe.pool import TokenPool
from intermoe.moe.routing_map import RoutingRecorder, recorded_routing
from intermoe.moe.selection import Assignment, selections
from intermoe.networks.denoiser import Denoiser, DenoiserConfig
from intermoe.networks.hand_contact import HandContactHead

FRAMES, STEPS = 5, 7
NO_EXPERTS = r"^the model has no experts, so there is no routing to show \(allowed: one with a mixture\)$"


def denoiser(selection: Any = "dynamic") -> Denoiser:
    torch.manual_seed(0)
    config = DenoiserConfig(width=16, layers=2, heads=2, dropout=0.0)
    model = Denoiser(config, MoeConfig(experts=4, hidden=16, selection=selection), latent=6, condition=8)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def sample(model: Denoiser, prompts: int, **changes: Any) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    noise, condition = torch.randn(3, FRAMES, 2, 6, generator=rng), torch.randn(3, 8, generator=rng)
    mask = torch.ones(prompts, FRAMES, dtype=torch.bool)
    config = DiffusionConfig(**({"steps": 70, "sampler_steps": STEPS, "guidance": 2.0} | changes))
    return samplers.sample(Diffusion(config), guided(model, condition[:prompts], mask, config), noise[:prompts])


@pytest.fixture
def by_hand() -> tuple[Denoiser, list[list[Tensor]]]:
    """A denoiser, and the gates [M, P, 2B, L, E] of each of its steps, worked out from logits and choices."""
    model, steps = denoiser(), []

    def note(layer: nn.Module, inputs: tuple[Tensor, TokenPool], _assignment: Assignment) -> None:
        logits = inputs[0]
        taken = logits.sigmoid() + layer.bias_E > 0
        grid = (logits.softmax(-1) * taken).view(*inputs[1].shape, 4)
        if layer is selections(model)[0]:
            steps.append([])
        steps[-1].append(grid)

    for layer in selections(model):
        layer.register_forward_hook(note)
    return model, steps


@pytest.mark.parametrize("stages", [1, 3, 20])
@pytest.mark.parametrize("guidance", [{}, {"guidance_interval": (0.4, 1.0)}, {"guidance_interval": (0.0, 0.0)}])
def test_a_map_holds_the_mean_gates_of_each_stage_of_what_has_a_condition(by_hand, stages: int, guidance: Any) -> None:
    model, steps = by_hand
    with recorded_routing(model, 4) as recorder:
        sample(model, 3, **guidance)
    assert {step[0].shape[1] for step in steps} == ({6} if not guidance else {3, 6})
    maps = recorder.maps(stages)
    assert len(maps) == 3
    parts = torch.arange(STEPS).tensor_split(min(stages, STEPS))
    for prompt, routing_map in enumerate(maps):
        assert routing_map.gate_QMPLE.shape == (len(parts), 2, 2, FRAMES, 4)
        assert routing_map.timesteps == tuple((60 - 10 * int(part[0]), 60 - 10 * int(part[-1])) for part in parts)
        for stage, part in enumerate(parts):
            for layer in range(2):
                expected = sum(steps[step][layer][:, prompt] for step in part.tolist()) / len(part)
                torch.testing.assert_close(routing_map.gate_QMPLE[stage, layer], expected)


def test_a_prompt_alone_has_the_map_it_has_among_others() -> None:
    model, maps = denoiser(), []
    for prompts in (3, 1):
        with recorded_routing(model, 4) as recorder:
            sample(model, prompts)
        maps.append(recorder.maps()[0])
    torch.testing.assert_close(maps[0].gate_QMPLE, maps[1].gate_QMPLE, atol=1e-5, rtol=0)


def test_recording_changes_nothing_and_ends_with_the_block() -> None:
    model = denoiser()
    before = sample(model, 2)
    with recorded_routing(model, 4) as recorder:
        assert torch.equal(sample(model, 2), before)
    seen = len(recorder.gates)
    sample(model, 2)
    assert len(recorder.gates) == seen == 2 * STEPS
    assert isinstance(recorder, RoutingRecorder)


def test_without_experts_there_is_nothing_to_record() -> None:
    with pytest.raises(UserError, match=NO_EXPERTS), recorded_routing(denoiser("dense"), 4):
        pytest.fail("the block is not entered")


@pytest.mark.parametrize("steps", [STEPS, 1])
@pytest.mark.parametrize("batches", [(3, 2), (2, 2)])
def test_batches_that_follow_each_other_give_the_maps_of_each_alone(steps, batches):
    model = denoiser()
    alone = []
    for prompts in batches:
        with recorded_routing(model, 4) as recorder:
            sample(model, prompts, sampler_steps=steps)
        alone += recorder.maps()
    with recorded_routing(model, 4) as recorder:
        for prompts in batches:
            sample(model, prompts, sampler_steps=steps)
    maps = recorder.maps()
    assert len(maps) == sum(batches)
    for one, other in zip(maps, alone, strict=True):
        assert one.timesteps == other.timesteps
        assert one.gate_QMPLE.equal(other.gate_QMPLE)


@pytest.mark.parametrize("steps", [2, 5])
def test_what_is_asked_about_hands_is_no_step(steps):
    """With as few steps as layers, and in batches that follow each other."""
    model = denoiser()
    model.contact_head = HandContactHead(16, 2)
    config = DiffusionConfig(steps=70, sampler_steps=steps, spacing="trailing")
    noise, condition = torch.randn(2, FRAMES, 2, 6), torch.randn(2, 8)
    mask = torch.ones(1, FRAMES, dtype=torch.bool)

    def maps(*, asks: bool) -> list[Tensor]:
        with torch.no_grad(), recorded_routing(model, 4) as recorder:
            for row in (0, 1):
                given = condition[row : row + 1], mask
                latent = samplers.sample(Diffusion(config), guided(model, *given, config), noise[row : row + 1])
                if asks:
                    assert model.hand_contacts(latent, *given, noise[row : row + 1], Diffusion(config)) is not None
        return [made.gate_QMPLE for made in recorder.maps()]

    plain, asked = maps(asks=False), maps(asks=True)
    assert len(plain) == len(asked) == 2
    for one, other in zip(plain, asked, strict=True):
        assert one.equal(other)
