import numpy as np
import pytest

from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet.kinds import KINDS as DUET_KINDS
from intermoe.datasets.duet.kinds import make_interaction
from intermoe.evaluation.hands import MEETING, hands_apart_cm, hands_met
from intermoe.evaluation.identity import KINDS, Roles
from intermoe.evaluation.measures import MEASURES
from intermoe.evaluation.replication import Replication


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEETING)
def test_recorded_hands_meet(kind):
    first = list(DUET_KINDS).index(kind)
    motions = [make_interaction(seed=0, index=first + turn * len(DUET_KINDS)) for turn in range(60)]
    assert {motion.label["kind"] for motion in motions} == {kind}
    assert np.median([hands_apart_cm(motion.position_TPJ3, SMPL22) for motion in motions]) < 4
    assert np.mean([hands_met(motion.position_TPJ3, SMPL22) for motion in motions]) > 0.9


@pytest.mark.parametrize("kind", ["bow", "wave"])
def test_recorded_hands_of_people_apart_do_not(kind):
    motion = make_interaction(seed=5, index=list(DUET_KINDS).index(kind))
    assert hands_apart_cm(motion.position_TPJ3, SMPL22) > 50
    assert hands_met(motion.position_TPJ3, SMPL22) == 0


def test_the_nearest_hands_at_the_nearest_moment_count():
    joints_TPJ3 = np.zeros((4, 2, 22, 3))
    joints_TPJ3[:, 1] += [0.0, 0.0, 1.0]
    assert (hands_apart_cm(joints_TPJ3, SMPL22), hands_met(joints_TPJ3, SMPL22)) == (100, 0)
    joints_TPJ3[2, 1, SMPL22.index("left_wrist"), 2] = 0.07
    # Another joint that comes near is no hand.
    joints_TPJ3[1, 1, SMPL22.index("head"), 2] = 0.0
    assert hands_apart_cm(joints_TPJ3, SMPL22) == pytest.approx(7)
    assert hands_met(joints_TPJ3, SMPL22) == 1


def test_only_motions_whose_captions_tell_of_a_meeting_count():
    kind_N = np.array([KINDS.index(kind) for kind in ("bow", "hand_over", "shake_hands", "hug")])
    roles = Roles(np.zeros((4, len(KINDS)), np.int64), kind_N=kind_N, named_N=np.zeros(4, np.int64))
    assert MEASURES["hands_met"].value(_replication(roles)) == 0.5
    assert MEASURES["hands_apart_cm"].value(_replication(roles)) == 15
    assert np.isnan(MEASURES["hands_met"].value(_replication(None)))


def test_without_such_a_motion_nothing_is_known():
    kind_N = np.array([KINDS.index("bow")] * 4)
    roles = Roles(np.zeros((4, len(KINDS)), np.int64), kind_N=kind_N, named_N=np.zeros(4, np.int64))
    assert np.isnan(MEASURES["hands_apart_cm"].value(_replication(roles)))


def _replication(roles: Roles | None) -> Replication:
    nothing = np.zeros((4, 2), np.float32)
    values = {"hands_met": np.array([0.0, 1.0, 0.0, 1.0]), "hands_apart_cm": np.array([90.0, 5.0, 25.0, 1.0])}
    pairs = np.zeros(1, np.int64), np.ones(1, np.int64)
    return Replication("generated", nothing, nothing, nothing, 2, pairs, pairs, values, roles=roles)
