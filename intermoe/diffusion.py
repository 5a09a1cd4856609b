"""The diffusion of latents: cosine schedule, loss on the predicted clean latents, DDIM sampling with guidance.

Legend: B batch, L latent frames, P = 2 persons, Z latent numbers of a person-frame, W condition width, S steps.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from intermoe.config import Config

# The cosine schedule of Nichol and Dhariwal 2021.
_OFFSET = 0.008
_MAX_BETA = 0.999

Denoise = Callable[[Tensor, Tensor], Tensor]
"""From noised latents [B, L, P, Z] and timesteps [B] to the predicted clean latents."""


class DiffusionConfig(Config):
    """The diffusion.

    Attributes:
        steps: steps of the noising process.
        ddim_steps: evenly spaced ones of them that sampling visits.
        guidance: scale w of classifier-free guidance.
        condition_drop: share of training samples whose condition is replaced by zeros.
    """

    steps: int = Field(default=1000, ge=1, le=100_000)
    ddim_steps: int = Field(default=50, ge=1)
    guidance: float = 3.5
    condition_drop: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _evenly_spaced(self) -> Self:
        if self.steps % self.ddim_steps:
            raise ValueError(f"ddim_steps = {self.ddim_steps} is not a divisor of steps = {self.steps}")
        return self


class Diffusion:
    """Noising, loss and deterministic sampling on a cosine schedule.

    Attributes:
        alpha_bar_S: float64 [steps], the share of the clean signal's variance that is left at each step.

    Example:
        >>> diffusion = Diffusion(DiffusionConfig())
        >>> diffusion.timesteps()[:2], diffusion.timesteps()[-1], round(diffusion.alpha_bar_S[500].item(), 4)
        ([980, 960], 0, 0.4923)
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        edge_S1 = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
        left_S1 = torch.cos((edge_S1 + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)) ** 2
        beta_S = (1 - left_S1[1:] / left_S1[:-1]).clamp(max=_MAX_BETA)
        self.alpha_bar_S = torch.cumprod(1 - beta_S, dim=0)

    def q_sample(self, x0_BLPZ: Tensor, t_B: Tensor, noise_BLPZ: Tensor) -> Tensor:
        """Noise clean latents to their timesteps: ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise``."""
        alpha_bar_B = self.alpha_bar_S.to(t_B.device)[t_B].view(-1, *[1] * (x0_BLPZ.ndim - 1))
        dtype = x0_BLPZ.dtype
        return alpha_bar_B.sqrt().to(dtype) * x0_BLPZ + (1 - alpha_bar_B).sqrt().to(dtype) * noise_BLPZ

    def loss_sums(self, prediction_BLPZ: Tensor, x0_BLPZ: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The loss as a sum and a count, so that it can be averaged over micro-batches and workers.

        Args:
            prediction_BLPZ: predicted clean latents.
            x0_BLPZ: the clean latents.
            mask_BL: bool, the valid latent frames.

        Returns:
            The sum over the valid tokens of both persons of the mean squared error of their Z numbers, and the number
            (int64) of these tokens.
        """
        error_BLP = (prediction_BLPZ.float() - x0_BLPZ.float()).square().mean(dim=-1)
        total = error_BLP.masked_fill(~mask_BL[:, :, None], 0).sum()
        return total, mask_BL.sum() * error_BLP.shape[-1]

    def timesteps(self) -> list[int]:
        """The timesteps that sampling visits, from the noisiest down to 0."""
        return list(range(0, self.config.steps, self.config.steps // self.config.ddim_steps))[::-1]

    @torch.no_grad()
    def ddim(self, denoise: Denoise, noise_BLPZ: Tensor, on_step: Callable[[int, int], None] | None = None) -> Tensor:
        """Sample clean latents by DDIM with eta 0: a function of the noise, without clipping.

        Args:
            denoise: predicts the clean latents; see :func:`guided`.
            noise_BLPZ: where sampling starts.
            on_step: called after each step with the steps done and their number.

        Returns:
            The last prediction of ``denoise``, at timestep 0.
        """
        visited = self.timesteps()
        x_BLPZ = x0_BLPZ = noise_BLPZ
        for done, (t, following) in enumerate(zip(visited, [*visited[1:], None], strict=True), start=1):
            x0_BLPZ = denoise(x_BLPZ, torch.full((len(x_BLPZ),), t, device=x_BLPZ.device))
            if following is not None:
                now, then = self.alpha_bar_S[t].item(), self.alpha_bar_S[following].item()
                noise_left_BLPZ = (x_BLPZ - math.sqrt(now) * x0_BLPZ) / math.sqrt(1 - now)
                x_BLPZ = math.sqrt(then) * x0_BLPZ + math.sqrt(1 - then) * noise_left_BLPZ
            if on_step is not None:
                on_step(done, len(visited))
        return x0_BLPZ


def guided(
    denoiser: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], condition_BW: Tensor, mask_BL: Tensor, scale: float
) -> Denoise:
    """A denoiser under classifier-free guidance: ``w * conditional + (1 - w) * unconditional``.

    Both go through the denoiser as one batch of 2B; the unconditional half has a condition of zeros.

    Args:
        denoiser: takes noised latents, timesteps, condition and mask, such as
            :class:`intermoe.networks.denoiser.Denoiser`.
        condition_BW: text condition of each sample.
        mask_BL: bool, the valid latent frames; the result is zero beyond them.
        scale: the guidance scale w; 1 is no guidance.
    """
    both_condition = torch.cat([condition_BW, torch.zeros_like(condition_BW)])
    both_mask = mask_BL.repeat(2, 1)

    def denoise(x_BLPZ: Tensor, t_B: Tensor) -> Tensor:
        both = denoiser(x_BLPZ.repeat(2, 1, 1, 1), t_B.repeat(2), both_condition, both_mask)
        conditional_BLPZ, unconditional_BLPZ = both.chunk(2)
        return (scale * conditional_BLPZ + (1 - scale) * unconditional_BLPZ) * mask_BL[:, :, None, None]

    return denoise
