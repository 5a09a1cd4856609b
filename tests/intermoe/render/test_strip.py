"""Key frames: which are chosen, and a panel for each."""

import numpy as np
import pytest
from PIL import Image

from intermoe.render.strip import PANEL_WIDTH, key_frames, write_strip


@pytest.mark.parametrize(("frames", "count"), [(3, 8), (8, 8), (9, 8), (30, 8), (300, 8), (50, 2)])
def test_key_frames_go_from_the_first_to_the_last_without_repeats(frames, count):
    joints = np.random.default_rng(0).normal(size=(frames, 2, 4, 3)).cumsum(0)
    joints[frames // 2] += 100  # all movement at one moment: its neighbours must not be chosen twice
    chosen = key_frames(joints, count)
    assert len(chosen) == min(frames, count)
    assert chosen[0] == 0
    assert chosen[-1] == (frames - 1)
    assert (np.diff(chosen) > 0).all()


def test_stillness_is_cut_evenly():
    assert key_frames(np.zeros((71, 2, 4, 3)), 8) == list(range(0, 71, 10))


@pytest.mark.parametrize("count", [8, 3])
def test_a_panel_for_each_moment_with_both_people(meeting, tmp_path, count):
    write_strip(meeting(20), tmp_path / "a.png", frames=count)
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "PNG"
        picture = np.asarray(file.convert("RGB")).astype(int)
    # Panels are separated by white columns; look at rows in the middle of the picture.
    middle = picture[picture.shape[0] // 3 : picture.shape[0] // 2]
    panel = (middle.min((0, 2)) < 255).astype(int)
    starts, ends = (np.nonzero(np.diff(np.pad(panel, 1)) == step)[0] for step in (1, -1))
    assert len(starts) == count
    np.testing.assert_array_equal(ends - starts, PANEL_WIDTH)
    heights = []
    for start, end in zip(starts, ends, strict=True):
        warmth = picture[:-60, start:end, 0] - picture[:-60, start:end, 2]
        assert (warmth > 60).sum() > 300
        assert (warmth < -60).sum() > 300
        assert np.nonzero(warmth > 60)[1].mean() < np.nonzero(warmth < -60)[1].mean(), "the first person is on the left"
        rows = np.nonzero((warmth > 60).any(1))[0]
        heights.append(int(np.ptp(rows)))
        below = picture[-90:, start:end]
        assert (below.sum(-1) < 300).any(), "the time under the panel"
    assert max(heights) < 1.15 * min(heights), "one scale"
