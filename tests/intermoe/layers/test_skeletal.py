import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intermoe.body.skeletons import SMPL22, PoolStage
from intermoe.layers.skeletal import (
    JointLinear,
    Pool,
    ResidualBlock,
    SpaceTimeConv,
    Unpool,
    group_membership,
    neighbour_average,
)

# Four joints in a star whose centre is joint 1; joint 1 belongs to both groups.
EDGES = ((0, 1), (1, 2), (1, 3))
STAGE = PoolStage(groups=((0, 1), (1, 2, 3)), edges=((0, 1),))


def naive_conv(
    conv: SpaceTimeConv, x_BJTC: Tensor, edges: tuple[tuple[int, int], ...], *, is_causal: bool = True
) -> Tensor:
    """The layer written out joint by joint and frame by frame."""
    beside, first = ((-1, 0, 1), -2) if is_causal else ((0,), -1)
    _, joints, frames, _ = x_BJTC.shape
    near = {j: {j} | {b for a, b in edges if a == j} | {a for a, b in edges if b == j} for j in range(joints)}
    rows = []
    for j in range(joints):
        for t in range(frames):
            sent = torch.stack([conv.near(x_BJTC[:, i, t]) for i in sorted(near[j])]).sum(0)
            y_BC = conv.own(x_BJTC[:, j, t]) + sent / len(near[j]) + conv.conv.bias
            for row, dj in enumerate(beside):
                for tap in (0, 1, 2):
                    if 0 <= j + dj < joints and 0 <= t + first + tap < frames:
                        y_BC = y_BC + x_BJTC[:, j + dj, t + first + tap] @ conv.conv.weight[:, :, row, tap].T
            rows.append(y_BC)
    return torch.stack(rows, dim=1).unflatten(1, (joints, frames))


def test_neighbours_of_the_body_are_its_bones():
    average_JJ = neighbour_average(SMPL22.num_joints, SMPL22.edges)
    torch.testing.assert_close(average_JJ.sum(1), torch.ones(22))
    spine = SMPL22.index("spine3")
    assert set(average_JJ[spine].nonzero().flatten().tolist()) == {6, 9, 12, 13, 14}
    assert ((average_JJ > 0) == (average_JJ.T > 0)).all()


@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "centred"])
def test_conv_equals_the_layer_written_out_in_values_and_gradients(is_causal: bool):
    torch.manual_seed(0)
    conv = SpaceTimeConv(4, EDGES, 3, is_causal=is_causal).double()
    conv.near_JJ = neighbour_average(4, EDGES).double()
    x_BJTC = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    expected, actual = naive_conv(conv, x_BJTC, EDGES, is_causal=is_causal), conv(x_BJTC)
    torch.testing.assert_close(actual, expected)
    given = [x_BJTC, *conv.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((actual * weight).sum(), given),
        torch.autograd.grad((expected * weight).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_frames_that_are_not_valid_are_as_the_border_is():
    torch.manual_seed(4)
    valid_BT = torch.arange(7) < torch.tensor([7, 4])[:, None]
    x_BJTC = torch.randn(2, 4, 7, 3)
    block = ResidualBlock(4, EDGES, 3, dropout=0.5, is_causal=False, activation=F.gelu).eval()
    torch.testing.assert_close(block(x_BJTC, valid_BT)[1:, :, :4], block(x_BJTC[1:, :, :4]))
    conv = block.first
    plain = x_BJTC + block.second(F.gelu(conv(F.gelu(x_BJTC))))
    torch.testing.assert_close(block(x_BJTC, valid_BT)[:1], plain[:1])


def test_each_joint_has_its_own_linear_layer():
    torch.manual_seed(2)
    layer = JointLinear(4, 5, 3)
    x_BJTI = torch.randn(2, 4, 6, 5)
    expected = [F.linear(x_BJTI[:, j], layer.weight_JIO[j].T, layer.bias_JO[j]) for j in range(4)]
    torch.testing.assert_close(layer(x_BJTI), torch.stack(expected, dim=1))


def test_residual_block_adds_to_its_input_and_drops_only_in_training():
    torch.manual_seed(3)
    block = ResidualBlock(4, EDGES, 3, dropout=0.5)
    x_BJTC = torch.randn(1, 4, 6, 3)
    expected = x_BJTC + block.second(F.silu(block.first(F.silu(x_BJTC))))
    torch.testing.assert_close(block.eval()(x_BJTC), expected)
    change = block.train()(x_BJTC) - x_BJTC
    dropped = change == 0
    assert 0 < dropped.float().mean() < 1
    torch.testing.assert_close(change[~dropped], (2 * (expected - x_BJTC))[~dropped])


def test_pool_averages_groups_and_pairs_of_frames():
    x_BJTC = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 4.0], [1.0, 7.0]])[None, :, :, None]
    torch.testing.assert_close(Pool(4, STAGE)(x_BJTC).flatten(), torch.tensor([4.0, 4.0]))


def test_unpool_copies_to_joints_and_draws_frames_out_within_their_span():
    x_BGTC = torch.tensor([[1.0, 5.0, 0.0, 4.0], [2.0, 6.0, 8.0, 8.0]])[None, :, :, None]
    one = Unpool(4, STAGE, span=1)(x_BGTC)[0, ..., 0]
    torch.testing.assert_close(one[0], torch.tensor([1.0, 1, 5, 5, 0, 0, 4, 4]))
    two = Unpool(4, STAGE, span=2)(x_BGTC)[0, ..., 0]
    torch.testing.assert_close(two[0], torch.tensor([1.0, 2, 4, 5, 0, 1, 3, 4]))
    torch.testing.assert_close(two[1], torch.tensor([3.0, 5, 9, 11, 8, 9, 11, 12]))  # of both groups: their sum
    torch.testing.assert_close(two[2], two[3])


def test_unpool_draws_frames_out_through_the_valid_motion():
    x_BGTC = torch.tensor([[1.0, 5.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])[None, :, :, None]
    whole = Unpool(4, STAGE, span=None)(x_BGTC)[0, 0, :, 0]
    torch.testing.assert_close(whole, torch.tensor([1.0, 2, 4, 3.75, 1.25, 1, 3, 4]))
    part = Unpool(4, STAGE, span=None)(x_BGTC, torch.tensor([[True, True, False, False]]))[0, 0, :4, 0]
    torch.testing.assert_close(part, torch.tensor([1.0, 2, 4, 5]))


def test_every_joint_of_the_body_is_in_some_group():
    for joints, stage in ((22, SMPL22.pools[0]), (12, SMPL22.pools[1])):
        assert (group_membership(joints, stage).sum(0) > 0).all()


def test_a_span_that_has_no_rule_is_refused():
    with pytest.raises(ValueError, match="span of 4"):
        Unpool(4, STAGE, span=4)
