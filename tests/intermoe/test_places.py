"""Paths and URIs: what is written to a storage without renaming is whole or not taken for whole."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import s3fs
import torch
from toy_shards import write_shards

from intermoe import checkpoint, files, places
from intermoe.checkpoint import MANIFEST
from intermoe.data.card import CARD
from intermoe.data.shards import DatasetFolder
from intermoe.errors import UserError
from intermoe.files import (
    check_free,
    contents,
    discard,
    is_taken,
    local_copy,
    read_note,
    remove_folder,
    sha256,
    whole_file,
    whole_folder,
)
from intermoe.motion import Motion
from intermoe.places import StorageError, as_place, check_storage, exists, is_file, is_folder, on_disk, read_bytes

_NUMBERS = count()
UNKNOWN = ("ftpx://host/a", "s3:/b/x", "s3://", "file://host/a", "memory://a/b")


@pytest.fixture
def remote(bucket):
    """An empty folder in the storage."""
    return as_place(f"{bucket}/folder{next(_NUMBERS)}")


def save(folder, value, **options):
    tensors = {"weights": {"w": torch.full((3,), float(value))}}
    checkpoint.save(folder, tensors=tensors, documents={"config": {"value": value}}, **options)


def test_a_path_stays_a_path_and_a_uri_keeps_its_form(bucket):
    assert as_place("runs/duet") == Path("runs/duet")
    assert as_place("file:///data/a b") == Path("/data/a b")
    assert str(as_place(f"{bucket}/runs/") / "duet") == f"{bucket}/runs/duet"
    assert str(as_place(f"{bucket}//runs//duet/")) == f"{bucket}/runs/duet"
    place = as_place(f"{bucket}/runs")
    assert as_place(place) is place


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        *((uri, f"{uri}: not a place that is known (allowed: {places._ALLOWED})") for uri in UNKNOWN),
        ("s3://key:secret@bucket/a", "s3://...: a URI with credentials (allowed: credentials by environment)"),
        ("gs://bucket/a", "gs://bucket/a: gs:// needs gcsfs (allowed: pip install gcsfs)"),
    ],
)
def test_a_uri_that_cannot_be_used_is_one_line(uri, message):
    with pytest.raises(UserError) as caught:
        as_place(uri)
    assert str(caught.value) == message


def test_a_storage_that_refuses_is_one_line(bucket):
    with pytest.raises(UserError) as caught, whole_file(as_place("s3://no-such-bucket/a.json")) as file:
        file.write_text("{}")
    assert str(caught.value) == (
        "s3://no-such-bucket/a.json: the storage does not do it: The specified bucket does not exist"
    )
    check_storage(as_place(f"{bucket}/not/there"))


@pytest.mark.parametrize("ask", [check_storage, check_free, exists, is_file, is_folder, read_note, sha256, contents])
def test_a_bucket_that_does_not_exist_is_no_absence(bucket, ask):
    with pytest.raises(StorageError) as caught:
        ask(as_place("s3://no-such-bucket/a"))
    assert str(caught.value).endswith(": the storage does not do it: The specified bucket does not exist")


def test_a_checkpoint_in_a_storage_is_what_was_saved(remote):
    save(remote / "best", 1)
    loaded = checkpoint.load(remote / "best")
    assert loaded.documents == {"config": {"value": 1}}
    assert loaded.tensors["weights"]["w"].tolist() == [1, 1, 1]
    assert [path.name for path in contents(remote / "best")] == ["config.json", MANIFEST, "weights.safetensors"]
    with pytest.raises(UserError) as caught:
        save(remote / "best", 2)
    assert str(caught.value) == (
        f"{remote}/best: exists already and is not overwritten (allowed: a new or an empty folder)"
    )
    save(remote / "best", 2, replace=True)
    assert checkpoint.load(remote / "best").tensors["weights"]["w"].tolist() == [2, 2, 2]


def test_weights_are_fetched_once_by_their_checksum(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERMOE_CACHE", str(tmp_path))
    save(remote, 3)
    fetched, get_file = [], remote.fs.get_file

    def counted(path, *args, **options):
        fetched.append(Path(path).name)
        return get_file(path, *args, **options)

    monkeypatch.setattr(remote.fs, "get_file", counted)
    for _ in range(2):
        checkpoint.load(remote)
    assert sorted(fetched) == ["config.json", "weights.safetensors"]
    (copy,) = tmp_path.glob("*/weights.safetensors")
    assert copy.parent.name == sha256(copy)
    # A copy that was damaged is fetched again.
    copy.write_bytes(copy.read_bytes()[:-1])
    assert checkpoint.load(remote).tensors["weights"]["w"].tolist() == [3, 3, 3]
    assert copy.parent.name == sha256(copy)


def test_the_cache_keeps_what_was_used_last(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "_CACHE_BYTES", 250)
    sums = []
    for number in range(3):
        with whole_file(remote / f"{number}.bin") as file:
            file.write_bytes(bytes([number]) * 100)
            sums.append(sha256(file))
    for age, number in ((300, 0), (200, 1)):
        copy = local_copy(remote / f"{number}.bin", sums[number])
        assert copy is not None
        os.utime(copy, (copy.stat().st_mtime - age,) * 2)
    local_copy(remote / "0.bin", sums[0])  # used again
    local_copy(remote / "2.bin", sums[2])
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["0.bin", "2.bin"]


def test_a_file_that_is_not_what_its_manifest_says_is_refused(remote):
    save(remote, 4)
    (remote / "weights.safetensors").write_bytes((remote / "weights.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(UserError) as caught:
        checkpoint.load(remote)
    assert (
        str(caught.value)
        == f"{remote}: weights.safetensors does not match its checksum in manifest.json: the checkpoint is damaged"
    )


def test_what_was_not_sealed_is_not_whole_and_in_nobodys_way(remote):
    with pytest.raises(ZeroDivisionError), whole_folder(remote / "out", seal=CARD) as folder:
        (folder / "part").write_text(f"half {1 / 0}")
    assert contents(remote / "out") == []
    # What a kill leaves: files and the note that they are incomplete, no seal.
    (remote / "out" / ".incomplete").touch()
    (remote / "out" / "part").write_text("half")
    assert not is_taken(remote / "out")
    with pytest.raises(UserError, match=f"holds no {CARD}"):
        DatasetFolder.open(remote / "out")
    with whole_folder(remote / "out", seal=CARD) as folder:
        (folder / "other").write_text("whole")
        (folder / CARD).write_text("{}")
    assert [path.name for path in contents(remote / "out")] == [CARD, "other"]
    # The note alone, left by a kill after the seal, does not make it free.
    (remote / "out" / ".incomplete").write_text(CARD)
    assert is_taken(remote / "out")
    # Files of somebody else, without that note, are in the way.
    (remote / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        check_free(remote / "mine")


def test_a_removed_folder_loses_its_seal_first(remote, monkeypatch):
    save(remote, 5)
    removed = []
    monkeypatch.setattr(type(remote), "unlink", lambda self, **_: removed.append(self.name))
    monkeypatch.setattr(type(remote.fs), "rm", lambda _, paths: removed.extend(sorted(Path(p).name for p in paths)))
    remove_folder(remote, seal=MANIFEST)
    assert removed[0] == MANIFEST


def test_the_newest_whole_checkpoint_is_found_and_older_ones_go(remote):
    for step in (1, 2, 3):
        save(checkpoint.step_folder(remote, step), step)
    (checkpoint.step_folder(remote, 3) / MANIFEST).unlink()
    assert checkpoint.latest(remote) == checkpoint.step_folder(remote, 2)
    checkpoint.prune(remote, keep=1)
    assert [path.name for path in contents(remote)] == ["step-00000002"]
    discard(remote)
    assert checkpoint.latest(remote) is None


def test_shards_in_a_storage_are_read_by_rows_and_columns(remote, tmp_path, monkeypatch):
    write_shards(tmp_path / "shards", {"train": 12, "test": 2})
    write_shards(remote, {"train": 12, "test": 2})
    here, there = DatasetFolder.open(tmp_path / "shards"), DatasetFolder.open(remote)
    there.verify()
    asked = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(self, start, end):
        asked.append(end - start)
        return fetch(self, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    assert there.index("train").ids.tolist() == here.index("train").ids.tolist()
    size = (tmp_path / "shards/motions/train-00000.parquet").stat().st_size
    # Footer, ids and lengths; no motion.
    assert sum(asked) < 0.15 * size
    asked.clear()
    mine, theirs = here.recording("train", 7), there.recording("train", 7)
    np.testing.assert_array_equal(theirs.position_TPJ3, mine.position_TPJ3)
    np.testing.assert_array_equal(theirs.rotation_TPR6, mine.rotation_TPR6)
    row = mine.position_TPJ3.nbytes + mine.rotation_TPR6.nbytes
    assert row < sum(asked) < 1.1 * row + 10_000
    assert len(asked) <= 2


def test_one_changed_bit_of_a_row_in_a_storage_is_told_when_it_is_read(remote, tmp_path):
    write_shards(tmp_path, {"train": 2})
    remote.fs.put(str(tmp_path), remote.path, recursive=True)
    file = remote / "motions/train-00000.parquet"
    content = bytearray(read_bytes(file))
    # In the middle of the file, and so in the positions or rotations of its first or second row.
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    there = DatasetFolder.open(remote)
    with pytest.raises(UserError) as caught:
        _ = [there.recording("train", row) for row in range(2)]
    assert str(caught.value) == (
        f"{remote}: motions/train-00000.parquet cannot be read (could not verify page integrity, CRC checksum "
        "verification failed for page_ordinal 0): the data set is damaged"
    )


def test_a_card_that_is_written_anew_is_read_anew(remote, monkeypatch):
    write_shards(remote, {"train": 2})
    assert DatasetFolder.open(remote).card.recordings["train"] == 2
    write_shards(remote, {"train": 3})
    monkeypatch.setattr("intermoe.data.shards._REMOTE_SECONDS", 1e-9)
    assert DatasetFolder.open(remote).card.recordings["train"] == 3


def test_a_motion_is_saved_to_a_uri(remote):
    joints, rotations = (
        np.zeros((4, 2, 22, 3), np.float32),
        np.tile(np.array([1, 0, 0, 1, 0, 0], np.float32), (4, 2, 21, 1)),
    )
    joints[..., 0] = np.arange(22)
    from intermoe.body.skeletons import SMPL22

    motion = Motion(joints, rotations, 30, "They stand.", SMPL22)
    assert [file.name for file in motion.save(f"{remote}/stand.npz")] == ["stand.npz"]
    assert Motion.load(f"{remote}/stand.npz").caption == "They stand."
    with on_disk(remote) as folder:
        assert [path.name for path in folder.iterdir()] == ["stand.npz"]


@pytest.mark.slow
def test_a_client_that_is_killed_while_it_writes_leaves_nothing_that_is_taken_for_whole(remote):
    script = """
        import os, signal, sys, torch
        from intermoe import checkpoint
        from intermoe.places import as_place
        import s3fs
        kill_at = int(sys.argv[2])
        put, written = s3fs.S3FileSystem._put_file, []
        async def put_file(self, *args, **options):
            written.append(1)
            if len(written) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return await put(self, *args, **options)
        s3fs.S3FileSystem._put_file = put_file
        folder = as_place(sys.argv[1])
        tensors = {"weights": {"w": torch.ones(3)}, "more": {"w": torch.ones(2)}}
        checkpoint.save(checkpoint.step_folder(folder, 2), tensors=tensors, documents={"config": {}})
    """
    save(checkpoint.step_folder(remote, 1), 1)
    for kill_at in (1, 2, 3, 4):
        arguments = [sys.executable, "-c", textwrap.dedent(script), str(remote), str(kill_at)]
        killed = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert checkpoint.latest(remote) == checkpoint.step_folder(remote, 1)
    whole = subprocess.run([*arguments[:-1], "0"], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert checkpoint.latest(remote) == checkpoint.step_folder(remote, 2)
    files = json.loads((checkpoint.step_folder(remote, 2) / MANIFEST).read_text())["files"]
    assert sorted(files) == ["config.json", "more.safetensors", "weights.safetensors"]


def test_a_storage_that_does_not_answer_is_no_damage_and_no_absence(remote, monkeypatch):
    save(checkpoint.step_folder(remote, 1), 1)
    monkeypatch.setattr(remote.fs, "info", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("away")))
    for ask in (lambda: is_file(remote / "run.json"), lambda: checkpoint.latest(remote)):
        with pytest.raises(StorageError, match="the storage does not do it: away"):
            ask()
