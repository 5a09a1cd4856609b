import warnings

import numpy as np
import pytest
import torch
from small_model import small_model

from intermoe.body.placement import Placement
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError, UserNote
from intermoe.given_person import GivenPerson
from intermoe.model import InterMoE
from intermoe.motion import Motion

# Legend: T frames, P = 2 persons, J joints, R = J - 1, B motions.
PROMPT = "The first person pushes the second person."


@pytest.fixture(scope="module")
def model() -> InterMoE:
    return small_model()


@pytest.fixture(scope="module")
def named() -> InterMoE:
    return small_model(data={"persons": "named"})


@pytest.fixture(scope="module")
def recorded() -> Motion:
    """Duet's push, somewhere in the world, on a floor at 0.3 m."""
    duet = make_interaction(seed=0, index=2)
    joints_TPJ3 = torch.from_numpy(duet.position_TPJ3[:50])[None]
    turn_B33 = torch.tensor([[[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]]])
    moved = Placement(turn_B33, torch.tensor([[3.0, 0.0, -2.0]])).points(joints_TPJ3)[0].numpy()
    return Motion(moved + np.array([0, 0.3, 0], np.float32), duet.rotation_TPR6[:50], 30, PROMPT, SMPL22)


@pytest.mark.parametrize("role", ["first", "second"])
@pytest.mark.parametrize("persons", ["drawn", "named"])
def test_the_given_person_stays_and_the_other_stands_on_the_same_ground(model, named, recorded, role, persons):
    given = GivenPerson.of(recorded, "second", role=role)
    made = (named if persons == "named" else model).generate(PROMPT, given=given, seed=1)
    place = 0 if role == "first" else 1
    np.testing.assert_array_equal(made.joints[:, place], recorded.joints[:, 1])
    np.testing.assert_array_equal(made.rotations[:, place], recorded.rotations[:, 1])
    assert (made.joints.shape, made.fps, made.caption) == ((50, 2, 22, 3), 30, PROMPT)
    lowest_T = made.joints[:, 1 - place, :, 1].min(axis=1)
    given_T = recorded.joints[:, 1, :, 1].min(axis=1)
    assert np.quantile(lowest_T, 0.05) == pytest.approx(np.quantile(given_T, 0.05), abs=1e-4)


@pytest.mark.parametrize("role", ["first", "second"])
@pytest.mark.parametrize("persons", ["drawn", "named"])
def test_where_the_given_person_stands_in_the_world_changes_nothing_but_that(model, named, recorded, role, persons):
    network = named if persons == "named" else model
    person = GivenPerson.of(recorded, role)
    there = Placement(torch.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]]), torch.tensor([[5.0, 0, 1]]))
    elsewhere = GivenPerson(
        there.points(torch.from_numpy(person.joints)[None])[0].numpy(), person.rotations, SMPL22, role
    )
    one, other = (network.generate(PROMPT, given=given, seed=1) for given in (person, elsewhere))
    np.testing.assert_allclose(there.points(torch.from_numpy(one.joints)[None])[0], other.joints, atol=2e-3)
    np.testing.assert_allclose(one.rotations, other.rotations, atol=5e-3)


def test_the_other_person_depends_on_the_given_one(model, recorded):
    one, other = (
        model.generate(PROMPT, given=GivenPerson.of(recorded, person, role="first"), seed=1)
        for person in ("first", "second")
    )
    assert np.abs(one.rotations[:, 1] - other.rotations[:, 1]).max() > 1e-2
    again = model.generate(PROMPT, given=GivenPerson.of(recorded, "first"), seed=1)
    np.testing.assert_array_equal(one.joints, again.joints)
    assert np.abs(model.generate(PROMPT, seconds=50 / 30, seed=1).rotations[:, 1] - one.rotations[:, 1]).max() > 1e-2


def test_the_second_person_of_named_captions_is_put_where_a_free_sample_has_it(named, recorded):
    told = []
    given = GivenPerson.of(recorded, "second")
    made = named.generate(PROMPT, given=given, seed=1, on_step=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)], "sampled twice"
    free = named.generate(PROMPT, seconds=50 / 30, seed=1)
    free_way = (free.joints[0, 1, 0] - free.joints[0, 0, 0])[[0, 2]]
    made_way = (made.joints[0, 1, 0] - made.joints[0, 0, 0])[[0, 2]]
    assert np.linalg.norm(made_way) == pytest.approx(np.linalg.norm(free_way), abs=0.25)


def test_a_prompt_alone_gives_what_it_gives_among_others(named, recorded):
    given = GivenPerson.of(recorded, "first")
    prompts = [PROMPT, "The second person waves.", "Two people bow."]
    together = named.generate(prompts, given=given, seed=1)
    for prompt, motion in zip(prompts, together, strict=True):
        alone = named.generate(prompt, given=given, seed=1)
        np.testing.assert_allclose(motion.joints, alone.joints, atol=1e-4)


def test_the_length_is_that_of_the_given_person(model, recorded):
    given = GivenPerson.of(recorded, "first")
    made = model.generate("They hug.", given=given, seconds=1)
    np.testing.assert_array_equal(made.joints[:, 0], recorded.joints[:30, 0])
    with pytest.raises(UserError, match=r"^seconds: 2 seconds \(allowed: up to the given 1\.667\)$"):
        model.generate("They hug.", given=given, seconds=2)
    long = GivenPerson(np.tile(given.joints, (2, 1, 1)), np.tile(given.rotations, (2, 1, 1)), SMPL22)
    with pytest.warns(
        UserNote, match="^given: the first 62 of 100 frames are used, as the model learned from no more$"
    ):
        cut = model.generate("They hug.", given=long)
    np.testing.assert_array_equal(cut.joints[:, 0], long.joints[:62])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.generate("They hug.", given=given)
    assert [str(note.message) for note in told if note.category is UserNote] == [
        "given: the floor lies at y = 0.32, and stays there"
    ]


def test_a_file_in_place_of_what_it_holds_is_told(model):
    for options, message in (
        ({"given": "x.bvh"}, "given: a str (allowed: a GivenPerson, as of GivenPerson.load(FILE))"),
        ({"after": "x.npz"}, "after: a str (allowed: a Motion, as of Motion.load(FILE))"),
    ):
        with pytest.raises(UserError) as caught:
            model.generate("They hug.", **options)
        assert str(caught.value) == message


def test_what_excludes_each_other_is_refused(model, recorded):
    with pytest.raises(UserError, match="a given person beside a motion before"):
        model.generate("They hug.", given=GivenPerson.of(recorded), after=recorded)
