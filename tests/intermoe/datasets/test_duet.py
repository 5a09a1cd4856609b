"""Duet: what it promises of its motions, its captions, and the folder it writes."""

import itertools
import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intermoe.body.kinematics import forward_kinematics
from intermoe.body.rotations import matrix_from_6d
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.choreography.figure import Body
from intermoe.datasets.duet import KINDS, make_interaction, write
from intermoe.datasets.duet.captions import TEMPLATES, fill, told
from intermoe.datasets.duet.kinds import PosedInteraction, pose_interaction
from intermoe.datasets.duet.write import LayoutName, write_duet
from intermoe.datasets.interhuman import InterHumanReader
from intermoe.datasets.recordings import Recording
from intermoe.errors import UserError

SIDES = ("left", "right")
JOINT = {name: number for number, name in enumerate(SMPL22.joint_names)}
WRISTS, ANKLES, TOES = ([JOINT[f"{side}_{part}"] for side in SIDES] for part in ("wrist", "ankle", "foot"))
SHOULDERS = [JOINT[f"{side}_shoulder"] for side in SIDES]


@pytest.fixture(scope="module")
def items() -> list[Recording]:
    return [make_interaction(3, index) for index in range(10 * len(KINDS))]


def of_kind(items: list[Recording], *kinds: str) -> list[tuple[Recording, np.ndarray, int]]:
    """Recordings of these kinds with double positions and the actor."""
    return [
        (item, item.position_TPJ3.astype(float), int(item.label["actor"]))
        for item in items
        if item.label["kind"] in kinds
    ]


def ground(position: np.ndarray) -> np.ndarray:
    return position[..., [0, 2]]


def test_every_kind_is_there_with_either_person_as_actor(items: list[Recording]) -> None:
    assert len(KINDS) >= 12
    pairs = {(item.label["kind"], item.label["actor"]) for item in items}
    assert pairs == set(itertools.product(KINDS, (0, 1)))
    actors = [np.random.default_rng([3, index]).integers(2) for index in range(4000)]
    assert abs(np.mean(actors) - 0.5) < 0.03


def test_recordings_keep_the_promises_of_the_class(items: list[Recording]) -> None:
    for item in items:
        item.check(SMPL22)
        assert 75 <= len(item.position_TPJ3) < 150
        assert item.position_TPJ3.dtype == item.rotation_TPR6.dtype == np.float32


def test_an_item_depends_on_seed_and_number_alone() -> None:
    once, again, other = make_interaction(5, 9), make_interaction(5, 9), make_interaction(6, 9)
    assert np.array_equal(once.position_TPJ3, again.position_TPJ3)
    assert np.array_equal(once.rotation_TPR6, again.rotation_TPR6)
    assert (once.captions, once.label) == (again.captions, again.label)
    assert once.position_TPJ3.shape != other.position_TPJ3.shape or not np.allclose(
        once.position_TPJ3, other.position_TPJ3
    )


def test_bones_keep_their_length_and_bodies_differ(items: list[Recording]) -> None:
    child, parent = np.arange(1, 22), np.array(SMPL22.parents[1:])
    heights = []
    for item in items:
        bone_TPR3 = item.position_TPJ3[:, :, child].astype(float) - item.position_TPJ3[:, :, parent]
        length_TPR = np.linalg.norm(bone_TPR3, axis=-1)
        assert np.ptp(length_TPR, axis=0).max() < 1e-5
        heights += (length_TPR[0] / np.linalg.norm(SMPL22.rest_offsets, axis=-1)[1:]).mean(-1).tolist()
    assert 0.9 < min(heights) < 0.95
    assert 1.05 < max(heights) < 1.1


def test_rotations_lead_to_the_positions(items: list[Recording]) -> None:
    """The root's own rotation, which no column holds, is found from the pelvis (Kabsch); the rest follows from it."""
    rest_J3 = torch.tensor(SMPL22.rest_offsets, dtype=torch.float64)
    for item in items:
        for person in range(2):
            position = torch.from_numpy(item.position_TPJ3[:, person]).double()
            length = (position[0] - position[0][list(SMPL22.parents)]).norm(dim=-1)
            offset_J3 = rest_J3 * (length / rest_J3.norm(dim=-1).clamp(min=1e-9))[:, None]
            pelvis = position[:, 1:4] - position[:, :1]
            u, _, vh = torch.linalg.svd(pelvis.transpose(1, 2) @ offset_J3[1:4])
            sign = torch.ones(len(u), 3, dtype=torch.float64)
            sign[:, 2] = torch.linalg.det(u @ vh)
            root = u @ torch.diag_embed(sign) @ vh
            local = matrix_from_6d(torch.from_numpy(item.rotation_TPR6[:, person]).double())
            joints, _ = forward_kinematics(
                position[:, 0], torch.cat([root[:, None], local], dim=1), offset_J3, SMPL22.parents
            )
            assert (joints - position).abs().max() < 1e-4


def test_knees_and_elbows_bend_the_human_way(items: list[Recording]) -> None:
    """A bent knee turns the shin about +x; a bent elbow turns the left forearm about -y, the right one about +y."""
    for item in items:
        matrix = matrix_from_6d(torch.from_numpy(item.rotation_TPR6)).numpy()
        for side, sign in zip(SIDES, (-1, 1), strict=True):
            knee, elbow = matrix[:, :, JOINT[f"{side}_knee"] - 1], matrix[:, :, JOINT[f"{side}_elbow"] - 1]
            assert (knee[..., 2, 1] - knee[..., 1, 2]).min() > 0
            assert (sign * (elbow[..., 0, 2] - elbow[..., 2, 0])).min() > 0


def test_feet_stand_on_the_floor_and_do_not_skate(items: list[Recording]) -> None:
    for item in items:
        toe_TP23 = item.position_TPJ3[:, :, TOES].astype(float)
        assert item.position_TPJ3[..., 1].min() == pytest.approx(0.02, abs=2e-3)
        assert toe_TP23[..., 1].min(-1).max() < 0.025  # always one foot on the ground
        down = toe_TP23[..., 1] < 0.025
        moved = np.linalg.norm(np.diff(ground(toe_TP23), axis=0), axis=-1) * (down[1:] & down[:-1])
        assert moved.max() < 0.015
        # As the features see it: low and slow is contact, and most of the time somebody stands.
        for joints, height in ((ANKLES, 0.12), (TOES, 0.05)):
            foot = item.position_TPJ3[:, :, joints].astype(float)
            low = foot[:-1, ..., 1] < height
            step = np.linalg.norm(np.diff(foot, axis=0), axis=-1)
            contact = low & (step**2 < 0.001)
            assert contact.any(-1).mean() > 0.95
            assert np.sqrt((step[contact] ** 2).mean()) < 0.01


def test_everyone_begins_and_ends_at_ease(items: list[Recording]) -> None:
    for item in items:
        position = item.position_TPJ3.astype(float)
        for frame in (0, -1):
            assert (position[frame][:, SHOULDERS, 1] - position[frame][:, WRISTS, 1]).min() > 0.4
        speed = np.linalg.norm(np.diff(position, axis=0), axis=-1)
        assert max(speed[0].max(), speed[-1].max()) < 0.012
        assert speed[:, :, 0].max() * 30 < 2.0
        assert speed.max() * 30 < 11.0
        start = np.linalg.norm(np.diff(ground(position[0, :, 0]), axis=0))
        assert 0.6 < start < 2.6


@pytest.mark.parametrize("kind", ["shake_hands", "high_five", "hand_over", "hug", "tap", "punch", "circle"])
def test_the_actor_is_the_one_who_comes(items: list[Recording], kind: str) -> None:
    for _, position, actor in of_kind(items, kind):
        way = ground(position[:, :, 0] - position[:1, :, 0])
        assert np.argmax(np.linalg.norm(way, axis=-1).max(0)) == actor


def test_the_one_who_is_beckoned_comes_and_the_one_who_is_led_walks_behind(items: list[Recording]) -> None:
    for item, position, actor in of_kind(items, "beckon", "lead"):
        way = ground(position[-1, :, 0] - position[0, :, 0])
        if item.label["kind"] == "beckon":
            assert np.argmin(np.linalg.norm(way, axis=-1)) == actor
        else:
            assert np.argmax(ground(position[-1, :, 0]) @ way.sum(0)) == actor


def test_the_pushed_one_goes_back(items: list[Recording]) -> None:
    for _, position, actor in of_kind(items, "push"):
        place = ground(position[:, :, 0])
        nearest = np.linalg.norm(place[:, 0] - place[:, 1], axis=-1).argmin()
        away = place[nearest] - place[nearest, ::-1]
        back = ((place[-1] - place[nearest]) * away).sum(-1) / np.linalg.norm(away, axis=-1)
        assert back[1 - actor] > 0.4 > back[actor]


def test_bowing_ducking_and_kicking_show_in_head_and_feet(items: list[Recording]) -> None:
    for item, position, actor in of_kind(items, "bow", "punch", "kick"):
        sunk = (position[0] - position.min(0))[:, JOINT["head"], 1]
        ankle = position[:, :, ANKLES, 1].max(0)
        if item.label["kind"] == "bow":
            assert sunk[actor] > 0.25 > sunk[1 - actor]
        elif item.label["kind"] == "punch":
            assert sunk[1 - actor] > 0.35 > sunk[actor]
        else:
            assert ankle[actor].max() > 0.55 > ankle[1 - actor].max()
            assert SIDES[ankle[actor].argmax()] == item.label["hand"]


def test_the_named_hand_does_it(items: list[Recording]) -> None:
    for item, position, actor in of_kind(items, "wave", "mirror", "beckon", "high_five", "push", "punch", "tap"):
        raised = (position[:, :, WRISTS, 1] - position[:, :, SHOULDERS, 1]).max(0)
        hand, kind = item.label["hand"], item.label["kind"]
        if kind in ("wave", "beckon", "high_five", "tap"):
            assert SIDES[raised[actor].argmax()] == hand
        if kind == "wave":
            assert SIDES[raised[1 - actor].argmax()] == item.label["other_hand"]
        if kind == "mirror":
            away = np.linalg.norm(position[:, actor, WRISTS] - position[:1, actor, WRISTS], axis=-1) > 0.25
            assert SIDES[away.argmax(0).argmin()] == hand
        if kind == "punch":
            target = position[:, 1 - actor, JOINT["head"]][0]
            near = np.linalg.norm(position[:, actor, WRISTS] - target, axis=-1).min(0)
            assert SIDES[near.argmin()] == hand
        if kind == "push":
            chest = position[:, 1 - actor, None, JOINT["spine3"]]
            near = np.linalg.norm(position[:, actor, WRISTS] - chest, axis=-1).min(0) < 0.3
            assert near.tolist() == [hand in (side, "both") for side in SIDES]


def test_hands_meet(items: list[Recording]) -> None:
    for item, position, actor in of_kind(items, "shake_hands", "high_five", "hand_over"):
        mine = WRISTS[SIDES.index(str(item.label["hand"]))]
        yours = WRISTS[SIDES.index(str(item.label.get("other_hand", item.label["hand"])))]
        apart = np.linalg.norm(position[:, actor, mine] - position[:, 1 - actor, yours], axis=-1)
        assert apart.min() < 0.12


def test_circles_go_the_way_the_caption_says(items: list[Recording]) -> None:
    """Seen from above: x to the right, z toward the reader, so counterclockwise is from z to x."""
    for item, position, actor in of_kind(items, "circle"):
        x, z = ground(position[:, actor, 0] - position[:, 1 - actor, 0]).T
        swept = np.diff(np.unwrap(np.arctan2(x, z))).sum()
        assert abs(swept) > 1.5
        assert (swept > 0) == (item.label["direction"] == "counterclockwise")


def test_persons_do_not_walk_through_each_other(items: list[Recording]) -> None:
    trunk = [JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
    for item in items:
        position = item.position_TPJ3[:, :, trunk].astype(float)
        apart = np.linalg.norm(position[:, 0, :, None] - position[:, 1, None], axis=-1).min()
        assert apart > (0.12 if item.label["kind"] == "hug" else 0.25)


def test_captions_name_actor_and_side_truly(items: list[Recording]) -> None:
    for item in items:
        label = item.label
        kind, actor, hand = str(label["kind"]), int(label["actor"]), str(label["hand"])
        words = {name: str(word) for name, word in label.items() if name in ("other_hand", "direction")}
        true = {fill(template, actor, hand, words): template for template in TEMPLATES[kind]}
        assert len(set(item.captions)) == 3
        for caption in item.captions:
            template = true[caption]  # no other sentence may be said
            named = re.findall(r"\b(left|right)\b", caption)
            asked = re.findall(r"{(hand|with_hand|other_hand)}", template)
            sides = [words["other_hand"] if name == "other_hand" else hand for name in asked]
            assert named == [side for side in sides if side in SIDES]
            assert "none" not in caption
            assert "{hand}" not in template or hand in SIDES


def test_sentences_name_roles_and_can_be_mirrored() -> None:
    for kind, templates in TEMPLATES.items():
        assert kind in KINDS
        assert len(set(templates)) >= 6
        for template in templates:
            assert "{a}" in template or "{a_bare}" in template
            assert not re.search(r"\b(left|right|clockwise)\b", template)  # only as placeholders
            # A side is that of a hand, foot or shoulder: mirrored, the sentence still makes sense.
            assert all(
                re.match(r" (hand|arm|fist|leg|foot|shoulder)\b", template[found.end() :])
                for found in re.finditer(r"{(other_)?hand}", template)
            )
    first = fill("{a} pushes {b} {with_hand}.", 0, "left", {})
    assert first == "The first person pushes the second person with the left hand."
    assert fill("{b} is pushed by {a}.", 1, "both", {}) == "The first person is pushed by the second person."


def test_written_data_reads_back_as_made(tmp_path: Path) -> None:
    count, root = 30, tmp_path / "new" / "duet"
    write_duet(root, count=count, seed=4)
    assert [path.name for path in root.parent.iterdir()] == ["duet"]
    made = {item.id: item for item in (make_interaction(4, index) for index in range(count))}
    labels = [json.loads(line) for line in (root / "labels.jsonl").read_text().splitlines()]
    assert labels == [{"id": name, **item.label} for name, item in made.items()]
    for name, item in made.items():
        for person in (0, 1):
            row = np.load(root / f"motions_processed/person{person + 1}/{name}.npy", allow_pickle=False)
            assert row.shape == (len(item.position_TPJ3), 492)
            assert row.dtype == np.float32
            x, y, z = row[:, :66].reshape(-1, 22, 3).transpose(2, 0, 1)
            assert np.array_equal(np.stack([x, z, -y], axis=-1), item.position_TPJ3[:, person])
            assert np.array_equal(row[:, 186:312].reshape(-1, 21, 6), item.rotation_TPR6[:, person])
            assert not row[:, 66:186].any()
            assert not row[:, 312:].any()
        assert tuple((root / f"annots/{name}.txt").read_text().splitlines()) == item.captions
    reader = InterHumanReader(root)
    read = [recording for source in reader.sources() for recording in reader.read(source)]
    assert {item.id: (item.split, item.captions, item.label) for item in read} == {
        item.id: (item.split, item.captions, item.label) for item in made.values()
    }


def test_of_ten_items_of_a_kind_one_is_for_validation_and_one_for_testing(items: list[Recording]) -> None:
    shares = Counter((item.label["kind"], item.split) for item in items)
    assert {(shares[kind, "train"], shares[kind, "val"], shares[kind, "test"]) for kind in KINDS} == {(8, 1, 1)}
    assert {item.split for item in items[:8]} == {"train", "val", "test"}  # small sets have all three


def test_a_larger_data_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    write_duet(small, count=10, seed=1)
    write_duet(large, count=15, seed=1)
    for path in small.rglob("*"):
        if path.is_file() and path.name != "duet.json":
            same = (large / path.relative_to(small)).read_bytes()
            assert same.startswith(path.read_bytes()), path.name
            assert path.suffix != ".npy" or same == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "num_files"), [("interhuman", 3 * 70 + 5), ("interx", 70 + 6)])
def test_parts_are_made_anywhere_and_in_any_order_with_the_same_bytes(
    tmp_path: Path, layout: LayoutName, num_files: int
) -> None:
    def run(task: Any, parts: Any) -> Any:
        assert [(part["first"], part["end"]) for part in parts] == [(0, 32), (32, 64), (64, 70)]
        sent = json.loads(json.dumps(parts))  # as between processes
        results = {number: json.loads(json.dumps(task(sent[number]))) for number in (2, 0, 1)}
        return [results[number] for number in range(3)]

    write_duet(tmp_path / "turn", count=70, seed=1, layout=layout)
    write_duet(tmp_path / "tasks", count=70, seed=1, layout=layout, run=run)
    files = {path.relative_to(tmp_path / "turn") for path in (tmp_path / "turn").rglob("*") if path.is_file()}
    assert len(files) == num_files
    assert files == {path.relative_to(tmp_path / "tasks") for path in (tmp_path / "tasks").rglob("*") if path.is_file()}
    for file in files:
        assert (tmp_path / "tasks" / file).read_bytes() == (tmp_path / "turn" / file).read_bytes(), file


def test_a_task_that_outlives_an_interrupted_command_makes_no_folder_anew(tmp_path: Path) -> None:
    outliving = []

    def interrupted(task: Any, parts: Any) -> Any:
        outliving.append(partial(task, parts[0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_duet(tmp_path / "duet", count=2, seed=0, run=interrupted)
    with pytest.raises(UserError) as caught:
        outliving[0]()
    assert str(caught.value) == f"{tmp_path / 'duet'}: cannot be written: No such file or directory"
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_duet(tmp_path, count=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    with pytest.raises(UserError, match="cannot be written"):
        write_duet(tmp_path / "keep" / "duet", count=1, seed=0)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-3, 0), (1, -1)])
def test_counts_and_seeds_out_of_range_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    with pytest.raises(UserError, match="duet"):
        write_duet(tmp_path / "duet", count=count, seed=seed)


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_three(seed: int, index: int, body: Body | None) -> PosedInteraction:
        if index == 3:
            raise KeyboardInterrupt
        return pose_interaction(seed, index, body)

    monkeypatch.setattr(write, "pose_interaction", fail_at_three)
    with pytest.raises(KeyboardInterrupt):
        write_duet(tmp_path / "duet", count=5, seed=0)
    assert not list(tmp_path.iterdir())


def test_what_a_caption_tells_is_read_back():
    words = {"direction": "clockwise", "other_hand": "right"}
    for kind, templates in TEMPLATES.items():
        for template in templates:
            for actor in (0, 1):
                for hand in ("left", "both"):
                    sentence = fill(template, actor, hand, words)
                    told_of = (kind, actor) if hand != "both" or "{hand}" not in template else None
                    assert told(sentence) == told_of, sentence
    assert told('  "The FIRST person  bows deeply to the second person!" ') == ("bow", 0)


@pytest.mark.parametrize(
    "sentence",
    [
        "The first person circles the second person and hugs the second person.",
        "The first person waves the second person over and is pushed by the second person.",
        "The first person walks not around the second person.",
        "Two people dance.",
        "",
    ],
)
def test_what_no_caption_says_is_not_told(sentence):
    assert told(sentence) is None
