"""A figure of motions side by side, as papers have it: prompts down, models across, key frames and paths in each cell.

Legend: T frames, P persons, J joints, N points of a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from intermoe.render.camera import Camera
from intermoe.render.lettering import INK, draw_caption, draw_legend, font
from intermoe.render.painter import PERSON_COLOURS
from intermoe.render.stage import SOLE
from intermoe.render.strip import key_frames, stages

if TYPE_CHECKING:
    from intermoe.motion import Motion

BOX = (142, 68, 173)
"""The colour of the box around what is wrong."""

_EDGE, _GAP, _BETWEEN = 24, 4, 28
_HEADING, _CAPTION, _TIME, _NOTE = 34, 28, 20, 22
# Room for the line that says who is who.
_NARROWEST = 880
_LINE = 6
# Metres: who has never been farther away has swayed, or turned, and not walked.
_SHORTEST = 0.25
# Of the arrow's head, metres, and the pixels of a path's layer for one of the picture.
_HEAD, _FINER = 0.16, 2
# Of a line, so that one below another is seen; metres from the camera, below which nothing is drawn.
_OPACITY, _NEAREST = 170, 0.1
# Seconds over which a path is a mean: what people sway while they walk is left out.
_SMOOTHED = 0.5


@dataclass(frozen=True)
class Cell:
    """A motion in the figure.

    Attributes:
        motion: what is shown.
        error: what is wrong with it, written into the box around it; None where nothing is known to be.
    """

    motion: "Motion"
    error: str | None = None


def write_figure(
    rows: Sequence[tuple[str, Sequence[Cell]]], headings: Sequence[str], path: Path, *, frames: int = 4
) -> None:
    """Draw motions as a table of pictures, and write it as a PNG.

    Each cell shows key frames (see ``key_frames``) of its motion, and on the ground the way that each person has come
    so far, as a line that ends in an arrow. A cell with an error stands in a box.

    Args:
        rows: of each prompt its words, and a cell for each heading.
        headings: of the columns, such as the names of models.
        path: of the PNG.
        frames: key frames of a motion.
    """
    drawn = [(caption, [(_cell(cell.motion, frames), cell.error) for cell in cells]) for caption, cells in rows]
    wide = [max(cells[column][0].width for _, cells in drawn) for column in range(len(headings))]
    lefts = [_EDGE + sum(wide[:column]) + column * _BETWEEN for column in range(len(headings))]
    width = max(lefts[-1] + wide[-1] + _EDGE, _NARROWEST)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    heights = [max(picture.height for picture, _ in cells) for _, cells in drawn]
    captions = [
        round(draw_caption(measure, caption, size=_CAPTION, left=_EDGE, top=0, width=width - 2 * _EDGE)) + 8
        for caption, _ in drawn
    ]
    below = _NOTE + 20
    columns = list(zip(lefts, wide, headings, strict=True))
    top = 12 + round(max(_draw_heading(measure, *column) for column in columns))
    picture = Image.new("RGB", (width, top + sum(heights) + sum(captions) + len(drawn) * below + 56), "white")
    pen = ImageDraw.Draw(picture)
    for column in columns:
        _draw_heading(pen, *column)
    for (caption, cells), height, caption_height in zip(drawn, heights, captions, strict=True):
        draw_caption(pen, caption, size=_CAPTION, left=_EDGE, top=top, width=width - 2 * _EDGE)
        top += caption_height
        for left, (panels, error) in zip(lefts, cells, strict=True):
            picture.paste(panels, (left, top))
            if error is not None:
                right, bottom = left + panels.width, top + panels.height
                pen.rectangle([left - _LINE, top - _LINE, right + _LINE, bottom + _LINE], outline=BOX, width=_LINE)
                pen.text((left, bottom + _LINE + 2 + _NOTE / 2), error, BOX, font(_NOTE), anchor="lm")
        top += height + below
    most = max(cell.motion.skeleton.num_persons for _, cells in rows for cell in cells)
    behind = draw_legend(pen, 22, _EDGE, top + 20, most)
    pen.text((behind + 30, top + 20), "arrows: ways so far", INK, font(22), anchor="lm")
    picture.save(path, "PNG")


def _draw_heading(pen: ImageDraw.ImageDraw, left: float, width: float, heading: str) -> float:
    """Write the heading of a column of that width; the y below it."""
    return draw_caption(pen, heading, size=_HEADING, left=left, top=_EDGE, width=width)


def _cell(motion: "Motion", frames: int) -> Image.Image:
    """Key frames of a motion side by side, with paths, the time below each."""
    chosen = key_frames(motion.joints, frames)
    pictures = []
    for stage, frame in zip(stages(motion, chosen), chosen, strict=True):
        base = stage.background.copy()
        draw_paths(base, stage.camera, motion.joints[: frame + 1, :, 0], motion.fps)
        pictures.append(stage.draw(frame, base))
    wide, high = pictures[0].size
    cell = Image.new("RGB", (len(pictures) * (wide + _GAP) - _GAP, high + _TIME + 10), "white")
    pen = ImageDraw.Draw(cell)
    for number, (frame, panel) in enumerate(zip(chosen, pictures, strict=True)):
        left = number * (wide + _GAP)
        cell.paste(panel, (left, 0))
        time = f"{frame / motion.fps:.2f} s"
        pen.text((left + wide / 2, high + 5 + _TIME / 2), time, INK, font(_TIME), anchor="mm")
    return cell


def draw_paths(picture: Image.Image, camera: Camera, root_TP3: NDArray, fps: int) -> None:
    """Draw the way of each person on the ground into a picture, an arrow where it ends.

    Args:
        picture: what the camera sees.
        camera: that sees it.
        root_TP3: where each person has been, metres; the height is not looked at.
        fps: frames per second.
    """
    for person, colour in zip(range(root_TP3.shape[1]), PERSON_COLOURS, strict=False):
        path_N2 = ground_path(root_TP3[:, person], fps)
        if np.linalg.norm(path_N2 - path_N2[0], axis=1).max() < _SHORTEST:
            continue
        # A layer each: in one, what is drawn later would take the place of what is below.
        layer = Image.new("RGBA", (picture.width * _FINER, picture.height * _FINER))
        pen = ImageDraw.Draw(layer)
        line_N2, head_32 = _arrow(path_N2)
        for points, is_head in ((line_N2, False), (head_32, True)):
            pixel, depth = camera.project(np.stack([points[:, 0], np.full(len(points), -SOLE), points[:, 1]], axis=1))
            is_hidden = depth <= _NEAREST
            if is_hidden[-1] or (is_head and is_hidden.any()):
                break
            # From where it last came into view.
            first = int(np.nonzero(is_hidden)[0][-1]) + 1 if is_hidden.any() else 0
            corners = [tuple(point) for point in (pixel[first:] * _FINER).tolist()]
            if is_head:
                pen.polygon(corners, fill=(*colour, 255))
            elif len(corners) > 1:
                pen.line(corners, fill=(*colour, _OPACITY), width=4 * _FINER, joint="curve")
        smooth = layer.resize(picture.size, Image.Resampling.LANCZOS)
        picture.paste(smooth, (0, 0), smooth)


def ground_path(root_T3: NDArray, fps: int) -> NDArray[np.float64]:
    """The way along the ground [T, 2], each point the mean over half a second, the ends as they are.

    Example:
        >>> ground_path(np.arange(40)[:, None] * [0.1, 0.0, 0.0], 30)[[0, 20, 39]].round(2).tolist()
        [[0.0, 0.0], [2.0, 0.0], [3.9, 0.0]]
    """
    path_T2 = root_T3[:, [0, 2]].astype(np.float64)
    frames = len(path_T2)
    # Fewer frames towards the ends, as many before as after.
    half_T = np.minimum(int(_SMOOTHED * fps / 2), np.minimum(np.arange(frames), np.arange(frames)[::-1]))
    return np.stack([path_T2[t - half : t + half + 1].mean(axis=0) for t, half in enumerate(half_T)])


def _arrow(path_N2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The line of an arrow [N, 2] and the three corners of its head, on the ground."""
    away_N = np.linalg.norm(path_N2 - path_N2[-1], axis=1)
    # The head points from where the path last was a head's length away.
    before = int(np.nonzero(away_N >= min(_HEAD, away_N.max()))[0][-1])
    along_2 = path_N2[-1] - path_N2[before]
    along_2 /= max(float(np.linalg.norm(along_2)), 1e-9)
    across_2 = np.array([-along_2[1], along_2[0]])
    foot_2 = path_N2[-1] - _HEAD * along_2
    head_32 = np.stack([path_N2[-1], foot_2 + 0.5 * _HEAD * across_2, foot_2 - 0.5 * _HEAD * across_2])
    return np.concatenate([path_N2[: before + 1], foot_2[None]]), head_32
