"""Solo: what it promises of its motions, its captions, and the folder it writes. Legend: T frames, J joints."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from humanml3d_files import joints

from intermoe.body.skeletons import HUMANML22
from intermoe.datasets.humanml3d import HumanML3DReader
from intermoe.datasets.solo import KINDS, SoloMotion, check_solo, make_motion, write
from intermoe.datasets.solo.captions import TEMPLATES, fill, tagged
from intermoe.datasets.solo.write import write_solo
from intermoe.errors import UserError
from intermoe.text.captions import mirror_caption

SIDES = ("left", "right")
JOINT = {name: number for number, name in enumerate(HUMANML22.joint_names)}
HIPS, SHOULDERS, WRISTS, ANKLES, TOES = (
    [JOINT[f"{side}_{part}"] for side in SIDES] for part in ("hip", "shoulder", "wrist", "ankle", "foot")
)
COUNTS = {"once": 1, "twice": 2, "three times": 3}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[SoloMotion, SoloMotion]]:
    return [make_motion(3, index) for index in range(10 * len(KINDS))]


@pytest.fixture(scope="module")
def motions(pairs: list[tuple[SoloMotion, SoloMotion]]) -> list[SoloMotion]:
    return [motion for pair in pairs for motion in pair]


def of_kind(motions: list[SoloMotion], *kinds: str) -> list[tuple[SoloMotion, np.ndarray]]:
    chosen = [(motion, motion.position_TJ3.numpy()) for motion in motions if motion.label["kind"] in kinds]
    assert chosen
    return chosen


def yaw(position: np.ndarray) -> np.ndarray:
    """Where the hips face [T], from +z to the left, without jumps."""
    x, _, z = (position[:, HIPS[0]] - position[:, HIPS[1]]).T
    return np.unwrap(np.arctan2(-z, x))


def way(position: np.ndarray) -> tuple[float, float]:
    """Metres that somebody gets to the left and ahead, as the body faces at first."""
    (x, _, z), angle = position[-1, 0] - position[0, 0], yaw(position)[0]
    return x * np.cos(angle) - z * np.sin(angle), x * np.sin(angle) + z * np.cos(angle)


def peaks(value: np.ndarray, above: float) -> int:
    """How often a curve rises above a value."""
    return int((np.diff((value > above).astype(int)) == 1).sum())


def test_every_kind_is_there_on_either_side(motions: list[SoloMotion]) -> None:
    assert len(KINDS) >= 8
    assert set(KINDS) == set(TEMPLATES)
    found = {(motion.label["kind"], motion.label["side"]) for motion in motions}
    sided = {kind for kind, side in found if side != "none"}
    assert sided == {"curve", "circle", "turn", "side_step", "wave", "raise", "punch", "kick"}
    assert set(itertools.product(sided, SIDES)) <= found
    assert ("raise", "both") in found


def test_of_ten_motions_of_a_kind_one_is_for_validation_and_one_for_testing(
    pairs: list[tuple[SoloMotion, SoloMotion]],
) -> None:
    shares = Counter((motion.label["kind"], motion.split) for motion, _ in pairs)
    assert {(shares[kind, "train"], shares[kind, "val"], shares[kind, "test"]) for kind in KINDS} == {(8, 1, 1)}
    assert all(motion.split == mirrored.split for motion, mirrored in pairs)
    assert {motion.split for motion, _ in pairs[:8]} == {"train", "val", "test"}


def test_a_motion_depends_on_seed_and_number_alone() -> None:
    once, again, other = make_motion(5, 9)[0], make_motion(5, 9)[0], make_motion(6, 9)[0]
    assert np.array_equal(once.position_TJ3, again.position_TJ3)
    assert (once.captions, once.label) == (again.captions, again.label)
    assert once.position_TJ3.shape != other.position_TJ3.shape or not np.allclose(once.position_TJ3, other.position_TJ3)


def test_a_mirror_image_is_one(pairs: list[tuple[SoloMotion, SoloMotion]]) -> None:
    for motion, mirrored in pairs:
        assert (mirrored.id, len(motion.id)) == (f"M{motion.id}", 6)
        swapped = motion.position_TJ3.numpy()[:, list(HUMANML22.mirrored)] * [-1, 1, 1]
        np.testing.assert_allclose(mirrored.position_TJ3, swapped, atol=1e-12)
        assert mirrored.captions == tuple(map(mirror_caption, motion.captions))
        side = str(motion.label["side"])
        assert mirrored.label["side"] == {"left": "right", "right": "left"}.get(side, side)


def test_everybody_has_the_bones_of_the_average_body(motions: list[SoloMotion]) -> None:
    child, parent = np.arange(1, 22), np.array(HUMANML22.parents[1:])
    expected = np.linalg.norm(HUMANML22.rest_offsets, axis=-1)[1:]
    for motion in motions:
        position = motion.position_TJ3.numpy()
        length = np.linalg.norm(position[:, child] - position[:, parent], axis=-1)
        np.testing.assert_allclose(length, np.broadcast_to(expected, length.shape), atol=1e-9)


def test_feet_stand_on_the_floor_and_do_not_skate(motions: list[SoloMotion]) -> None:
    for motion in motions:
        toe = motion.position_TJ3.numpy()[:, TOES]
        assert motion.position_TJ3[..., 1].min() == pytest.approx(0.02, abs=2e-3)
        assert toe[..., 1].min(-1).max() < 0.025
        down = toe[..., 1] < 0.025
        moved = np.linalg.norm(np.diff(toe[..., [0, 2]], axis=0), axis=-1) * (down[1:] & down[:-1])
        assert moved.max() < 0.015
        assert motion.features()[:, 259:].any(axis=1).mean() > 0.9  # somebody stands, as the features see it


def test_everyone_begins_and_ends_at_ease(motions: list[SoloMotion]) -> None:
    for motion in motions:
        position = motion.position_TJ3.numpy()
        for frame in (0, -1):
            assert (position[frame, SHOULDERS, 1] - position[frame, WRISTS, 1]).min() > 0.4
            assert np.linalg.norm(position[frame, TOES[0]] - position[frame, TOES[1]]) < 0.3  # one beside the other
        speed = np.linalg.norm(np.diff(position, axis=0), axis=-1)
        assert max(speed[0].max(), speed[-1].max()) < 0.02
        assert speed[:, 0].max() * 20 < 2.0
        assert speed.max() * 20 < 11.0


def test_walks_go_where_they_are_said_to(motions: list[SoloMotion]) -> None:
    for motion, position in of_kind(motions, "walk", "curve", "walk_back", "side_step"):
        (left, ahead), turned = way(position), yaw(position)[-1] - yaw(position)[0]
        kind, sign = motion.label["kind"], 1 if motion.label["side"] == "left" else -1
        if kind == "curve":
            assert ahead > 1
            assert min(sign * left, sign * turned) > 0.4
        elif kind == "side_step":
            assert abs(ahead) < 0.2 < 0.45 < sign * left
            assert abs(turned) < 0.3
        else:
            assert (ahead > 1.0) if kind == "walk" else (ahead < -0.5)
            assert abs(left) < 0.35
            assert abs(turned) < 0.35


def test_turns_and_circles_go_the_way_they_are_said_to(motions: list[SoloMotion]) -> None:
    for motion, position in of_kind(motions, "turn", "circle"):
        turned = (yaw(position)[-1] - yaw(position)[0]) * (1 if motion.label["side"] == "left" else -1)
        far = np.linalg.norm(position[:, 0, [0, 2]] - position[0, 0, [0, 2]], axis=-1)
        if motion.label["kind"] == "turn":
            assert 1.1 < turned < 3.2
            assert far.max() < 0.15
        else:
            assert 5.2 < turned < 6.7
            assert far[-1] < 0.75 < far.max()
            assert (
                motion.label["sense"] == {"left": "counterclockwise", "right": "clockwise"}[str(motion.label["side"])]
            )


def test_the_named_hand_or_leg_does_it(motions: list[SoloMotion]) -> None:
    for motion, position in of_kind(motions, "wave", "raise", "punch", "kick"):
        kind, side = motion.label["kind"], motion.label["side"]
        sides = SIDES if side == "both" else (side,)
        raised = (position[:, WRISTS, 1] - position[:, SHOULDERS, 1]).max(0)
        if kind in ("wave", "raise"):
            assert [name for name, height in zip(SIDES, raised, strict=True) if height > 0.2] == list(sides)
        elif kind == "punch":
            apart = np.linalg.norm(position[:, WRISTS] - position[:, SHOULDERS], axis=-1)
            level = np.abs(position[:, WRISTS, 1] - position[:, SHOULDERS, 1]) < 0.2
            ahead = (apart * level)[:, SIDES.index(str(side))]
            assert peaks(ahead, 0.46) == COUNTS[str(motion.label["times"])]
            assert (apart * level)[:, 1 - SIDES.index(str(side))].max() < 0.4
        else:
            height = position[:, ANKLES, 1].max(0)
            assert SIDES[int(height.argmax())] == side
            assert height.max() > 0.5 > 0.2 > height.min()


def test_bows_squats_and_seats_show_in_head_and_pelvis(motions: list[SoloMotion]) -> None:
    for motion, position in of_kind(motions, "bow", "squat", "sit"):
        sunk = position[0, 0, 1] - position[:, 0, 1]
        head = position[0, JOINT["head"], 1] - position[:, JOINT["head"], 1]
        behind = (position[0, 0] - position[:, 0])[:, [0, 2]] @ [np.sin(yaw(position)[0]), np.cos(yaw(position)[0])]
        if motion.label["kind"] == "bow":
            assert head.max() > 0.15 > sunk.max()
        elif motion.label["kind"] == "squat":
            assert peaks(sunk, 0.2) == COUNTS[str(motion.label["times"])]
        else:
            assert peaks(sunk, 0.3) == 1
            assert sunk.max() > 0.35
            assert behind.max() > 0.25
        assert abs(sunk[-1]) < 0.02


def test_captions_name_the_side_truly_and_come_with_their_words(motions: list[SoloMotion]) -> None:
    for motion in motions:
        kind, side = str(motion.label["kind"]), str(motion.label["side"])
        words = {name: str(word) for name, word in motion.label.items() if name in ("sense", "times")}
        true = {fill(template, side, words) for template in TEMPLATES[kind]}
        assert len(set(motion.captions)) == 3
        assert set(motion.captions) <= true
        for caption, tags in zip(motion.captions, motion.words, strict=True):
            assert set(re.findall(r"\b(left|right)\b", caption)) <= {side}
            assert "none" not in caption
            spoken = [word.partition("/")[0] for word in tags.split()]
            assert len(spoken) == len(re.findall(r"[a-z]+", caption.lower()))


def test_every_word_of_every_sentence_has_its_part_of_speech() -> None:
    parts = {"ADJ", "ADP", "ADV", "CCONJ", "DET", "NOUN", "NUM", "PRON", "SCONJ", "VERB"}
    said = set()
    for templates in TEMPLATES.values():
        assert len(set(templates)) >= 5
        for template in templates:
            assert not re.search(r"\b(left|right|clockwise)\b", template)  # only as placeholders
            for side, sense, times in itertools.product((*SIDES, "both"), ("clockwise", "counterclockwise"), COUNTS):
                said.update(tagged(fill(template, side, {"sense": sense, "times": times})).split())
    assert {word.partition("/")[2] for word in said} == parts
    assert {"walk/VERB", "stand/VERB", "hand/NOUN", "left/ADJ", "step/NOUN", "step/VERB", "squat/NOUN"} <= said
    assert tagged("Someone waves hello, 3 times!") == "someone/PRON wave/VERB hello/ADV time/NOUN"
    with pytest.raises(KeyError):
        tagged("a person dances")


def test_written_data_reads_back_as_made(tmp_path: Path) -> None:
    count, root = 14, tmp_path / "new" / "solo"
    write_solo(root, count=count, seed=4)
    assert [path.name for path in root.parent.iterdir()] == ["solo"]
    made = {motion.id: motion for index in range(count) for motion in make_motion(4, index)}
    assert (root / "all.txt").read_text().split() == list(made)
    for split in ("train", "val", "test"):
        listed = (root / f"{split}.txt").read_text().split()
        assert listed == [motion.id for motion in made.values() if motion.split == split]
    reader = HumanML3DReader(root)
    read = {one.id: one for source in reader.sources() for one in reader.read(source)}
    assert set(read) == set(made)
    for name, motion in made.items():
        recording, rows_TF = read[name], np.load(root / f"new_joint_vecs/{name}.npy", allow_pickle=False)
        assert rows_TF.dtype == np.float32
        assert recording.features_TPF is not None
        assert np.array_equal(recording.features_TPF[:, 0], rows_TF)
        assert 40 <= len(rows_TF) == len(motion.position_TJ3) - 1 < 200
        joint_TJ3 = np.load(root / f"new_joints/{name}.npy", allow_pickle=False)
        np.testing.assert_allclose(joint_TJ3, joints(rows_TF), atol=1e-5)
        # The motion itself, but for where it begins and which way it faces then.
        found, expected = (
            np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) for x in (joint_TJ3, motion.position_TJ3[:-1])
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert (recording.captions, recording.words) == (motion.captions, motion.words)
        assert (recording.split, recording.label, recording.notes) == (motion.split, motion.label, ())
    text = (root / "texts/000000.txt").read_text().splitlines()
    assert len(text) == 3
    assert all(re.fullmatch(r"[a-z,. ]+#(?:[a-z]+/[A-Z]+ ?)+#0\.0#0\.0", line) for line in text)


def test_mean_and_deviation_are_those_of_all_recordings(tmp_path: Path) -> None:
    write_solo(tmp_path / "solo", count=40, seed=2)  # two parts
    root = tmp_path / "solo"
    all_NF = np.concatenate([np.load(file) for file in (root / "new_joint_vecs").iterdir()]).astype(float)
    mean_F, std_F = np.load(root / "Mean.npy"), np.load(root / "Std.npy")
    assert (mean_F.shape, std_F.shape) == ((263,), (263,))
    np.testing.assert_allclose(mean_F, all_NF.mean(0), atol=1e-6)
    for start, end in ((0, 1), (1, 3), (3, 4), (4, 67), (67, 193), (193, 259), (259, 263)):
        np.testing.assert_allclose(std_F[start:end], all_NF[:, start:end].std(0).mean(), rtol=1e-5)
    assert not (root / "parts").exists()


@pytest.mark.slow
def test_parts_are_made_anywhere_and_in_any_order_with_the_same_bytes(tmp_path: Path) -> None:
    def run(task: Any, parts: Any) -> Any:
        assert [(part["first"], part["end"]) for part in parts] == [(0, 32), (32, 34)]
        sent = json.loads(json.dumps(parts))  # as between processes
        results = {number: json.loads(json.dumps(task(sent[number]))) for number in (1, 0)}
        return [results[number] for number in range(2)]

    write_solo(tmp_path / "turn", count=34, seed=1)
    write_solo(tmp_path / "tasks", count=34, seed=1, run=run)
    files = {path.relative_to(tmp_path / "turn") for path in (tmp_path / "turn").rglob("*") if path.is_file()}
    assert len(files) == 2 * 3 * 34 + 4 + 4
    assert files == {path.relative_to(tmp_path / "tasks") for path in (tmp_path / "tasks").rglob("*") if path.is_file()}
    for file in files:
        assert (tmp_path / "tasks" / file).read_bytes() == (tmp_path / "turn" / file).read_bytes(), file


def test_a_larger_data_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    write_solo(small, count=3, seed=1)
    write_solo(large, count=5, seed=1)
    for path in small.rglob("*.[nt]*"):
        if path.is_file() and path.name not in ("Mean.npy", "Std.npy"):
            same = (large / path.relative_to(small)).read_bytes()
            assert same.startswith(path.read_bytes()), path.name


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-3, 0), (1, -1)])
def test_counts_and_seeds_out_of_range_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    with pytest.raises(UserError, match=r"solo: (count|seed) "):
        write_solo(tmp_path / "solo", count=count, seed=seed)


def test_a_folder_is_known_by_what_it_was_made_with(tmp_path: Path) -> None:
    write_solo(tmp_path / "solo", count=1, seed=7)
    check_solo(tmp_path / "solo", count=1, seed=7)
    with pytest.raises(UserError) as caught:
        check_solo(tmp_path / "solo", count=1, seed=8)
    assert str(caught.value) == (
        f"{tmp_path / 'solo'}: was made with count 1 and seed 7, not with count 1 and seed 8 "
        "(allowed: count 1 and seed 7, or another --root)"
    )
    with pytest.raises(UserError, match="exists already"):
        write_solo(tmp_path / "solo", count=1, seed=7)
    with pytest.raises(UserError) as caught:
        check_solo(tmp_path, count=1, seed=7)
    assert str(caught.value) == f"{tmp_path}: was not made by solo (allowed: another --root, or a folder made by solo)"


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_one(seed: int, index: int) -> tuple[SoloMotion, SoloMotion]:
        if index == 1:
            raise KeyboardInterrupt
        return make_motion(seed, index)

    monkeypatch.setattr(write, "make_motion", fail_at_one)
    with pytest.raises(KeyboardInterrupt):
        write_solo(tmp_path / "solo", count=3, seed=0)
    assert not list(tmp_path.iterdir())
