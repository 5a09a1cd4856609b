from itertools import pairwise

import numpy as np
import pytest
import torch
from small_model import small_model
from turns import angle_between

from intermoe.body.placement import Placement
from intermoe.body.rotations import matrix_from_axis_angle
from intermoe.body.skeletons import SMPL22
from intermoe.context.continuation import _turning_on, overlap
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.evaluation.ranges import bone_lengths
from intermoe.model import InterMoE
from intermoe.motion import Motion

# Legend: T frames, P = 2 persons, J joints, R = J - 1.
PROMPTS = ["Two people bow.", "The second person waves to the first person.", "They hug."]


@pytest.fixture(scope="module")
def model() -> InterMoE:
    return small_model(data={"persons": "named"})


def recorded(index: int, frames: int) -> Motion:
    duet = make_interaction(seed=0, index=index)
    return Motion(duet.position_TPJ3[:frames], duet.rotation_TPR6[:frames], 30, "They meet", SMPL22)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("frames", [15, 40])
def test_the_old_frames_stay_and_the_new_ones_go_on_from_them(model, prompt, frames):
    """A model with random weights makes of the next frames what it likes; still nobody jumps."""
    before = recorded(2, frames)
    made = model.generate(prompt, after=before, seconds=1)
    assert made.joints.shape == (frames + 30, 2, 22, 3)
    np.testing.assert_array_equal(made.joints[:frames], before.joints)
    np.testing.assert_array_equal(made.rotations[:frames], before.rotations)
    assert made.caption == f"They meet. {prompt}"
    velocity = np.diff(made.joints[frames - 2 :].astype(np.float64), axis=0)
    # From the last old velocity to the first new one, in metres per frame.
    change_m = np.linalg.norm(velocity[1] - velocity[0], axis=-1)
    assert change_m.max() < 0.05
    bones_TPM = bone_lengths(made.joints.astype(np.float64), SMPL22)
    np.testing.assert_allclose(bones_TPM[frames:], np.broadcast_to(bones_TPM[:1], bones_TPM[frames:].shape), atol=2e-3)


def test_it_goes_on_wherever_the_motion_stands(model):
    before = recorded(0, 45)
    there = Placement(torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]]), torch.tensor([[2.0, 0, 1]]))
    moved = there.points(torch.from_numpy(before.joints)[None])[0].numpy() + np.array([0, 0.5, 0], np.float32)
    elsewhere = Motion(moved, before.rotations, 30, before.caption, SMPL22)
    one, other = (model.generate(PROMPTS[1], after=motion, seconds=1) for motion in (before, elsewhere))
    shifted = there.points(torch.from_numpy(one.joints)[None])[0].numpy() + np.array([0, 0.5, 0], np.float32)
    np.testing.assert_allclose(shifted, other.joints, atol=5e-3)


def test_prompts_in_a_row_are_one_motion_that_each_goes_on_from_the_one_before(model):
    told = []
    made = model.generate_sequence(PROMPTS, seconds=1, seed=3, on_step=lambda *step: told.append(step))
    assert made.joints.shape == (90, 2, 22, 3)
    assert made.caption == " ".join(PROMPTS)
    assert told == [(done, 15) for done in range(1, 16)]
    one = model.generate(PROMPTS[0], seconds=1, seed=3)
    two = model.generate(PROMPTS[1], after=one, seconds=1, seed=3)
    three = model.generate(PROMPTS[2], after=two, seconds=1, seed=3)
    np.testing.assert_allclose(made.joints, three.joints, atol=1e-4)
    np.testing.assert_array_equal(made.joints, model.generate_sequence(PROMPTS, seconds=1, seed=3).joints)
    on = model.generate_sequence(PROMPTS[1:], seconds=1, seed=3, after=one)
    np.testing.assert_allclose(on.joints, three.joints, atol=1e-4)


def test_a_length_that_is_too_long_for_a_later_prompt_is_said_before_the_first_is_sampled(model):
    told = []
    with pytest.raises(UserError, match=r"2 seconds are 60 frames \(allowed: 0\.5 to 1\.633; the model learned"):
        model.generate_sequence(PROMPTS, seconds=2, on_step=lambda *step: told.append(step))
    assert told == []


def test_the_same_prompt_twice_is_drawn_twice(model):
    one = model.generate("Bow.", seconds=1, seed=0)
    again = model.generate("Bow.", after=one, seconds=1, seed=0)
    assert np.abs(model.generate_sequence(["Bow."] * 2, seconds=1).joints - again.joints).max() > 1e-3


@pytest.mark.parametrize(("frames", "expected"), [(15, 13), (16, 13), (17, 13), (500, 13)])
def test_what_is_known_fills_whole_latent_frames_of_the_end(frames, expected):
    still_TPJ3, rotations_TPR6 = np.zeros((frames, 2, 22, 3), np.float32), np.zeros((frames, 2, 21, 6), np.float32)
    assert overlap(Motion(still_TPJ3, rotations_TPR6, 30, "", SMPL22)) == expected


def test_what_cannot_be_gone_on_from_is_refused(model):
    before = recorded(0, 45)
    allowed = "(allowed: 0.5 to 1.633; the model learned from up to 62 frames, 13 of them those of the motion before)"
    sizes = "times a person's size (allowed: 0.2 to 5)"
    for motion, seconds, message in (
        (recorded(0, 14), 1, "after: 14 frames (allowed: 15 or more)"),
        (Motion(before.joints, before.rotations, 60, "", SMPL22), 1, "after: 60 frames a second (allowed: 30)"),
        (Motion(0 * before.joints, before.rotations, 30, "", SMPL22), 1, f"after: a body of 0 {sizes}"),
        (Motion(100 * before.joints, before.rotations, 30, "", SMPL22), 1, f"after: a body of 103 {sizes}"),
        (before, 2, f"seconds: 2 seconds are 60 frames {allowed}"),
        (before, 0.1, f"seconds: 0.1 seconds are 3 frames {allowed}"),
    ):
        with pytest.raises(UserError) as caught:
            model.generate("They hug.", after=motion, seconds=seconds)
        assert str(caught.value) == message


def test_a_body_that_is_turned_half_round_turns_back_evenly():
    """From a joint that the networks have half a turn beside where it is: blended matrices would flip."""
    axis = torch.tensor([0.0, 0.6, 0.8])
    old_angle, new_angle = torch.tensor([-0.02, 0.0]), torch.pi * 0.99 + 0.03 * torch.arange(30.0)
    old, new = (matrix_from_axis_angle(angle[:, None] * axis)[None, :, None] for angle in (old_angle, new_angle))
    made = _turning_on(old, new[None])[0, 0, :, 0]
    torch.testing.assert_close(made[0], old[0, 1, 0], atol=1e-5, rtol=0)
    # As fast as the old one turned at first, and never by more than a seventh of the whole in a frame.
    step = [angle_between(one, other) for one, other in pairwise([old[0, 0, 0], *made])]
    assert float(step[1]) == pytest.approx(float(torch.tensor(0.02).rad2deg()), abs=3.0)
    assert max(step) < 180 / 7
    torch.testing.assert_close(made[16:], new[0, 16:, 0], atol=1e-5, rtol=0)
