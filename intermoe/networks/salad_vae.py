"""SALAD's VAE: one person's motion <-> a few latent joints at a quarter of the frame rate (Hong et al. 2025).

It is what InterMoE's Causal-Skeletal VAE was made from: a graph convolution over the skeleton and, joint by joint, a
convolution over time that sees the frame before and the one after. So what follows a motion must be as the border is,
zeros to every convolution: encoding and decoding take a mask. (The published code pads with zeros and lets them become
other numbers within.)

Legend: B batch, T frames, F features of a frame, J joints, C channels, N numbers of the joint that has most.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermoe.body.features import FeatureLayout
from intermoe.body.skeletons import Skeleton
from intermoe.layers.skeletal import JointLinear, joint_linear
from intermoe.networks.vae import SkeletalVae, VaeConfig, VaeKind


def features_of_joints(skeleton: Skeleton) -> list[list[int]]:
    """For each joint, which features are its own: each feature is one joint's.

    Of the kind "heading" the four numbers of the root are with its velocity: 7 numbers in all; other joints have 3 of
    position, 6 of rotation, 3 of velocity, and 1 of contact where they touch the ground.

    Example:
        >>> from intermoe.body.skeletons import HUMANML22
        >>> joints = features_of_joints(HUMANML22)
        >>> joints[0], len(joints[1]), len(joints[7])
        ([0, 1, 2, 3, 193, 194, 195], 12, 13)
    """
    layout = FeatureLayout.of(skeleton)
    numbers = [list(range(layout.root.start, layout.root.stop)), *([] for _ in skeleton.parents[1:])]
    for part, size in ((layout.positions, 3), (layout.rotations, 6), (layout.velocities, 3)):
        # What the root has no number of begins with joint 1.
        first = skeleton.num_joints - (part.stop - part.start) // size
        for number in range(part.start, part.stop):
            numbers[first + (number - part.start) // size].append(number)
    for number, contact in zip(range(layout.contacts.start, layout.contacts.stop), skeleton.contacts, strict=True):
        numbers[contact.joint].append(number)
    return numbers


class _PerFeature(nn.Module):
    """Weights of each feature, [F, C], and where the features of each joint are."""

    feature_JN: Tensor
    place_F: Tensor

    def __init__(self, skeleton: Skeleton, width: int, bounds: list[float]) -> None:
        """Weights start uniform within the bounds, one for each feature."""
        super().__init__()
        numbers = features_of_joints(skeleton)
        most = max(map(len, numbers))
        # Joints with fewer numbers are filled up with a feature beyond the last, which is zero.
        feature_JN = torch.tensor([own + [skeleton.num_features] * (most - len(own)) for own in numbers])
        places = {feature: joint * most + n for joint, own in enumerate(numbers) for n, feature in enumerate(own)}
        place_F = torch.tensor([places[feature] for feature in range(skeleton.num_features)])
        self.register_buffer("feature_JN", feature_JN, persistent=False)
        self.register_buffer("place_F", place_F, persistent=False)
        self.weight_FC = nn.Parameter(_uniform(bounds, width))

    def weight_JNC(self) -> Tensor:
        """The weights of each joint's numbers."""
        return F.pad(self.weight_FC, (0, 0, 0, 1))[self.feature_JN]


class FeaturesIn(_PerFeature):
    """Features of a frame -> channels of each joint, by a two-layer perceptron of each joint's own."""

    def __init__(self, skeleton: Skeleton, width: int) -> None:
        counts = {feature: len(own) for own in features_of_joints(skeleton) for feature in own}
        super().__init__(skeleton, width, [counts[feature] ** -0.5 for feature in range(skeleton.num_features)])
        bounds = [len(own) ** -0.5 for own in features_of_joints(skeleton)]
        self.bias_JC = nn.Parameter(_uniform(bounds, width))
        self.second = JointLinear(skeleton.num_joints, width, width)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """[B, T, F] -> [B, J, T, C]."""
        x_BTJN = F.pad(x_BTF, (0, 1))[..., self.feature_JN]
        hidden_BJTC = joint_linear(x_BTJN.transpose(1, 2), self.weight_JNC(), self.bias_JC)
        return self.second(F.gelu(hidden_BJTC)).contiguous()


class FeaturesOut(_PerFeature):
    """Channels of each joint -> features of a frame, by a two-layer perceptron of each joint's own."""

    def __init__(self, skeleton: Skeleton, width: int) -> None:
        bounds = [width**-0.5] * skeleton.num_features
        super().__init__(skeleton, width, bounds)
        self.first = JointLinear(skeleton.num_joints, width, width)
        self.bias_F = nn.Parameter(_uniform(bounds, 1).squeeze(1))

    def forward(self, x_BJTC: Tensor) -> Tensor:
        """[B, J, T, C] -> [B, T, F]."""
        hidden_BJTC = F.gelu(self.first(x_BJTC))
        bias_JN = F.pad(self.bias_F, (0, 1))[self.feature_JN]
        y_BJTN = joint_linear(hidden_BJTC, self.weight_JNC().mT, bias_JN)
        return y_BJTN.transpose(1, 2).flatten(2).index_select(2, self.place_F)


def _uniform(bounds: list[float], width: int) -> Tensor:
    """Numbers [len(bounds), width], each uniform within the bound of its row."""
    unit = torch.empty(len(bounds), width).uniform_(-1, 1)
    return unit.new_tensor(bounds)[:, None] * unit


class SaladVae(SkeletalVae):
    """SALAD's VAE; the published one has 32 channels throughout.

    Example:
        >>> from intermoe.body.skeletons import HUMANML22
        >>> vae = SaladVae(VaeConfig(width=32, latent=32), HUMANML22).eval()
        >>> posterior = vae.encode(torch.zeros(1, 14, 263))
        >>> posterior.mean_BLNC.shape, vae.decode(posterior.mean_BLNC).shape
        (torch.Size([1, 3, 7, 32]), torch.Size([1, 12, 263]))
    """

    joints_in: FeaturesIn
    joints_out: FeaturesOut

    def __init__(self, config: VaeConfig, skeleton: Skeleton) -> None:
        super().__init__(config, skeleton, VaeKind(FeaturesIn, FeaturesOut, is_causal=False, activation=F.gelu))
