import numpy as np
import torch
from one_person import write_solo_shards

from intermoe.body.features import motion_features
from intermoe.body.skeletons import SMPL22
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion


def recording(frames, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(frames, 2, 22, 3, generator=generator).cumsum(0) * 0.02
    return position + torch.randn(2, 22, 3, generator=generator), torch.randn(frames, 2, 21, 6, generator=generator)


def moments_of(position: torch.Tensor, rotation: torch.Tensor) -> Moments:
    return Moments.of(RecordedMotion(position_TPJ3=position.numpy(), rotation_TPR6=rotation.numpy()), SMPL22)


def features(position, rotation):
    """Of one stretch, both orders of the persons, one after the other [N, 262]."""
    rows = []
    for order in ([0, 1], [1, 0]):
        frames = torch.tensor([len(position)])
        x_BTPF, _ = motion_features(position[None, :, order], rotation[None, :, order], frames, SMPL22)
        rows.append(x_BTPF.flatten(0, 2))
    return torch.cat(rows).double()


def test_mean_and_deviation_are_those_of_all_frames_in_both_orders():
    one, two = recording(40), recording(15, seed=1)
    rows = torch.cat([features(*one), features(*two)])
    mean, std = Moments.total(moments_of(*motion) for motion in (one, two)).mean_and_std()
    torch.testing.assert_close(mean, rows.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(std, rows.std(0, correction=0), atol=1e-6, rtol=0)
    assert len(rows) == moments_of(*one).count + moments_of(*two).count == 4 * (39 + 14)


def test_a_long_recording_is_cut_into_stretches_with_frames_of_their_own():
    position, rotation = recording(615)
    stretches = [slice(0, 300), slice(300, 600), slice(600, 615)]
    rows = torch.cat([features(position[cut], rotation[cut]) for cut in stretches])
    moments = moments_of(position, rotation)
    assert moments.count == len(rows) == 4 * (299 + 299 + 14)
    torch.testing.assert_close(moments.mean_and_std()[0], rows.mean(0), atol=1e-6, rtol=0)
    # 614 frames leave 14, fewer than a recording has: they do not count.
    assert moments_of(position[:614], rotation[:614]).count == 4 * (299 + 299)


def test_a_number_that_never_changes_has_no_deviation():
    position, rotation = recording(20)
    rotation[..., 0, 0] = 1e4 / 3
    _, std = moments_of(position, rotation).mean_and_std()
    assert std[132] < 1e-3
    assert std.isfinite().all()


def test_features_of_one_person_are_divided_by_the_mean_deviation_of_their_kind(tmp_path):
    # HumanML3D's order: turn, two steps, height, 21 positions, 21 rotations, 22 velocities, 4 contacts.
    folder = write_solo_shards(tmp_path / "solo", {"train": 3})
    std_F = np.array(folder.card.std)
    ends = np.cumsum([1, 2, 1, 63, 126, 66, 4])
    wanted_F = np.concatenate([np.full(len(kind), kind.mean()) for kind in np.split(std_F, ends[:-1])])
    normaliser = folder.normaliser()
    np.testing.assert_allclose(normaliser.std_F, wanted_F, rtol=1e-6)
    np.testing.assert_allclose(normaliser.mean_F, folder.card.mean, rtol=1e-6)
    assert len(set(wanted_F)) == 7
