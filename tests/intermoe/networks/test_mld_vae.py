"""MLD's VAE against a plain written-out form, its losses, and what padding and company must not change.

Legend: B batch, T frames, F features, C numbers of the latent, L = N = 1, J joints, D width.
"""

from functools import partial

import pytest
import torch
from plain_transformer import Weights, gelu_network, linear, skip_transformer
from torch import Tensor, nn

from intermoe.body.features import Normaliser
from intermoe.body.heading_features import heading_joints
from intermoe.body.skeletons import HUMANML22
from intermoe.errors import UserError
from intermoe.layers.precision import products_in
from intermoe.networks.mld_vae import MldVae, MldVaeConfig, MldVaeLossConfig, mld_vae_loss_counts, mld_vae_losses
from intermoe.networks.vae import Posterior

WIDTH, HEADS, LAYERS, FEATURES = 16, 4, 5, 263
SMALL = MldVaeConfig(width=WIDTH, layers=LAYERS, heads=HEADS, hidden=24, dropout=0.0, places=30)


def small_vae(seed: int = 0, config: MldVaeConfig = SMALL) -> MldVae:
    """A VAE whose norms and biases are random, so that nothing is without effect."""
    torch.manual_seed(seed)
    vae = MldVae(config, HUMANML22)
    for parameter in vae.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return vae.eval()


def inputs(lengths: tuple[int, ...] = (9, 5, 1)) -> tuple[Tensor, Tensor, Tensor]:
    """Features [B, T, F], the mask [B, T] and latents [B, 1, 1, C]."""
    rng = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x_BTF = torch.randn(len(lengths), max(lengths), FEATURES, generator=rng)
    return x_BTF, mask_BT, torch.randn(len(lengths), 1, 1, WIDTH, generator=rng)


# --- plain forms: one motion without padding --------------------------------------------------------------------------


def plain_encode(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of one motion."""
    sequence = torch.cat([weights["token_2D"], linear(weights, "embed_motion", x)])
    sequence = sequence + weights["encoder_place_SD"][: len(sequence)]
    feed = partial(gelu_network, weights)
    mean, logvar, *_ = skip_transformer(weights, "encoder", sequence, layers=LAYERS, heads=HEADS, feed=feed)
    return mean, logvar


def plain_decode(weights: Weights, z: Tensor, frames: int) -> Tensor:
    places, feed = weights["decoder_place_SD"][:frames], partial(gelu_network, weights)
    x = skip_transformer(weights, "decoder", places, z[None], layers=LAYERS, heads=HEADS, feed=feed)
    return linear(weights, "out", x)


def assert_gradients(vae: MldVae, weights: Weights) -> None:
    for key, parameter in vae.named_parameters():
        expected, found = weights[key].grad, parameter.grad
        if expected is None:
            assert found is None, key
            continue
        # Over a single token of memory there is nothing to choose: its queries and keys change nothing.
        scale = expected.abs().max().clamp(min=1e-6)
        assert (found - expected).abs().max() / scale < 1e-4, key


def test_encoding_is_that_of_a_plain_form_values_and_gradients() -> None:
    vae, (x_BTF, mask_BT, noise_BLNC) = small_vae(), inputs()
    posterior = vae.encode(x_BTF, mask_BT)
    (posterior.sample(noise_BLNC).square().sum() + posterior.kl().sum()).backward()
    weights = {key: value.detach().double().requires_grad_() for key, value in vae.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for row, frames in enumerate(mask_BT.sum(dim=1).tolist()):
        mean, logvar = plain_encode(weights, x_BTF[row, :frames].double())
        torch.testing.assert_close(posterior.mean_BLNC[row, 0, 0].double(), mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(posterior.logvar_BLNC[row, 0, 0].double(), logvar, atol=1e-5, rtol=0)
        drawn = mean + noise_BLNC[row, 0, 0] * (logvar / 2).exp()
        total = total + drawn.square().sum() + 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
    total.backward()
    assert_gradients(vae, weights)


def test_decoding_is_that_of_a_plain_form_values_and_gradients() -> None:
    vae, (_, mask_BT, z_BLNC) = small_vae(), inputs()
    z_BLNC.requires_grad_()
    found_BTF = vae.decode(z_BLNC, mask_BT)
    found_BTF.square().sum().backward()
    weights = {key: value.detach().double().requires_grad_() for key, value in vae.named_parameters()}
    z_BC = z_BLNC.detach().double().flatten(1).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, frames in enumerate(mask_BT.sum(dim=1).tolist()):
        expected = plain_decode(weights, z_BC[row], frames)
        torch.testing.assert_close(found_BTF[row, :frames].double(), expected, atol=2e-5, rtol=0)
        assert not found_BTF[row, frames:].any()
        total = total + expected.square().sum()
    total.backward()
    assert_gradients(vae, weights)
    torch.testing.assert_close(z_BLNC.grad.flatten(1).double(), z_BC.grad, atol=1e-4, rtol=1e-4)


# --- what must not change it ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_and_company_change_nothing() -> None:
    vae, (x_BTF, mask_BT, z_BLNC) = small_vae(), inputs()
    posterior, decoded_BTF = vae.encode(x_BTF, mask_BT), vae.decode(z_BLNC, mask_BT)
    other = vae.encode(x_BTF.where(mask_BT[..., None], torch.nan), mask_BT)
    assert torch.equal(other.mean_BLNC, posterior.mean_BLNC)
    for row, frames in enumerate(mask_BT.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone = vae.encode(x_BTF[one, :frames], mask_BT[one, :frames])
        torch.testing.assert_close(alone.mean_BLNC, posterior.mean_BLNC[one], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.logvar_BLNC, posterior.logvar_BLNC[one], atol=1e-5, rtol=0)
        alone_BTF = vae.decode(z_BLNC[one], mask_BT[one, :frames])
        torch.testing.assert_close(alone_BTF, decoded_BTF[one, :frames], atol=1e-5, rtol=0)


def test_a_motion_without_frames_is_finite_and_has_no_gradient() -> None:
    vae, (x_BTF, mask_BT, z_BLNC) = small_vae(), inputs()
    mask_BT[2] = False
    z_BLNC.requires_grad_()
    decoded_BTF = vae.decode(z_BLNC, mask_BT)
    decoded_BTF.square().sum().backward()
    assert not decoded_BTF[2].any()
    assert z_BLNC.grad is not None
    assert not z_BLNC.grad[2].any()
    assert all(parameter.grad.isfinite().all() for parameter in vae.decoder.parameters())
    assert vae.encode(x_BTF, mask_BT).mean_BLNC.isfinite().all()


def test_more_frames_than_places_are_refused() -> None:
    vae, (x_BTF, mask_BT, z_BLNC) = small_vae(), inputs((29,))
    for call in (lambda: vae.encode(x_BTF, mask_BT), lambda: vae.decode(z_BLNC, mask_BT)):
        with pytest.raises(ValueError, match=r"^29 frames are more than the 28 that there are places for$"):
            call()
    x_BTF, mask_BT, z_BLNC = inputs((28,))
    assert vae.decode(vae.encode(x_BTF, mask_BT).mean_BLNC, mask_BT).shape == (1, 28, FEATURES)


@torch.no_grad()
def test_products_in_bf16_are_near_and_results_are_float32() -> None:
    vae, (x_BTF, mask_BT, z_BLNC) = small_vae(), inputs()
    with products_in("bf16", torch.device("cpu")):
        posterior, decoded_BTF = vae.encode(x_BTF, mask_BT), vae.decode(z_BLNC, mask_BT)
    assert posterior.mean_BLNC.dtype == decoded_BTF.dtype == torch.float32
    torch.testing.assert_close(posterior.mean_BLNC, vae.encode(x_BTF, mask_BT).mean_BLNC, atol=0.1, rtol=0.1)
    torch.testing.assert_close(decoded_BTF, vae.decode(z_BLNC, mask_BT), atol=0.1, rtol=0.1)


# --- sizes ------------------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_those_of_the_published_vae() -> None:
    """By the shapes of its code (github.com/ChenFengYe/motion-latent-diffusion, 2f4bc43): 7.63M and 10.01M."""
    with torch.device("meta"):
        vae = MldVae(MldVaeConfig(), HUMANML22)
    width, hidden, layers = 256, 1024, 9
    attention = 4 * (width * width + width)
    network = width * hidden + hidden + hidden * width + width
    norm = 2 * width
    joins = layers // 2 * (2 * width * width + width)
    encoder = layers * (attention + network + 2 * norm) + joins + norm
    decoder = layers * (2 * attention + network + 3 * norm) + joins + norm
    assert count(vae.encoder) == encoder == 7_633_664
    assert count(vae.decoder) == decoder == 10_006_784
    around = 2 * width + 2 * 500 * width + (263 * width + width) + (width * 263 + 263)
    assert count(vae) == encoder + decoder + around == 18_032_135


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 8}, "layers = 8 is not odd"),
        ({"heads": 3}, "width = 256 is not divided by heads = 3"),
        ({"latent": 256}, "unknown key 'latent' (allowed: width, layers, heads, hidden, dropout, places)"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as raised:
        MldVaeConfig.parse(values)
    assert str(raised.value) == message


# --- losses -----------------------------------------------------------------------------------------------------------


def metres_per_unit() -> Normaliser:
    """Positions of a few decimetres and turns of a few degrees."""
    rng = torch.Generator().manual_seed(3)
    return Normaliser.from_moments(
        torch.randn(FEATURES, generator=rng) / 10, torch.rand(FEATURES, generator=rng) / 5 + 0.05
    )


def loss_batch() -> tuple[Tensor, Tensor, Posterior, Tensor]:
    torch.manual_seed(1)
    posterior = Posterior(torch.randn(3, 1, 1, WIDTH), torch.randn(3, 1, 1, WIDTH))
    mask_BT = torch.arange(9) < torch.tensor([9, 4, 0])[:, None]
    return torch.randn(3, 9, FEATURES), 2 * torch.randn(3, 9, FEATURES), posterior, mask_BT


def losses(x_BTF: Tensor, found_BTF: Tensor, posterior: Posterior, mask_BT: Tensor) -> dict[str, Tensor]:
    return mld_vae_losses(x_BTF, found_BTF, posterior, mask_BT, normaliser=metres_per_unit(), skeleton=HUMANML22)


def distance(a: Tensor, b: Tensor) -> Tensor:
    error = (a - b).abs()
    return torch.where(error < 1, error**2 / 2, error - 0.5)


def test_losses_are_sums_over_valid_frames_with_their_counts() -> None:
    x_BTF, found_BTF, posterior, mask_BT = loss_batch()
    found_BTF.requires_grad_()
    sums, counts = losses(x_BTF, found_BTF, posterior, mask_BT), mld_vae_loss_counts(mask_BT, HUMANML22, SMALL)
    mean_F, std_F = metres_per_unit().mean_F, metres_per_unit().std_F
    features, joints, kl = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for row, frames in ((0, 9), (1, 4)):
        true, found = x_BTF[row, :frames], found_BTF[row, :frames]
        features = features + distance(found, true).sum()
        true_joints, found_joints = (heading_joints(x * std_F + mean_F, HUMANML22) for x in (true, found))
        assert true_joints.shape == (frames, 22, 3)
        joints = joints + distance(found_joints, true_joints).sum()
        mean, logvar = posterior.mean_BLNC[row, 0, 0], posterior.logvar_BLNC[row, 0, 0]
        kl = kl + frames * 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
    for name, expected in {"reconstruction": features, "joints": joints, "kl": kl}.items():
        torch.testing.assert_close(sums[name], expected)
    assert {name: int(number) for name, number in counts.items()} == {
        "reconstruction": 13 * 263,
        "joints": 13 * 66,
        "kl": 13 * WIDTH,
    }
    assert set(sums) == set(MldVaeLossConfig.model_fields)
    for name, expected in {"reconstruction": features, "joints": joints}.items():
        (gradient,) = torch.autograd.grad(sums[name], found_BTF, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, found_BTF, retain_graph=True)
        torch.testing.assert_close(gradient, expected_gradient)
        assert gradient[0].any()


def test_what_is_not_valid_has_no_gradient_even_where_it_is_not_a_number() -> None:
    x_BTF, found_BTF, posterior, mask_BT = loss_batch()
    whole = losses(x_BTF, found_BTF, posterior, mask_BT)
    found_BTF = found_BTF.where(mask_BT[..., None], torch.nan).requires_grad_()
    sums = losses(x_BTF.where(mask_BT[..., None], torch.nan), found_BTF, posterior, mask_BT)
    for name, total in whole.items():
        assert torch.equal(sums[name], total)
    (gradient,) = torch.autograd.grad(sums["reconstruction"] + sums["joints"], found_BTF)
    assert not gradient[~mask_BT].any()
    assert gradient[mask_BT].isfinite().all()


def test_losses_of_parts_add_up_to_those_of_the_whole() -> None:
    x_BTF, found_BTF, posterior, mask_BT = loss_batch()
    whole = losses(x_BTF, found_BTF, posterior, mask_BT)
    rows = [slice(row, row + 1) for row in range(3)]
    parts = [
        losses(x_BTF[r], found_BTF[r], Posterior(posterior.mean_BLNC[r], posterior.logvar_BLNC[r]), mask_BT[r])
        for r in rows
    ]
    for name, total in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), total)


def test_published_weights_are_the_defaults() -> None:
    assert MldVaeLossConfig().model_dump() == {"reconstruction": 1.0, "joints": 1.0, "kl": 1e-4}
