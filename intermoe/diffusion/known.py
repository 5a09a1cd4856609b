"""Sampling where a part of the latents is known: one of the persons, or the frames that go before.

Legend: B batch, L latent frames, P = 2 persons, Z latent numbers of a person-frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermoe.diffusion.guidance import Denoise
from intermoe.diffusion.schedule import Diffusion


@dataclass(frozen=True, eq=False)
class Known:
    """Latents that are known before sampling.

    Attributes:
        latent_BLPZ: clean latents, of the first latent frames or of all; where nothing is known they mean nothing.
        mask_BLP: bool, where they are known.
    """

    latent_BLPZ: Tensor
    mask_BLP: Tensor


def keeping(denoise: Denoise, known: Known, diffusion: Diffusion, noise_BLPZ: Tensor) -> Denoise:
    """A denoiser that sees the known latents, noised as far as the others, and gives them back as they are.

    This is the replacement method (Song et al. 2021, appendix I.2), with one draw of noise for all steps: a sampler
    goes on from the clean latents that it is given, so what it remembers of its last step fits too. The known latents
    come out exactly. The others are drawn to fit them, but not from the exact conditional distribution: while there is
    much noise, the denoiser sees the known latents only through it, so that the others follow them less closely than
    the model knows they should. (For two numbers of correlation r the mean of the other comes to between 0.8 and 1
    times r times the known one.)

    Args:
        denoise: predicts the clean latents.
        known: what is known.
        diffusion: the schedule.
        noise_BLPZ: the noise that sampling starts from; it hides the known latents, too.
    """
    beyond = noise_BLPZ.shape[1] - known.latent_BLPZ.shape[1]
    latent_BLPZ = nn.functional.pad(known.latent_BLPZ, (0, 0, 0, 0, 0, beyond))
    mask_BLP1 = nn.functional.pad(known.mask_BLP, (0, 0, 0, beyond))[..., None]

    def denoise_others(x_BLPZ: Tensor, t: int) -> Tensor:
        t_B = torch.full((len(x_BLPZ),), t, device=x_BLPZ.device)
        noised_BLPZ = diffusion.q_sample(latent_BLPZ, t_B, noise_BLPZ)
        return latent_BLPZ.where(mask_BLP1, denoise(noised_BLPZ.where(mask_BLP1, x_BLPZ), t))

    return denoise_others
