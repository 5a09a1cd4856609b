import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from bodies import interhuman_rows, standing_bodies

from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.recordings import Reader, Source
from intermoe.errors import UserError


def raw(frames=20, seed=0, width=492):
    return interhuman_rows(frames, seed)[:, :width]


def add(root, id, *, one=None, two=None, captions="They bow.\n", split="train"):
    np.save(root / f"motions_processed/person1/{id}.npy", raw(seed=1) if one is None else one)
    np.save(root / f"motions_processed/person2/{id}.npy", raw(seed=2) if two is None else two)
    (root / f"annots/{id}.txt").write_text(captions, "utf-8")
    if split:
        with (root / f"split/{split}.txt").open("a") as file:
            file.write(f"{id}\n")


@pytest.fixture
def root(tmp_path):
    for folder in ("motions_processed/person1", "motions_processed/person2", "annots", "split"):
        (tmp_path / folder).mkdir(parents=True)
    for split in ("train", "val", "test"):
        (tmp_path / f"split/{split}.txt").touch()
    return tmp_path


def reason(root, id, split="train", *, follow_links=False):
    with pytest.raises(BadRecording) as caught:
        InterHumanReader(root, follow_links=follow_links).read(Source(id, split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recording_is_read_as_it_lies_on_disk(root):
    one, two = raw(seed=1).astype(np.float64), raw(seed=2)
    add(root, "7", one=one, two=two, captions="\ufeffThey bow.\r\n\n  Two  people bow. \n", split="val")
    reader: Reader = InterHumanReader(root)
    (source,) = reader.sources()
    (recording,) = reader.read(source)
    assert (source, recording.id, recording.split) == (Source("7", "val"), "7", "val")
    assert recording.captions == ("They bow.", "Two people bow.")
    assert recording.label == {}
    assert recording.position_TPJ3.dtype == recording.rotation_TPR6.dtype == np.float32
    for person, file in enumerate((one, two)):
        for t in range(20):
            for joint in range(22):
                x, y, z = file[t, 3 * joint : 3 * joint + 3]
                np.testing.assert_allclose(recording.position_TPJ3[t, person, joint], [x, z, -y], rtol=1e-6)
            for joint in range(1, 22):
                start = 62 * 3 + 6 * (joint - 1)
                np.testing.assert_allclose(
                    recording.rotation_TPR6[t, person, joint - 1], file[t, start : start + 6], rtol=1e-6
                )


def test_sources_are_the_splits_in_order_then_the_rest(root):
    for name, split in (("b", "train"), ("a", "train"), ("d", "test"), ("c", "val"), ("lost", None), ("x", "train")):
        add(root, name, split=split)
    add(root, "a", split="train")  # listed twice in one split: still one source
    add(root, "c", split="test")
    (root / "annots/._a.txt").touch()
    (root / "annots/captions_only.txt").touch()
    (root / "ignore_list.txt").write_text("x\n")
    reader = InterHumanReader(root)
    assert [(source.id, source.split) for source in reader.sources()] == [
        ("b", "train"), ("a", "train"), ("c", "val and test"), ("d", "test"), ("captions_only", ""), ("lost", ""),
    ]  # fmt: skip
    assert reason(root, "lost", split="") == "listed in no split"
    assert "listed in val and test" in reason(root, "c", split="val and test")
    assert pickle.loads(pickle.dumps(reader)).sources() == reader.sources()


def test_labels_say_who_acts(root):
    add(root, "p")
    add(root, "q")
    (root / "labels.jsonl").write_text(json.dumps({"id": "p", "kind": "push", "actor": 1}) + "\n\n")
    reader = InterHumanReader(root)
    (p,), (q,) = (reader.read(source) for source in reader.sources())
    assert p.label == {"kind": "push", "actor": 1}
    assert q.label == {}


@pytest.mark.parametrize(
    "line", ['{"id": "p"', '["p"]', '{"kind": "push"}', '{"id": "p", "actor": [0]}', "[" * 100_000]
)
def test_broken_labels_are_told_before_the_run(root, line):
    (root / "labels.jsonl").write_text('{"id": "q", "actor": 0}\n' + line)
    with pytest.raises(UserError, match=r"labels\.jsonl: line 2 is no label"):
        InterHumanReader(root).sources()


def test_an_id_labelled_twice_is_told(root):
    (root / "labels.jsonl").write_text('{"id": "q", "actor": 0}\n{"id": "q", "actor": 1}\n')
    with pytest.raises(UserError, match="line 2 labels 'q' a second time"):
        InterHumanReader(root).sources()


def test_missing_folders_and_lists_are_told(root, tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        InterHumanReader(tmp_path / "nowhere").sources()
    (root / "split/val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt: there is no such file"):
        InterHumanReader(root).sources()
    (root / "split/val.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match=r"val\.txt: cannot be read"):
        InterHumanReader(root).sources()
    (root / "annots").rmdir()
    with pytest.raises(UserError, match="annots: there is no such folder"):
        InterHumanReader(root).sources()


NAN = raw()
NAN[4, 190] = np.nan
BIG = raw().astype(np.float64)
BIG[5, 0] = 1e300


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"two": raw(width=262)}, "person2/bad.npy has the shape (20, 262) instead of (frames, 492)"),
        ({"one": raw().ravel()}, "has the shape (9840,)"),
        ({"two": NAN}, "rotations hold a number that is not finite, first in frame 4"),
        ({"one": BIG}, "positions hold a number that is not finite, first in frame 5"),
        ({"one": raw().astype("S8")}, "holds |S8 instead of floating-point numbers"),
        (
            {"two": raw(frames=16)},
            "person1 has 20 frames, person2 16; a difference of up to 0.1 s is cut off",
        ),
        ({"one": raw(14), "two": raw(14)}, "14 frames are fewer than 15"),
        ({"one": raw(0), "two": raw(0)}, "0 frames are fewer than 15"),
        ({"captions": " \n\n"}, "annots/bad.txt is empty"),
    ],
)
def test_a_bad_recording_says_why(root, given, expected):
    add(root, "bad", **given)
    add(root, "good")
    assert expected in reason(root, "bad")
    assert InterHumanReader(root).read(Source("good", "train"))


def test_unused_columns_may_hold_anything(root):
    motion = raw()
    motion[:, 66:186] = np.nan
    motion[:, 312:] = np.inf
    add(root, "a", one=motion)
    assert InterHumanReader(root).read(Source("a", "train"))


def test_captions_without_motion_and_motion_without_captions(root):
    for name in "abc":
        add(root, name)
    (root / "motions_processed/person2/a.npy").unlink()
    (root / "annots/b.txt").unlink()
    (root / "annots/c.txt").write_bytes(b"caf\xe9")
    assert reason(root, "a") == "no motion: motions_processed/person2/a.npy is missing"
    assert reason(root, "b") == "no captions: annots/b.txt is missing"
    assert "annots/c.txt cannot be read" in reason(root, "c")


@pytest.mark.parametrize("id", ["../a", "x/../a", "/etc/passwd", "..", "", "a b", ".hidden", "a\0b"])
def test_an_id_that_could_leave_the_folder_touches_no_file(root, monkeypatch, id):
    with (root / "split/train.txt").open("a") as file:
        file.write("../a\n")
    reader = InterHumanReader(root)
    assert reader.sources() == [Source("../a", "train")]
    for method in ("is_file", "exists", "open", "read_text", "stat"):
        monkeypatch.setattr(Path, method, lambda *_, **__: pytest.fail("the disk was touched"))
    with pytest.raises(BadRecording, match="may hold only letters"):
        reader.read(Source(id, "train"))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(root):
    add(root, "objects")
    np.save(root / "motions_processed/person1/objects.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    assert "objects.npy cannot be read" in reason(root, "objects")
    (root / "motions_processed/person1/objects.npy").write_bytes(pickle.dumps(Bomb()))
    assert "objects.npy cannot be read" in reason(root, "objects")


def test_damaged_files(root):
    add(root, "cut")
    file = root / "motions_processed/person1/cut.npy"
    whole = file.read_bytes()
    for size in (0, 4, 9, 60, 128, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert "cut.npy cannot be read" in reason(root, "cut")
    for shape in (b"(10**9, 492)", b"(999999999999, 492)", b"(-20, 492)"):
        assert whole.count(b"(20, 492), }" + b" " * 8) == 1
        file.write_bytes(whole.replace(b"(20, 492), }" + b" " * 8, (shape + b", }").ljust(20)))
        assert "cut.npy" in reason(root, "cut")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row.__setitem__((slice(None), slice(186, 312)), 0),
            (
                "the six numbers of left_hip in frame 0 are not the first two columns of a rotation matrix, row by "
                "row: lengths 0 and 0 instead of 1, product 0 instead of 0"
            ),
        ),
        (
            lambda row: row.__setitem__((slice(None), slice(0, 66)), 0),
            "a body measures 0 m from the feet to the head joint; allowed: 0.8 to 2.2 m",
        ),
        (
            lambda row: row.__setitem__((slice(18, 22), slice(0, 66)), 0),
            (
                "the motion jumps near frame 19: a joint moves faster than 18 m/s, or the root's speed changes by more "
                "than 6 m/s from one frame to the next"
            ),
        ),
    ],
)
def test_what_no_body_can_be_is_set_aside(root, change, message):
    one, two = raw(40, seed=1), raw(40, seed=2)
    change(one)
    add(root, "bad", one=one, two=two)
    assert reason(root, "bad") == message


def test_files_with_y_up_are_set_aside(root):
    rows = []
    for person in range(2):
        row = raw(40, seed=person)
        position_TPJ3, _ = standing_bodies(40)
        row[:, :66] = position_TPJ3[:, person].reshape(40, 66)
        rows.append(row)
    add(root, "bad", one=rows[0], two=rows[1])
    assert reason(root, "bad") == (
        "both bodies stand along -z instead of y in the median frame; the files of this layout have z up"
    )


def test_a_few_frames_of_one_person_alone_are_cut_off_with_a_note(root):
    add(root, "a", one=raw(40, seed=1), two=raw(38, seed=2))
    (recording,) = InterHumanReader(root).read(Source("a", "train"))
    assert len(recording.position_TPJ3) == 38
    assert recording.notes == ("person1 has 40 frames, person2 38: the last 2 of person1 are left out",)


def test_second_copies_are_named_with_what_to_do(root):
    add(root, "7")
    add(root, "8(1)", split=None)
    (root / "motions_processed/person2/7.npy").rename(root / "motions_processed/person2/7(1).npy")
    reader = InterHumanReader(root)
    assert [source.id for source in reader.sources()] == ["7", "7(1)", "8(1)"]
    assert reason(root, "7") == (
        "no motion: motions_processed/person2/7.npy is missing; '7(1).npy' may be it: rename it"
    )
    assert reason(root, "8(1)", split="") == (
        "'8(1)' looks like a second copy of '8': where files of '8' are missing, rename these, otherwise delete them"
    )


@pytest.mark.parametrize("encode", [lambda text: text.encode("utf-8-sig"), lambda text: text.encode("utf-16")])
def test_lists_may_lie_in_the_root_with_any_line_ends_and_marks(tmp_path, encode):
    root = tmp_path / "person1_data"
    for folder in ("motions_processed/person1", "motions_processed/person2", "annots"):
        (root / folder).mkdir(parents=True)
    for name in "ab":
        add(root, name, split=None)
    for split, names in (("train", "a\r\n"), ("val", "b\r\n"), ("test", "")):
        (root / f"{split}.txt").write_bytes(encode(names))
    reader = InterHumanReader(root)
    assert reader.sources() == [Source("a", "train"), Source("b", "val")]
    assert [len(reader.read(source)) for source in reader.sources()] == [1, 1]
    (root / "val.txt").unlink()
    with pytest.raises(UserError) as caught:
        reader.sources()
    assert str(caught.value) == f"{root / 'split/val.txt'}: there is no such file (allowed: it, or val.txt in the root)"


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'shape': (", "(" * 100, "'''", "{'descr': [('a', '<f4', (2,"])
def test_a_motion_whose_header_is_not_python_is_set_aside_by_name(root, header):
    add(root, "7")
    text = header.encode().ljust(117) + b"\n"
    (root / "motions_processed/person2/7.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(400)
    )
    assert reason(root, "7") == "motions_processed/person2/7.npy cannot be read: its header is not one of a .npy file"


def test_an_id_too_long_for_a_file_is_set_aside(root):
    add(root, "7")
    assert reason(root, "7" * 300) == f"id {'7' * 40!r}... has 300 letters; up to 200 are allowed"


@pytest.mark.parametrize("file", ["motions_processed/person1/7.npy", "annots/7.txt"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_set_aside_and_not_waited_for(root, file):
    add(root, "7")
    for put in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (root / file).unlink()
        put(root / file)
        assert reason(root, "7", follow_links=True) == f"{file} cannot be read: not a regular file"


@pytest.mark.parametrize("file", ["split/val.txt", "ignore_list.txt", "labels.jsonl"])
def test_a_list_that_is_a_pipe_is_refused(root, file):
    (root / file).unlink(missing_ok=True)
    os.mkfifo(root / file)
    with pytest.raises(UserError) as caught:
        InterHumanReader(root).sources()
    assert str(caught.value) == f"{root / file}: cannot be read: not a regular file"


@pytest.mark.parametrize("file", ["motions_processed/person2/7.npy", "annots/7.txt"])
def test_a_link_out_of_the_data_set_is_followed_only_if_asked_for(root, tmp_path_factory, file):
    add(root, "7")
    outside = tmp_path_factory.mktemp("outside") / "target"
    (root / file).rename(outside)
    (root / file).symlink_to(outside)
    assert reason(root, "7") == f"{file} leads outside the data set, where only --follow-links goes"
    (recording,) = InterHumanReader(root, follow_links=True).read(Source("7", "train"))
    assert recording.captions == ("They bow.",)
    # Not whether the link's end exists, which would say something about this machine.
    outside.unlink()
    assert reason(root, "7") == f"{file} leads outside the data set, where only --follow-links goes"


def test_links_within_the_data_set_and_to_its_root_are_followed(root, tmp_path_factory):
    add(root, "7")
    (root / "annots/7.txt").rename(root / "texts")
    (root / "annots/7.txt").symlink_to("../texts")
    link = tmp_path_factory.mktemp("links") / "root"
    link.symlink_to(root)
    reader = InterHumanReader(link)
    (recording,) = reader.read(*reader.sources())
    assert recording.captions == ("They bow.",)


@pytest.mark.parametrize("name", ["annots", "split/val.txt", "ignore_list.txt", "labels.jsonl"])
def test_a_list_or_folder_that_leads_out_of_the_data_set_is_refused(root, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "target"
    (root / "ignore_list.txt").touch()
    (root / "labels.jsonl").touch()
    (root / name).rename(outside)
    (root / name).symlink_to(outside)
    with pytest.raises(UserError) as caught:
        InterHumanReader(root).sources()
    assert str(caught.value) == (
        f"{root / name}: leads outside the data set (allowed: --follow-links, or files in its folder)"
    )
    assert InterHumanReader(root, follow_links=True).sources() == []


def test_files_of_any_length_with_nothing_in_them_take_no_memory(root):
    add(root, "7")
    file = root / "motions_processed/person1/7.npy"
    for frames, told in ((10**8, "196800000128 bytes; up to 425098240"), (108001, "108001 frames; up to 108000")):
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(frames, 492)).flush()
        assert reason(root, "7") == f"motions_processed/person1/7.npy has {told} are read"
    np.save(file, raw(seed=1))
    with (root / "annots/7.txt").open("r+") as captions:
        captions.truncate(10**11)
    assert reason(root, "7") == f"annots/7.txt cannot be read: {10**11} bytes are more than {2**28}"
