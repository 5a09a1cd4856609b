"""InterGen and TIMotion in the place of InterMoE: what users ask of a model holds with these networks too."""

import numpy as np
import pytest
import torch
from small_model import save_model, small_model

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.given_person import GivenPerson
from intermoe.model import InterMoE
from intermoe.model_config import ModelConfig
from intermoe.moe.routing_map import recorded_routing
from intermoe.motion import Motion

# Legend: T frames, P = 2 persons, J joints.
PROMPTS = ["Two people bow.", "The first person pushes the second person.", "They hug."]


@pytest.fixture(scope="module", params=["intergen", "timotion"])
def model(request: pytest.FixtureRequest) -> InterMoE:
    return small_model(network=request.param)


def recorded(index: int, frames: int) -> Motion:
    duet = make_interaction(seed=0, index=index)
    return Motion(duet.position_TPJ3[:frames], duet.rotation_TPR6[:frames], 30, "They meet", SMPL22)


def test_a_prompt_alone_gets_the_motion_that_it_gets_beside_others(model):
    together = model.generate(PROMPTS, seconds=1.1, seed=2)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        alone = model.generate(prompt, seconds=1.1, seed=2)
        assert alone.joints.shape == (33, 2, 22, 3)
        # Random weights make bodies of metres, and settling magnifies what is left of rounding.
        np.testing.assert_allclose(alone.joints, expected.joints, atol=1e-3)
    assert np.abs(together[0].joints - together[1].joints).max() > 0.01


def test_lengths_of_a_batch_change_nothing(model):
    conditions = model.read_prompts(PROMPTS)
    frames_B = torch.tensor([31, 18, 25])
    together = model.generate_batch(conditions, frames_B=frames_B, seeds=[1, 2, 3])
    for row, frames in enumerate(frames_B.tolist()):
        alone = model.generate_batch(
            model.read_prompts([PROMPTS[row]]), frames_B=frames_B[row : row + 1], seeds=[row + 1]
        )
        torch.testing.assert_close(
            alone.features_BTPF[0, :frames], together.features_BTPF[row, :frames], atol=1e-4, rtol=0
        )


def test_a_given_person_stays(model):
    before = recorded(2, 50)
    made = model.generate(PROMPTS[1], given=GivenPerson.of(before, "first"), seed=1)
    np.testing.assert_array_equal(made.joints[:, 0], before.joints[:, 0])
    assert np.abs(made.joints[:, 1] - before.joints[:, 1]).max() > 0.01


def test_a_motion_goes_on_without_a_jump(model):
    before = recorded(2, 40)
    calm = small_model(network=model.config.network)
    calm.denoiser.out.weight.data /= 10  # as it is, each frame is somewhere else
    made = calm.generate(PROMPTS[0], after=before, seconds=1)
    np.testing.assert_array_equal(made.joints[:40], before.joints)
    velocity = np.diff(made.joints[38:].astype(np.float64), axis=0)
    assert np.linalg.norm(velocity[1] - velocity[0], axis=-1).max() < 0.05


def test_a_checkpoint_holds_no_vae_and_gives_the_same_motion(model, tmp_path):
    loaded = InterMoE.load(save_model(tmp_path / "model", model))
    loaded._encoder = model.encoder
    assert sorted(file.stem for file in (tmp_path / "model").glob("*.safetensors")) == [
        "denoiser",
        "normaliser",
        "text_head",
    ]
    expected, found = (each.generate(PROMPTS[0], seconds=1) for each in (model, loaded))
    np.testing.assert_array_equal(found.joints, expected.joints)


def test_what_experts_worked_on_is_told_frame_by_frame(model):
    with recorded_routing(model.denoiser, model.stride) as recorder:
        model.generate(PROMPTS[0], seconds=1)
    (routing,) = recorder.maps()
    assert routing.stride == 1
    assert routing.gate_QMPLE.shape[1:] == (2, 2, 30, 4)
    assert (routing.gate_QMPLE > 0).any()


@pytest.mark.parametrize("network", ["intergen", "timotion"])
def test_errors_of_latents_need_a_vae(network):
    with pytest.raises(UserError) as caught:
        ModelConfig.parse({"network": network, "diffusion": {"error": "decoded"}})
    assert str(caught.value) == (
        f"diffusion.error = decoded needs a VAE, which network = {network} has not (allowed: latent)"
    )
