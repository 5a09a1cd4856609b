"""Inter-X in both of its layouts, against joints that a plain loop makes of the same rotations.

Legend: T frames, P = 2 persons, J = 55 joints.
"""

import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from interx_files import ProcessedFolder, RawFolder, standing_pose, write_body_model
from turns import matrix_from_axis_angle

from intermoe.body.skeletons import SMPLX55
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.interx import InterXReader
from intermoe.datasets.recordings import Reader, Source
from intermoe.datasets.smplx_body import average_joints
from intermoe.errors import UserError

ID = "G001T000A002R003"


def plain_joints(pose_TPJ3, place_TP3, rest_J3):
    """Each joint stands where its parent's rotation takes the unposed bone; the lowest of all is on the floor."""
    turn = matrix_from_axis_angle(torch.from_numpy(pose_TPJ3).double()).numpy()
    joints = np.zeros(pose_TPJ3.shape)
    for frame in range(len(pose_TPJ3)):
        for person in (0, 1):
            world = {0: turn[frame, person, 0]}
            joints[frame, person, 0] = rest_J3[0] + place_TP3[frame, person]
            for joint, parent in enumerate(SMPLX55.parents[1:], start=1):
                bone = world[parent] @ (rest_J3[joint] - rest_J3[parent])
                joints[frame, person, joint] = joints[frame, person, parent] + bone
                world[joint] = world[parent] @ turn[frame, person, joint]
    joints[..., 1] -= joints[..., 1].min()
    return joints, turn


def reason(root, id=ID, split="train", **options):
    with pytest.raises(BadRecording) as caught:
        InterXReader(root, **options).read(Source(id, split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def processed(tmp_path):
    return ProcessedFolder(tmp_path / "processed_data")


@pytest.fixture
def raw(tmp_path):
    return RawFolder(tmp_path)


def test_a_recording_of_the_benchmark_is_read_as_a_plain_loop_reads_it(processed, tmp_path):
    pose, place = standing_pose(30)
    place[..., 1] -= 0.9  # as the benchmark's files have it: the first person begins at height 0
    processed.add(ID, pose, place, split="val", text="A  bows.#a/DET  bows/VERB#0.0#0.0\n\nB too.#b/X#0#0\n")
    for root in (tmp_path, tmp_path / "processed_data"):
        reader: Reader = InterXReader(root)
        assert reader.sources() == [Source(ID, "val")]
        (recording,) = reader.read(Source(ID, "val"))
        joints, turn = plain_joints(pose, place, average_joints().double().numpy())
        np.testing.assert_allclose(recording.position_TPJ3, joints, atol=1e-5)
        np.testing.assert_allclose(recording.rotation_TPR6, turn[:, :, 1:, :, :2].reshape(30, 2, 54, 6), atol=1e-6)
        assert recording.position_TPJ3.dtype == recording.rotation_TPR6.dtype == np.float32
        assert (recording.captions, recording.label, recording.notes) == (("A bows.", "B too."), {}, ())
        assert recording.words == ("a/DET bows/VERB", "b/X")


def test_a_recording_as_it_was_made_is_read_every_fourth_frame(raw, tmp_path):
    pose, place = standing_pose(121)
    raw.add(ID, pose, place)
    raw.order({ID: 1})
    reader = InterXReader(tmp_path)
    assert reader.sources() == [Source(ID, "train")]
    (recording,) = reader.read(Source(ID, "train"))
    joints, _ = plain_joints(pose[::4], place[::4], average_joints().double().numpy())
    assert len(recording.position_TPJ3) == 31
    np.testing.assert_allclose(recording.position_TPJ3, joints, atol=1e-5)
    assert recording.captions == ("They bow.", "Two people bow.", "One bows, and the other too.")
    assert recording.label == {"actor": 1}


def test_bodies_are_those_of_the_model_that_is_given(processed, tmp_path):
    pose, place = standing_pose(20)
    processed.add(ID, pose, place)
    joint_J3 = average_joints().double().numpy() * 0.9
    write_body_model(tmp_path / "SMPLX_NEUTRAL.npz", joint_J3)
    reader = InterXReader(tmp_path, body_model=tmp_path / "SMPLX_NEUTRAL.npz")
    (recording,) = reader.read(reader.sources()[0])
    joints, _ = plain_joints(pose, place, joint_J3)
    np.testing.assert_allclose(recording.position_TPJ3, joints, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "cannot be read: it holds no v_template (allowed: SMPLX_NEUTRAL.npz)"),
        (
            {"v_template": np.zeros((9, 3)), "J_regressor": np.zeros((24, 9))},
            "holds v_template of (9, 3) and J_regressor of (24, 9) (allowed: a model of SMPL-X: (vertices, 3) and (",
        ),
        (
            {"v_template": np.zeros((9, 3)), "J_regressor": np.zeros((55, 9))},
            "its joints span 0 m (allowed: 1 to 2.5 m)",
        ),
        (
            {"v_template": np.array({}, dtype=object), "J_regressor": np.zeros((55, 9))},
            "cannot be read: Object arrays cannot be loaded when allow_pickle=False (allowed: SMPLX_NEUTRAL.npz)",
        ),
    ],
)
def test_another_body_model_is_refused(processed, tmp_path, arrays, message):
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(UserError) as caught:
        InterXReader(tmp_path, body_model=tmp_path / "model.npz").sources()
    assert str(caught.value).startswith(f"{tmp_path / 'model.npz'}: {message}")


def test_what_is_listed_twice_or_never_is_set_aside(processed, raw, tmp_path):
    pose, place = standing_pose(20)
    processed.add("G001", pose, place)
    processed.add("G001", pose, place, split="test")
    (tmp_path / "processed_data/texts_processed/G002.txt").write_text("A.#a#0#0")
    sources = InterXReader(tmp_path).sources()
    assert sources == [Source("G001", "train and test"), Source("G002", "")]
    assert [reason(tmp_path, source.id, source.split) for source in sources] == [
        "in train and test; one recording in two splits would leak between them",
        "in no split",
    ]


def test_a_recording_that_no_list_of_the_raw_layout_holds_is_set_aside(raw, tmp_path):
    raw.add("G001", *standing_pose(80))
    raw.add("G002", *standing_pose(80))
    (tmp_path / "splits/train.txt").write_text("G002\nG003\n")
    assert InterXReader(tmp_path).sources() == [Source("G002", "train"), Source("G003", "train"), Source("G001", "")]
    assert reason(tmp_path, "G003") == "no motion: motions/G003/P1.npz is missing"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((30, 22, 6), np.float32),
            "{} in motions/train.h5 has the shape (30, 22, 6) instead of (frames, 56, 6)",
        ),
        (np.zeros((30, 56, 6), np.int64), "{} in motions/train.h5 holds int64 instead of floating-point numbers"),
        (np.zeros(4, np.float32), "{} in motions/train.h5 has the shape (4,) instead of (frames, 56, 6)"),
        (np.full((30, 56, 6), np.nan, np.float32), "a number is not finite"),
        (np.zeros((5, 56, 6), np.float32), "5 frames are fewer than 15"),
    ],
)
def test_wrong_arrays_are_told(processed, tmp_path, array, message):
    processed.add_array(ID, array)
    (tmp_path / f"processed_data/texts_processed/{ID}.txt").write_text("A.#a#0#0")
    assert reason(tmp_path).startswith(message.format(ID))


def test_a_missing_key_is_told(processed, tmp_path):
    assert reason(tmp_path) == f"{ID} in motions/train.h5 is none of its own arrays"


def test_an_array_that_lies_in_another_file_is_not_read(processed, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.zeros((30, 56, 6), np.float32)
    with h5py.File(tmp_path / "processed_data/motions/train.h5", "a") as file:
        file["G001"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "numbers")
        file["G002"] = h5py.SoftLink("/G003")
        layout = h5py.VirtualLayout((30, 56, 6), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "numbers", (30, 56, 6))
        file.create_virtual_dataset("G003", layout)
        (tmp_path / "raw.bin").write_bytes(bytes(30 * 56 * 6 * 4))
        file.create_dataset(
            "G004", (30, 56, 6), np.float32, external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        )
    for name in ("G001", "G002", "G003", "G004"):
        assert reason(tmp_path, name) == f"{name} in motions/train.h5 is none of its own arrays"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("They bow.", "line 1: 1 parts instead of caption#word/POS word/POS#from#to"),
        (
            "A.#a/X#0.0#0.0\nB.#b/X#1.0#3.5",
            "line 2: a caption from 1 to 3.5 s; those of Inter-X are of whole recordings",
        ),
        ("A.#a/X#zero#0.0", "line 1: a caption from or to 'zero'; seconds up to 3600 are meant"),
        ("A.#a/X b#0.0#0.0", "line 1: 'b' instead of a word and its part of speech, word/POS"),
        (" #a/X#0.0#0.0", "line 1: an empty caption"),
    ],
)
def test_lines_that_are_no_captions_are_told(processed, tmp_path, text, message):
    processed.add(ID, *standing_pose(30), text=text)
    assert reason(tmp_path) == f"texts_processed/{ID}.txt, {message}"


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), (None, "is missing")])
def test_without_captions_there_is_no_recording(processed, tmp_path, text, message):
    processed.add(ID, *standing_pose(30), text=text or "")
    if text is None:
        (tmp_path / f"processed_data/texts_processed/{ID}.txt").unlink()
    assert reason(tmp_path) == f"no captions: texts_processed/{ID}.txt {message}"


def test_wrong_parts_of_a_body_are_told(raw, tmp_path):
    pose, place = standing_pose(80)
    raw.add(ID, pose, place)
    file = tmp_path / f"motions/{ID}/P2.npz"
    arrays = dict(np.load(file))
    np.savez(file, **(arrays | {"pose_lhand": np.zeros((80, 12), np.float32)}))
    assert reason(tmp_path) == (
        f"pose_lhand of motions/{ID}/P2.npz is float32 of the shape (80, 12) instead of floating-point numbers of "
        "(80, 15, 3)"
    )
    del arrays["pose_rhand"]
    np.savez(file, **arrays)
    assert reason(tmp_path) == f"motions/{ID}/P2.npz cannot be read: it holds no pose_rhand"
    file.write_bytes(file.read_bytes()[:200])
    assert reason(tmp_path).startswith(f"motions/{ID}/P2.npz cannot be read: ")
    np.savez(file, **(arrays | {"pose_rhand": np.array({"a": 1}, dtype=object)}))
    assert reason(tmp_path) == (
        f"motions/{ID}/P2.npz cannot be read: Object arrays cannot be loaded when allow_pickle=False"
    )


def test_a_person_with_a_second_more_is_told(raw, tmp_path):
    pose, place = standing_pose(200)
    raw.add(ID, pose, place)
    file = tmp_path / f"motions/{ID}/P2.npz"
    arrays = dict(np.load(file))
    short = {name: array[:80] if array.ndim > 1 and len(array) == 200 else array for name, array in arrays.items()}
    np.savez(file, **short)
    assert reason(tmp_path) == "P1 has 200 frames, P2 80; a difference of up to 0.1 s is cut off"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 2], "is no table of who acts (allowed: a dict from ids to 0 or 1)"),
        ({ID: 2}, "is no table of who acts (allowed: a dict from ids to 0 or 1)"),
        (
            {ID: os.system},
            "cannot be read: it holds the instruction STACK_GLOBAL; allowed are dicts, lists, strings and whole ",
        ),
    ],
)
def test_a_table_of_who_acts_that_is_none_ends_the_run(raw, tmp_path, order, message):
    raw.order(order)
    with pytest.raises(UserError) as caught:
        InterXReader(tmp_path).sources()
    assert str(caught.value).startswith(f"{tmp_path / 'annots/interaction_order.pkl'}: {message}")


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        InterXReader(tmp_path).sources()
    assert str(caught.value) == (
        f"{tmp_path / 'motions'}: there is no such folder (allowed: Inter-X: motions/train.h5 and texts_processed, or "
        "motions/<id>/P1.npz, splits and texts)"
    )
    ProcessedFolder(tmp_path / "processed_data")
    (tmp_path / "processed_data/motions/val.h5").write_bytes(b"no hdf5")
    with pytest.raises(UserError, match=r"val\.h5: cannot be read: "):
        InterXReader(tmp_path).sources()
    (tmp_path / "processed_data/motions/val.h5").unlink()
    with pytest.raises(
        UserError, match=r"val\.h5: there is no such file \(allowed: train\.h5, val\.h5 and test\.h5\)$"
    ):
        InterXReader(tmp_path).sources()


def test_links_that_lead_out_of_the_folder_are_followed_only_when_asked(processed, tmp_path):
    pose, place = standing_pose(30)
    processed.add(ID, pose, place)
    text = tmp_path / f"processed_data/texts_processed/{ID}.txt"
    (tmp_path / "outside").mkdir()
    text.rename(tmp_path / "outside/a.txt")
    text.symlink_to(tmp_path / "outside/a.txt")
    root = tmp_path / "processed_data"
    assert reason(root) == (f"texts_processed/{ID}.txt leads outside the data set, where only --follow-links goes")
    assert InterXReader(root, follow_links=True).read(Source(ID, "train"))[0].captions == ("Two people bow.",)
    (root / "motions/test.h5").unlink()
    (root / "motions/test.h5").symlink_to(tmp_path / "outside/a.txt")
    with pytest.raises(UserError, match=r"leads outside the data set \(allowed: --follow-links"):
        InterXReader(root).sources()


@pytest.mark.parametrize("layout", ["processed", "raw"])
def test_pipes_among_the_files_are_not_waited_for(tmp_path, layout):
    if layout == "raw":
        folder = RawFolder(tmp_path)
        folder.add(ID, *standing_pose(80))
        file = tmp_path / f"motions/{ID}/P1.npz"
    else:
        ProcessedFolder(tmp_path / "processed_data").add(ID, *standing_pose(30))
        file = tmp_path / "processed_data/motions/train.h5"
    file.unlink()
    os.mkfifo(file)
    assert (
        "P1.npz cannot be read" in reason(tmp_path)
        if layout == "raw"
        else "train.h5 cannot be read" in reason(tmp_path)
    )


def test_damaged_archives_are_one_line(raw, tmp_path):
    raw.add(ID, *standing_pose(80))
    file = tmp_path / f"motions/{ID}/P1.npz"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    told = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged[: int(random.integers(len(damaged)))] if random.random() < 0.3 else damaged)
        try:
            InterXReader(tmp_path).read(Source(ID, "train"))
        except BadRecording as error:
            told += 1
            assert len(str(error)) < 320  # noqa: PT017  many are read all the same
    assert told > 30
    for content in (b"<html>not found</html>", b""):
        file.write_bytes(content)
        assert reason(tmp_path) == f"motions/{ID}/P1.npz cannot be read: it is no archive of arrays"


def test_a_name_that_is_no_utf8_is_one_recording_that_is_set_aside(processed, tmp_path):
    processed.add("G001", *standing_pose(30))
    with h5py.File(tmp_path / "processed_data/motions/train.h5", "a") as file:
        space = h5py.h5s.create_simple((30, 56, 6))
        h5py.h5d.create(file.id, b"G\xe9", h5py.h5t.NATIVE_FLOAT, space)
    first, second = InterXReader(tmp_path).sources()
    assert first.id == "G001"
    with pytest.raises(BadRecording, match="may hold only letters"):
        InterXReader(tmp_path).read(second)


def test_an_array_of_no_frames_and_one_in_a_huge_chunk_are_told(processed, tmp_path):
    processed.add_array(ID, np.zeros((0, 56, 6), np.float32))
    assert reason(tmp_path) == "0 frames are fewer than 15"
    with h5py.File(tmp_path / "processed_data/motions/train.h5", "a") as file:
        file.create_dataset(
            "G9", (60, 56, 6), np.float32, chunks=(100_000, 56, 6), maxshape=(None, 56, 6), compression=9
        )
    assert reason(tmp_path, "G9") == (
        "G9 in motions/train.h5 is stored in chunks of (100000, 56, 6), more than 18000 frames"
    )


def test_who_acts_is_found_beside_the_processed_data_and_captions_may_hold_any_sign(tmp_path):
    folder = ProcessedFolder(tmp_path / "processed_data")
    folder.add(ID, *standing_pose(30), text="Song #1\u2028 plays.#song/NOUN#0.0#0.0")
    (tmp_path / "annots").mkdir()
    (tmp_path / "annots/interaction_order.pkl").write_bytes(pickle.dumps({ID: 1}))
    (recording,) = InterXReader(tmp_path / "processed_data").read(Source(ID, "train"))
    assert (recording.label, recording.captions) == ({"actor": 1}, ("Song #1 plays.",))
