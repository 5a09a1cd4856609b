"""Duet in the layout of Inter-X: what its files hold, and that the reader of Inter-X gets Duet's own motions back."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from intermoe.body.skeletons import SMPLX55
from intermoe.datasets.choreography.figure import Body
from intermoe.datasets.duet import BODY_MODEL, write_duet
from intermoe.datasets.duet.interx_layout import processed_rows
from intermoe.datasets.duet.kinds import pose_interaction
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.interx import InterXReader
from intermoe.datasets.plain_pickle import read_plain_pickle
from intermoe.datasets.recordings import Reader, Recording
from intermoe.datasets.smplx_body import average_joints, joints_of_model

# All kinds at least twice, in two parts.
COUNT, SEED = 40, 4
AT_REST = [1, 0, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "duet"
    write_duet(root, count=COUNT, seed=SEED, layout="interx")
    return root


@pytest.fixture(scope="module")
def read(root: Path) -> dict[str, Recording]:
    return read_all(InterXReader(root, body_model=root / BODY_MODEL))


def read_all(reader: Reader) -> dict[str, Recording]:
    found = [recording for source in reader.sources() for recording in reader.read(source)]
    return {recording.id: recording for recording in found}


def moved_as_in_inter_x(position):
    """Each person's lowest joint is at height 0, and the first person's model begins above the origin: its pelvis is
    0.3 cm to the left of that and 1.2 cm ahead."""
    moved = position.astype(float)
    moved[..., 1] -= moved[..., 1].min(axis=(0, 2))[:, None]
    moved[..., [0, 2]] += np.array([0.003, 0.012]) - moved[0, 0, 0, [0, 2]]
    return moved


def test_duets_own_motions_are_read_back(read):
    assert len(read) == COUNT
    for index in range(COUNT):
        own = pose_interaction(SEED, index, Body.average()).recording()
        recording = read[own.id]
        np.testing.assert_allclose(
            recording.position_TPJ3[:, :, :22], moved_as_in_inter_x(own.position_TPJ3), atol=1e-5
        )
        np.testing.assert_allclose(recording.rotation_TPR6[:, :, :21], own.rotation_TPR6, atol=1e-5)


def test_hands_are_those_of_the_body_and_at_rest(read):
    child, parent = np.arange(1, 55), np.array(SMPLX55.parents[1:])
    length = np.linalg.norm(SMPLX55.rest_offsets, axis=-1)[1:]
    for recording in read.values():
        rest = np.broadcast_to(AT_REST, recording.rotation_TPR6[:, :, 21:].shape)
        np.testing.assert_allclose(recording.rotation_TPR6[:, :, 21:], rest, atol=1e-6)
        bone = recording.position_TPJ3[:, :, child] - recording.position_TPJ3[:, :, parent]
        np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), np.broadcast_to(length, bone.shape[:3]), atol=1e-5)


def test_ids_splits_captions_and_who_acts_are_those_of_the_other_layout(read, tmp_path):
    write_duet(tmp_path / "duet", count=COUNT, seed=SEED)
    other = read_all(InterHumanReader(tmp_path / "duet"))
    assert {r.id: (r.split, r.captions, len(r.position_TPJ3)) for r in read.values()} == {
        r.id: (r.split, r.captions, len(r.position_TPJ3)) for r in other.values()
    }
    assert {r.id: r.label for r in read.values()} == {r.id: {"actor": r.label["actor"]} for r in other.values()}
    assert {r.label["actor"] for r in read.values()} == {0, 1}


def test_the_files_are_those_of_the_benchmark(root, read):
    assert sorted(path.name for path in root.iterdir()) == [
        "annots",
        "body_model.npz",
        "duet.json",
        "processed_data",
    ]
    order = read_plain_pickle(root / "annots/interaction_order.pkl")
    assert order == {recording.id: recording.label["actor"] for recording in read.values()}
    listed = {}
    for split in ("train", "val", "test"):
        with h5py.File(root / f"processed_data/motions/{split}.h5") as file:
            for name, rows in file.items():
                listed[name] = split
                assert rows.dtype == np.float32
                assert rows.shape == (len(read[name].position_TPJ3), 56, 6)
                assert not rows[0, 55, :3].any()  # the first person begins at the origin
                assert not rows[:, 22:55].any()  # jaw, eyes and hands
    assert listed == {recording.id: recording.split for recording in read.values()}
    lines = (root / "processed_data/texts_processed/000001_bow.txt").read_text().splitlines()
    assert [line.split("#")[0] for line in lines] == list(read["000001_bow"].captions)
    assert lines[0] == (
        "The second person receives a deep bow from the first person and replies with a slight one.#the/OTHER "
        "second/OTHER person/OTHER receives/OTHER a/OTHER deep/OTHER bow/OTHER from/OTHER the/OTHER first/OTHER "
        "person/OTHER and/OTHER replies/OTHER with/OTHER a/OTHER slight/OTHER one/OTHER#0.0#0.0"
    )


@pytest.mark.parametrize("person", [0, 1])
def test_a_persons_own_height_is_lost_and_the_others_stays(person):
    interaction = pose_interaction(0, 1, Body.average())
    lifted = interaction.root_TP3.copy()
    lifted[:, person, 1] += 0.3
    rows = processed_rows(interaction)
    np.testing.assert_allclose(processed_rows(replace(interaction, root_TP3=lifted)), rows, atol=1e-6)
    # Of a person who comes down from that height, the way remains.
    falling = interaction.root_TP3.copy()
    falling[0, person, 1] += 0.3
    fallen = processed_rows(replace(interaction, root_TP3=falling))
    heights = slice(3 * person + 1, 3 * person + 2)
    way = (fallen - rows)[:, 55, heights]
    assert way[0] - way[1:] == pytest.approx(np.full((len(rows) - 1, 1), 0.3), abs=1e-6)


def test_the_body_is_the_average_adult_in_the_form_of_smplx(root):
    joint_J3 = joints_of_model(root / BODY_MODEL)
    np.testing.assert_allclose(joint_J3, average_joints(), atol=1e-6)
    with np.load(root / BODY_MODEL, allow_pickle=False) as model:
        assert model["v_template"].shape == (330, 3)
        assert model["J_regressor"].shape == (55, 330)


def test_a_larger_data_set_begins_with_the_smaller_one(root, tmp_path):
    write_duet(tmp_path / "small", count=10, seed=SEED, layout="interx")
    for split in ("train", "val", "test"):
        name = f"processed_data/motions/{split}.h5"
        with h5py.File(tmp_path / "small" / name) as small, h5py.File(root / name) as large:
            assert list(small) == list(large)[: len(small)]
            for key in small:
                assert np.array_equal(small[key][()], large[key][()])
