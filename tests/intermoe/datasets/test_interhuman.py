import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.recordings import Reader, Source
from intermoe.errors import UserError


def raw(frames=20, seed=0, width=492):
    return np.random.default_rng(seed).normal(size=(frames, width)).astype(np.float32)


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


def reason(root, id, split="train"):
    with pytest.raises(BadRecording) as caught:
        InterHumanReader(root).read(Source(id, split))
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
        ({"two": raw(frames=19)}, "person1 has 20 frames, person2 19"),
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
