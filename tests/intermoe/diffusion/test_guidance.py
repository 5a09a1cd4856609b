"""Guidance against its equation."""

import torch
from torch import Tensor

from intermoe.diffusion.guidance import guided
from intermoe.diffusion.schedule import DiffusionConfig


def test_guidance_weighs_both_branches_and_zeros_the_padding() -> None:
    torch.manual_seed(0)
    x, condition = torch.randn(2, 3, 2, 4), torch.randn(2, 6)
    mask = torch.tensor([[True, True, True], [True, False, False]])

    def denoiser(x: Tensor, t: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        assert len(x) == len(t) == len(condition) == len(mask) == 4
        return x + condition.sum(1)[:, None, None, None] + t[:, None, None, None]

    actual = guided(denoiser, condition, mask, DiffusionConfig(guidance=3.5))(x, 7)
    shift = 3.5 * condition.sum(1) + 7
    expected = (x + shift[:, None, None, None]) * mask[:, :, None, None]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_outside_of_the_interval_the_denoiser_sees_the_condition_alone() -> None:
    torch.manual_seed(0)
    x, condition, mask = torch.randn(2, 3, 2, 4), torch.randn(2, 6), torch.ones(2, 3, dtype=torch.bool)
    sizes: list[int] = []

    def denoiser(x: Tensor, t: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        sizes.append(len(x))
        return condition.sum(1)[:, None, None, None].expand_as(x)

    denoise = guided(denoiser, condition, mask, DiffusionConfig(guidance=3.0, guidance_interval=(0.2, 0.6)))
    alone = condition.sum(1)[:, None, None, None].expand_as(x)
    for t, scale in ((0, 1), (199, 1), (200, 3), (600, 3), (601, 1), (999, 1)):
        torch.testing.assert_close(denoise(x, t), scale * alone)
    assert sizes == [2, 2, 4, 4, 2, 2]
