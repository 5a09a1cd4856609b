import copy
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_shards import change_card, write_shards

from intermoe.data.card import DatasetCard, EncoderCard, shard_name, write_card
from intermoe.data.draws import UNDRAWN
from intermoe.data.rows import RecordingHeader
from intermoe.data.shards import CAPTION_SCHEMA, MOTION_SCHEMA, DatasetFolder, write_rows
from intermoe.errors import UserError
from intermoe.files import sha256, whole_folder

WIDTH, ROWS = 5, 3


def motion(number: int) -> dict:
    rng = np.random.default_rng(number)
    frames = 15 + number
    return {
        "id": f"r{number}",
        "frames": frames,
        "position": rng.normal(size=(frames, 2, 22, 3)).astype(np.float32),
        "rotation": rng.normal(size=(frames, 2, 21, 6)).astype(np.float32),
        "features": np.empty(0, np.float32),
        "captions": [number, 0],
        "mirrored": [0, number],
        "swapped": [1, number],
        "swapped_mirrored": [number, 1],
        "label": json.dumps({"kind": "bow", "actor": number % 2}),
    }


def caption(number: int) -> dict:
    state = np.random.default_rng([1, number]).normal(size=(2 + number, WIDTH)).astype(np.float32)
    return {
        "text": f"text {number}",
        "words": f"text/NOUN {number}/NUM",
        "tokens": 2 + number,
        "eot": 1 + number,
        "state": state,
    }


MOTIONS = {"train": [motion(number) for number in range(7)], "val": [motion(7)]}
CAPTIONS = [caption(number) for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {}
    for stem, schema, rows in (
        *((f"motions/{split}", MOTION_SCHEMA, rows) for split, rows in MOTIONS.items()),
        ("captions/", CAPTION_SCHEMA, CAPTIONS),
    ):
        for start in range(0, len(rows), ROWS):
            file = shard_name(stem, start // ROWS)
            write_rows(tmp_path / file, schema, rows[start : start + ROWS])
            files[file] = sha256(tmp_path / file)
    card = DatasetCard(
        name="toy",
        reader="None",
        skeleton="smpl22",
        encoder=EncoderCard(name="minilm", width=WIDTH, sha256="0" * 64),
        recordings={"train": 7, "val": 1},
        frames=148,
        captions=8,
        max_tokens=9,
        quarantined=0,
        rows_per_file=ROWS,
        mean=(0.0,) * 262,
        std=(1.0,) * 262,
        files=files,
    )
    write_card(tmp_path, card)
    return tmp_path


def test_every_row_comes_back_as_it_was_written(folder):
    data = DatasetFolder.open(folder)
    for split, rows in MOTIONS.items():
        for number in (*range(len(rows)), 0):
            row, expected = data.recording(split, number), rows[number]
            np.testing.assert_array_equal(row.position_TPJ3, expected["position"])
            np.testing.assert_array_equal(row.rotation_TPR6, expected["rotation"])
            assert row.position_TPJ3.dtype == np.float32
            assert row.id == expected["id"]
            for form in ("captions", "mirrored", "swapped", "swapped_mirrored"):
                assert getattr(row, form) == tuple(expected[form])
            assert json.dumps(row.label) == expected["label"]
    for number, expected in enumerate(CAPTIONS):
        caption = data.caption(number)
        np.testing.assert_array_equal(caption.state_KW, expected["state"])
        assert (caption.text, caption.eot) == (expected["text"], expected["eot"])


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_caption_is_read_alike_and_swapped_and_mirrored_with_its_motion(folder, swap, mirror):
    forms: dict[str, Any] = {
        "captions": (5, 9, 2),
        "mirrored": (6, 9, 3),
        "swapped": (1, 4, 7),
        "swapped_mirrored": (8, 0, 10),
    }
    row = replace(DatasetFolder.open(folder).recording("train", 0), **forms)
    form = forms[
        f"{'swapped' if swap else ''}{'_' if swap and mirror else ''}{'mirrored' if mirror else ''}" or "captions"
    ]
    drawn = replace(UNDRAWN, swap=swap, mirror=mirror)
    read = [row.caption(replace(drawn, caption=place)) for place in np.linspace(0, 1, 300, endpoint=False)]
    assert [read.count(caption) for caption in form] == [100, 100, 100]
    assert row.caption(replace(drawn, caption=float(np.nextafter(1, 0)))) == form[2]


def test_a_header_is_the_recording_without_its_motion(folder):
    data = DatasetFolder.open(folder)
    for split, rows in MOTIONS.items():
        headers = data.headers(split)
        assert len(headers) == len(rows)
        for number, header in enumerate(headers):
            recording = vars(data.recording(split, number))
            assert vars(header) == {name: recording[name] for name in vars(header)}
            assert set(recording) - set(vars(header)) == {"position_TPJ3", "rotation_TPR6", "features_TPF"}
    assert data.headers("test") == []
    with pytest.raises(UserError, match=r"unknown split 'dev' \(allowed: train, val, test"):
        data.headers("dev")


def test_each_form_of_a_caption_has_one_with_the_persons_exchanged():
    header = RecordingHeader("r", captions=(5, 9), mirrored=(6, 9), swapped=(1, 4), swapped_mirrored=(8, 4), label={})
    assert [header.exchanged(caption) for caption in (5, 9, 6, 1, 4, 8)] == [1, 4, 8, 5, 9, 6]
    with pytest.raises(ValueError, match="caption 2 is none of recording r"):
        header.exchanged(2)


def test_the_texts_are_those_of_the_captions_in_their_order(folder):
    data = DatasetFolder.open(folder)
    assert data.texts() == [data.caption(row).text for row in range(data.card.captions)]
    assert data.words() == [data.caption(row).words for row in range(data.card.captions)] != [""] * data.card.captions


def test_the_index_lists_ids_and_lengths_in_the_order_of_rows(folder):
    data = DatasetFolder.open(str(folder))
    index = data.index("train")
    assert index.ids.tolist() == [f"r{number}" for number in range(7)]
    assert index.frames.tolist() == list(range(15, 22))
    assert [data.recording("train", row).id for row in range(7)] == index.ids.tolist()
    assert len(data.index("test").ids) == len(data.index("test").frames) == 0


def test_a_row_is_a_row_group_and_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / name, MOTION_SCHEMA, MOTIONS["train"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    metadata = pq.read_metadata(tmp_path / "a")
    assert metadata.num_row_groups == metadata.num_rows == 7
    column = metadata.row_group(3).column(2)
    assert column.compression == "UNCOMPRESSED"
    assert "PLAIN" in column.encodings
    assert not column.has_dictionary_page
    assert pq.read_table(tmp_path / "a").schema.equals(MOTION_SCHEMA)


def test_an_opened_folder_is_shared_and_travels_by_its_path(folder):
    data = DatasetFolder.open(folder)
    assert DatasetFolder.open(str(folder)) is data
    assert copy.copy(data).card == data.card
    change_card(folder, name="another name")
    assert DatasetFolder.open(folder).card.name == "another name"


def test_rows_that_do_not_exist_are_refused(folder):
    data = DatasetFolder.open(folder)
    for call in (
        lambda: data.recording("train", 7),
        lambda: data.recording("train", -1),
        lambda: data.recording("test", 0),
        lambda: data.caption(8),
        lambda: data.caption(-1),
    ):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(UserError, match=r"'training' \(allowed: train, val, test\)"):
        data.index("training")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, r"version = 2 \(allowed: 4\)"),
        ({"skeleton": "smpl55"}, "smpl55"),
        ({"mean": [0.0]}, "as many numbers as smpl22 has features"),
        ({"files": {"../secret": "0" * 64}}, "which no data set holds"),
        ({"files": {"motions/train-00000.parquet": "0" * 64}}, "files lists no motions/train-00001.parquet"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_card_that_is_not_right_is_refused_in_one_line(folder, values, message):
    change_card(folder, **values)
    with pytest.raises(UserError, match=message) as caught:
        DatasetFolder.open(folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_told(folder):
    (folder / "motions/train-00001.parquet").unlink()
    with pytest.raises(UserError) as caught:
        DatasetFolder.open(folder)
    assert str(caught.value) == f"{folder}: motions/train-00001.parquet is missing: the data set is damaged"


def test_a_card_with_one_other_number_is_refused(folder):
    card = folder / "dataset.json"
    text = card.read_text()
    card.write_text(text.replace('"max_tokens": ', '"max_tokens": 1'))
    assert card.read_text() != text
    with pytest.raises(UserError) as caught:
        DatasetFolder.open(folder)
    assert str(caught.value) == f"{card}: does not match its own checksum: the data set is damaged"


def test_what_is_no_data_set_is_told(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        DatasetFolder.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no dataset\.json"):
        DatasetFolder.open(tmp_path)
    for text in ("{", "[]", "[" * 100_000, "\udcff"):
        (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError):
            DatasetFolder.open(tmp_path)


def test_verify_finds_one_changed_bit(folder):
    DatasetFolder.open(folder).verify()
    file = folder / "motions/train-00001.parquet"
    bytes_ = bytearray(file.read_bytes())
    bytes_[1000] ^= 1
    file.write_bytes(bytes_)
    with pytest.raises(UserError, match=r"train-00001\.parquet does not match its checksum"):
        DatasetFolder.open(folder).verify()
    assert (
        sha256(folder / "captions/00000.parquet")
        == hashlib.sha256((folder / "captions/00000.parquet").read_bytes()).hexdigest()
    )


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_file_is_told_when_it_is_read_and_the_others_are_read(folder, damage):
    file = folder / "motions/train-00000.parquet"
    file.write_bytes(damage(file.read_bytes()))
    data = DatasetFolder.open(folder)
    for read in (lambda: data.recording("train", 0), lambda: data.index("train"), lambda: data.headers("train")):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value) == (
            f"{folder}: motions/train-00000.parquet does not match its checksum in dataset.json: the data set is "
            "damaged"
        )
    assert data.recording("train", 3).id == "r3"


@pytest.mark.parametrize("change", [{"label": "{"}, {"frames": 9}, {"position": np.zeros(4, np.float32)}])
def test_values_that_no_data_set_holds_are_told_with_their_file(folder, change):
    name = "motions/train-00001.parquet"
    rows = [motion(number) | change for number in (3, 4, 5)]
    checksum = write_rows(folder / name, MOTION_SCHEMA, rows)
    change_card(folder, files=DatasetFolder.open(folder).card.files | {name: checksum})
    data = DatasetFolder.open(folder)
    with pytest.raises(UserError) as caught:
        data.recording("train", 3)
    assert re.fullmatch(rf"{folder}: {name} cannot be read \(.+\): the data set is damaged", str(caught.value))
    assert data.recording("train", 0).id == "r0"


@pytest.mark.parametrize("wrong", ["columns", "rows", "types"])
def test_a_table_that_no_data_set_holds_is_told_with_its_file(folder, wrong):
    file = folder / "motions/train-00000.parquet"
    table = pq.read_table(file)
    table = {
        "columns": table.drop_columns(["frames", "label"]),
        "rows": table.slice(0, 0),
        "types": table.set_column(0, "id", pa.array([[1]] * len(table))),
    }[wrong]
    pq.write_table(table, file)
    name = "motions/train-00000.parquet"
    change_card(folder, files=DatasetFolder.open(folder).card.files | {name: sha256(file)})
    data = DatasetFolder.open(folder)
    reads: list[Any] = [lambda: data.recording("train", 0)]
    reads += [] if wrong == "rows" else [lambda: data.index("train"), lambda: data.headers("train")]
    for read in reads:
        with pytest.raises(UserError) as caught:
            read()
        assert re.fullmatch(rf"{folder}: {name} cannot be read \(.+\): the data set is damaged", str(caught.value))


def test_a_file_is_read_for_its_checksum_once_and_again_when_it_has_changed(folder, monkeypatch):
    read = []

    def counted(file):
        read.append(file.name)
        return sha256(file)

    monkeypatch.setattr("intermoe.data.shards.sha256", counted)
    file = folder / "motions/train-00000.parquet"
    for _ in range(3):
        DatasetFolder(folder, DatasetFolder.open(folder).card).recording("train", 0)
    assert read == ["train-00000.parquet"]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(flipped(content))
    with pytest.raises(UserError, match="does not match its checksum"):
        DatasetFolder(folder, DatasetFolder.open(folder).card).recording("train", 0)


def break_off(out: Path, error: type[BaseException]) -> None:
    with whole_folder(out, seal="card") as folder:
        (folder / "file").write_text("text")
        raise error


def test_a_published_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "data"
    with whole_folder(out, seal="card") as folder:
        (folder / "file").write_text("text")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["data"]
    assert (out / "file").read_text() == "text"

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            break_off(tmp_path / "other", error)
    with pytest.raises(UserError, match="exists already and is not overwritten"), whole_folder(out, seal="card"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.slow
def test_threads_may_read_at_once(tmp_path):
    """Two threads at one open Parquet file corrupt the memory of their process."""
    write_shards(tmp_path, {"train": 8})
    lines = (
        "import sys; from concurrent.futures import ThreadPoolExecutor\n"
        "from intermoe.data.shards import DatasetFolder\n"
        "folder = DatasetFolder.open(sys.argv[1])\n"
        "def read(number):\n"
        "    caption = folder._caption(number % folder.card.captions)\n"
        "    return caption.text, folder.recording('train', number % 8).id\n"
        "with ThreadPoolExecutor(4) as threads: several = list(threads.map(read, range(4000)))\n"
        "assert several == list(map(read, range(4000)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", lines, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
