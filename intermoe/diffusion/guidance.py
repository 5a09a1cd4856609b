"""Classifier-free guidance (Ho and Salimans 2022), everywhere or in an interval of noise levels.

Legend: B batch, L latent frames, P persons, Z latent numbers of a person-frame, W condition width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intermoe.diffusion.schedule import Diffusion, DiffusionConfig

Denoise = Callable[[Tensor, int], Tensor]
"""From noised latents [B, L, P, Z] and the timestep that all are at to the predicted clean latents."""


def predicting_clean(
    denoiser: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], diffusion: Diffusion
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A denoiser that predicts the clean latents, from one that predicts what the diffusion's config says."""
    if diffusion.config.prediction == "x0":
        return denoiser

    def predict(x_BLPZ: Tensor, t_B: Tensor, condition_BW: Tensor, mask_BL: Tensor) -> Tensor:
        return diffusion.clean(denoiser(x_BLPZ, t_B, condition_BW, mask_BL), x_BLPZ, t_B)

    return predict


def guided(
    denoiser: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    condition_BW: Tensor,
    mask_BL: Tensor,
    config: DiffusionConfig,
) -> Denoise:
    """A denoiser under classifier-free guidance: ``w * conditional + (1 - w) * unconditional``.

    Both go through the denoiser as one batch of 2B; the unconditional half has a condition of zeros. Outside of the
    interval of guidance (Kynkaanniemi et al. 2024) the batch is the conditional half alone.

    Args:
        denoiser: predicts clean latents from noised latents, timesteps, condition and mask, such as
            :class:`intermoe.networks.denoiser.Denoiser`, or what ``predicting_clean`` makes of it.
        condition_BW: text condition of each sample.
        mask_BL: bool, the valid latent frames; the result is zero beyond them.
        config: its ``guidance`` is the scale w, 1 is no guidance; ``guidance_interval`` and ``steps`` say where.
    """
    both_condition = torch.cat([condition_BW, torch.zeros_like(condition_BW)])
    both_mask = mask_BL.repeat(2, 1)

    def denoise(x_BLPZ: Tensor, t: int) -> Tensor:
        if config.is_guided(t):
            t_B = torch.full((2 * len(x_BLPZ),), t, device=x_BLPZ.device)
            both = denoiser(x_BLPZ.repeat(2, 1, 1, 1), t_B, both_condition, both_mask)
            conditional_BLPZ, unconditional_BLPZ = both.chunk(2)
            x0_BLPZ = config.guidance * conditional_BLPZ + (1 - config.guidance) * unconditional_BLPZ
        else:
            x0_BLPZ = denoiser(x_BLPZ, torch.full((len(x_BLPZ),), t, device=x_BLPZ.device), condition_BW, mask_BL)
        return x0_BLPZ * mask_BL[:, :, None, None]

    return denoise
