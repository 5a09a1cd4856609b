"""The schedule and the loss against plain loops in Python's arithmetic."""

import math

import pytest
import torch

from intermoe.diffusion.schedule import Diffusion, DiffusionConfig
from intermoe.errors import UserError

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


def test_errors_are_multiplied_before_they_are_squared() -> None:
    torch.manual_seed(0)
    prediction, x0, root = torch.randn(2, 4, 2, 5), torch.randn(2, 4, 2, 5), torch.randn(5, 5)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    total, count = DIFFUSION.loss_sums(prediction, x0, mask, root)
    expected = ((prediction - x0) @ root)[mask].square().sum() / 5
    assert count == 8
    torch.testing.assert_close(total, expected)
    # The identity is the plain square.
    assert DIFFUSION.loss_sums(prediction, x0, mask, torch.eye(5))[0] == pytest.approx(
        float(DIFFUSION.loss_sums(prediction, x0, mask)[0])
    )
    changes = DIFFUSION.difference_sum(prediction, x0, mask, root)
    torch.testing.assert_close(changes, ((prediction - x0) @ root)[0, :3].diff(dim=0).square().sum() / 5)


def test_the_error_of_changes_counts_where_both_frames_are_valid() -> None:
    torch.manual_seed(0)
    prediction, x0 = torch.randn(2, 4, 2, 5), torch.randn(2, 4, 2, 5)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    prediction[~mask] = math.nan
    prediction.requires_grad_()
    expected = sum(
        ((prediction[0, s + 1, p, z] - prediction[0, s, p, z]) - (x0[0, s + 1, p, z] - x0[0, s, p, z])).item() ** 2 / 5
        for s in (0, 1)
        for p in (0, 1)
        for z in range(5)
    )
    total = DIFFUSION.difference_sum(prediction, x0, mask)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(total, prediction)
    assert gradient[mask].isfinite().all()
    # An error that is the same in each frame changes nothing.
    assert DIFFUSION.difference_sum(x0 + 0.5, x0, mask).item() == pytest.approx(0, abs=1e-10)


def test_loss_sums_of_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    prediction, x0 = torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5)
    mask = torch.rand(4, 3) > 0.4
    whole, count = DIFFUSION.loss_sums(prediction, x0, mask)
    parts = [DIFFUSION.loss_sums(prediction[rows], x0[rows], mask[rows]) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole, parts[0][0] + parts[1][0])
    assert count == parts[0][1] + parts[1][1]


def test_the_scaled_linear_schedule_has_evenly_spaced_roots_of_beta() -> None:
    diffusion = Diffusion(DiffusionConfig(schedule="scaled_linear"))
    product = 1.0
    for step in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * step / 999
        product *= 1 - root**2
        assert diffusion.alpha_bar_S[step].item() == pytest.approx(product, rel=1e-9)
    assert product == pytest.approx(0.00466, rel=1e-3)  # as diffusers has it for latent diffusion
    for steps in (100, 5000):
        last = Diffusion(DiffusionConfig(schedule="scaled_linear", steps=steps)).alpha_bar_S[-1]
        assert last.item() == pytest.approx(product, rel=0.25), "as little signal is left of other numbers of steps"


@pytest.mark.parametrize(
    ("prediction", "schedule"), [("x0", "cosine"), ("v", "cosine"), ("noise", "scaled_linear"), ("v", "scaled_linear")]
)
def test_what_is_predicted_stands_for_the_clean_latents(prediction: str, schedule: str) -> None:
    diffusion = Diffusion(DiffusionConfig.parse({"prediction": prediction, "schedule": schedule}))
    rng = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 2, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 300, 700, 999])
    noised, target = diffusion.q_sample(x0, t, noise), diffusion.target(x0, t, noise)
    torch.testing.assert_close(diffusion.clean(target, noised, t), x0, atol=1e-9, rtol=0)
    for row, step in enumerate(t.tolist()):
        a = math.sqrt(diffusion.alpha_bar_S[step].item())
        s = math.sqrt(1 - diffusion.alpha_bar_S[step].item())
        expected = {"x0": x0[row], "noise": noise[row], "v": a * noise[row] - s * x0[row]}[prediction]
        torch.testing.assert_close(target[row], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prediction": "noise"}, "prediction = noise with schedule = cosine (allowed: schedule = scaled_linear, or"),
        ({"prediction": "v", "error": "decoded"}, "error = decoded with prediction = v (allowed: prediction = x0,"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        DiffusionConfig.parse(values)
    assert str(caught.value).startswith(message)
