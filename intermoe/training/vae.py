"""The objective of the Causal-Skeletal VAE.

Legend: B batch, T frames, L latent frames, J joints, F features, N latent joints, C channels of one.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from intermoe.body.features import joints_from_features
from intermoe.data.draws import Stream
from intermoe.data.shards import DatasetFolder
from intermoe.layers.precision import in_full
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS, ModelConfig
from intermoe.networks.vae import STRIDE, whole_latents
from intermoe.networks.vae_losses import vae_loss_counts, vae_losses
from intermoe.training.config import VaeTrainingConfig
from intermoe.training.objective import Objective, Sums, means_over
from intermoe.training.samples import Batch, SampleStream


class VaeObjective(Objective):
    """Trains the Causal-Skeletal VAE: the losses of ``VaeLossConfig`` on windows of each person alone."""

    model: InterMoE
    config: VaeTrainingConfig
    saved = VAE_PARTS
    watched = "position_error_cm"

    def __init__(self, model: InterMoE, config: VaeTrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.weights = config.loss.model_dump()
        model.requires_grad_(requires_grad=False)
        model.require_vae().requires_grad_()

    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """Windows of the training split."""
        return SampleStream(
            dataset=str(dataset.path),
            split="train",
            kind="windows",
            seed=seed,
            batch_size=self.config.batch_size,
            max_frames=self.model.config.data.max_frames,
            window=self.config.window,
            stride=self.config.stride,
            micro_batches=self.config.accumulate,
            drawn=(Stream.LATENT,),
            latent=self.model.latent,
        )

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames; the frames that fill none count for nothing."""
        return (batch["frames"] // STRIDE).sum()

    def forward(self, batch: Batch) -> Sums:
        """The losses, summed over the valid latent frames."""
        return self._run(batch)[0]

    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """The means of what is measured."""
        return means_over(self.measure, self.count, batches, gather)

    @torch.no_grad()
    def measure(self, batch: Batch) -> Sums:
        """The losses, and the mean distance of the reconstructed joints from the true ones in centimetres."""
        sums, reconstruction_BTF = self._run(batch)
        frames = reconstruction_BTF.shape[1]
        true_BTJ3 = joints_from_features(batch["features"][:, :frames], self.model.skeleton)
        found_BTJ3 = joints_from_features(self.model.normaliser.denormalise(reconstruction_BTF), self.model.skeleton)
        error_BT = (found_BTJ3 - true_BTJ3).norm(dim=-1).mean(-1) * 100
        return sums | {"position_error_cm": (error_BT * _whole_latents(batch)).sum() / STRIDE}

    def _run(self, batch: Batch) -> tuple[Sums, Tensor]:
        vae, mask_BT = self.model.require_vae(), _whole_latents(batch)
        x_BTF = self.model.normaliser.normalise(batch["features"]) * mask_BT[..., None]
        with self.products():
            posterior = vae.encode(x_BTF)
        z_BLNC = posterior.mean_BLNC
        if self.training:
            z_BLNC = posterior.sample(batch["latent_noise"].view_as(z_BLNC))
        # What is measured is decoded as users get it.
        with self.products() if self.training else in_full(z_BLNC.device):
            reconstruction_BTF = vae.decode(z_BLNC)
        skeleton, latents = self.model.skeleton, self.count(batch)
        normaliser = self.model.normaliser
        losses = vae_losses(x_BTF, reconstruction_BTF, posterior, mask_BT, normaliser=normaliser, skeleton=skeleton)
        # Each latent frame has the same count of numbers: so many a loss is the mean of.
        counts = vae_loss_counts(mask_BT, skeleton, self.model.config.vae)
        return {n: total * latents / counts[n].clamp(min=1) for n, total in losses.items()}, reconstruction_BTF


def _whole_latents(batch: Batch) -> Tensor:
    return whole_latents(batch["frames"], batch["features"].shape[1])


def vae_objective(
    config: ModelConfig, training: VaeTrainingConfig, dataset: DatasetFolder, *, seed: int = 0
) -> VaeObjective:
    """The objective with its networks as they are before the first step, normalised by the data set's moments."""
    return VaeObjective(InterMoE.initial(config, dataset.normaliser(), seed=seed), training)
