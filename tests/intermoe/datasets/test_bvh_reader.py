"""BVH files read as pairs: the text, the mapping, frame rates, jumps, and everything that can be wrong with them."""

import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml
from bvh_pairs import PLAIN, REST_J3, folder, open_folder, swaying
from turns import angle_between

from intermoe.body.kinematics import fit_rotations, forward_kinematics, rest_offsets
from intermoe.body.rotations import matrix_about_axis, matrix_from_6d
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.bvh import BvhPairReader
from intermoe.datasets.bvh_file import global_pose, parse_bvh
from intermoe.datasets.jumps import jump_frames
from intermoe.datasets.recordings import Source
from intermoe.errors import UserError
from intermoe.render.bvh import write_bvh

# A sound file that is nobody's body.
OTHER = """HIERARCHY
ROOT base { OFFSET 0 0 0 CHANNELS 3 Xrotation Yrotation Zrotation End Site { OFFSET 0 1 0 } }
MOTION
Frames: 1
Frame Time: 0.0333333
0 0 0
"""


# Frame rates.


@pytest.mark.parametrize("fps", [24, 25, 30, 50, 59.94, 60, 100, 120])
def test_steady_turns_are_resampled_exactly_at_any_rate(tmp_path, fps):
    frames = int(2 * fps)
    root_T3, rotation_TJ33 = swaying(frames, fps, turn=2.5)
    mirror = swaying(frames, fps, turn=-2.0, seed=1)
    folder(tmp_path, a=(root_T3, rotation_TJ33, fps), b=(*mirror, fps))
    reader = open_folder(tmp_path)
    (recording,) = reader.read(reader.sources()[0])
    count = math.floor((frames - 1) * 30 / fps + 1e-6) + 1
    assert (recording.id, len(recording.position_TPJ3)) == ("duo", count)
    for person, (turn, seed) in enumerate([(2.5, 0), (-2.0, 1)]):
        root_S3, rotation_SJ33 = swaying(count, 30, turn=turn, seed=seed)
        position_SJ3, _ = forward_kinematics(root_S3, rotation_SJ33, REST_J3, SMPL22.parents)
        found = torch.from_numpy(recording.position_TPJ3[:, person]).double()
        torch.testing.assert_close(found, position_SJ3, atol=2e-5, rtol=0)
        sixd = torch.from_numpy(recording.rotation_TPR6[:, person]).double()
        assert angle_between(matrix_from_6d(sixd), rotation_SJ33[:, 1:]).max() < 0.01


# Mappings.


def test_other_axes_units_and_zero_poses_give_the_same_motion(tmp_path):
    root_T3, rotation_TJ33 = swaying(60, 30)
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    folder(tmp_path / "plain", a=(root_T3, rotation_TJ33, 30), b=(root_T3, rotation_TJ33, 30))
    reader = open_folder(tmp_path / "plain")
    (plain,) = reader.read(reader.sources()[0])
    # The same in centimetres, z up and facing -y, with a zero pose in which the left arm hangs down: file vector v is
    # (x, -z, y) of ours, so that ours is [x, z, -y] of the file's.
    to_file = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    shoulder = SMPL22.index("left_shoulder")
    raise_arm = matrix_about_axis("Z", torch.tensor(math.pi / 2, dtype=torch.float64))  # from hanging to the T-pose
    offset_J3, turned_TJ33 = REST_J3.clone(), rotation_TJ33.clone()
    below = [shoulder, SMPL22.index("left_elbow"), SMPL22.index("left_wrist")]
    for joint in below[1:]:
        offset_J3[joint] = raise_arm.T @ REST_J3[joint]
    turned_TJ33[:, shoulder] = rotation_TJ33[:, shoulder] @ raise_arm
    for joint in below[1:]:
        turned_TJ33[:, joint] = raise_arm.T @ rotation_TJ33[:, joint] @ raise_arm
    for name in "ab":
        write_bvh(
            tmp_path / "other" / f"{name}.bvh",
            100 * root_T3 @ to_file.T,
            to_file @ turned_TJ33 @ to_file.T,
            100 * offset_J3 @ to_file.T,
            skeleton=SMPL22,
            fps=30,
        )
    # The raised arm turns about our z, which is the file's -y: ZXY channels, so the third angle.
    mapping = {**PLAIN, "axes": ["x", "z", "-y"], "tpose": {"left_shoulder": [0, 0, -90]}}
    folder(tmp_path / "other", mapping=mapping)
    reader = open_folder(tmp_path / "other", scale=0.01)
    (other,) = reader.read(reader.sources()[0])
    np.testing.assert_allclose(other.position_TPJ3, plain.position_TPJ3, atol=2e-5)
    np.testing.assert_allclose(other.rotation_TPR6, plain.rotation_TPR6, atol=2e-5)
    torch.testing.assert_close(reader.rest_offsets(reader.sources()[0])[1], REST_J3, atol=1e-6, rtol=0)
    # Without the note on the T-pose the pair is refused instead of read wrongly.
    (tmp_path / "other" / "mapping.yaml").write_text(yaml.safe_dump({**mapping, "tpose": {}}))
    reader = open_folder(tmp_path / "other", scale=0.01)
    with pytest.raises(
        BadRecording, match=r"a\.bvh: its zero pose is not a T-pose: the bone to left_\w+ is 9\d degrees"
    ):
        reader.read(reader.sources()[0])
    # Nor is it read in the wrong unit.
    reader = BvhPairReader(tmp_path / "plain", tmp_path / "plain" / "mapping.yaml", scale=100.0)
    with pytest.raises(BadRecording) as error:
        reader.read(reader.sources()[0])
    assert str(error.value) == (
        "a.bvh: a body measures 157 m from the feet to the head joint; allowed: 0.8 to 2.2 m; "
        "`--scale 1` would make it 1.57 m"
    )


# The folder.


def test_the_folder_and_its_index_must_be_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        BvhPairReader(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"pairs\.csv: no such file"):
        BvhPairReader(tmp_path)
    (tmp_path / "pairs.csv").write_text("id,person1,split\nx,a.bvh,train\n")
    with pytest.raises(UserError, match="no column person2, captions"):
        BvhPairReader(tmp_path)
    (tmp_path / "pairs.csv").write_bytes(b"id,person1,person2,split,captions\n\xff\xfe,,,,\n")
    with pytest.raises(UserError, match="cannot be read"):
        BvhPairReader(tmp_path)
    folder(tmp_path)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="scale"):
            open_folder(tmp_path, scale)


def test_the_index_gives_sources_and_captions_and_survives_pickling(tmp_path):
    rows = ["duo,a.bvh,b.bvh,train,Two people sway.| They sway. |", 'two,a.bvh,b.bvh,val,"One, then the other."']
    motion = (*swaying(60, 30), 30)
    folder(tmp_path, rows, a=motion, b=motion)
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "pairs.csv").read_bytes())
    reader = pickle.loads(pickle.dumps(open_folder(tmp_path)))
    assert reader.sources() == [Source("duo", "train"), Source("two", "val")]
    first, second = (reader.read(source)[0] for source in reader.sources())
    assert first.captions == ("Two people sway.", "They sway.")
    assert second.captions == ("One, then the other.",)
    assert (first.split, second.split) == ("train", "val")
    assert first.position_TPJ3.dtype == first.rotation_TPR6.dtype == np.float32


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("duo,../a.bvh,b.bvh,train,Hi.", "person1 '../a.bvh' is not a file name inside the folder"),
        ("duo,a.bvh,/etc/passwd,train,Hi.", "person2 '/etc/passwd' is not a file name inside the folder"),
        ("duo,a.bvh,x\\..\\..\\b.bvh,train,Hi.", "is not a file name inside the folder"),
        ("duo,a.bvh,c.bvh,train,Hi.", "person2 'c.bvh' does not exist"),
        ("duo,a.bvh,,train,Hi.", "person2 '' is not a file name inside the folder"),
        ("duo,a.bvh", "pairs.csv, line 3: 2 columns instead of 5"),
        ("duo,a.bvh,b.bvh,dev,Hi.", "split 'dev' is not one of train, val, test"),
        ("duo,a.bvh,b.bvh,train, | ", "no caption"),
        ("../duo,a.bvh,b.bvh,train,Hi.", "id '../duo' may hold only"),
        ("duo,a.bvh,b.bvh,train,Hi.\nduo,a.bvh,b.bvh,train,Hi.", "listed 2 times"),
        ("duo,a.bvh,short.bvh,train,Hi.", "a.bvh has 60 frames, short.bvh 50; a difference of up to 0.1 s is cut off"),
        ("duo,a.bvh,fast.bvh,train,Hi.", "differ in frame rate: 30 and 60 frames per second; `--fps` states"),
        ("duo,a.bvh,chain.bvh,train,Hi.", "chain.bvh: there is no joint 'pelvis', which pelvis needs in the mapping"),
        ("duo,a.bvh,broken.bvh,train,Hi.", "broken.bvh: is not text"),
        ("duo,brief.bvh,brief.bvh,train,Hi.", "14 frames at 30 fps leave no 15 in a row at 30 fps"),
    ],
)
def test_one_bad_pair_is_one_bad_recording(tmp_path, row, reason):
    root_T3, rotation_TJ33 = swaying(60, 30)
    rows = ["good,a.bvh,b.bvh,train,Hi.", row]
    motion = (root_T3, rotation_TJ33, 30)
    part = {"short": (root_T3[:50], rotation_TJ33[:50], 30), "fast": (root_T3, rotation_TJ33, 60)}
    part["brief"] = (root_T3[:14], rotation_TJ33[:14], 30)
    folder(tmp_path, rows, PLAIN, a=motion, b=motion, **part)
    (tmp_path / "chain.bvh").write_text(OTHER)
    (tmp_path / "broken.bvh").write_bytes(bytes(range(256)))
    reader = open_folder(tmp_path)
    assert len(reader.sources()) == 2
    assert reader.read(reader.sources()[0])[0].id == "good"
    with pytest.raises(BadRecording) as error:
        reader.read(reader.sources()[1])
    assert reason in str(error.value)


# Jumps.


@pytest.mark.parametrize("fps", [30, 60, 120])
def test_a_jump_of_one_person_is_cut_out_of_both(tmp_path, fps):
    frames = 4 * fps
    one, two = swaying(frames, fps), swaying(frames, fps, seed=1)
    folder(tmp_path, a=(*one, fps), b=(*two, fps))
    reader = open_folder(tmp_path)
    (whole,) = reader.read(reader.sources()[0])
    root_T3 = two[0].clone()
    root_T3[2 * fps : 2 * fps + 2, 0] += 0.4
    folder(tmp_path, a=(*one, fps), b=(root_T3, two[1], fps))
    first, second = open_folder(tmp_path).read(Source("duo", "train"))
    assert (first.id, second.id) == ("duo_0", "duo_1")
    cut = len(whole.position_TPJ3) - len(first.position_TPJ3) - len(second.position_TPJ3)
    assert 2 <= cut <= 8
    # What remains is the recording, frame for frame; the second piece may begin between two frames of 30 fps.
    np.testing.assert_array_equal(first.position_TPJ3, whole.position_TPJ3[: len(first.position_TPJ3)])
    assert np.abs(np.diff(second.position_TPJ3[:, :, 0], axis=0)).max() * 30 < 0.6


def test_pieces_too_short_are_dropped_and_numbers_follow_on(tmp_path):
    root_T3, rotation_TJ33 = swaying(120, 30)
    for frame in (12, 60):
        root_T3[frame] += 1.0
    motion = (root_T3, rotation_TJ33, 30)
    folder(tmp_path, a=motion, b=motion)
    recordings = open_folder(tmp_path).read(Source("duo", "train"))
    assert [recording.id for recording in recordings] == ["duo_0", "duo_1"]
    assert [len(recording.position_TPJ3) for recording in recordings] == [41, 56]
    rows = ["duo,a.bvh,b.bvh,train,Hi.", "duo_1,a.bvh,b.bvh,train,Hi."]
    folder(tmp_path, rows)
    with pytest.raises(BadRecording, match="'duo_1', as is another pair"):
        open_folder(tmp_path).read(Source("duo", "train"))
    root_T3[::12] += 1.0
    folder(tmp_path, a=(root_T3, rotation_TJ33, 30))
    with pytest.raises(
        BadRecording, match="120 frames at 30 fps leave no 15 in a row at 30 fps once its jumps are cut out"
    ):
        open_folder(tmp_path).read(Source("duo", "train"))


def test_fast_but_human_movement_is_no_jump():
    time_T = torch.arange(240, dtype=torch.float64) / 120
    position_TPJ3 = torch.zeros(240, 2, 2, 3, dtype=torch.float64)
    position_TPJ3[:, 0, 1, 0] = 0.4 * torch.sin(2 * torch.pi * 5 * time_T)  # a hand at 12.6 m/s, five times a second
    position_TPJ3[:, 1, :, 2] = 8 * time_T[:, None]  # a sprint
    noise = 0.002 * torch.randn(240, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not jump_frames(position_TPJ3 + noise, 120.0).any()
    # At 960 frames a second the noise alone would be 5 m/s from frame to frame.
    assert not jump_frames(position_TPJ3 / 8 + noise, 960.0).any()


# Real recordings.

# 120 fps frame numbers, first to last, as found by hand (NOTES.md beside the recordings); none for the others.
GLITCHES = {
    "03": [(915, 916)],
    "04": [(265, 266), (343, 350)],
    "06": [(1007, 1009)],
    "09": [(380, 396)],
    "10": [(304, 319), (351, 365)],
    "13": [(620, 635)],
    "15": [(731, 735)],
}


@pytest.fixture(scope="module")
def salsa(salsa_zip, tmp_path_factory):
    root = tmp_path_factory.mktemp("salsa")
    with zipfile.ZipFile(salsa_zip) as archive:
        archive.extractall(root)
    reader = BvhPairReader(next(root.glob("**/pairs.csv")).parent, "cmu", 1.42)
    return reader, {source: reader.read(source) for source in reader.sources()}


def test_every_known_glitch_and_ramp_of_salsa_is_cut_and_little_else(salsa):
    reader, recordings = salsa
    assert len(recordings) == 11
    frames = kept = 0
    for source, pieces in recordings.items():
        (pair,) = [pair for pair in reader._pairs if pair.id == source.id]
        place_TN3, _ = global_pose(*(bvh := parse_bvh(reader.root / pair.persons[0])).local_pose(), bvh.parents)
        glitches = [(0, 2), *GLITCHES.get(source.id[-2:], [])]
        hip_T3 = 1.42 * place_TN3[:, 0].numpy()
        frames += bvh.frames
        for piece in pieces:
            # The piece's hips are those of the file, every fourth frame from some frame on.
            start = int(np.linalg.norm(hip_T3 - piece.position_TPJ3[0, 0, 0], axis=1).argmin())
            length = 4 * (len(piece.position_TPJ3) - 1) + 1
            np.testing.assert_allclose(hip_T3[start : start + length : 4], piece.position_TPJ3[:, 0, 0], atol=1e-5)
            kept += length
            for first, last in glitches:
                assert start > last or start + length <= first
        assert 1 <= len(pieces) <= len(glitches)
    assert kept / frames > 0.98


def test_salsa_is_a_man_and_a_woman_upright_on_the_floor_facing_each_other(salsa):
    _, recordings = salsa
    for pieces in recordings.values():
        for piece in pieces:
            height_TP = piece.position_TPJ3[:, :, SMPL22.index("pelvis"), 1]
            assert 0.8 < np.median(height_TP) < 1.0
            low = piece.position_TPJ3[..., 1].min()
            assert -0.15 < low < 0.15
            apart = np.linalg.norm(piece.position_TPJ3[:, 0, 0] - piece.position_TPJ3[:, 1, 0], axis=-1)
            assert apart.max() < 3.5


@pytest.mark.parametrize("number", [3, 7])  # the ones with the most glitches, and the shortest pieces
def test_rotations_of_salsa_return_its_positions(salsa, number):
    """With the file's T-pose exactly; with the T-pose found from joints and rotations alone to 1 mm and 1 degree."""
    reader, recordings = salsa
    source = list(recordings)[number]
    for piece in recordings[source]:
        position_TPJ3 = torch.from_numpy(piece.position_TPJ3).double()
        rotation_TPR6 = torch.from_numpy(piece.rotation_TPR6).double()
        found_PJ3 = rest_offsets(position_TPJ3.transpose(0, 1), rotation_TPR6.transpose(0, 1), SMPL22)
        for offset_PJ3, metres, degrees in ((reader.rest_offsets(source), 1e-5, 0.05), (found_PJ3, 1e-3, 1.0)):
            root_TP3, rotation_TPJ33 = fit_rotations(position_TPJ3, rotation_TPR6, SMPL22, offset_PJ3)
            again_TPJ3, _ = forward_kinematics(root_TP3, rotation_TPJ33, offset_PJ3, SMPL22.parents)
            assert (again_TPJ3 - position_TPJ3).norm(dim=-1).mean() < metres
            assert angle_between(rotation_TPJ33[:, :, 1:], matrix_from_6d(rotation_TPR6)).max() < degrees


def test_salsa_written_as_bvh_and_read_again_is_the_same(salsa, tmp_path):
    _, recordings = salsa
    source = next(iter(recordings))
    (piece,) = recordings[source]
    for person, name in enumerate("ab"):
        position_TJ3 = torch.from_numpy(piece.position_TPJ3[:, person])
        rotation_TR6 = torch.from_numpy(piece.rotation_TPR6[:, person])
        offset_J3 = rest_offsets(position_TJ3, rotation_TR6, SMPL22)
        write_bvh(
            tmp_path / f"{name}.bvh",
            *fit_rotations(position_TJ3, rotation_TR6, SMPL22, offset_J3),
            offset_J3,
            skeleton=SMPL22,
            fps=30,
        )
    folder(tmp_path)
    (again,) = open_folder(tmp_path).read(Source("duo", "train"))
    distance = np.linalg.norm(again.position_TPJ3 - piece.position_TPJ3, axis=-1)
    assert distance.mean() < 1e-3
    turned = angle_between(*(matrix_from_6d(torch.from_numpy(x.rotation_TPR6).double()) for x in (again, piece)))
    assert turned.max() < 1.0


# Links.


def test_a_file_that_leads_out_of_the_folder_is_read_only_if_asked_for(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "b.bvh"
    inside.mkdir()
    folder(inside, a=(*swaying(30, 30), 30), b=(*swaying(30, 30, seed=1), 30))
    (inside / "b.bvh").rename(outside)
    (inside / "b.bvh").symlink_to(outside)
    reader = open_folder(inside)
    with pytest.raises(BadRecording) as caught:
        reader.read(reader.sources()[0])
    assert str(caught.value) == "b.bvh leads outside the data set, where only --follow-links goes"
    reader.follow_links = True
    assert [recording.id for recording in reader.read(reader.sources()[0])] == ["duo"]


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "other.csv").write_text("id,person1,person2,split,captions\n")
    (inside / "pairs.csv").symlink_to(tmp_path / "other.csv")
    with pytest.raises(UserError) as caught:
        BvhPairReader(inside)
    assert str(caught.value) == (
        f"{inside / 'pairs.csv'}: leads outside the data set (allowed: --follow-links, or files in its folder)"
    )
    assert BvhPairReader(inside, follow_links=True).sources() == []
