"""Figures of several models: what stands where, the ways people have come, the box around what is wrong."""

import numpy as np
import pytest
from PIL import Image

from intermoe.render.camera import Margins, framing_camera
from intermoe.render.figure import BOX, Cell, draw_paths, ground_path, write_figure
from intermoe.render.strip import PANEL_WIDTH

# Legend: T frames, P = 2 persons, N points, H rows of pixels, W columns of pixels.


def spots(picture, colour):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour) < 12).all(-1))


@pytest.mark.parametrize("frames", [2, 3])
def test_every_prompt_is_a_row_and_every_model_a_column(meeting, tmp_path, frames):
    motion = meeting(20)
    rows = [(f"prompt {row}", [Cell(motion), Cell(motion), Cell(motion)]) for row in range(2)]
    write_figure(rows, ["one", "two", "three"], tmp_path / "a.png", frames=frames)
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "PNG"
        picture = np.asarray(file.convert("RGB")).astype(int)
    # A panel has no white; between panels there are white columns, between rows white lines of pixels.
    is_panel_HW = picture.min(-1) < 255
    first_row = is_panel_HW[150]
    starts, ends = (np.nonzero(np.diff(np.pad(first_row.astype(int), 1)) == step)[0] for step in (1, -1))
    assert len(starts) == 3 * frames
    np.testing.assert_array_equal(ends - starts, PANEL_WIDTH)
    column = is_panel_HW[:, starts[0] : ends[0]].all(1).astype(int)
    assert (np.diff(np.pad(column, 1)) == 1).sum() == 2
    assert not len(spots(Image.fromarray(picture.astype(np.uint8)), BOX)[0])


def test_what_is_wrong_stands_in_a_box_with_its_words_below(meeting, tmp_path):
    motion = meeting(20)
    for name, error in (("right", None), ("wrong", "identity: the second person acts")):
        write_figure([("p", [Cell(motion), Cell(motion, error)])], ["a", "b"], tmp_path / f"{name}.png", frames=2)
    with Image.open(tmp_path / "right.png") as file, Image.open(tmp_path / "wrong.png") as other:
        assert file.size == other.size
        assert not len(spots(file, BOX)[0])
        rows, columns = spots(other, BOX)
        changed = np.nonzero(np.abs(np.asarray(other).astype(int) - np.asarray(file)).sum(-1))
    # The second cell is boxed, the first one untouched.
    assert columns.min() > 24 + 2 * PANEL_WIDTH
    assert changed[1].min() == columns.min()
    right, bottom = columns.max(), np.bincount(rows).argsort()[-6:].max()
    assert right - columns.min() > 2 * PANEL_WIDTH
    assert rows.max() > bottom + 5, "the words below the box"


def test_paths_lie_where_people_have_been_and_end_in_an_arrow():
    root_TP3 = np.zeros((60, 2, 3))
    root_TP3[:, 0, 0] = np.linspace(-1, 1, 60)  # to the right, 1 m behind the second, who stands
    root_TP3[:, 1, 2] = 1.0
    camera = framing_camera(root_TP3.reshape(-1, 1, 3), 0.0, 600, 300, Margins(40, 40, 40, 40))
    picture = Image.new("RGB", (600, 300), "white")
    draw_paths(picture, camera, root_TP3, 30)
    seen_HW3 = np.asarray(picture).astype(int)
    rows, columns = np.nonzero(seen_HW3[..., 0] - seen_HW3[..., 2] > 60)
    ends, _ = camera.project(np.array([[-1.0, -0.03, 0.0], [1.0, -0.03, 0.0]]))
    assert columns.min() == pytest.approx(ends[0, 0], abs=5)
    assert columns.max() == pytest.approx(ends[1, 0], abs=15), "the tip is thinner than a pixel"
    assert np.abs(rows[columns < 300] - ends[0, 1]).max() < 5
    assert np.ptp(rows[columns > columns.max() - 30]) > np.ptp(rows[columns < 300]) + 2, "the arrow's head is wider"
    assert not (seen_HW3[..., 2] - seen_HW3[..., 0] > 20).any(), "who stands has come no way"


def test_a_way_below_another_is_seen():
    root_TP3 = np.zeros((60, 2, 3))
    root_TP3[..., 0] = np.linspace(-1, 1, 60)[:, None]
    camera = framing_camera(root_TP3.reshape(-1, 1, 3), 0.0, 600, 300, Margins(40, 40, 40, 40))
    both, second = (Image.new("RGB", (600, 300), "white") for _ in range(2))
    draw_paths(both, camera, root_TP3, 30)
    root_TP3[:, 0] = root_TP3[:1, 0]
    draw_paths(second, camera, root_TP3, 30)
    apart_HW = np.abs(np.asarray(both).astype(int) - np.asarray(second)).max(-1)
    assert apart_HW[:, 150:400].max() > 25


def test_a_way_is_drawn_from_where_it_comes_into_view():
    root_TP3 = np.zeros((60, 2, 3))
    root_TP3[:, 0, 2] = np.linspace(40, 0, 60)
    camera = framing_camera(np.array([[[-1.0, 0, 0], [1.0, 0, 0]]]), 0.0, 600, 300, Margins(40, 40, 40, 40))
    picture = Image.new("RGB", (600, 300), "white")
    draw_paths(picture, camera, root_TP3, 30)
    rows, _ = np.nonzero(np.asarray(picture).astype(int).min(-1) < 200)
    assert rows.max() > 290, "to the lower edge"


@pytest.mark.parametrize("frames", [1, 2, 3, 15, 200])
def test_a_path_keeps_its_ends_and_loses_its_swaying(frames):
    root_T3 = np.zeros((frames, 3))
    root_T3[:, 0] = 0.02 * np.arange(frames)
    sway_T = 0.05 * np.sin(np.arange(frames) * 2 * np.pi / 15)
    path_T2 = ground_path(root_T3 + sway_T[:, None] * [0, 0, 1], 30)
    assert path_T2.shape == (frames, 2)
    np.testing.assert_allclose(path_T2[[0, -1], 0], root_T3[[0, -1], 0])
    np.testing.assert_allclose(path_T2[:, 0], root_T3[:, 0], atol=1e-12)
    if frames > 30:
        assert np.abs(path_T2[8:-8, 1]).max() < 0.001


def test_people_behind_the_camera_have_no_path():
    root_TP3 = np.zeros((10, 2, 3))
    root_TP3[:, :, 2] = np.linspace(0, 100, 10)[:, None]
    camera = framing_camera(np.zeros((1, 1, 3)), 0.0, 60, 30, Margins(2, 2, 2, 2))
    picture = Image.new("RGB", (60, 30), "white")
    draw_paths(picture, camera, root_TP3, 30)
    assert np.asarray(picture).min() == 255


def test_headings_and_the_legend_have_room(meeting, tmp_path):
    motion = meeting(20)
    long = "a model whose name is far longer than its column is wide, and which says all of its settings one by one"
    for name, headings in (("short", ["a", "b"]), ("long", [long, "b"])):
        write_figure([("p", [Cell(motion), Cell(motion)])], headings, tmp_path / f"{name}.png", frames=2)
    write_figure([("p", [Cell(motion)])], ["a"], tmp_path / "one.png", frames=1)
    with Image.open(tmp_path / "short.png") as short, Image.open(tmp_path / "long.png") as other:
        assert short.width == other.width
        assert other.height > short.height + 30, "in several lines"
        edge_HW = np.asarray(other.convert("RGB"))[:, : 24 - 1]
        assert edge_HW.min() == 255
    with Image.open(tmp_path / "one.png") as one:
        assert np.asarray(one.convert("RGB"))[:, -20:].min() == 255
