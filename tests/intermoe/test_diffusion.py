"""The diffusion against plain loops in Python's arithmetic."""

import math

import pytest
import torch
from torch import Tensor

from intermoe.diffusion import Diffusion, DiffusionConfig, guided

DIFFUSION = Diffusion(DiffusionConfig())


def naive_alpha_bar(steps: int = 1000) -> list[float]:
    def left(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha_bar, product = [], 1.0
    for step in range(steps):
        product *= 1 - min(1 - left((step + 1) / steps) / left(step / steps), 0.999)
        alpha_bar.append(product)
    return alpha_bar


def test_schedule_follows_the_equations() -> None:
    expected = torch.tensor(naive_alpha_bar(), dtype=torch.float64)
    torch.testing.assert_close(DIFFUSION.alpha_bar_S, expected, rtol=1e-10, atol=0)
    assert 0 < DIFFUSION.alpha_bar_S[-1] < 1e-8
    assert DIFFUSION.alpha_bar_S[0] > 0.9999


def test_noising_keeps_the_equations_number_by_number() -> None:
    torch.manual_seed(0)
    x0, noise, t = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5), torch.tensor([0, 421, 999])
    actual, alpha_bar = DIFFUSION.q_sample(x0, t, noise), naive_alpha_bar()
    for row, step in enumerate(t.tolist()):
        expected = math.sqrt(alpha_bar[step]) * x0[row] + math.sqrt(1 - alpha_bar[step]) * noise[row]
        torch.testing.assert_close(actual[row], expected, atol=1e-6, rtol=0)
    assert actual.dtype == torch.float32


def test_loss_counts_valid_tokens_only() -> None:
    torch.manual_seed(0)
    prediction, x0 = torch.randn(2, 3, 2, 5).requires_grad_(), torch.randn(2, 3, 2, 5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x0[~mask] = math.inf  # what lies beyond must not even be touched
    total, count = DIFFUSION.loss_sums(prediction, x0, mask)
    expected = sum(
        sum((prediction[b, s, p, z].item() - x0[b, s, p, z].item()) ** 2 for z in range(5)) / 5
        for b, s in mask.nonzero().tolist()
        for p in (0, 1)
    )
    assert count == 6
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_loss_sums_of_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    prediction, x0 = torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5)
    mask = torch.rand(4, 3) > 0.4
    whole, count = DIFFUSION.loss_sums(prediction, x0, mask)
    parts = [DIFFUSION.loss_sums(prediction[rows], x0[rows], mask[rows]) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole, parts[0][0] + parts[1][0])
    assert count == parts[0][1] + parts[1][1]


def test_ddim_follows_a_plain_loop() -> None:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x * 0.7) + t.view(-1, 1, 1, 1).to(x.dtype) / 1000

    noise = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha_bar, x = naive_alpha_bar(), noise
    for t in range(980, -1, -20):
        x0 = denoise(x, torch.tensor([t, t]))
        then = alpha_bar[t - 20] if t >= 20 else 1.0
        left = (x - alpha_bar[t] ** 0.5 * x0) / (1 - alpha_bar[t]) ** 0.5
        x = then**0.5 * x0 + (1 - then) ** 0.5 * left
    steps: list[tuple[int, int]] = []
    actual = DIFFUSION.ddim(denoise, noise, lambda done, of: steps.append((done, of)))
    torch.testing.assert_close(actual, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(DIFFUSION.ddim(denoise, noise.float()), x.float(), atol=1e-4, rtol=0)
    assert steps == [(done, 50) for done in range(1, 51)]


def test_ddim_of_a_perfect_denoiser_is_exact() -> None:
    torch.manual_seed(0)
    target, noise = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4)
    asked: list[int] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        # A perfect denoiser sees exactly the target, noised with the noise it began with.
        if t[0] < 980:
            torch.testing.assert_close(x, DIFFUSION.q_sample(target, t, left), atol=1e-4, rtol=0)
        return target

    alpha_bar = DIFFUSION.alpha_bar_S[980].item()
    left = (noise - math.sqrt(alpha_bar) * target) / math.sqrt(1 - alpha_bar)
    assert torch.equal(DIFFUSION.ddim(denoise, noise), target)
    assert asked == list(range(980, -1, -20))


def test_guidance_weighs_both_branches_and_zeros_the_padding() -> None:
    torch.manual_seed(0)
    x, condition = torch.randn(2, 3, 2, 4), torch.randn(2, 6)
    mask = torch.tensor([[True, True, True], [True, False, False]])

    def denoiser(x: Tensor, t: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        assert len(x) == len(t) == len(condition) == len(mask) == 4
        return x + condition.sum(1)[:, None, None, None] + t[:, None, None, None]

    actual = guided(denoiser, condition, mask, scale=3.5)(x, torch.tensor([5, 9]))
    shift = 3.5 * condition.sum(1) + torch.tensor([5, 9])
    expected = (x + shift[:, None, None, None]) * mask[:, :, None, None]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
