"""Sampling where a part of the latents is known: one of the persons, or the frames that go before.

Legend: B batch, L latent frames, P = 2 persons, Z latent numbers of a person-frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intermoe.diffusion.guidance import Denoise
from intermoe.diffusion.schedule import Diffusion

# Frames of motion after the last known one in which its error fades to 1 / e: 0.4 seconds.
_REMEMBERED = 12.0


@dataclass(frozen=True, eq=False)
class Known:
    """Latents that are known before sampling: of each person those of the first latent frames, or none.

    Attributes:
        latent_BLPZ: clean latents of the first latent frames; where nothing is known they mean nothing.
        mask_BLP: bool, where they are known; a person's known frames come before the others.
    """

    latent_BLPZ: Tensor
    mask_BLP: Tensor


def keeping(denoise: Denoise, known: Known, diffusion: Diffusion, noise_BLPZ: Tensor, stride: int) -> Denoise:
    """A denoiser that sees the known latents, noised as far as the others, and gives them back as they are.

    This is the replacement method (Song et al. 2021, appendix I.2), with one draw of noise for all steps: a sampler
    goes on from the clean latents that it is given, so what it remembers of its last step fits too. The known latents
    come out exactly. The others are drawn to fit them, but more loosely than the exact conditional distribution has
    it: as long as there is much noise, the denoiser hardly sees the known latents through it. (Of two numbers of
    correlation r, the mean of the open one comes to 0.3 to 0.7 of the r times the known one that it should be.)

    In time that would be a jump: people would not go on from where they stand. There we know more. By how much the
    denoiser's own prediction of a person's last known frame is off, by so much are the frames just after it: they are
    moved by that, those further on ever less. For a process that remembers twice as long this comes near its
    conditional mean. (If all frames were moved alike, they would end up farther off than the known one, ever more from
    one motion that goes on from another to the next.)

    Args:
        denoise: predicts the clean latents.
        known: what is known.
        diffusion: the schedule.
        noise_BLPZ: the noise that sampling starts from; it hides the known latents, too.
        stride: frames of motion in a latent frame.
    """
    beyond = noise_BLPZ.shape[1] - known.latent_BLPZ.shape[1]
    latent_BLPZ = nn.functional.pad(known.latent_BLPZ, (0, 0, 0, 0, 0, beyond))
    mask_BLP1 = nn.functional.pad(known.mask_BLP, (0, 0, 0, beyond))[..., None]
    num_known_BP1 = mask_BLP1.sum(1)
    last_B1P1 = (num_known_BP1 - 1).clamp(min=0)[:, None]
    after_BLP1 = torch.arange(latent_BLPZ.shape[1], device=latent_BLPZ.device)[:, None, None] - last_B1P1
    share_BLP1 = (-stride * after_BLP1.clamp(min=0) / _REMEMBERED).exp().where(num_known_BP1[:, None] > 0, 0)

    def denoise_others(x_BLPZ: Tensor, t: int) -> Tensor:
        t_B = torch.full((len(x_BLPZ),), t, device=x_BLPZ.device)
        noised_BLPZ = diffusion.q_sample(latent_BLPZ, t_B, noise_BLPZ)
        x0_BLPZ = denoise(noised_BLPZ.where(mask_BLP1, x_BLPZ), t)
        off_B1PZ = (latent_BLPZ - x0_BLPZ).take_along_dim(last_B1P1, dim=1)
        return latent_BLPZ.where(mask_BLP1, x0_BLPZ + share_BLP1 * off_B1PZ)

    return denoise_others
