"""The BVH text format and frame rates, against closed forms worked out here."""

import math
import os
import time

import numpy as np
import pytest
import torch
from turns import angle_between, matrix_from_axis_angle

from intermoe.body.rotations import matrix_about_axis
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bvh_file import global_pose, parse_bvh
from intermoe.datasets.resampling import resample_pose
from intermoe.render.bvh import write_bvh

# Tabs, CRLF, blank lines, lower case, a root with no rotation first, channels out of the usual order, a position
# channel on an inner joint.
CHAIN = (
    "HIERARCHY\r\nROOT base\r\n{\r\n\tOFFSET 7.0\t0 0\r\n"
    "\tCHANNELS 5 Yrotation Zposition Xposition Yposition Xrotation\r\n"
    "\tJoint mid\r\n\t{\r\n\t\tOFFSET 0 2 0\r\n\t\tCHANNELS 4 Xrotation Yposition Yrotation Zrotation\r\n\r\n"
    "\t\tEnd Site\r\n\t\t{\r\n\t\t\tOFFSET 0 0 1\r\n\t\t}\r\n\t}\r\n}\r\n"
    "MOTION\r\nFrames: 2\r\nFrame Time: 0.0416667\r\n"
    "0 3 1 2 0 0 2 0 0\r\n\r\n"
    "90 3e0 1 2 30 -20 2.5 40 50\r\n"
)


def rot(axis, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array(
        {
            "X": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "Y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "Z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


def test_parser_places_a_chain_of_known_angles_where_the_closed_form_does(tmp_path):
    (tmp_path / "chain.bvh").write_bytes(CHAIN.encode())
    bvh = parse_bvh(tmp_path / "chain.bvh")
    assert bvh.names == ("base", "mid", "mid_end")
    assert bvh.parents == (-1, 0, 1)
    assert (bvh.frames, bvh.fps, bvh.notes) == (2, 24.0, ())
    place_TN3, turn_TN33 = (x.numpy() for x in global_pose(*bvh.local_pose(), bvh.parents))
    np.testing.assert_allclose(place_TN3[0], [[1, 2, 3], [1, 4, 3], [1, 4, 4]], atol=1e-12)
    base = rot("Y", 90) @ rot("X", 30)
    mid = base @ rot("X", -20) @ rot("Y", 40) @ rot("Z", 50)
    knee = np.array([1, 2, 3]) + base @ [0, 2.5, 0]
    np.testing.assert_allclose(place_TN3[1], [[1, 2, 3], knee, knee + mid @ [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(turn_TN33[1, 2], mid, atol=1e-12)


@pytest.mark.parametrize(
    ("written", "fps"),
    [
        ("0.008333", 120),
        ("0.00833333", 120),
        ("0.0333", 30),
        ("0.0333667", 29.97),
        (".04", 25),
        ("0.2", 5),
        ("3.33333e-02", 30),
        ("8.333E-3", 120),
        ("0.001", 1000),
    ],
)
def test_frame_times_of_few_digits_mean_whole_rates(tmp_path, written, fps):
    (tmp_path / "a.bvh").write_text(CHAIN.replace("0.0416667", written))
    assert parse_bvh(tmp_path / "a.bvh").fps == pytest.approx(fps, abs=1e-3)
    assert (parse_bvh(tmp_path / "a.bvh").fps == fps) == (written != "0.0333667")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("HIERARCHY", "HIERARCHIE", "line 1: 'HIERARCHIE' instead of 'HIERARCHY'"),
        ("7.0", "seven", "line 4: 'seven' is not a number (offset)"),
        ("7.0", "inf", "line 4: offset is inf"),
        ("CHANNELS 5", "CHANNELS five", "line 5: number of channels is 'five', not a whole number from 0 up"),
        ("Xposition Y", "Xposition Xposition Y", "line 5: 'Xposition' is listed twice"),
        ("5 Yrotation", "5 Wrotation", "line 5: 'Wrotation' is not a channel"),
        ("Joint mid", "Joint base", "line 6: a second point is called 'base'"),
        ("Joint mid", "ROOT mid", "line 6: a root inside a joint"),
        ("Joint mid", "Bone mid", "line 6: 'Bone' instead of JOINT, End Site or '}'"),
        ("Frames: 2", "Frames: -2", "line 18: number of frames is '-2', not a whole number from 0 up"),
        ("MOTION", "ROOT second", "line 17: a second ROOT: one file per person is read"),
        ("MOTION", "MOVEMENT", "line 17: 'MOVEMENT' instead of 'MOTION'"),
        ("0 3 1 2 0 0 2 0 0", "0 3 1 2 0 0 2 0", "line 20: 8 numbers instead of 9"),
        ("3e0", "3x0", "line 22: '3x0' is not a number"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path, old, new, reason):
    assert CHAIN.count(old) == 1
    text = CHAIN.replace(old, new).replace("\r\n", "\n")
    (tmp_path / "a.bvh").write_text(text)
    with pytest.raises(BadRecording) as error:
        parse_bvh(tmp_path / "a.bvh")
    assert str(error.value) == f"a.bvh, {reason}"


@pytest.mark.parametrize(
    ("written", "rate"), [("30", "0.0333"), ("33.3", "0.03"), ("1", "1"), ("0.5", "2"), ("0", "0"), ("0.0005", "2e+03")]
)
def test_frame_times_that_are_no_frame_times_are_refused_unless_the_rate_is_stated(tmp_path, written, rate):
    file = tmp_path / "a.bvh"
    file.write_text(CHAIN.replace("0.0416667", written).replace("\r\n", "\n"))
    with pytest.raises(BadRecording) as error:
        parse_bvh(file)
    assert str(error.value) == (
        f"a.bvh, line 19: Frame Time {written} is {rate} frames per second; allowed: 5 to 1000; `--fps` states the rate"
    )
    assert (error.value.where, parse_bvh(file, fps=25.0).fps) == ("a.bvh, line 19", 25.0)


@pytest.mark.parametrize("promised", [0, 1, 3])
def test_the_frames_that_are_there_are_read_with_a_note(tmp_path, promised):
    (tmp_path / "a.bvh").write_text(CHAIN.replace("Frames: 2", f"Frames: {promised}"))
    bvh = parse_bvh(tmp_path / "a.bvh")
    assert bvh.frames == 2
    assert bvh.notes == (f"the header promises {promised} frames, the file holds 2",)


def test_names_may_hold_blanks_and_end_sites_names(tmp_path):
    text = CHAIN.replace("ROOT base", "ROOT  Bip01 Pelvis \t").replace("Joint mid\r\n\t{", "JOINT Bip01 L Thigh{")
    (tmp_path / "a.bvh").write_text(text.replace("End Site", "End Site Bip01 L Toe"))
    assert parse_bvh(tmp_path / "a.bvh").names == ("Bip01 Pelvis", "Bip01 L Thigh", "Bip01 L Thigh_end")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path, encoding):
    (tmp_path / "a.bvh").write_bytes(CHAIN.encode(encoding))
    assert parse_bvh(tmp_path / "a.bvh").frames == 2


def test_utf16_without_its_mark_is_told(tmp_path):
    (tmp_path / "a.bvh").write_bytes(CHAIN.encode("utf-16-le"))
    with pytest.raises(BadRecording) as error:
        parse_bvh(tmp_path / "a.bvh")
    assert str(error.value) == "a.bvh: is not text, or UTF-16 without a byte order mark; UTF-8 is read"


def test_numbers_must_be_finite_only_where_they_are_used(tmp_path):
    (tmp_path / "a.bvh").write_text(CHAIN.replace("2.5 40 50", "nan inf 50"))
    bvh = parse_bvh(tmp_path / "a.bvh")
    used = bvh.within(["base"])
    assert used.motion_TC[1].tolist() == [90, 3, 1, 2, 30, -20, 0, 0, 50]
    assert used.notes == ("numbers that are not finite in joints that the mapping does not name: mid",)
    with pytest.raises(BadRecording) as error:
        bvh.within(["mid_end"])
    assert str(error.value) == "Yposition of 'mid' is nan in frame 1"
    assert parse_bvh(tmp_path / "a.bvh").at(0).frames == 1


def test_every_truncation_of_a_file_is_refused(tmp_path):
    words = CHAIN.split()
    for end in range(len(words)):
        (tmp_path / "a.bvh").write_text(" ".join(words[:end]))
        with pytest.raises(BadRecording):
            parse_bvh(tmp_path / "a.bvh")


def test_a_large_file_is_read_well_below_half_a_second(tmp_path):
    rotation_TJ33 = matrix_from_axis_angle(torch.randn(2000, 22, 3))
    write_bvh(
        tmp_path / "a.bvh",
        torch.randn(2000, 3),
        rotation_TJ33,
        torch.tensor(SMPL22.rest_offsets),
        skeleton=SMPL22,
        fps=120,
    )
    start = time.process_time()
    parse_bvh(tmp_path / "a.bvh")
    assert time.process_time() - start < 0.5


def test_frames_that_coincide_are_taken_as_they_are():
    place_TN3 = torch.randn(41, 2, 3, dtype=torch.float64)
    turn_TN33 = matrix_from_axis_angle(torch.randn(41, 2, 3, dtype=torch.float64))
    places, turns = resample_pose(place_TN3, turn_TN33, 120.0, 30)
    assert torch.equal(places, place_TN3[::4])
    assert torch.equal(turns, turn_TN33[::4])


def test_turns_take_the_short_way_past_180_degrees():
    angle_T = torch.tensor([170.0, 190.0], dtype=torch.float64).deg2rad()  # as Euler angles 170 and -170
    turn_TN33 = matrix_about_axis("Y", angle_T)[:, None]
    _, turns = resample_pose(torch.zeros(2, 1, 3, dtype=torch.float64), turn_TN33, 24, 48)
    middle = matrix_about_axis("Y", torch.tensor(torch.pi, dtype=torch.float64))
    assert angle_between(turns[1, 0], middle) < 1e-6


@pytest.mark.parametrize("rest", [" s", " # 30 fps", "}"])
def test_the_frame_time_is_the_first_word_on_its_line(tmp_path, rest):
    (tmp_path / "a.bvh").write_text(CHAIN.replace("0.0416667", f"0.0416667 {rest}"))
    assert parse_bvh(tmp_path / "a.bvh").fps == 24.0


@pytest.mark.parametrize("damaged", ["0.041_6667", "3_0"])
def test_underscores_in_numbers_are_damage(tmp_path, damaged):
    text = CHAIN.replace("0.0416667" if "." in damaged else "30", damaged, 1)
    (tmp_path / "a.bvh").write_text(text)
    with pytest.raises(BadRecording) as caught:
        parse_bvh(tmp_path / "a.bvh")
    assert f"'{damaged}' is not a number" in str(caught.value)


def test_a_pipe_and_a_file_of_any_length_are_refused_unread(tmp_path):
    file = tmp_path / "a.bvh"
    os.mkfifo(file)
    with pytest.raises(BadRecording) as caught:
        parse_bvh(file)
    assert str(caught.value) == "a.bvh: cannot be read (not a regular file)"
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(10**11)
    with pytest.raises(BadRecording) as caught:
        parse_bvh(file)
    assert str(caught.value) == f"a.bvh: cannot be read ({10**11} bytes are more than {2**28})"
