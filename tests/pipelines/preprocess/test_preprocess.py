"""Legend: T frames, P = 2 persons, J joints, R = J - 1."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import bodies
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from intermoe.body.skeletons import SMPL22
from intermoe.data.card import EncoderCard
from intermoe.data.feature_moments import Moments
from intermoe.data.rows import RecordedMotion
from intermoe.data.shards import DatasetFolder
from intermoe.datasets.bad_recording import BadRecording
from intermoe.datasets.duet import write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.recordings import Recording, Source
from intermoe.errors import UserError
from intermoe.text.captions import mirror_caption, swap_caption
from intermoe.text.encoders import load_encoder
from pipelines.preprocess import preprocess as module
from pipelines.preprocess.preprocess import make_shards, preprocess
from pipelines.preprocess.request import PreprocessRequest
from pipelines.preprocess.sources import SourceConfig
from pipelines.site import Site

pytestmark = pytest.mark.usefixtures("ray_session")
# Ray's workers do not import test modules: what they need of this one travels with the task.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

BROKEN = {"d_empty_caption": "caption", "d_nan": "not finite", "d_short": "fewer than 15", "d_truncated": ""}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good recordings of Duet, four broken ones."""
    root = tmp_path_factory.mktemp("raw") / "duet"
    write_duet(root, count=20, seed=0)
    good = (root / "split/train.txt").read_text().split()[0]
    for broken in BROKEN:
        for person in (1, 2):
            motion = np.load(root / f"motions_processed/person{person}/{good}.npy")
            file = root / f"motions_processed/person{person}/{broken}.npy"
            if broken == "d_nan":
                motion[5, 7] = np.nan
            np.save(file, motion[:10] if broken == "d_short" else motion)
            if broken == "d_truncated":
                file.write_bytes(file.read_bytes()[:-100])
        (root / f"annots/{broken}.txt").write_text("" if broken == "d_empty_caption" else "They bow.\n")
        with (root / "split/train.txt").open("a") as split:
            split.write(f"{broken}\n")
    return root


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def made(ray_session: None, raw: Path, told: list, tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    out = tmp_path_factory.mktemp("made") / "duet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_PER_FILE", 6)
        patch.setattr(module, "_SOURCES_PER_TASK", 5)
        make_shards(
            InterHumanReader(raw), name="duet", out=out, encoder="minilm", progress=lambda *state: told.append(state)
        )
    return DatasetFolder.open(out)


@pytest.fixture(scope="module")
def expected(raw: Path) -> dict[str, Recording]:
    reader = InterHumanReader(raw)
    good = [source for source in reader.sources() if source.id not in BROKEN]
    return {source.id: reader.read(source)[0] for source in good}


def test_every_usable_recording_is_there_once_in_its_split_and_sorted(made, expected):
    for split in ("train", "val", "test"):
        ids = sorted(name for name, recording in expected.items() if recording.split == split)
        index = made.index(split)
        assert index.ids.tolist() == ids
        assert made.card.recordings[split] == len(ids)
        assert index.frames.tolist() == [len(expected[name].position_TPJ3) for name in ids]
        for row, name in enumerate(ids):
            stored = made.recording(split, row)
            np.testing.assert_array_equal(stored.position_TPJ3, expected[name].position_TPJ3)
            np.testing.assert_array_equal(stored.rotation_TPR6, expected[name].rotation_TPR6)
            assert tuple(made.caption(text).text for text in stored.captions) == expected[name].captions
            forms = {
                "mirrored": mirror_caption,
                "swapped": swap_caption,
                "swapped_mirrored": lambda text: mirror_caption(swap_caption(text)),
            }
            for form, change in forms.items():
                texts = tuple(made.caption(text).text for text in getattr(stored, form))
                assert texts == tuple(map(change, expected[name].captions))
            assert stored.label == expected[name].label
    assert made.card.frames == sum(len(recording.position_TPJ3) for recording in expected.values())


def test_captions_are_distinct_sorted_and_hold_the_states_of_the_encoder(made, expected):
    texts = {text for recording in expected.values() for text in recording.captions}
    texts |= {mirror_caption(text) for text in texts}
    texts |= {swap_caption(text) for text in texts}
    rows = [made.caption(number) for number in range(made.card.captions)]
    assert [row.text for row in rows] == sorted(texts)
    encoder = load_encoder("minilm")
    for row in rows[::7]:
        alone = encoder.encode([row.text])
        np.testing.assert_allclose(row.state_KW, alone.states_BKW[0].numpy(), atol=1e-5, rtol=0)
        assert row.eot == alone.eot_B[0] == len(row.state_KW) - 1
    assert made.card.max_tokens == max(len(row.state_KW) for row in rows)
    assert (made.card.encoder.width, made.card.encoder.sha256) == (384, encoder.sha256)


def test_the_card_holds_the_moments_of_the_training_split(made, expected):
    train = sorted((r for r in expected.values() if r.split == "train"), key=lambda r: r.id)
    total = Moments.total(
        Moments.of(RecordedMotion(position_TPJ3=r.position_TPJ3, rotation_TPR6=r.rotation_TPR6), SMPL22) for r in train
    )
    mean, std = total.mean_and_std()
    np.testing.assert_allclose(made.card.mean, mean, atol=1e-9)
    np.testing.assert_allclose(made.card.std, std, atol=1e-7)
    assert len(train) > 12  # more than two shards of six


def test_broken_recordings_are_set_aside_with_their_reason(made):
    lines = [json.loads(line) for line in (made.path / "quarantine.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted(BROKEN)
    for line in lines:
        assert set(line) == {"id", "reason"}
        assert BROKEN[line["id"]] in line["reason"]
        assert line["reason"]
    assert made.card.quarantined == 4


def test_the_folder_is_whole_and_alone(made):
    made.verify()
    assert [path.name for path in made.path.parent.iterdir()] == ["duet"]
    files = {str(path.relative_to(made.path)) for path in made.path.rglob("*") if path.is_file()}
    assert files == {*made.card.files, "dataset.json"}
    for file in files:
        if file.endswith(".parquet"):
            metadata = pq.read_metadata(made.path / file)
            assert metadata.num_rows == metadata.num_row_groups <= 6


def test_progress_goes_from_nothing_to_all_in_each_stage(told, made):
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["read", "encode", "write"]
    for stage, total in (("read", 24), ("encode", made.card.captions), ("write", 20)):
        done = [state[1] for state in told if state[0] == stage]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)
        assert {state[2] for state in told if state[0] == stage} == {total}


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_however_the_work_is_divided(made, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_FILE", 6)
    monkeypatch.setattr(module, "_SOURCES_PER_TASK", 2)
    (tmp_path / "again").mkdir()  # an empty folder may be filled
    make_shards(InterHumanReader(raw), name="duet", out=tmp_path / "again", encoder="minilm")
    for file in (*made.card.files, "dataset.json"):
        assert (tmp_path / "again" / file).read_bytes() == (made.path / file).read_bytes(), file


class FakeReader:
    """Recordings of many kinds of trouble, by their id."""

    skeleton = SMPL22
    names_persons = True

    def __init__(self, ids: list[str], split: str = "train") -> None:
        self.ids, self.split = ids, split

    def sources(self) -> list[Source]:
        return [Source(name, self.split) for name in self.ids]

    def read(self, source: Source) -> list[Recording]:
        if source.id == "bad":
            raise BadRecording("holds\n nothing")
        if source.id.startswith("file"):
            raise BadRecording(f"{len(source.id)} numbers instead of '132'", where=f"{source.id}, line 3")
        if source.id == "bug":
            raise ZeroDivisionError("by zero")
        if source.id == "vast":
            np.empty(1 << 60, np.uint8)
        if source.id == "wide":
            torch.empty(1 << 60, dtype=torch.uint8)
        if source.id == "long":
            raise BadRecording("'" + "\x1bx" * 1000 + "' is no number")
        if source.id == "none":
            return []
        names = {"cut": ["cut_0", "cut_1"], "twin": ["solo"], "half": ["../half", "half_1"]}.get(source.id, [source.id])
        return [self.recording(name) for name in names]

    def recording(self, id: str) -> Recording:
        position, rotation = bodies.standing_bodies(20, seed=len(id))
        captions = ("They bow.", "\udcff") if id == "surrogate" else ("They bow.", "The left one waves.")
        label: dict[str, Any] = {"kind": {1}} if id == "unwritable" else {}
        split = "dev" if id == "dev" else self.split
        notes = ("the header lies",) if id == "cut_1" else ()
        return Recording(id, split, position, rotation, captions, label, notes)


TROUBLE = [
    "solo",
    "bad",
    "file_0",
    "bug",
    "vast",
    "wide",
    "long",
    "none",
    "cut",
    "twin",
    "half",
    "surrogate",
    "unwritable",
    "dev",
]


def test_no_trouble_of_one_recording_stops_the_others(tmp_path):
    card = make_shards(FakeReader(TROUBLE), name="toy", out=tmp_path / "toy", encoder="minilm")
    data = DatasetFolder.open(tmp_path / "toy")
    assert data.index("train").ids.tolist() == ["cut_0", "cut_1", "half_1", "solo"]
    lines = [json.loads(line) for line in (tmp_path / "toy/quarantine.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert reasons.pop("bad") == "holds nothing"
    assert reasons.pop("file_0") == "file_0, line 3: 6 numbers instead of '132'"
    assert reasons.pop("bug") == "ZeroDivisionError: by zero"
    vast = "'vast' needs more memory than there is (Unable to allocate 1.00 EiB for an array with shape "
    assert reasons.pop("vast") == f"{vast}({1 << 60},) and data type uint8)"
    assert reasons.pop("wide").startswith("'wide' needs more memory than there is (")
    assert reasons.pop("long") == "'" + "\ufffdx" * 98 + "\ufffd...x" + "\ufffdx" * 42 + "' is no number"
    assert reasons.pop("none") == "holds no recording"
    assert reasons.pop("solo") == "an earlier recording has the same id"
    assert reasons.pop("../half").startswith("id '../half' may hold only letters")
    assert reasons.pop("surrogate").startswith("UnicodeEncodeError")
    assert reasons.pop("unwritable").startswith("TypeError")
    assert reasons.pop("dev") == "split 'dev' is not one of train, val, test"
    assert not reasons
    assert card.quarantined == 12
    assert (tmp_path / "toy/notes.jsonl").read_text() == '{"id": "cut_1", "note": "the header lies"}\n'
    assert card.noted == 1
    assert [data.caption(row).text for row in range(3)] == ["The left one waves.", "The right one waves.", "They bow."]
    assert data.recording("train", 0).captions == (2, 0)
    assert data.recording("train", 0).mirrored == (2, 1)
    assert data.recording("train", 0).swapped == (2, 0)
    assert data.recording("train", 0).swapped_mirrored == (2, 1)
    assert data.recording("train", 0).rotation_TPR6.dtype == np.float32


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (
            FakeReader(["bad", "bug", "bug"]),
            (
                "no recording can be used, 3 set aside; 2 x ZeroDivisionError: by zero (as in bug);"
                " 1 x holds nothing (as in bad)"
            ),
        ),
        (
            FakeReader(["solo"], split="val"),
            (
                "no recording of the training split can be used: 1 of other splits, 0 set aside"
                " (allowed: --statistics-of DATASET, for recordings that are only tested on)"
            ),
        ),
        (FakeReader([]), "no recording can be used, 0 set aside"),
        (
            FakeReader(["file.bvh", "bad", "file_two.bvh"]),
            (
                "no recording can be used, 3 set aside; 2 x 8 numbers instead of '132' (as in file.bvh);"
                " 1 x holds nothing (as in bad)"
            ),
        ),
    ],
)
def test_shards_without_a_usable_recording_are_refused_and_leave_nothing(tmp_path, reader, message):
    with pytest.raises(UserError) as caught:
        make_shards(reader, name="toy", out=tmp_path / "toy", encoder="minilm")
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_recordings_without_a_training_split_take_over_the_statistics_of_a_data_set(tmp_path, made):
    card = make_shards(
        FakeReader(["solo"], split="test"), name="toy", out=tmp_path / "toy", encoder="minilm", statistics_of=made.card
    )
    assert card.recordings == {"train": 0, "val": 0, "test": 1}
    assert (card.mean, card.std) == (made.card.mean, made.card.std)


def test_statistics_of_another_skeleton_are_refused(tmp_path, made):
    other = made.card.model_copy(update={"skeleton": "smplx55"})
    with pytest.raises(UserError) as caught:
        make_shards(FakeReader(["solo"]), name="toy", out=tmp_path / "toy", encoder="minilm", statistics_of=other)
    assert str(caught.value) == (
        "statistics of 'duet' are of the skeleton 'smplx55' (allowed: of 'smpl22', as the recordings)"
    )


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(stage: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    reader = FakeReader([f"r{number}" for number in range(40)])
    with pytest.raises(KeyboardInterrupt):
        make_shards(reader, name="toy", out=tmp_path / "toy", encoder="minilm", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_duet_is_made_in_tasks_with_the_bytes_of_one_process(tmp_path):
    """With progress; where that is interrupted, nothing is left."""
    write_duet(tmp_path / "expected", count=40, seed=3)
    source = SourceConfig(format="duet", root=tmp_path / "raw", count=40, seed=3)
    request = PreprocessRequest("duet", source, "minilm", tmp_path / "shards", Site.here())
    told: list[tuple[str, int, int]] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "make" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess(request, interrupt)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".shards.lock"] == ["expected"]
    assert told[0] == ("make", 0, 40)
    assert told[1] in {("make", 32, 40), ("make", 8, 40)}
    told.clear()
    card = preprocess(request, lambda *state: told.append(state))
    assert sum(card.recordings.values()) == 40
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["make", "read", "encode", "write"]
    files = {path.relative_to(tmp_path / "raw") for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "expected") for path in (tmp_path / "expected").rglob("*.*")}
    assert all((tmp_path / "raw" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes() for file in files)


@pytest.mark.parametrize(("there", "num_gpus"), [({}, 0), ({"CPU": 2.0}, 0), ({"GPU": 2.0}, 2)])
def test_captions_go_to_the_gpus_of_a_cluster(monkeypatch, tmp_path, there, num_gpus):
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(module, "_stream", lambda stage, *rest, num_gpus: asked.append((stage, num_gpus)))
    module._encode({"They bow.": ""}, EncoderCard(name="minilm", width=384, sha256="0" * 64), None, tmp_path, print)
    assert asked == [("encode", num_gpus)]


def test_wrong_places_and_names_are_told_before_any_work(tmp_path, raw):
    (tmp_path / "file").write_text("mine")
    run = partial(make_shards, InterHumanReader(raw), name="duet")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists already and is not overwritten"):
            run(out=out, encoder="minilm")
    with pytest.raises(UserError, match="no weights of CLIP"):
        run(out=tmp_path / "new", encoder="clip", text_folder=tmp_path)
    with pytest.raises(UserError, match="unknown text encoder"):
        run(out=tmp_path / "new", encoder="bert")
    with pytest.raises(UserError, match="cannot be written"):
        run(out=tmp_path / "file" / "new", encoder="minilm")
    with pytest.raises(UserError):
        make_shards(InterHumanReader(tmp_path / "absent"), name="duet", out=tmp_path / "new", encoder="minilm")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def gone(job: dict) -> dict:
    raise UserError("the weights are gone", where="node 2")


def full(job: dict) -> dict:
    raise OSError(28, "No space left on device", "/data/part")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (gone, "node 2: the weights are gone"),
        (full, "/data/part: cannot be read or written: No space left on device"),
    ],
)
def test_what_stops_a_task_is_told_in_one_line(task, message, capfd):
    with pytest.raises(UserError) as caught:
        module._stream("read", task, [{}], lambda job: 1, lambda *state: None)
    assert str(caught.value) == message
    assert capfd.readouterr() == ("", "")
