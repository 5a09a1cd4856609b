"""Hands that touch come together, and nothing else about a motion changes."""

import pytest
import torch

from intermoe.body import hands
from intermoe.body.hands import HandContacts, arms, hand_gaps, join_hands
from intermoe.body.kinematics import PosedBody, posed_body
from intermoe.body.skeletons import SMPL22
from intermoe.datasets.duet import make_interaction
from intermoe.datasets.duet.kinds import KINDS

SHAKE = list(KINDS).index("shake_hands")
ARMS = arms(SMPL22)
MOVED = [joint for arm in ARMS for joint in (arm.middle, arm.end)]
OTHERS = [joint for joint in range(SMPL22.num_joints) if joint not in MOVED]


def shaking(apart_m=0.0):
    """Two of Duet's people who shake hands, the second put farther away, and where their hands touch."""
    recording = make_interaction(seed=1, index=SHAKE)
    bodies = [
        posed_body(
            torch.from_numpy(recording.position_TPJ3)[:, p], torch.from_numpy(recording.rotation_TPR6)[:, p], SMPL22
        )
        for p in (0, 1)
    ]
    offset, root, rotation = (torch.stack(x).double() for x in zip(*bodies, strict=True))
    gap = hand_gaps(PosedBody(offset[:, None], root, rotation).motion(SMPL22)[0], SMPL22)
    away = root[1, 0] - root[0, 0]
    away[1] = 0
    root[1] += apart_m * away / away.norm()
    return PosedBody(offset[:, None], root, rotation), HandContacts((gap < 0.08).double(), torch.full_like(gap, 0.02))


def joints_of(body):
    return body.motion(SMPL22)[0]


def least_cm(body):
    return 100 * hand_gaps(joints_of(body), SMPL22).min().item()


def test_gaps_are_those_of_every_pair_of_wrists():
    joints_PTJ3 = torch.randn(2, 5, 22, 3, generator=torch.Generator().manual_seed(0))
    gap = hand_gaps(joints_PTJ3, SMPL22)
    for frame in range(5):
        for own, mine in enumerate((20, 21)):
            for other, theirs in enumerate((20, 21)):
                expected = (joints_PTJ3[0, frame, mine] - joints_PTJ3[1, frame, theirs]).norm()
                torch.testing.assert_close(gap[frame, own, other], expected)


def test_hands_that_touch_come_together():
    body, contacts = shaking(apart_m=0.12)
    touch = contacts.touch_THH > 0.5
    assert 10 < touch.sum() < 40
    before, after = joints_of(body), joints_of(join_hands(body, contacts, SMPL22))
    gap_cm = [100 * hand_gaps(joints, SMPL22)[touch] for joints in (before, after)]
    assert gap_cm[0].min() > 10
    # As near as they are to be, but where an arm begins to move or is stretched.
    assert gap_cm[1].median() < 3.5
    assert gap_cm[1].max() < 6
    # Everything but elbows and wrists stays, but that both people are put nearer, in all frames by the same.
    nearer = (after - before)[:, :1, :1]
    assert nearer[..., 1].abs().max() < 1e-9
    assert 0.03 < nearer[0].norm() < 0.08
    torch.testing.assert_close(nearer[0], -nearer[1], atol=1e-9, rtol=0)
    after = after - nearer
    torch.testing.assert_close(after[:, :, OTHERS], before[:, :, OTHERS], atol=1e-9, rtol=0)
    first = int(touch.flatten(1).any(1).nonzero()[0])
    assert first > 30
    assert (after - before)[:, : first - 30].norm(dim=-1).max() < 0.02
    # No hand jumps: from frame to frame the correction changes by less than a centimetre.
    way = (after - before)[:, :, [arm.end for arm in ARMS]]
    assert way.norm(dim=-1).max() > 0.02
    assert way.diff(dim=1).norm(dim=-1).max() < 0.01
    for arm in ARMS:
        for one, other in ((arm.upper, arm.middle), (arm.middle, arm.end)):
            bones = [(joints[:, :, one] - joints[:, :, other]).norm(dim=-1) for joints in (before, after)]
            torch.testing.assert_close(bones[1], bones[0], atol=1e-6, rtol=0)


def test_hands_that_are_near_enough_stay():
    body, contacts = shaking()
    near = HandContacts(contacts.touch_THH, torch.full_like(contacts.gap_THH, 0.1))
    torch.testing.assert_close(joints_of(join_hands(body, near, SMPL22)), joints_of(body), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sure", [0.0, 0.3, 0.5])
def test_hands_stay_where_contact_is_no_more_likely_than_not(sure):
    body, contacts = shaking(apart_m=0.12)
    unsure = HandContacts(sure * contacts.touch_THH, contacts.gap_THH)
    torch.testing.assert_close(joints_of(join_hands(body, unsure, SMPL22)), joints_of(body), atol=1e-6, rtol=0)


def test_a_person_who_is_given_stays_and_the_other_comes_all_the_way():
    body, contacts = shaking(apart_m=0.06)
    after = join_hands(body, contacts, SMPL22, share_P=(0.0, 1.0))
    torch.testing.assert_close(joints_of(after)[0], joints_of(body)[0], atol=1e-6, rtol=0)
    assert least_cm(body) > 5
    assert least_cm(after) < 4  # the other arm alone reaches no farther


def test_hands_stay_in_frames_that_are_held():
    body, contacts = shaking(apart_m=0.12)
    first = int((contacts.touch_THH > 0.5).flatten(1).any(1).nonzero()[0])
    begun = PosedBody(body.offset_J3, body.root_T3[:, first:], body.rotation_TJ33[:, first:])
    after = join_hands(begun, contacts.frames(first), SMPL22, held=2)
    way = (joints_of(after) - joints_of(begun)).norm(dim=-1)
    assert way[:, :2].max() < 1e-5
    assert way.max() > 0.04


def test_with_the_persons_exchanged_so_is_the_result():
    body, contacts = shaking(apart_m=0.12)
    found = joints_of(join_hands(body, contacts, SMPL22))
    whole = HandContacts(contacts.touch_THH[None], contacts.gap_THH[None]).exchanged(torch.tensor([True]))
    other = join_hands(
        PosedBody(*(x.flip(0) for x in body)), HandContacts(whole.touch_THH[0], whole.gap_THH[0]), SMPL22
    )
    torch.testing.assert_close(joints_of(other).flip(0), found, atol=1e-9, rtol=0)
    kept = HandContacts(contacts.touch_THH[None], contacts.gap_THH[None]).exchanged(torch.tensor([False]))
    assert kept.touch_THH[0].equal(contacts.touch_THH)


def test_motions_of_several_lengths_are_joined_as_each_alone():
    body, contacts = shaking(apart_m=0.12)
    length = contacts.touch_THH.shape[0]
    lengths = torch.tensor([length, length - 31])
    both = PosedBody(*(x.expand(2, *x.shape) for x in body))
    touching = HandContacts(*(x.expand(2, *x.shape) for x in (contacts.touch_THH, contacts.gap_THH)))
    together = join_hands(both, touching, SMPL22, frames=lengths)
    for row, frames in enumerate(lengths.tolist()):
        own = PosedBody(body.offset_J3, body.root_T3[:, :frames], body.rotation_TJ33[:, :frames])
        alone = join_hands(own, contacts.frames(0, frames), SMPL22)
        found = together.rotation_TJ33[row, :, :frames]
        torch.testing.assert_close(found, alone.rotation_TJ33, atol=1e-9, rtol=0)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_motion_of_fewer_frames_than_a_bend_has_stays(frames):
    body, contacts = shaking(apart_m=0.12)
    short = PosedBody(body.offset_J3, body.root_T3[:, :frames], body.rotation_TJ33[:, :frames])
    assert join_hands(short, contacts.frames(0, frames), SMPL22) is short


def test_a_hand_joins_the_likeliest_of_two():
    touch = torch.tensor([[[0.9, 0.7], [0.8, 0.6]], [[0.9, 0.0], [0.0, 0.75]], [[1.0, 1.0], [1.0, 1.0]]])
    expected = torch.tensor([[[0.8, 0.0], [0.0, 0.0]], [[0.8, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(hands._likely(touch), expected)


def test_corrections_are_the_least_squares_ones():
    """By a plain sum of squares, minimised by gradients."""
    generator = torch.Generator().manual_seed(0)
    weight = 20 * torch.rand(12, 1, 1, generator=generator, dtype=torch.float64)
    asked = torch.randn(12, 1, 1, 3, generator=generator, dtype=torch.float64)
    is_there = torch.arange(12) < 10
    found = hands._spread(weight * is_there[:, None, None], asked, is_there, 1)
    way = found.clone().requires_grad_()
    total = way.square().sum() + hands._HELD * way[:1].square().sum()
    for frame in range(10):
        total = total + weight[frame, 0, 0] * (way[frame] - asked[frame]).square().sum()
    for frame in range(1, 10):
        total = total + hands._STEP * (way[frame] - way[frame - 1]).square().sum()
    for frame in range(1, 9):
        total = total + hands._BEND * (way[frame - 1] - 2 * way[frame] + way[frame + 1]).square().sum()
    total.backward()
    assert way.grad.abs().max() < 1e-5
    assert found[1:10].abs().max() > 0.02


def test_a_correction_grows_and_fades_without_swinging_to_the_other_side():
    weight, asked = torch.zeros(200, 1, 1, dtype=torch.float64), torch.ones(200, 1, 1, 1, dtype=torch.float64)
    weight[95:105] = hands._APART
    way = hands._spread(weight, asked, torch.ones(200, dtype=torch.bool), 0).flatten()
    assert way[100] > 0.97
    assert way.min() > -1e-3
    assert (way[:96].diff() > -1e-4).all()
    # At 30 frames a second, within a second all is as it was.
    assert way[65] < 0.06
    assert way[80] > 0.2


def test_a_contact_that_is_hardly_more_likely_than_not_moves_hands_little():
    body, contacts = shaking(apart_m=0.12)
    sure, unsure = (HandContacts(chance * contacts.touch_THH, contacts.gap_THH) for chance in (0.9, 0.51))
    ways = [(joints_of(join_hands(body, told, SMPL22)) - joints_of(body)).norm(dim=-1).max() for told in (sure, unsure)]
    assert ways[0] > 0.05
    assert ways[1] < ways[0] / 2


@pytest.mark.parametrize("bones", ["no arms", "equal bones, folded"])
def test_bodies_that_cannot_reach_stay_finite(bones):
    body, contacts = shaking(apart_m=0.12)
    offset = body.offset_J3.clone()
    rotation = body.rotation_TJ33.clone()
    for arm in ARMS:
        if bones == "no arms":
            offset[:, :, [arm.middle, arm.end]] = 0
        else:
            offset[:, :, arm.end] = offset[:, :, arm.middle]
            rotation[:, :, arm.middle] = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    odd = PosedBody(offset, body.root_T3, rotation)
    assert joints_of(join_hands(odd, contacts, SMPL22)).isfinite().all()


def test_motions_shorter_than_a_bend_stay_among_longer_ones():
    body, contacts = shaking(apart_m=0.12)
    both = PosedBody(*(x.expand(2, *x.shape) for x in body))
    touching = HandContacts(torch.ones(2, *contacts.touch_THH.shape), contacts.gap_THH.expand(2, -1, -1, -1))
    found = join_hands(both, touching, SMPL22, frames=torch.tensor([contacts.touch_THH.shape[0], 2]))
    torch.testing.assert_close(found.rotation_TJ33[1, :, :2], body.rotation_TJ33[:, :2], atol=1e-6, rtol=0)


def test_frames_are_repeated_and_cut():
    contacts = HandContacts(torch.arange(3.0)[:, None, None], torch.zeros(3, 1, 1))
    assert contacts.repeated(2).frames(1, 5).touch_THH.flatten().tolist() == [0, 1, 1, 2]


def test_people_who_stand_out_of_reach_are_put_nearer():
    body, contacts = shaking(apart_m=0.6)
    after = join_hands(body, contacts, SMPL22)
    assert least_cm(body) > 50
    assert least_cm(after) < 8
    way = (joints_of(after) - joints_of(body))[:, :, 0]
    torch.testing.assert_close(way, way[:, :1].expand_as(way), atol=1e-9, rtol=0)
    assert 0.14 < way[0, 0].norm() < 0.16
    given = join_hands(body, contacts, SMPL22, share_P=(1.0, 0.0))
    torch.testing.assert_close(joints_of(given)[1], joints_of(body)[1], atol=1e-6, rtol=0)
    assert least_cm(given) < least_cm(body) - 30  # the other stands 60 cm too far away, and stays
