"""What to optimise: the VAE on windows of single persons, the denoiser on latents of both.

An objective is the module that the training loop (training.py) drives. It gives each loss as a sum over latent frames,
and the number of latent frames apart: divided by the number of all workers and micro-batches, the sum becomes the mean
over the global batch, whoever held which sample.

Legend: B batch, T frames, L latent frames, P = 2 persons, N latent joints, C channels of one, Z = N * C.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from intermoe.features import joints_from_features
from intermoe.model import PARTS, STRIDE, VAE_PARTS, InterMoE
from intermoe.moe.selection import after_step, selections
from intermoe.sampling import normal, uniform
from intermoe.text import TextStates
from intermoe.vae import vae_loss_counts, vae_losses
from pipelines.feed import Batch, FeedConfig
from pipelines.settings import Settings, TrainingConfig

Sums = dict[str, Tensor]


class Objective(Protocol):
    """What the training loop needs to know of a network and its losses.

    Attributes:
        training_config: how it is trained.
        model: whose parts it trains or uses.
        weights: of each loss in the total.
        saved: the parts of the model that a checkpoint holds.
        watched: the measure on held-out samples by which the best checkpoint is chosen; lower is better.
    """

    training_config: TrainingConfig
    model: InterMoE
    weights: Mapping[str, float]
    saved: tuple[str, ...]
    watched: str

    def feed(self, dataset: str) -> FeedConfig:
        """Which samples are trained on."""
        ...

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames of the batch."""
        ...

    def __call__(self, batch: Batch) -> Sums:
        """Each loss, summed over the valid latent frames of the batch."""
        ...

    def after_step(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """What follows an optimizer step."""
        ...

    def inside(self) -> dict[str, float]:
        """What else is worth a curve, since it was asked last; every worker asks, since all begin to count anew."""
        ...

    def measure(self, batch: Batch) -> Sums:
        """What is watched on held-out samples, summed over their valid latent frames."""
        ...


class VaeObjective(nn.Module):
    """Trains the Causal-Skeletal VAE: five losses on windows of each person alone."""

    saved = VAE_PARTS
    watched = "position_error_cm"

    def __init__(self, settings: Settings, model: InterMoE) -> None:
        super().__init__()
        self.training_config = settings.train.vae
        self.weights = settings.train.vae.loss.model_dump()
        self.settings, self.model = settings, model
        model.requires_grad_(False)
        model.vae.requires_grad_(True)

    def feed(self, dataset: str) -> FeedConfig:
        """Windows of the training split."""
        training = self.settings.train.vae
        return FeedConfig(
            dataset=dataset,
            split="train",
            samples="windows",
            seed=self.settings.seed,
            batch_size=training.batch_size,
            max_frames=self.settings.data.max_frames,
            window=training.window,
            stride=training.stride,
            parts=training.accumulate,
        )

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames; the frames that fill none count for nothing."""
        return (batch["frames"] // STRIDE).sum()

    def forward(self, batch: Batch) -> Sums:
        """The five losses, summed over the valid latent frames."""
        return self._run(batch)[0]

    def after_step(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Nothing follows."""

    def inside(self) -> dict[str, float]:
        """Nothing."""
        return {}

    @torch.no_grad()
    def measure(self, batch: Batch) -> Sums:
        """The losses, and the mean distance of the reconstructed joints from the true ones in centimetres."""
        sums, reconstruction_BTF = self._run(batch)
        frames = reconstruction_BTF.shape[1]
        true_BTJ3 = joints_from_features(batch["features"][:, :frames], self.model.skeleton)
        found_BTJ3 = joints_from_features(self.model.normaliser.denormalise(reconstruction_BTF), self.model.skeleton)
        error_BT = (found_BTJ3 - true_BTJ3).norm(dim=-1).mean(-1) * 100
        return sums | {"position_error_cm": (error_BT * _latent_mask(batch)).sum() / STRIDE}

    def _run(self, batch: Batch) -> tuple[Sums, Tensor]:
        vae, mask_BT = self.model.vae, _latent_mask(batch)
        x_BTF = self.model.normaliser.normalise(batch["features"]) * mask_BT[..., None]
        posterior = vae.encode(x_BTF)
        z_BLNC = posterior.mean_BLNC
        if self.training:
            shape = tuple(posterior.mean_BLNC.shape[1:])
            z_BLNC = posterior.sample(normal(batch["seed"].tolist(), shape, stream=0).to(x_BTF.device))
        reconstruction_BTF = vae.decode(z_BLNC)
        skeleton, latents = self.model.skeleton, self.count(batch)
        losses = vae_losses(x_BTF, reconstruction_BTF, posterior, mask_BT, self.model.normaliser, skeleton)
        # Each latent frame has the same count of numbers: so many a loss is the mean of.
        counts = vae_loss_counts(mask_BT, skeleton, self.model.config.vae)
        return {n: total * latents / counts[n].clamp(min=1) for n, total in losses.items()}, reconstruction_BTF


def _latent_mask(batch: Batch) -> Tensor:
    """Frames [B, T] that belong to a valid latent frame."""
    length = batch["features"].shape[1]
    return torch.arange(length, device=batch["frames"].device) < (batch["frames"] // STRIDE * STRIDE)[:, None]


class DenoiserObjective(nn.Module):
    """Trains text head and denoiser to predict the clean latents of both persons (section 3.1 of the paper)."""

    saved = PARTS
    watched = "diffusion"

    def __init__(self, settings: Settings, model: InterMoE) -> None:
        super().__init__()
        self.training_config = settings.train.denoiser
        self.weights = {"diffusion": 1.0}
        self.settings, self.model = settings, model
        model.vae.requires_grad_(False)

    def feed(self, dataset: str) -> FeedConfig:
        """Interactions of the training split."""
        return FeedConfig(
            dataset=dataset,
            split="train",
            samples="interactions",
            seed=self.settings.seed,
            batch_size=self.settings.train.denoiser.batch_size,
            max_frames=self.settings.data.max_frames,
            parts=self.settings.train.denoiser.accumulate,
        )

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames of both persons."""
        return 2 * (batch["frames"] // STRIDE).sum()

    def forward(self, batch: Batch) -> Sums:
        """Squared error of the predicted latents, summed over the valid latent frames of both persons."""
        model, seeds = self.model, batch["seed"].tolist()
        device = batch["features"].device
        mask_BL = _latent_mask(batch)[:, ::STRIDE]
        shape = (mask_BL.shape[1], 2, model.latent)
        with torch.no_grad():
            model.vae.eval()
            clean_BLPZ = model.encode(batch["features"], normal(seeds, shape, stream=0).to(device), _latent_mask(batch))
        drawn_B2 = uniform(seeds, 2, stream=1).to(device)
        t_B = (drawn_B2[:, 0] * model.diffusion.config.steps).long()
        keep_B = drawn_B2[:, 1] >= model.diffusion.config.condition_drop
        condition_BW = model.condition(TextStates(batch["states"], batch["mask"], batch["eot"]))
        noisy_BLPZ = model.diffusion.q_sample(clean_BLPZ, t_B, normal(seeds, shape, stream=2).to(device))
        found_BLPZ = model.denoiser(noisy_BLPZ, t_B, condition_BW * keep_B[:, None], mask_BL)
        return {"diffusion": model.diffusion.loss_sums(found_BLPZ, clean_BLPZ, mask_BL)[0]}

    def after_step(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Moves what the experts' selections learn, such as their biases (eqs. 8 and 9)."""
        after_step(self.model.denoiser, all_reduce)

    def inside(self) -> dict[str, float]:
        """The routing of each layer (see ``LayerRouting``), and how many experts a token met over all layers."""
        found = {}
        layers = [layer.look() for layer in selections(self.model.denoiser)]
        for m, routing in enumerate(layers):
            for name in ("experts_a_token", "unselected", "router_entropy"):
                found[f"layer{m}/{name}"] = getattr(routing, name)
            for name, value_E in (("load", routing.load_E), ("share", routing.share_E), ("bias", routing.bias_E)):
                found |= {f"layer{m}/{name}{e}": value for e, value in enumerate(value_E)}
        if layers:
            found["experts_a_token"] = sum(routing.experts_a_token for routing in layers) / len(layers)
        return found

    @torch.no_grad()
    def measure(self, batch: Batch) -> Sums:
        """The loss, with the same noise and timesteps for a sample every time."""
        return self(batch)


OBJECTIVES: dict[str, Callable[[Settings, InterMoE], "VaeObjective | DenoiserObjective"]] = {
    "vae": VaeObjective,
    "denoiser": DenoiserObjective,
}
