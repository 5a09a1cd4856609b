"""The schedule of noise, what a denoiser predicts, and its loss.

Legend: B batch, L latent frames, P persons, Z latent numbers of a person-frame, S steps.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from intermoe.config import Config
from intermoe.errors import UserError
from intermoe.layers.precision import Precision

# The cosine schedule of Nichol and Dhariwal 2021.
_OFFSET = 0.008
_MAX_BETA = 0.999
# The first and the last beta of the schedule that is linear in their roots, for so many steps (Rombach et al. 2022).
_BETAS, _STEPS_OF_BETAS = (0.00085, 0.012), 1000

SamplerName = Literal["ddim", "dpm++", "ancestral"]
Prediction = Literal["x0", "noise", "v"]
Spacing = Literal["leading", "trailing", "log_snr"]
SAMPLING = ("sampler", "sampler_steps", "spacing", "guidance", "guidance_interval", "precision")
"""The keys of ``DiffusionConfig`` that a trained model does not depend on."""


class DiffusionConfig(Config):
    """The diffusion; ``SAMPLING`` names the keys that can still be chosen for a trained model.

    Attributes:
        steps: steps of the noising process.
        schedule: of its noise: "cosine", or "scaled_linear", whose betas are squares of evenly spaced roots.
        prediction: what the denoiser is trained to predict: the clean latents "x0", the "noise", or "v", the noise less
            the clean latents, each in the share of the other (Salimans and Ho 2022).
        sampler: how motions are sampled: "ddim", "dpm++", the second-order multistep DPM-Solver++, or "ancestral", as
            DDPM does, which adds new noise in each step.
        sampler_steps: how many of the steps sampling visits; each is one pass of the denoiser.
        spacing: of the visited steps: "leading" are evenly spaced and end at step 0, "trailing" start at the last step,
            "log_snr" are evenly spaced in the logarithm of the signal-to-noise ratio. None: leading for ddim, log_snr
            for dpm++.
        guidance: scale w of classifier-free guidance.
        guidance_interval: where guidance applies, from and to which share of the steps (0 is clean, 1 is noise);
            elsewhere the denoiser runs on the condition alone, in half the time.
        precision: of the products of sampling (see ``intermoe.layers.precision``); motions are decoded in float32. In
            bf16, which on a GPU takes less time, a motion depends on those it is sampled beside: joints by centimetres.
        condition_drop: share of training samples whose condition is replaced by zeros.
        difference_loss: weight, in the training's loss, of the error of the change from one latent frame to the next;
            the paper's is 0. An error that is another in each frame makes motion shake; this weighs it higher.
        target: what is learned of a recording: a "sample" of its posterior, as in the paper, or its "mean". In samples,
            latent numbers that the VAE leaves unused are noise that nobody can predict.
        error: what a prediction is measured by in training: "latent" is the mean square of its numbers' errors, as in
            the paper; "decoded", to first order, that of the features that they decode to (see ``decoder_metric``).
            Losses are comparable only under the same target and error.
        hand_contact_loss: weight, in the training's loss, of predicting which hands touch; where it is not 0, hands
            that are to touch are brought together in what users get (see ``join_hands``). Not in the paper.
    """

    steps: int = Field(default=1000, ge=1, le=100_000)
    schedule: Literal["cosine", "scaled_linear"] = "cosine"
    prediction: Prediction = "x0"
    sampler: SamplerName = "ddim"
    sampler_steps: int = Field(default=50, ge=1)
    spacing: Spacing | None = None
    guidance: float = Field(default=3.5, ge=-1000, le=1000)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    precision: Precision = "fp32"
    condition_drop: float = Field(default=0.1, ge=0, le=1)
    difference_loss: float = Field(default=0.0, ge=0)
    target: Literal["sample", "mean"] = "sample"
    error: Literal["latent", "decoded"] = "latent"
    hand_contact_loss: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: object) -> object:
        if isinstance(values, Mapping) and "ddim_steps" in values:
            raise ValueError("ddim_steps is called sampler_steps since there are other samplers")
        return values

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _two_shares(cls, value: object) -> object:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("two shares of the steps, from and to, such as [0.2, 1]")
        return value

    @property
    def spacing_used(self) -> Spacing:
        """The spacing, that of the sampler where none is given."""
        return self.spacing or ("log_snr" if self.sampler == "dpm++" else "leading")

    def is_guided(self, t: int) -> bool:
        """Whether guidance applies at a timestep."""
        start, end = self.guidance_interval
        return start * self.steps <= t <= end * self.steps

    @model_validator(mode="after")
    def _can_be_predicted(self) -> Self:
        if self.prediction == "noise" and self.schedule == "cosine":
            raise ValueError(
                "prediction = noise with schedule = cosine (allowed: schedule = scaled_linear, or another prediction: "
                "the last steps of cosine leave no signal to tell from the noise)"
            )
        if self.prediction != "x0" and self.error == "decoded":
            raise ValueError(
                f"error = decoded with prediction = {self.prediction} (allowed: prediction = x0, which can be decoded)"
            )
        return self

    @model_validator(mode="after")
    def _visits_steps(self) -> Self:
        if self.sampler_steps > self.steps:
            raise ValueError(
                f"sampler_steps = {self.sampler_steps} is more than steps = {self.steps} (allowed: up to that)"
            )
        if self.spacing_used == "leading" and self.steps % self.sampler_steps:
            raise ValueError(
                f"sampler_steps = {self.sampler_steps} is not a divisor of steps = {self.steps} "
                "(allowed: a divisor, or another spacing than 'leading', such as that of sampler = 'dpm++')"
            )
        start, end = self.guidance_interval
        if not 0 <= start <= end <= 1:
            raise ValueError(f"guidance_interval = [{start:g}, {end:g}] is not within [0, 1] and in order")
        return self


def _betas(config: DiffusionConfig) -> Tensor:
    """The share of new noise in the variance at each step [S], float64."""
    if config.schedule == "scaled_linear":
        first, last = (math.sqrt(beta) for beta in _BETAS)
        # Fewer steps are larger ones: in the end as little signal is left.
        beta_S = torch.linspace(first, last, config.steps, dtype=torch.float64) ** 2 * (_STEPS_OF_BETAS / config.steps)
        return beta_S.clamp(max=_MAX_BETA)
    edge_S1 = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
    left_S1 = torch.cos((edge_S1 + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)) ** 2
    return (1 - left_S1[1:] / left_S1[:-1]).clamp(max=_MAX_BETA)


class Diffusion:
    """Noising, predictions and their loss on a schedule.

    Attributes:
        alpha_bar_S: float64 [steps], the share of the clean signal's variance that is left at each step.
        log_snr_S: float64 [steps], half the logarithm of the ratio of the variances of signal and noise ("lambda").

    Example:
        >>> diffusion = Diffusion(DiffusionConfig())
        >>> round(diffusion.alpha_bar_S[500].item(), 4), round(diffusion.log_snr_S[500].item(), 4)
        (0.4923, -0.0154)
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.alpha_bar_S = torch.cumprod(1 - _betas(config), dim=0)
        self.log_snr_S = torch.logit(self.alpha_bar_S) / 2
        # Copied to a device once: each copy waits for it.
        self._alpha_bar_of: dict[torch.device, Tensor] = {}

    def resampled(self, changes: Mapping[str, Any]) -> "Diffusion":
        """The same diffusion, sampled in another way.

        Args:
            changes: values of the keys of ``DiffusionConfig`` that ``SAMPLING`` names.

        Raises:
            UserError: another key, or a value that is not allowed.
        """
        for key in changes:
            if key not in SAMPLING:
                raise UserError(f"{key} is not about sampling", allowed=", ".join(SAMPLING))
        return Diffusion(DiffusionConfig.parse({**self.config.model_dump(), **changes}, where="sampling"))

    def q_sample(self, x0_BLPZ: Tensor, t_B: Tensor, noise_BLPZ: Tensor) -> Tensor:
        """Noise clean latents to their timesteps: ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise``."""
        alpha, sigma = self._shares(t_B, x0_BLPZ)
        return alpha * x0_BLPZ + sigma * noise_BLPZ

    def target(self, x0_BLPZ: Tensor, t_B: Tensor, noise_BLPZ: Tensor) -> Tensor:
        """What the denoiser is to predict of clean latents that were noised with this noise."""
        match self.config.prediction:
            case "x0":
                return x0_BLPZ
            case "noise":
                return noise_BLPZ
            case "v":
                alpha, sigma = self._shares(t_B, x0_BLPZ)
                return alpha * noise_BLPZ - sigma * x0_BLPZ

    def clean(self, output_BLPZ: Tensor, x_BLPZ: Tensor, t_B: Tensor) -> Tensor:
        """The clean latents that the denoiser's output for noised latents x stands for."""
        alpha, sigma = self._shares(t_B, x_BLPZ)
        match self.config.prediction:
            case "x0":
                return output_BLPZ
            case "noise":
                return (x_BLPZ - sigma * output_BLPZ) / alpha
            case "v":
                return alpha * x_BLPZ - sigma * output_BLPZ

    def _shares(self, t_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of clean latents and of noise at the timesteps, to be multiplied with latents [B, ...]."""
        if t_B.device not in self._alpha_bar_of:
            self._alpha_bar_of[t_B.device] = self.alpha_bar_S.to(t_B.device)
        alpha_bar_B = self._alpha_bar_of[t_B.device][t_B].view(-1, *[1] * (like.ndim - 1))
        return alpha_bar_B.sqrt().to(like.dtype), (1 - alpha_bar_B).sqrt().to(like.dtype)

    def loss_sums(
        self, prediction_BLPZ: Tensor, x0_BLPZ: Tensor, mask_BL: Tensor, root_ZZ: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss as a sum and a count, so that it can be averaged over micro-batches and workers.

        Args:
            prediction_BLPZ: what the denoiser predicted: clean latents, or what else it is trained to predict.
            x0_BLPZ: what it should have predicted.
            mask_BL: bool, the valid latent frames.
            root_ZZ: what errors are multiplied by before they are squared (see ``decoder_metric``); nothing if None.

        Returns:
            The sum over the valid tokens of all persons of the mean squared error of their Z numbers, and the number
            (int64) of these tokens.
        """
        off_BLPZ = prediction_BLPZ.float() - x0_BLPZ.float()
        error_BLP = (off_BLPZ if root_ZZ is None else off_BLPZ @ root_ZZ).square().mean(dim=-1)
        total = error_BLP.masked_fill(~mask_BL[:, :, None], 0).sum()
        return total, mask_BL.sum() * error_BLP.shape[-1]

    def difference_sum(
        self, prediction_BLPZ: Tensor, x0_BLPZ: Tensor, mask_BL: Tensor, root_ZZ: Tensor | None = None
    ) -> Tensor:
        """What ``difference_loss`` weighs: as ``loss_sums``, of the changes between frames that are both valid."""
        # What stands behind a motion's frames must not reach the gradient of its last one either.
        change_BLPZ, right_BLPZ = (
            latent_BLPZ.float().masked_fill(~mask_BL[:, :, None, None], 0).diff(dim=1)
            for latent_BLPZ in (prediction_BLPZ, x0_BLPZ)
        )
        return self.loss_sums(change_BLPZ, right_BLPZ, mask_BL[:, 1:] & mask_BL[:, :-1], root_ZZ)[0]
