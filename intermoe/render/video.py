"""A motion as a video: H.264 in MP4, which browsers play, or an animated GIF.

Legend: T frames.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image, ImageDraw

from intermoe.render.camera import Margins, best_azimuth, framing_camera
from intermoe.render.lettering import FAINT_INK, INK, draw_caption, draw_legend, font
from intermoe.render.painter import PERSON_COLOURS, colour_tables
from intermoe.render.stage import Stage

if TYPE_CHECKING:  # a motion draws itself: it imports this module
    from intermoe.motion import Motion

_MP4_SIZE = (960, 540)
_GIF_SIZE = (640, 360)
_GIF_FPS = 15
_TRACK, _VEIL = (206, 212, 221), (240, 242, 246)


def write_video(motion: "Motion", path: Path) -> None:
    """Draw a motion as ``.mp4`` (960 x 540, its own frame rate) or ``.gif`` (640 x 360).

    Of 30 frames a second a GIF has every second one, of 20 all. Both show the caption, who is who where there are two,
    the time and the frame number. The camera stands still and sees all people during the whole motion.
    """
    if path.suffix.lower() == ".gif":
        _write_gif(motion, path)
    else:
        _write_mp4(motion, path)


def video_frames(motion: "Motion", width: int, height: int, step: int = 1) -> Iterator[Image.Image]:
    """Every ``step``-th frame of the motion as an RGB picture with its lettering."""
    unit = height / 540
    edge = 28 * unit
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    caption_end = draw_caption(
        measure, motion.caption, size=23 * unit, left=edge, top=20 * unit, width=width - 2 * edge
    )
    margins = Margins(edge, edge, caption_end + 12 * unit, 64 * unit)
    camera = framing_camera(motion.joints, best_azimuth(motion.joints, motion.skeleton), width, height, margins)
    stage = Stage(motion.joints, motion.skeleton, camera)
    base = stage.background.copy()
    # A veil over the ground's lines where the legend stands.
    veil = np.interp(np.arange(height), [height - 66 * unit, height - 40 * unit], [0, 215]).astype(np.uint8)
    base.paste(_VEIL, mask=Image.fromarray(np.broadcast_to(veil[:, None], (height, width)).copy()))
    pen = ImageDraw.Draw(base)
    draw_caption(pen, motion.caption, size=23 * unit, left=edge, top=20 * unit, width=width - 2 * edge)
    middle, bar = height - 30 * unit, height - 9 * unit
    small = max(16 * unit, 13)  # smaller letters run together
    draw_legend(pen, small, edge, middle, motion.skeleton.num_persons)
    pen.line([edge, bar, width - edge, bar], _TRACK, max(round(3 * unit), 1))
    face, frames = font(small), len(motion.joints)
    # The frame number keeps its place while its digits change.
    number_left = width - edge - face.getlength(f"frame {frames} / {frames}")
    for frame in range(0, frames, step):
        picture = stage.draw(frame, base)
        pen = ImageDraw.Draw(picture)
        seconds = f"{frame / motion.fps:.1f} / {motion.seconds:.1f} s"
        pen.text((number_left - 24 * unit, middle), seconds, INK, face, anchor="rm")
        pen.text((width - edge, middle), f"frame {frame + 1} / {frames}", FAINT_INK, face, anchor="rm")
        done = edge + (width - 2 * edge) * (frame + 1) / frames
        pen.line([edge, bar, done, bar], FAINT_INK, max(round(3 * unit), 1))
        yield picture


def _write_mp4(motion: "Motion", path: Path) -> None:
    width, height = _MP4_SIZE
    # faststart puts the index in front: a browser starts to play before it has the whole file.
    with av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=motion.fps, options={"crf": "19", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # Say how the colours are coded, or players guess.
        stream.codec_context.colorspace = stream.codec_context.color_primaries = 1
        stream.codec_context.color_trc = 1
        for picture in video_frames(motion, width, height):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            container.mux(
                stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation="FAST_BILINEAR"))
            )
        container.mux(stream.encode())


def _write_gif(motion: "Motion", path: Path) -> None:
    step = max(round(motion.fps / _GIF_FPS), 1)
    pictures = list(video_frames(motion, *_GIF_SIZE, step))
    palette = _palette(pictures)
    coded = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    # A GIF counts hundredths of a second: rounding each moment, not each duration, keeps the time right.
    moments = np.round(np.arange(len(coded) + 1) * step / motion.fps * 100).astype(int)
    durations = (np.diff(moments) * 10).tolist()
    coded[0].save(path, "GIF", save_all=True, append_images=coded[1:], duration=durations, loop=0, optimize=False)


def _palette(pictures: list[Image.Image]) -> Image.Image:
    """One palette for all pictures, so that colours do not flicker.

    It comes from four of them and from the bodies' colours at length: the ground would take nearly all entries.
    """
    sample = pictures[:: max(len(pictures) // 4, 1)]
    width, height = sample[0].size
    shades = np.concatenate(list(colour_tables(PERSON_COLOURS).values())).view(np.uint8).reshape(-1, 4)[:, :3]
    swatches = Image.fromarray(shades.reshape(-1, 256, 3)).resize((width, height), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (width, height * (len(sample) + 1)))
    for row, picture in enumerate([*sample, swatches]):
        sheet.paste(picture, (0, row * height))
    return sheet.quantize(256)
