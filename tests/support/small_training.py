"""Trainings of a small denoiser on made-up batches: no files, no feed."""

from types import SimpleNamespace
from typing import Any

import torch
from one_person import NETWORKS as ONE_PERSON
from small_model import small_model

from intermoe.data.draws import Stream, normal, uniform
from intermoe.networks.by_name import NetworkName, frames_per_latent
from intermoe.networks.vae import STRIDE
from intermoe.training.config import DenoiserTrainingConfig
from intermoe.training.denoiser import DenoiserObjective
from intermoe.training.samples import Batch

# Latent numbers of a person-frame of the small models.
_LATENT = {"intermoe": 28, "intergen": 262, "timotion": 262, "mdm": 263, "mld": 32, "salad": 28}


def small_objective(
    *, moe: dict | None = None, runs_ahead: bool | None = None, training: dict | None = None
) -> DenoiserObjective:
    """The objective of a small model with random weights."""
    config = DenoiserTrainingConfig.parse({"epochs": 10, "batch_size": 4, "warmup_epochs": 0.5, **(training or {})})
    return DenoiserObjective(small_model(moe=moe), config, runs_ahead=runs_ahead)


def stream(steps_per_epoch: float = 5.0) -> Any:
    """What a ``TrainingStep`` asks of a stream."""
    return SimpleNamespace(seed=3, steps_per_epoch=steps_per_epoch)


def whole_latents(frames_B: torch.Tensor, length: int, stride: int = STRIDE) -> torch.Tensor:
    """Mask [B, length] of the frames that belong to a whole latent frame of a sample's valid frames [B].

    Example:
        >>> whole_latents(torch.tensor([5]), 8).long()
        tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    """
    return torch.arange(length, device=frames_B.device) < (frames_B // stride * stride)[:, None]


def made_up_batch(step: int, samples: int = 4, frames: int = 32, network: NetworkName = "intermoe") -> Batch:
    """Motions and texts of noise, of which the first motion is the longest that there is."""
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(8, frames + 1, (samples,), generator=generator)
    lengths[0] = frames
    seeds = torch.randint(1 << 30, (samples,), generator=generator)
    num_persons, num_features = (1, 263) if network in ONE_PERSON else (2, 262)
    latents = -(-frames // frames_per_latent(network, frames)), num_persons, _LATENT[network]
    return {
        "features": torch.randn(samples, frames, num_persons, num_features, generator=generator) * 0.1,
        "frames": lengths,
        "states": torch.randn(samples, 6, 384, generator=generator),
        "mask": torch.arange(6) < torch.randint(3, 7, (samples,), generator=generator)[:, None],
        "eot": torch.full((samples,), 2),
        "caption": torch.arange(samples),
        "form": torch.full((samples,), -1),
        "seed": seeds,
        "item": torch.arange(samples),
        "latent_noise": normal(seeds.tolist(), latents, Stream.LATENT),
        "diffusion_noise": normal(seeds.tolist(), latents, Stream.DIFFUSION),
        "timestep": uniform(seeds.tolist(), 2, Stream.TIMESTEP),
    }
