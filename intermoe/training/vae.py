"""The objective of the VAEs.

Legend: B batch, T frames, L latent frames, J joints, F features, N latent joints, C channels of one.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from intermoe.body.features import joints_from_features
from intermoe.data.draws import Stream
from intermoe.data.shards import DatasetFolder
from intermoe.layers.precision import in_full
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS, ModelConfig
from intermoe.networks.mld_vae import MldVae, mld_vae_loss_counts, mld_vae_losses
from intermoe.networks.salad_vae import SaladVae
from intermoe.networks.vae import STRIDE, Posterior
from intermoe.networks.vae_losses import vae_loss_counts, vae_losses
from intermoe.training.config import VaeTrainingConfig
from intermoe.training.objective import Objective, Sums, means_over
from intermoe.training.samples import Batch, SampleStream


class VaeObjective(Objective):
    """Trains a VAE on each person alone: a skeletal one on windows by the losses of ``VaeLossConfig``, MLD's on whole
    motions by those of ``MldVaeLossConfig``.
    """

    model: InterMoE
    config: VaeTrainingConfig
    saved = VAE_PARTS
    watched = "position_error_cm"

    def __init__(self, model: InterMoE, config: VaeTrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.weights = (config.mld_loss if isinstance(model.vae, MldVae) else config.loss).model_dump()
        model.requires_grad_(requires_grad=False)
        model.require_vae().requires_grad_()

    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """Windows of the training split, or whole motions of it."""
        max_frames = self.model.config.data.max_frames
        window, stride = self.config.window, self.config.stride
        if isinstance(self.model.vae, MldVae):
            window = stride = max_frames
        return SampleStream(
            dataset=str(dataset.path),
            split="train",
            kind="windows",
            seed=seed,
            batch_size=self.config.batch_size,
            max_frames=max_frames,
            window=window,
            stride=stride,
            micro_batches=self.config.accumulate,
            drawn=(Stream.LATENT,),
            latent=self.model.latent,
            frames_per_latent=self.model.stride,
        )

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames, and the frames that fill none count for nothing; of MLD's VAE valid frames."""
        frames_B = self.model.whole_frames(batch["frames"])
        return (frames_B if isinstance(self.model.vae, MldVae) else frames_B // STRIDE).sum()

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
        frames, mask_BT = reconstruction_BTF.shape[1], self._mask(batch)
        true_BTJ3 = joints_from_features(batch["features"][:, :frames], self.model.skeleton)
        found_BTJ3 = joints_from_features(self.model.normaliser.denormalise(reconstruction_BTF), self.model.skeleton)
        error_BT = (found_BTJ3 - true_BTJ3).norm(dim=-1).mean(-1) * 100
        frames_counted = 1 if isinstance(self.model.vae, MldVae) else STRIDE
        return sums | {"position_error_cm": (error_BT * mask_BT[:, :frames]).sum() / frames_counted}

    def _run(self, batch: Batch) -> tuple[Sums, Tensor]:
        vae, mask_BT = self.model.require_vae(), self._mask(batch)
        x_BTF = self.model.normaliser.normalise(batch["features"]) * mask_BT[..., None]
        with self.products():
            posterior = vae.encode(x_BTF, mask_BT)
        z_BLNC = posterior.mean_BLNC
        if self.training:
            z_BLNC = posterior.sample(batch["latent_noise"].view_as(z_BLNC))
        # What is measured is decoded as users get it.
        with self.products() if self.training else in_full(z_BLNC.device):
            reconstruction_BTF = vae.decode_frames(z_BLNC, mask_BT)
        losses, counts = self._losses(x_BTF, reconstruction_BTF, posterior, mask_BT)
        # Each of what is counted has the same count of numbers: so many a loss is the mean of.
        counted = self.count(batch)
        return {n: total * counted / counts[n].clamp(min=1) for n, total in losses.items()}, reconstruction_BTF

    def _losses(
        self, x_BTF: Tensor, reconstruction_BTF: Tensor, posterior: Posterior, mask_BT: Tensor
    ) -> tuple[Sums, Sums]:
        """The sum of each loss, and the number of its terms."""
        model, skeleton = self.model, self.model.skeleton
        losses: Callable[..., Sums] = vae_losses
        if isinstance(model.vae, MldVae):
            losses, counts = mld_vae_losses, mld_vae_loss_counts(mask_BT, skeleton, model.config.mld_vae)
        else:
            counts = vae_loss_counts(mask_BT, skeleton, model.config.vae)
        if isinstance(model.vae, SaladVae):
            losses = partial(vae_losses, rounded_below=1.0)
        of_data = {"normaliser": model.normaliser, "skeleton": skeleton}
        return losses(x_BTF, reconstruction_BTF, posterior, mask_BT, **of_data), counts

    def _mask(self, batch: Batch) -> Tensor:
        """The frames [B, T] that count."""
        frames_B, length = self.model.whole_frames(batch["frames"]), batch["features"].shape[1]
        return torch.arange(length, device=frames_B.device) < frames_B[:, None]


def vae_objective(
    config: ModelConfig, training: VaeTrainingConfig, dataset: DatasetFolder, *, seed: int = 0
) -> VaeObjective:
    """The objective with its networks as they are before the first step, normalised by the data set's moments."""
    return VaeObjective(InterMoE.initial(config, dataset.normaliser(), seed=seed), training)
