"""A motion on one picture: key frames side by side.

Legend: T frames, N frames of them that are drawn, P persons, J joints.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from intermoe.render.camera import Margins, best_azimuth, framing_camera
from intermoe.render.lettering import INK, draw_caption, draw_legend, font
from intermoe.render.stage import Stage

if TYPE_CHECKING:  # a motion draws itself: it imports this module
    from intermoe.motion import Motion

PANEL_WIDTH, _PANEL_HEIGHTS = 288, (208, 240, 272, 304, 336, 368)
_GAP = 6
_EDGE = 24
_CAPTION = 30
_FOOT = 44
_MARGINS = Margins(8, 8, 10, 14)


def key_frames(joints_TPJ3: NDArray, count: int) -> list[int]:
    """Numbers of ``count`` frames (2 or more) from the first to the last, denser where people move more.

    Between neighbours lies an equal share of time and movement, each weighing one half: a quick push is not missed, and
    a stillness does not vanish. A motion of fewer frames gives all it has.

    Example:
        >>> joints_TPJ3 = np.zeros((100, 2, 1, 3))
        >>> joints_TPJ3[..., 0] = np.clip((np.arange(100) - 40) / 10, 0, 1)[:, None, None]
        >>> key_frames(joints_TPJ3, 5)
        [0, 41, 45, 50, 99]
    """
    frames = len(joints_TPJ3)
    if frames <= count:
        return list(range(frames))
    moved = np.linalg.norm(np.diff(joints_TPJ3.astype(np.float64), axis=0), axis=-1).mean((1, 2))
    share = 0.5 / (frames - 1) + 0.5 * moved / max(moved.sum(), 1e-9)
    passed = np.concatenate([[0], np.cumsum(share)])
    chosen = np.interp(np.linspace(0, passed[-1], count), passed, np.arange(frames)).round().astype(int)
    # Rounding may give two neighbours the same frame: push them apart, first to the right, then back from the end.
    for place in range(1, count):
        chosen[place] = max(chosen[place], chosen[place - 1] + 1)
    chosen[-1] = frames - 1
    for place in range(count - 2, -1, -1):
        chosen[place] = min(chosen[place], chosen[place + 1] - 1)
    return chosen.tolist()


def write_strip(motion: "Motion", path: Path, frames: int = 8) -> None:
    """Draw ``frames`` key frames (see ``key_frames``) side by side as a PNG, all at one scale.

    Each panel follows the people; the grid on the ground shows how they travel. The caption stands above, the time
    in seconds under each panel.
    """
    chosen = key_frames(motion.joints, frames)
    pictures = panels(motion, chosen)
    wide, high = pictures[0].size
    width = 2 * _EDGE + len(chosen) * wide + (len(chosen) - 1) * _GAP
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    top = round(draw_caption(measure, motion.caption, size=_CAPTION, left=_EDGE, top=18, width=width - 2 * _EDGE)) + 12
    picture = Image.new("RGB", (width, top + high + _FOOT + 40), "white")
    pen = ImageDraw.Draw(picture)
    draw_caption(pen, motion.caption, size=_CAPTION, left=_EDGE, top=18, width=width - 2 * _EDGE)
    for number, (frame, panel) in enumerate(zip(chosen, pictures, strict=True)):
        left = _EDGE + number * (wide + _GAP)
        picture.paste(panel, (left, top))
        pen.text((left + wide / 2, top + high + _FOOT / 2), f"{frame / motion.fps:.2f} s", INK, font(24), anchor="mm")
    draw_legend(pen, 22, _EDGE, top + high + _FOOT + 12, motion.skeleton.num_persons)
    picture.save(path, "PNG")


def panels(motion: "Motion", chosen: list[int]) -> list[Image.Image]:
    """The chosen frames, each seen by the same camera moved along with their middle."""
    return [stage.draw(frame) for stage, frame in zip(stages(motion, chosen), chosen, strict=True)]


def stages(motion: "Motion", chosen: list[int]) -> Iterator[Stage]:
    """A stage for each chosen frame, all seen by one camera that moves along with the people's middle."""
    joints_NPJ3 = motion.joints[chosen].astype(np.float64)
    middle_N3 = (joints_NPJ3.min((1, 2)) + joints_NPJ3.max((1, 2))) / 2 * [1, 0, 1]
    azimuth = best_azimuth(motion.joints, motion.skeleton)
    centred = joints_NPJ3 - middle_N3[:, None, None]
    cameras = [framing_camera(centred, azimuth, PANEL_WIDTH, height, _MARGINS) for height in _PANEL_HEIGHTS]
    # People far apart fill the width, not the height: take the lowest panel in which they are about as large.
    size = [camera.focal / camera.project(np.zeros(3))[1] for camera in cameras]
    camera = next(camera for camera, pixels in zip(cameras, size, strict=True) if pixels > 0.96 * max(size))
    for middle_3 in middle_N3:
        yield Stage(motion.joints, motion.skeleton, camera.moved(middle_3))
