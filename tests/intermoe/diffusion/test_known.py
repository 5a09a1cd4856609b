import math

import pytest
import torch

from intermoe.diffusion import samplers
from intermoe.diffusion.known import _REMEMBERED, Known, keeping
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig

# Legend: B batch, L latent frames, P = 2 persons, Z latent numbers, N = L P numbers of a sample, D = N.
STRIDE = 4
SAMPLERS = [{"sampler": "ddim", "sampler_steps": 50}, {"sampler": "dpm++", "sampler_steps": 20}]


def gaussian(diffusion: Diffusion, covariance_ND: torch.Tensor):
    """The exact denoiser of latents [B, L, P, 1] that are normal with mean 0."""

    def denoise(x_BLPZ: torch.Tensor, t: int) -> torch.Tensor:
        left = diffusion.alpha_bar_S[t].item()
        noised_ND = left * covariance_ND + (1 - left) * torch.eye(len(covariance_ND), dtype=covariance_ND.dtype)
        gain_ND = math.sqrt(left) * covariance_ND @ torch.linalg.inv(noised_ND)
        return (x_BLPZ.flatten(1) @ gain_ND.T).view_as(x_BLPZ)

    return denoise


def sampled(config: dict, covariance_ND: torch.Tensor, known: Known, *, frames: int, count: int = 4_000):
    diffusion = Diffusion(DiffusionConfig.parse(config))
    noise_BLPZ = torch.randn(count, frames, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoise = gaussian(diffusion, covariance_ND)
    return samplers.sample(diffusion, keeping(denoise, known, diffusion, noise_BLPZ, STRIDE), noise_BLPZ)


@pytest.mark.parametrize("config", SAMPLERS, ids=lambda config: config["sampler"])
def test_known_latents_come_out_exactly_and_the_other_person_follows(config):
    """Less than the exact conditional mean says, and never beside it: what the docstring states."""
    for correlation, (low, high) in {0.0: (-0.05, 0.05), 0.6: (0.3, 0.5), 0.99: (0.6, 0.8)}.items():
        covariance_ND = torch.tensor([[1, correlation], [correlation, 1]], dtype=torch.float64)
        mask_BLP = torch.tensor([[[True, False]]]).expand(4_000, 1, 2)
        known = Known(torch.full((4_000, 1, 2, 1), 1.5, dtype=torch.float64), mask_BLP)
        found_BLPZ = sampled(config, covariance_ND, known, frames=1)
        assert (found_BLPZ[:, 0, 0] == 1.5).all()
        exact = (correlation or 1.0) * 1.5
        assert low < found_BLPZ[:, 0, 1].mean().item() / exact < high


@pytest.mark.parametrize("config", SAMPLERS, ids=lambda config: config["sampler"])
def test_what_follows_known_frames_goes_on_from_them_and_forgets_them(config):
    """The conditional mean of a stationary process that remembers twice as long fades; so does what is sampled."""
    frames, share = 24, math.exp(-STRIDE / (2 * _REMEMBERED))
    time_L = torch.arange(frames, dtype=torch.float64)
    process_LL = share ** (time_L[:, None] - time_L).abs()
    covariance_ND = torch.kron(process_LL, torch.eye(2, dtype=torch.float64))
    known_BLPZ = torch.tensor([[1.4], [1.5]], dtype=torch.float64)[None, :, :, None].expand(4_000, 2, 2, 1)
    found_BLPZ = sampled(
        config, covariance_ND, Known(known_BLPZ, torch.ones(4_000, 2, 2, dtype=torch.bool)), frames=frames
    )
    assert torch.equal(found_BLPZ[:, :2], known_BLPZ)
    mean_L, variance_L = found_BLPZ[:, 2:, 0, 0].mean(0), found_BLPZ[:, 2:, 0, 0].var(0)
    after_L = torch.arange(1, frames - 1)
    torch.testing.assert_close(mean_L, 1.5 * share ** after_L.double(), atol=0.2, rtol=0)
    assert (mean_L < 1.5).all()
    exact_L = 1 - share ** (2 * after_L.double())
    assert ((variance_L / exact_L > 0.5) & (variance_L / exact_L < 2)).all(), variance_L / exact_L


def test_where_nothing_is_known_nothing_changes():
    diffusion = Diffusion(DiffusionConfig(sampler_steps=5))
    noise_BLPZ = torch.randn(3, 4, 2, 6, generator=torch.Generator().manual_seed(1))
    nothing = Known(torch.full((3, 2, 2, 6), 7.0), torch.zeros(3, 2, 2, dtype=torch.bool))

    def denoise(x_BLPZ: torch.Tensor, t: int) -> torch.Tensor:
        return torch.tanh(x_BLPZ + t / 1000)

    plain = samplers.sample(diffusion, denoise, noise_BLPZ)
    kept = keeping(denoise, nothing, diffusion, noise_BLPZ, STRIDE)
    assert torch.equal(samplers.sample(diffusion, kept, noise_BLPZ), plain)


def test_the_denoiser_sees_known_latents_noised_as_the_others():
    diffusion = Diffusion(DiffusionConfig())
    noise_BLPZ = torch.randn(1, 2, 2, 3, generator=torch.Generator().manual_seed(2))
    known = Known(torch.ones(1, 1, 2, 3), torch.tensor([[[True, False]]]))
    seen = []

    def denoise(x_BLPZ: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(x_BLPZ)
        return torch.zeros_like(x_BLPZ)

    x_BLPZ = torch.full((1, 2, 2, 3), 5.0)
    clean_BLPZ = keeping(denoise, known, diffusion, noise_BLPZ, STRIDE)(x_BLPZ, 500)
    left = diffusion.alpha_bar_S[500].item()
    expected_BLPZ = x_BLPZ.clone()
    expected_BLPZ[:, 0, 0] = math.sqrt(left) + math.sqrt(1 - left) * noise_BLPZ[:, 0, 0]
    torch.testing.assert_close(seen[0], expected_BLPZ)
    # Person 0 was predicted to be off by one where it is known, so it is in the next frame, by less; person 1 is open.
    assert clean_BLPZ[0, :, :, 0].tolist() == [[1, 0], [pytest.approx(math.exp(-STRIDE / _REMEMBERED)), 0]]
