"""Conditioning on timestep and text: sinusoids and adaptive layer norm.

Legend: B batch, P = 2 persons, L latent frames, D width, M = 2 D numbers of a modulation.
"""

import math

import torch
from torch import Tensor, nn


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [..., width] of positions or timesteps [...]: sines in even columns, cosines in odd ones.

    Column pair ``i`` turns with the frequency ``10000 ** (-2 i / width)``; ``width`` is even.

    Example:
        >>> sinusoids(torch.tensor([0]), 4)
        tensor([[0., 1., 0., 1.]])
    """
    pair = torch.arange(0, width, 2, device=position.device, dtype=torch.float32)
    angle = position[..., None].float() * torch.exp(pair * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class TimestepEmbedding(nn.Module):
    """The embedding of a diffusion timestep: a two-layer network on its sinusoids, t [B] -> [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.network = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed integer timesteps [B] as [B, D]."""
        embedded: Tensor = self.network(sinusoids(t_B, self.width))
        return embedded


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from the conditioning: ``norm(x) * (1 + scale) + shift``.

    Scale and shift are ``Linear(SiLU(emb))``, zero at the start of training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_PBLD: Tensor, emb_BD: Tensor) -> Tensor:
        """Normalise x [P, B, L, D] and modulate it by the conditioning [B, D] of its sample."""
        modulation_B1M = self.modulation(nn.functional.silu(emb_BD))[:, None]
        scale_B1D, shift_B1D = modulation_B1M.chunk(2, dim=-1)
        normalised_PBLD: Tensor = self.norm(x_PBLD)
        return torch.addcmul(shift_B1D, normalised_PBLD, 1 + scale_B1D)
