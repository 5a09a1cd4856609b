"""Layers over the joints of a skeleton and the frames of a motion: the parts of the Causal-Skeletal VAE.

Everything that depends on the skeleton is a small matrix made from its edges or its pooling groups. Activations lie
in memory as [B, J, T, C]: a sum over joints is then one product with a J x J matrix per sample, and the convolution
over (joint, time) runs channels-last without a copy.

Legend: B batch, J joints (of whatever graph the layer lives on), G joints of the coarser graph, T frames, C channels,
I channels in, O channels out, X = B * T.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermoe.body.skeletons import PoolStage

# Frames before the present that a causal convolution of width 3 sees.
_MEMORY = 2


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
    """Graph convolution over the skeleton plus a causal 3 x 3 convolution over (joint index, time).

    Graph: y_j = W_own x_j + mean over j and its neighbours of W_near x. ``W_own`` is one more tap in the middle of the
    convolution's kernel, at the present frame, and is added to it there rather than applied on its own.
    """

    near_JJ: Tensor

    def __init__(self, num_joints: int, edges: Sequence[tuple[int, int]], width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.near = nn.Linear(width, width)
        self.conv = nn.Conv2d(width, width, kernel_size=3)  # (joint, time)
        self.register_buffer("near_JJ", neighbour_average(num_joints, edges), persistent=False)

    def forward(self, x_BJTC: Tensor) -> Tensor:
        """Same shape; frame t depends on frames up to t only, and zeros come before the first."""
        seen_BJTC = F.pad(x_BJTC, (0, 0, _MEMORY, 0))
        kernel = self.conv.weight + F.pad(self.own.weight[:, :, None, None], (_MEMORY, 0, 1, 1))
        local_BCJT = F.conv2d(seen_BJTC.permute(0, 3, 1, 2), kernel, self.conv.bias, padding=(1, 0))
        # An average leaves a constant as it is, so the bias of ``own`` may pass through it too.
        sent_BJTC = F.linear(x_BJTC, self.near.weight, self.near.bias + self.own.bias)
        return local_BCJT.permute(0, 2, 3, 1) + mix_joints(self.near_JJ, sent_BJTC)


class ResidualBlock(nn.Module):
    """x + dropout(conv(SiLU(conv(SiLU(x)))))."""

    def __init__(self, num_joints: int, edges: Sequence[tuple[int, int]], width: int, dropout: float) -> None:
        super().__init__()
        self.first = SpaceTimeConv(num_joints, edges, width)
        self.second = SpaceTimeConv(num_joints, edges, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BJTC: Tensor) -> Tensor:
        """Same shape."""
        hidden_BJTC = self.first(F.silu(x_BJTC))
        return x_BJTC + self.dropout(self.second(F.silu(hidden_BJTC)))


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

    Frames are drawn out within a *span*, the frames that came of one latent frame: [B, G, T, C] -> [B, J, 2T, C].
    """

    spread_JG: Tensor

    def __init__(self, num_joints: int, stage: PoolStage, span: int) -> None:
        super().__init__()
        if span not in (1, 2):
            raise ValueError(f"a span of {span} frames; only 1 and 2 are drawn out")
        self.span = span
        self.register_buffer("spread_JG", group_membership(num_joints, stage).T.contiguous(), persistent=False)

    def forward(self, x_BGTC: Tensor) -> Tensor:
        """A lone frame is repeated; a pair (a, b) becomes a, .75a + .25b, .25a + .75b, b."""
        x_BJTC = mix_joints(self.spread_JG, x_BGTC)
        if self.span == 1:
            return x_BJTC.repeat_interleave(2, dim=2)
        a, b = x_BJTC.unflatten(2, (-1, 2)).unbind(3)
        return torch.stack([a, torch.lerp(a, b, 0.25), torch.lerp(a, b, 0.75), b], dim=3).flatten(2, 3)
