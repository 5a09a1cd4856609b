"""Losses of the motion that a denoiser's prediction stands for: those that InterGen is trained with.

Each is a mean over frames, of both persons or of the pair, where the timestep is low enough for a prediction to look
like motion (Liang et al. 2024, section 4.3; weights and thresholds as in the published code).

Legend: B batch, T frames, P = 2 persons, F features, J joints, R = J - 1 bones, K contacts, M = T - 1 steps, N joints
of the other person.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor

from intermoe.body.features import CONTACT_SQUARED_STEP, joints_from_features
from intermoe.body.skeletons import Skeleton
from intermoe.config import Config
from intermoe.networks.by_name import NetworkName, persons_of

# Joints of the two people that are nearer than this, metres: as predicted, and as they are.
_NEAR, _TOUCHING = 1.0, 0.1
# Hips that are less far apart along the ground, metres, tell nothing of where a person faces.
_HIPS_APART = 1e-3


class GeometricLossConfig(Config):
    """Weights of the losses of the motion; 0 leaves a loss out, and None is the network's own (see ``LOSSES``).

    Attributes:
        velocity: error of the joints' steps from frame to frame, squared metres.
        foot_contact: steps of feet that the prediction has low and slow, as those of standing feet; squared metres.
        bone_length: error of the lengths of bones, squared metres.
        distance_map: error of the distances between joints of the two people, where they are predicted below a metre.
        affinity: predicted distances of joints of the two people that are within 10 cm, squared metres.
        orientation: error of where the one faces as the other sees it, by sine and cosine of half the angle.
        up_to: the share of the diffusion's steps up to which these losses count.
    """

    velocity: float | None = Field(default=None, ge=0)
    foot_contact: float | None = Field(default=None, ge=0)
    bone_length: float | None = Field(default=None, ge=0)
    distance_map: float | None = Field(default=None, ge=0)
    affinity: float | None = Field(default=None, ge=0)
    orientation: float | None = Field(default=None, ge=0)
    up_to: float = Field(default=0.7, gt=0, le=1)

    def weights(self, network: NetworkName) -> dict[str, float]:
        """The weight of each loss that counts in the training of a network.

        Raises:
            ValueError: the network is of one person, and a loss has a weight.

        Example:
            >>> GeometricLossConfig(velocity=0, bone_length=20).weights("intergen")
            {'foot_contact': 30.0, 'bone_length': 20.0, 'distance_map': 3.0, 'affinity': 3.0, 'orientation': 0.01}
        """
        own = LOSSES[network]
        chosen = {name: own.get(name, 0.0) if weight is None else weight for name, weight in self if name != "up_to"}
        counting = {name: weight for name, weight in chosen.items() if weight}
        if counting and persons_of(network) == 1:
            name, weight = next(iter(counting.items()))
            raise ValueError(
                f"train.denoiser.loss.{name} = {weight} with network = {network}, of one person (allowed: 0)"
            )
        return counting


_INTERGENS = {
    "velocity": 30.0,
    "foot_contact": 30.0,
    "bone_length": 10.0,
    "distance_map": 3.0,
    "affinity": 3.0,
    "orientation": 0.01,
}
LOSSES: Mapping[NetworkName, Mapping[str, float]] = MappingProxyType(
    {"intermoe": {}, "intergen": _INTERGENS, "timotion": _INTERGENS, "mdm": {}, "mld": {}, "salad": {}}
)
"""The weights of the losses of the motion that each network was published with; TIMotion's are InterGen's."""


def geometric_sums(
    predicted_BTPF: Tensor, true_BTPF: Tensor, mask_BT: Tensor, weight_B: Tensor, skeleton: Skeleton
) -> dict[str, Tensor]:
    """Each loss of ``GeometricLossConfig``, unweighted, summed so that dividing by the frames of both persons gives it.

    InterGen adds up the means of the two persons and of the pair, so each sum is twice that over the frames.

    Args:
        predicted_BTPF: raw features of both persons, in float32; so are the next.
        true_BTPF: of the clean motion.
        mask_BT: bool, valid frames.
        weight_B: of each sample.
        skeleton: whose joints these are.
    """
    predicted_BTPJ3, true_BTPJ3 = (joints_from_features(x_BTPF, skeleton) for x_BTPF in (predicted_BTPF, true_BTPF))
    errors = {
        "velocity": _velocity(predicted_BTPJ3, true_BTPJ3),
        "foot_contact": _foot_contact(predicted_BTPJ3, skeleton),
        "bone_length": _bone_length(predicted_BTPJ3, true_BTPJ3, skeleton),
        **_between_people(predicted_BTPJ3, true_BTPJ3),
        "orientation": (_half_turn(predicted_BTPJ3, skeleton) - _half_turn(true_BTPJ3, skeleton)).square().mean(dim=-1),
    }
    step_BM = mask_BT[:, 1:] & mask_BT[:, :-1]
    sums = {}
    for name, error_BT in errors.items():
        valid_BT = mask_BT if error_BT.shape[1] == mask_BT.shape[1] else step_BM
        of_frames_BT = error_BT.flatten(2).sum(dim=-1) if error_BT.ndim == 3 else error_BT
        sums[name] = 2 * (of_frames_BT.masked_fill(~valid_BT, 0).sum(dim=1) * weight_B).sum()
    return sums


def counted(t_B: Tensor, up_to: float, steps: int) -> Tensor:
    """The weight [B] of samples by their timesteps: 0 beyond the share of the steps, and 1 in the mean over all steps.

    InterGen takes the mean over the frames of each sample, then over the samples of the batch that count. Here each
    frame has the same weight, and the mean number of samples that count stands for theirs: so the loss of a sample does
    not depend on the others, nor on how a batch is dealt to workers.

    Example:
        >>> counted(torch.tensor([0, 4, 5]), up_to=0.4, steps=10)
        tensor([2., 2., 0.])
    """
    last = int(up_to * steps)
    return (t_B <= last).float() * (steps / min(last + 1, steps))


def _velocity(predicted_BTPJ3: Tensor, true_BTPJ3: Tensor) -> Tensor:
    """[B, M, P]."""
    return (predicted_BTPJ3.diff(dim=1) - true_BTPJ3.diff(dim=1)).square().mean(dim=(-2, -1))


def _foot_contact(predicted_BTPJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """[B, M, P], the mean over the feet that stand; 0 where none does."""
    feet = [contact.joint for contact in skeleton.contacts]
    height_K = predicted_BTPJ3.new_tensor([contact.height for contact in skeleton.contacts])
    step_BMPK3 = predicted_BTPJ3[..., feet, :].diff(dim=1)
    squared_BMPK = step_BMPK3.square().sum(dim=-1)
    stands_BMPK = (squared_BMPK < CONTACT_SQUARED_STEP) & (predicted_BTPJ3[:, :-1, :, feet, 1] < height_K)
    return _mean_where(squared_BMPK / 3, stands_BMPK)


def _bone_length(predicted_BTPJ3: Tensor, true_BTPJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """[B, T, P]."""
    parents, children = (list(joints) for joints in zip(*skeleton.edges, strict=True))
    predicted_BTPR, true_BTPR = (
        (x_BTPJ3[..., children, :] - x_BTPJ3[..., parents, :]).norm(dim=-1) for x_BTPJ3 in (predicted_BTPJ3, true_BTPJ3)
    )
    return (predicted_BTPR - true_BTPR).square().mean(dim=-1)


def _between_people(predicted_BTPJ3: Tensor, true_BTPJ3: Tensor) -> dict[str, Tensor]:
    """The losses of the distances of all joints of one person from all of the other, [B, T] each."""
    predicted_BTJN, true_BTJN = (
        torch.cdist(x_BTPJ3[:, :, 0], x_BTPJ3[:, :, 1], compute_mode="donot_use_mm_for_euclid_dist")
        for x_BTPJ3 in (predicted_BTPJ3, true_BTPJ3)
    )
    off_BTJN = (predicted_BTJN - true_BTJN).square()
    return {
        "distance_map": _mean_where(off_BTJN.flatten(2), (predicted_BTJN < _NEAR).flatten(2)),
        "affinity": _mean_where(predicted_BTJN.square().flatten(2), (true_BTJN < _TOUCHING).flatten(2)),
    }


def _mean_where(x_BTN: Tensor, chosen_BTN: Tensor) -> Tensor:
    """The mean over the last dimension of what is chosen; 0 where nothing is."""
    return x_BTN.where(chosen_BTN, 0).sum(dim=-1) / chosen_BTN.sum(dim=-1).clamp(min=1)


def _half_turn(joints_BTPJ3: Tensor, skeleton: Skeleton) -> Tensor:
    """Cosine and sine of half the angle about y from where the first person faces to where the second does [B, T, 2].

    As published: the sine changes its sign where the two face each other.
    """
    across_BTP3 = joints_BTPJ3[..., skeleton.right_hip, :] - joints_BTPJ3[..., skeleton.left_hip, :]
    x_BTP, z_BTP = across_BTP3[..., 2], -across_BTP3[..., 0]
    # Hips above each other say nothing of where they face: they count as facing +z, and nothing moves them.
    is_known_BTP = x_BTP.square() + z_BTP.square() > _HIPS_APART**2
    (x1_BT, x2_BT), (z1_BT, z2_BT) = x_BTP.where(is_known_BTP, 0).unbind(2), z_BTP.where(is_known_BTP, 1).unbind(2)
    half_BT = torch.atan2(z1_BT * x2_BT - x1_BT * z2_BT, x1_BT * x2_BT + z1_BT * z2_BT) / 2
    return torch.stack([half_BT.cos(), half_BT.sin()], dim=-1)
