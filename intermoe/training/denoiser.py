"""The objective of the denoiser and its text head.

Legend: B batch, T frames, L latent frames, P persons, Z latent numbers of a person-frame, W condition width,
H hands of a person.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from intermoe import checkpoint
from intermoe.data.draws import Stream
from intermoe.data.shards import DatasetFolder
from intermoe.layers.precision import in_full
from intermoe.model import InterMoE
from intermoe.model_config import VAE_PARTS, ModelConfig, trained_folder
from intermoe.moe.pool import TokenPool
from intermoe.moe.selection import Demand, fit_rooms, selections, update_biases
from intermoe.networks.decoder_metric import decoder_metric
from intermoe.networks.hand_contact import contact_loss_sum
from intermoe.places import Place
from intermoe.text.encoders import TextStates
from intermoe.training.config import DenoiserTrainingConfig
from intermoe.training.geometric import counted, geometric_sums
from intermoe.training.objective import HOST_FRAMES, Diagnostics, Objective, Sums, means_over
from intermoe.training.posteriors import PosteriorMemory
from intermoe.training.samples import Batch, SampleStream, interaction_stream

# Motions that tell how errors are measured, whatever a step holds.
_MEASURED = 64


class DenoiserObjective(Objective):
    """Trains a denoiser, and its text head if it has one, to predict the clean latents of all persons, or noise, or v.

    Section 3.1 of the paper has the first.
    """

    model: InterMoE
    config: DenoiserTrainingConfig
    watched = "diffusion"

    def __init__(self, model: InterMoE, config: DenoiserTrainingConfig, *, runs_ahead: bool | None = None) -> None:
        """Take a model to train.

        Args:
            model: with its VAE trained, if it has one.
            config: how it is trained.
            runs_ahead: whether the host must not wait for the device within a step; by default where that is not a CPU.
        """
        super().__init__()
        model.denoiser.run_ahead(runs_ahead)
        self.model, self.config = model, config
        self.saved = model.config.parts
        self._geometric_weights = config.loss.weights(model.config.network)
        self.weights = {"diffusion": 1.0}
        if model.config.diffusion.difference_loss:
            self.weights["difference"] = model.config.diffusion.difference_loss
        if model.config.diffusion.hand_contact_loss:
            self.weights["hand_contact"] = model.config.diffusion.hand_contact_loss
        self.weights |= self._geometric_weights
        if model.vae is not None:
            model.vae.requires_grad_(requires_grad=False)
        self._posteriors = PosteriorMemory(model)
        self._is_measured = model.denoiser.error_root_ZZ is None

    def stream(self, dataset: DatasetFolder, seed: int = 0) -> SampleStream:
        """Interactions of the training split; where errors are "decoded", some of them tell how they are measured."""
        stream = interaction_stream(str(dataset.path), self.config, self.model.config.data, seed)
        noise = () if self._takes_means else (Stream.LATENT,)
        stream = replace(
            stream,
            drawn=(*noise, Stream.TIMESTEP, Stream.DIFFUSION),
            latent=self.model.latent,
            frames_per_latent=self.model.stride,
            # Of a motion whose latents are kept, nobody asks for the features.
            features=self.model.device.type != "cpu" or not stream.is_whole,
            by_length=self.config.group_by_length,
        )
        # Forms are numbered in a data set.
        self._posteriors = PosteriorMemory(self.model, stream.form_features)
        if self.model.denoiser.error_root_ZZ is not None:
            some = replace(stream, batch_size=min(_MEASURED, stream.num_samples), micro_batches=1, by_length=False)
            self.learn_metric({name: tensor.to(self.model.device) for name, tensor in some.batch(0).items()}, seed)
        return stream

    def learn_metric(self, batch: Batch, seed: int = 0) -> None:
        """Find out how errors are measured where they are "decoded" ones (see ``decoder_metric``).

        Args:
            batch: motions, the same on all workers.
            seed: of what is random in it.
        """
        root_ZZ = self.model.denoiser.error_root_ZZ
        assert root_ZZ is not None
        mask_BT = self._mask(batch)
        mask_BL = self.model.latent_mask(mask_BT)
        root_ZZ.copy_(decoder_metric(self.model, self._latents(batch, mask_BT), mask_BL, seed))
        if dist.is_initialized():
            # Devices of different kinds round differently.
            dist.broadcast(root_ZZ, src=0)
        self._is_measured = True

    def count(self, batch: Batch) -> Tensor:
        """Valid latent frames of all persons."""
        return self.model.skeleton.num_persons * self.model.whole_latents(batch["frames"]).sum()

    def forward(self, batch: Batch) -> Sums:
        """Squared error of the predicted latents; where they have a weight, the other losses.

        All are summed over the valid latent frames of all persons: the error of the latents' changes, the losses of
        the motion (see ``geometric_sums``) and those of contacts (see ``contact_loss_sum``).
        """
        model, root_ZZ = self.model, self.model.denoiser.error_root_ZZ
        if not self._is_measured:
            raise RuntimeError("errors are to be decoded ones: stream() or learn_metric() comes first")
        mask_BT = self._mask(batch)
        mask_BL = model.latent_mask(mask_BT)
        t_B = (batch["timestep"][:, 0] * model.diffusion.config.steps).long()
        keep_B = batch["timestep"][:, 1] >= model.diffusion.config.condition_drop
        pool = self._pool(batch, mask_BL)
        with self.products():
            clean_BLPZ = self._latents(batch, mask_BT)
            condition = model.condition(TextStates(batch["states"], batch["mask"], batch["eot"]))
            noisy_BLPZ = model.diffusion.q_sample(clean_BLPZ, t_B, batch["diffusion_noise"])
            kept = condition * keep_B.view(-1, *[1] * (condition.dim() - 1))
            found_BLPZ, logit_BL2HH = model.denoiser.predict(noisy_BLPZ, t_B, kept, mask_BL, pool)
        target_BLPZ = model.diffusion.target(clean_BLPZ, t_B, batch["diffusion_noise"])
        losses = {"diffusion": model.diffusion.loss_sums(found_BLPZ, target_BLPZ, mask_BL, root_ZZ)[0]}
        found_BLPZ = model.diffusion.clean(found_BLPZ, noisy_BLPZ, t_B)
        if "difference" in self.weights:
            losses["difference"] = model.diffusion.difference_sum(found_BLPZ, clean_BLPZ, mask_BL, root_ZZ)
        if self._geometric_weights:
            losses |= self._geometric(found_BLPZ, clean_BLPZ, mask_BT, t_B)
        if logit_BL2HH is not None:
            gap_BLHH = self._posteriors.hand_gaps(batch, mask_BL.shape[1])
            losses["hand_contact"] = contact_loss_sum(logit_BL2HH, gap_BLHH, mask_BL)
        return losses

    @torch.no_grad()
    def _latents(self, batch: Batch, mask_BT: Tensor) -> Tensor:
        """What is to be predicted: drawn from the posteriors of a batch, or their means."""
        if self.model.vae is not None:
            self.model.vae.eval()
        noise_BLPZ = None if self._takes_means else batch["latent_noise"]
        if not self.model.denoiser.runs_ahead or "features" not in batch:
            return self._posteriors.latents(batch, self.model.latent_mask(mask_BT), noise_BLPZ)
        # There the VAE takes a thirtieth of a step, and many motions at once take no longer than one.
        return self.model.encode(batch["features"], noise_BLPZ, mask_BT)

    @property
    def _takes_means(self) -> bool:
        return self.model.config.diffusion.target == "mean" or self.model.vae is None

    def _geometric(self, found_BLPZ: Tensor, clean_BLPZ: Tensor, mask_BT: Tensor, t_B: Tensor) -> Sums:
        """The losses of the motion that have a weight, as sums over latent frames."""
        model = self.model
        weight_B = counted(t_B, self.config.loss.up_to, model.diffusion.config.steps)
        with in_full(mask_BT.device):
            sums = geometric_sums(
                model.decode(found_BLPZ.float()), model.decode(clean_BLPZ), mask_BT, weight_B, model.skeleton
            )
        return {name: sums[name] / model.stride for name in self._geometric_weights}

    def _mask(self, batch: Batch) -> Tensor:
        """The frames [B, T] that belong to whole latent frames."""
        length = self.model.stride * batch["diffusion_noise"].shape[1]
        frames_B = self.model.whole_frames(batch["frames"])
        return torch.arange(length, device=frames_B.device) < frames_B[:, None]

    def _pool(self, batch: Batch, mask_BL: Tensor) -> TokenPool:
        """The tokens of a batch; where the lengths are on the host, nothing waits for the device."""
        frames_B = batch.get(HOST_FRAMES, batch["frames"])
        if frames_B.device.type != "cpu":
            return self.model.denoiser.pool(mask_BL)
        lengths = [self.model.whole_latents(frames) for frames in frames_B.numpy().tolist()]
        num_rows = self.model.denoiser.num_token_rows
        return TokenPool.of_lengths(lengths, mask_BL.shape[1], num_rows, device=mask_BL.device)

    def after_step(self, all_reduce: Callable[[Tensor], Tensor], skipped: Tensor | None = None) -> None:
        """Moves what the experts' selections learn, such as their biases (eqs. 8 and 9)."""
        update_biases(self.model.denoiser, all_reduce, skipped)

    def demands(self) -> list[Demand]:
        """Of the layers that have experts."""
        return [layer.demand for layer in selections(self.model.denoiser) if layer.demand is not None]

    def make_room(self, peaks: Sequence[float]) -> None:
        """For the layers that have experts."""
        fit_rooms(selections(self.model.denoiser), peaks)

    def pop_diagnostics(self) -> Diagnostics:
        """The routing of each layer, and the means over the layers of what sums it up (see ``LayerRouting``)."""
        layers = tuple(layer.pop_routing() for layer in selections(self.model.denoiser))
        names = ("experts_per_token", "unselected", "router_entropy", "imbalance") if layers else ()
        values = {name: sum(getattr(layer, name) for layer in layers) / len(layers) for name in names}
        return Diagnostics(values, layers)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """The loss, with the same noise and timesteps for a sample every time."""
        return means_over(self, self.count, batches, gather)


def denoiser_objective(
    config: ModelConfig,
    training: DenoiserTrainingConfig,
    dataset: DatasetFolder,
    *,
    vae: str | Place | None = None,
    seed: int = 0,
) -> DenoiserObjective:
    """The objective with its networks as they are before the first step.

    Args:
        config: of the networks.
        training: how they are trained.
        dataset: what they are trained on.
        vae: the run or checkpoint of the VAE whose latents are learned, for a network that has one; the model takes
            over its normalisation too, whatever data it is used on.
        seed: of the initial weights.

    Raises:
        UserError: no checkpoint of a VAE there.
    """
    model = InterMoE.initial(config, dataset.normaliser(), seed=seed)
    if vae is not None:
        model.restore(checkpoint.load(trained_folder(vae)), VAE_PARTS)
    return DenoiserObjective(model, training)
