"""The losses of the predicted motion against plain loops over samples, frames, persons and joints.

Legend: B batch, T frames, P = 2 persons, F features, J joints.
"""

import math

import pytest
import torch
from one_person import one_person_model
from torch import Tensor

from intermoe.body.features import FeatureLayout
from intermoe.body.skeletons import SMPL22
from intermoe.training.config import DenoiserTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.geometric import GeometricLossConfig, counted, geometric_sums

FRAMES = (6, 4)
BONES = [*zip((0, 2, 5, 8), (2, 5, 8, 11), strict=True), *zip((0, 1, 4, 7), (1, 4, 7, 10), strict=True)]
BONES += [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (9, 14), (14, 17), (17, 19), (19, 21), (9, 13), (13, 16)]
BONES += [(16, 18), (18, 20)]
FEET = {7: 0.12, 10: 0.05, 8: 0.12, 11: 0.05}


def people(seed: int) -> Tensor:
    """Features whose joints are two people in a T-pose, hardly apart, all shaken by some centimetres."""
    rng = torch.Generator().manual_seed(seed)
    rest = torch.zeros(22, 3)
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):
        rest[joint] = rest[parent] + torch.tensor(SMPL22.rest_offsets[joint])
    rest[:, 1] -= rest[:, 1].min()
    joints = rest + 0.02 * torch.randn(len(FRAMES), max(FRAMES), 2, 22, 3, generator=rng)
    joints[:, :, 1] = joints[:, :, 1] * torch.tensor([-1.0, 1.0, -1.0]) + torch.tensor([0.1, 0.0, 0.06])
    features = torch.zeros(len(FRAMES), max(FRAMES), 2, 262)
    features[..., FeatureLayout.of(SMPL22).positions] = joints.flatten(-2)
    return features


def mask() -> Tensor:
    return torch.arange(max(FRAMES)) < torch.tensor(FRAMES)[:, None]


def plain(predicted: Tensor, true: Tensor) -> dict[str, list[list[Tensor]]]:
    """The terms of each loss, sample by sample."""
    terms: dict[str, list[list[Tensor]]] = {
        name: [[], []] for name in GeometricLossConfig.model_fields if name != "up_to"
    }
    for row, frames in enumerate(FRAMES):
        found, right = (x[row, :frames, :, :66].unflatten(-1, (22, 3)) for x in (predicted, true))
        for frame in range(frames):
            for person in (0, 1):
                if frame + 1 < frames:
                    step, true_step = (x[frame + 1, person] - x[frame, person] for x in (found, right))
                    terms["velocity"][row].append((step - true_step).square().mean())
                    standing = [
                        step[foot].square().mean()
                        for foot, height in FEET.items()
                        if step[foot].square().sum() < 0.001 and found[frame, person, foot, 1] < height
                    ]
                    if standing:
                        terms["foot_contact"][row].append(torch.stack(standing).mean())
                lengths, true_lengths = (
                    torch.stack([(x[frame, person, a] - x[frame, person, b]).norm() for a, b in BONES])
                    for x in (found, right)
                )
                terms["bone_length"][row].append((lengths - true_lengths).square().mean())
            near, touching = [], []
            for a in range(22):
                for b in range(22):
                    d, true_d = ((x[frame, 0, a] - x[frame, 1, b]).norm() for x in (found, right))
                    near += [(d - true_d).square()] if d < 1 else []
                    touching += [d.square()] if true_d < 0.1 else []
            terms["distance_map"][row].append(torch.stack(near).mean())
            terms["affinity"][row].append(torch.stack(touching).mean() if touching else torch.zeros(()))
            halves, true_halves = (half_turn(x[frame]) for x in (found, right))
            terms["orientation"][row].append((halves - true_halves).square().mean())
    return terms


def half_turn(joints: Tensor) -> Tensor:
    angles = []
    for person in (0, 1):
        across = joints[person, 2] - joints[person, 1]
        angles.append(torch.atan2(across[2], -across[0]))  # of the way that (across_z, 0, -across_x) shows, from z
    turn = angles[1] - angles[0]
    turn = turn - 2 * math.pi * torch.round(turn.detach() / (2 * math.pi))
    return torch.stack([torch.cos(turn / 2), torch.sin(turn / 2)])


def test_sums_and_gradients_are_those_of_plain_loops() -> None:
    predicted, true, weight = people(0).requires_grad_(), people(1), torch.tensor([1.0, 3.0])
    sums = geometric_sums(predicted, true, mask(), weight, SMPL22)
    terms = plain(predicted, true)
    assert sums.keys() == terms.keys()
    for name, samples in terms.items():
        expected = 2 * sum(scale * torch.stack(found).sum() for scale, found in zip(weight, samples, strict=True))
        torch.testing.assert_close(sums[name], expected, rtol=1e-4, atol=1e-7, msg=name)
        assert expected > 1e-5, name
        (gradient,) = torch.autograd.grad(sums[name], predicted, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, predicted, retain_graph=True)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_perfect_prediction_costs_what_true_feet_and_touching_joints_cost() -> None:
    true = people(0)
    sums = geometric_sums(true, true, mask(), torch.ones(2), SMPL22)
    assert {name for name, value in sums.items() if value > 0} == {"foot_contact", "affinity"}


def test_padding_reaches_neither_sums_nor_gradients() -> None:
    predicted, true = people(0), people(1)
    expected = geometric_sums(predicted, true, mask(), torch.ones(2), SMPL22)
    predicted[~mask()] = 5.0
    predicted.requires_grad_()
    found = geometric_sums(predicted, true, mask(), torch.ones(2), SMPL22)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    torch.stack(list(found.values())).sum().backward()
    assert predicted.grad is not None
    assert not predicted.grad[~mask()].any()
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-25, 1e-12, 1e-8])
def test_people_on_one_point_give_finite_gradients(size: float) -> None:
    predicted = (size * torch.randn(1, 4, 2, 262, generator=torch.Generator().manual_seed(0))).requires_grad_()
    sums = geometric_sums(predicted, people(1)[:1, :4], torch.ones(1, 4, dtype=torch.bool), torch.ones(1), SMPL22)
    torch.stack(list(sums.values())).sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_samples_count_by_their_timestep_and_one_on_average() -> None:
    weight = counted(torch.arange(1000), 0.7, 1000)
    assert weight.mean() == pytest.approx(1)
    assert weight[700] == pytest.approx(1000 / 701)
    assert weight[701] == 0
    assert counted(torch.arange(10), 1.0, 10).tolist() == [1.0] * 10


def test_where_all_samples_count_and_are_as_long_it_is_the_published_mean() -> None:
    """InterGen: the mean over frames of each sample, over samples, of the one person plus that of the other."""
    predicted, true = people(0)[:, :4], people(1)[:, :4]
    sums = geometric_sums(predicted, true, torch.ones(2, 4, dtype=torch.bool), torch.ones(2), SMPL22)
    found, right = (x[..., :66].unflatten(-1, (22, 3)) for x in (predicted, true))
    bones = torch.tensor(BONES)
    lengths, true_lengths = ((x[..., bones[:, 0], :] - x[..., bones[:, 1], :]).norm(dim=-1) for x in (found, right))
    of_persons = (lengths - true_lengths).square().mean(dim=-1).mean(dim=1).mean(dim=0)
    num_person_frames = 2 * 4 * 2
    torch.testing.assert_close(sums["bone_length"] / num_person_frames, of_persons.sum())


def test_weights_are_those_of_the_network_but_for_those_that_are_given() -> None:
    own = {"velocity": 30, "foot_contact": 30, "bone_length": 10, "distance_map": 3, "affinity": 3, "orientation": 0.01}
    assert GeometricLossConfig().weights("intermoe") == {}
    assert GeometricLossConfig().weights("intergen") == GeometricLossConfig(up_to=0.5).weights("timotion") == own
    assert GeometricLossConfig(velocity=2).weights("intermoe") == {"velocity": 2}
    changed = GeometricLossConfig(velocity=2, affinity=0)
    assert changed.weights("intergen") == {name: weight for name, weight in own.items() if name != "affinity"} | {
        "velocity": 2
    }
    stored = GeometricLossConfig.parse(changed.model_dump(mode="json"))
    assert stored.weights("intergen") == changed.weights("intergen")


@pytest.mark.parametrize("network", ["mdm", "mld", "salad"])
def test_a_network_of_one_person_has_no_losses_of_two(network):
    assert GeometricLossConfig().weights(network) == {}
    model = one_person_model(network)
    config = DenoiserTrainingConfig(epochs=1, batch_size=2, loss=GeometricLossConfig(bone_length=10))
    with pytest.raises(ValueError) as caught:
        DenoiserObjective(model, config)
    assert str(caught.value) == (
        f"train.denoiser.loss.bone_length = 10.0 with network = {network}, of one person (allowed: 0)"
    )
