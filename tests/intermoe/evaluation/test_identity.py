from collections import Counter

import numpy as np
import pytest

from intermoe.datasets.duet.kinds import KINDS as DUET_KINDS
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.evaluation.identity import KINDS, actors

COUNT = 280


@pytest.fixture(scope="module")
def recordings():
    return [make_interaction(seed=11, index=index) for index in range(COUNT)]


def test_there_is_a_rule_for_every_kind():
    assert set(KINDS) == set(DUET_KINDS)


def test_the_rules_find_the_actor_of_every_kind(recordings):
    right = Counter()
    for recording in recordings:
        kind = recording.label["kind"]
        right[kind] += actors(recording.position_TPJ3)[KINDS.index(kind)] == recording.label["actor"]
    assert all(right[kind] >= 0.98 * COUNT / len(KINDS) for kind in KINDS), right


def test_persons_in_each_others_place_change_the_actor(recordings):
    for recording in recordings[:28]:
        kind = KINDS.index(recording.label["kind"])
        assert actors(recording.position_TPJ3[:, ::-1])[kind] == 1 - actors(recording.position_TPJ3)[kind]


def test_the_rules_do_not_see_where_the_scene_is_or_which_way_it_faces(recordings):
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    for recording in recordings[:28]:
        kind = KINDS.index(recording.label["kind"])
        moved = recording.position_TPJ3 @ turn.T + [3, 0, -2]
        assert actors(moved)[kind] == actors(recording.position_TPJ3)[kind]


def test_captions_of_other_samples_agree_by_chance(recordings):
    agreed = []
    for recording, other in zip(recordings, recordings[17:] + recordings[:17], strict=True):
        agreed.append(actors(recording.position_TPJ3)[KINDS.index(other.label["kind"])] == other.label["actor"])
    assert 0.4 < np.mean(agreed) < 0.6
