"""Contacts of hands: what the head reads, what its loss is, and what users get of it.

Legend: B batch, P = 2 persons, L latent frames, D width, H hands of a person, T frames, J joints.
"""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_model import save_model, small_model
from torch import nn

from intermoe import checkpoint
from intermoe.body.hands import TOUCHING, HandContacts, hand_gaps
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.generation import GeneratedBatch, Sampled
from intermoe.given_person import GivenPerson
from intermoe.model import InterMoE
from intermoe.motion import Motion
from intermoe.networks.hand_contact import HandContactHead, contact_loss_sum, contacts_from_logits

PREDICTED: dict[str, Any] = {"diffusion": {"hand_contact_loss": 0.1}}


def random_head() -> HandContactHead:
    torch.manual_seed(0)
    head = HandContactHead(8, 2)
    nn.init.normal_(head.out.weight)
    return head


def test_it_begins_with_no_contact_in_sight():
    contacts = contacts_from_logits(HandContactHead(8, 2)(torch.randn(2, 3, 5, 8)))
    assert contacts.touch_THH.shape == contacts.gap_THH.shape == (3, 5, 2, 2)
    torch.testing.assert_close(contacts.touch_THH, torch.full((3, 5, 2, 2), 1 / (1 + math.exp(3))))
    torch.testing.assert_close(contacts.gap_THH, torch.full((3, 5, 2, 2), TOUCHING / 2))


def test_with_the_persons_exchanged_so_are_the_contacts():
    x_PBLD = torch.randn(2, 3, 5, 8)
    head = random_head()
    own, other = contacts_from_logits(head(x_PBLD)), contacts_from_logits(head(x_PBLD.flip(0)))
    torch.testing.assert_close(other.touch_THH, own.touch_THH.mT)
    torch.testing.assert_close(other.gap_THH, own.gap_THH.mT)
    assert (own.touch_THH - own.touch_THH.mT).abs().max() > 0.01


def test_the_loss_is_that_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(2, 4, 2, 2, 2, generator=generator)
    gap = 2 * TOUCHING * torch.rand(2, 4, 2, 2, generator=generator)
    gap[1, 3] = torch.nan  # behind the motion's end
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    expected = 0.0
    for row, frame in mask.nonzero().tolist():
        for own in (0, 1):
            for other in (0, 1):
                chance = 1 / (1 + math.exp(-float(logit[row, frame, 0, own, other])))
                metres = TOUCHING / (1 + math.exp(-float(logit[row, frame, 1, own, other])))
                right = float(gap[row, frame, own, other])
                loss = -math.log(chance) + abs(metres - right) / TOUCHING if right < TOUCHING else -math.log(1 - chance)
                expected += 2 * loss / 4  # of both persons, the mean over the pairs
    assert float(contact_loss_sum(logit, gap, mask)) == pytest.approx(expected, rel=1e-5)


def test_only_a_denoiser_that_is_asked_to_predicts_contacts():
    plain, asked = small_model(), small_model(**PREDICTED)
    assert asked.denoiser.state_dict().keys() - plain.denoiser.state_dict().keys() == {
        "contact_head.out.weight",
        "contact_head.out.bias",
    }
    given = torch.randn(1, 6, 2, plain.latent), torch.tensor([50]), torch.randn(1, 384), torch.ones(1, 6).bool()
    assert plain.denoiser.predict(*given)[1] is None
    latent, logit = asked.denoiser.predict(*given)
    assert logit is not None
    assert logit.shape == (1, 6, 2, 2, 2)
    assert latent.equal(asked.denoiser(*given))


def saying(logit: float) -> InterMoE:
    """A model that says of every right hand of both that they touch, by so much."""
    model = small_model(**PREDICTED)
    assert model.denoiser.contact_head is not None
    nn.init.zeros_(model.denoiser.contact_head.out.weight)
    bias_2HH = torch.full((2, 2, 2), -10.0)
    bias_2HH[0, 1, 1] = logit
    model.denoiser.contact_head.out.bias.data = bias_2HH.flatten()
    return model


@pytest.fixture(scope="module")
def model() -> InterMoE:
    return saying(10.0)


@pytest.fixture(scope="module")
def silent() -> InterMoE:
    return saying(-10.0)


def gap_cm(joints_TPJ3) -> torch.Tensor:
    return 100 * hand_gaps(torch.as_tensor(joints_TPJ3).transpose(0, 1), SMPL22)[:, 1, 1]


def test_hands_that_are_said_to_touch_are_brought_together(model, silent):
    prompts = ["Two people shake hands.", "The second person waves to the first person."]
    together = model.generate(prompts, seed=3, seconds=1.5)
    apart = silent.generate(prompts, seed=3, seconds=1.5)
    for one, other in zip(together, apart, strict=True):
        assert gap_cm(one.joints).median() < 0.8 * gap_cm(other.joints).median()


def test_a_prompt_alone_has_the_contacts_that_it_has_in_a_batch(model):
    several = model.generate(["Two people shake hands.", "They walk."], seed=3, seconds=1.5)
    alone = model.generate("Two people shake hands.", seed=3, seconds=1.5)
    torch.testing.assert_close(torch.tensor(several[0].joints), torch.tensor(alone.joints), atol=1e-4, rtol=0)


def test_what_is_exchanged_takes_its_contacts_along():
    model = small_model()
    features = torch.randn(2, 8, 2, model.skeleton.num_features)
    touch = torch.zeros(2, 8, 2, 2)
    touch[:, :, 0, 1] = 1
    output = Sampled(features, HandContacts(touch, touch)).exchanged(torch.tensor([True, False]), model.skeleton)
    assert output.contacts is not None
    assert output.contacts.touch_THH[0].equal(touch[0].mT)
    assert output.contacts.touch_THH[1].equal(touch[1])
    frames = torch.tensor([8, 8])
    assert GeneratedBatch.settled(output, frames, model.skeleton).joints_BTPJ3.isfinite().all()


@pytest.mark.parametrize("role", ["first", "second"])
def test_a_hand_reaches_for_that_of_a_given_person_who_stays(model, silent, role):
    push = make_interaction(seed=0, index=2)
    recorded = Motion(push.position_TPJ3[:50], push.rotation_TPR6[:50], 30, "", SMPL22)
    given = GivenPerson.of(recorded, "first", role=role)
    reaching = model.generate("They shake hands.", given=given, seed=1)
    free = silent.generate("They shake hands.", given=given, seed=1)
    place = 0 if role == "first" else 1
    for motion in (reaching, free):
        np.testing.assert_array_equal(motion.joints[:, place], recorded.joints[:, 0])
    assert gap_cm(reaching.joints).median() < gap_cm(free.joints).median() - 5
    still = [joint for joint in range(22) if joint not in (19, 21)]  # of the right arm, elbow and wrist
    # The whole person stands a little nearer, in all frames by the same.
    nearer = (reaching.joints - free.joints)[:1, 1 - place, :1]
    assert 0 < np.linalg.norm(nearer) < 0.301
    np.testing.assert_allclose(
        reaching.joints[:, 1 - place, still], free.joints[:, 1 - place, still] + nearer, atol=1e-4
    )


def test_hands_join_in_what_comes_after_a_motion_and_no_hand_jumps(model, silent):
    push = make_interaction(seed=0, index=2)
    before = Motion(push.position_TPJ3[:40], push.rotation_TPR6[:40], 30, "They walk.", SMPL22)
    joined = model.generate("They shake hands.", after=before, seed=1, seconds=1)
    free = silent.generate("They shake hands.", after=before, seed=1, seconds=1)
    np.testing.assert_array_equal(joined.joints[:40], before.joints)
    assert gap_cm(joined.joints[50:]).median() < gap_cm(free.joints[50:]).median() / 2
    # The first new frame hardly differs, and from frame to frame a hand is moved by centimetres.
    way_cm = 100 * np.linalg.norm(joined.joints - free.joints, axis=-1)
    assert way_cm[40].max() < 1
    assert way_cm.max() > 10
    assert np.diff(way_cm[:, :, 21], axis=0).max() < 20


def test_a_given_person_without_arms_gets_a_partner(model):
    push = make_interaction(seed=0, index=2)
    joints = push.position_TPJ3[:50, 0].copy()
    for wrist, elbow, shoulder in ((20, 18, 16), (21, 19, 17)):
        joints[:, [wrist, elbow]] = joints[:, [shoulder]]
    given = GivenPerson(joints, push.rotation_TPR6[:50, 0], SMPL22, "first")
    made = model.generate("They shake hands.", given=given, seed=1)
    assert np.isfinite(made.joints).all()
    np.testing.assert_array_equal(made.joints[:, 0], joints)


def test_a_checkpoint_without_the_head_loads_only_as_what_it_is(tmp_path):
    plain, asked = small_model(), small_model(**PREDICTED)
    for name, one in (("plain", plain), ("asked", asked)):
        save_model(tmp_path / name, one)
        loaded = InterMoE.load(tmp_path / name)
        assert (loaded.denoiser.contact_head is None) == (name == "plain")
    document = json.loads((tmp_path / "plain/config.json").read_text())
    del document["diffusion"]["hand_contact_loss"]
    tensors = {name: part.state_dict() for name, part in plain.parts().items()}
    checkpoint.save(tmp_path / "old", tensors=tensors, documents={"config": document, "state": {"step": 1}})
    assert InterMoE.load(tmp_path / "old").denoiser.contact_head is None
    document["diffusion"]["hand_contact_loss"] = 0.1
    checkpoint.save(tmp_path / "other", tensors=tensors, documents={"config": document, "state": {"step": 1}})
    with pytest.raises(UserError, match=r"other: the weights do not fit the config beside them$") as caught:
        InterMoE.load(tmp_path / "other")
    assert "\n" not in str(caught.value)


def test_motions_of_several_lengths_have_the_contacts_that_they_have_alone():
    """By a head that says something else of every frame."""
    model = small_model(**PREDICTED)
    assert model.denoiser.contact_head is not None
    nn.init.normal_(model.denoiser.contact_head.out.weight, std=0.5)
    prompts, frames = ["Two people shake hands.", "They walk."], torch.tensor([60, 41])
    exchanged = torch.tensor([False, False])
    together = model.generate_batch(model.read_prompts(prompts, exchanged), frames_B=frames, seeds=[3, 4])
    for row in (0, 1):
        alone = model.generate_batch(
            model.read_prompts([prompts[row]], exchanged[:1]), frames_B=frames[row : row + 1], seeds=[3 + row]
        )
        length = int(frames[row])
        found, expected = together.joints_BTPJ3[row, :length], alone.joints_BTPJ3[0, :length]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_beside_a_given_person_a_prompt_alone_gives_what_it_gives_in_a_batch(model):
    shake = make_interaction(seed=11, index=0)
    given = GivenPerson(shake.position_TPJ3[:50, 0], shake.rotation_TPR6[:50, 0], SMPL22, "first")
    prompts = ["Two people shake hands.", "They hold hands.", "Two people hug."]
    several = model.generate(prompts, given=given, seed=1)
    for prompt, made in zip(prompts, several, strict=True):
        alone = model.generate(prompt, given=given, seed=1)
        np.testing.assert_allclose(made.joints, alone.joints, atol=1e-4)
