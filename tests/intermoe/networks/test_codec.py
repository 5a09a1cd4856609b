"""The codec without a VAE: what it encodes is the motion itself.

Legend: B batch, T frames, L latent frames, P = 2 persons, F features, Z latent numbers of a person-frame.
"""

import pytest
import torch

from intermoe.body.features import Normaliser
from intermoe.body.skeletons import SMPL22
from intermoe.errors import UserError
from intermoe.networks.codec import LatentCodec


@pytest.fixture
def codec() -> LatentCodec:
    rng = torch.Generator().manual_seed(0)
    codec = LatentCodec(None, SMPL22, 1)
    codec.normaliser = Normaliser.from_moments(torch.randn(262, generator=rng), torch.rand(262, generator=rng) + 0.5)
    return codec


def test_latents_are_normalised_features_frame_by_frame(codec):
    features_BTPF = torch.randn(2, 7, 2, 262)
    mask_BT = torch.arange(7) < torch.tensor([[7], [3]])
    latent_BLPZ = codec.encode(features_BTPF, mask_BT=mask_BT)
    assert (codec.stride, codec.latent) == (1, 262)
    mean_F, std_F = codec.normaliser.mean_F, codec.normaliser.std_F
    torch.testing.assert_close(latent_BLPZ[mask_BT], ((features_BTPF - mean_F) / std_F)[mask_BT])
    assert not latent_BLPZ[~mask_BT].any()
    torch.testing.assert_close(codec.decode(latent_BLPZ)[mask_BT], features_BTPF[mask_BT], atol=1e-5, rtol=0)


def test_there_is_nothing_to_draw(codec):
    features_BTPF = torch.randn(1, 5, 2, 262)
    noisy_BLPZ = codec.encode(features_BTPF, noise_BLPZ=torch.randn(1, 5, 2, 262))
    assert noisy_BLPZ.equal(codec.encode(features_BTPF))


def test_a_vae_is_asked_for_in_vain(codec):
    with pytest.raises(UserError) as caught:
        codec.require_vae()
    assert (
        str(caught.value)
        == "the network works on motion itself and has no VAE (allowed: network = intermoe, mld or salad)"
    )
    assert list(codec.state_dict()) == ["normaliser.mean_F", "normaliser.std_F"]
