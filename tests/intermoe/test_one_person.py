"""What users ask of a model of one person: motions of any length, guidance, the work of its experts, a checkpoint.

Legend: B samples, T frames, L latent frames, P = 1 person, Z latent numbers.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from one_person import NETWORKS, PREDICTIONS, one_person_model
from small_model import save_model
from torch import Tensor

from intermoe.data.draws import Stream, normal
from intermoe.errors import UserError
from intermoe.model import InterMoE
from intermoe.moe.routing_map import recorded_routing

PROMPTS = ["a person walks.", "a man waves with the left hand and turns round twice."]


@pytest.fixture(scope="module", params=[(n, s) for n in NETWORKS for s in ("dense", "dynamic")], ids="-".join)
def model(request: pytest.FixtureRequest) -> InterMoE:
    network, selection = request.param
    return one_person_model(network, selection=selection, **PREDICTIONS[network])


def latents_of(model: InterMoE, frames: int) -> int:
    """Latent frames of a motion; the last may be of frames that are not asked for."""
    return {"mdm": frames, "mld": 1, "salad": -(-frames // 4)}[model.config.network]


def test_a_motion_is_as_long_as_was_asked_for(model):
    """From the shortest to the longest, and one that ends within a latent frame."""
    for frames in (15, 30, 61):
        motion = model.generate(PROMPTS[0], seconds=frames / 20, seed=1)
        assert motion.joints.shape == (frames, 1, 22, 3)
        assert motion.rotations.shape == (frames, 1, 21, 6)
        assert (motion.fps, motion.seconds) == (20, frames / 20)
        assert np.isfinite(motion.joints).all()
    for frames in (14, 62):
        with pytest.raises(UserError) as caught:
            model.generate(PROMPTS[0], seconds=frames / 20)
        assert str(caught.value) == (
            f"seconds: {frames / 20:g} seconds are {frames} frames"
            " (allowed: 0.75 to 3.05; the model learned from up to 61 frames)"
        )


@torch.no_grad()
def test_a_batch_of_several_lengths_holds_what_is_decoded_of_each_motion_alone(model):
    prompts, frames, seeds = [*PROMPTS, "a man kicks."], [30, 59, 33], [1, 2, 3]
    batch = model.generate_batch(model.read_prompts(prompts), frames_B=torch.tensor(frames), seeds=seeds)
    for row, (prompt, count, seed) in enumerate(zip(prompts, frames, seeds, strict=True)):
        noise = normal([seed], (latents_of(model, count), 1, model.latent), Stream.LATENT)
        latent_BLPZ = model.sample(noise, model.condition(model.encoder.encode([prompt])), seeds=[seed])
        if model.config.network == "mdm":
            x_BTF = latent_BLPZ[:, :, 0]
        elif model.config.network == "mld":
            x_BTF = model.vae.decode(latent_BLPZ, torch.ones(1, count, dtype=torch.bool))
        else:
            x_BTF = model.vae.decode(latent_BLPZ[:, :, 0].unflatten(-1, (7, 4)))
        expected = x_BTF[0, :count] * model.normaliser.std_F + model.normaliser.mean_F
        torch.testing.assert_close(batch.features_BTPF[row, :count, 0], expected, rtol=1e-4, atol=1e-4)
        assert not batch.joints_BTPJ3[row, count:].any()


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ancestral"])
def test_a_prompt_alone_gives_the_motion_that_it_gives_beside_another(model, sampler, monkeypatch):
    monkeypatch.setattr(model, "diffusion", model.diffusion)  # to be put back
    model.set_sampling(sampler=sampler)
    together = model.generate(PROMPTS, seconds=1.55, seed=3)
    alone = model.generate(PROMPTS[0], seconds=1.55, seed=3)
    np.testing.assert_allclose(alone.joints, together[0].joints, atol=1e-4)
    assert np.abs(together[0].joints - together[1].joints).max() > 1e-3


@torch.no_grad()
def test_guidance_leads_from_no_text_past_the_text_step_by_step(model, monkeypatch):
    """The only step, written out, of two motions of different lengths."""
    diffusion, calls = model.diffusion, []
    frames, seeds = [20, 13], [5, 6]
    latents = [latents_of(model, count) for count in frames]
    mask_BL = torch.arange(max(latents)) < torch.tensor(latents)[:, None]
    x_BLPZ = normal(seeds, (max(latents), 1, model.latent), Stream.LATENT)
    condition = model.condition(model.encoder.encode(PROMPTS))
    assert condition.dim() == (3 if model.config.network == "salad" else 2)

    def clean(given: Tensor) -> Tensor:
        found = model.denoiser(x_BLPZ, torch.full((2,), 99), given, mask_BL)
        alpha = diffusion.alpha_bar_S[99].sqrt().float()
        sigma = (1 - alpha**2).sqrt()
        match diffusion.config.prediction:
            case "noise":
                found = (x_BLPZ - sigma * found) / alpha
            case "v":
                found = alpha * x_BLPZ - sigma * found
        return found[mask_BL]

    monkeypatch.setattr(model, "diffusion", diffusion)  # to be put back
    model.set_sampling(sampler_steps=1)
    found, without = (
        model.sample(
            x_BLPZ, condition, mask_BL=mask_BL, guidance=guidance, on_step=lambda *step: calls.append(step), seeds=seeds
        )[mask_BL]
        for guidance in (3.5, 1.0)
    )
    conditional, dropped = clean(condition), clean(torch.zeros_like(condition))
    scale = float(found.abs().max())
    assert (conditional - dropped).abs().max() > 1e-3
    torch.testing.assert_close(found, 3.5 * conditional - 2.5 * dropped, rtol=1e-3, atol=1e-3 * scale)
    torch.testing.assert_close(without, conditional, rtol=1e-3, atol=1e-3 * scale)
    assert calls == [(1, 1)] * 2


@pytest.mark.parametrize("network", NETWORKS)
def test_a_map_shows_what_experts_worked_on_token_by_token(network):
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    with recorded_routing(model.denoiser, model.stride) as recorder:
        model.generate(PROMPTS, seconds=1.5)
    tokens = {"mdm": 1, "mld": 1, "salad": 7}[network]
    maps = recorder.maps()
    assert len(maps) == 2
    for routing in maps:
        assert routing.gate_QMPLE.shape[1:] == (3, tokens, latents_of(model, 30), 4)
        assert len(routing.tokens) == tokens
        assert (routing.gate_QMPLE > 0).any()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_comes_back_from_its_checkpoint(network: str, tmp_path: Path) -> None:
    model = one_person_model(network, selection="dynamic", **PREDICTIONS[network])
    again = InterMoE.load(save_model(tmp_path / "model", model))
    again._encoder = model._encoder
    one, other = (which.generate(PROMPTS[0], seconds=1.5, seed=2) for which in (model, again))
    np.testing.assert_array_equal(one.joints, other.joints)


def test_a_known_motion_is_for_two() -> None:
    model = one_person_model("mdm")
    motion = model.generate("a person walks.", seconds=2.0, seed=3)
    with pytest.raises(UserError) as caught:
        model.generate("a person sits down.", after=motion)
    assert str(caught.value) == "after: a motion that is known (allowed: a model of two persons)"
    steps: list[int] = []
    with pytest.raises(UserError) as caught:
        model.generate_sequence(["a person walks.", "a person sits down."], on_step=lambda done, _: steps.append(done))
    assert str(caught.value) == "generate: 2 prompts in a row (allowed: a model of two persons)"
    assert steps == []
    one = model.generate_sequence(["a person walks."], seconds=2.0, seed=3)
    np.testing.assert_array_equal(one.joints, motion.joints)
