"""What to optimise: the VAE on windows of single persons, the denoiser on latents of both, the evaluator on pairs.

Each is an ``Objective`` (objective.py), the module that the training loop drives.

Legend: B batch, T frames, L latent frames, P = 2 persons, N latent joints, C channels of one, Z = N * C.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intermoe import checkpoint
from intermoe.evaluation.contrast import contrastive_sum
from intermoe.evaluation.evaluator import PART, Evaluator
from intermoe.evaluation.metrics import matching
from intermoe.features import Normaliser, joints_from_features
from intermoe.model import PARTS, STRIDE, VAE_PARTS, InterMoE
from intermoe.moe.selection import after_step, selections
from intermoe.sampling import normal, uniform
from intermoe.shards import DatasetFolder
from intermoe.text import Clip, TextStates, load_encoder
from intermoe.vae import vae_loss_counts, vae_losses
from pipelines.feed import Batch, FeedConfig
from pipelines.objective import Sums, means_over
from pipelines.settings import Settings, TrainingConfig


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


def _interactions(settings: Settings, training: TrainingConfig, dataset: str) -> FeedConfig:
    """Interactions of the training split, with their captions."""
    return FeedConfig(
        dataset=dataset,
        split="train",
        samples="interactions",
        seed=settings.seed,
        batch_size=training.batch_size,
        max_frames=settings.data.max_frames,
        parts=training.accumulate,
        persons=settings.data.persons,
    )


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
        return _interactions(self.settings, self.settings.train.denoiser, dataset)

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
    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """The loss, with the same noise and timesteps for a sample every time."""
        return means_over(self, self.count, batches, gather)


class EvaluatorObjective(nn.Module):
    """Trains the evaluator: a caption and its motion come near each other, and away from the others of the batch.

    With several micro-batches, the others are those of the micro-batch, of all workers.
    """

    saved = (PART,)
    watched = "retrieval_error"

    def __init__(self, settings: Settings, evaluator: Evaluator, ids: tuple[Tensor, Tensor] | None = None) -> None:
        """Take an evaluator to train.

        Args:
            settings: of the run.
            evaluator: its networks.
            ids: where it reads tokens: those of all captions of the data set, and where each text ends.
        """
        super().__init__()
        self.training_config = settings.train.evaluator
        self.weights = {"contrast": 1.0}
        self.settings, self.model = settings, evaluator
        self._ids = ids

    def feed(self, dataset: str) -> FeedConfig:
        """Interactions of the training split."""
        return _interactions(self.settings, self.settings.train.evaluator, dataset)

    def count(self, batch: Batch) -> Tensor:
        """Pairs of caption and motion."""
        return torch.tensor(len(batch["frames"]), device=batch["frames"].device)

    def forward(self, batch: Batch) -> Sums:
        """Symmetric cross-entropy of the pairs, summed."""
        return {"contrast": contrastive_sum(*self._embedded(batch))}

    def after_step(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Nothing follows."""

    def inside(self) -> dict[str, float]:
        """The learned length of the embeddings."""
        return {"scale": float(self.model.scale.detach())}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch], gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """R-precision and MM-Dist on the held-out pairs, in the order of the data set."""
        own = []
        for batch in batches:
            text_BE, motion_BE = self._embedded(batch)
            rows = zip(batch["item"].tolist(), text_BE.cpu().numpy(), motion_BE.cpu().numpy(), strict=True)
            own += list(rows)
        pairs = sorted((pair for part in gather(own) for pair in part), key=lambda pair: pair[0])
        text_NE, motion_NE = (np.stack([pair[place] for pair in pairs]) for place in (1, 2))
        precision_3, distance = matching(text_NE, motion_NE, min(self.settings.evaluation.pool, len(pairs)))
        found = {f"r_precision_top{place}": float(value) for place, value in enumerate(precision_3, start=1)}
        return found | {"mm_dist": distance, "retrieval_error": 1 - float(precision_3.mean())}

    def _embedded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        text = TextStates(batch["states"], batch["mask"], batch["eot"])
        if self._ids is not None:
            device = batch["caption"].device
            ids_BK, eot_B = (table[batch["caption"].cpu()].to(device) for table in self._ids)
            text = self.model.token_states(ids_BK, eot_B)
        return self.model.embed_text(text), self.model.embed_motion(batch["features"], batch["frames"])


AnyObjective = VaeObjective | DenoiserObjective | EvaluatorObjective


def build(
    target: str, settings: Settings, dataset: DatasetFolder, *, vae: Path | None, text_folder: Path | None
) -> AnyObjective:
    """The objective with its networks as they are before the first step, the same on every worker.

    Args:
        target: one of ``OBJECTIVES``.
        settings: of the run.
        dataset: what is trained on.
        vae: the checkpoint whose VAE is used, for the denoiser.
        text_folder: where CLIP's weights lie, for an evaluator that reads its tokens, if not in the hub's cache.
    """
    torch.manual_seed(settings.seed)
    card = dataset.card
    normaliser = Normaliser.from_moments(torch.tensor(card.mean), torch.tensor(card.std))
    if target == "evaluator":
        return _evaluator_objective(settings, dataset, normaliser, text_folder)
    model = InterMoE(settings)
    model.normaliser = normaliser
    if vae is not None:
        # The latents are those of the VAE's own normalisation, whatever data it is used on.
        model.restore(checkpoint.load(vae), VAE_PARTS)
    return VaeObjective(settings, model) if target == "vae" else DenoiserObjective(settings, model)


def _evaluator_objective(
    settings: Settings, dataset: DatasetFolder, normaliser: Normaliser, text_folder: Path | None
) -> EvaluatorObjective:
    evaluator = Evaluator(settings.evaluator, settings.data)
    evaluator.normaliser = normaliser
    if settings.evaluator.text == "states":
        return EvaluatorObjective(settings, evaluator)
    encoder = load_encoder(settings.data.encoder, text_folder)
    assert isinstance(encoder, Clip)
    evaluator.take_tokens(*encoder.tables())
    return EvaluatorObjective(settings, evaluator, encoder.tokens(dataset.texts()))


OBJECTIVES: Mapping[str, type[AnyObjective]] = {
    "vae": VaeObjective,
    "evaluator": EvaluatorObjective,
    "denoiser": DenoiserObjective,
}
