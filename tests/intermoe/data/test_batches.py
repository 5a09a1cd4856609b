from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from intermoe.body.features import mirror_motion, motion_features
from intermoe.body.skeletons import SMPL22
from intermoe.data.batches import Window, crop_bounds, cut_windows, interactions, pad_text, windows
from intermoe.data.draws import UNDRAWN, Draw, draw
from intermoe.data.rows import RecordedMotion
from intermoe.datasets.duet.kinds import make_interaction

# Legend: B batch, T frames, P = 2 persons, J = 22 joints, R = 21, F = 262, K text tokens, W text width.
MAX = 40


@pytest.fixture(scope="module")
def recordings() -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions and rotations of five interactions: two longer than the crop, one just as long, two shorter."""
    made = [make_interaction(0, index) for index in range(5)]
    frames = (57, 41, 40, 39, 16)
    return [(one.position_TPJ3[:n], one.rotation_TPR6[:n]) for one, n in zip(made, frames, strict=True)]


def batch(recordings, draws, max_frames=MAX, multiple=1):
    motions = [RecordedMotion(position_TPJ3=position, rotation_TPR6=rotation) for position, rotation in recordings]
    return interactions(motions, draws, SMPL22, max_frames, multiple=multiple)


def naive_sample(position, rotation, drawn: Draw, max_frames: int) -> np.ndarray:
    """One sample on its own: crop, swap and mirror with indices and loops, then the features of one motion."""
    choices = max(1, len(position) - max_frames + 1)
    start = int(np.floor(drawn.crop * choices))
    position, rotation = position[start : start + max_frames].copy(), rotation[start : start + max_frames].copy()
    if drawn.swap:
        position, rotation = position[:, [1, 0]], rotation[:, [1, 0]]
    if drawn.mirror:
        flip = np.diag([-1.0, 1.0, 1.0])
        old_position, old_rotation = position.copy(), rotation.copy()
        for joint, other in enumerate(SMPL22.mirrored):
            position[:, :, joint] = old_position[:, :, other] @ flip
            if joint:
                columns = old_rotation[:, :, other - 1].reshape(-1, 2, 3, 2)
                turned = np.einsum("ij,tpjk,kl->tpil", flip, columns, np.diag([-1.0, 1.0]))
                rotation[:, :, joint - 1] = turned.reshape(-1, 2, 6)
    features, _ = motion_features(
        torch.tensor(position)[None], torch.tensor(rotation)[None], torch.tensor([len(position)]), SMPL22
    )
    return features[0].numpy()


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_equals_each_sample_on_its_own(recordings, swap, mirror):
    draws = [
        replace(draw(1, 0, f"{row}"), swap=swap ^ (row == 1), mirror=mirror ^ (row == 2))
        for row in range(len(recordings))
    ]
    made = batch(recordings, draws, multiple=4)
    assert made.features_BTPF.shape == (5, MAX, 2, 262)
    assert made.features_BTPF.dtype == torch.float32
    assert made.frames_B.tolist() == [39, 39, 39, 38, 15]
    for row, ((position, rotation), drawn) in enumerate(zip(recordings, draws, strict=True)):
        expected = naive_sample(position, rotation, drawn, MAX)
        length = len(expected)
        np.testing.assert_allclose(made.features_BTPF[row, :length].numpy(), expected, atol=1e-5)
        assert made.features_BTPF[row, length:].abs().sum() == 0


def naive_batch(recordings, draws, max_frames: int) -> torch.Tensor:
    """All samples padded to one length first, then each step on the whole batch, done for all where one drew it."""
    crops = [
        crop_bounds(len(position), max_frames, drawn) for (position, _), drawn in zip(recordings, draws, strict=True)
    ]
    lengths_B = torch.tensor([end - start for start, end in crops])
    position_BTPJ3, rotation_BTPR6 = (
        pad_sequence(
            [torch.tensor(motion[which][slice(*crop)]) for motion, crop in zip(recordings, crops, strict=True)],
            batch_first=True,
        )
        for which in (0, 1)
    )
    swap_B, mirror_B = (
        torch.tensor([getattr(drawn, name) for drawn in draws])[:, None, None, None, None]
        for name in ("swap", "mirror")
    )
    position_BTPJ3 = torch.where(swap_B, position_BTPJ3.flip(2), position_BTPJ3)
    rotation_BTPR6 = torch.where(swap_B, rotation_BTPR6.flip(2), rotation_BTPR6)
    mirrored = mirror_motion(position_BTPJ3, rotation_BTPR6, SMPL22)
    position_BTPJ3 = torch.where(mirror_B, mirrored[0], position_BTPJ3)
    rotation_BTPR6 = torch.where(mirror_B, mirrored[1], rotation_BTPR6)
    return motion_features(position_BTPJ3, rotation_BTPR6, lengths_B, SMPL22)[0]


def test_has_the_bits_of_the_batch_as_a_whole(recordings):
    """Whatever is alike and made together: more of one length than are made at once, and others between them."""
    many = [recordings[row % 5] for row in range(21)]
    for epoch in range(3):
        draws = [draw(4, epoch, f"{row}") for row in range(21)]
        made = batch(many, draws).features_BTPF
        assert made.equal(naive_batch(many, draws, MAX))


def test_a_sample_does_not_depend_on_its_batch_nor_on_padding(recordings):
    draws = [draw(2, 0, f"{row}") for row in range(5)]
    whole = batch(recordings, draws).features_BTPF
    for row in range(5):
        alone = batch(recordings[row : row + 1], draws[row : row + 1])
        assert alone.features_BTPF[0].equal(whole[row, : int(alone.frames_B)])
    short = recordings[4:]
    little, much = batch(short, [UNDRAWN], max_frames=16), batch(short, [UNDRAWN], max_frames=100)
    assert little.frames_B.tolist() == much.frames_B.tolist() == [15]
    assert little.features_BTPF.equal(much.features_BTPF)


def test_is_padded_to_its_longest_sample(recordings):
    for rows, multiple, length in (([0, 4], 1, 39), ([3, 4], 1, 38), ([3, 4], 4, 40), ([4], 4, 16)):
        chosen = [recordings[row] for row in rows]
        made = batch(chosen, [UNDRAWN] * len(rows), multiple=multiple)
        assert made.features_BTPF.shape[1] == length


def test_read_only_recordings_are_left_alone(recordings):
    position, rotation = (array.copy() for array in recordings[0])
    for array in (position, rotation):
        array.setflags(write=False)
    before = position.copy()
    batch([(position, rotation)], [replace(UNDRAWN, mirror=True, swap=True)])
    np.testing.assert_array_equal(position, before)


def test_crops_reach_every_start_alike_and_none_beyond():
    starts = [crop_bounds(44, MAX, replace(UNDRAWN, crop=crop)) for crop in np.linspace(0, 1, 500, endpoint=False)]
    assert {(start, end - start) for start, end in starts} == {(start, MAX) for start in range(5)}
    counts = np.bincount([start for start, _ in starts])
    assert counts.tolist() == [100] * 5
    assert crop_bounds(44, MAX, replace(UNDRAWN, crop=np.nextafter(1, 0))) == (4, 44)
    for frames in (15, 39, 40):
        assert crop_bounds(frames, MAX, replace(UNDRAWN, crop=0.99)) == (0, frames)


@pytest.mark.parametrize("stride", [1, 7, 10])
@pytest.mark.parametrize("window", [8, 20, 64])
def test_windows_are_all_that_brute_force_finds(window, stride):
    lengths = [3, 14, 15, 16, 20, 21, 22, 40, 65, 100]
    found = windows(lengths, 66, window, stride)
    expected = []
    for row, frames in enumerate(lengths):
        if frames < 15:
            continue  # no recording
        features = min(frames, 66) - 1
        fitting = [start for start in range(features) if start % stride == 0 and start + window <= features]
        for start in fitting or [0]:  # what is shorter than a window is one window, padded
            expected += [Window(row, 0, start), Window(row, 1, start)]
    assert found == expected


def test_cut_windows_are_slices_of_one_person_zero_beyond_the_motion(recordings):
    made = batch(recordings, [UNDRAWN] * 5)
    chosen = [Window(0, 1, 10), Window(1, 0, 19), Window(2, 0, 0), Window(3, 1, 20), Window(4, 0, 0)]
    cut, frames = cut_windows(made, chosen, 20)
    assert cut.shape == (5, 20, 262)
    assert frames.tolist() == [20, 20, 20, 18, 15]
    for row, (window, length) in enumerate(zip(chosen, frames.tolist(), strict=True)):
        expected = made.features_BTPF[row, window.start : window.start + length, window.person]
        assert torch.equal(cut[row, :length], expected)
        assert expected.abs().sum() > 0
        assert cut[row, length:].abs().sum() == 0


def test_a_window_beyond_the_end_is_empty(recordings):
    made = batch(recordings[4:], [UNDRAWN])
    cut, frames = cut_windows(made, [Window(4, 0, 38)], 20)
    assert frames.tolist() == [0]
    assert cut.abs().sum() == 0


def test_text_is_padded_with_zeros_that_the_mask_leaves_out():
    states = [np.full((length, 3), length, dtype=np.float32) for length in (2, 5, 1)]
    padded, mask = pad_text(states, 6)
    assert padded.shape == (3, 6, 3)
    assert mask.sum(1).tolist() == [2, 5, 1]
    for row, state in enumerate(states):
        assert torch.equal(padded[row, : len(state)], torch.tensor(state))
        assert mask[row, : len(state)].all()
    assert padded[~mask].abs().sum() == 0
