"""Samplers: from noise to clean latents, in a few of the steps of the diffusion.

All are written with predicted clean latents x0, whatever the denoiser itself predicts (see ``Diffusion.clean``). With
alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar) and lambda = log(alpha / sigma) of a step,
x = alpha x0 + sigma noise. Only the ancestral one draws anything after the start.

Legend: B batch, L latent frames, P persons, Z latent numbers of a person-frame, S steps of the diffusion.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from intermoe.diffusion.guidance import Denoise
from intermoe.diffusion.schedule import Diffusion, SamplerName

# The last steps of the cosine schedule are noise alone; spaced evenly over their log-SNRs, many of few steps would be.
_LOWEST_LOG_SNR = -5.1

Step = Callable[[Tensor, Tensor, int, int], Tensor]
"""From latents, the clean latents predicted from them, their timestep and the next one to the latents there."""
Drawing = Callable[[int], Tensor]
"""From a timestep to standard normal noise for it, in the shape of the latents."""


@torch.no_grad()
def sample(
    diffusion: Diffusion,
    denoise: Denoise,
    noise_BLPZ: Tensor,
    on_step: Callable[[int, int], None] | None = None,
    draw: Drawing | None = None,
) -> Tensor:
    """Clean latents from noise, by the sampler and the steps of the diffusion's config.

    Args:
        diffusion: the schedule and its config.
        denoise: predicts the clean latents; see :func:`intermoe.diffusion.guidance.guided`.
        noise_BLPZ: where sampling starts.
        on_step: called after each step with the steps done and their number.
        draw: the noise of each step, which "ancestral" needs.

    Returns:
        The last prediction of ``denoise``, at timestep 0, without clipping.
    """
    visited = timesteps(diffusion)
    step = _SAMPLERS[diffusion.config.sampler](diffusion, draw)
    x_BLPZ = x0_BLPZ = noise_BLPZ
    for done, (t, following) in enumerate(zip(visited, [*visited[1:], None], strict=True), start=1):
        x0_BLPZ = denoise(x_BLPZ, t)
        if following is not None:
            x_BLPZ = step(x_BLPZ, x0_BLPZ, t, following)
        if on_step is not None:
            on_step(done, len(visited))
    return x0_BLPZ


def timesteps(diffusion: Diffusion) -> list[int]:
    """The timesteps that sampling visits, from the noisiest down to 0.

    Example:
        >>> from intermoe.diffusion.schedule import DiffusionConfig
        >>> for spacing in ("leading", "trailing", "log_snr"):
        ...     timesteps(Diffusion(DiffusionConfig(sampler_steps=5, spacing=spacing)))
        [800, 600, 400, 200, 0]
        [999, 749, 500, 250, 0]
        [999, 950, 503, 44, 0]
    """
    steps, count = diffusion.config.steps, diffusion.config.sampler_steps
    if count == 1:
        return [steps - 1]
    match diffusion.config.spacing_used:
        case "leading":
            return list(range(0, steps, steps // count))[::-1]
        case "trailing":
            return torch.linspace(steps - 1, 0, count).round().long().tolist()
        case "log_snr":
            return _even_in_log_snr(diffusion, count)


def _even_in_log_snr(diffusion: Diffusion, count: int) -> list[int]:
    """The last step, step 0, and between them the nearest to evenly spaced log-SNRs that are all different."""
    log_snr_S = diffusion.log_snr_S
    targets = torch.linspace(
        max(log_snr_S[-1].item(), _LOWEST_LOG_SNR), log_snr_S[0].item(), count, dtype=torch.float64
    )
    visited = [len(log_snr_S) - 1]
    for number, target in enumerate(targets[1:].tolist(), start=1):
        nearest = int((log_snr_S - target).abs().argmin())
        # Below the step before, and with room for those that follow.
        visited.append(max(min(nearest, visited[-1] - 1), count - 1 - number))
    return visited


def _ddim(diffusion: Diffusion, _draw: Drawing | None) -> Step:
    """DDIM (Song et al. 2021, eq. 12) with eta 0: the noise that the prediction leaves goes on as it is."""

    def step(x_BLPZ: Tensor, x0_BLPZ: Tensor, t: int, following: int) -> Tensor:
        now, then = diffusion.alpha_bar_S[t].item(), diffusion.alpha_bar_S[following].item()
        noise_left_BLPZ = (x_BLPZ - math.sqrt(now) * x0_BLPZ) / math.sqrt(1 - now)
        return math.sqrt(then) * x0_BLPZ + math.sqrt(1 - then) * noise_left_BLPZ

    return step


def _dpm_solver_pp(diffusion: Diffusion, _draw: Drawing | None) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x0 is followed along a line through its last two predictions."""
    last: tuple[Tensor, float] | None = None

    def step(x_BLPZ: Tensor, x0_BLPZ: Tensor, t: int, following: int) -> Tensor:
        nonlocal last
        now, then = (diffusion.alpha_bar_S[number].item() for number in (t, following))
        h = diffusion.log_snr_S[following].item() - diffusion.log_snr_S[t].item()
        ahead_BLPZ = x0_BLPZ
        if last is not None:
            before_BLPZ, h_before = last
            ahead_BLPZ = x0_BLPZ + (x0_BLPZ - before_BLPZ) * (h / (2 * h_before))
        last = x0_BLPZ, h
        return math.sqrt((1 - then) / (1 - now)) * x_BLPZ - math.sqrt(then) * math.expm1(-h) * ahead_BLPZ

    return step


def _ancestral(diffusion: Diffusion, draw: Drawing | None) -> Step:
    """DDPM (Ho et al. 2020, eqs. 6 and 7): a draw of the posterior of the next step, given x and the predicted x0."""
    if draw is None:
        raise ValueError("ancestral sampling draws noise in each step")

    def step(x_BLPZ: Tensor, x0_BLPZ: Tensor, t: int, following: int) -> Tensor:
        now, then = diffusion.alpha_bar_S[t].item(), diffusion.alpha_bar_S[following].item()
        beta = 1 - now / then
        of_x0, of_x = math.sqrt(then) * beta / (1 - now), math.sqrt(now / then) * (1 - then) / (1 - now)
        return of_x0 * x0_BLPZ + of_x * x_BLPZ + math.sqrt(beta * (1 - then) / (1 - now)) * draw(following)

    return step


_SAMPLERS: Mapping[SamplerName, Callable[[Diffusion, Drawing | None], Step]] = MappingProxyType(
    {"ddim": _ddim, "dpm++": _dpm_solver_pp, "ancestral": _ancestral}
)
