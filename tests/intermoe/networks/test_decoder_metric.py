"""Legend: B batch, L latent frames, P = 2 persons, Z = NC latent numbers, F features, J joints, M = 66 positions."""

import pytest
import torch
from torch import Tensor

from intermoe.body.features import Normaliser
from intermoe.body.skeletons import SMPL22
from intermoe.networks.codec import LatentCodec
from intermoe.networks.decoder_metric import decoder_metric, feature_weights
from intermoe.networks.vae import CausalSkeletalVae, VaeConfig

SIZES = VaeConfig(width=8, latent=3, blocks=1, dropout=0.0)


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    torch.manual_seed(0)
    codec = LatentCodec(CausalSkeletalVae(SIZES, SMPL22), SMPL22, 4).eval()
    codec.normaliser = Normaliser.from_moments(torch.zeros(262), torch.rand(262) + 0.1)
    return codec.requires_grad_(requires_grad=False)


def latents(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, frames, 2, 21, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_it_squares_errors_as_the_decoded_motion_does(codec: LatentCodec) -> None:
    """Against central differences at the middle of other motions of the same distribution."""
    mask_BL = torch.ones(200, 12, dtype=torch.bool)
    root_ZZ = decoder_metric(codec, latents(200, 12), mask_BL)
    metric_ZZ = root_ZZ @ root_ZZ.T
    assert float(metric_ZZ.diagonal().mean()) == pytest.approx(1, rel=1e-4)
    ours = ((metric_ZZ - 0.05 * torch.eye(21)) / 0.95).double()
    weight_F = feature_weights(codec.normaliser, SMPL22).double()
    exact = LatentCodec(CausalSkeletalVae(SIZES, SMPL22), SMPL22, 4).double().eval().requires_grad_(requires_grad=False)
    exact.load_state_dict(codec.state_dict())
    z_BLPZ, ratios = latents(64, 12, seed=1).double(), []
    for number in range(8):
        error_Z = torch.randn(21, generator=torch.Generator().manual_seed(number)).double()
        nudge_BLPZ = torch.zeros_like(z_BLPZ)
        nudge_BLPZ[:, 5] = 1e-4 * error_Z
        moved = (
            exact.normaliser.normalise(exact.decode(z_BLPZ + nudge_BLPZ))
            - exact.normaliser.normalise(exact.decode(z_BLPZ - nudge_BLPZ))
        ) / 2e-4
        ratios.append(float((weight_F * moved.square()).sum() / (64 * 2) / (error_Z @ ours @ error_Z)))
    # The scale is open; all directions have the same.
    assert max(ratios) / min(ratios) == pytest.approx(1, abs=0.12)


def test_padding_and_the_features_of_others_change_nothing(codec: LatentCodec) -> None:
    z_BLPZ, mask_BL = latents(6, 10), torch.arange(10) < torch.tensor([10, 4, 7, 10, 2, 9])[:, None]
    other_BLPZ = z_BLPZ.where(mask_BL[:, :, None, None], 100.0)
    expected_ZZ = decoder_metric(codec, z_BLPZ, mask_BL)
    torch.testing.assert_close(decoder_metric(codec, other_BLPZ, mask_BL), expected_ZZ)


def test_motions_that_are_not_finite_are_left_out(codec: LatentCodec) -> None:
    z_BLPZ, mask_BL = latents(6, 10), torch.ones(6, 10, dtype=torch.bool)
    z_BLPZ[4, 3, 1, 2] = torch.nan
    without_BL = mask_BL.clone()
    without_BL[4] = False
    found_ZZ = decoder_metric(codec, z_BLPZ, mask_BL)
    assert found_ZZ.isfinite().all()
    torch.testing.assert_close(found_ZZ, decoder_metric(codec, latents(6, 10), without_BL))


def test_it_is_the_same_again_and_leaves_no_gradient(codec: LatentCodec) -> None:
    z_BLPZ, mask_BL = latents(4, 10), torch.ones(4, 10, dtype=torch.bool)
    with torch.no_grad():
        first = decoder_metric(codec, z_BLPZ, mask_BL, seed=3)
    assert torch.equal(first, decoder_metric(codec, z_BLPZ, mask_BL, seed=3))
    assert not torch.equal(first, decoder_metric(codec, z_BLPZ, mask_BL, seed=4))
    assert not first.requires_grad
    assert not z_BLPZ.requires_grad
    assert all(parameter.grad is None for parameter in codec.parameters())


def test_ends_of_limbs_weigh_by_their_decimetres() -> None:
    std_F = torch.linspace(0.1, 1.5, 262)
    weight_F = feature_weights(Normaliser.from_moments(torch.zeros(262), std_F), SMPL22)
    expected_F = torch.ones(262)
    for joint in SMPL22.end_effectors:
        for axis in range(3):
            expected_F[3 * joint + axis] = 1 + 0.3 * (10 * std_F[3 * joint + axis]) ** 2
    torch.testing.assert_close(weight_F, expected_F)
