"""Videos decode to what was drawn: frames, size, rate, colours."""

import av
import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from intermoe.render.painter import PERSON_COLOURS
from intermoe.render.video import video_frames, write_video


@pytest.mark.parametrize(("frames", "fps"), [(7, 30), (1, 20)])
def test_mp4_has_the_motions_frames_at_its_rate(meeting, tmp_path, frames, fps):
    file = tmp_path / "a.mp4"
    write_video(meeting(frames, fps), file)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (960, 540, "yuv420p")
        assert stream.average_rate == fps
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == frames
    drawn = [np.asarray(picture).astype(int) for picture in video_frames(meeting(frames, fps), 960, 540)]
    for a, b in zip(decoded, drawn, strict=True):
        assert np.abs(a - b).mean() < 4
    content = file.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "the index comes first: browsers play while they load"


def test_gif_lasts_as_long_as_the_motion(meeting, tmp_path):
    write_video(meeting(31), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as file:
        assert file.size == (640, 360)
        assert file.info["loop"] == 0
        assert isinstance(file, GifImageFile)
        assert file.n_frames == 16
        durations = []
        for frame in range(file.n_frames):
            file.seek(frame)
            durations.append(file.info["duration"])
        assert sum(durations) == pytest.approx(32 / 30 * 1000, abs=10)
        colours = np.asarray(file.convert("RGB")).reshape(-1, 3).astype(int)
    warmth = colours[:, 0] - colours[:, 2]
    assert (warmth > 60).sum() > 500
    assert (warmth < -60).sum() > 500


def test_frames_carry_caption_legend_and_a_bar_of_the_time(meeting):
    few, other = (list(video_frames(meeting(2, caption=words), 960, 540)) for words in ("a hug", "a kick"))
    first, last, changed = (np.asarray(picture).astype(int) for picture in (few[0], few[1], other[0]))
    assert (first[20:50, 28:90].sum(-1) < 300).any(), "dark letters"
    assert (first[10:60] != changed[10:60]).any()
    for colour in PERSON_COLOURS:
        assert (np.abs(first[500:520, :300] - colour).max(-1) == 0).sum() > 50, "a dot in the legend"
    bar = last[531, 28:932].mean(-1) - first[531, 28:932].mean(-1)
    assert (bar[500:880] < -50).all()
    assert np.abs(bar[:440]).max() < 10


def test_a_long_caption_keeps_clear_of_the_people(meeting):
    words = "the first person walks up to the second person and they shake hands for a long time " * 8
    picture = np.asarray(next(video_frames(meeting(1, caption=words), 960, 540))).astype(int)
    body_rows = np.nonzero((np.abs(picture[:480, :, 0] - picture[:, :, 2][:480]) > 60).any(1))[0]
    letter_rows = np.nonzero((picture[:480].sum(-1) < 200).any(1))[0]
    assert letter_rows[letter_rows < body_rows[0]].size > 40
    assert body_rows[0] > letter_rows[letter_rows < 110].max()
