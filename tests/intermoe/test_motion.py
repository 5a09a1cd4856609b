"""Motion: its promises, every file it becomes, and that no half file stays."""

import dataclasses
import os
import zipfile

import numpy as np
import pytest
import torch
from gltf_reader import Gltf
from turns import matrix_from_axis_angle

import intermoe.render.bvh
import intermoe.render.video
from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import sixd_from_matrix
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.bvh_file import global_pose, parse_bvh
from intermoe.errors import UserError
from intermoe.motion import Motion


@pytest.fixture
def motion() -> Motion:
    random = torch.Generator().manual_seed(0)
    rotation_TPJ33 = matrix_from_axis_angle(0.2 * torch.randn(6, 2, 22, 3, generator=random))
    offset_J3 = torch.tensor(SMPL22.rest_offsets)
    root_TP3 = torch.tensor([0.0, 0.9, 0.0]) + torch.tensor([[[-0.5, 0, 0], [0.5, 0, 0]]]).expand(6, 2, 3)
    joints, _ = forward_kinematics(root_TP3, rotation_TPJ33, offset_J3, SMPL22.parents)
    rotations = sixd_from_matrix(rotation_TPJ33[:, :, 1:])
    return Motion(joints.numpy(), rotations.numpy(), 30, "Zwei Menschen grüßen einander.", SMPL22)


def test_seconds(motion):
    assert motion.seconds == pytest.approx(0.2)


def test_frozen(motion):
    with pytest.raises(dataclasses.FrozenInstanceError):
        motion.fps = 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"joints": m.joints[:, :1]}, "joints of the shape (6, 1, 22, 3)"),
        (lambda m: {"rotations": m.rotations[:5]}, "rotations of the shape (5, 2, 21, 6)"),
        (
            lambda m: {"joints": m.joints[:0], "rotations": m.rotations[:0]},
            "motion: has no frames (allowed: one or more)",
        ),
        (lambda m: {"joints": np.where(np.arange(6)[:, None, None, None] == 4, np.nan, m.joints)}, "first in frame 4"),
        (lambda m: {"fps": 0}, "fps 0"),
    ],
    ids=["one person", "lengths differ", "no frames", "not finite", "no rate"],
)
def test_what_is_no_motion_is_refused(motion, change, message):
    with pytest.raises(UserError) as error:
        dataclasses.replace(motion, **change(motion))
    assert message in str(error.value)


def test_npz_returns_everything_and_holds_no_objects(motion, tmp_path):
    assert motion.save(tmp_path / "a.npz") == [tmp_path / "a.npz"]
    again = Motion.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.joints, motion.joints)
    np.testing.assert_array_equal(again.rotations, motion.rotations)
    assert (again.fps, again.caption, again.skeleton) == (30, motion.caption, SMPL22)
    assert again.joints.dtype == again.rotations.dtype == np.float32
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file.files) == {"joints", "rotations", "fps", "caption", "skeleton"}
        assert not any(file[key].dtype.hasobject for key in file.files)


def _other_skeleton(path, motion):
    np.savez(path, joints=motion.joints, rotations=motion.rotations, fps=30, caption="a", skeleton="octopus")


def _pickled(path, motion):
    np.savez(
        path, joints=np.array([motion.joints, None], dtype=object), rotations=1, fps=30, caption="", skeleton="smpl22"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, motion: None, "no such file"),
        (lambda path, motion: path.mkdir(), "not a saved motion"),
        (lambda path, motion: path.write_bytes(b""), "not a saved motion"),
        (lambda path, motion: path.write_bytes(b"PK\x03\x04 broken"), "not a saved motion"),
        (lambda path, motion: path.write_text("words"), "not a saved motion"),
        (lambda path, motion: np.savez(path, joints=motion.joints), "not a saved motion"),
        (lambda path, motion: np.save(path.open("wb"), motion.joints), "not a saved motion"),
        (_other_skeleton, "unknown skeleton 'octopus'"),
        (_pickled, "not a saved motion"),
    ],
    ids=["missing", "folder", "empty", "broken zip", "text", "keys missing", "an npy", "unknown skeleton", "pickled"],
)
def test_load_refuses_what_is_no_saved_motion(motion, tmp_path, make, message):
    make(tmp_path / "a.npz", motion)
    with pytest.raises(UserError) as error:
        Motion.load(tmp_path / "a.npz")
    assert message in str(error.value)
    assert "a.npz" in str(error.value)


def test_a_file_that_would_fill_the_memory_or_never_end_is_refused_unread(motion, tmp_path):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("joints.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    said = f"not a saved motion: {300 * 2**20} bytes once unpacked, more than {2**28}"
    allowed = "(allowed: a .npz file of Motion.save)"
    with pytest.raises(UserError) as error:
        Motion.load(file)
    assert str(error.value) == f"{file}: {said} {allowed}"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError) as error:
        Motion.load(file)
    assert str(error.value) == f"{file}: not a saved motion: not a regular file {allowed}"


def test_bvh_becomes_one_file_a_person_with_the_same_joints(motion, tmp_path):
    files = motion.save(tmp_path / "bow.bvh")
    assert files == [tmp_path / "bow_person1.bvh", tmp_path / "bow_person2.bvh"]
    assert sorted(tmp_path.iterdir()) == files
    for person, file in enumerate(files):
        bvh = parse_bvh(file)
        assert (bvh.frames, bvh.fps) == (6, 30)
        place_TN3, _ = global_pose(*bvh.local_pose(), bvh.parents)
        points = [bvh.names.index(name) for name in SMPL22.joint_names]
        error = np.linalg.norm(place_TN3[:, points].numpy() - motion.joints[:, person], axis=-1)
        assert error.mean() < 0.005


def test_glb_is_one_file_of_both_people(motion, tmp_path):
    file = tmp_path / "new" / "Bow.GLB"
    assert motion.save(file) == [file]
    assert list(file.parent.iterdir()) == [file]
    gltf = Gltf(file.read_bytes())
    assert [skin["name"] for skin in gltf.document["skins"]] == ["person1", "person2"]
    assert gltf.animation("Zwei Menschen grüßen einander.")


def test_amass_becomes_one_file_a_person_and_is_not_read_back(motion, tmp_path):
    files = motion.save(tmp_path / "v1.5_bow.amass.npz")
    assert files == [tmp_path / f"v1.5_bow_person{person}.amass.npz" for person in (1, 2)]
    assert sorted(tmp_path.iterdir()) == files
    with np.load(files[1], allow_pickle=False) as file:
        assert (file["poses"].shape, file["trans"].shape, str(file["gender"])) == ((6, 165), (6, 3), "neutral")
    with pytest.raises(UserError) as error:
        Motion.load(files[0])
    assert str(error.value) == (
        f"{files[0]}: not a saved motion: the form of AMASS, which is for other programs "
        "(allowed: a .npz file of Motion.save)"
    )
    other = dataclasses.replace(motion, skeleton=dataclasses.replace(SMPL22, name="other"))
    with pytest.raises(UserError) as error:
        other.save(tmp_path / "b.amass.npz")
    assert str(error.value) == "AMASS has no form for the skeleton 'other' (allowed: smpl22, humanml22, smplx55)"
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "A.PNG", "a.html"])
def test_pictures_are_written_and_nothing_else(motion, tmp_path, name):
    file = tmp_path / "new" / "folder" / name
    assert motion.save(file) == [file]
    assert list(file.parent.iterdir()) == [file]
    magic = {"mp4": b"ftyp", "gif": b"GIF89a", "png": b"PNG", "html": b"<!doctype html>"}[name.lower()[2:]]
    assert magic in file.read_bytes()[:16]


@pytest.mark.parametrize("name", ["a.avi", "a", "a.npz.zip"])
def test_unknown_suffix_names_the_known_ones(motion, tmp_path, name):
    with pytest.raises(UserError, match=r"\(allowed: \.npz, \.bvh, \.glb, \.mp4, \.gif, \.png, \.html, \.amass\.npz\)"):
        motion.save(tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("before", [None, b"the old video"])
def test_a_writer_that_fails_leaves_what_was_there(motion, tmp_path, monkeypatch, before):
    def fails(motion, path):
        path.write_bytes(b"half a video")
        raise RuntimeError("killed")

    monkeypatch.setattr(intermoe.render.video, "write_video", fails)
    file = tmp_path / "a.mp4"
    if before is not None:
        file.write_bytes(before)
    with pytest.raises(RuntimeError):
        motion.save(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["a.mp4"])
    assert before is None or file.read_bytes() == before


def test_of_two_bvh_files_none_stays_when_the_second_fails(motion, tmp_path, monkeypatch):
    calls = []

    def fails_second(path, *_, **__):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, os.strerror(28))
        path.write_text("first")

    monkeypatch.setattr(intermoe.render.bvh, "write_bvh", fails_second)
    with pytest.raises(UserError, match="No space left on device"):
        motion.save(tmp_path / "a.bvh")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_the_users_error(motion, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        motion.save(tmp_path / "file" / "a.npz")
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        motion.save(tmp_path / "a.npz")
