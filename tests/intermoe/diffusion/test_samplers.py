"""The samplers against plain loops in Python's arithmetic, closed forms, and the converged sample."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from intermoe.diffusion import samplers
from intermoe.diffusion.schedule import Diffusion, DiffusionConfig

DDIM = Diffusion(DiffusionConfig())


def dpm(steps: int, **values: object) -> Diffusion:
    return Diffusion(DiffusionConfig.parse({"sampler": "dpm++", "sampler_steps": steps, **values}))


def denoise_sine(x: Tensor, t: int) -> Tensor:
    return torch.sin(x * 0.7) + t / 1000


def noise() -> Tensor:
    return torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_ddim_follows_a_plain_loop() -> None:
    alpha_bar, x = DDIM.alpha_bar_S.tolist(), noise()
    for t in range(980, -1, -20):
        x0 = denoise_sine(x, t)
        then = alpha_bar[t - 20] if t >= 20 else 1.0
        left = (x - alpha_bar[t] ** 0.5 * x0) / (1 - alpha_bar[t]) ** 0.5
        x = then**0.5 * x0 + (1 - then) ** 0.5 * left
    steps: list[tuple[int, int]] = []
    actual = samplers.sample(DDIM, denoise_sine, noise(), lambda done, of: steps.append((done, of)))
    torch.testing.assert_close(actual, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(samplers.sample(DDIM, denoise_sine, noise().float()), x.float(), atol=1e-4, rtol=0)
    assert steps == [(done, 50) for done in range(1, 51)]


def ancestral(count: int, **values: object) -> Diffusion:
    return Diffusion(DiffusionConfig.parse({"sampler": "ancestral", "sampler_steps": count, **values}))


def drawn(t: int) -> Tensor:
    return torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(100 + t), dtype=torch.float64)


@pytest.mark.parametrize("schedule", ["cosine", "scaled_linear"])
def test_ancestral_sampling_follows_ddpm_step_by_step(schedule: str) -> None:
    """Equations 6 and 7 of Ho et al. 2020 by the betas of the single steps."""
    diffusion = ancestral(50, steps=50, schedule=schedule)
    alpha_bar, x = diffusion.alpha_bar_S.tolist(), noise()
    beta = [1 - now / before for before, now in zip([1.0, *alpha_bar], alpha_bar, strict=False)]
    for t in range(49, 0, -1):
        x0, before = denoise_sine(x, t), alpha_bar[t - 1]
        mean = before**0.5 * beta[t] / (1 - alpha_bar[t]) * x0
        mean += (1 - beta[t]) ** 0.5 * (1 - before) / (1 - alpha_bar[t]) * x
        x = mean + ((1 - before) / (1 - alpha_bar[t]) * beta[t]) ** 0.5 * drawn(t - 1)
    actual = samplers.sample(diffusion, denoise_sine, noise(), draw=drawn)
    torch.testing.assert_close(actual, denoise_sine(x, 0), atol=1e-9, rtol=0)


def test_ancestral_sampling_gives_the_variance_of_the_data_however_few_its_steps() -> None:
    """Of normal data whose best prediction is known, every step is a draw of the exact distribution."""
    std, many = 0.5, 40_000
    for steps in (1000, 10):
        diffusion = ancestral(steps, spacing="leading")
        rng = torch.Generator().manual_seed(steps)

        def denoise(x: Tensor, t: int, diffusion: Diffusion = diffusion) -> Tensor:
            a = diffusion.alpha_bar_S[t].item()
            return a**0.5 * std**2 / (a * std**2 + 1 - a) * x

        def draw(_t: int, rng: torch.Generator = rng) -> Tensor:
            return torch.randn(many, generator=rng, dtype=torch.float64)

        first = samplers.timesteps(diffusion)[0]
        a = diffusion.alpha_bar_S[first].item()
        start = (a * std**2 + 1 - a) ** 0.5 * draw(0)
        # Posterior variances of DDPM are those of data that is one point; what is lost by that falls with the steps.
        found = samplers.sample(diffusion, denoise, start, draw=draw).std().item()
        assert found == pytest.approx(std, rel=0.02 if steps == 1000 else 0.25)


def test_ancestral_sampling_asks_for_noise() -> None:
    with pytest.raises(ValueError, match="draws noise in each step"):
        samplers.sample(ancestral(10), denoise_sine, noise())


@pytest.mark.parametrize("spacing", ["leading", "trailing", "log_snr"])
def test_dpm_solver_pp_follows_the_algorithm_of_its_paper(spacing: str) -> None:
    """Algorithm 2 of Lu et al. 2022, data prediction, written out; the last step goes to where noise is 0."""
    diffusion = dpm(10, spacing=spacing)
    visited = samplers.timesteps(diffusion)
    alpha = [math.sqrt(diffusion.alpha_bar_S[t]) for t in visited]
    sigma = [math.sqrt(1 - diffusion.alpha_bar_S[t]) for t in visited]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x, predicted = noise(), []
    for i, t in enumerate(visited):
        predicted.append(denoise_sine(x, t))
        if i == len(visited) - 1:
            break
        h, d = lam[i + 1] - lam[i], predicted[i]
        if i:
            r = (lam[i] - lam[i - 1]) / h
            d = (1 + 1 / (2 * r)) * predicted[i] - 1 / (2 * r) * predicted[i - 1]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (math.exp(-h) - 1) * d
    torch.testing.assert_close(samplers.sample(diffusion, denoise_sine, noise()), predicted[-1], atol=1e-9, rtol=0)


def test_of_first_order_dpm_solver_pp_is_ddim() -> None:
    """Two steps know no earlier prediction: there both are the same (section 4.1 of Lu et al. 2022)."""
    ddim = Diffusion(DiffusionConfig(sampler_steps=2))
    expected = samplers.sample(ddim, denoise_sine, noise())
    actual = samplers.sample(dpm(2, spacing="leading"), denoise_sine, noise())
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


def denoise_gaussian(x: Tensor, t: int) -> Tensor:
    """The best prediction where clean latents are normal of mean 0.5 and standard deviation 0.3."""
    alpha_bar = DDIM.alpha_bar_S[t].item()
    gain = math.sqrt(alpha_bar) * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar)
    return 0.5 + gain * (x - math.sqrt(alpha_bar) * 0.5)


def test_ten_steps_of_dpm_solver_pp_are_nearer_to_the_closed_form_than_fifty_of_ddim() -> None:
    """Where latents are normal, the deterministic flow takes a noise of n to mean + standard deviation * n."""
    expected = 0.5 + 0.3 * noise()

    def error(diffusion: Diffusion) -> float:
        return (samplers.sample(diffusion, denoise_gaussian, noise()) - expected).abs().mean().item()

    errors = [error(dpm(steps)) for steps in (10, 20, 40)]
    assert errors[0] < error(DDIM) < error(Diffusion(DiffusionConfig(sampler_steps=10)))
    assert errors[2] < errors[1] < errors[0]


def test_ddim_of_a_perfect_denoiser_is_exact() -> None:
    torch.manual_seed(0)
    target, start = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4)
    asked: list[int] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        asked.append(t)
        # A perfect denoiser sees exactly the target, noised with the noise it began with.
        if t < 980:
            torch.testing.assert_close(x, DDIM.q_sample(target, torch.tensor([t, t]), left), atol=1e-4, rtol=0)
        return target

    alpha_bar = DDIM.alpha_bar_S[980].item()
    left = (start - math.sqrt(alpha_bar) * target) / math.sqrt(1 - alpha_bar)
    assert torch.equal(samplers.sample(DDIM, denoise, start), target)
    assert asked == list(range(980, -1, -20))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 31, 32, 100])
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
def test_grids_start_at_the_last_step_end_at_the_first_and_visit_none_twice(spacing: str, steps: int) -> None:
    visited = samplers.timesteps(
        Diffusion(DiffusionConfig.parse({"steps": 100, "sampler_steps": steps, "spacing": spacing}))
    )
    assert len(visited) == steps
    assert visited[0] == 99
    assert visited == sorted(set(visited), reverse=True)
    assert steps == 1 or visited[-1] == 0


def test_the_spacing_in_log_snr_is_even() -> None:
    diffusion = dpm(10)
    log_snr = [max(diffusion.log_snr_S[t].item(), -5.1) for t in samplers.timesteps(diffusion)]
    gaps = [after - before for before, after in itertools.pairwise(log_snr)]
    assert max(gaps) - min(gaps) < 0.4
    assert sum(gaps) == pytest.approx(log_snr[-1] + 5.1)
