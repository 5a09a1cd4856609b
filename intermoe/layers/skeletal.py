"""Layers over the joints of a skeleton and the frames of a motion: the parts of the skeletal VAEs.

A layer is *causal* (a frame sees itself and those before) or *centred* (it sees as many after it). What is centred
takes the valid frames: the others are zeros to them, so that padding is as the border of the motion.

Everything that depends on the skeleton is a small matrix made from its edges or its pooling groups. Activations lie
in memory as [B, J, T, C]: a sum over joints is then one product with a J x J matrix per sample, and the convolution
over (joint, time) runs channels-last without a copy.

Legend: B batch, J joints (of whatever graph the layer lives on), G joints of the coarser graph, T frames, C channels,
I channels in, O channels out, X = B * T.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermoe.body.skeletons import PoolStage

# Frames that a convolution sees.
_KERNEL = 3


def neighbour_average(num_joints: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Matrix [J, J] whose product with a signal on the joints averages each joint with its neighbours.

    Example:
        >>> neighbour_average(3, [(0, 1), (1, 2)])
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333],
                [0.0000, 0.5000, 0.5000]])
    """
    touches_JJ = torch.eye(num_joints)
    for a, b in edges:
        touches_JJ[a, b] = touches_JJ[b, a] = 1
    return touches_JJ / touches_JJ.sum(1, keepdim=True)


def group_membership(num_joints: int, stage: PoolStage) -> Tensor:
    """Matrix [G, J] that is 1 where group g holds joint j."""
    member_GJ = torch.zeros(len(stage.groups), num_joints)
    for row, group in zip(member_GJ, stage.groups, strict=True):
        row[list(group)] = 1
    return member_GJ


def mix_joints(matrix_GJ: Tensor, x_BJTC: Tensor) -> Tensor:
    """Sums over joints with the weights of a matrix: [B, J, T, C] -> [B, G, T, C]."""
    return torch.matmul(matrix_GJ, x_BJTC.flatten(2)).unflatten(2, x_BJTC.shape[2:])


class JointLinear(nn.Module):
    """One linear layer per joint, all in one batched product: [B, J, T, I] -> [B, J, T, O]."""

    def __init__(self, num_joints: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight_JIO = nn.Parameter(torch.empty(num_joints, inputs, outputs).uniform_(-bound, bound))
        self.bias_JO = nn.Parameter(torch.empty(num_joints, outputs).uniform_(-bound, bound))

    def forward(self, x_BJTI: Tensor) -> Tensor:
        """Each joint's channels times its own weights."""
        return joint_linear(x_BJTI, self.weight_JIO, self.bias_JO)


def joint_linear(x_BJTI: Tensor, weight_JIO: Tensor, bias_JO: Tensor) -> Tensor:
    """One matrix and one bias per joint: [B, J, T, I] -> [B, J, T, O]."""
    x_JXI = x_BJTI.transpose(0, 1).flatten(1, 2)
    y_JXO = torch.baddbmm(bias_JO[:, None], x_JXI, weight_JIO)
    return y_JXO.unflatten(1, (x_BJTI.shape[0], x_BJTI.shape[2])).transpose(0, 1)


class SpaceTimeConv(nn.Module):
    """Graph convolution over the skeleton plus a convolution over time, or over (joint index, time).

    Graph: y_j = W_own x_j + mean over j and its neighbours of W_near x. ``W_own`` is one more tap in the middle of the
    convolution's kernel, at the present frame, and is added to it there rather than applied on its own.
    """

    near_JJ: Tensor

    def __init__(
        self, num_joints: int, edges: Sequence[tuple[int, int]], width: int, *, is_causal: bool = True
    ) -> None:
        """Build the layer.

        Args:
            num_joints: J of the graph.
            edges: of the graph.
            width: channels.
            is_causal: whether it looks at this frame and the two before, in the joints with the numbers next to it
                too, or at this frame and those beside it, in its own joint.
        """
        super().__init__()
        self.past = _KERNEL - 1 if is_causal else _KERNEL // 2
        self.own = nn.Linear(width, width)
        self.near = nn.Linear(width, width)
        self.conv = nn.Conv2d(width, width, kernel_size=(_KERNEL if is_causal else 1, _KERNEL))  # (joint, time)
        self.register_buffer("near_JJ", neighbour_average(num_joints, edges), persistent=False)

    def forward(self, x_BJTC: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Same shape; zeros come before the first frame, and after the last.

        Args:
            x_BJTC: what is convolved.
            valid_BT: bool, the valid frames; all where none is given. The others are zeros to them.
        """
        x_BJTC = _zero_beyond(x_BJTC, valid_BT)
        future = _KERNEL - 1 - self.past
        seen_BJTC = F.pad(x_BJTC, (0, 0, self.past, future))
        beside = self.conv.kernel_size[0] // 2
        kernel = self.conv.weight + F.pad(self.own.weight[:, :, None, None], (self.past, future, beside, beside))
        local_BCJT = F.conv2d(seen_BJTC.permute(0, 3, 1, 2), kernel, self.conv.bias, padding=(beside, 0))
        # An average leaves a constant as it is, so the bias of ``own`` may pass through it too.
        sent_BJTC = F.linear(x_BJTC, self.near.weight, self.near.bias + self.own.bias)
        return local_BCJT.permute(0, 2, 3, 1) + mix_joints(self.near_JJ, sent_BJTC)


class ResidualBlock(nn.Module):
    """x + dropout(conv(activation(conv(activation(x)))))."""

    def __init__(
        self,
        num_joints: int,
        edges: Sequence[tuple[int, int]],
        width: int,
        dropout: float,
        *,
        is_causal: bool = True,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        """Build the block.

        Args:
            num_joints: J of the graph.
            edges: of the graph.
            width: channels.
            dropout: of what it adds.
            is_causal: see ``SpaceTimeConv``.
            activation: before each convolution.
        """
        super().__init__()
        self.first = SpaceTimeConv(num_joints, edges, width, is_causal=is_causal)
        self.second = SpaceTimeConv(num_joints, edges, width, is_causal=is_causal)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x_BJTC: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Same shape; arguments as for ``SpaceTimeConv``."""
        hidden_BJTC = self.first(self.activation(x_BJTC), valid_BT)
        return x_BJTC + self.dropout(self.second(self.activation(hidden_BJTC), valid_BT))


class Pool(nn.Module):
    """Average over the joints of each group, then over pairs of frames: [B, J, T, C] -> [B, G, T / 2, C]."""

    average_GJ: Tensor

    def __init__(self, num_joints: int, stage: PoolStage) -> None:
        super().__init__()
        member_GJ = group_membership(num_joints, stage)
        self.register_buffer("average_GJ", member_GJ / member_GJ.sum(1, keepdim=True), persistent=False)

    def forward(self, x_BJTC: Tensor) -> Tensor:
        """Half the frames, one joint per group."""
        return mix_joints(self.average_GJ, x_BJTC.unflatten(2, (-1, 2)).mean(3))


class Unpool(nn.Module):
    """Copy each group to its joints (a joint of several groups gets their sum), then twice the frames.

    Frames are drawn out within a *span*, the frames that came of one latent frame, or through the whole motion:
    [B, G, T, C] -> [B, J, 2T, C].
    """

    spread_JG: Tensor

    def __init__(self, num_joints: int, stage: PoolStage, span: int | None) -> None:
        super().__init__()
        if span not in (None, 1, 2):
            raise ValueError(f"a span of {span} frames; only 1 and 2 are drawn out")
        self.span = span
        self.register_buffer("spread_JG", group_membership(num_joints, stage).T.contiguous(), persistent=False)

    def forward(self, x_BGTC: Tensor, valid_BT: Tensor | None = None) -> Tensor:
        """Twice the frames, all joints.

        Within spans a lone frame is repeated, and a pair (a, b) becomes a, .75a + .25b, .25a + .75b, b. Through the
        motion, a frame becomes two, each with a quarter of its neighbour on that side, or of itself where it has none.

        Args:
            x_BGTC: what is drawn out.
            valid_BT: bool, the valid frames; all where none is given. The others are no neighbours.
        """
        x_BJTC = mix_joints(self.spread_JG, x_BGTC)
        if self.span is None:
            before_BJTC, after_BJTC = x_BJTC[:, :, :-1], x_BJTC[:, :, 1:]
            if valid_BT is not None:
                after_BJTC = after_BJTC.where(valid_BT[:, None, 1:, None], x_BJTC[:, :, :-1])
            before_BJTC = torch.cat([x_BJTC[:, :, :1], before_BJTC], dim=2)
            after_BJTC = torch.cat([after_BJTC, x_BJTC[:, :, -1:]], dim=2)
            both = [torch.lerp(x_BJTC, near_BJTC, 0.25) for near_BJTC in (before_BJTC, after_BJTC)]
            return torch.stack(both, dim=3).flatten(2, 3)
        if self.span == 1:
            return x_BJTC.repeat_interleave(2, dim=2)
        a, b = x_BJTC.unflatten(2, (-1, 2)).unbind(3)
        return torch.stack([a, torch.lerp(a, b, 0.25), torch.lerp(a, b, 0.75), b], dim=3).flatten(2, 3)


def _zero_beyond(x_BJTC: Tensor, valid_BT: Tensor | None) -> Tensor:
    """The same with zeros in the frames that are not valid."""
    return x_BJTC if valid_BT is None else x_BJTC.where(valid_BT[:, None, :, None], 0)
