"""How far an error of a latent frame moves the motion that it decodes to.

Legend: B batch, L latent frames, P = 2 persons, Z latent numbers of a person-frame, T frames, F features, J joints,
S = P * B motions of one person, V valid latent frames of all of them.
"""

import math

import torch
from torch import Tensor

from intermoe.body.features import FeatureLayout, Normaliser
from intermoe.body.skeletons import Skeleton
from intermoe.layers.precision import in_full
from intermoe.networks.codec import LatentCodec
from intermoe.networks.vae import STRIDE

# The share of the plain square: numbers that the decoder hardly reads must not drift away from what it knows.
_PLAIN = 0.05
# Gradients, as a multiple of Z: of Z = 112 an error's square is then known to 3%, for the motions that are looked at.
_GRADIENTS = 32
# Motions that are decoded at a time: their activations stay in memory.
_AT_A_TIME = 8
# What a decimetre at the hands, feet and head weighs beside a standard deviation of a feature.
_END_EFFECTOR = 0.3


@torch.enable_grad()
def decoder_metric(codec: LatentCodec, latent_BLPZ: Tensor, mask_BL: Tensor, seed: int = 0) -> Tensor:
    """The matrix R [Z, Z] by which errors e of a latent frame are to be multiplied: |e R|^2 = e^T G e, G = R R^T.

    G is the mean over latent frames of J^T J, where J is the derivative of all decoded features by that frame, in the
    units of ``feature_weights``: to first order, e^T G e is the squared error of the motion. It is estimated without J,
    by the gradients J^T u of random sums u of the features, whose squares have that mean. G is scaled to a mean of 1 on
    its diagonal, as plain squares have it, and a twentieth of it is the identity.

    Args:
        codec: whose decoder is looked at, in evaluation mode.
        latent_BLPZ: latents of motions, as many as may be.
        mask_BL: bool, the valid latent frames. A motion with a latent number that is not finite is left out.
        seed: of the random sums.

    Returns:
        R; the identity where no latent frame is valid.
    """
    vae = codec.require_vae()
    is_finite_B = latent_BLPZ.isfinite().flatten(1).all(dim=1)
    latent_BLPZ = latent_BLPZ.detach().where(is_finite_B[:, None, None, None], 0)
    mask_BL = mask_BL & is_finite_B[:, None]
    size, device = latent_BLPZ.shape[-1], latent_BLPZ.device
    if not mask_BL.any():
        return torch.eye(size).to(latent_BLPZ)
    scale_F = feature_weights(codec.normaliser, codec.skeleton).sqrt()
    passes = math.ceil(_GRADIENTS * size / (latent_BLPZ.shape[2] * int(mask_BL.sum())))
    random = torch.Generator().manual_seed(seed)
    metric_ZZ = latent_BLPZ.new_zeros(size, size)
    for some_BLPZ, some_BL in zip(latent_BLPZ.split(_AT_A_TIME), mask_BL.split(_AT_A_TIME), strict=True):
        latent_SLZ = some_BLPZ.transpose(1, 2).flatten(0, 1).requires_grad_()
        mask_SL = some_BL.repeat_interleave(some_BLPZ.shape[2], dim=0)
        with in_full(device):
            features_STF = vae.decode(latent_SLZ.unflatten(-1, (vae.num_latent_joints, -1)))
        scale_STF = mask_SL.repeat_interleave(STRIDE, dim=1)[..., None] * scale_F
        for _ in range(passes):
            sum_STF = torch.randn(features_STF.shape, generator=random).to(features_STF) * scale_STF
            (gradient_SLZ,) = torch.autograd.grad(features_STF, latent_SLZ, sum_STF, retain_graph=True)
            gradient_VZ = gradient_SLZ[mask_SL]
            metric_ZZ += gradient_VZ.mT @ gradient_VZ
    metric_ZZ = metric_ZZ / metric_ZZ.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.linalg.cholesky(torch.lerp(metric_ZZ, torch.eye(size).to(metric_ZZ), _PLAIN))


def feature_weights(normaliser: Normaliser, skeleton: Skeleton) -> Tensor:
    """How much the squared error of each normalised feature weighs [F].

    Each weighs 1, and the places of hands, feet and head besides by their error in decimetres: the unit of a normalised
    position is how far people walk, which says little of where they touch each other and the ground.
    """
    weight_F = torch.ones_like(normaliser.std_F)
    weight_J3, std_J3 = (
        x_F[FeatureLayout.of(skeleton).positions].unflatten(-1, (-1, 3)) for x_F in (weight_F, normaliser.std_F)
    )
    ends = list(skeleton.end_effectors)
    weight_J3[ends] += _END_EFFECTOR * (10 * std_J3[ends]).square()
    return weight_F
