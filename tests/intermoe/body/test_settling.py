"""Settled motion: bones of constant length, feet on the ground, no shaking, rotations near those that were given."""

import math

import pytest
import torch
from turns import angle_between

from intermoe.body.kinematics import forward_kinematics, root_orientation
from intermoe.body.rotations import matrix_about_axis, matrix_from_6d, sixd_from_matrix
from intermoe.body.settling import settled_body
from intermoe.body.skeletons import HUMANML22, SMPL22, Skeleton
from intermoe.datasets.duet import make_interaction

J = SMPL22.num_joints


def test_settled_motion_keeps_its_bones_and_stands_on_the_ground() -> None:
    rng = torch.Generator().manual_seed(5)
    recording = make_interaction(seed=3, index=1)
    clean_PTJ3 = torch.from_numpy(recording.position_TPJ3).transpose(0, 1)
    rotation_PTR6 = torch.from_numpy(recording.rotation_TPR6).transpose(0, 1)
    noisy_PTJ3 = clean_PTJ3 + 0.02 * torch.randn(clean_PTJ3.shape, generator=rng)
    settled_PTJ3, found_PTR6 = settled_body(noisy_PTJ3, rotation_PTR6, SMPL22).motion(SMPL22)
    parents, children = map(list, zip(*SMPL22.edges, strict=True))
    bone_PTE = (settled_PTJ3[..., children, :] - settled_PTJ3[..., parents, :]).norm(dim=-1)
    assert bone_PTE.std(dim=1).max() < 1e-5
    lowest_PT = settled_PTJ3[..., 1].amin(dim=-1)
    assert (lowest_PT < 0).float().mean() < 0.06
    assert lowest_PT.median() < 0.03
    # Every joint comes nearer to where it was before the noise; up and down is a matter of where the ground is put.
    before, after = ((x[..., [0, 2]] - clean_PTJ3[..., [0, 2]]).norm(dim=-1).mean() for x in (noisy_PTJ3, settled_PTJ3))
    assert after < 0.8 * before
    assert matrix_from_6d(found_PTR6).det().sub(1).abs().max() < 1e-4


def test_settling_leaves_rotations_near_those_that_were_given() -> None:
    """A centimetre of noise at the ends of the short bones of the spine would be ten degrees."""
    recording = make_interaction(seed=3, index=1)
    clean_PTJ3 = torch.from_numpy(recording.position_TPJ3).transpose(0, 1)
    rotation_PTR6 = torch.from_numpy(recording.rotation_TPR6).transpose(0, 1)
    error_PTJ3 = 0.01 * torch.randn(clean_PTJ3.shape, generator=torch.Generator().manual_seed(6))
    settled_PTJ3, found_PTR6 = settled_body(clean_PTJ3 + error_PTJ3, rotation_PTR6, SMPL22).motion(SMPL22)
    off_PTR = angle_between(matrix_from_6d(found_PTR6), matrix_from_6d(rotation_PTR6))
    assert off_PTR.mean() < 2
    assert off_PTR[..., [SMPL22.index(name) - 1 for name in ("spine2", "spine3")]].mean() < 2.5
    assert (settled_PTJ3 - clean_PTJ3)[..., [0, 2]].norm(dim=-1).mean() < 0.007


def turns_round(frames: int, degrees: float = 180.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Somebody who faces one way, then another, and in between the mean of both, as networks give it."""
    position_J3, _ = forward_kinematics(
        torch.zeros(3), torch.eye(3).expand(J, 3, 3), torch.tensor(SMPL22.rest_offsets), SMPL22.parents
    )
    turned_J3 = position_J3 @ matrix_about_axis("Y", torch.tensor(math.radians(degrees))).mT
    share_T11 = ((torch.arange(frames) - frames / 3) / (frames / 3)).clamp(0, 1)[:, None, None]
    still_TR6 = sixd_from_matrix(torch.eye(3)).expand(frames, J - 1, 6)
    return (1 - share_T11) * position_J3 + share_T11 * turned_J3, still_TR6


def heading(joints_TJ3: torch.Tensor) -> torch.Tensor:
    """Degrees [T], as the line from hip to hip."""
    hips_T3 = joints_TJ3[..., 1, :] - joints_TJ3[..., 2, :]
    return torch.atan2(hips_T3[..., 2], hips_T3[..., 0]).rad2deg()


def test_a_body_turns_evenly_where_the_network_leaves_open_which_way_it_faces() -> None:
    position_TJ3, still_TR6 = turns_round(60, degrees=170)
    settled_TJ3, _ = settled_body(position_TJ3, still_TR6, SMPL22).motion(SMPL22)
    turn_T = heading(settled_TJ3).diff()
    turn_T = turn_T - 360 * (turn_T / 360).round()
    assert turn_T.sum().abs() == pytest.approx(170, abs=0.1)
    # In the ten or so frames in which shoulders and hips are less than two fifths as wide as they are.
    assert 12 < turn_T.abs().max() < 30
    # Another motion behind it in the same array changes nothing, nor does what is behind its frames.
    both_BTJ3 = torch.stack([position_TJ3, position_TJ3.flip(0)])
    frames_B = torch.tensor([60, 30])
    together = settled_body(both_BTJ3, still_TR6.repeat(2, 1, 1, 1), SMPL22, frames_B).motion(SMPL22)[0]
    torch.testing.assert_close(together[0], settled_TJ3, atol=1e-5, rtol=0)
    # That one ends before it faces a way again: it stays as it was last.
    assert heading(together[1, 27:30]).diff().abs().max() < 0.1


def test_an_orientation_that_positions_leave_open_all_the_time_is_as_good_as_another() -> None:
    position_TJ3, still_TR6 = turns_round(60)
    settled_TJ3, _ = settled_body(position_TJ3[29:31].repeat(10, 1, 1), still_TR6[:20], SMPL22).motion(SMPL22)
    assert settled_TJ3.isfinite().all()


def test_how_sure_an_orientation_is() -> None:
    position_TJ3, still_TR6 = turns_round(61)
    offset_J3 = torch.tensor(SMPL22.rest_offsets)
    turn_T33, sure_T = root_orientation(position_TJ3, still_TR6, SMPL22, offset_J3)
    torch.testing.assert_close(sure_T[[0, 60]], torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn_T33[60], torch.diag(torch.tensor([-1.0, 1, -1])).double(), atol=1e-5, rtol=0)
    # The mean of both with the share s of one: all that is level is 1 - 2 s times as long.
    level = 1 - 2 * 0.25
    quarter_TJ3 = 0.75 * position_TJ3[:1] + 0.25 * position_TJ3[60:]
    _, sure_T = root_orientation(quarter_TJ3, still_TR6[:1], SMPL22, offset_J3)
    assert sure_T.item() == pytest.approx(level, abs=1e-4)


def test_settling_takes_the_shaking_of_latent_frames_away_and_leaves_walking() -> None:
    recording = make_interaction(seed=0, index=4)
    position_PTJ3 = torch.from_numpy(recording.position_TPJ3).transpose(0, 1)
    rotation_PTR6 = torch.from_numpy(recording.rotation_TPR6).transpose(0, 1)
    frames = position_PTJ3.shape[1]
    # A square wave of 4 cm at 7.5 Hz, as a step at each latent frame would be.
    shake_T = 0.02 * (1 - 2 * (torch.arange(frames) // 2 % 2))
    shaken_PTJ3 = position_PTJ3.clone()
    shaken_PTJ3[..., 0] += shake_T[:, None]
    calm_PTJ3, _ = settled_body(position_PTJ3, rotation_PTR6, SMPL22).motion(SMPL22)
    settled_PTJ3, _ = settled_body(shaken_PTJ3, rotation_PTR6, SMPL22).motion(SMPL22)
    assert (settled_PTJ3 - calm_PTJ3)[:, 3:-3, 0, 0].abs().max() < 0.2 * 0.02
    assert (calm_PTJ3 - position_PTJ3)[..., [0, 2]].norm(dim=-1).mean() < 0.01


def test_motions_of_several_lengths_settle_in_one_array_as_each_does_alone() -> None:
    recordings = [make_interaction(seed=seed, index=seed) for seed in (2, 3)]
    lengths = [recording.position_TPJ3.shape[0] - cut for recording, cut in zip(recordings, (0, 37), strict=True)]
    longest = max(lengths) + 5
    # What stands behind a motion's frames is not looked at.
    position_BPTJ3 = torch.full((2, 2, longest, J, 3), torch.nan)
    rotation_BPTR6 = torch.full((2, 2, longest, J - 1, 6), torch.nan)
    for row, (recording, length) in enumerate(zip(recordings, lengths, strict=True)):
        noise = 0.02 * torch.randn(2, length, J, 3, generator=torch.Generator().manual_seed(row))
        position_BPTJ3[row, :, :length] = torch.from_numpy(recording.position_TPJ3[:length]).transpose(0, 1) + noise
        rotation_BPTR6[row, :, :length] = torch.from_numpy(recording.rotation_TPR6[:length]).transpose(0, 1)
    together = settled_body(position_BPTJ3, rotation_BPTR6, SMPL22, torch.tensor(lengths)[:, None]).motion(SMPL22)
    for row, length in enumerate(lengths):
        alone = settled_body(position_BPTJ3[row, :, :length], rotation_BPTR6[row, :, :length], SMPL22).motion(SMPL22)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[row, :, :length], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("skeleton", [SMPL22, HUMANML22], ids=lambda skeleton: f"{skeleton.fps} per second")
def test_a_movement_keeps_as_much_of_its_swing_at_any_rate(skeleton: Skeleton) -> None:
    rest_J3 = torch.tensor(SMPL22.rest_offsets)
    for joint, parent in enumerate(SMPL22.parents):
        rest_J3[joint] += rest_J3[parent] if parent >= 0 else 0
    still_TR6 = torch.tensor([1.0, 0, 0, 1, 0, 0]).expand(3 * skeleton.fps, J - 1, 6)
    # Two swings a second, as of feet that walk.
    swing_T = (2 * math.pi * 2 * torch.arange(3 * skeleton.fps) / skeleton.fps).cos()
    position_TJ3 = rest_J3 + swing_T[:, None, None] * torch.tensor([1.0, 0, 0])
    settled_TJ3, _ = settled_body(position_TJ3, still_TR6, skeleton).motion(skeleton)
    middle = slice(skeleton.fps // 2, -skeleton.fps // 2)
    kept = (settled_TJ3[middle, 0, 0] * swing_T[middle]).sum() / swing_T[middle].square().sum()
    assert float(kept) == pytest.approx(0.90, abs=0.006)


def test_what_rests_in_the_air_is_not_held_where_it_is() -> None:
    """Contacts of one person say that a joint is slow; feet that rise slowly go on with the body."""
    rest_J3 = torch.tensor(HUMANML22.rest_offsets)
    for joint, parent in enumerate(HUMANML22.parents):
        rest_J3[joint] += rest_J3[parent] if parent >= 0 else 0
    still_TR6 = torch.tensor([1.0, 0, 0, 1, 0, 0]).expand(60, J - 1, 6)
    glide_T13 = 0.004 * torch.arange(60)[:, None, None] * torch.tensor([1.0, 0, 0])
    slow_TK = torch.ones(60, 4)
    ankles = [7, 8]
    shifts = {}
    # Of 60 frames the first 20 stand on the ground.
    for name, height in (("ground", 0.0), ("air", 0.3)):
        high_T13 = height * (torch.arange(60) >= 20)[:, None, None] * torch.tensor([0.0, 1, 0])
        position_TJ3 = rest_J3 + glide_T13 + high_T13
        held, free = (
            settled_body(position_TJ3, still_TR6, HUMANML22, contact_TK=contact_TK).motion(HUMANML22)[0]
            for contact_TK in (slow_TK, 0 * slow_TK)
        )
        shifts[name] = (held - free)[25:, ankles, 0].diff(dim=0).abs().mean()
    assert shifts["ground"] > 0.0015
    assert shifts["air"] < 0.3 * shifts["ground"]
