"""BVH pairs as users bring them: rates, lengths, units, axes and names that are not quite right."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bvh_pairs import PLAIN, REST_J3, folder, open_folder, swaying

from intermoe.body.rotations import matrix_about_axis
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.recordings import Recording, Source
from intermoe.errors import UserError
from intermoe.render.bvh import write_bvh

DUO = Source("duo", "train")


def read(root: Path, scale: float = 1.0, fps: float | None = None) -> Recording:
    (recording,) = open_folder(root, scale, fps).read(DUO)
    return recording


def refusal(root: Path, scale: float = 1.0) -> str:
    with pytest.raises(BadRecording) as caught:
        open_folder(root, scale).read(DUO)
    return str(caught.value)


def change(file: Path, replace: Callable[[str], str]) -> None:
    file.write_text(replace(file.read_text()))


def two(root: Path, frames: int = 60) -> Path:
    return folder(root, a=(*swaying(frames, 30), 30), b=(*swaying(60, 30, seed=1), 30))


def test_rates_that_differ_only_as_they_are_written_are_one(tmp_path):
    two(tmp_path)
    plain = read(tmp_path)
    change(tmp_path / "a.bvh", lambda text: re.sub(r"(?m)^Frame Time: .*$", "Frame Time: 3.33350e-02", text))
    recording = read(tmp_path)
    np.testing.assert_array_equal(recording.position_TPJ3, plain.position_TPJ3)
    assert recording.notes == ("29.9985 and 30 frames per second are taken as 30",)


def test_the_rate_can_be_stated_where_the_file_is_wrong(tmp_path):
    two(tmp_path)
    plain = read(tmp_path)
    change(tmp_path / "a.bvh", lambda text: re.sub(r"(?m)^Frame Time: .*$", "Frame Time: 30", text))
    line = 1 + (tmp_path / "a.bvh").read_text().splitlines().index("Frame Time: 30")
    assert refusal(tmp_path) == (
        f"a.bvh, line {line}: Frame Time 30 is 0.0333 frames per second; allowed: 5 to 1000; `--fps` states the rate"
    )
    np.testing.assert_array_equal(read(tmp_path, fps=30).position_TPJ3, plain.position_TPJ3)
    with pytest.raises(UserError) as caught:
        open_folder(tmp_path, fps=2)
    assert str(caught.value) == "fps 2 (allowed: 5 to 1000 frames per second)"


def test_a_few_frames_of_one_person_alone_are_cut_off_with_a_note(tmp_path):
    two(tmp_path, frames=62)
    recording = read(tmp_path)
    assert len(recording.position_TPJ3) == 60
    assert recording.notes == ("a.bvh has 62 frames, b.bvh 60: the last 2 of a.bvh are left out",)


def test_a_wrong_number_of_frames_in_the_header_is_noted_once_for_a_file_that_is_both_persons(tmp_path):
    two(tmp_path)
    (tmp_path / "pairs.csv").write_text("id,person1,person2,split,captions\nduo,a.bvh,a.bvh,train,Bow.\n")
    change(tmp_path / "a.bvh", lambda text: text.replace("Frames: 60", "Frames: 61"))
    assert read(tmp_path).notes == ("a.bvh: the header promises 61 frames, the file holds 60",)


def test_numbers_of_joints_that_no_mapping_names_need_not_be_finite(tmp_path):
    two(tmp_path)
    plain = read(tmp_path)
    lines = (tmp_path / "a.bvh").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if "JOINT" in line)
    tail = ["JOINT tail", "{", "OFFSET 0 0 0", "CHANNELS 1 Xrotation", "End Site", "{", "OFFSET 0 0 -1", "}", "}"]
    lines[start:start] = tail
    first = next(number for number, line in enumerate(lines) if line.startswith("Frame Time")) + 1
    for number in range(first, len(lines)):
        root, rest = lines[number].split()[:6], lines[number].split()[6:]
        lines[number] = " ".join([*root, "nan", *rest])
    (tmp_path / "a.bvh").write_text("\n".join(lines))
    recording = read(tmp_path)
    np.testing.assert_array_equal(recording.position_TPJ3, plain.position_TPJ3)
    assert recording.notes == ("a.bvh: numbers that are not finite in joints that the mapping does not name: tail",)
    change(tmp_path / "b.bvh", lambda text: text[: text.rindex(" ")] + " nan")
    assert refusal(tmp_path) == "b.bvh: Yrotation of 'right_wrist' is nan in frame 59"


def test_a_body_in_another_unit_is_told_the_scale_that_fits(tmp_path):
    two(tmp_path)
    for scale, fitting in ((0.4, 1), (2.54, 1), (0.001, 1)):
        message = refusal(tmp_path, scale)
        assert message == (
            f"a.bvh: a body measures {1.568 * scale:.3g} m from the feet to the head joint; allowed: 0.8 to 2.2 m; "
            f"`--scale {fitting}` would make it 1.57 m"
        )
    # In a unit that is none of the usual ones, an adult is the guess.
    (tmp_path / "odd").mkdir()
    root_T3, rotation_TJ33 = swaying(60, 30)
    for name in "ab":
        write_bvh(tmp_path / f"odd/{name}.bvh", 5 * root_T3, rotation_TJ33, 5 * REST_J3, skeleton=SMPL22, fps=30)
    folder(tmp_path / "odd")
    assert refusal(tmp_path / "odd").endswith("`--scale 0.2` would make it 1.57 m")


def test_a_root_without_a_place_is_set_aside(tmp_path):
    two(tmp_path)

    def fixed(text: str) -> str:
        lines = text.replace("CHANNELS 6 Xposition Yposition Zposition", "CHANNELS 3").splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith("Frame Time")) + 1
        return "\n".join([*lines[:first], *(" ".join(line.split()[3:]) for line in lines[first:])])

    change(tmp_path / "a.bvh", fixed)
    assert refusal(tmp_path) == (
        "a.bvh: neither 'pelvis' nor a joint between it and the pelvis has three position channels: "
        "where the person is remains unknown"
    )


def exchanged(*pairs: tuple[str, str]) -> dict[str, object]:
    joints = {name: name for name in SMPL22.joint_names}
    for left, right in pairs:
        joints[left], joints[right] = right, left
    return {**PLAIN, "joints": joints}


def test_left_and_right_exchanged_in_one_pair_are_named(tmp_path):
    two(tmp_path)
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(exchanged(("left_knee", "right_knee"))))
    where = "a.bvh: left and right are exchanged under `joints` in the mapping"
    assert refusal(tmp_path) == f"{where}: left_knee and right_knee"
    joints = {
        **PLAIN["joints"],
        "left_wrist": {"position": "left_wrist", "rotation": "right_wrist"},
        "right_wrist": {"position": "right_wrist", "rotation": "left_wrist"},
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({**PLAIN, "joints": joints}))
    assert refusal(tmp_path) == f"{where}: left_wrist and right_wrist (rotation)"


def test_a_figure_that_faces_the_other_way_is_told(tmp_path):
    two(tmp_path)
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({**PLAIN, "axes": ["-x", "y", "-z"]}))
    assert refusal(tmp_path) == (
        "a.bvh: every left joint lies to the right of its partner in the T-pose: the figure does not face z, which "
        "`axes` in the mapping puts right, or left and right are exchanged under `joints`"
    )


@pytest.mark.parametrize(
    ("axis", "degrees", "axes", "tpose"),
    [("X", 90, "x, z, -y", "0, 90, 0"), ("X", 180, "x, -y, -z", "0, 180, 0"), ("Z", -90, "-y, x, z", "-90, 0, 0")],
)
def test_motion_that_stands_along_another_axis_than_its_figure_is_told_what_to_write(
    tmp_path, axis, degrees, axes, tpose
):
    turn_33 = matrix_about_axis(axis, torch.tensor(float(degrees), dtype=torch.float64).deg2rad())
    for name, root in (("right", torch.eye(3, dtype=torch.float64)), ("wrong", turn_33)):
        (tmp_path / name).mkdir()
        motions = {}
        for person, seed in (("a", 0), ("b", 1)):
            root_T3, rotation_TJ33 = swaying(60, 30, turn=0.2, seed=seed)
            rotation_TJ33[:, 0] = root @ rotation_TJ33[:, 0]
            motions[person] = (root_T3 @ root.mT, rotation_TJ33, 30)
        folder(tmp_path / name, None, PLAIN, **motions)
    message = refusal(tmp_path / "wrong")
    assert re.fullmatch(
        r"both bodies stand along -?[xyz] instead of y in the median frame; "
        + re.escape(f"write `axes: [{axes}]` in the mapping, and `tpose: {{pelvis: [{tpose}]}}`"),
        message,
    )
    advice = yaml.safe_load(f"{{axes: [{axes}], tpose: {{pelvis: [{tpose}]}}}}")
    (tmp_path / "wrong/mapping.yaml").write_text(yaml.safe_dump({**PLAIN, **advice}))
    mended, right = read(tmp_path / "wrong"), read(tmp_path / "right")
    np.testing.assert_allclose(mended.position_TPJ3, right.position_TPJ3, atol=2e-5)
    np.testing.assert_allclose(mended.rotation_TPR6, right.rotation_TPR6, atol=2e-5)
