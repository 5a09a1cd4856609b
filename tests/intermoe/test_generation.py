import numpy as np
import pytest
import torch

from intermoe.body.features import (
    contacts_from_features,
    joints_from_features,
    motion_features,
    rotations_from_features,
)
from intermoe.body.settling import settled_body
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.errors import UserError
from intermoe.generation import GeneratedBatch, Sampled, device_named, eval_mode

# Legend: B motions, T frames, P = 2 persons, F features.
FRAMES = [30, 18, 30, 25]


@pytest.fixture(scope="module")
def features_BTPF() -> torch.Tensor:
    """Features of recordings with some noise, and what a network leaves beyond a motion's frames."""
    recordings = [make_interaction(seed=4, index=index) for index in range(len(FRAMES))]
    position, rotation = (
        torch.stack([torch.tensor(getattr(recording, name)[:31]) for recording in recordings])
        for name in ("position_TPJ3", "rotation_TPR6")
    )
    features_BTPF, _ = motion_features(position, rotation, torch.full((4,), 31), SMPL22)
    noise = torch.Generator().manual_seed(0)
    features_BTPF = features_BTPF + 0.02 * torch.randn(features_BTPF.shape, generator=noise)
    for row, frames in enumerate(FRAMES):
        features_BTPF[row, frames:] = 1e6
    return features_BTPF


def test_each_motion_settles_over_its_own_frames(features_BTPF):
    batch = GeneratedBatch.settled(Sampled(features_BTPF), torch.tensor(FRAMES), SMPL22)
    assert batch.features_BTPF is features_BTPF
    for row, frames in enumerate(FRAMES):
        alone = features_BTPF[row, :frames].transpose(0, 1)
        joints, rotations = settled_body(
            joints_from_features(alone, SMPL22),
            rotations_from_features(alone, SMPL22),
            SMPL22,
            contact_TK=contacts_from_features(alone, SMPL22),
        ).motion(SMPL22)
        torch.testing.assert_close(batch.joints_BTPJ3[row, :frames], joints.transpose(0, 1), atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.rotations_BTPR6[row, :frames], rotations.transpose(0, 1), atol=1e-5, rtol=0)
        assert not batch.joints_BTPJ3[row, frames:].any()
        assert not batch.rotations_BTPR6[row, frames:].any()


def test_motions_are_cut_to_their_frames(features_BTPF):
    batch = GeneratedBatch.settled(Sampled(features_BTPF), torch.tensor(FRAMES), SMPL22)
    motions = batch.motions(["a", "b", "c", "d"])
    assert [(motion.caption, len(motion.joints), len(motion.rotations)) for motion in motions] == [
        ("a", 30, 30),
        ("b", 18, 18),
        ("c", 30, 30),
        ("d", 25, 25),
    ]
    assert {(motion.fps, motion.skeleton.name) for motion in motions} == {(30, "smpl22")}
    np.testing.assert_array_equal(motions[1].joints, batch.joints_BTPJ3[1, :18].numpy())


def test_what_is_not_finite_is_refused(features_BTPF):
    broken_BTPF = features_BTPF.clone()
    broken_BTPF[1, 3, 0, 7] = torch.nan
    with pytest.raises(UserError) as caught:
        GeneratedBatch.settled(Sampled(broken_BTPF), torch.tensor(FRAMES), SMPL22)
    message = "generate: the model's output is not finite (allowed: a model trained to the end)"
    assert str(caught.value) == message


def test_modes_come_back_module_by_module():
    inner = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    network = torch.nn.Sequential(torch.nn.Dropout(), inner)
    inner[0].eval()
    modes = [module.training for module in network.modules()]
    with eval_mode(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == modes == [True, True, True, False, True]


def test_a_device_is_one_of_this_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "gpu", ""):
        with pytest.raises(UserError) as caught:
            device_named(name)
        assert str(caught.value) == f"--device: no device {name!r} on this machine (allowed: auto, cpu)"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_named("auto") == torch.device("cuda")
    assert device_named("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError) as caught:
        device_named("cuda:2")
    assert str(caught.value) == (
        "--device: no device 'cuda:2' on this machine (allowed: auto, cpu, cuda, cuda:0, cuda:1)"
    )
