"""What users ask of a model of one person: any length, any guidance, what its experts worked on.

Legend: B samples, T frames, L latent frames, P = 1 person, Z latent numbers, K text tokens, W text width.
"""

import warnings

import numpy as np
import pytest
import torch
from one_person import NETWORKS, PREDICTIONS, one_person_model
from torch import Tensor

from intermoe.data.draws import Stream, normal, prompt_seeds
from intermoe.errors import UserError
from intermoe.model import InterMoE
from intermoe.moe.routing_map import RoutingMap, recorded_routing

PROMPT, LONGER = "a person walks.", "a man waves with the left hand and turns round twice."


@pytest.fixture(scope="module", params=[(n, s) for n in NETWORKS for s in ("dense", "dynamic")], ids="-".join)
def model(request: pytest.FixtureRequest) -> InterMoE:
    network, selection = request.param
    return one_person_model(network, selection=selection, **PREDICTIONS[network])


def test_a_motion_is_as_long_as_was_asked_for(model):
    """Whatever part of a latent frame its last frames are, and the longest that the model learned from too."""
    for frames in (15, 29, 30, 31, 32, 60, 61):
        motion = model.generate(PROMPT, seconds=frames / 20, seed=1)
        assert motion.joints.shape == (frames, 1, 22, 3)
        assert motion.rotations.shape == (frames, 1, 21, 6)
        assert np.isfinite(motion.joints).all()
    for frames in (14, 62):
        with pytest.raises(UserError) as caught:
            model.generate(PROMPT, seconds=frames / 20)
        assert str(caught.value) == (
            f"seconds: {frames / 20:g} seconds are {frames} frames"
            " (allowed: 0.75 to 3.05; the model learned from up to 61 frames)"
        )


@torch.no_grad()
def test_frames_that_fill_no_latent_frame_are_those_of_the_next_one(model):
    """A motion of 30 frames has the 8 latent frames of 32 in SALAD, as many tokens as frames in MDM, and one in MLD."""
    network = model.config.network
    latents = {"mdm": 30, "mld": 1, "salad": 8}[network]
    seed = prompt_seeds(1, [PROMPT])[0]
    noise = normal([seed], (latents, 1, model.latent), Stream.LATENT)
    condition = model.condition(model.encoder.encode([PROMPT]))
    latent_BLPZ = model.sample(noise, condition, seeds=[seed])
    if network == "mdm":
        x_BTF = latent_BLPZ[:, :, 0]
    elif network == "mld":
        x_BTF = model.vae.decode(latent_BLPZ, torch.ones(1, 30, dtype=torch.bool))
    else:
        x_BTF = model.vae.decode(latent_BLPZ[:, :, 0].unflatten(-1, (7, 4)))[:, :30]
    expected = x_BTF * model.normaliser.std_F + model.normaliser.mean_F
    batch = model.generate_batch(model.read_prompts([PROMPT]), frames_B=torch.tensor([30]), seeds=[seed])
    torch.testing.assert_close(batch.features_BTPF[:, :, 0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sampling_is_guided_step_by_step(model):
    """Its only step, written out; a prompt's condition is [W], or [K, W] where the network reads words."""
    diffusion, network = model.diffusion, model.config.network
    latents = {"mdm": 20, "mld": 1, "salad": 5}[network]
    seeds = [5, 6]
    x_BLPZ = normal(seeds, (latents, 1, model.latent), Stream.LATENT)
    condition = model.condition(model.encoder.encode([PROMPT, LONGER]))
    assert condition.dim() == (3 if network == "salad" else 2)
    mask_BL = torch.ones(2, latents, dtype=torch.bool)
    calls = []

    def clean(noisy: Tensor, t: int, given: Tensor) -> Tensor:
        t_B = torch.full((2,), t)
        found = model.denoiser(noisy, t_B, given, mask_BL)
        alpha = diffusion.alpha_bar_S[t].sqrt().float()
        sigma = (1 - alpha**2).sqrt()
        match diffusion.config.prediction:
            case "noise":
                return (noisy - sigma * found) / alpha
            case "v":
                return alpha * noisy - sigma * found
        return found

    def note(done: int, total: int) -> None:
        calls.append((done, total))

    model.set_sampling(sampler_steps=1)
    try:
        found = model.sample(x_BLPZ, condition, guidance=3.5, on_step=note, seeds=seeds)
        without = model.sample(x_BLPZ, condition, guidance=1.0, seeds=seeds)
    finally:
        model.set_sampling(sampler_steps=5)
    conditional, dropped = clean(x_BLPZ, 99, condition), clean(x_BLPZ, 99, torch.zeros_like(condition))
    scale = float(found.abs().max())
    torch.testing.assert_close(found, 3.5 * conditional - 2.5 * dropped, rtol=1e-3, atol=1e-3 * scale)
    torch.testing.assert_close(without, conditional, rtol=1e-3, atol=1e-3 * scale)
    assert calls == [(1, 1)]


def test_the_kind_of_sampler_is_free(model):
    for sampler in ("ddim", "dpm++", "ancestral"):
        other = one_person_model(
            model.config.network,
            selection=model.config.moe.selection,
            **{**PREDICTIONS[model.config.network], "sampler": sampler},
        )
        alone = other.generate(PROMPT, seconds=1.55, seed=3)
        beside, _ = other.generate([PROMPT, LONGER], seconds=1.55, seed=3)
        np.testing.assert_allclose(alone.joints, beside.joints, atol=1e-4)


def test_what_experts_worked_on_is_told_token_by_token(model):
    def generate() -> RoutingMap:
        with recorded_routing(model.denoiser, model.stride) as recorder:
            model.generate(PROMPT, seconds=1.5)
        (routing,) = recorder.maps()
        return routing

    if model.config.moe.selection == "dense":
        with pytest.raises(UserError) as caught:
            generate()
        assert str(caught.value) == (
            "the model has no experts, so there is no routing to show (allowed: one with a mixture)"
        )
        return
    routing = generate()
    tokens = {"mdm": (1, 30), "mld": (1, 1), "salad": (7, 8)}[model.config.network]
    assert routing.gate_QMPLE.shape[1:] == (3, *tokens, 4)
    assert (routing.gate_QMPLE > 0).any()


def test_a_long_prompt_is_cut_with_a_word(model):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.generate(" ".join(f"word{n}" for n in range(22)), seconds=1)
    assert [str(note.message) for note in told] == ["the prompt is too long, its end is not read: 'word20 word21'"]
